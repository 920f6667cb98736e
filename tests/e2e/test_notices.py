"""What senders are told, through the MTA: a real Postfix hands mail over with the wishes of RFC 3461 and takes the notices.

python3 -m unittest discover -s tests/e2e -p test_notices.py      # TOXMAIL_BIN=DIR for programs elsewhere
"""

import email
import email.policy
import os
import unittest
from email.message import EmailMessage
from pathlib import Path
from typing import ClassVar

from rig.agent import Agent, befriend, install_programs
from rig.bootstrap import Bootstrap
from rig.case import SandboxCase
from rig.mail import delivery_status, find_in_maildir, sample_mail
from rig.net import HOST
from rig.postfix import Postfix
from rig.wait import wait_for

BIN = Path(os.environ.get("TOXMAIL_BIN", Path(__file__).resolve().parents[2] / "target/release"))
ALICE = "alice@alice.example"
BODY = "the words of the mail"


class NoticesTest(SandboxCase):
    """Alice's agent sends its notices by SMTP to her Postfix, which has her mailbox."""

    alice: ClassVar[Agent]
    bob: ClassVar[Agent]
    postfix: ClassVar[Postfix]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        bootstrap = Bootstrap(cls.box)
        binaries = install_programs(cls.box, BIN)
        senders = [ALICE, "ålice@alice.example", "unwelcome@alice.example"]
        cls.alice, cls.bob = (
            Agent(
                cls.box,
                name,
                binaries=binaries,
                bootstrap=bootstrap,
                addresses=[f"{name}@tox.example"],
                senders=senders if name == "alice" else [],
                start=False,
            )
            for name in ("alice", "bob")
        )
        cls.postfix = Postfix(
            cls.box,
            "postfix",
            domain="alice.example",
            lmtp_socket=cls.alice.lmtp_socket,
            program=binaries / "tox-transport",
            settings={
                "smtpd_recipient_restrictions": "check_recipient_access inline:{unwelcome@alice.example=REJECT},"
                " permit_mynetworks, reject",
            },
        )
        cls.alice.configure({"queue": {"notices": f"smtp:{HOST}:{cls.postfix.port}"}})
        cls.alice.start()
        cls.bob.start()
        befriend(cls.alice, cls.bob)

    def nobody(self) -> str:
        """An address that bob's agent refuses for good."""
        return f"nobody@{self.bob.address.partition('@')[0]}.tox.alt"

    def mail(self, subject: str, to: str, sender: str = ALICE) -> bytes:
        return sample_mail(sender=sender, to=to, subject=subject, text=f"{BODY}\n", message_id=f"<{subject}@alice.example>")

    def notices(self, folder: Path, subject: str) -> list[bytes]:
        """The notices in a Maildir that answer the mail with this subject."""
        texts = [path.read_bytes() for path in folder.glob("new/*")]
        return [text for text in texts if f"In-Reply-To: <{subject}@alice.example>".encode() in text]

    def notice(self, subject: str, folder: Path | None = None) -> EmailMessage:
        """The only one that does, once it is there."""
        (text,) = wait_for(f"notice of {subject}", lambda: self.notices(folder or self.postfix.inbox, subject) or None, 120)
        parsed = email.message_from_bytes(text, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        self.assertEqual(parsed.get_content_type(), "multipart/report")
        self.assertEqual((parsed["Return-Path"], parsed["Auto-Submitted"]), ("<>", "auto-replied"))
        self.assertEqual(parsed.defects, [])
        return parsed

    def test_success_is_told_to_who_asked_for_it_once_and_to_nobody_else(self) -> None:
        for subject, options, notify in (
            ("quiet", ["ENVID=a+2Bb"], []),
            ("failures", [], ["NOTIFY=FAILURE,DELAY"]),
            ("wanted", ["RET=FULL", "ENVID=a+2Bb"], ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;robert@elsewhere.example"]),
        ):
            mail = self.mail(subject, "bob@tox.alt")
            self.postfix.smtp(ALICE, ["bob@tox.alt"], mail, options=options, rcpt_options=notify)
            found = wait_for(subject, lambda s=subject: find_in_maildir(self.bob.maildir, f"<{s}@alice.example>") or None, 120)
            self.assertEqual(len(found), 1)
        notice = self.notice("wanted")
        status = delivery_status(notice)
        self.assertEqual(
            {key: status.get(key) for key in ("Reporting-MTA", "Original-Envelope-Id", "Action", "Status")},
            {
                "Reporting-MTA": "dns; alice.example",
                "Original-Envelope-Id": "a+b",
                "Action": "delivered",
                "Status": "2.0.0",
            },
        )
        self.assertEqual(status["Original-Recipient"], "rfc822; robert@elsewhere.example")
        self.assertEqual(status["Final-Recipient"], "rfc822; bob@tox.alt")
        self.assertNotIn(BODY, notice.as_string(), "what arrived need not come back")
        self.assertIn("was delivered to the mailboxes", list(notice.iter_parts())[0].get_content())
        # Postfix, which had handed the wish on, says nothing of its own; nor is anybody told who did not ask.
        self.assertEqual([self.notices(self.postfix.inbox, subject) for subject in ("quiet", "failures")], [[], []])
        self.assertEqual(list(self.alice.maildir.glob("new/*")), [])

    def test_a_failed_mail_comes_back_as_it_was_wished(self) -> None:
        for subject, options, kind in (
            ("returned", [], "message/rfc822"),
            ("full", ["RET=FULL"], "message/rfc822"),
            ("headers", ["RET=HDRS"], "text/rfc822-headers"),
        ):
            with self.subTest(subject=subject):
                self.postfix.smtp(ALICE, [self.nobody()], self.mail(subject, self.nobody()), options=options)
                notice = self.notice(subject)
                status = delivery_status(notice)
                self.assertEqual((status["Action"], status["Status"]), ("failed", "5.1.1"))
                words, _, original = notice.iter_parts()
                self.assertIn("is not an address of this agent", words.get_content())
                self.assertEqual(original.get_content_type(), kind)
                self.assertEqual(BODY in notice.as_string(), kind == "message/rfc822")
                self.assertIn(f"Subject: {subject}", notice.as_string())
        self.postfix.smtp(ALICE, [self.nobody()], self.mail("never", self.nobody()), rcpt_options=["NOTIFY=NEVER"])
        self.postfix.smtp("", [self.nobody()], self.mail("null", self.nobody()))
        self.postfix.smtp(ALICE, [self.nobody()], self.mail("last", self.nobody()))
        self.notice("last")
        for subject in ("never", "null"):
            self.assertEqual(self.notices(self.postfix.inbox, subject), [])
            self.assertEqual(self.notices(self.alice.maildir, subject), [])

    def test_who_writes_utf8_is_told_in_utf8(self) -> None:
        sender = "ålice@alice.example"
        self.postfix.smtp(sender, [self.nobody()], self.mail("utf8", self.nobody()))
        (text,) = wait_for("notice", lambda: self.notices(self.postfix.inbox, "utf8") or None, 120)
        self.assertIn(f"\nTo: {sender}\n".encode(), text)
        self.assertIn(b"report-type=global-delivery-status", text)
        self.assertIn(b"Content-Type: message/global\n", text)
        self.assertEqual(delivery_status(self.notice("utf8"))["Action"], "failed")

    def test_a_notice_waits_for_the_mta_through_a_crash_and_comes_once(self) -> None:
        self.postfix.stop()
        self.alice.submit(ALICE, [self.nobody()], self.mail("patient", self.nobody()))
        wait_for("an attempt", lambda: f"smtp:{HOST}:{self.postfix.port}" in self.alice.log.rpartition("patient")[2], 60)
        wait_for("the end of the mail", lambda: self.alice.queued() == 0, 60)
        self.alice.kill()
        self.postfix.start()
        self.alice.start()
        self.assertEqual(delivery_status(self.notice("patient"))["Action"], "failed")
        self.postfix.wait_log(r"postfix/virtual.*to=<alice@alice\.example>.*status=sent")

    def test_what_the_mta_refuses_comes_into_the_mailbox_of_the_account(self) -> None:
        sender = "unwelcome@alice.example"
        self.postfix.smtp(sender, [self.nobody()], self.mail("refused", self.nobody(), sender))
        notice = self.notice("refused", self.alice.maildir)
        self.assertEqual((delivery_status(notice)["Action"], notice["To"]), ("failed", sender))
        self.assertEqual(self.notices(self.postfix.inbox, "refused"), [])

    def test_who_wants_it_is_told_once_that_mail_waits(self) -> None:
        way = {"notices": f"smtp:{HOST}:{self.postfix.port}"}
        self.bob.stop()
        self.alice.stop()
        self.alice.configure({"queue": {**way, "delay_notice": "1s"}})
        self.alice.start()
        waiting = ("slow", "asked", "unwanted")
        for subject, options in zip(waiting, ([], ["NOTIFY=DELAY"], ["NOTIFY=FAILURE"]), strict=True):
            mail = self.mail(subject, "bob@tox.alt")
            self.postfix.smtp(ALICE, ["bob@tox.alt"], mail, rcpt_options=options)
        for subject in waiting[:2]:
            notice = self.notice(subject)
            status = delivery_status(notice)
            self.assertEqual((status["Action"], status["Final-Recipient"]), ("delayed", "rfc822; bob@tox.alt"))
            self.assertRegex(status["Status"], r"^4\.")
            self.assertIn("Will-Retry-Until", status)
            self.assertNotIn(BODY, notice.as_string(), "it still comes")
        # A restart makes no second one.
        self.alice.stop()
        self.alice.configure({"queue": way})
        self.alice.start()
        self.bob.start()
        for subject in waiting:
            wait_for(subject, lambda s=subject: find_in_maildir(self.bob.maildir, f"<{s}@alice.example>"), 120)
        self.assertEqual([len(self.notices(self.postfix.inbox, subject)) for subject in waiting], [1, 1, 0])


if __name__ == "__main__":
    unittest.main()
