"""A real Postfix, by LMTP and by pipe(8) with tox-transport, in front of a stub of the agent's LMTP socket.

python3 -m unittest discover -s tests/e2e -p test_postfix.py      # TOXMAIL_BIN=DIR for programs elsewhere
"""

import subprocess
import unittest
from pathlib import Path
from typing import ClassVar

from rig import cases
from rig.case import SandboxCase
from rig.cases import ALICE, BIN, DOMAIN, mail
from rig.lmtp_stub import LmtpStub
from rig.mail import compare
from rig.postfix import Postfix
from rig.sandbox import UNPRIVILEGED, RigError


class _Postfix(cases.RouteCase):
    @classmethod
    def make(cls, name: str, lmtp_socket: Path, program: Path) -> Postfix:
        return Postfix(cls.box, name, domain=DOMAIN, route=cls.route, lmtp_socket=lmtp_socket, program=program)


class LmtpTest(_Postfix, cases.AnswersCase):
    """The agent answers, and Postfix does what it said."""

    route = "lmtp"


class PipeTest(_Postfix, cases.AnswersCase):
    """The same by tox-transport."""

    route = "pipe"


class LmtpNoAgentTest(_Postfix, cases.NoAgentCase):
    """Whatever is wrong with the agent keeps the mail in Postfix's queue."""

    route = "lmtp"


class PipeNoAgentTest(_Postfix, cases.NoAgentCase, cases.NoProgramCase):
    """Whatever is wrong with the agent or with tox-transport keeps the mail in Postfix's queue."""

    route = "pipe"


class EndingsTest(SandboxCase):
    """What pipe(8) gives to a program, and what Postfix makes of its end."""

    stub: ClassVar[LmtpStub]
    out: ClassVar[Path]
    pipe: ClassVar[Postfix]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.stub = LmtpStub(cls.box)
        cls.out = cls.box.dir("out", user=UNPRIVILEGED)
        cls.pipe = Postfix(
            cls.box,
            "pipe",
            domain=DOMAIN,
            route="pipe",
            lmtp_socket=cls.stub.socket,
            program=cases.install_fake_transport(cls.box, cls.out),
            settings={"tox_time_limit": "2s", "tox_destination_concurrency_limit": "20"},
        )

    def test_the_program_is_given_the_mail_and_its_size(self) -> None:
        sent = mail("<pipe@alice.example>", ".\n..\n\nFrom x\ngrößer\n" + "z" * 3000 + "\n")
        queue_id = self.pipe.smtp(ALICE, ["bob@tox.alt"], sent)
        self.assertEqual(self.pipe.wait_status(queue_id, "bob@tox.alt")[0], "sent")
        received = (self.out / "mail").read_bytes()
        result = compare(sent, received)
        self.assertTrue(result.intact, result)
        self.assertEqual(result.added, ["Return-Path", "Received"])
        argv = (self.out / "argv").read_text().splitlines()
        self.assertEqual(argv[:2], ["--socket", str(self.stub.socket)])
        self.assertEqual(argv[2:4], ["--queue-id", queue_id])
        self.assertEqual(argv[4], "--size")
        self.assertLess(abs(int(argv[5]) - len(received) - received.count(b"\n")), 200)
        self.assertEqual(argv[6:], ["-f", ALICE, "--", "bob@tox.alt"])

    def test_the_null_sender_is_an_empty_argument(self) -> None:
        queue_id = self.pipe.smtp("", ["null@tox.alt"], mail("<null@alice.example>"))
        self.assertEqual(self.pipe.wait_status(queue_id, "null@tox.alt")[0], "sent")
        self.assertIn("-f\n\n--\nnull@tox.alt", (self.out / "argv").read_text())

    def test_every_end(self) -> None:
        """Only what is said, 67 and 68 send a mail back; whatever else happens keeps it in the queue."""
        table = {
            "say75-571": ("bounced", "5.7.1", "refused by the contact"),
            "say69-441": ("deferred", "4.4.1", "contact is offline"),
            "exit67": ("bounced", "5.1.1", "user unknown"),
            "exit68": ("bounced", "5.1.2", "host name unknown"),
            "exit75": ("deferred", "4.3.0", "temporary failure"),
            "exit71": ("deferred", "4.3.0", ""),
            "kill": ("deferred", "4.3.0", ""),
            "segv": ("deferred", "4.3.0", ""),
            "hang": ("deferred", "4.3.0", "Command time limit exceeded"),
        }
        for exit_status in (1, 2, 64, 66, 69, 70, 72, 73, 74, 99, 101, 126, 127, 134, 139, 200, 255):
            table[f"exit{exit_status}"] = ("deferred", "4.3.0", "")
        table["exit65"] = ("deferred", "4.6.0", "data format error")
        table["exit76"] = ("deferred", "4.5.0", "remote error in protocol")
        table["exit77"] = ("deferred", "4.7.0", "permission denied")
        table["exit78"] = ("deferred", "4.3.5", "local configuration error")
        sent = {local: self.pipe.smtp(ALICE, [f"{local}@tox.alt"], mail(f"<{local}@alice.example>")) for local in table}
        for local, (status, code, words) in table.items():
            with self.subTest(end=local):
                got = self.pipe.wait_status(sent[local], f"{local}@tox.alt")
                self.assertEqual(got[:2], (status, code), got[2])
                self.assertIn(words, got[2])

    def test_other_mail_does_not_leave(self) -> None:
        with self.assertRaisesRegex(RigError, "550 5.4.4 .* sends nothing"):
            self.pipe.smtp(ALICE, ["someone@elsewhere.example"], mail("<away@alice.example>"))

    def test_nothing_is_touched_under_etc(self) -> None:
        done = subprocess.run(
            ["find", "/etc/postfix", "/var/spool/postfix", "/var/lib/postfix", "-newer", self.stub.socket],
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.stdout, "")


class AloneTest(unittest.TestCase):
    """What an administrator meets who runs it by hand."""

    def test_its_words_begin_with_a_status_code(self) -> None:
        done = subprocess.run(
            [BIN / "tox-transport", "--socket", "/nonexistent", "-f", ALICE, "--", "bob@tox.alt"],
            input=mail("<alone@alice.example>"),
            capture_output=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 75)
        self.assertRegex((done.stdout + done.stderr).decode(), r"^4\.\d\.\d [^\n]+\n$")


if __name__ == "__main__":
    unittest.main()
