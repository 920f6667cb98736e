"""First contact between people who are never online together: real agents, real relays, a private Tox network.

python3 -m unittest discover -s tests/e2e -p test_invitation.py      # TOXMAIL_BIN=DIR for programs elsewhere
"""

import re
import sqlite3
from contextlib import closing
from typing import ClassVar

from rig.agent import Agent
from rig.dns_liar import Liar
from rig.named import Named
from rig.net import HOST
from rig.relay import Relay, store, wait_at_relays, wait_owner
from rig.wait import wait_for
from test_agent import KIB
from test_relays import PATIENCE, RelayCase

WORDS = "It is Gina, from the choir"


class InvitationTest(RelayCase):
    """hugo has two relays and an invitation; strangers who have never met him have one of them, and learn that."""

    relays: ClassVar[list[Relay]]
    hugo: ClassVar[Agent]
    named: ClassVar[Named]
    names: ClassVar[dict[str, object]]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.named = Named(cls.box)
        resolver = [f"{HOST}:{Liar(cls.box, cls.named.port).port}"]
        cls.names = {"resolver": resolver, "trust_anchor": str(cls.named.anchor), "timeout": "2s"}
        cls.relays = [cls.relay(f"relay{number}") for number in (1, 2)]
        cls.hugo = cls.person("hugo", settings={"names": cls.names}, addresses=["hugo@example.test", "hugo@plain.test"])
        cls.use(cls.hugo, cls.relays)
        wait_for("two relays in the invitation", cls.invited_by_both, PATIENCE)

    @classmethod
    def invited_by_both(cls) -> bool:
        """Whether both relays have answered hugo."""
        used = cls.hugo.json("relay", "status")["used"]
        answered = [relay["reachable"] for relay in used if relay["purpose"] == "told"]
        return len(answered) == 2 and all(answered)

    def opened(self, relay: Relay) -> bool:
        """Whether strangers may fill slots of hugo's at the relay; he has no contacts, so there are no others."""
        return sum(int(owner["slots"]) for owner in relay.json("relay", "owners")) > 0

    def invitation(self) -> str:
        """hugo's, and that strangers may use it."""
        invitation = self.hugo.json("invitation", "show")
        self.assertEqual(invitation["relays"], 2)
        self.assertTrue(invitation["text"].startswith("toxmail-invite:"))
        self.assertEqual(self.hugo.json("invitation", "show"), invitation)
        for relay in self.relays:
            wait_for(f"open slots at {relay.name}", lambda relay=relay: self.opened(relay), PATIENCE)
        return str(invitation["text"])

    def test_a_strangers_become_contacts_and_never_meet(self) -> None:
        self.start(self.hugo)
        invitation = self.invitation()
        self.hugo.stop()

        gina = self.person("gina")
        self.use(gina, self.relays[1:])
        gina.ctl("contact", "add", invitation, "--nick", "hugo", "--message", WORDS)
        self.never_meet(gina, *self.send(gina, "hugo@tox.alt", 4 * KIB), WORDS)
        for relay in self.relays:
            relay.wait_empty(PATIENCE)
        gina.stop()

    def test_b_so_do_those_who_only_know_a_name(self) -> None:
        self.start(self.hugo)
        invitation, tox_id = self.invitation(), self.hugo.tox_id
        for record in self.hugo.json("name", "record"):
            owner, ttl_and_type, strings = re.fullmatch(r"(\S+) (3600 IN TXT) (.*)", record["record"]).groups()
            name, zone = owner.split("._tox.")
            self.named.publish(zone, f"{name}._tox", re.findall('"([^"]*)"', strings))
        signed, unsigned = self.hugo.json("name", "record")
        self.assertEqual(signed["text"], "leads here (tox1, signed)")
        self.assertRegex(unsigned["text"], r"^leads here \(tox1, not signed: .*\)$")
        self.hugo.stop()

        # Nobody who forges an answer gets mail to read: what is not proved tells no invitation.
        ivan = self.person("ivan", settings={"names": self.names})
        found = [ivan.json("name", "lookup", f"hugo@{zone}") for zone in ("example.test", "plain.test")]
        self.assertEqual([one["tox_id"] for one in found], [tox_id] * 2)
        self.assertEqual([one["invitation"] for one in found], [invitation, None])

        judy = self.person("judy", settings={"names": self.names})
        judy.ctl("contact", "add", "hugo@example.test", "--message", WORDS)
        with closing(store(judy)) as tables:
            ((words, text),) = tables.execute("SELECT text, invitation FROM introducing").fetchall()
        self.assertIn(WORDS, words)
        self.assertEqual(text, invitation)
        judy.stop()

        self.use(ivan, self.relays[1:])
        queue_id, content = self.send(ivan, "hugo@example.test", 4 * KIB)
        self.never_meet(ivan, queue_id, content)
        ivan.stop()

        # An invitation that was renewed is said to be published still.
        self.hugo.start()
        wait_for("two relays in the invitation", self.invited_by_both, PATIENCE)
        self.hugo.ctl("invitation", "renew")
        record = self.hugo.json("name", "record")[0]
        self.assertEqual(record["correct"], False)
        self.assertIn("not yours any more", record["text"])
        self.hugo.stop()

    def never_meet(self, gina: Agent, queue_id: str, content: bytes, words: str | None = None) -> None:
        """gina, who writes to hugo, is not there when he is, and the other way round; the mail and its receipt arrive."""
        wait_for("introduction at both relays", lambda: " waits at 2 relays" in gina.log, PATIENCE)
        for relay in self.relays:
            self.assertEqual([path.stat().st_size for path in relay.contents()], [16 * KIB])
        self.assertEqual(gina.json("contact", "list")[0]["state"], "pending")
        key = gina.key
        gina.stop()

        self.hugo.start()
        request = self.hugo.wait_request(key, PATIENCE)
        self.assertEqual(request["claim"], f"{gina.name}@tox.example")
        self.assertEqual(request["message"], words or request["message"])
        for relay in self.relays:
            relay.wait_empty(PATIENCE)
        self.assertNotIn(key, [contact["key"] for contact in self.hugo.json("contact", "list")])
        before = list((self.hugo.maildir / "new").iterdir())
        self.hugo.ctl("request", "accept", key, "--nick", gina.name)
        wait_owner(self.hugo, [relay.relay_key for relay in self.relays], PATIENCE)
        wait_for("answer at gina's relay", lambda: self.answered(key), PATIENCE)
        self.hugo.stop()

        gina.start()
        wait_at_relays(gina, queue_id, 2, PATIENCE)
        contact = gina.json("contact", "list")[0]
        self.assertEqual((contact["state"], contact["relays"]), ("accepted", 2))
        gina.stop()

        self.assertEqual(list((self.hugo.maildir / "new").iterdir()), before)
        self.hugo.start()
        self.arrives(self.hugo, content)
        wait_for("receipt at gina's relay", lambda: self.receipted(key), PATIENCE)
        self.hugo.stop()

        gina.start()
        self.assert_nothing_waits(gina)
        self.assertRegex(gina.log, rf"{queue_id}: to=<hugo@.*status=sent")
        for agent in (gina, self.hugo):
            self.assertNotIn("is online", agent.log)
            self.assertNotIn("panicked", agent.log)

    def answered(self, peer: str) -> bool:
        """Whether an offer with both of hugo's relays lies at a relay for this contact."""
        keys = [bytes.fromhex(relay.relay_key) for relay in self.relays]
        with closing(store(self.hugo)) as tables:
            sql = "SELECT head FROM parcel WHERE copies > 0 AND peer = ?"
            heads = tables.execute(sql, (bytes.fromhex(peer),)).fetchall()
        return any(all(key in head for key in keys) for (head,) in heads)

    def receipted(self, peer: str) -> bool:
        """Whether a receipt lies at a relay for this contact."""
        sql = "SELECT count(*) FROM receipt r JOIN parcel p ON p.id = r.parcel WHERE p.copies > 0 AND p.peer = ?"
        with closing(store(self.hugo)) as tables:
            return bool(tables.execute(sql, (bytes.fromhex(peer),)).fetchone()[0])


class RenewedTest(RelayCase):
    """hugo has told his invitation, and makes another one."""

    def test_an_old_invitation_leads_nowhere(self) -> None:
        relay = self.relay("relay")
        hugo = self.person("hugo")
        self.use(hugo, [relay])
        wait_for("relay", lambda: all(used["reachable"] for used in hugo.json("relay", "status")["used"]), PATIENCE)
        old = hugo.json("invitation", "show")["text"]
        # They come in several requests: eight for yesterday, today, and each of seven days to come.
        wait_for("open slots", lambda: len(self.slots(relay)) == 8 * 9, PATIENCE)
        self.assertEqual(relay.json("relay", "owners")[0]["slots"], 8 * 9)
        before = self.slots(relay)
        new = hugo.json("invitation", "renew")["text"]
        self.assertNotEqual(old, new)
        # Registered are as many of the new one, and none of the old one.
        wait_for("other slots", lambda: self.are_others(self.slots(relay), before), PATIENCE)
        hugo.stop()
        erin = self.person("erin")
        erin.ctl("contact", "add", new, "--nick", "hugo")
        wait_for("introduction of erin", lambda: " waits at 1 relays" in erin.log, PATIENCE)
        self.assertEqual(len(relay.contents()), 1)

    @staticmethod
    def slots(relay: Relay) -> set[bytes]:
        """The slots that are registered at the relay."""
        relay.require_alive()
        file = f"file:{relay.relay_state}/relay.sqlite?mode=ro"
        with closing(sqlite3.connect(file, uri=True)) as tables:
            return {slot for (slot,) in tables.execute("SELECT id FROM slot")}

    @staticmethod
    def are_others(now: set[bytes], before: set[bytes]) -> bool:
        """Whether there are as many as before, and none of those."""
        return len(now) == len(before) and not now & before
