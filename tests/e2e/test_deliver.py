"""Mail that comes in by a server instead of the Maildir: a real Dovecot by LMTP and a real Postfix by SMTP; quotas.

python3 -m unittest discover -s tests/e2e -p test_deliver.py      # TOXMAIL_BIN=DIR for programs elsewhere
"""

import os
import re
import unittest
from collections import Counter
from pathlib import Path
from typing import ClassVar

from rig.agent import Agent, befriend, install_programs
from rig.bootstrap import Bootstrap
from rig.case import SandboxCase
from rig.dovecot import Dovecot
from rig.lmtp import LmtpClient
from rig.mail import field_name, find_in_maildir, header, sample_mail, split
from rig.net import HOST
from rig.postfix import Postfix
from rig.sandbox import UNPRIVILEGED
from rig.wait import wait_for

BIN = Path(os.environ.get("TOXMAIL_BIN", Path(__file__).resolve().parents[2] / "target/release"))
ALICE = "alice@alice.example"
USERS = ("bob", "full", "sorted", "counted")
SIEVE = """require ["fileinto", "mailbox"];
if header :contains "Subject" "[list]" { fileinto :create "Lists"; }
"""
KIB = 1024
MANY = 60
KILLS = 8


def mail(message_id: str, *, subject: str = "a test", text: str = "Hello\n.\n..dots\n", size: int = 0) -> bytes:
    """A mail from alice, with an attachment of `size` octets."""
    return sample_mail(
        sender=ALICE, to="bob@tox.alt", subject=subject, text=text, message_id=message_id, attachment_size=size
    )


class DeliverTest(SandboxCase):
    """alice writes to bob's agent, each of whose mailboxes goes another way: to Dovecot, to Postfix, into a Maildir."""

    alice: ClassVar[Agent]
    bob: ClassVar[Agent]
    dovecot: ClassVar[Dovecot]
    postfix: ClassVar[Postfix]
    maildirs: ClassVar[dict[str, Path]]
    counted: int = 0

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        bootstrap = Bootstrap(cls.box)
        binaries = install_programs(cls.box, BIN)
        folder = cls.box.dir("maildirs", user=UNPRIVILEGED)
        cls.maildirs = {user: folder / user for user in USERS}
        cls.dovecot = Dovecot(
            cls.box, cls.maildirs, lmtp=True, quotas={"full": 20, "counted": 100}, sieve={"sorted": SIEVE}
        )
        cls.postfix = Postfix(cls.box, "postfix", domain="mx.example", lmtp_socket=Path("/nonexistent"))
        usual = {"queue": {"retry_min": "1s", "retry_max": "2s"}}
        cls.alice = Agent(
            cls.box, "alice", binaries=binaries, bootstrap=bootstrap, addresses=[], senders=[ALICE], settings=usual
        )
        cls.bob = Agent(
            cls.box,
            "bob",
            binaries=binaries,
            bootstrap=bootstrap,
            addresses=[],
            senders=[],
            settings=usual,
            deliver=f"lmtp:{cls.dovecot.lmtp_socket}",
            deliver_to="bob",
            extra_config=f"""
[[account.mailbox]]
name = "full"
deliver_to = "full"

[[account.mailbox]]
name = "sorted"
deliver_to = "sorted"

[[account.mailbox]]
name = "nobody"
deliver_to = "nobody"

[[account.mailbox]]
name = "relayed"
deliver = "smtp:{HOST}:{cls.postfix.port}"
deliver_to = "bob@mx.example"

[[account.mailbox]]
name = "elsewhere"
deliver = "smtp:{HOST}:{cls.postfix.port}"
deliver_to = "bob@elsewhere.example"

[[account.mailbox]]
name = "counted"
deliver = "maildir"
maildir = "{cls.maildirs["counted"]}"
""",
        )
        befriend(cls.alice, cls.bob)

    def setUp(self) -> None:
        for agent in (self.alice, self.bob):
            agent.require_alive()

    def new_id(self) -> str:
        type(self).counted += 1
        return f"<{self.counted}.{self._testMethodName}@alice.example>"

    def send(self, mailbox: str, content: bytes) -> str:
        """Send to a mailbox of bob's; the queue id."""
        recipient = f"{mailbox}@{self.bob.address.partition('@')[0]}.tox.alt"
        words = self.alice.submit(ALICE, [recipient], content)
        found = re.search(r"queued as (\w+)", words)
        assert found is not None
        return found.group(1)

    def answer(self, queue_id: str, timeout: float = 60) -> tuple[str, str, str]:
        """The final answer in alice's log: status, code and text."""
        pattern = re.compile(rf"{queue_id}: to=<.*dsn=([0-9.]+), status=(sent|bounced) \((.*)\)")
        found = wait_for(f"what became of {queue_id}", lambda: pattern.search(self.alice.log), timeout)
        return found.group(2), found.group(1), found.group(3)

    def copies(self, user: str) -> list[str]:
        """The Message-IDs of all mails in the user's INBOX."""
        return [header(message, "Message-ID") or "" for message in self.dovecot.messages(user)]

    def assert_bounced(self, queue_id: str, code: str, words: str) -> None:
        self.assertEqual(self.answer(queue_id)[:2], ("bounced", code))
        notice = wait_for(
            "notice",
            lambda: next(
                (
                    path.read_text()
                    for path in (self.alice.maildir / "new").glob("*")
                    if f"X-Tox-Queue-ID: {queue_id}" in path.read_text()
                ),
                None,
            ),
        )
        self.assertRegex(notice, rf"\nStatus: {re.escape(code)}")
        self.assertRegex(notice, words)

    def test_dovecot_gets_each_mail_once_as_it_was_sent(self) -> None:
        for size in (0, 300 * KIB):
            with self.subTest(size=size):
                message_id = self.new_id()
                sent = mail(message_id, text="Grüße\n.\n..dots\n" + "x" * 3000 + "\n", size=size)
                queue_id = self.send("bob", sent)
                self.assertEqual(self.answer(queue_id)[:2], ("sent", "2.0.0"))
                got = self.dovecot.fetch("bob", message_id)
                self.assertTrue(got.endswith(sent), got[:2000])
                names = [field_name(field) for field in split(got)[0]]
                self.assertEqual([names.count(name) for name in ("Return-Path", "Delivered-To")], [1, 1])
                self.assertEqual(header(got, "Return-Path"), f"<{self.alice.address}>")
                self.assertEqual(header(got, "Delivered-To"), "bob")
                self.assertRegex(header(got, "Authentication-Results") or "", r"^bob\.example; tox=fail")

    def test_sieve_sorts(self) -> None:
        message_id = self.new_id()
        self.assertEqual(self.answer(self.send("sorted", mail(message_id, subject="[list] hi")))[0], "sent")
        self.assertEqual(len(find_in_maildir(self.maildirs["sorted"] / ".Lists", message_id)), 1)
        self.assertEqual(self.copies("sorted"), [])

    def test_over_quota_comes_back_to_the_sender(self) -> None:
        queue_id = self.send("full", mail(self.new_id(), size=30 * KIB))
        self.assert_bounced(queue_id, "5.2.2", r"(?i)quota exceeded")
        self.assertEqual(self.copies("full"), [])

    def test_an_unknown_user_comes_back_to_the_sender(self) -> None:
        self.assert_bounced(self.send("nobody", mail(self.new_id())), "5.1.1", r"(?i)user doesn't exist: nobody")

    def test_postfix_gets_mail_by_smtp(self) -> None:
        message_id = self.new_id()
        sent = mail(message_id)
        self.assertEqual(self.answer(self.send("relayed", sent))[:2], ("sent", "2.0.0"))
        inbox = self.postfix.inbox
        path = wait_for("mail in the inbox", lambda: find_in_maildir(inbox, message_id) or None)[0]
        got = path.read_bytes()
        self.assertTrue(got.endswith(sent), got)
        names = [field_name(field) for field in split(got)[0]]
        self.assertEqual([names.count(name) for name in ("Return-Path", "Delivered-To", "Received")], [1, 1, 2])
        self.assertEqual(header(got, "Return-Path"), f"<{self.alice.address}>")
        self.assertEqual(header(got, "Delivered-To"), "bob@mx.example")
        # What Postfix refuses comes back, in its words.
        self.assert_bounced(self.send("elsewhere", mail(self.new_id())), "5.4.4", "this test machine sends nothing")

    def test_who_asked_for_success_is_told_whether_it_was_delivered_or_relayed(self) -> None:
        key = self.bob.address.partition("@")[0]
        for mailbox, action in (("bob", "delivered"), ("relayed", "relayed"), ("counted", "delivered")):
            with self.subTest(mailbox=mailbox), LmtpClient(self.alice.lmtp_socket) as client:
                message_id = self.new_id()
                (reply,) = client.send(ALICE, [f"{mailbox}@{key}.tox.alt"], mail(message_id), rcpt=" NOTIFY=SUCCESS")
                self.assertEqual(reply.code, 250, reply)

                def notice(message_id: str = message_id) -> bytes | None:
                    texts = (path.read_bytes() for path in (self.alice.maildir / "new").glob("*"))
                    return next((text for text in texts if f"In-Reply-To: {message_id}".encode() in text), None)

                self.assertIn(f"\nAction: {action}\nStatus: 2.0.0\n".encode(), wait_for("notice", notice))

    def test_mail_waits_for_a_dovecot_that_is_down(self) -> None:
        self.dovecot.stop()
        try:
            message_id = self.new_id()
            queue_id = self.send("bob", mail(message_id))
            waiting = re.compile(rf"{queue_id}: to=<.*dsn=4\.4\.1, status=deferred")
            wait_for("the mail to be deferred", lambda: waiting.search(self.alice.log))
        finally:
            self.dovecot.start()
        self.assertEqual(self.answer(queue_id)[:2], ("sent", "2.0.0"))
        self.assertEqual(self.copies("bob").count(message_id), 1)

    def test_a_killed_agent_loses_nothing_and_says_what_may_be_there_twice(self) -> None:
        message_ids = [self.new_id() for _ in range(MANY)]
        handed = len(re.findall(r"handed to lmtp:", self.bob.log))
        queue_ids = []
        for number, message_id in enumerate(message_ids, 1):
            queue_ids.append(self.send("bob", mail(message_id)))
            if number % (MANY // KILLS) == 0:
                # In the middle of it: something was handed over since the last time, and more is on its way.
                wait_for("a mail", lambda: len(re.findall(r"handed to lmtp:", self.bob.log)) > handed, 120)
                self.bob.kill()
                handed = len(re.findall(r"handed to lmtp:", self.bob.log))
                self.bob.start()
        for queue_id in queue_ids:
            self.assertEqual(self.answer(queue_id, 120)[:2], ("sent", "2.0.0"))
        copies = Counter(self.copies("bob"))
        self.assertEqual([i for i in message_ids if copies[i] == 0], [])
        doubles = sum(copies[message_id] - 1 for message_id in message_ids)
        told = len(re.findall(r"nobody knows whether lmtp:.* has mail", self.bob.log))
        print(f"{MANY} mails, {KILLS} kills: {doubles} there twice, {told} in doubt", flush=True)
        self.assertLessEqual(doubles, told)

    def test_a_maildir_with_a_quota_is_counted_as_dovecot_counts(self) -> None:
        maildir = self.maildirs["counted"]
        first = self.new_id()
        self.assertEqual(self.answer(self.send("counted", mail(first)))[0], "sent")
        # Dovecot makes the file when it is asked, and from then on the agent keeps it.
        self.dovecot.used("counted")
        wait_for("maildirsize", (maildir / "maildirsize").exists)
        for _ in range(3):
            self.assertEqual(self.answer(self.send("counted", mail(self.new_id(), size=10 * KIB)))[0], "sent")
        files = [path for folder in ("new", "cur") for path in (maildir / folder).iterdir()]
        octets = sum(path.stat().st_size for path in files)
        self.assertEqual(len(files), 4)
        lines = (maildir / "maildirsize").read_text().splitlines()
        self.assertEqual(lines[0], f"{100 * KIB}S")
        self.assertEqual(sum(int(line.split()[0]) for line in lines[1:]), octets)
        self.assertEqual(self.dovecot.used("counted"), (-(-octets // KIB), 4))
        self.assert_bounced(self.send("counted", mail(self.new_id(), size=60 * KIB)), "5.2.2", "over its quota")
        self.assertEqual(self.answer(self.send("counted", mail(self.new_id())))[0], "sent")
        self.dovecot.messages("counted")
        self.assertEqual(self.dovecot.used("counted")[1], 5)


if __name__ == "__main__":
    unittest.main()
