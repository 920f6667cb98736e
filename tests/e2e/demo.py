#!/usr/bin/env python3
"""The demo: people with a private Postfix and a tox-agent each send each other mail over a private Tox network.

Exits with 0 and the last line `demo: 6 of 6 mails delivered` only if all mails came through, once each and byte for
byte.
"""

import argparse
import base64
import email
import email.policy
import hashlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rig.agent import PROGRAMS, Agent, befriend, install_programs, queue_id_of
from rig.bootstrap import Bootstrap
from rig.dovecot import Dovecot
from rig.mail import compare, find_in_maildir, header, sample_mail
from rig.mutt import Mutt
from rig.named import Named
from rig.net import HOST, free_udp_ports
from rig.postfix import Postfix
from rig.relay import CLASSES, PORTS, SOON, Relay, wait_at_relays, wait_lane
from rig.sandbox import RigError, Sandbox
from rig.wait import wait_for

ALICE = "alice@alice.example"
BOB = "bob@bob.example"
BOB_AT_TOX = "bob@tox.alt"  # the name alice gave to her contact

# Somebody alice has never met; her address leads to her by the DNS.
CAROL = "carol@example.test"

MAILS = 6
MIB = 1024 * 1024

_start = time.monotonic()


def say(text: str) -> None:
    """Show a step with the time since the start."""
    print(f"[{time.monotonic() - _start:6.2f} s] {text}", flush=True)


@dataclass
class Person:
    """One side: an agent, its Postfix, and the mail program of the user."""

    agent: Agent
    postfix: Postfix
    mutt: Mutt

    def has_empty_queues(self) -> bool:
        """Whether nothing waits, neither in Postfix nor in the agent."""
        return self.agent.queued() == 0 and not self.postfix.queue()


class Demo:
    """The story, step by step; `delivered` counts the mails that arrived intact."""

    def __init__(self, sandbox: Sandbox, binaries: Path) -> None:
        self._sandbox = sandbox
        self._binaries = binaries
        self.delivered = 0

    def run(self) -> None:
        """All of it."""
        self._set_up()
        self._meet()
        self._text()
        self._large()
        self._while_stopped()
        self._reply()
        self._by_name()
        self._never_together()
        self._nothing_left()

    def _set_up(self) -> None:
        bootstrap = Bootstrap(self._sandbox)
        say(f"Tox bootstrap node at {bootstrap.host}:{bootstrap.port}, key {bootstrap.key[:8]}…")
        binaries = install_programs(self._sandbox, self._binaries)
        self.named = Named(self._sandbox)
        say(f"a signed DNS root and its zone example.test, at {HOST}:{self.named.port}")
        names = {"resolver": [f"{HOST}:{self.named.port}"], "trust_anchor": str(self.named.anchor)}

        def person(name: str, sender: str, route: str) -> Person:
            agent = Agent(
                self._sandbox,
                name,
                binaries=binaries,
                bootstrap=bootstrap,
                addresses=[f"{name}@example.test"],
                senders=[sender],
                settings={"names": names, **SOON},
                ports=free_udp_ports(PORTS),
            )
            say(f"{name}: tox-agent runs, Tox ID {agent.tox_id[:8]}…")
            postfix = Postfix(
                self._sandbox,
                f"{name}-postfix",
                domain=sender.partition("@")[2],
                route="pipe" if route == "pipe" else "lmtp",
                lmtp_socket=agent.lmtp_socket,
                program=binaries / "tox-transport",
                domains=["example.test"],
            )
            say(f"{name}: Postfix runs, SMTP at 127.0.0.1:{postfix.port}, mail for tox.alt goes by {route}")
            mutt = Mutt(self._sandbox, f"{name}-mutt", sender=sender, sendmail=postfix.sendmail_command)
            return Person(agent, postfix, mutt)

        # One route each, so that the demo shows both.
        self.alice = person("alice", ALICE, "lmtp")
        self.bob = person("bob", BOB, "pipe")
        self.carol = Agent(
            self._sandbox,
            "carol",
            binaries=binaries,
            bootstrap=bootstrap,
            addresses=[CAROL],
            senders=["carol@carol.example"],
            settings={"names": names},
        )
        say(f"carol: tox-agent runs, Tox ID {self.carol.tox_id[:8]}…")
        self.relays = [
            Relay(self._sandbox, f"relay-{number}", binaries=binaries, bootstrap=bootstrap) for number in (1, 2, 3)
        ]
        say(f"{len(self.relays)} relays run, each an agent of its own")

    def _meet(self) -> None:
        for agent in (self.alice.agent, self.bob.agent):
            say(f"{agent.name}: connected to the Tox network by {agent.wait_online()}")
        say("alice: toxctl contact add, bob: toxctl request accept")
        befriend(self.alice.agent, self.bob.agent, "Hello Bob, it is Alice")
        say("alice and bob are contacts, the mail link is up")
        for relay in self.relays:
            self.bob.agent.ctl("relay", "use", relay.invite())
        say("bob: toxctl relay use: mail for him may wait at three relays, of which he tells alice over the link")
        self.dovecot = Dovecot(
            self._sandbox,
            {agent.name: agent.maildir for agent in (self.alice.agent, self.bob.agent, self.carol)},
            name="dovecot",
        )
        say(f"Dovecot serves the Maildirs, IMAP at 127.0.0.1:{self.dovecot.port}")

    def _text(self) -> None:
        message_id = "<demo.1@alice.example>"
        text = "Hello Bob,\n\n.\n..two dots\nFrom here on: Grüße, trailing blanks  \n" + "a long line " * 200 + "\n"
        sent = self._compose("a text mail", text, message_id)
        self._send(1, "a text mail", sent)
        self._arrived(1, self.bob.agent, sent)
        printed = self.bob.mutt.print_message(self.bob.agent.maildir, message_id)
        require("Grüße" in printed, f"mutt shows the text of the mail, not:\n{printed}")
        say("1: bob reads it with mutt")
        self._done(1)

    def _large(self) -> None:
        message_id = "<demo.2@alice.example>"
        # Base64 in lines of 76 characters: this much becomes a mail just above 5 MiB.
        size = 5 * MIB * 3 // 4 * 76 // 77
        sent = self._compose("5 MiB with an attachment", "See the attachment.\n", message_id, attachment_size=size)
        self._send(2, f"{len(sent) / MIB:.2f} MiB with an attachment", sent)
        stored = self._arrived(2, self.bob.agent, sent)
        digests = [attachment_digest(mail) for mail in (sent, stored)]
        require(digests[0] == digests[1], "the attachment is the same")
        say(f"2: the attachment's SHA-256 is {digests[0][:16]}… on both sides")
        copy = self.bob.mutt.copy_message(self.bob.agent.maildir, message_id)
        require(compare(sent, copy).intact, f"mutt copies the mail as it is: {compare(sent, copy)}")
        say("2: bob copies it with mutt, unchanged")
        self._done(2)

    def _while_stopped(self) -> None:
        message_id = "<demo.3@alice.example>"
        status = self.bob.agent.stop()
        require(status == 0, f"bob's agent ends with status 0, not {status}")
        say("3: bob's agent is stopped")
        sent = self._compose("sent while you were away", "Until later.\n", message_id)
        self._send(3, "a mail for bob, who is away", sent)
        queued = wait_for("mail in alice's agent's queue", self.alice.agent.queued)
        say(f"3: alice's agent has it, {queued} mail in its queue")
        require(not find_in_maildir(self.bob.agent.maildir, message_id), "nothing arrives while bob's agent is stopped")
        self.bob.agent.start()
        say("3: bob's agent is started again")
        self._arrived(3, self.bob.agent, sent, timeout=240)
        self._done(3)

    def _reply(self) -> None:
        sent = self.bob.mutt.reply(self.bob.agent.maildir, "<demo.1@alice.example>", "Thank you, Alice.\n")
        to = header(sent, "To") or ""
        say(f"4: bob replies with mutt, which takes the address from the mail: {to}")
        address = f"{base64.b32encode(bytes.fromhex(self.alice.agent.key)).decode().lower().rstrip('=')}@tox.alt"
        require(address in to, f"the reply goes to {address}, not to {to}")
        require(header(sent, "In-Reply-To") == "<demo.1@alice.example>", "the reply refers to the mail")
        self._taken(4, self.bob.postfix, sent, address)
        self._arrived(4, self.alice.agent, sent)
        self._done(4)

    def _by_name(self) -> None:
        self.named.publish("example.test", "carol._tox", f"v=tox1;id={self.carol.tox_id}")
        records = self.carol.json("name", "record")
        require(records[0]["correct"], f"carol's agent finds its own record: {records}")
        say(f"5: carol publishes {CAROL} in the DNS: {records[0]['text']}")
        sent = self._compose("to somebody new", "We have not met.\n", "<demo.5@alice.example>", to=CAROL)
        self._send(5, f"a mail to {CAROL}, of whom nothing is known here,", sent, CAROL)
        request = self.carol.wait_request(self.alice.agent.key)
        name = next(name for name in self.alice.agent.json("name", "list") if name["address"] == CAROL)
        require((name["state"], name["proof"]) == ("pinned", "secure"), f"the name is proved and pinned: {name}")
        require(str(name["key"]) == self.carol.key, "the name leads to carol's key")
        say(f"5: {CAROL} leads to carol's key, proved by DNSSEC; her agent has a friend request: {request['message']!r}")
        require(not find_in_maildir(self.carol.maildir, message_id_of(sent)), "no mail before carol has accepted")
        self.carol.ctl("request", "accept", self.alice.agent.key, "--nick", "alice")
        say("5: carol accepts")
        self._arrived(5, self.carol, sent)
        self._done(5)

    def _never_together(self) -> None:
        alice, bob = self.alice.agent, self.bob.agent
        wait_lane(alice, bob, [relay.relay_key for relay in self.relays])
        require(bob.stop() == 0, "bob's agent ends with status 0")
        say("6: bob's agent is stopped")
        sent = self._compose("never together", "Will you be there when I am not?\n", "<demo.6@alice.example>")
        told = self._send(6, "a mail for bob, who is away,", sent)
        wait_at_relays(alice, queue_id_of(told), len(self.relays))
        say(f"6: {next(line.strip() for line in alice.ctl('queue', 'list').splitlines() if 'relays' in line)}")
        sizes = sorted({path.stat().st_size for relay in self.relays for path in relay.contents()})
        require(set(sizes) <= set(CLASSES), f"relays hold contents of a few sizes, not {sizes}")
        require(alice.stop() == 0, "alice's agent ends with status 0")
        say(f"6: alice's agent is stopped, too; what is left is sealed, at relays, {sizes} bytes each")
        bob.start()
        say("6: bob's agent is started again")
        self._arrived(6, bob, sent, timeout=240)
        alice.start()
        say("6: alice's agent is started again")
        wait_for("word that bob has it", lambda: alice.queued() == 0, 240)
        for relay in self.relays:
            relay.wait_empty()
        say("6: alice knows that bob has it; the relays are empty")
        self._done(6)

    def _compose(
        self, subject: str, text: str, message_id: str, attachment_size: int = 0, to: str = BOB_AT_TOX
    ) -> bytes:
        return sample_mail(
            sender=f"Alice <{ALICE}>",
            to=to,
            subject=subject,
            text=text,
            message_id=message_id,
            attachment_size=attachment_size,
        )

    def _send(self, number: int, what: str, mail: bytes, to: str = BOB_AT_TOX) -> str:
        queue_id = self.alice.postfix.smtp(ALICE, [to], mail)
        say(f"{number}: alice submits {what} to Postfix, queue id {queue_id}")
        return self._taken(number, self.alice.postfix, mail, to)

    def _taken(self, number: int, postfix: Postfix, mail: bytes, recipient: str) -> str:
        """Wait until the agent has taken the mail from Postfix; what it told Postfix."""
        queue_id = postfix.queue_id(message_id_of(mail))
        status, code, text = postfix.wait_status(queue_id, recipient)
        require(status == "sent", f"the agent takes the mail; it is {status}, {code}, {text}")
        say(f"{number}: {postfix.name} logs status={status} ({text})")
        return text

    def _arrived(self, number: int, to: Agent, sent: bytes, timeout: float = 120) -> bytes:
        """Wait for the mail in the Maildir, read it back by IMAP, and compare."""
        name = to.name
        message_id = message_id_of(sent)

        def probe() -> list[Path]:
            to.require_alive()
            return find_in_maildir(to.maildir, message_id)

        found = wait_for(f"mail {number} in the Maildir of {name}", lambda: probe() or None, timeout)
        say(f"{number}: in the Maildir of {name}, {found[0].stat().st_size} bytes")
        stored = self.dovecot.fetch(name, message_id)
        result = compare(sent, stored)
        require(result.intact, f"the mail is as it was sent: {result}")
        say(f"{number}: read by IMAP: all sent fields and the body are the same, on top: {', '.join(result.added)}")
        return stored

    def _done(self, number: int) -> None:
        self.delivered += 1
        say(f"{number}: delivered")

    def _nothing_left(self) -> None:
        counts = [len(self.dovecot.messages(name)) for name in ("bob", "alice", "carol")]
        require(counts == [4, 1, 1], f"bob has 4 mails, alice has 1 and carol has 1, not {counts}")
        for person in (self.alice, self.bob):
            wait_for(f"empty queues of {person.agent.name}", person.has_empty_queues)
        say("every mail is there once, nothing is left in any queue")


def message_id_of(mail: bytes) -> str:
    """Its Message-ID."""
    return header(mail, "Message-ID") or ""


def attachment_digest(mail: bytes) -> str:
    """The SHA-256 of the decoded attachment."""
    parsed = email.message_from_bytes(mail, policy=email.policy.default)
    part = next(parsed.iter_attachments())
    return hashlib.sha256(part.get_content()).hexdigest()


def require(condition: bool, expectation: str) -> None:
    """An expectation of the demo; what is false ends it."""
    if not condition:
        raise RigError(f"expected: {expectation}")


def main() -> int:
    """Command line."""
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description="Show toxmail with private instances of everything.")
    parser.add_argument(
        "--bin", type=Path, default=root / "target/release", help="folder of tox-agent, toxctl, tox-transport"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder with all logs and Maildirs")
    options = parser.parse_args()

    demo: Demo | None = None
    failure: str | None = None
    try:
        if os.geteuid() != 0:
            raise RigError("the demo must be run as root: Postfix and Dovecot start as root, even private ones")
        if absent := [name for name in PROGRAMS if not (options.bin / name).is_file()]:
            raise RigError(f"{', '.join(absent)} not in {options.bin}: run cargo build --release")
        with Sandbox(keep=options.keep, out=sys.stdout) as sandbox:
            demo = Demo(sandbox, options.bin)
            demo.run()
            say("cleaning up")
    except KeyboardInterrupt:
        failure = "interrupted"
    except SystemExit as stop:
        failure = f"stopped by signal {stop.code}"
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    if failure is not None:
        say(f"FAILED: {failure}")
    delivered = demo.delivered if demo else 0
    print(f"demo: {delivered} of {MAILS} mails delivered", flush=True)
    return 0 if failure is None and delivered == MAILS else 1


if __name__ == "__main__":
    sys.exit(main())
