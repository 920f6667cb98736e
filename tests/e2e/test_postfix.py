"""tox-transport behind a real Postfix's pipe(8), in front of a stub of the agent's LMTP socket.

python3 -m unittest discover -s tests/e2e -p test_postfix.py      # TOXMAIL_BIN=DIR for programs elsewhere
"""

import os
import shutil
import signal
import socket
import subprocess
import unittest
from pathlib import Path
from typing import ClassVar

from rig.case import SandboxCase
from rig.lmtp_stub import LmtpStub, Received
from rig.mail import compare, header, sample_mail
from rig.postfix import Postfix
from rig.sandbox import Sandbox

ALICE = "alice@alice.example"
BIN = Path(os.environ.get("TOXMAIL_BIN", Path(__file__).resolve().parents[2] / "target/release"))


def mail(message_id: str, text: str = "Hello\n", attachment_size: int = 0) -> bytes:
    return sample_mail(
        sender=f"Alice <{ALICE}>",
        to="bob@tox.alt",
        subject="a test",
        text=text,
        message_id=message_id,
        attachment_size=attachment_size,
    )


def install_transport(box: Sandbox) -> Path:
    """tox-transport where every user may run it."""
    target = box.dir("bin") / "tox-transport"
    shutil.copy(BIN / "tox-transport", target)
    target.chmod(0o755)
    return target


class PipeTest(SandboxCase):
    """The agent answers, and Postfix does what it said."""

    stub: ClassVar[LmtpStub]
    program: ClassVar[Path]
    postfix: ClassVar[Postfix]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.stub = LmtpStub(cls.box)
        cls.program = install_transport(cls.box)
        cls.postfix = Postfix(
            cls.box, "pipe", domain="alice.example", route="pipe", lmtp_socket=cls.stub.socket, program=cls.program
        )

    def arrived(self, message_id: str) -> list[Received]:
        return [m for m in self.stub.mails if header(m.content, "Message-ID") == message_id]

    def send(self, recipient: str, message: bytes, sender: str = ALICE) -> tuple[str, str, str]:
        queue_id = self.postfix.smtp(sender, [recipient], message)
        return self.postfix.wait_status(queue_id, recipient)

    def test_every_byte_arrives(self) -> None:
        texts = {
            "plain": "one\n\n.\n..\nFrom x\ntrailing  \n",
            "8bit": "Grüße\n",
            "long": "y" * 70_000 + "\n" + ".\n" * 100,
            "empty": "",
        }
        for name, text in texts.items():
            with self.subTest(text=name):
                # Put in by hand: a mail made by the email package would encode the long line.
                sent = mail(f"<{name}@alice.example>", "@\n").replace(b"\n\n@\n", b"\n\n" + text.encode())
                self.assertEqual(self.send("bob@tox.alt", sent)[0], "sent")
                (received,) = self.arrived(f"<{name}@alice.example>")
                result = compare(sent, received.content)
                self.assertTrue(result.intact, result)
                self.assertEqual((received.sender, received.recipients), (ALICE, ["bob@tox.alt"]))

    def test_a_large_mail_arrives(self) -> None:
        sent = mail("<large@alice.example>", attachment_size=20 * 1024 * 1024)
        self.assertEqual(self.send("bob@tox.alt", sent)[0], "sent")
        (received,) = self.arrived("<large@alice.example>")
        self.assertTrue(compare(sent, received.content).intact)

    def test_the_agent_learns_the_queue_id(self) -> None:
        queue_id = self.postfix.smtp(ALICE, ["bob@tox.alt"], mail("<id@alice.example>"))
        self.assertEqual(self.postfix.wait_status(queue_id, "bob@tox.alt")[0], "sent")
        (received,) = self.arrived("<id@alice.example>")
        self.assertEqual(received.xforward.get("IDENT"), queue_id)

    def test_the_null_sender_stays_one(self) -> None:
        self.assertEqual(self.send("bob@tox.alt", mail("<null@alice.example>"), sender="")[0], "sent")
        self.assertEqual(self.arrived("<null@alice.example>")[0].sender, "")

    def test_each_answer_of_the_agent(self) -> None:
        table = {
            "defer1@tox.alt": ("deferred", "4.4.1", "Tox contact is offline"),
            "nouser@tox.alt": ("bounced", "5.1.1", "No such contact"),
            "full@tox.alt": ("deferred", "4.2.2", "Mailbox full"),
        }
        for recipient, (status, code, words) in table.items():
            with self.subTest(recipient=recipient):
                got = self.send(recipient, mail(f"<answer-{recipient}>"))
                self.assertEqual(got[:2], (status, code), got[2])
                self.assertIn(words, got[2])


class NoAgentTest(SandboxCase):
    """Whatever is wrong with the agent keeps the mail in Postfix's queue."""

    def one(self, name: str, path: Path) -> Postfix:
        program = install_transport(self.box)
        return Postfix(self.box, name, domain="alice.example", route="pipe", lmtp_socket=path, program=program)

    def assert_deferred(self, postfix: Postfix) -> None:
        queue_id = postfix.smtp(ALICE, ["bob@tox.alt"], mail("<none@alice.example>"))
        status, code, text = postfix.wait_status(queue_id, "bob@tox.alt")
        self.assertEqual((status, code[:2]), ("deferred", "4."), text)

    def test_no_socket(self) -> None:
        self.assert_deferred(self.one("absent", self.box.path / "absent.sock"))

    def test_nobody_listens(self) -> None:
        path = self.box.path / "dead.sock"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
        path.chmod(0o666)
        self.assert_deferred(self.one("dead", path))

    def test_no_right_to_connect(self) -> None:
        stub = LmtpStub(self.box, "closed")
        stub.socket.chmod(0o600)
        self.assert_deferred(self.one("closed-postfix", stub.socket))
        self.assertEqual(stub.mails, [])

    def test_killed_while_it_waits(self) -> None:
        path = self.box.path / "silent.sock"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            path.chmod(0o666)
            server.listen(8)
            postfix = self.one("silent", path)
            queue_id = postfix.smtp(ALICE, ["bob@tox.alt"], mail("<killed@alice.example>"))
            connection, _ = server.accept()
            with connection:
                peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                pid = int.from_bytes(peer[:4], "little")
                self.assertIn("tox-transport", Path(f"/proc/{pid}/cmdline").read_text())
                os.kill(pid, signal.SIGKILL)
                status, code, text = postfix.wait_status(queue_id, "bob@tox.alt")
        self.assertEqual((status, code), ("deferred", "4.3.0"), text)


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
