"""Contacts that are ordinary chat clients, or break the protocol, and strangers: none of them disturbs the others.

python3 -m unittest discover -s tests/e2e -p test_bad_contact.py      # TOXMAIL_BIN=DIR for programs elsewhere
"""

import os
import random
import unittest
from functools import partial
from pathlib import Path
from typing import ClassVar

from rig.agent import Agent, befriend, install_programs
from rig.bootstrap import Bootstrap
from rig.case import SandboxCase
from rig.mail import find_in_maildir, sample_mail
from rig.tox import ToxClient
from rig.wait import wait_for

BIN = Path(os.environ.get("TOXMAIL_BIN", Path(__file__).resolve().parents[2] / "target/release"))
ALICE = "alice@alice.example"

HELLO = b"\xb7toxmail"
SESSION = b"evil-one"
# How CLOSE begins, the OFFER of a mail of five octets, and what each bad contact says once its link is up.
CLOSE = b"\x82\x09"
OFFER = b"\x8a\x01\x01" + b"\x50" + bytes(16) + b"\x05\x05" + b"\x58\x20" + bytes(32) + b"\x00\x60\x01\x18\x3c"
EVIL = {
    "garbage": [b"\xff\x00 no CBOR at all"],
    "truncated": [OFFER[:30]],
    "oversized": [b"\x84\x04\x01\x00\x5b\xff\xff\xff\xff\xff\xff\xff\xff" + b"x" * 1300],
    "endless": [b"\x9f" * 1300],
    "unoffered": [b"\x84\x04\x07\x00\x41x"],
    "reused": [OFFER, OFFER],
    "ahead": [b"\x82\x00\x19\xff\xff"],
    "huge": [b"\x8a" + b"\x01" + b"\x1b" + b"\xff" * 8],
}


def hello(heard: bytes) -> bytes:
    """The greeting of an agent that has heard the other one's session."""
    fields = [b"\x01\x81\x01", b"\x02\x48" + SESSION, b"\x03\x48" + heard, b"\x04\x64evil", b"\x05\x19\xff\xff"]
    return HELLO + b"\xa7" + b"".join([*fields, b"\x06\x18\xff", b"\x07\x1a\x00\x40\x00\x00"])


def greet(client: ToxClient, packet: bytes) -> None:
    """Answer the agent's greeting, `{1: [1], 2: session, …}`."""
    if packet.startswith(HELLO):
        client.send_packet(hello(packet.partition(b"\x01\x81\x01\x02\x48")[2][:8]))


class BadContactTest(SandboxCase):
    """bob has alice, who is good, and contacts played by this test."""

    alice: ClassVar[Agent]
    bob: ClassVar[Agent]
    chat: ClassVar[ToxClient]
    stranger: ClassVar[ToxClient]
    evil: ClassVar[dict[str, ToxClient]]
    sent: int = 0

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        bootstrap = Bootstrap(cls.box)
        binaries = install_programs(cls.box, BIN)
        cls.alice, cls.bob = (
            Agent(
                cls.box,
                name,
                binaries=binaries,
                bootstrap=bootstrap,
                addresses=[f"{name}@tox.example"],
                senders=[f"{name}@{name}.example"],
            )
            for name in ("alice", "bob")
        )
        cls.chat, cls.stranger = ToxClient(cls.box, bootstrap), ToxClient(cls.box, bootstrap)
        cls.evil = {name: ToxClient(cls.box, bootstrap) for name in EVIL}
        for client in cls.evil.values():
            client.on_packet = partial(greet, client)
        contacts = {"chat": cls.chat, **cls.evil}
        bob_id = cls.bob.tox_id
        for client in contacts.values():
            client.ask(bob_id)
        cls.stranger.ask(bob_id, b"let me in")
        befriend(cls.alice, cls.bob)
        for name, client in contacts.items():
            cls.bob.wait_request(client.key)
            cls.bob.ctl("request", "accept", client.key, "--nick", name)
        for name, client in contacts.items():
            wait_for(f"connection with {name}", lambda client=client: client.online, 120)

    def mail_flows(self) -> None:
        """A mail from alice arrives."""
        type(self).sent += 1
        message_id = f"<{self.sent}@alice.example>"
        content = sample_mail(sender=ALICE, to="bob@tox.alt", subject="x", text="x\n", message_id=message_id)
        self.alice.submit(ALICE, ["bob@tox.alt"], content)
        wait_for(message_id, lambda: find_in_maildir(self.bob.maildir, message_id) or None)
        self.bob.require_alive()
        self.assertEqual(len(list((self.bob.maildir / "new").iterdir())), self.sent, "nothing but alice's mail")

    def is_cut_off(self, client: ToxClient, packets: list[bytes]) -> bool:
        """Says the packets, unless bob has closed the link. What comes while sessions change is not heard."""
        if any(CLOSE in message for message in client.messages):
            return True
        for packet in packets:
            client.say(packet)
        return False

    def has_link(self, client: ToxClient) -> bool:
        contact = self.bob.contact(client.key)
        return contact is not None and bool(contact["mail"])

    def log_lines(self, name: str) -> list[str]:
        """What bob's agent wrote about what a contact did, beyond that it is there."""
        about = (f"contact {name}: ", f"with {name} ", f"to=<{name}@")
        return [line for line in self.bob.log.splitlines() if any(words in line for words in about)]

    def test_a_chat_client_is_no_agent(self) -> None:
        self.bob.submit("bob@bob.example", ["chat@tox.alt"], b"Subject: x\n\nfor an agent\n")
        self.assertTrue(wait_for("greeting", lambda: any(p.startswith(HELLO) for p in self.chat.packets)))
        for _ in range(50):
            self.assertTrue(self.chat.say(b"hi"))
        self.assertTrue(self.chat.send_packet(b"\xa0a game of chess"))
        self.assertTrue(self.chat.say(OFFER))
        self.mail_flows()
        self.assertFalse(self.has_link(self.chat))
        self.assertLessEqual(len(self.log_lines("chat")), 1, self.log_lines("chat"))
        self.assertEqual(self.chat.messages, [], "nobody is chatted with")
        (waiting,) = self.bob.json("queue", "list")
        self.assertEqual([(r["state"], r["attempts"]) for r in waiting["recipients"]], [("queued", 0)])

    def test_who_breaks_the_rules_is_cut_off(self) -> None:
        chance = random.Random(1)
        for name, client in self.evil.items():
            with self.subTest(how=name):
                wait_for(f"link with {name}", lambda client=client: self.has_link(client), 120)
                wait_for("CLOSE", partial(self.is_cut_off, client, EVIL[name]), interval=0.5)
                wait_for("end of the link", lambda client=client: not self.has_link(client))
        self.mail_flows()
        # They go on as if nothing had happened; with greetings, right and wrong, too.
        for _ in range(300):
            for client in self.evil.values():
                client.say(chance.randbytes(chance.randrange(1, 1372)))
                client.send_packet(bytes([chance.randrange(160, 192)]) + chance.randbytes(chance.randrange(1372)))
                client.send_packet(HELLO + chance.randbytes(20))
        for client in self.evil.values():
            client.send_packet(hello(bytes(8)))
        for _ in range(3):
            self.mail_flows()
        for name, client in self.evil.items():
            with self.subTest(how=name):
                self.assertFalse(self.has_link(client))
                broke = [line for line in self.log_lines(name) if "broke the protocol" in line]
                self.assertEqual(len(broke), 1, broke)
        self.assertNotIn("panicked", self.bob.log)

    def test_a_stranger_delivers_nothing(self) -> None:
        request = self.bob.wait_request(self.stranger.key)
        self.assertEqual(request["message"], "let me in")
        self.mail_flows()
        self.assertFalse(self.stranger.online)
        self.assertFalse(self.stranger.say(OFFER) or self.stranger.send_packet(hello(bytes(8))))
        self.bob.ctl("request", "refuse", self.stranger.key)
        self.mail_flows()
        self.assertFalse(self.stranger.online)
        self.assertEqual(self.stranger.packets + self.stranger.messages, [])

    def test_who_is_removed_is_a_stranger(self) -> None:
        # Sorted last: nobody else needs the chat client any more.
        self.bob.ctl("contact", "remove", "chat")
        wait_for("end of the connection", lambda: not self.chat.online, 60)
        self.assertFalse(self.chat.say(b"hi"))
        self.mail_flows()


if __name__ == "__main__":
    unittest.main()
