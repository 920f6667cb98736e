"""toxctl setup: a mail server is connected with the agent, tested with a probe mail, and is afterwards as it was.

python3 -m unittest discover -s tests/e2e -p test_setup.py      # TOXMAIL_BIN=DIR for programs elsewhere
"""

import json
import os
import unittest
import unittest.mock
from pathlib import Path
from typing import Any, ClassVar

from rig.agent import Agent, befriend, install_programs
from rig.bootstrap import Bootstrap
from rig.case import SandboxCase
from rig.mail import find_in_maildir, sample_mail
from rig.postfix import Postfix
from rig.sandbox import RigError
from rig.wait import wait_for

BIN = Path(os.environ.get("TOXMAIL_BIN", Path(__file__).resolve().parents[2] / "target/release"))
ALICE = "alice@alice.example"


class PostfixSetupTest(SandboxCase):
    """Two agents that are contacts, and a Postfix that knows nothing of them."""

    alice: ClassVar[Agent]
    bob: ClassVar[Agent]
    binaries: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.binaries = install_programs(cls.box, BIN)
        bootstrap = Bootstrap(cls.box)

        def agent(name: str) -> Agent:
            return Agent(
                cls.box,
                name,
                binaries=cls.binaries,
                bootstrap=bootstrap,
                addresses=[f"{name}@tox.example"],
                senders=[f"{name}@{name}.example"],
            )

        cls.alice, cls.bob = agent("alice"), agent("bob")
        befriend(cls.alice, cls.bob)

    def postfix(self, name: str, main_cf: str = "", **options: Any) -> Postfix:
        """A running Postfix with nothing of toxmail in it, but `main_cf` at the end of its main.cf."""
        postfix = Postfix(self.box, name, domain="alice.example", lmtp_socket=Path("/nonexistent"), plain=True, **options)
        with (postfix.etc / "main.cf").open("a") as file:
            file.write(main_cf)
        postfix.start()
        return postfix

    def setup(self, postfix: Postfix, *words: str, status: int = 0) -> str:
        """What `toxctl setup postfix` says."""
        command = [self.binaries / "toxctl", "--socket", self.alice.control_socket, *self.options(postfix), *words]
        done = self.box.run(command, check=False)
        text = (done.stdout + done.stderr).decode()
        self.assertEqual(done.returncode, status, text)
        return text

    def options(self, postfix: Postfix) -> list[str | Path]:
        return [
            "setup", "postfix", "--config-dir", postfix.etc, "--config", self.alice.config,
            "--program", self.binaries / "tox-transport",
        ]  # fmt: skip

    @staticmethod
    def files(postfix: Postfix) -> dict[str, tuple[bytes, int, int]]:
        """Content, mode and owner of each file of the configuration."""
        return {
            path.name: (path.read_bytes(), path.stat().st_mode, path.stat().st_uid) for path in postfix.etc.iterdir()
        }

    def goes_over_tox(self, postfix: Postfix, message_id: str) -> None:
        message = sample_mail(sender=ALICE, to="bob@tox.alt", subject="a test", text="hi\n", message_id=message_id)
        queue_id = postfix.smtp(ALICE, ["bob@tox.alt"], message)
        self.assertEqual(postfix.wait_status(queue_id, "bob@tox.alt")[0], "sent")
        wait_for(f"{message_id} at bob's", lambda: find_in_maildir(self.bob.maildir, message_id))

    def test_from_nothing_to_mail_over_tox_and_back(self) -> None:
        own_map = self.box.dir("maps") / "own"
        own_map.write_text("other.example error:5.1.0 closed\n")
        for route in ("lmtp", "pipe"):
            with self.subTest(route=route):
                words = ["--pipe"] if route == "pipe" else []
                postfix = self.postfix(f"{route}-new", f"transport_maps =\n  texthash:{own_map}\n# no end of line")
                (postfix.etc / "main.cf").chmod(0o640)
                before = self.files(postfix)

                shown = self.setup(postfix, "example.net", *words)
                self.assertIn(f"+transport_maps = texthash:{postfix.etc}/tox_transport,", shown)
                self.assertIn("add --apply", shown)
                self.assertEqual(self.files(postfix), before)

                made = self.setup(postfix, "example.net", "--apply", *words)
                self.assertRegex(made, r"probe: ok: from <alice@alice\.example> to <probe-\w+@\w{52}\.tox\.alt>: arrived")
                self.assertEqual((postfix.etc / "main.cf").stat().st_mode & 0o777, 0o640)
                self.assertEqual((postfix.etc / "main.cf.before-toxmail").read_bytes(), before["main.cf"][0])
                self.goes_over_tox(postfix, f"<{route}@alice.example>")

                after = self.files(postfix)
                self.assertIn("already so", self.setup(postfix, "--apply", "--no-probe", *words))
                self.assertEqual(self.files(postfix), after)
                found = self.box.run(["postmap", "-q", "example.net", f"texthash:{postfix.etc}/tox_transport"])
                self.assertIn(b"tox", found.stdout)
                self.setup(postfix, "--revert", "example.net")
                self.assertNotIn(b"example.net", (postfix.etc / "tox_transport").read_bytes())

                self.assertIn("done", self.setup(postfix, "--revert"))
                self.assertEqual(self.files(postfix), before)
                with self.assertRaisesRegex(RigError, "this test machine sends nothing"):
                    postfix.smtp(ALICE, ["bob@tox.alt"], b"Subject: x\n\nx\n")
                postfix.stop()

    def test_what_others_add_later_stays(self) -> None:
        postfix = self.postfix("later")
        before = self.files(postfix)
        self.setup(postfix, "--apply", "--no-probe")
        with (postfix.etc / "main.cf").open("a") as file:
            file.write("mime_nesting_limit = 99\n")
        self.setup(postfix, "--revert")
        after = self.files(postfix)
        self.assertEqual(after["main.cf"][0], before["main.cf"][0] + b"mime_nesting_limit = 99\n")
        self.assertEqual(after["master.cf"], before["master.cf"])
        postfix.stop()

    def test_lines_of_ours_that_were_changed_are_left_alone(self) -> None:
        postfix = self.postfix("changed")
        self.setup(postfix, "--apply", "--no-probe")
        path = postfix.etc / "main.cf"
        path.write_text(path.read_text().replace("message_size_limit = 51200000", "message_size_limit = 99999999"))
        before = self.files(postfix)
        for words in (["--apply"], ["--revert"]):
            self.assertIn("were changed by hand", self.setup(postfix, *words, status=1))
        self.assertEqual(self.files(postfix), before)
        postfix.stop()

    def test_what_postfix_does_not_want_is_taken_back(self) -> None:
        postfix = self.postfix("broken")
        # A postfix(1) that likes none of our lines.
        wrapper = self.box.dir("wrapper") / "postfix"
        wrapper.write_text(
            '#!/bin/sh\nif [ "$3" = check ] && grep -q toxctl "$2/main.cf"; then echo no >&2; exit 1; fi\n'
            'exec /usr/sbin/postfix "$@"\n'
        )
        wrapper.chmod(0o755)
        before = self.files(postfix)
        with unittest.mock.patch.dict(os.environ, {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"}):
            said = self.setup(postfix, "--apply", status=1)
        self.assertIn("Postfix does not want the change", said)
        self.assertIn("its files are as before", said)
        after = self.files(postfix)
        self.assertEqual({name: after[name] for name in before}, before)
        self.assertNotIn("tox_transport", after)

        with (postfix.etc / "main.cf").open("a") as main:
            main.write("queue_directory = /nonexistent\n")
        before = self.files(postfix)
        self.assertIn("is wrong already", self.setup(postfix, "--apply", status=1))
        self.assertEqual(self.files(postfix), before)
        postfix.stop()

    def test_the_own_domain_is_refused(self) -> None:
        postfix = self.postfix("own")
        said = self.setup(postfix, "alice.example", "--apply", status=1)
        self.assertIn("alice.example is one of the mail server's own domains (virtual_mailbox_domains)", said)
        self.setup(postfix, "carol@alice.example")
        postfix.stop()

    def test_a_probe_that_fails_says_where(self) -> None:
        postfix = self.postfix("probe")
        said = self.setup(postfix, "--apply", "--from", "mallory@alice.example", status=1)
        self.assertIn("probe: FAILED", said)
        self.assertIn("<mallory@alice.example> belongs to no account of tox-agent", said)
        self.assertIn("--revert in place of --apply undoes it", said)

        # A socket that nobody listens on: Postfix's own words, and nothing stays in its queue.
        socket = self.alice.lmtp_socket
        hidden = socket.with_name("hidden.sock")
        socket.rename(hidden)
        self.addCleanup(lambda: hidden.exists() and hidden.rename(socket))
        answer = json.loads(self.setup(postfix, "--json", "--apply", status=1))
        self.assertFalse(answer["probe"]["ok"])
        self.assertIn("No such file or directory", answer["probe"]["text"])
        self.assertEqual(answer["changes"], [])
        self.assertEqual(postfix.queue(), [])
        hidden.rename(socket)
        answer = json.loads(self.setup(postfix, "--json", "--apply"))
        self.assertTrue(answer["probe"]["ok"])
        self.assertIn("probe from <alice@alice.example> arrived", self.alice.log)
        self.assertEqual(self.alice.queued(), 0)
        postfix.stop()


if __name__ == "__main__":
    unittest.main()
