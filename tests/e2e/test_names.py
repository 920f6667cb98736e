"""Names looked up in the DNS: a private root and its domains, signed or not, behind a resolver that lies.

python3 -m unittest discover -s tests/e2e -p test_names.py      # TOXMAIL_BIN=DIR for programs elsewhere
"""

import contextlib
import json
import os
import random
import re
import time
import unittest
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rig.agent import Agent, install_programs
from rig.bootstrap import Bootstrap
from rig.case import SandboxCase
from rig.dns_liar import (
    AD,
    FORGED_ID,
    FORGED_TXT,
    MODES,
    NOERROR,
    NXDOMAIN,
    REFUSED,
    SERVFAIL,
    TC,
    Liar,
    Message,
    ask,
    checked,
    exchange,
    name_of,
    tampered_id,
    text_of,
)
from rig.named import ZONES, Named, Published, Rr
from rig.net import HOST
from rig.sandbox import UNPRIVILEGED, RigError, Sandbox

BIN = Path(os.environ.get("TOXMAIL_BIN", Path(__file__).resolve().parents[2] / "target/release"))

# Signed with NSEC, signed with NSEC3, not signed.
TABLE_ZONES = ("example.test", "rsa.test", "plain.test")
PLAIN = "evil._tox.plain.test."
MALLORY = "evil._tox.mallory.test."


def some_id(name: str) -> str:
    """A Tox ID of nobody, another one for each name."""
    octets = bytearray(random.Random(name).randbytes(36))
    octets[31] &= 0x7F
    return checked(bytes(octets))


def tox1(name: str) -> str:
    """The record that leads to `some_id(name)`."""
    return f"v=tox1;id={some_id(name)}"


def publish_attackers(named: Named) -> None:
    """What a liar's alias leads to: true records of domains that the attacker owns, one signed and one not."""
    named.publish_all({(zone, "evil._tox"): [FORGED_TXT.decode()] for zone in ("mallory.test", "plain.test")})


class Delv:
    """BIND's `delv`, a validator that has nothing to do with the one under test."""

    SECURE = "fully validated"
    INSECURE = "unsigned answer"
    NO_SUCH = "negative response, fully validated"
    NO_SUCH_INSECURE = "negative response, unsigned answer"

    def __init__(self, box: Sandbox, anchor: Path) -> None:
        self._box = box
        self._anchor = anchor.with_suffix(".delv")
        flags, protocol, algorithm, *key = anchor.read_text().split()[4:]
        text = f'trust-anchors {{ "." static-key {flags} {protocol} {algorithm} "{"".join(key)}"; }};\n'
        self._anchor.write_text(text)

    def verdict(self, port: int, name: str, type: str = "TXT") -> set[str]:
        """How it calls what it was answered, and the TXT records among it; nothing, if it takes nothing."""
        command = ["delv", f"@{HOST}", "-p", str(port), "-a", str(self._anchor), "+nomultiline", name, type]
        said = self._box.run(command, check=False).stdout.decode(errors="replace")
        words = "|".join((self.SECURE, self.INSECURE, self.NO_SUCH, self.NO_SUCH_INSECURE))
        texts = re.findall(r"\sTXT\s+\"(.*)\"$", said, re.MULTILINE)
        return {*re.findall(rf"^; ({words})$", said, re.MULTILINE), *(text.replace('" "', "") for text in texts)}


class RigDnsTest(SandboxCase):
    """The name server serves what a validator accepts, and the liar tells each of its lies."""

    named: ClassVar[Named]
    liar: ClassVar[Liar]
    delv: ClassVar[Delv]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.named = Named(cls.box)
        cls.liar = Liar(cls.box, cls.named.port)
        cls.delv = Delv(cls.box, cls.named.anchor)
        publish_attackers(cls.named)
        zones = [zone for zone in ZONES if zone not in (".", "test.")]
        cls.named.publish_all({(zone, "bob._tox"): [tox1(f"bob@{zone}")] for zone in zones})

    def setUp(self) -> None:
        self.liar.mode, self.liar.victim, self.liar.attacker, self.liar.delay = "honest", None, PLAIN, 5.0

    def lie(self, mode: str, zone: str = "example.test", type: str = "TXT", **options: Any) -> Message:
        """What the liar answers about bob, or about his zone."""
        self.liar.mode = mode
        return ask(self.liar.port, f"bob._tox.{zone}" if type == "TXT" else zone, type, **options)

    # The name server.

    def test_a_validator_accepts_every_zone(self) -> None:
        for zone, signing in ZONES.items():
            if zone in (".", "test."):
                continue
            with self.subTest(zone=zone):
                verdict = Delv.SECURE if signing else Delv.INSECURE
                expired = signing is not None and signing.expired
                expected = set() if expired else {verdict, tox1(f"bob@{zone}")}
                self.assertEqual(self.delv.verdict(self.named.port, f"bob._tox.{zone}"), expected)
                self.assertEqual(self.delv.verdict(self.liar.port, f"bob._tox.{zone}"), expected)
        for name, denial in (
            ("nobody._tox.example.test.", Delv.NO_SUCH),
            ("nobody._tox.rsa.test.", Delv.NO_SUCH),
            ("_tox.rsa.test.", Delv.NO_SUCH),
            ("bob._tox.nowhere.test.", Delv.NO_SUCH),
            ("nobody._tox.plain.test.", Delv.NO_SUCH_INSECURE),
        ):
            with self.subTest(name=name):
                self.assertEqual(self.delv.verdict(self.named.port, name), {denial})

    def test_another_root_key_is_not_trusted(self) -> None:
        deceived = Delv(self.box, Named(self.box, "other-named").anchor)
        for zone in TABLE_ZONES:
            self.assertEqual(deceived.verdict(self.named.port, f"bob._tox.{zone}"), set())

    def test_it_is_private(self) -> None:
        status = Path(f"/proc/{self.named.process.pid}/status").read_text()
        self.assertNotIn("\nUid:\t0\t", status, f"not {UNPRIVILEGED}")
        refused = ask(self.named.port, "example.org.")
        self.assertEqual(refused.rcode, NXDOMAIN, "its root knows no org., and asks nobody")
        self.assertEqual(self.named.anchor.read_text().split()[:7], ". 300 IN DNSKEY 257 3 8".split())

    def test_dig_reads_the_same(self) -> None:
        for port in (self.named.port, self.liar.port):
            for flag in ("+notcp", "+tcp"):
                asked = ["dig", f"@{HOST}", "-p", str(port), "+dnssec", "+noall", "+answer", flag]
                said = self.box.run([*asked, "bob._tox.rsa.test", "TXT"])
                lines = [line.split() for line in said.stdout.decode().splitlines()]
                self.assertEqual([line[3] for line in lines], ["TXT", "RRSIG"])
                self.assertEqual(lines[0][4], f'"{tox1("bob@rsa.test.")}"')
                # Once more, by the codec of this rig: all but names is octet by octet the same.
                answer = ask(port, "bob._tox.rsa.test.", tcp=flag == "+tcp")
                self.assertEqual([record.type for record in answer.answers], ["TXT", "RRSIG"])
                self.assertEqual(answer.texts(), [tox1("bob@rsa.test.")])
                self.assertEqual(Message.parse(answer.pack()), answer)

    def test_records_of_all_forms(self) -> None:
        text = tox1("split")
        thrice = [text[:20], text[20:21], text[21:]]
        odd = 'quo"ted\\back ünd'
        for owner, published, expected in (
            ("split._tox", [thrice], [[part.encode() for part in thrice]]),
            ("two._tox", ["one", "two"], [[b"one"], [b"two"]]),
            ("odd._tox", [odd, ""], [[odd.encode()], [b""]]),
            ("first.last._tox", ["dots"], [[b"dots"]]),
        ):
            with self.subTest(owner=owner):
                self.named.publish("example.test", owner, *published)
                answer = self.named.ask(f"{owner}.example.test.")
                found = [record.strings for record in answer.answers if record.type == "TXT"]
                self.assertCountEqual(found, expected)
                self.assertIn(Delv.SECURE, self.delv.verdict(self.named.port, f"{owner}.example.test."))

    def test_aliases_are_followed_by_the_resolver(self) -> None:
        self.named.publish("example.test", "here._tox", Rr("CNAME", "bob._tox"))
        self.named.publish("example.test", "there._tox", Rr("CNAME", "bob._tox.alice.test."))
        self.named.publish("example.test", "out._tox", Rr("CNAME", "bob._tox.plain.test."))
        self.named.publish("example.test", "lost._tox", Rr("CNAME", "nobody._tox.alice.test."))
        self.named.publish("alice.test", "round._tox", Rr("CNAME", "round._tox.rsa.test."))
        self.named.publish("rsa.test", "round._tox", Rr("CNAME", "round._tox.alice.test."))
        for owner, verdicts, texts, rcode in (
            ("here._tox.example", {Delv.SECURE}, [tox1("bob@example.test.")], NOERROR),
            ("there._tox.example", {Delv.SECURE}, [tox1("bob@alice.test.")], NOERROR),
            ("out._tox.example", {Delv.SECURE, Delv.INSECURE}, [tox1("bob@plain.test.")], NOERROR),
            ("lost._tox.example", {Delv.SECURE}, [], NXDOMAIN),
            ("round._tox.alice", {Delv.SECURE}, [], NOERROR),
        ):
            with self.subTest(owner=owner):
                answer = ask(self.liar.port, f"{owner}.test.")
                self.assertEqual((answer.texts(), answer.rcode), (texts, rcode))
                self.assertEqual(self.delv.verdict(self.liar.port, f"{owner}.test."), {*verdicts, *texts})

    def test_published_replaced_and_removed(self) -> None:
        for zone in TABLE_ZONES:
            with self.subTest(zone=zone):
                name = f"changing._tox.{zone}."
                started = time.monotonic()
                for number in range(5):
                    self.named.publish(zone, "changing._tox", tox1(f"{number}"))
                    self.assertEqual(self.named.ask(name).texts(), [tox1(f"{number}")])
                verdict = Delv.INSECURE if zone == "plain.test" else Delv.SECURE
                self.assertEqual(self.delv.verdict(self.named.port, name), {verdict, tox1("4")})
                self.named.publish(zone, "changing._tox")
                self.assertEqual(self.named.ask(name).rcode, NXDOMAIN)
                self.assertLess(time.monotonic() - started, 30)
        with self.assertRaises(RigError):
            self.named.publish("example.org", "bob._tox", "x")

    # The liar.

    def test_what_each_lie_is(self) -> None:
        true, forged = tox1("bob@example.test."), f"v=tox1;id={tampered_id(some_id('bob@example.test.'))}"
        false = FORGED_TXT.decode()
        signed = {"TXT", "RRSIG"}

        def answer_types(answer: Message) -> list[str]:
            return [record.type for record in answer.answers]

        honest = self.lie("honest")
        self.assertEqual((honest.texts(), set(answer_types(honest))), ([true], signed))
        # Whatever is not about TXT records is as it was, unless it says otherwise.
        kinds = ("DNSKEY", "DS")
        honest_kinds = {kind: self.lie("honest", type=kind).answers for kind in kinds}
        for mode in (
            *("tampered", "stripped", "invented-cut", "cname-injected", "txt-added", "foreign-txt-first"),
            *("replayed-nodata", "nxdomain-without-proof", "ad-forged"),
        ):
            for kind in kinds:
                self.assertCountEqual(self.lie(mode, type=kind).answers, honest_kinds[kind], f"{mode} {kind}")

        for mode, texts, types in (
            ("tampered", [forged], ["TXT", "RRSIG"]),
            ("stripped", [true], ["TXT"]),
            ("stripped-all", [true], ["TXT"]),
            ("downgraded", [forged], ["TXT"]),
            ("invented-cut", [forged], ["TXT"]),
            ("cname-injected", [false], ["CNAME", "TXT"]),
            ("txt-added", [true, false], ["TXT", "RRSIG", "TXT"]),
            ("foreign-txt-first", [false, true], ["TXT", "TXT", "RRSIG"]),
            ("replayed-nodata", [], []),
            ("nxdomain-without-proof", [], []),
            ("ad-forged", [forged], ["TXT"]),
            ("servfail", [], []),
            ("refused", [], []),
        ):
            with self.subTest(mode=mode):
                answer = self.lie(mode)
                self.assertEqual((answer.texts(), answer_types(answer)), (texts, types))
                self.assertEqual(text_of(answer.question.name), "bob._tox.example.test.")
                code = {"nxdomain-without-proof": NXDOMAIN, "servfail": SERVFAIL, "refused": REFUSED}
                self.assertEqual(answer.rcode, code.get(mode, NOERROR))
                self.assertEqual(bool(answer.flags & AD), mode == "ad-forged")

        self.assertEqual(self.lie("stripped-all").types(), {"TXT"})
        self.assertEqual(self.lie("stripped-all", type="DNSKEY").answers, [])
        self.assertEqual(self.lie("downgraded", type="DS").types(), {"OPT"})
        self.assertEqual([text_of(r.name) for r in self.lie("invented-cut").authority], ["_tox.example.test."])
        self.assertEqual(self.lie("foreign-txt-first").texts("bob._tox.example.test."), [true])
        self.assertEqual(self.lie("foreign-txt-first").texts(PLAIN), [false])
        self.assertLessEqual({"SOA", "NSEC", "RRSIG"}, self.lie("replayed-nodata").types())
        self.assertEqual(self.lie("nxdomain-without-proof").types(), {"SOA", "OPT"})
        self.assertTrue(self.lie("ad-forged", type="DS").flags & AD)
        self.liar.attacker = MALLORY
        self.assertEqual(answer_types(self.lie("cname-injected")), ["CNAME", "TXT", "RRSIG"])

    def test_how_it_answers_or_does_not(self) -> None:
        true = tox1("bob@example.test.")
        for mode in ("truncated", "truncated-no-tcp"):
            answer = self.lie(mode)
            self.assertTrue(answer.flags & TC)
            self.assertEqual(answer.answers, [])
        self.assertEqual(self.lie("truncated", tcp=True).texts(), [true])
        with self.assertRaises(ConnectionError):
            self.lie("truncated-no-tcp", tcp=True)
        for tcp in (False, True):
            with self.subTest(tcp=tcp):
                with self.assertRaises(TimeoutError):
                    self.lie("silent", tcp=tcp, timeout=0.2)
                with self.assertRaises(TimeoutError):
                    self.lie("slow", tcp=tcp, timeout=0.2)
                self.liar.delay = 0.1
                started = time.monotonic()
                self.assertEqual(self.lie("slow", tcp=tcp).texts(), [true])
                self.assertGreaterEqual(time.monotonic() - started, 0.1)
                self.liar.delay = 5.0
        query = Message.query(name_of("bob._tox.example.test."), "TXT")
        self.liar.mode = "wrong-id"
        self.assertNotEqual(Message.parse(exchange(self.liar.port, query.pack())).id, query.id)
        self.liar.mode = "raced"
        first = Message.parse(exchange(self.liar.port, query.pack()))
        self.assertNotEqual(first.id, query.id)
        self.assertEqual(first.texts(), [f"v=tox1;id={tampered_id(some_id('bob@example.test.'))}"])
        self.liar.mode = "garbage"
        garbage = exchange(self.liar.port, query.pack())
        self.assertEqual(garbage[:2], query.pack()[:2])
        with self.assertRaises(ValueError):
            Message.parse(garbage)

    def test_long_answers_are_cut_by_udp_only(self) -> None:
        self.named.publish("rsa.test", "long._tox", *("x" * 250 + str(number) for number in range(9)))
        self.assertTrue(ask(self.liar.port, "long._tox.rsa.test.").flags & TC)
        self.assertEqual(len(ask(self.liar.port, "long._tox.rsa.test.", tcp=True).texts()), 9)
        short = ask(self.liar.port, "bob._tox.rsa.test.", dnssec=False)
        self.assertEqual(short.texts(), [tox1("bob@rsa.test.")])

    def test_it_keeps_what_was_asked_and_whom_it_lies_about(self) -> None:
        self.liar.queries.clear()
        self.liar.mode, self.liar.victim = "refused", "bob._tox.rsa.test."
        self.assertEqual(ask(self.liar.port, "BoB._tOx.ExAmple.test.").rcode, NOERROR)
        upper = ask(self.liar.port, "BOB._tox.rsa.test.", tcp=True)
        self.assertEqual((upper.rcode, upper.question.name[0]), (REFUSED, b"BOB"))
        self.assertEqual(self.liar.queries, [("bob._tox.example.test.", "TXT"), ("bob._tox.rsa.test.", "TXT")])
        with self.assertRaises(RigError):
            self.liar.mode = "truthful"

    def test_tampering_keeps_form_and_checksum(self) -> None:
        text = f"v = tox1 ; id = {some_id('form').lower()}"
        self.named.publish("plain.test", "form._tox", [text[:20], text[20:50], text[50:]])
        self.liar.mode = "tampered"
        (record,) = (r for r in ask(self.liar.port, "form._tox.plain.test.").answers if r.type == "TXT")
        forged = record.text.partition("id = ")[2]
        self.assertEqual([len(part) for part in record.strings], [20, 30, len(text) - 50])
        self.assertEqual(forged.upper(), tampered_id(some_id("form")))
        self.assertNotEqual(forged.upper()[:64], some_id("form")[:64])
        self.assertEqual(checked(bytes.fromhex(forged)[:36]), forged.upper())

    def test_a_validator_sees_through_each_lie(self) -> None:
        false = FORGED_TXT.decode()
        # It has no patience to set, so not with those that never end.
        for mode in [mode for mode in MODES if mode not in ("silent", "slow", "wrong-id", "garbage")]:
            self.liar.mode = mode
            for zone in TABLE_ZONES:
                address = f"bob@{zone}."
                true, tampered = tox1(address), f"v=tox1;id={tampered_id(some_id(address))}"
                if zone != "plain.test":
                    harmless = mode in ("honest", "truncated", "raced", "foreign-txt-first")
                    expected = {Delv.SECURE, true} if harmless else set()
                elif mode in ("stripped-all", "downgraded", "servfail", "refused", "truncated-no-tcp"):
                    expected = set()
                elif mode in ("replayed-nodata", "nxdomain-without-proof"):
                    expected = {Delv.NO_SUCH_INSECURE}
                elif mode in ("tampered", "invented-cut", "ad-forged"):
                    expected = {Delv.INSECURE, tampered}
                elif mode == "cname-injected":
                    expected = {Delv.INSECURE, false}
                else:
                    expected = {Delv.INSECURE, true, *([false] if mode == "txt-added" else [])}
                with self.subTest(mode=mode, zone=zone):
                    self.assertEqual(self.delv.verdict(self.liar.port, f"bob._tox.{zone}."), expected)

    def test_random_octets_are_no_message_or_one(self) -> None:
        seed = 1
        choice = random.Random(seed)
        whole = self.named.ask("nobody._tox.rsa.test.").pack()
        for _ in range(3000):
            octets = bytearray(whole)
            for _ in range(choice.randrange(1, 8)):
                octets[choice.randrange(len(octets))] = choice.randrange(256)
            del octets[choice.randrange(12, len(octets) + 1) :]
            with contextlib.suppress(ValueError):
                Message.parse(bytes(octets))


@dataclass(frozen=True)
class Outcome:
    """What a lookup may say. `finds` is one of "published", "tampered", "forged"; `proof`, `status` are patterns."""

    finds: str | None
    proof: str
    status: str = "None"
    words: str = ""


SECURE = Outcome("published", "secure")
INSECURE = Outcome("published", "insecure")
# Nothing protects a domain that is not signed: what comes of it is not called more than it is.
TAMPERED = Outcome("tampered", "insecure")
FORGED = Outcome("forged", "insecure")
AMBIGUOUS = Outcome(None, "insecure|none", r"4\.\d\.\d", "ambiguous|different|several")
UNPROVED = Outcome(None, "insecure|none", r"4\.\d\.\d")
BOGUS = Outcome(None, "bogus", r"4\.4\.3", "DNSSEC")
NO_DNSSEC = Outcome(None, "bogus", r"4\.4\.3", "resolver.*DNSSEC")


def failed(words: str) -> Outcome:
    """No answer; the words name the cause."""
    return Outcome(None, "none", r"4\.4\.3", words)


LATE = failed("time|in time|no answer|not answer")


@dataclass(frozen=True)
class Case:
    """A lie, and what may come of it for a signed zone and for one that is not."""

    mode: str
    signed: Sequence[Outcome]
    unsigned: Sequence[Outcome]
    attacker: str = PLAIN

    @property
    def is_lie(self) -> bool:
        """Whether DNSSEC is what gives it away, where there is DNSSEC."""
        return any(outcome.proof == "bogus" for outcome in self.signed)


CASES = (
    Case("honest", [SECURE], [INSECURE]),
    Case("tampered", [BOGUS], [TAMPERED]),
    Case("stripped", [BOGUS], [INSECURE]),
    Case("stripped-all", [NO_DNSSEC], [NO_DNSSEC]),
    Case("downgraded", [BOGUS], [BOGUS]),
    Case("invented-cut", [BOGUS], [TAMPERED]),
    Case("cname-injected", [BOGUS], [FORGED]),
    Case("cname-injected", [BOGUS], [FORGED], MALLORY),
    Case("txt-added", [BOGUS], [AMBIGUOUS]),
    # Whether the record of somebody else makes the whole answer worthless, or nothing, is the validator's choice.
    Case("foreign-txt-first", [SECURE, BOGUS], [INSECURE, BOGUS]),
    Case("foreign-txt-first", [SECURE, BOGUS], [INSECURE, BOGUS], MALLORY),
    Case("replayed-nodata", [BOGUS], [UNPROVED]),
    Case("nxdomain-without-proof", [BOGUS], [UNPROVED]),
    Case("ad-forged", [BOGUS], [TAMPERED]),
    Case("servfail", [failed("SERVFAIL|server fail")], [failed("SERVFAIL|server fail")]),
    Case("refused", [failed("refuse")], [failed("refuse")]),
    Case("truncated", [SECURE], [INSECURE]),
    Case("truncated-no-tcp", [failed("trunc|TCP|answer|time")], [failed("trunc|TCP|answer|time")]),
    Case("slow", [LATE], [LATE]),
    Case("silent", [LATE], [LATE]),
    Case("wrong-id", [LATE], [LATE]),
    # Waiting on for the right one or giving up: both are safe.
    Case("raced", [SECURE, LATE], [INSECURE, LATE]),
    Case("garbage", [failed("")], [failed("")]),
)


class LookupTableTest(SandboxCase):
    """`toxctl name lookup` against every lie: it never takes a Tox ID that was not published for a proved one."""

    named: ClassVar[Named]
    liar: ClassVar[Liar]
    bootstrap: ClassVar[Bootstrap]
    binaries: ClassVar[Path]
    agent: ClassVar[Agent]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.named = Named(cls.box)
        cls.liar = Liar(cls.box, cls.named.port)
        cls.bootstrap = Bootstrap(cls.box)
        cls.binaries = install_programs(cls.box, BIN)
        publish_attackers(cls.named)
        records: dict[tuple[str, str], list[Published]] = {}
        for zone in TABLE_ZONES:
            names = [f"{word}-{number}" for word in ("cold", "near", "warm") for number in range(len(CASES))]
            for local in ("bob", *names):
                records[zone, f"{local}._tox"] = [tox1(f"{local}@{zone}")]
            records[zone, "empty._tox"] = [Rr("A", "192.0.2.1")]
        records["expired.test", "bob._tox"] = [tox1("bob@expired.test")]
        records["alice.test", "bob._tox"] = [tox1("bob@alice.test")]
        records["alice.test", "_tox"] = [tox1("alice.test")]
        cls.named.publish_all(records)
        cls.agent = cls.new_agent("asker")

    @classmethod
    def new_agent(cls, name: str, **names: Any) -> Agent:
        """An agent that asks the liar and trusts the private root, unless `names` has something else."""
        section = {
            "resolver": [f"{HOST}:{cls.liar.port}"],
            "trust_anchor": str(cls.named.anchor),
            "unsigned": "ask",
            "timeout": "2s",
        }
        return Agent(
            cls.box,
            name,
            binaries=cls.binaries,
            bootstrap=cls.bootstrap,
            addresses=[f"{name}@tox.example"],
            senders=[f"{name}@{name}.example"],
            settings={"names": {**section, **names}},
        )

    def setUp(self) -> None:
        self.liar.mode, self.liar.victim, self.liar.attacker, self.liar.delay = "honest", None, PLAIN, 60.0
        self.agent.require_alive()

    def look_up(self, address: str, agent: Agent | None = None) -> dict[str, Any]:
        """What `toxctl name lookup` finds, and that it is an answer of the right form."""
        socket = (agent or self.agent).control_socket
        command: list[str | Path] = [self.binaries / "toxctl", "--socket", socket, "name", "lookup", address, "--json"]
        done = self.box.run(command, check=False, timeout=120)
        try:
            found: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise RigError(f"toxctl name lookup {address}: {done.returncode} {done.stdout!r} {done.stderr!r}") from None
        tox_id = found["tox_id"]
        self.assertEqual(done.returncode, 0 if tox_id else 1, found)
        self.assertIn(found["proof"], ("secure", "insecure", "bogus", "none"), found)
        self.assertIs(type(found["permanent"]), bool, found)
        if tox_id is None:
            # Whoever is told that there is none is told why, and in one line.
            self.assertRegex(str(found["status"]), r"^[45]\.\d+\.\d+$", found)
            self.assertEqual(found["permanent"], found["status"].startswith("5."), found)
            self.assertRegex(found["text"], r"^\S.*\S$", found)
        else:
            self.assertRegex(tox_id, r"^[0-9A-F]{76}$", found)
            self.assertEqual(str(found["key"]).upper(), tox_id[:64], found)
            self.assertIn(found["via"], ("name", "domain"), found)
            self.assertIn(found["proof"], ("secure", "insecure"), found)
            self.assertFalse(found["permanent"], found)
        return found

    def look_up_all(self, local: str) -> dict[str, dict[str, Any]]:
        """The same local part in all zones of the table, side by side."""
        with ThreadPoolExecutor(len(TABLE_ZONES)) as pool:
            found = pool.map(lambda zone: self.look_up(f"{local}@{zone}"), TABLE_ZONES)
            return dict(zip(TABLE_ZONES, found, strict=True))

    def assert_no_wrong_accept(self, found: Mapping[str, Any], address: str) -> None:
        """The one thing that must never happen."""
        published = some_id(address)
        if address.endswith("@plain.test"):
            self.assertNotEqual(found["proof"], "secure", found)
            self.assertIn(found["tox_id"], (None, published, tampered_id(published), FORGED_ID), found)
        else:
            self.assertIn(found["tox_id"], (None, published), found)
        if found["tox_id"] is None:
            self.assertFalse(found["permanent"], f"a mail bounces by a lie: {found}")

    def assert_one_of(self, found: Mapping[str, Any], address: str, outcomes: Sequence[Outcome]) -> None:
        """That the lookup says what one of them says."""
        ids = {"published": some_id(address), "tampered": tampered_id(some_id(address)), "forged": FORGED_ID}
        for outcome in outcomes:
            if (
                found["tox_id"] == (ids[outcome.finds] if outcome.finds else None)
                and re.fullmatch(outcome.proof, found["proof"])
                and re.fullmatch(outcome.status, str(found["status"]))
                and re.search(outcome.words, found["text"] or "", re.IGNORECASE)
            ):
                return
        self.fail(f"{address}: {json.dumps(found, indent=1)}\nis none of {outcomes}")

    def test_every_lie_in_every_zone(self) -> None:
        self.assertEqual({case.mode for case in CASES}, set(MODES), "a mode without a row")
        for number, case in enumerate(CASES):
            with self.subTest(mode=case.mode, attacker=case.attacker):
                # An agent that has never asked anything remembers nothing that would protect it.
                self.liar.mode, self.liar.attacker = case.mode, case.attacker
                self.agent.stop()
                self.agent.start()
                for zone, found in self.look_up_all(f"cold-{number}").items():
                    with self.subTest(mode=case.mode, attacker=case.attacker, zone=zone):
                        address = f"cold-{number}@{zone}"
                        self.assert_no_wrong_accept(found, address)
                        self.assert_one_of(found, address, case.unsigned if zone == "plain.test" else case.signed)

    def test_a_lie_after_the_truth(self) -> None:
        for number, case in enumerate(CASES):
            if not case.is_lie:
                continue
            with self.subTest(mode=case.mode, attacker=case.attacker):
                self.liar.mode, self.liar.attacker = "honest", case.attacker
                for zone, found in self.look_up_all(f"near-{number}").items():
                    self.assert_one_of(found, f"near-{number}@{zone}", [INSECURE if zone == "plain.test" else SECURE])
                self.liar.mode = case.mode
                for zone, found in self.look_up_all(f"warm-{number}").items():
                    self.assert_no_wrong_accept(found, f"warm-{number}@{zone}")
                # And it does not stick.
                self.liar.mode = "honest"
                for zone, found in self.look_up_all(f"warm-{number}").items():
                    self.assert_one_of(found, f"warm-{number}@{zone}", [INSECURE if zone == "plain.test" else SECURE])

    def test_what_is_reported(self) -> None:
        self.liar.queries.clear()
        found = self.look_up("bob@example.test")
        self.assertEqual(
            {key: found[key] for key in ("address", "tox_id", "via", "method", "proof", "permanent", "status")},
            {
                "address": "bob@example.test",
                "tox_id": some_id("bob@example.test"),
                "via": "name",
                "method": "tox1",
                "proof": "secure",
                "permanent": False,
                "status": None,
            },
        )
        (step,) = found["steps"]
        self.assertEqual((step["query"], step["type"], step["proof"]), ("bob._tox.example.test.", "TXT", "secure"))
        self.assertEqual(step["records"], [tox1("bob@example.test")])
        self.assertGreaterEqual(step["ms"], 0)
        self.assertIn(("bob._tox.example.test.", "TXT"), self.liar.queries)
        # Nothing but what the name needs, and what proves it, is told to the resolver.
        allowed = {".", "test.", "example.test.", "_tox.example.test.", "bob._tox.example.test."}
        self.assertLessEqual({name for name, _ in self.liar.queries}, allowed)

    def test_slow_but_in_time(self) -> None:
        self.liar.mode, self.liar.delay = "slow", 0.02
        self.assert_one_of(self.look_up("bob@rsa.test"), "bob@rsa.test", [SECURE])

    def test_no_such_name(self) -> None:
        for local in ("nobody", "empty"):
            for zone in ("example.test", "rsa.test"):
                with self.subTest(local=local, zone=zone):
                    found = self.look_up(f"{local}@{zone}")
                    got = (found["tox_id"], found["permanent"], found["status"], found["proof"])
                    self.assertEqual(got, (None, True, "5.1.1", "secure"), found)
            with self.subTest(local=local, zone="plain.test"):
                self.assert_one_of(self.look_up(f"{local}@plain.test"), f"{local}@plain.test", [UNPROVED])
        found = self.look_up("bob@nowhere.test")
        self.assertRegex(found["status"], r"^5\.1\.[12]$", found)

    def test_broken_chains_of_trust(self) -> None:
        self.assert_one_of(self.look_up("bob@expired.test"), "bob@expired.test", [BOGUS])
        other = Named(self.box, "other-named")
        deceived = self.new_agent("deceived", trust_anchor=str(other.anchor))
        for zone in TABLE_ZONES:
            with self.subTest(zone=zone):
                found = self.look_up(f"bob@{zone}", deceived)
                self.assert_one_of(found, f"bob@{zone}", [BOGUS])
        deceived.stop()

    def test_the_record_of_the_domain(self) -> None:
        for address, via, published in (
            ("bob@alice.test", "name", "bob@alice.test"),
            ("anybody@alice.test", "domain", "alice.test"),
        ):
            with self.subTest(address=address):
                found = self.look_up(address)
                self.assertEqual((found["tox_id"], found["via"]), (some_id(published), via), found)
                self.assertEqual(found["proof"], "secure", found)
        # Whoever can only deny bob's record must not lead his mail to the domain's.
        self.liar.victim = "bob._tox.alice.test."
        for mode in (
            *("tampered", "stripped", "cname-injected", "replayed-nodata", "nxdomain-without-proof"),
            *("servfail", "refused", "truncated-no-tcp", "silent"),
        ):
            with self.subTest(mode=mode):
                self.liar.mode = mode
                found = self.look_up("bob@alice.test")
                self.assertEqual((found["tox_id"], found["permanent"]), (None, False), found)

    def test_records_of_all_forms(self) -> None:
        text = tox1("good")
        split = [text[:5], text[5:40], text[40:]]
        two_names = [tox1("good"), tox1("other")]
        good = some_id("good")
        forms: tuple[tuple[str, list[Published], str | None], ...] = (
            ("split", [split], good),
            ("lower", [text.lower()], good),
            ("spaces", [f" v = tox1 ;\tid = {good.lower()} ; "], good),
            ("more", [f"{text};x=y"], good),
            ("among", ["v=spf1 -all", "hello", text, ""], good),
            ("same-twice", [text, text.lower()], good),
            ("ambiguous", list(two_names), None),
            ("first.last", [text], good),
            ("checksum", [text[:-1] + ("1" if text[-1] == "0" else "0")], None),
            ("short", [text[:-2]], None),
            ("not-tox", ["v=spf1 -all"], None),
        )
        self.named.publish_all({("example.test", f"{local}._tox"): records for local, records, _ in forms})
        for local, records, expected in forms:
            with self.subTest(local=local, records=records):
                found = self.look_up(f"{local}@example.test")
                self.assertEqual(found["tox_id"], expected, found)
                if expected:
                    self.assertEqual((found["proof"], found["via"], found["method"]), ("secure", "name", "tox1"), found)
                if local == "ambiguous":
                    self.assertFalse(found["permanent"], found)
                    self.assertRegex(json.dumps(found), r"(?i)ambiguous")

    def test_upper_case_is_the_same_name(self) -> None:
        found = self.look_up("BOB@Example.TEST")
        self.assertEqual((found["tox_id"], found["proof"]), (some_id("bob@example.test"), "secure"), found)

    def test_aliases_are_as_strong_as_their_weakest_part(self) -> None:
        aliases = {
            ("example.test", "here._tox"): "bob._tox.example.test.",
            ("example.test", "signed._tox"): "far._tox.alice.test.",
            ("alice.test", "far._tox"): "bob._tox.rsa.test.",
            ("example.test", "open._tox"): "bob._tox.plain.test.",
            ("plain.test", "back._tox"): "bob._tox.example.test.",
            ("example.test", "through._tox"): "back._tox.plain.test.",
            ("example.test", "lost._tox"): "nobody._tox.rsa.test.",
            ("alice.test", "round._tox"): "round._tox.rsa.test.",
            ("rsa.test", "round._tox"): "round._tox.alice.test.",
        }
        self.named.publish_all({place: [Rr("CNAME", target)] for place, target in aliases.items()})
        for address, published, proof in (
            ("here@example.test", "bob@example.test", "secure"),
            ("signed@example.test", "bob@rsa.test", "secure"),
            ("open@example.test", "bob@plain.test", "insecure"),
            ("back@plain.test", "bob@example.test", "insecure"),
            ("through@example.test", "bob@example.test", "insecure"),
        ):
            with self.subTest(address=address):
                found = self.look_up(address)
                self.assertEqual((found["tox_id"], found["proof"]), (some_id(published), proof), found)
        found = self.look_up("lost@example.test")
        self.assertIsNone(found["tox_id"], found)
        found = self.look_up("round@rsa.test")
        self.assertEqual((found["tox_id"], found["permanent"]), (None, False), found)


if __name__ == "__main__":
    unittest.main()
