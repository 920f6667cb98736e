"""The vectors of lanes are what their script yields; tests/lane_vectors.rs compares them with the program."""

import subprocess
import unittest
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "lane_vectors.py"


class LaneVectors(unittest.TestCase):
    def test_the_file_is_what_the_script_yields(self) -> None:
        # Debian's interpreter has Debian's PyNaCl, whichever runs this test.
        done = subprocess.run(["/usr/bin/python3", SCRIPT, "--check"], capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
