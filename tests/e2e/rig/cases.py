"""What every MTA must make of the agent's answers and of every kind of trouble, by LMTP and by pipe: one table for all.

A test module takes a case, says which MTA and which route, and has all of its tests.
"""

import os
import shutil
import signal
import socket
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from rig.case import SandboxCase
from rig.lmtp_stub import LmtpStub, Received
from rig.mail import compare, header, sample_mail
from rig.mta import Mta, Route
from rig.sandbox import Sandbox
from rig.wait import wait_for

ALICE = "alice@alice.example"
DOMAIN = "alice.example"
BIN = Path(os.environ.get("TOXMAIL_BIN", Path(__file__).resolve().parents[3] / "target/release"))

# Stands for tox-transport: the local part of the recipient says how it ends. Postfix has it in the last argument, Exim
# in the environment.
_FAKE_TRANSPORT = """#!/bin/sh
for last in "$@"; do :; done
case ${{LOCAL_PART:-$last}} in
    exit*) status=${{LOCAL_PART:-${{last%%@*}}}}; exit "${{status#exit}}" ;;
    say75-571*) echo '5.7.1 refused by the contact'; exit 75 ;;
    say69-441*) echo '4.4.1 contact is offline'; exit 69 ;;
    say67-511*) echo '5.1.1 no such contact'; exit 67 ;;
    kill*) kill -9 $$ ;;
    segv*) kill -SEGV $$ ;;
    hang*) exec sleep 600 ;;
esac
printf '%s\\n' "$@" > {folder}/argv
env > {folder}/env
cat > {folder}/mail
"""


def mail(message_id: str, text: str = "Hello\n", attachment_size: int = 0) -> bytes:
    """A mail of Alice's with LF line ends; `text` is in it as it stands, long lines and all."""
    made = sample_mail(
        sender=f"Alice <{ALICE}>",
        to="bob@tox.alt",
        subject="a test",
        text="@\n",
        message_id=message_id,
        attachment_size=attachment_size,
    )
    # The email package would encode the long lines.
    return made.replace(b"\n\n@\n", b"\n\n" + text.encode(), 1)


def install_transport(box: Sandbox) -> Path:
    """tox-transport where every user may run it."""
    target = box.dir("bin") / "tox-transport"
    shutil.copy(BIN / "tox-transport", target)
    target.chmod(0o755)
    return target


def install_fake_transport(box: Sandbox, out: Path) -> Path:
    """The stand-in for tox-transport; what it is given comes to `argv`, `env` and `mail` below `out`."""
    fake = box.dir("bin") / "fake-transport"
    fake.write_text(_FAKE_TRANSPORT.format(folder=out))
    fake.chmod(0o755)
    return fake


class RouteCase(SandboxCase):
    route: ClassVar[Route]
    program: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.program = install_transport(cls.box)

    @classmethod
    @abstractmethod
    def make(cls, name: str, lmtp_socket: Path, program: Path) -> Mta:
        """A running MTA with this socket and this tox-transport."""

    def assert_fate(
        self, mta: Mta, queue_id: str, recipient: str, status: str, code: str = "", words: str = ""
    ) -> None:
        got = mta.wait_status(queue_id, recipient)
        self.assertEqual(got[0], status, got[2])
        self.assertTrue(got[1].startswith(code), got)
        self.assertIn(words, got[2])


class AnswersCase(RouteCase):
    """The agent answers, and the MTA does what it said."""

    stub: ClassVar[LmtpStub]
    mta: ClassVar[Mta]
    # Whether the agent hears the MTA's queue id.
    tells_queue_id: ClassVar[bool] = True

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.stub = LmtpStub(cls.box)
        cls.mta = cls.make("mta", cls.stub.socket, cls.program)

    def arrived(self, message_id: str) -> list[Received]:
        return [m for m in self.stub.mails if header(m.content, "Message-ID") == message_id]

    def send(self, recipient: str, message: bytes, sender: str = ALICE) -> tuple[str, str, str]:
        return self.mta.wait_status(self.mta.smtp(sender, [recipient], message), recipient)

    def waiting(self, queue_id: str) -> set[str]:
        """The recipients of a mail that are still in the queue."""
        return {r["address"] for m in self.mta.queue() if m["queue_id"] == queue_id for r in m["recipients"]}

    def arrives_after_a_while(self, message_id: str) -> Received:
        """The mail, once it has arrived, tried again and again; it must come exactly once."""

        def probe() -> list[Received]:
            self.mta.flush()
            return self.arrived(message_id)

        # The first try after a process was killed may find the mail still locked, or the way there throttled.
        (received,) = wait_for(f"{message_id} at last", lambda: probe() or None, interval=0.5)
        self.mta.flush()
        self.assertEqual(len(self.arrived(message_id)), 1)
        return received

    def test_every_byte_arrives(self) -> None:
        texts = {
            "plain": "one\n\n.\n..\n.x\nFrom x\n>From y\ntrailing  \n",
            "8bit": "Grüße\n",
            "nul": "a\0b\n",
            "long": "y" * 70_000 + "\n" + ".\n" * 100,
            "folded": "z" * 999 + "\n",
            "empty": "",
        }
        for name, text in texts.items():
            with self.subTest(text=name):
                sent = mail(f"<{name}@alice.example>", text)
                self.assertEqual(self.send("bob@tox.alt", sent)[0], "sent")
                (received,) = self.arrived(f"<{name}@alice.example>")
                result = compare(sent, received.content)
                self.assertTrue(result.intact, result)
                self.assertEqual(set(result.added) - {"Return-Path"}, {"Received"})
                self.assertEqual((received.sender, received.recipients), (ALICE, ["bob@tox.alt"]))

    def test_a_large_mail_arrives(self) -> None:
        sent = mail("<large@alice.example>", attachment_size=20 * 1024 * 1024)
        self.assertEqual(self.send("bob@tox.alt", sent)[0], "sent")
        (received,) = self.arrived("<large@alice.example>")
        self.assertTrue(compare(sent, received.content).intact)

    def test_the_agent_learns_the_queue_id(self) -> None:
        queue_id = self.mta.smtp(ALICE, ["bob@tox.alt"], mail("<id@alice.example>"))
        self.assertEqual(self.mta.wait_status(queue_id, "bob@tox.alt")[0], "sent")
        (received,) = self.arrived("<id@alice.example>")
        self.assertEqual(received.xforward.get("IDENT"), queue_id if self.tells_queue_id else None)

    def test_the_null_sender_stays_one(self) -> None:
        self.assertEqual(self.send("bob@tox.alt", mail("<null@alice.example>"), sender="")[0], "sent")
        self.assertEqual(self.arrived("<null@alice.example>")[0].sender, "")

    def test_odd_addresses_arrive_as_they_are(self) -> None:
        for number, address in enumerate(("grå@tox.alt", "carol@sub.tox.alt", '"b b"@tox.alt', "a+b=c@tox.alt")):
            with self.subTest(address=address):
                message_id = f"<odd{number}@alice.example>"
                queue_id = self.mta.smtp(ALICE, [address], mail(message_id))
                received = wait_for(f"mail for {address}", lambda m=message_id: self.arrived(m) or None)[0]
                self.assertEqual(received.recipients, [address], queue_id)

    def test_each_answer_of_the_agent(self) -> None:
        table = {
            "defer1@tox.alt": ("deferred", "4.4.1", "Tox contact is offline"),
            "nouser@tox.alt": ("bounced", "5.1.1", "No such contact"),
            "full@tox.alt": ("deferred", "4.2.2", "Mailbox full"),
        }
        for recipient, (status, code, words) in table.items():
            with self.subTest(recipient=recipient):
                queue_id = self.mta.smtp(ALICE, [recipient], mail(f"<answer-{recipient}>"))
                self.assert_fate(self.mta, queue_id, recipient, status, code, words)

    def test_each_recipient_has_an_answer_of_its_own(self) -> None:
        recipients = ["bob@tox.alt", "defer1@tox.alt", "nouser@tox.alt", "full@tox.alt", "carol@sub.tox.alt"]
        queue_id = self.mta.smtp(ALICE, recipients, mail("<each@alice.example>"))
        self.assert_fate(self.mta, queue_id, "bob@tox.alt", "sent")
        self.assert_fate(self.mta, queue_id, "carol@sub.tox.alt", "sent")
        self.assert_fate(self.mta, queue_id, "defer1@tox.alt", "deferred", "4.4.1", "Tox contact is offline")
        self.assert_fate(self.mta, queue_id, "full@tox.alt", "deferred", "4.2.2")
        self.assert_fate(self.mta, queue_id, "nouser@tox.alt", "bounced", "5.1.1")
        # The refused one leaves the queue when its notice is made, which is after the log says so.
        wait_for("the two that wait", lambda: self.waiting(queue_id) == {"defer1@tox.alt", "full@tox.alt"})

    def test_the_bounce_reaches_the_sender_with_the_agents_words(self) -> None:
        self.mta.sendmail(ALICE, ["nouser@tox.alt"], mail("<bounce@alice.example>"))
        text = wait_for(
            "bounce",
            lambda: next((m for m in self.mta.inbox_mails() if b"Message-ID: <bounce@alice.example>" in m), None),
        )
        self.assertIn(b"5.1.1", text)
        self.assertIn(b"No such contact", text)

    def test_a_deferred_mail_arrives_later_and_once(self) -> None:
        sent = mail("<once@alice.example>")
        queue_id = self.mta.smtp(ALICE, ["once@tox.alt"], sent)
        self.assert_fate(self.mta, queue_id, "once@tox.alt", "deferred", "4.4.1")
        self.assertTrue(compare(sent, self.arrives_after_a_while("<once@alice.example>").content).intact)
        wait_for("end of the mail in the queue", lambda: not self.waiting(queue_id))

    def test_an_agent_that_dies_in_the_middle_gets_the_mail_later_and_once(self) -> None:
        sent = mail("<cut@alice.example>", attachment_size=1024 * 1024)
        queue_id = self.mta.smtp(ALICE, ["cut@tox.alt"], sent)
        self.assert_fate(self.mta, queue_id, "cut@tox.alt", "deferred")
        self.assertTrue(compare(sent, self.arrives_after_a_while("<cut@alice.example>").content).intact)

    def test_a_delivery_process_killed_in_the_middle_leaves_no_part_of_a_mail(self) -> None:
        sent = mail("<killed@alice.example>", attachment_size=8 * 1024 * 1024)
        self.mta.smtp(ALICE, ["stall@tox.alt"], sent)
        # The mail is larger than all buffers on the way, so whoever writes it is in the middle of it.
        client = self.stub.stalled.get(timeout=60)
        os.kill(client if self.route == "lmtp" else _parent(client), signal.SIGKILL)
        self.stub.go_on.set()
        wait_for("end of the connection", lambda: self.stub.truncated or None)
        self.assertEqual(self.arrived("<killed@alice.example>"), [])
        self.assertTrue(compare(sent, self.arrives_after_a_while("<killed@alice.example>").content).intact)
        self.assertEqual([m for m in self.mta.inbox_mails() if b"<killed@alice.example>" in m], [])


class NoAgentCase(RouteCase):
    """Whatever is wrong with the agent, or with tox-transport, keeps the mail in the MTA's queue."""

    def assert_deferred(self, mta: Mta) -> str:
        queue_id = mta.smtp(ALICE, ["bob@tox.alt"], mail("<none@alice.example>"))
        status, code, text = mta.wait_status(queue_id, "bob@tox.alt")
        self.assertEqual((status, code[:2] or "4."), ("deferred", "4."), text)
        return queue_id

    def test_no_socket(self) -> None:
        path = self.box.dir("absent") / "lmtp.sock"
        mta = self.make("absent-mta", path, self.program)
        queue_id = self.assert_deferred(mta)
        mta.stop()
        mta.start()
        self.assertEqual([m["queue_id"] for m in mta.queue()], [queue_id])
        with LmtpStub(self.box, "absent") as stub:
            self.assertEqual(stub.socket, path)
            wait_for("the mail, now that there is an agent", lambda: mta.flush() or stub.mails or None, interval=0.5)
        self.assertEqual(len(stub.mails), 1)

    def test_nobody_listens(self) -> None:
        path = self.box.path / "dead.sock"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
        path.chmod(0o666)
        self.assert_deferred(self.make("dead", path, self.program))

    def test_no_right_to_connect(self) -> None:
        stub = LmtpStub(self.box, "closed")
        stub.socket.chmod(0o600)
        self.assert_deferred(self.make("closed-mta", stub.socket, self.program))
        self.assertEqual(stub.mails, [])


class NoProgramCase(RouteCase):
    """Whatever becomes of tox-transport keeps the mail in the MTA's queue. For the pipe route."""

    def test_no_program(self) -> None:
        mta = self.make("bare", self.box.path / "no.sock", Path("/nonexistent/tox-transport"))
        queue_id = mta.smtp(ALICE, ["bob@tox.alt"], mail("<bare@alice.example>"))
        self.assert_fate(mta, queue_id, "bob@tox.alt", "deferred")

    def test_killed_while_it_waits(self) -> None:
        path = self.box.path / "silent.sock"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            path.chmod(0o666)
            server.listen(8)
            mta = self.make("silent", path, self.program)
            queue_id = mta.smtp(ALICE, ["bob@tox.alt"], mail("<killed@alice.example>"))
            connection, _ = server.accept()
            with connection:
                peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                pid = int.from_bytes(peer[:4], "little")
                self.assertIn("tox-transport", Path(f"/proc/{pid}/cmdline").read_text())
                os.kill(pid, signal.SIGKILL)
                self.assert_fate(mta, queue_id, "bob@tox.alt", "deferred")


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
