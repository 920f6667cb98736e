"""Real agents over a private Tox network, without an MTA: what they take, deliver, refuse, send back and log.

python3 -m unittest discover -s tests/e2e -p test_agent.py      # TOXMAIL_BIN=DIR for programs elsewhere
"""

import email
import email.policy
import os
import random
import re
import time
import unittest
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

from rig.agent import Agent, ToxctlError, befriend, install_programs, queue_id_of
from rig.bootstrap import Bootstrap
from rig.case import SandboxCase
from rig.lmtp import LmtpClient
from rig.mail import delivery_status, find_in_maildir, header, split
from rig.net import HOST, free_port, free_udp_ports
from rig.sandbox import UNPRIVILEGED, as_user
from rig.socks import SocksServer
from rig.wait import wait_for

BIN = Path(os.environ.get("TOXMAIL_BIN", Path(__file__).resolve().parents[2] / "target/release"))
ALICE = "alice@alice.example"
BOB = "bob@bob.example"
# Somebody who is neither root nor the agent.
STRANGER = "daemon"
KIB = 1024
MIB = 1024 * 1024


def mail(message_id: str, body: bytes = b"Hello\n", *, sender: str = ALICE, fields: str = "") -> bytes:
    """A mail put together by hand, so that every octet is as it is written here."""
    head = f"From: Alice <{sender}>\nTo: bob@tox.alt\nSubject: a test\nMessage-ID: {message_id}\n{fields}\n"
    return head.encode() + body


def random_body(size: int, seed: int = 1) -> bytes:
    """Octets that do not compress, with an LF at the end of each of their lines."""
    return random.Random(seed).randbytes(size - 1).replace(b"\r", b"x") + b"\n"


def stored(maildir: Path, message_id: str, timeout: float = 60) -> bytes:
    """The mail, once it has arrived."""
    found = wait_for(f"{message_id} in {maildir}", lambda: find_in_maildir(maildir, message_id) or None, timeout)
    return found[0].read_bytes()


def all_fields(message: bytes, name: str) -> list[str]:
    """The values of all fields of this name, unfolded."""
    fields = [field.decode(errors="replace").replace("\n", "") for field in split(message)[0]]
    return [value.strip() for field, _, value in (f.partition(":") for f in fields) if field.lower() == name.lower()]


def notices(maildir: Path, queue_id: str) -> list[EmailMessage]:
    """The notices of what became of the mail with this queue id."""
    found = []
    for path in (maildir / "new").glob("*"):
        content = path.read_bytes()
        if f"X-Tox-Queue-ID: {queue_id}\n".encode() in content:
            found.append(cast(EmailMessage, email.message_from_bytes(content, policy=email.policy.default)))
    return found


def tox_id(key: bytes) -> str:
    """A Tox ID with this key."""
    octets = key + b"\x01\x02\x03\x04"
    check = [0, 0]
    for at, octet in enumerate(octets):
        check[at % 2] ^= octet
    return (octets + bytes(check)).hex().upper()


def any_tox_id(seed: int) -> str:
    """A Tox ID of nobody; keys have 255 bits."""
    key = bytearray(random.Random(seed).randbytes(32))
    key[31] &= 0x7F
    return tox_id(bytes(key))


def memory(agent: Agent, what: str) -> int:
    """VmRSS or VmHWM of an agent, in octets."""
    text = Path(f"/proc/{agent.pid}/status").read_text()
    found = re.search(rf"^{what}:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found.group(1)) * KIB


def udp_sockets(pid: int) -> list[str]:
    """The UDP sockets of a process, as lines of /proc/net/udp."""
    links = (os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink())
    inodes = {found.group(1) for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}
    assert inodes
    tables = [Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:] for table in ("udp", "udp6")]
    return [line for table in tables for line in table if line.split()[9] in inodes]


def at_once(*jobs: Callable[[], Any]) -> None:
    """Do several things side by side; raise what any of them raises."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result()


class NetworkCase(SandboxCase):
    """A private Tox network to start agents in."""

    bootstrap: ClassVar[Bootstrap]
    binaries: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.bootstrap = Bootstrap(cls.box)
        cls.binaries = install_programs(cls.box, BIN)

    @classmethod
    def agent(cls, name: str, **options: Any) -> Agent:
        """An agent with the usual addresses."""
        options.setdefault("addresses", [f"{name}@tox.example"])
        options.setdefault("senders", [f"{name}@{name}.example"])
        return Agent(cls.box, name, binaries=cls.binaries, bootstrap=cls.bootstrap, **options)

    def assert_nothing_waits(self, agent: Agent) -> None:
        wait_for(f"empty queue of {agent.name}", lambda: agent.queued() == 0)

    def one_notice(self, agent: Agent, queue_id: str, timeout: float = 60) -> EmailMessage:
        """The only notice about a mail; there must never be two."""
        wait_for(f"notice about {queue_id}", lambda: notices(agent.maildir, queue_id) or None, timeout)
        found = notices(agent.maildir, queue_id)
        self.assertEqual(len(found), 1)
        return found[0]


class PairTest(NetworkCase):
    """alice and bob are contacts. alice has asked others: late, who is not there yet, and gina, who says no first."""

    alice: ClassVar[Agent]
    bob: ClassVar[Agent]
    late: ClassVar[Agent]
    gina: ClassVar[Agent]
    erin: ClassVar[Agent]
    late_asked: ClassVar[float]
    expiring: ClassVar[list[str]]
    expiring_since: ClassVar[float]
    counted: int = 0

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        small = {"delivery": {"max_size": "100 KiB"}, "queue": {"retry_max": "1m"}}
        cls.alice = cls.agent(
            "alice",
            addresses=["alice@tox.example", '"al ice"@tox.example', "ålice@tox.example"],
            settings=small,
        )
        cls.bob = cls.agent("bob")
        cls.gina = cls.agent("gina")
        cls.late = cls.agent("late")
        cls.erin = cls.agent("erin", settings={"queue": {"expire": "1m"}})
        late_id = cls.late.tox_id
        cls.late.stop()

        # To nobody who will ever be online: it must come back after a minute.
        cls.erin.ctl("contact", "add", any_tox_id(1), "--nick", "nobody")
        sent = cls.erin.submit("erin@erin.example", ["nobody@tox.alt"], mail("<expires@erin.example>"))
        null = cls.erin.submit("", ["nobody@tox.alt"], mail("<expires-null@erin.example>"))
        cls.expiring, cls.expiring_since = [queue_id_of(sent), queue_id_of(null)], time.monotonic()

        cls.alice.ctl("contact", "add", late_id, "--nick", "läte")
        cls.late_asked = time.monotonic()

        def refuse_at_first() -> None:
            cls.alice.ctl("contact", "add", cls.gina.tox_id, "--nick", "gina", "--message", "Hello\nGina")
            cls.gina.wait_request(cls.alice.key)
            cls.gina.ctl("request", "refuse", cls.alice.key, "--silent")
            # Only an instance that was started again hears toxcore ask the same a second time.
            cls.gina.stop()
            cls.gina.start()

        at_once(partial(befriend, cls.alice, cls.bob), refuse_at_first)

    def setUp(self) -> None:
        for agent in (self.alice, self.bob):
            agent.require_alive()

    def new_id(self) -> str:
        """A Message-ID."""
        type(self).counted += 1
        return f"<{self.counted}.{self._testMethodName}@alice.example>"

    def deliver(self, content: bytes, *, sender: str = ALICE, recipients: Sequence[str] = ("bob@tox.alt",)) -> bytes:
        """Send a mail to bob by LMTP and return what he has."""
        with LmtpClient(self.alice.lmtp_socket) as client:
            utf8 = " SMTPUTF8" if not (sender + "".join(recipients)).isascii() else ""
            for reply in client.send(sender, recipients, content, mail=utf8):
                self.assertEqual(reply.code, 250, reply)
        return stored(self.bob.maildir, header(content, "Message-ID") or "")

    # The envelope.

    def test_envelopes_that_are_refused(self) -> None:
        stranger = any_tox_id(2)
        for sender, recipient, status, words in (
            (ALICE, "nobody@tox.alt", 67, r"^5\.1\.1 .*\"nobody\".*toxctl contact list"),
            (ALICE, f"{stranger[:64]}@tox.alt", 67, r"^5\.1\.1 .*key is no contact.*toxctl contact add"),
            (ALICE, f"{stranger}@tox.alt", 67, rf"^5\.1\.1 .*toxctl contact add {stranger}"),
            (ALICE, "bob@bob.example", 67, r"^5\.1\.2 .*bob\.example"),
            (ALICE, "bob@short.tox.alt", 67, r"^5\.1\.2 "),
            ("mallory@alice.example", "bob@tox.alt", 77, r"^5\.7\.1 .*<mallory@alice\.example>.*senders"),
            ("bob@tox.alt", "bob@tox.alt", 77, r"^5\.7\.1 "),
        ):
            with self.subTest(sender=sender, recipient=recipient):
                got = self.alice.transport(sender, [recipient], mail(self.new_id()))
                self.assertEqual(got[0], status, got[1])
                self.assertRegex(got[1], words)
                self.assertNotIn("\n", got[1])

    def test_every_own_sender_is_taken(self) -> None:
        key = self.alice.address.partition("@")[0]
        for sender, path in (
            ("ALICE@alice.example", self.alice.address),
            ("alice@tox.example", "alice@tox.example"),
            ('"al ice"@tox.example', '"al ice"@tox.example'),
            ("ålice@tox.example", "ålice@tox.example"),
            (self.alice.address, self.alice.address),
            (f"work@{key}.tox.alt", f"work@{key}.tox.alt"),
            ("", ""),
        ):
            with self.subTest(sender=sender):
                got = self.deliver(mail(message_id := self.new_id()), sender=sender)
                self.assertEqual(header(got, "Return-Path"), f"<{path}>")
                self.assertEqual(header(got, "Message-ID"), message_id)

    def test_utf8_needs_smtputf8(self) -> None:
        with LmtpClient(self.alice.lmtp_socket) as client:
            self.assertIn("SMTPUTF8", client.extensions)
            (refused,) = client.send("ålice@tox.example", ["bob@tox.alt"], mail(self.new_id()))
            self.assertRegex(f"{refused.code} {refused.text}", r"^55\d 5\.6\.7 ")
            taken = client.send(ALICE, ["läte@tox.alt"], mail(self.new_id()), mail=" SMTPUTF8")
            self.assertEqual(taken[0].code, 250, taken)
        # tox-transport asks for it by itself.
        self.alice.submit("ålice@tox.example", ["LÄTE@tox.alt"], mail(self.new_id()))

    def test_several_recipients_each_with_an_answer(self) -> None:
        message_id = self.new_id()
        recipients = ["bob@tox.alt", "nobody@tox.alt", "x@elsewhere.example", "nix@short.tox.alt", "läte@tox"]
        with LmtpClient(self.alice.lmtp_socket) as client:
            replies = client.send(ALICE, recipients, mail(message_id), mail=" SMTPUTF8")
        self.assertEqual([reply.code for reply in replies], [250, 550, 550, 550, 250], replies)
        self.assertEqual([reply.text[:5] for reply in replies], ["2.0.0", "5.1.1", "5.1.2", "5.1.2", "2.0.0"])
        self.assertEqual(queue_id_of(replies[0].text), queue_id_of(replies[4].text))
        stored(self.bob.maildir, message_id)
        # A program has one exit status: what was refused for good decides it, and is named.
        status, words = self.alice.transport(ALICE, ["bob@tox.alt", "nobody@tox.alt"], mail(self.new_id()))
        self.assertEqual(status, 67)
        self.assertRegex(words, r"^5\.1\.1 <nobody@tox\.alt>: .*1 of 2 recipients accepted")

    def test_every_form_of_bobs_address(self) -> None:
        key = self.bob.address.partition("@")[0]
        for recipient, told in (
            ("BOB@tox.alt", self.bob.address),
            ("bob@tox", self.bob.address),
            (self.bob.address, self.bob.address),
            (f"{self.bob.tox_id}@tox.alt", self.bob.address),
            (f"{self.bob.key.lower()}@tox", self.bob.address),
            (f"bob@{key}.tox.alt", f"bob@{key}.tox.alt"),
        ):
            with self.subTest(recipient=recipient):
                got = self.deliver(mail(self.new_id()), recipients=[recipient])
                self.assertEqual(header(got, "Delivered-To"), told)

    def test_two_recipients_in_one_mailbox(self) -> None:
        message_id = self.new_id()
        two = ["bob@tox.alt", f"bob@{self.bob.address.partition('@')[0]}.tox.alt"]
        queue_id = queue_id_of(self.alice.submit(ALICE, two, mail(message_id)))
        stored(self.bob.maildir, message_id)
        wait_for("both answers", lambda: self.alice.log.count(f"{queue_id}: to=<") == 2)
        self.assertEqual(len(re.findall(rf"{queue_id}: to=<.*dsn=2\.0\.0, status=sent", self.alice.log)), 2)
        self.assertEqual(len(find_in_maildir(self.bob.maildir, message_id)), 1)

    # Handed over again.

    def test_handed_over_twice_delivered_once(self) -> None:
        message_id = self.new_id()
        content = mail(message_id)
        told = [self.alice.submit(ALICE, ["bob@tox.alt"], content, queue_id="4TWICE") for _ in range(2)]
        self.assertEqual(told[0], told[1])
        stored(self.bob.maildir, message_id)
        # And when it is long gone from the queue.
        self.assertEqual(self.alice.submit(ALICE, ["bob@tox.alt"], content, queue_id="4TWICE"), told[0])
        # Another content, and another recipient, are another mail.
        for recipient, text in (("bob@tox.alt", b"Other\n"), (self.bob.address, b"Hello\n")):
            other = self.alice.submit(ALICE, [recipient], mail(self.new_id(), text), queue_id="4TWICE")
            self.assertNotEqual(other, told[0])
        stored(self.bob.maildir, f"<{self.counted}.{self._testMethodName}@alice.example>")
        self.assertEqual(len(find_in_maildir(self.bob.maildir, message_id)), 1)

    def test_without_a_queue_id_twice_is_two_mails(self) -> None:
        message_id = self.new_id()
        told = [self.alice.submit(ALICE, ["bob@tox.alt"], mail(message_id)) for _ in range(2)]
        self.assertNotEqual(told[0], told[1])
        wait_for("two mails", lambda: len(find_in_maildir(self.bob.maildir, message_id)) == 2)

    def test_the_next_recipient_of_the_same_mail_attaches(self) -> None:
        # As a pipe transport brings it, one recipient at a time; to late, who is not there, so that both wait.
        content = mail(self.new_id())
        recipients = ["läte@tox.alt", f"{self.late_key()}@tox.alt"]
        ids = {queue_id_of(self.alice.submit(ALICE, [r], content, queue_id="4ATTACH")) for r in recipients}
        self.assertEqual(len(ids), 1)
        (entry,) = [entry for entry in self.alice.json("queue", "list") if entry["mta_queue_id"] == "4ATTACH"]
        self.assertEqual({entry["queue_id"]}, ids)
        self.assertEqual([recipient["address"] for recipient in entry["recipients"]], recipients)

    def late_key(self) -> str:
        """late's key, also when late does not run."""
        return next(c["key"] for c in self.alice.json("contact", "list") if c["nick"] == "läte")

    # What bob gets.

    def test_trace_fields(self) -> None:
        got = self.deliver(mail(self.new_id()))
        names = [field.partition(b":")[0].decode() for field in split(got)[0]]
        expected = ["Return-Path", "Delivered-To", "Received", "Tox-Mail-Id", "Authentication-Results", "Reply-To"]
        self.assertEqual(names[:8], [*expected, "From", "To"])
        self.assertEqual(header(got, "Return-Path"), f"<{self.alice.address}>")
        self.assertEqual(header(got, "Delivered-To"), self.bob.address)
        received = header(got, "Received") or ""
        self.assertRegex(
            received,
            rf"^from alice \(tox {self.alice.key}\)\s+by bob\.example with TOX id \w+\s+"
            rf"for <{self.bob.address}>; \w\w\w, \d+ \w\w\w \d{{4}} \d\d:\d\d:\d\d \+0000$",
        )

    def test_who_the_author_is(self) -> None:
        passed = self.deliver(mail(self.new_id(), sender=self.alice.address))
        self.assertEqual(
            header(passed, "Authentication-Results"),
            f"bob.example; tox=pass\theader.from={self.alice.address} policy.key={self.alice.key}",
        )
        self.assertIsNone(header(passed, "Reply-To"))
        for sender in (ALICE, "bob@tox.alt", self.bob.address):
            with self.subTest(sender=sender):
                failed = header(self.deliver(mail(self.new_id(), sender=sender)), "Authentication-Results") or ""
                self.assertRegex(failed, rf"^bob\.example; tox=fail \(.*\)\s+header\.from={re.escape(sender)} ")

    def test_reply_to(self) -> None:
        address = self.alice.address
        for sender, fields, expected in (
            (ALICE, "", [f"Alice\t<{address}>"]),
            ("alice@tox.example", "", [address]),
            (address, "", []),
            (ALICE, "Reply-To: list@lists.example\n", ["list@lists.example"]),
        ):
            with self.subTest(sender=sender, fields=fields):
                got = self.deliver(mail(self.new_id(), sender=sender, fields=fields))
                self.assertEqual(all_fields(got, "Reply-To"), expected)

    def test_signed_mail_is_left_alone(self) -> None:
        for signed, expected in (
            ("from:to:Reply-To : subject", []),
            ("from:to:subject", [f"Alice\t<{self.alice.address}>"]),
        ):
            with self.subTest(signed=signed):
                signature = f"DKIM-Signature: v=1; a=rsa-sha256; d=alice.example; s=x;\n\th={signed};\n\tbh=x; b=y\n"
                sent = mail(self.new_id(), fields=signature)
                got = self.deliver(sent)
                self.assertEqual(all_fields(got, "Reply-To"), expected)
                self.assertTrue(got.endswith(sent), got)

    def test_forged_trace_fields_are_removed(self) -> None:
        forged = (
            "Return-Path: <forged@x>\nDelivered-To: forged@x\nX-Original-To: forged@x\nStatus: RO\nX-UID: 7\n"
            "Tox-Mail-Id: forged@x\n"
            "Authentication-Results: bob.example; tox=pass (forged)\n"
            "authentication-results: (c) BOB.example.;\n\tdkim=pass (forged)\n"
        )
        kept = "Received: from a by b; forged\nAuthentication-Results: mx.example; dkim=pass (kept)\n"
        got = self.deliver(mail(self.new_id(), fields=forged + kept))
        head = b"\n".join(split(got)[0]).decode()
        self.assertEqual(len(all_fields(got, "Return-Path")), 1)
        self.assertEqual(len(all_fields(got, "Tox-Mail-Id")), 1)
        self.assertEqual(len(all_fields(got, "Received")), 2)
        self.assertIn("(kept)", head)
        self.assertNotIn("(forged)", head)
        self.assertNotIn("forged@x", head)
        self.assertIsNone(header(got, "Status") or header(got, "X-UID"))

    def test_a_mail_loop_comes_back(self) -> None:
        loop = mail(self.new_id(), fields="Received: from a by b; x\n" * 51)
        notice = self.one_notice(self.alice, queue_id_of(self.alice.submit(ALICE, ["bob@tox.alt"], loop)))
        self.assertEqual(delivery_status(notice)["Status"], "5.4.6")

    def test_bodies_arrive_octet_for_octet(self) -> None:
        bodies = {
            "NUL": b"a\0b\n\0\n",
            "CR": b"a\rb\r\r\n\r\nline\r\r\n\r.\r\n",
            "8-bit": bytes(range(1, 256)) + b"\n",
            "dots": b".\n..\n.\r\n...x\n",
            "long line": b"y" * 200_000 + b"\n",
            "From": b"From x\n>From y\n",
            "blank lines": b"\n\n\n",
            "empty": b"",
            "random": random_body(300_000),
            "compresses": b"the same again\n" * 100_000,
        }
        for name, body in bodies.items():
            with self.subTest(body=name):
                sent = mail(self.new_id(), body)
                self.assertTrue(self.deliver(sent).endswith(b"\n" + sent), name)

    def test_a_last_line_without_its_end_gets_one(self) -> None:
        message_id = self.new_id()
        self.alice.submit(ALICE, ["bob@tox.alt"], mail(message_id, b"one\ntwo"))
        self.assertTrue(stored(self.bob.maildir, message_id).endswith(b"\n\none\ntwo\n"))

    def test_mail_is_nobody_elses(self) -> None:
        self.deliver(mail(message_id := self.new_id()))
        (path,) = find_in_maildir(self.bob.maildir, message_id)
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(path.parent.name, "new")
        self.assertEqual(list((self.bob.maildir / "tmp").iterdir()), [])

    # What comes back.

    def test_a_bounce(self) -> None:
        nobody = f"nobody@{self.bob.address.partition('@')[0]}.tox.alt"
        content = mail(message_id := self.new_id())
        with LmtpClient(self.alice.lmtp_socket) as client:
            (taken,) = client.send(
                ALICE, [nobody], content, mail=" RET=HDRS ENVID=QQ314159", rcpt=" ORCPT=rfc822;no+2Bbody@tox.example"
            )
            self.assertEqual(taken.code, 250)
            silent = [
                client.send(sender, [nobody], mail(self.new_id()), rcpt=wish)[0]
                for sender, wish in (("", ""), (ALICE, " NOTIFY=NEVER"), (ALICE, " NOTIFY=SUCCESS,DELAY"))
            ]
        notice = self.one_notice(self.alice, queue_id_of(taken.text))
        self.assertEqual(notice.get_content_type(), "multipart/report")
        self.assertEqual(notice.get_param("report-type"), "delivery-status")
        self.assertEqual((notice["Return-Path"], notice["To"]), ("<>", ALICE))
        self.assertEqual(notice["Auto-Submitted"], "auto-replied")
        self.assertEqual([part.defects for part in notice.walk()], [[]] * len(list(notice.walk())))
        fields = delivery_status(notice)
        self.assertEqual(fields["Status"], "5.1.1")
        self.assertEqual(fields["Action"], "failed")
        self.assertEqual(fields["Final-Recipient"], f"rfc822; {nobody}")
        self.assertEqual(fields["Original-Recipient"], "rfc822; no+body@tox.example")
        report = next(part for part in notice.walk() if part.get_content_type() == "message/delivery-status")
        envelope = cast(list[EmailMessage], report.get_payload())[0]
        self.assertEqual(envelope["Reporting-MTA"], "dns; alice.example")
        self.assertEqual(envelope["Original-Envelope-Id"], "QQ314159")
        original = next(part for part in notice.walk() if part.get_content_type() == "text/rfc822-headers")
        self.assertIn(f"Message-ID: {message_id}\n", original.get_content())
        self.assertIn(nobody, notice.get_body().get_content())  # type: ignore[union-attr]
        self.assert_bounced(silent)

    def assert_bounced(self, replies: Sequence[Any]) -> None:
        """Bounced without a notice, which would have come long before that of a mail sent afterwards."""
        for queue_id in (queue_id_of(reply.text) for reply in replies):
            wait_for("bounce", lambda queue_id=queue_id: re.search(rf"{queue_id}: to=.*status=bounced", self.alice.log))
        nobody = f"nobody@{self.bob.address.partition('@')[0]}.tox.alt"
        self.one_notice(self.alice, queue_id_of(self.alice.submit(ALICE, [nobody], mail(self.new_id()))))
        for reply in replies:
            self.assertEqual(notices(self.alice.maildir, queue_id_of(reply.text)), [])

    def test_a_bounce_of_odd_addresses(self) -> None:
        domain = f"{self.bob.address.partition('@')[0]}.tox.alt"
        for local, final in (
            ('"no body"', f'rfc822; "no body"@{domain}'),
            ('"a>b\\"<"', f'rfc822; "a>b\\"<"@{domain}'),
            ("jörg", f"utf-8; jörg@{domain}"),
        ):
            with self.subTest(local=local):
                sent = self.alice.submit("ålice@tox.example", [f"{local}@{domain}"], mail(self.new_id()))
                fields = delivery_status(self.one_notice(self.alice, queue_id_of(sent)))
                self.assertEqual((fields["Status"], fields["Final-Recipient"]), ("5.1.1", final))

    def test_a_mail_too_large_for_the_peer_comes_back(self) -> None:
        large = mail(self.new_id(), random_body(150 * KIB), sender=BOB)
        notice = self.one_notice(self.bob, queue_id_of(self.bob.submit(BOB, ["alice@tox.alt"], large)))
        self.assertEqual(delivery_status(notice)["Status"], "5.3.4")
        self.assertIn("102400", delivery_status(notice)["Diagnostic-Code"])

    def test_a_mail_too_large_for_the_agent_is_refused(self) -> None:
        with LmtpClient(self.alice.lmtp_socket) as client:
            begun, _ = client.envelope(ALICE, [], mail=f" SIZE={51 * MIB}")
            self.assertRegex(f"{begun.code} {begun.text}", r"^552 5\.3\.4 ")
        status, words = self.alice.transport(ALICE, ["bob@tox.alt"], mail(self.new_id(), b"z" * (51 * MIB)))
        self.assertEqual((status, words[:6]), (69, "5.3.4 "))

    def test_what_waits_too_long_comes_back(self) -> None:
        left = max(0.0, 60 + self.expiring_since - time.monotonic())
        notice = self.one_notice(self.erin, self.expiring[0], timeout=left + 60)
        self.assertGreaterEqual(time.monotonic() - self.expiring_since, 59)
        self.assertEqual(delivery_status(notice)["Status"], "5.4.7")
        self.assert_nothing_waits(self.erin)
        self.assertEqual(notices(self.erin.maildir, self.expiring[1]), [])
        self.assertEqual(len(list((self.erin.maildir / "new").iterdir())), 1)

    def test_the_disk_of_the_peer_is_full_for_a_while(self) -> None:
        # Also the moment to look how a stop and a start seem to the others.
        stopped = time.monotonic()
        self.assertEqual(self.bob.stop(), 0)
        self.assertLess(time.monotonic() - stopped, 5)
        wait_for("bob offline", lambda: not self.bob_at_alice()["online"], 30)
        self.assertLess(time.monotonic() - stopped, 5, "bob says goodbye")
        self.bob.configure({"delivery": {"min_free": "1024 TiB"}})
        self.bob.start()
        self.alice.wait_mail_link(self.bob)
        message_id = self.new_id()
        queue_id = queue_id_of(self.alice.submit(ALICE, ["bob@tox.alt"], mail(message_id)))

        def deferred() -> dict[str, Any] | None:
            entries = [entry for entry in self.alice.json("queue", "list") if entry["queue_id"] == queue_id]
            recipient = dict(entries[0]["recipients"][0])
            return recipient if recipient["status"] else None

        recipient = wait_for("temporary refusal", deferred)
        self.assertEqual((recipient["state"], recipient["status"]), ("queued", "4.3.1"))
        self.assertIn("disk is nearly full", recipient["text"])
        self.assertGreater(recipient["next_attempt"], time.time())
        self.assertIn("4.3.1 the recipient's disk is nearly full", self.alice.ctl("queue", "list"))
        # What bob sends has no place in his queue either.
        status, words = self.bob.transport(BOB, ["alice@tox.alt"], mail(self.new_id(), sender=BOB))
        self.assertEqual((status, words[:6]), (75, "4.3.1 "))

        self.bob.kill()
        self.bob.configure({})
        self.bob.start()
        self.alice.wait_mail_link(self.bob)
        self.assertEqual(self.alice.json("queue", "flush", queue_id)["recipients"], 1)
        stored(self.bob.maildir, message_id)
        with self.assertRaisesRegex(ToxctlError, "status 1: .*no mail with the queue id"):
            wait_for("delivery", lambda: self.alice.ctl("queue", "flush", queue_id) and None, 10)

    def bob_at_alice(self) -> dict[str, Any]:
        """bob as alice's agent shows him."""
        return next(dict(c) for c in self.alice.json("contact", "list") if c["nick"] == "bob")

    # Contacts.

    def test_contacts(self) -> None:
        one, two = any_tox_id(3), any_tox_id(4)
        added = self.alice.json("contact", "add", one, "--nick", "Carol")
        self.assertEqual((added["nick"], added["state"], added["online"]), ("carol", "pending", False))
        self.assertIn("carol", self.alice.ctl("contact", "list"))
        for nick in ("bob", "BOB", "carol"):
            with self.assertRaisesRegex(ToxctlError, "status 1: .*choose another name"):
                self.alice.ctl("contact", "add", two, "--nick", nick)
        self.assertIsNone(self.alice.contact(two[:64]))
        wrong = one[:-1] + ("0" if one[-1] != "0" else "1")
        with self.assertRaisesRegex(ToxctlError, "status 64: .*checksum"):
            self.alice.ctl("contact", "add", wrong)
        with self.assertRaisesRegex(ToxctlError, "status 1: .*own Tox ID"):
            self.alice.ctl("contact", "add", self.alice.tox_id)
        with self.assertRaisesRegex(ToxctlError, "status 1: .*cannot be a nickname"):
            self.alice.ctl("contact", "add", two, "--nick", "two words")
        # The same again gives it another name.
        self.assertEqual(self.alice.json("contact", "add", one, "--nick", "caro")["nick"], "caro")
        self.alice.submit(ALICE, ["caro@tox.alt"], mail(self.new_id()))
        self.assertEqual(self.alice.transport(ALICE, ["carol@tox.alt"], mail(self.new_id()))[0], 67)
        self.alice.ctl("contact", "remove", "caro")
        self.assertIsNone(self.alice.contact(one[:64]))
        status, words = self.alice.transport(ALICE, ["caro@tox.alt"], mail(self.new_id()))
        self.assertEqual((status, words[:6]), (67, "5.1.1 "))
        with self.assertRaisesRegex(ToxctlError, "status 1: .*no contact `caro`"):
            self.alice.ctl("contact", "remove", "caro")

    def test_a_refused_request_stays_refused_until_it_is_accepted(self) -> None:
        wait_for("request that comes again", lambda: self.gina.log.count("friend request from") >= 2, 90)
        (request,) = self.gina.json("request", "list")
        self.assertEqual((request["key"], request["message"], request["refused"]), (self.alice.key, "Hello Gina", True))
        self.assertEqual(self.gina.account()["requests"], 0)
        self.gina.ctl("request", "accept", self.alice.key, "--nick", "alice")
        self.assertEqual(self.gina.json("request", "list"), [])
        self.alice.wait_mail_link(self.gina)
        self.alice.submit(ALICE, ["gina@tox.alt"], mail(message_id := self.new_id()))
        stored(self.gina.maildir, message_id)

    def test_who_comes_online_late_is_asked_within_seconds(self) -> None:
        asked = time.monotonic() - self.late_asked
        if asked < 60:
            time.sleep(60 - asked)
        self.late.start()
        self.late.wait_online()
        online = time.monotonic()
        self.late.wait_request(self.alice.key)
        self.assertLess(time.monotonic() - online, 45, "the agent asks every 20 s")
        self.late.ctl("request", "accept", self.alice.key)
        self.alice.wait_mail_link(self.late)
        # What waited for him is his now, once each.
        self.alice.submit(ALICE, ["läte@tox.alt"], mail(message_id := self.new_id()))
        stored(self.late.maildir, message_id)
        peer = self.late.key

        def nothing_waits() -> bool:
            mails = self.alice.json("queue", "list")
            return all(recipient["peer"] != peer for each in mails for recipient in each["recipients"])

        wait_for("nothing for late in alice's queue", nothing_waits)
        received = [header(path.read_bytes(), "Message-ID") for path in (self.late.maildir / "new").iterdir()]
        self.assertEqual(len(received), len(set(received)))

    # Large mail, memory.

    def test_a_small_mail_overtakes_a_large_one(self) -> None:
        bulk = mail(bulk_id := self.new_id(), random_body(25 * MIB))
        small = mail(small_id := self.new_id())
        with LmtpClient(self.alice.lmtp_socket) as first, LmtpClient(self.alice.lmtp_socket) as second:
            second.envelope(ALICE, ["bob@tox.alt"])
            (taken,) = first.send(ALICE, ["bob@tox.alt"], bulk)
            (answer,) = second.data(small)
        submitted = time.time_ns()
        self.assertEqual((taken.code, answer.code), (250, 250))
        for message_id in (small_id, bulk_id):
            stored(self.bob.maildir, message_id)
        times = [find_in_maildir(self.bob.maildir, i)[0].stat().st_ctime_ns for i in (small_id, bulk_id)]
        self.assertLess(submitted, times[1], "the large mail was still under way")
        self.assertLess(times[0], times[1])

    def test_memory(self) -> None:
        idle = memory(self.erin, "VmRSS")
        self.assertLessEqual(idle, 25 * MIB, f"an idle agent takes {idle / MIB:.1f} MiB")
        content = mail(message_id := self.new_id(), random_body(50_000_000))
        before = {}
        for agent in (self.alice, self.bob):
            Path(f"/proc/{agent.pid}/clear_refs").write_text("5")  # the peak begins anew
            before[agent.name] = memory(agent, "VmRSS")
        self.assertEqual(self.deliver(content)[-len(content) :], content)
        for agent in (self.alice, self.bob):
            with self.subTest(agent=agent.name):
                grown = memory(agent, "VmHWM") - before[agent.name]
                self.assertLessEqual(grown, 40 * MIB, f"{agent.name} grew by {grown / MIB:.1f} MiB")


class AccountsTest(NetworkCase):
    """Two accounts in one agent, one of them with a further mailbox; they are contacts of each other."""

    duo: ClassVar[Agent]
    keys: ClassVar[dict[str, str]]
    maildirs: ClassVar[dict[str, Path]]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        folder = cls.box.path / "duo-agent"
        cls.maildirs = {name: folder / f"Maildir-{name}" for name in ("work", "carol")} | {"duo": folder / "Maildir"}
        cls.duo = cls.agent(
            "duo",
            ports=free_udp_ports(2),
            # One port for two instances: the agent must still start.
            settings={"tox": {"tcp_relay_port": free_port()}},
            extra_config=f"""
[[account.mailbox]]
name = "work"
addresses = ["duo.work@tox.example"]
maildir = "{cls.maildirs["work"]}"

[[account]]
name = "carol"
addresses = ["carol@tox.example"]
maildir = "{cls.maildirs["carol"]}"
""",
        )
        accounts = cls.duo.json("status")["accounts"]
        cls.keys = {account["name"]: account["address"].partition("@")[0] for account in accounts}
        ids = {account["name"]: account["tox_id"] for account in accounts}
        cls.duo.ctl("--account", "duo", "contact", "add", ids["carol"], "--nick", "carol")
        cls.duo.wait_request(ids["duo"][:64])
        cls.duo.ctl("request", "accept", ids["duo"][:64], "--nick", "duo")
        wait_for(
            "mail link between the accounts",
            lambda: all(contact["mail"] for contact in cls.duo.json("contact", "list")),
            120,
        )

    def check(self, sender: str, recipient: str, maildir: str, account: str) -> bytes:
        """A mail takes its way and is in that mailbox only."""
        message_id = f"<{recipient}@duo.example>"
        self.duo.submit(sender, [recipient], mail(message_id, sender=sender))
        got = stored(self.maildirs[maildir], message_id)
        for other in self.maildirs.keys() - {maildir}:
            self.assertEqual(find_in_maildir(self.maildirs[other], message_id), [], other)
        self.assertIn(f"(tox {self.key(account)})", header(got, "Received") or "")
        return got

    def key(self, account: str) -> str:
        """An account's key."""
        accounts = self.duo.json("status")["accounts"]
        return next(str(a["tox_id"])[:64] for a in accounts if a["name"] == account)

    def test_from_one_account_to_the_other_and_back(self) -> None:
        self.check("duo@duo.example", "carol@tox.alt", "carol", "duo")
        got = self.check("carol@tox.example", "duo@tox.alt", "duo", "carol")
        self.assertEqual(header(got, "Return-Path"), "<carol@tox.example>")

    def test_mailboxes(self) -> None:
        got = self.check("carol@tox.example", f"WORK@{self.keys['duo']}.tox.alt", "work", "carol")
        self.assertEqual(header(got, "Delivered-To"), f"WORK@{self.keys['duo']}.tox.alt")
        self.check("carol@tox.example", f"duo@{self.keys['duo']}.tox.alt", "duo", "carol")
        # An address of the further mailbox is a sender of the account.
        self.check("duo.work@tox.example", f"{self.keys['carol']}@tox.alt", "carol", "duo")

    def test_one_mail_for_both_mailboxes(self) -> None:
        both = ["duo@tox.alt", f"work@{self.keys['duo']}.tox.alt"]
        self.duo.submit("carol@tox.example", both, mail("<both@duo.example>"))
        for name, told in (("duo", f"{self.keys['duo']}@tox.alt"), ("work", both[1])):
            self.assertEqual(header(stored(self.maildirs[name], "<both@duo.example>"), "Delivered-To"), told)
            self.assertEqual(len(find_in_maildir(self.maildirs[name], "<both@duo.example>")), 1)

    def test_contacts_belong_to_an_account(self) -> None:
        status, words = self.duo.transport("carol@tox.example", ["carol@tox.alt"], mail("<own@duo.example>"))
        self.assertEqual((status, words[:6]), (67, "5.1.1 "))
        with self.assertRaisesRegex(ToxctlError, "status 1: .*--account"):
            self.duo.ctl("contact", "add", any_tox_id(5))
        self.assertEqual(len(self.duo.json("--account", "carol", "contact", "list")), 1)
        with self.assertRaisesRegex(ToxctlError, "status 1: .*no account `nix`"):
            self.duo.ctl("--account", "nix", "contact", "list")


class RoutesTest(NetworkCase):
    """tina and tom use TCP relays only, sam goes through a proxy."""

    tina: ClassVar[Agent]
    tom: ClassVar[Agent]
    sam: ClassVar[Agent]
    proxy: ClassVar[SocksServer]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.proxy = SocksServer(cls.box)
        tcp = {"tox": {"udp": False}}
        cls.tina, cls.tom = cls.agent("tina", settings=tcp), cls.agent("tom", settings=tcp)
        cls.sam = cls.agent("sam", settings={"tox": {"udp": False, "proxy": f"socks5://{HOST}:{cls.proxy.port}"}})
        at_once(partial(befriend, cls.tom, cls.tina), partial(befriend, cls.sam, cls.tina))

    def check(self, one: Agent, other: Agent) -> None:
        """A small and a large mail arrive."""
        for size in (4 * KIB, MIB):
            with self.subTest(size=size):
                sender, message_id = f"{one.name}@{one.name}.example", f"<{size}@{one.name}.example>"
                content = mail(message_id, random_body(size), sender=sender)
                one.submit(sender, [f"{other.name}@tox.alt"], content)
                self.assertTrue(stored(other.maildir, message_id, timeout=120).endswith(content))

    def test_by_tcp_relay_only(self) -> None:
        self.assertEqual([agent.account()["connection"] for agent in (self.tina, self.tom)], ["tcp", "tcp"])
        self.check(self.tina, self.tom)
        self.check(self.tom, self.tina)
        self.assertEqual(udp_sockets(self.tina.pid), [])

    def test_all_at_once_over_one_relay(self) -> None:
        began = time.monotonic()
        jobs = []
        for one, others in ((self.tina, (self.tom, self.sam)), (self.tom, (self.tina,)), (self.sam, (self.tina,))):
            sender, message_id = f"{one.name}@{one.name}.example", f"<all@{one.name}.example>"
            content = mail(message_id, random_body(4 * MIB), sender=sender)
            one.submit(sender, [f"{other.name}@tox.alt" for other in others], content)
            jobs += [partial(stored, other.maildir, message_id, 120) for other in others]
        at_once(*jobs)
        # A connection that the relay has choked on is given up after half a minute.
        self.assertLess(time.monotonic() - began, 25)

    def test_by_proxy(self) -> None:
        self.assertEqual(self.sam.account()["connection"], "tcp")
        self.check(self.sam, self.tina)
        self.assertEqual(udp_sockets(self.sam.pid), [])
        self.assertIn((HOST, self.bootstrap.tcp_port), self.proxy.targets)
        # Past the proxy goes nothing: it is the only one whom the agent is connected to.
        listed = self.box.run(["ss", "-Htnp"]).stdout.decode().splitlines()
        peers = {line.split()[4] for line in listed if f"pid={self.sam.pid}," in line}
        self.assertEqual(peers, {f"{HOST}:{self.proxy.port}"})


class ProcessTest(NetworkCase):
    """The agent as a process: sockets, secrets, start and stop."""

    def test_sockets_and_their_users(self) -> None:
        users = {"allow_users": ["root", 12345]}
        agent = self.agent("users", settings={"lmtp": users | {"mode": "0666"}, "control": users | {"mode": "0666"}})
        for path in (agent.lmtp_socket, agent.control_socket):
            self.assertEqual(path.stat().st_mode & 0o777, 0o666)
        status, words = agent.transport("users@tox.example", ["x@tox.alt"], mail("<1@x>"), user=STRANGER)
        self.assertEqual(status, 77, words)
        self.assertRegex(words, rf"^5\.7\.1 .*{STRANGER}.*allow_users")
        status, words = agent.transport("users@tox.example", ["x@tox.alt"], mail("<1@x>"))
        self.assertEqual((status, words[:6]), (67, "5.1.1 "))
        toxctl = [self.binaries / "toxctl", "--socket", agent.control_socket, "status"]
        refused = self.box.run(as_user(STRANGER, *toxctl), check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn(b"allow_users", refused.stderr)
        self.assertEqual(self.box.run(toxctl).returncode, 0)
        # The file mode keeps others out before the agent is asked.
        agent.stop()
        agent.configure({"lmtp": {"mode": "0600"}, "control": {"mode": "0600"}})
        agent.start()
        for path in (agent.lmtp_socket, agent.control_socket):
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        status, words = agent.transport("users@tox.example", ["x@tox.alt"], mail("<1@x>"), user=STRANGER)
        self.assertEqual((status, words[:2]), (75, "4."), words)
        self.assertEqual(self.box.run(as_user(STRANGER, *toxctl), check=False).returncode, 69)

    def run_agent(self, agent: Agent) -> tuple[int, str]:
        """Start an agent that is to end by itself; its exit status and words."""
        command = as_user(UNPRIVILEGED, self.binaries / "tox-agent", "--config", agent.config)
        done = self.box.run(command, check=False)
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")

    def test_only_one_agent_in_a_folder(self) -> None:
        agent = self.agent("single")
        status, words = self.run_agent(agent)
        self.assertEqual(status, 1)
        self.assertIn(f"another tox-agent works in {agent.state}", words)
        agent.ctl("status")
        other = self.agent("other", start=False, settings={"lmtp": {"socket": str(agent.lmtp_socket)}})
        status, words = self.run_agent(other)
        self.assertEqual(status, 1)
        self.assertRegex(words, rf"lmtp socket {agent.lmtp_socket}.*in use")
        self.assertEqual(agent.transport("single@tox.example", ["x@tox.alt"], mail("<1@x>"))[0], 67)

    def test_a_wrong_configuration(self) -> None:
        agent = self.agent("wrong", start=False)
        good = agent.config.read_text()
        check = [self.binaries / "toxctl", "check", "--config", agent.config]
        done = self.box.run(check)
        self.assertIn(f"{agent.config}: OK", done.stdout.decode())
        for wrong, line, words in (
            ("[queue]\nexpires = \"5d\"\n", 2, "did you mean `expire`"),
            ("[tox]\nproxy = \"socks5://127.0.0.1:9050\"\nudp = true\n", 3, "tox.udp must be false"),
            ("[lmtp]\nmax_size = \"50 MiBs\"\n", 2, "lmtp.max_size"),
            ("[[[\n", 1, ""),
        ):
            with self.subTest(wrong=wrong):
                text = wrong + f"[[account]]\nname = \"x\"\nmaildir = \"{agent.maildir}\"\n"
                agent.config.write_text(text)
                status, said = self.run_agent(agent)
                self.assertEqual(status, 78)
                self.assertRegex(said, rf"{agent.config}:{line}: .*{words}")
                done = self.box.run(check, check=False)
                self.assertEqual(done.returncode, 78)
                self.assertRegex(done.stderr.decode(), rf"^{agent.config}:{line}: .*{words}")
        agent.config.unlink()
        status, said = self.run_agent(agent)
        self.assertEqual(status, 78)
        self.assertIn(str(agent.config), said)
        agent.config.write_text(good)
        agent.start()

    def test_stop_and_kill(self) -> None:
        agent = self.agent("process")
        agent.ctl("contact", "add", any_tox_id(6), "--nick", "nobody")
        tox_id = agent.tox_id
        told = agent.submit("process@tox.example", ["nobody@tox.alt"], mail("<waits@process.example>"))
        before = time.monotonic()
        with LmtpClient(agent.lmtp_socket) as idle:
            self.assertEqual(agent.stop(), 0)
            self.assertEqual(idle.reply().code, 421)
        self.assertLess(time.monotonic() - before, 5)
        self.assertFalse(agent.lmtp_socket.exists() or agent.control_socket.exists())
        agent.start()
        agent.kill()
        self.assertTrue(agent.lmtp_socket.exists() and agent.control_socket.exists(), "left behind")
        agent.start()
        self.assertEqual(agent.tox_id, tox_id)
        (waiting,) = agent.json("queue", "list")
        self.assertEqual(waiting["queue_id"], queue_id_of(told))
        self.assertEqual(agent.json("contact", "list")[0]["nick"], "nobody")

    def test_secrets(self) -> None:
        plain = self.agent("plain")
        plain_file = plain.state / "identities" / "plain.tox"
        secret = self.box.path / "passphrase"
        secret.write_text("correct horse\n")
        secret.chmod(0o600)
        os.chown(secret, plain.state.stat().st_uid, plain.state.stat().st_gid)
        config = f'passphrase_file = "{secret}"\n'
        crypt = self.agent("crypt", extra_config=config)
        crypt_file = crypt.state / "identities" / "crypt.tox"
        for path in (plain_file, crypt_file):
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
            self.assertEqual(path.parent.stat().st_mode & 0o777, 0o700)
        # The key is in the plain file as it is; so is the magic number of toxcore's files.
        self.assertIn(bytes.fromhex(plain.key), plain_file.read_bytes())
        tox_id = crypt.tox_id
        for _ in range(2):
            data = crypt_file.read_bytes()
            self.assertTrue(data.startswith(b"toxEsave"))
            self.assertNotIn(bytes.fromhex(tox_id[:64]), data)
            self.assertEqual(crypt.stop(), 0)
            crypt.start()
            self.assertEqual(crypt.tox_id, tox_id)
        crypt.stop()
        data = crypt_file.read_bytes()
        secret.write_text("wrong horse\n")
        self.assert_fails(crypt, "the passphrase is wrong or the file damaged")
        secret.write_text("correct horse\n")
        secret.chmod(0o644)
        self.assert_fails(crypt, "others may read the passphrase .*chmod 600")
        secret.chmod(0o600)
        secret.unlink()
        self.assert_fails(crypt, "cannot read the passphrase")
        self.assertEqual(crypt_file.read_bytes(), data)
        # One that was in the clear is encrypted as soon as there is a passphrase.
        secret.write_text("new")
        secret.chmod(0o600)
        os.chown(secret, plain.state.stat().st_uid, plain.state.stat().st_gid)
        tox_id = plain.tox_id
        plain.stop()
        plain.config.write_text(plain.config.read_text() + config)
        plain.start()
        self.assertTrue(plain_file.read_bytes().startswith(b"toxEsave"))
        self.assertEqual(plain.tox_id, tox_id)
        plain.stop()
        plain_file.chmod(0o640)
        self.assert_fails(plain, f"others may read the secret key .*chmod 600 {plain_file}")

    def assert_fails(self, agent: Agent, words: str) -> None:
        """It does not start, and says why."""
        status, said = self.run_agent(agent)
        self.assertNotIn(status, (0, 75))
        self.assertRegex(said, words)


if __name__ == "__main__":
    unittest.main()
