"""Mail that comes in by a server instead of the Maildir: a real Dovecot by LMTP and a real Postfix by SMTP; quotas; and
mail that has to be handed over twice.

python3 -m unittest discover -s tests/e2e -p test_deliver.py      # TOXMAIL_BIN=DIR for programs elsewhere
"""

import os
import re
import struct
import time
import unittest
from collections import Counter
from pathlib import Path
from typing import ClassVar

from rig.agent import Agent, befriend, install_programs
from rig.bootstrap import Bootstrap
from rig.case import SandboxCase
from rig.dovecot import Dovecot
from rig.lmtp import LmtpClient
from rig.lost_answers import LostAnswers
from rig.mail import field_name, find_in_maildir, header, sample_mail, split
from rig.net import HOST
from rig.postfix import Postfix
from rig.sandbox import UNPRIVILEGED
from rig.wait import DEADLINE, wait_for

BIN = Path(os.environ.get("TOXMAIL_BIN", Path(__file__).resolve().parents[2] / "target/release"))
ALICE = "alice@alice.example"
MALLORY = "mallory@mallory.example"
# Whom Postfix hands mail on for, by LMTP.
ONWARD = "bob@dovecot.example"
USERS = ("bob", "full", "sorted", "counted", "patient", "mallory", ONWARD)
SIEVE = """require ["fileinto", "mailbox"];
if header :contains "Subject" "[list]" { fileinto :create "Lists"; }
"""
# In KiB.
QUOTAS = {"full": 20, "counted": 100, "patient": 20}
KIB = 1024
MANY = 60
KILLS = 8
IN_DOUBT = 20


def mail(message_id: str, *, subject: str = "a test", text: str = "Hello\n.\n..dots\n", size: int = 0) -> bytes:
    """A mail from alice, with an attachment of `size` octets."""
    return sample_mail(
        sender=ALICE, to="bob@tox.alt", subject=subject, text=text, message_id=message_id, attachment_size=size
    )


def number(message_id: str) -> str:
    """The number of a mail, which is its subject where a proxy has to know it."""
    return message_id.partition(".")[0].removeprefix("<")


class DeliverTest(SandboxCase):
    """alice writes to bob's agent, each of whose mailboxes goes another way: to Dovecot, to Postfix, into a Maildir."""

    alice: ClassVar[Agent]
    bob: ClassVar[Agent]
    mallory: ClassVar[Agent]
    dovecot: ClassVar[Dovecot]
    postfix: ClassVar[Postfix]
    lmtp_proxy: ClassVar[LostAnswers]
    smtp_proxy: ClassVar[LostAnswers]
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
            cls.box, cls.maildirs, lmtp=True, quotas=QUOTAS, sieve={"sorted": SIEVE}, patient=["patient"]
        )
        cls.postfix = Postfix(
            cls.box,
            "postfix",
            domain="mx.example",
            lmtp_socket=Path("/nonexistent"),
            settings={
                "relay_domains": ONWARD.partition("@")[2],
                "relay_transport": f"tox-lmtp:unix:{cls.dovecot.lmtp_socket}",
                # As dovecot/README.md says.
                "tox-lmtp_destination_recipient_limit": "1",
                "tox-lmtp_destination_concurrency_limit": "1",
            },
        )
        cls.lmtp_proxy = LostAnswers(cls.box, cls.dovecot.lmtp_socket, "lmtp-proxy")
        cls.smtp_proxy = LostAnswers(cls.box, cls.postfix.port, "smtp-proxy")
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
name = "patient"
deliver_to = "patient"

[[account.mailbox]]
name = "proxied"
deliver = "lmtp:{cls.lmtp_proxy.socket}"
deliver_to = "bob"

[[account.mailbox]]
name = "onward"
deliver = "smtp:{HOST}:{cls.smtp_proxy.port}"
deliver_to = "{ONWARD}"

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
        cls.mallory = Agent(
            cls.box,
            "mallory",
            binaries=binaries,
            bootstrap=bootstrap,
            addresses=[],
            senders=[MALLORY],
            settings=usual,
            deliver=f"lmtp:{cls.lmtp_proxy.socket}",
        )
        befriend(cls.alice, cls.bob)
        befriend(cls.mallory, cls.bob)

    def setUp(self) -> None:
        for agent in (self.alice, self.bob, self.mallory):
            agent.require_alive()

    def new_id(self) -> str:
        type(self).counted += 1
        return f"<{self.counted}.{self._testMethodName}@alice.example>"

    def send(self, mailbox: str, content: bytes, *, sender: tuple[str, Agent] | None = None) -> str:
        """Send to a mailbox of bob's, from alice or `sender`; the queue id."""
        recipient = f"{mailbox}@{self.bob.address.partition('@')[0]}.tox.alt"
        address, agent = sender or (ALICE, self.alice)
        words = agent.submit(address, [recipient], content)
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
        self.assertNotIn(message_id, self.copies("sorted"))

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

    def assert_once(self, user: str, message_ids: list[str]) -> None:
        """Each of these mails is there, and only once."""
        copies = Counter(self.copies(user))
        self.assertEqual({i: copies[i] for i in message_ids if copies[i] != 1}, {})

    def assert_doubted(self, proxy: LostAnswers, message_ids: list[str]) -> None:
        """The server took each of these mails twice, under one identity that no other has, as bob's log says."""
        log = self.bob.log
        identities = set()
        for message_id in message_ids:
            first, second = proxy.of(number(message_id))
            self.assertRegex(f"{first.answer}, {second.answer}", r"^250 .*, 250 ")
            self.assertRegex(first.identity, r"^[0-9a-f]{64}$")
            self.assertEqual(first.identity, second.identity)
            self.assertRegex(log, rf"nobody knows whether .* has mail .*, with Tox-Mail-Id: {first.identity} as before")
            identities.add(first.identity)
        self.assertEqual(len(identities), len(message_ids))

    def test_mails_whose_answers_are_lost_are_there_once(self) -> None:
        for mailbox, proxy, user in (("proxied", self.lmtp_proxy, "bob"), ("onward", self.smtp_proxy, ONWARD)):
            with self.subTest(mailbox=mailbox):
                message_ids = [self.new_id() for _ in range(IN_DOUBT)]
                proxy.lose |= set(map(number, message_ids))
                queue_ids = [self.send(mailbox, mail(i, subject=number(i))) for i in message_ids]
                for queue_id in queue_ids:
                    self.assertEqual(self.answer(queue_id)[:2], ("sent", "2.0.0"))
                wait_for("Postfix's queue to be empty", lambda: not self.postfix.queue())
                self.assert_once(user, message_ids)
                self.assert_doubted(proxy, message_ids)

    def test_mails_are_there_once_though_the_agent_is_killed_before_it_hears_the_answer(self) -> None:
        message_ids = [self.new_id() for _ in range(MANY)]
        # While the answer to one of these is held back, the others are on their way.
        held = message_ids[:: MANY // KILLS][:KILLS]
        self.lmtp_proxy.hold |= set(map(number, held))
        queue_ids = [self.send("proxied", mail(i, subject=number(i))) for i in message_ids]
        for _ in held:
            self.lmtp_proxy.held.get(timeout=DEADLINE)
            self.bob.kill()
            self.bob.start()
        for queue_id in queue_ids:
            self.assertEqual(self.answer(queue_id)[:2], ("sent", "2.0.0"))
        self.assert_once("bob", message_ids)
        self.assert_doubted(self.lmtp_proxy, held)
        # Side by side Dovecot would forget some, and more than one would be in doubt.
        self.assertEqual(self.lmtp_proxy.most_at_once, 1)

    def test_a_forged_identity_hides_no_mail(self) -> None:
        genuine = self.new_id()
        self.assertEqual(self.answer(self.send("bob", mail(genuine)))[0], "sent")
        identity = header(self.dovecot.fetch("bob", genuine), "Tox-Mail-Id") or ""
        self.assertRegex(identity, r"^[0-9a-f]{64}$")
        forged = self.new_id()
        fields = f"Tox-Mail-Id: {identity}\nTOX-MAIL-ID : {identity}\ntox-mail-id:\n {identity}\n".encode()
        self.send("bob", fields + mail(forged), sender=(MALLORY, self.mallory))
        wait_for("the mail", lambda: forged in self.copies("bob"))
        got = [field for field in split(self.dovecot.fetch("bob", forged))[0] if b"mail-id" in field.lower()]
        self.assertEqual(len(got), 1, got)
        self.assertNotIn(identity.encode(), got[0])

    def test_a_mail_that_was_deferred_is_no_second_copy(self) -> None:
        message_id = self.new_id()
        queue_id = self.send("patient", mail(message_id, size=30 * KIB))
        deferred = re.compile(rf"{queue_id}: to=<.*dsn=4\.2\.2, status=deferred")
        wait_for("the mail to be deferred", lambda: deferred.search(self.alice.log))
        self.assertEqual(self.copies("patient"), [])
        self.dovecot.set_quotas({**QUOTAS, "patient": 1000})
        self.assertEqual(self.answer(queue_id)[:2], ("sent", "2.0.0"))
        self.assertEqual(self.copies("patient"), [message_id])

    def test_dovecot_remembers_a_mail_for_30_days(self) -> None:
        message_id = self.new_id()
        before = time.time()
        self.assertEqual(self.answer(self.send("sorted", mail(message_id)))[0], "sent")
        # The newest of its records: until when, how long the id and the user's name are, and these.
        list_ = (self.dovecot.home("sorted") / ".dovecot.lda-dupes").read_bytes()
        times, at = [], 4
        while at < len(list_):
            until, id_size, user_size = struct.unpack_from("=III", list_, at)
            times.append(until)
            at += 12 + id_size + user_size
        self.assertAlmostEqual(max(times) - before, 30 * 86400, delta=60)

    def test_a_notice_is_there_once_though_the_agent_is_killed_before_it_hears_the_answer(self) -> None:
        subject = "Undelivered Mail Returned to Sender"
        self.lmtp_proxy.hold.add(subject)
        self.send("nobody", mail(self.new_id()), sender=(MALLORY, self.mallory))
        self.assertEqual(self.lmtp_proxy.held.get(timeout=DEADLINE), subject)
        self.mallory.kill()
        self.mallory.start()
        first, second = wait_for("the second copy", lambda: (a if len(a := self.lmtp_proxy.of(subject)) == 2 else None))
        wait_for("the notice to be sent", lambda: re.search(r"notice to=<.*status=sent", self.mallory.log))
        self.assertRegex(first.answer + second.answer, r"^250 .*250 ")
        self.assertRegex(first.identity, r"^[0-9a-f]{32}$")
        self.assertEqual(first.identity, second.identity)
        self.assertEqual([header(m, "Subject") for m in self.dovecot.messages("mallory")], [subject])

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
