"""Nothing lost, the size for every day: 300 mails and 30 kills; crash.py says what happens.

TOXMAIL_CRASH_SEED repeats a run.
"""

import os
import subprocess
import sys
import unittest
from pathlib import Path

BIN = os.environ.get("TOXMAIL_BIN", str(Path(__file__).resolve().parents[2] / "target/release"))


class CrashTest(unittest.TestCase):
    """In a process of its own, as it takes mounts of its own."""

    def test_nothing_is_lost(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("crash.py")), "--bin", BIN]
        command += ["--mails", "300", "--kills", "30"]
        if seed := os.environ.get("TOXMAIL_CRASH_SEED"):
            command += ["--seed", seed]
        self.assertEqual(subprocess.run(command).returncode, 0)


if __name__ == "__main__":
    unittest.main()
