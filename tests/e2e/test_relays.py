"""Mail for people who are never online together: real agents, real relays, a private Tox network.

python3 -m unittest discover -s tests/e2e -p test_relays.py      # TOXMAIL_BIN=DIR for programs elsewhere

TOXMAIL_RELAY_KILLS is how many relays are killed while they store, TOXMAIL_RELAY_SEED repeats the plan of that.
"""

import os
import random
import re
import unittest
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import Any, ClassVar

from rig.agent import Agent, befriend, queue_id_of
from rig.bootstrap import Bootstrap
from rig.capture import Capture, common_run, deposits, memory
from rig.mail import compare, find_in_maildir, header
from rig.relay import CLASSES, BadRelay, Relay, person, relays_used, store, wait_at_relays, wait_lane
from rig.sandbox import UNPRIVILEGED
from rig.wait import wait_for
from test_agent import BIN, KIB, MIB, NetworkCase, at_once, mail, random_body, stored

KILLS = int(os.environ.get("TOXMAIL_RELAY_KILLS", "9"))
SEED = int(os.environ.get("TOXMAIL_RELAY_SEED", random.randrange(1 << 32)))

# For what takes as long as several Tox instances need to find each other.
PATIENCE = 240.0


class RelayCase(NetworkCase):
    """Relays and people who use them."""

    counted: ClassVar[int] = 0

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        # Most of the others come and go, or are killed: by these few that stay, those who are there find each other.
        for number in range(4):
            Bootstrap(cls.box, f"node{number}", other=cls.bootstrap)

    @classmethod
    def relay(cls, name: str, **options: Any) -> Relay:
        """A relay with nothing in it."""
        return Relay(cls.box, name, binaries=cls.binaries, bootstrap=cls.bootstrap, **options)

    @classmethod
    def person(cls, name: str, **options: Any) -> Agent:
        """Somebody who may use relays."""
        return person(cls.box, name, binaries=cls.binaries, bootstrap=cls.bootstrap, **options)

    @staticmethod
    def use(agent: Agent, relays: Iterable[Relay | BadRelay]) -> None:
        """Let mail for the agent wait at these relays."""
        for relay in relays:
            agent.ctl("relay", "use", relay.invite())

    @staticmethod
    def stop(*agents: Agent) -> None:
        """Stop those that run."""
        for agent in agents:
            if agent.alive():
                agent.stop()

    @staticmethod
    def start(*agents: Agent) -> None:
        """Start those that do not run."""
        for agent in agents:
            if not agent.alive():
                agent.start()

    @classmethod
    def message_id(cls) -> str:
        """A new Message-ID."""
        cls.counted += 1
        return f"<{cls.counted}.{cls.__name__}@alice.example>"

    def send(self, one: Agent, other: Agent | str, size: int) -> tuple[str, bytes]:
        """Hand a mail to an agent, for another one or an address; its queue id and the mail."""
        recipient = other if isinstance(other, str) else f"{other.name}@tox.alt"
        sender = f"{one.name}@{one.name}.example"
        content = mail(self.message_id(), random_body(size, self.counted), sender=sender)
        return queue_id_of(one.submit(sender, [recipient], content)), content

    def arrives(self, agent: Agent, content: bytes) -> None:
        """The mail arrives as it was sent."""
        got = stored(agent.maildir, header(content, "Message-ID") or "", PATIENCE)
        self.assertTrue(compare(content, got).intact, compare(content, got))

    def assert_once(self, agent: Agent, mails: Iterable[bytes]) -> None:
        """Each of the mails is there, once, and nothing else."""
        paths = (agent.maildir / "new").iterdir()
        found = sorted(header(path.read_bytes(), "Message-ID") or path.name for path in paths)
        self.assertEqual(found, sorted(header(content, "Message-ID") or "" for content in mails))

    def assert_nothing_waits(self, agent: Agent) -> None:
        wait_for(f"empty queue of {agent.name}", lambda: agent.queued() == 0, PATIENCE)


class NeverTogetherTest(RelayCase):
    """Mail for bob may wait at three relays. anna, who writes to him as alice does, has the last two as well."""

    relays: ClassVar[list[Relay]]
    alice: ClassVar[Agent]
    anna: ClassVar[Agent]
    bob: ClassVar[Agent]
    sent: ClassVar[list[bytes]]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.sent = []
        cls.relays = [cls.relay(f"relay{number}") for number in (1, 2, 3)]
        cls.alice, cls.anna, cls.bob = (cls.person(name) for name in ("alice", "anna", "bob"))
        cls.use(cls.bob, cls.relays)
        cls.use(cls.anna, cls.relays[1:])
        befriend(cls.alice, cls.bob)
        befriend(cls.anna, cls.bob)
        for agent in (cls.alice, cls.anna):
            wait_lane(agent, cls.bob, [relay.relay_key for relay in cls.relays])
        wait_lane(cls.bob, cls.anna, [relay.relay_key for relay in cls.relays[1:]])

    def waits_at_relays(self, sender: Agent, size: int) -> tuple[str, bytes]:
        """A mail to bob, who is away, comes to his relays; then its sender goes away."""
        self.start(sender)
        self.stop(self.bob)
        queue_id, content = self.send(sender, self.bob, size)
        self.sent.append(content)
        wait_at_relays(sender, queue_id, 3)
        self.assertRegex(sender.log, rf"{queue_id}: to=<bob@.*status=deferred \(at 3 relays\)")
        self.assertRegex(sender.ctl("queue", "list"), r"at 3 relays since ")
        self.assertRegex(sender.ctl("status"), r"(?m)^queue: 1 mail at relays since ")
        self.assertIn("\ntoxmail_queue_at_relays_mails 1\n", sender.ctl("metrics"))
        for relay in self.relays:
            self.assertTrue(relay.contents())
            self.assertLessEqual({path.stat().st_size for path in relay.contents()}, set(CLASSES))
        self.assertEqual(find_in_maildir(self.bob.maildir, header(content, "Message-ID") or ""), [])
        self.stop(self.alice, self.anna)
        return queue_id, content

    def assert_all_done(self, sender: Agent, queue_id: str) -> None:
        """The sender knows, nothing is left anywhere, and bob has every mail once."""
        self.assert_nothing_waits(sender)
        self.assertRegex(sender.log, rf"{queue_id}: to=<bob@.*dsn=2\.0\.0, status=sent")
        metrics = sender.ctl("metrics")
        self.assertRegex(metrics, r'(?m)^toxmail_recipients_total\{result="sent"\} [1-9]')
        self.assertIn("\ntoxmail_queue_at_relays_mails 0\n", metrics)
        for relay in self.relays:
            relay.wait_empty(PATIENCE)
        self.assert_once(self.bob, self.sent)

    def test_a_mail_waits_at_relays_and_its_receipt_with_the_recipient(self) -> None:
        queue_id, content = self.waits_at_relays(self.alice, 4 * KIB)
        self.start(self.bob)
        self.arrives(self.bob, content)
        wait_for("count of it", lambda: "\ntoxmail_received_total 1\n" in self.bob.ctl("metrics"))
        # Before anybody else comes online: who has his mail removes it.
        for relay in self.relays:
            relay.wait_empty(PATIENCE)
        self.start(self.alice)
        self.assert_all_done(self.alice, queue_id)

    def test_b_mail_and_receipt_both_wait_at_relays(self) -> None:
        queue_id, content = self.waits_at_relays(self.anna, 60 * KIB)
        self.start(self.bob)
        self.arrives(self.bob, content)
        wait_for("receipt at anna's relays", self.only_annas_relays_hold_something, PATIENCE)
        # Else he would put it there again after the next start, not knowing that she has fetched it.
        wait_for("bob's hearing that it lies there", self.bob_knows_two_copies, PATIENCE)
        self.stop(self.bob)
        self.start(self.anna)
        self.assert_all_done(self.anna, queue_id)

    def bob_knows_two_copies(self) -> bool:
        """Whether bob has the word of relays for all that he put there, two at least."""
        with closing(store(self.bob)) as database:
            states = dict(database.execute("SELECT state, count(*) FROM deposit GROUP BY state").fetchall())
        return 0 not in states and states.get(1, 0) >= 2

    def bob_has_told(self, relay: Relay) -> bool:
        """Whether bob offers this relay, and all that he has to say about it lies at anna's relays, as he knows."""
        key = bytes.fromhex(relay.relay_key)
        with closing(store(self.bob)) as database:
            offered = database.execute("SELECT relays FROM lane_in").fetchall()
            waits = database.execute("SELECT count(*) FROM parcel WHERE copies IS NULL AND finished = 0").fetchone()[0]
        return all(key in relays for (relays,) in offered) and waits == 0 and self.bob_knows_two_copies()

    def only_annas_relays_hold_something(self) -> bool:
        """Whether the relay that is only bob's is empty, and the others have one thing each."""
        return [len(relay.contents()) for relay in self.relays] == [0, 1, 1]

    def test_c_a_large_mail(self) -> None:
        queue_id, content = self.waits_at_relays(self.alice, 20 * MIB)
        self.start(self.bob)
        self.arrives(self.bob, content)
        self.start(self.alice)
        self.assert_all_done(self.alice, queue_id)

    def test_d_direct_delivery_stays_open(self) -> None:
        """What is at relays already and is delivered directly, too, arrives once."""
        self.start(self.alice)
        self.stop(self.bob)
        queue_id, content = self.send(self.alice, self.bob, 4 * KIB)
        self.sent.append(content)
        wait_at_relays(self.alice, queue_id, 3)
        for relay in self.relays:
            relay.stop()
        self.start(self.bob)
        self.arrives(self.bob, content)
        self.assert_nothing_waits(self.alice)
        for relay in self.relays:
            relay.start()
        self.assert_all_done(self.alice, queue_id)


    def test_e_other_relays_are_told_by_relays(self) -> None:
        """bob changes his relays while anna is away, and is away when she comes."""
        self.start(self.bob)
        self.stop(self.alice, self.anna)
        for relay in self.relays:
            relay.wait_empty()
        new = self.relay("relay4")
        old = self.relays[0]
        self.bob.ctl("relay", "use", "--remove", old.text)
        self.use(self.bob, [new])
        wait_for("word of the new relay at anna's", lambda: self.bob_has_told(new), PATIENCE)
        self.stop(self.bob)
        self.start(self.anna)
        for relay in self.relays:
            relay.wait_empty(PATIENCE)
        self.relays[0] = new
        old.vanish()
        queue_id, content = self.waits_at_relays(self.anna, 4 * KIB)
        self.start(self.bob)
        self.arrives(self.bob, content)
        self.start(self.anna)
        self.assert_all_done(self.anna, queue_id)


class OfferedTest(RelayCase):
    """carol offers her relay to her contacts: to bob, who has none, and to dora, who wants none but her own.

    erin has a relay, too, and offers it to nobody.
    """

    carol: ClassVar[Relay]
    erin: ClassVar[Relay]
    alice: ClassVar[Agent]
    bob: ClassVar[Agent]
    dora: ClassVar[Agent]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.carol = cls.relay("carol", relay={"offer": "contacts"})
        cls.erin = cls.relay("erin")
        cls.alice, cls.bob = cls.person("alice"), cls.person("bob")
        cls.dora = cls.person("dora", relays="own")
        for one, other in (
            (cls.erin, cls.bob),
            (cls.carol, cls.bob),
            (cls.carol, cls.dora),
            (cls.alice, cls.bob),
            (cls.alice, cls.dora),
        ):
            befriend(one, other)

    def test_mail_waits_at_a_relay_that_a_contact_offers(self) -> None:
        wait_lane(self.alice, self.bob, [self.carol.relay_key], PATIENCE)
        self.stop(self.bob)
        queue_id, content = self.send(self.alice, self.bob, 4 * KIB)
        wait_at_relays(self.alice, queue_id, 1)
        self.stop(self.alice)
        self.start(self.bob)
        self.arrives(self.bob, content)
        self.start(self.alice)
        self.assert_nothing_waits(self.alice)
        self.carol.wait_empty()
        # By consent of both sides: nobody is an owner but bob.
        self.assertEqual(len(self.carol.json("relay", "owners")), 1)
        self.assertEqual(self.erin.json("relay", "owners"), [])
        self.assertEqual(set(relays_used(self.bob)), {self.carol.relay_key})
        # Nothing says whose relay it is: alice has used it, and knows nothing of carol.
        self.stop(self.alice)
        for path in self.alice.state.rglob("*"):
            if path.is_file():
                self.assertNotIn(bytes.fromhex(self.carol.key), path.read_bytes(), path)
        self.assertNotIn(self.carol.key.lower(), self.alice.log.lower())


class BadRelaysCase(RelayCase):
    """People each of whom has two bad relays or one, and good ones; alice writes to all while they are away."""

    alice: ClassVar[Agent]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.alice = cls.person("alice")

    @classmethod
    def bad(cls, mode: str) -> BadRelay:
        """A relay that does as its mode says."""
        return BadRelay(cls.box, mode, source=BIN, bootstrap=cls.bootstrap)

    @classmethod
    def meet(cls, name: str, relays: Sequence[Relay | BadRelay], offered: Sequence[Relay | BadRelay]) -> Agent:
        """A contact of alice's who uses these relays; she knows of those that are offered."""
        agent = cls.person(name)
        cls.use(agent, relays)
        befriend(cls.alice, agent)
        wait_lane(cls.alice, agent, [relay.relay_key for relay in offered], PATIENCE)
        return agent

    def wait_all_at(self, relay: Relay, mails: int) -> None:
        """Wait until so many mails, each in a slot of its own, are at the relay."""
        wait_for(f"{mails} mails at {relay.name}", lambda: len(relay.contents()) >= mails, PATIENCE)
        wait_for("end of the deposits", lambda: relay.json("relay", "status")["own"]["filled"] >= mails, PATIENCE)

    def check_arrival(self, sent: dict[Agent, list[tuple[str, bytes]]], relays: Iterable[Relay]) -> None:
        """What is at relays arrives without alice, once, and she hears of it, once, and not before."""
        self.assertNotIn("status=sent", self.alice.log)
        self.alice.stop()
        self.start(*sent)
        for agent, mails in sent.items():
            for _, content in mails:
                self.arrives(agent, content)
        self.alice.start()
        self.assert_nothing_waits(self.alice)
        for relay in relays:
            relay.wait_empty(PATIENCE)
        for agent, mails in sent.items():
            self.assert_once(agent, [content for _, content in mails])
            for queue_id, _ in mails:
                fates = re.findall(rf"{queue_id}: to=.*status=(sent|bounced|expired)", self.alice.log)
                self.assertEqual(fates, ["sent"], queue_id)
        for agent in (self.alice, *sent):
            agent.require_alive()
            self.assertNotIn("panicked", agent.log)


class OneOfThreeTest(BadRelaysCase):
    """Of three relays one or two are gone for good, lie (what they accept they drop), or are full."""

    def test_mail_arrives_by_what_is_left(self) -> None:
        good, other, dead = (self.relay(name) for name in ("good", "other", "dead"))
        full = self.relay("full", quota="1 KiB")
        lying = self.bad("drop")
        cases: dict[str, tuple[list[Relay | BadRelay], int]] = {
            # And at how many relays the mail is, as alice sees it: two of three are enough.
            "bob": ([good, other, dead], 2),
            "carol": ([good, other, full], 2),
            "dave": ([good, other, lying], 3),
            "erin": ([good, dead, lying], 2),
            "frank": ([good, dead, full], 0),
            "gina": ([good, lying, full], 2),
        }
        people = {name: self.meet(name, relays, relays) for name, (relays, _) in cases.items()}
        self.stop(*people.values())
        dead.vanish()
        sent = {agent: [self.send(self.alice, agent, 4 * KIB)] for agent in people.values()}
        self.wait_all_at(good, len(people))
        for name, agent in people.items():
            wait_at_relays(self.alice, sent[agent][0][0], cases[name][1], PATIENCE)
        self.assertEqual(full.contents(), [])
        self.check_arrival(sent, [good, other])


class MaliciousRelayTest(BadRelaysCase):
    """Every way in which `bad_relay` misbehaves, two for each person, beside one relay that does not."""

    PAIRS = (
        ("swap", "silent"),
        ("truncate", "reorder"),
        ("corrupt", "replay"),
        ("forge", "flood"),
        ("lie", "slow"),
        ("foreign", "drop"),
    )
    # Its answers about copies are found to be wrong.
    CAUGHT = ("forge", "lie")
    # What it says cannot be followed, so that no slot is ever known to be registered there.
    SHUNNED = ("reorder",)

    def test_a_relay_loses_nothing_but_its_own_copy(self) -> None:
        good = self.relay("good")
        bad = {mode: self.bad(mode) for pair in self.PAIRS for mode in pair}
        people: dict[tuple[str, str], Agent] = {}
        for pair in self.PAIRS:
            relays = [good, *(bad[mode] for mode in pair)]
            offered = [good, *(bad[mode] for mode in pair if mode not in self.SHUNNED)]
            people[pair] = self.meet("-".join(pair), relays, offered)
        for mode in self.SHUNNED:
            agent = next(agent for pair, agent in people.items() if mode in pair)
            key = bad[mode].relay_key[:16]
            wait_for(f"a session with {mode}", lambda a=agent, k=key: f"relay {k} is up" in a.log, PATIENCE)
        self.stop(*people.values())
        sent = {agent: [self.send(self.alice, agent, 4 * KIB) for _ in range(2)] for agent in people.values()}
        self.wait_all_at(good, 2 * len(people))
        # They have all done their worst: what signs for a copy is believed, and what signs wrongly is not.
        for mode, relay in bad.items():
            if mode in self.CAUGHT:
                refused = f"relay {relay.relay_key[:16]} refuses"
                wait_for(f"{mode} found out", lambda refused=refused: refused in self.alice.log, PATIENCE)
            elif mode not in self.SHUNNED:
                wait_for(f"copies at {mode}", lambda relay=relay: self.copies(relay) == 2, PATIENCE)
        self.check_arrival(sent, [good])
        for relay in bad.values():
            relay.process.require_alive()

    def copies(self, relay: BadRelay) -> int:
        """Of how many mails there is a copy at the relay, as alice sees it."""
        used = relays_used(self.alice).get(relay.relay_key)
        return int(used["mails"]) if used is not None else 0


class RelayKilledTest(RelayCase):
    """Three people with one relay each, to whom alice writes while their agents are away."""

    # So many times each relay is killed until the people come and fetch it: with fewer mails than open slots.
    CYCLES = 3

    alice: ClassVar[Agent]
    people: ClassVar[dict[Agent, Relay]]
    sent: ClassVar[dict[Agent, list[bytes]]]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.alice = cls.person("alice")
        cls.people = {cls.person(name): cls.relay(f"{name}s") for name in ("bob", "carol", "dave")}
        cls.sent = {recipient: [] for recipient in cls.people}
        for recipient, relay in cls.people.items():
            cls.use(recipient, [relay])
            befriend(cls.alice, recipient)
        for recipient, relay in cls.people.items():
            wait_lane(cls.alice, recipient, [relay.relay_key])

    def test_what_a_relay_has_signed_for_survives_kill_9(self) -> None:
        print(f"relays: {KILLS} kills, seed {SEED}", flush=True)
        chance = random.Random(SEED)
        left = KILLS
        while left > 0:
            self.stop(*self.people)
            waiting: list[str] = []
            for _ in range(min(self.CYCLES, -(-left // len(self.people)))):
                waiting += self.kill_all_once(chance)
                left -= len(self.people)
            for queue_id in waiting:
                wait_at_relays(self.alice, queue_id, 1, PATIENCE)
            self.alice.stop()
            # What they signed for is all that can arrive now.
            for recipient, contents in self.sent.items():
                recipient.start()
                for content in contents:
                    self.arrives(recipient, content)
            self.alice.start()
            self.assert_nothing_waits(self.alice)
            for recipient, relay in self.people.items():
                self.assert_once(recipient, self.sent[recipient])
                relay.wait_empty(PATIENCE)

    def kill_all_once(self, chance: random.Random) -> list[str]:
        """Kill each relay in the middle of some mails; their queue ids."""
        waiting = []
        for recipient in self.people:
            for size in (chance.randrange(1, 12), chance.randrange(1, 12), chance.randrange(20, 100), 1):
                queue_id, content = self.send(self.alice, recipient, size * KIB)
                waiting.append(queue_id)
                self.sent[recipient].append(content)
        # So many contents later, or while the last of them comes in.
        doomed = {
            relay: (len(relay.contents()) + chance.randrange(1, 5), chance.random() < 0.7)
            for relay in self.people.values()
        }
        wait_for("contents at every relay", lambda: self.kill_who_stores(doomed), PATIENCE, interval=0.001)
        # A relay does not know its visitors any more. Who comes anew is let in within seconds.
        self.alice.kill()
        self.alice.start()
        return waiting

    @staticmethod
    def kill_who_stores(doomed: dict[Relay, tuple[int, bool]]) -> bool:
        """kill -9, and a start, for each relay that has what it is to have, or is about to; whether all had it."""
        for relay, (contents, early) in list(doomed.items()):
            count = len(relay.contents())
            if count >= contents or early and count == contents - 1 and relay.writing():
                relay.kill()
                relay.start()
                del doomed[relay]
        return not doomed


# What nobody but the two ends of a lane may have: tables of the agent's store.
SECRETS = {
    "mail key": "SELECT sign, seal FROM lane_out",
    "lane": "SELECT lane, seed FROM lane_in",
    "pre-key": "SELECT secret FROM pre_key",
    "mail id": "SELECT transfer FROM recipient",
}


def search(piles: Iterable[tuple[str, bytes]], needles: dict[str, bytes]) -> list[str]:
    """Which of the needles are in which of the piles, in upper or lower case."""
    lower = {what: needle.lower() for what, needle in needles.items()}
    return [f"{what} in {where}" for where, pile in piles for what in _within(pile.lower(), lower)]


def _within(pile: bytes, needles: dict[str, bytes]) -> list[str]:
    return [what for what, needle in needles.items() if needle in pile]


class WhatARelaySeesTest(RelayCase):
    """A hundred mails between three people who are online one at a time, by two relays that both watch.

    Watched is what libtoxcore hands to each relay's process, decrypted (`rig.capture`), all files of its state whenever
    somebody goes, its log, and its memory. In the memory of any Tox node that uses UDP are the Tox keys of others who
    announced themselves in the DHT, whether it is a relay of mail or not: there, all but these is looked for.
    """

    PEOPLE = ("alice", "bob", "carol")
    MAILS = 100

    def test_a_relay_learns_nothing(self) -> None:
        captures: dict[Relay, Capture] = {}
        for name in ("relay1", "relay2"):
            relay = self.relay(name, start=False)
            captures[relay] = Capture(self.box, name, UNPRIVILEGED)
            relay.env = captures[relay].env
            relay.start()
        people = [self.person(name) for name in self.PEOPLE]
        for agent in people:
            self.use(agent, captures)
        pairs = [(one, other) for one in people for other in people if one is not other]
        at_once(*(partial(befriend, one, other) for one, other in pairs if one.name < other.name))
        for one, other in pairs:
            wait_lane(one, other, [relay.relay_key for relay in captures], PATIENCE)
        tox, names = self.tox(people), self.names(people)
        self.stop(*people)

        found: list[str] = []
        files: dict[Relay, dict[str, bytes]] = {relay: {} for relay in captures}
        secrets: dict[str, bytes] = {}
        sent: dict[Agent, list[bytes]] = {agent: [] for agent in people}
        left = self.MAILS
        # Each is alone online; in the first round he sends, in the second he gets what came, and the receipts.
        for number, agent in enumerate(people * 2):
            agent.start()
            for content in sent[agent]:
                self.arrives(agent, content)
            queue_ids = []
            others = [each for each in people if each is not agent]
            for turn in range(-(-left // (len(people) - number)) if number < len(people) else 0):
                # Of each class fewer than there are open slots.
                other, size = others[turn % 2], 300 if turn % 16 == 5 else 60 if turn % 7 == 0 else turn % 12 + 1
                queue_id, content = self.send(agent, other, size * KIB)
                sent[other].append(content)
                queue_ids.append(queue_id)
                left -= 1
            for queue_id in queue_ids:
                wait_at_relays(agent, queue_id, 2, PATIENCE)
            whose = search((("the memory", piece) for piece in memory(agent.pid)), tox | names)
            for what in ("key", "address"):
                self.assertIn(f"{agent.name}'s {what} in the memory", whose, "the search finds what is there")
            new = self.secrets(agent)
            if number < len(people):
                self.assertGreater(len(new), len(queue_ids), "lanes, keys, and what waits")
            secrets |= new
            agent.stop()
            for relay, seen in files.items():
                found += search(((f"{relay.name}'s memory", piece) for piece in memory(relay.pid)), names | new)
                for path in relay.relay_state.rglob("*"):
                    if path.is_file():
                        seen[f"{path.name} {number}"] = path.read_bytes()
        self.start(*people)
        for agent in people:
            self.assert_nothing_waits(agent)
            self.assert_once(agent, sent[agent])
        for relay in captures:
            relay.wait_empty(PATIENCE)
        self.assertEqual((left, sum(map(len, sent.values()))), (0, self.MAILS))

        contents = {}
        for relay, capture in captures.items():
            relay.stop()
            came = deposits(capture.requests())
            self.assertGreaterEqual(len(came.contents), self.MAILS, "the capture has what came")
            self.assertLessEqual(set(came.sizes), set(CLASSES))
            self.assertLessEqual({len(content) for content in came.contents.values()}, set(CLASSES))
            slots = {name: content for name, content in files[relay].items() if len(content) in CLASSES}
            self.assertLessEqual(set(slots.values()), set(came.contents.values()))
            contents[relay] = list(came.contents.values())
            piles = [("what it was told", capture.octets), ("its log", relay.log_path.read_bytes())]
            piles += files[relay].items()
            found += [f"{relay.name}: {words}" for words in search(piles, tox | names | secrets)]
        self.assertEqual(found, [])
        self.assert_strangers(captures.values())
        self.assertIsNone(common_run(*contents.values()))
        # Nor do two contents at one relay have anything in common.
        for octets in contents.values():
            self.assertIsNone(common_run(octets[::2], octets[1::2]))

    def assert_strangers(self, captures: Iterable[Capture]) -> None:
        """Nobody shows a Tox key at two relays, or fills slots with the one that he has slots by; and one serves for many."""
        seen: list[bytes] = []
        for capture in captures:
            heard = [each for each in capture.heard() if each.octets.startswith(b"toxmail relay 1 ")]
            visits = {each.key for each in heard if each.octets.startswith(b"toxmail relay 1 visitor ")}
            owners = {each.key for each in heard} - visits
            self.assertEqual(len(owners), len(self.PEOPLE))
            self.assertIn(len(visits), range(2 * len(self.PEOPLE), self.MAILS // 2))
            seen += visits | owners
        self.assertEqual(len(seen), len(set(seen)))

    @staticmethod
    def tox(people: Sequence[Agent]) -> dict[str, bytes]:
        """All that says who somebody is on the Tox network."""
        needles: dict[str, bytes] = {}
        for agent in people:
            octets = bytes.fromhex(agent.tox_id)
            needles |= {
                f"{agent.name}'s key": octets[:32],
                f"{agent.name}'s key in hexadecimal": octets[:32].hex().encode(),
                f"{agent.name}'s nospam": octets[32:],
                f"{agent.name}'s key in an address": agent.address.partition("@")[0].encode(),
            }
        return needles

    @staticmethod
    def names(people: Sequence[Agent]) -> dict[str, bytes]:
        """The addresses, and what is in every mail."""
        needles = {f"{agent.name}'s address": f"{agent.name}@".encode() for agent in people}
        needles |= {f"{agent.name}'s sender": f"{agent.name}.example".encode() for agent in people}
        return needles | {"a mail's text": b"Subject: a test"}

    @staticmethod
    def secrets(agent: Agent) -> dict[str, bytes]:
        """Of an agent that runs: its contacts' mail keys, its lanes, and the ids of the mails in its queue."""
        with closing(store(agent)) as tables:
            return {
                f"{what} {value.hex()}": value
                for what, columns in SECRETS.items()
                for row in tables.execute(columns)
                for value in row
            }


if __name__ == "__main__":
    unittest.main()
