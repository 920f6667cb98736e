"""Names looked up in the DNS: a private root and its domains, signed or not, behind a resolver that lies.

python3 -m unittest discover -s tests/e2e -p test_names.py      # TOXMAIL_BIN=DIR for programs elsewhere
"""

import contextlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
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
from rig.mail import find_in_maildir, header, sample_mail
from rig.named import ZONES, Named, Published, Rr
from rig.net import HOST
from rig.postfix import Postfix
from rig.sandbox import UNPRIVILEGED, RigError, Sandbox
from rig.wait import wait_for

BIN = Path(os.environ.get("TOXMAIL_BIN", Path(__file__).resolve().parents[2] / "target/release"))

VECTORS = Path(__file__).resolve().parents[1] / "data" / "tox-dns-vectors.json"

# Signed with NSEC, signed with NSEC3, not signed.
TABLE_ZONES = ("example.test", "rsa.test", "plain.test")
PLAIN = "evil._tox.plain.test."
MALLORY = "evil._tox.mallory.test."


def some_id(name: str) -> str:
    """A Tox ID of nobody, another one for each name."""
    octets = bytearray(random.Random(name).randbytes(36))
    octets[31] &= 0x7F
    return checked(bytes(octets))


def domain(name: str, **keys: str) -> str:
    """What the configuration says of a domain."""
    return f"[[names.domain]]\nname = '{name}'\n" + "".join(f"{key} = '{value}'\n" for key, value in keys.items())


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
        # Nor is bob an alias.
        skipped = ("silent", "slow", "wrong-id", "garbage", "second-cname-forged")
        for mode in [mode for mode in MODES if mode not in skipped]:
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

    def test_a_forged_alias_behind_a_proved_one_with_a_proved_denial_at_its_end(self) -> None:
        for zone in TABLE_ZONES:
            with self.subTest(zone=zone):
                self.liar.mode = "honest"
                self.named.publish(zone, "alias._tox", Rr("CNAME", f"bob._tox.{zone}."))
                name, verdict = f"alias._tox.{zone}.", Delv.INSECURE if zone == "plain.test" else Delv.SECURE
                self.assertEqual(self.delv.verdict(self.liar.port, name), {verdict, tox1(f"bob@{zone}.")})
                self.liar.mode = "second-cname-forged"
                answer = ask(self.liar.port, name)
                aliases = [record for record in answer.answers if record.type == "CNAME"]
                self.assertEqual((len(aliases), answer.texts(), answer.rcode), (2, [], NXDOMAIN))
                self.assertNotIn(Delv.NO_SUCH, self.delv.verdict(self.liar.port, name))

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
    # The name of this row is an alias: its own record is a proved one, and so is that the forged target is not there.
    Case("second-cname-forged", [BOGUS], [UNPROVED, BOGUS]),
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
            for local in (name for name in names if CASES[int(name.split("-")[1])].mode == "second-cname-forged"):
                records[zone, f"behind-{local}._tox"] = records[zone, f"{local}._tox"]
                records[zone, f"{local}._tox"] = [Rr("CNAME", f"behind-{local}._tox.{zone}.")]
            records[zone, "empty._tox"] = [Rr("A", "192.0.2.1")]
        records["expired.test", "bob._tox"] = [tox1("bob@expired.test")]
        records["alice.test", "bob._tox"] = [tox1("bob@alice.test")]
        records["alice.test", "_tox"] = [tox1("alice.test")]
        cls.named.publish_all(records)
        cls.agent = cls.new_agent("asker")

    @classmethod
    def new_agent(cls, name: str, *, extra_config: str = "", **names: Any) -> Agent:
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
            extra_config=extra_config,
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

    def test_a_proof_about_the_end_of_an_alias_proves_nothing_of_its_beginning(self) -> None:
        # Whoever can invent an alias in a zone that is not signed could bounce mail with somebody else's proof.
        for target in ("nobody._tox.example.test.", "nobody.test."):
            self.named.publish("plain.test", "alias._tox", Rr("CNAME", target))
            found = self.look_up("alias@plain.test")
            self.assertEqual((found["tox_id"], found["permanent"], found["status"][0]), (None, False, "4"), found)
            self.assertNotEqual(found["proof"], "secure", found)

    def test_encrypted_queries_where_the_key_of_the_server_is_known(self) -> None:
        program = self.binaries / "tox3_server"
        shutil.copy(BIN / "examples" / "tox3_server", program)
        server = subprocess.Popen(
            [program, "11" * 32, "zoë", some_id("zoe")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert server.stdin is not None and server.stdout is not None
        try:
            port, key = server.stdout.readline().split()
            asker = self.new_agent("tox3", extra_config=domain("plain.test", tox3_key=key))
            self.liar.tox3_port = int(port)
            self.liar.queries.clear()
            found = self.look_up("Zoë@plain.test", asker)
            self.assertEqual((found["tox_id"], found["method"], found["proof"]), (some_id("zoe"), "tox3", "secure"), found)
            names = [name for name, _ in self.liar.queries]
            self.assertFalse([name for name in names if "zo" in name.lower().split("._tox")[0][:4]], names)
            found = self.look_up("nobody@plain.test", asker)
            self.assertEqual((found["tox_id"], found["permanent"]), (None, False), found)
            # A reply that the server's key did not make opens nothing, and is no reason to believe a plain record.
            wrong = self.new_agent("tox3-wrong", extra_config=domain("plain.test", tox3_key="22" * 32))
            self.assertEqual(self.look_up("zoë@plain.test", wrong)["tox_id"], None)
            self.liar.tox3_port = None
            self.assertEqual(self.look_up("bob@plain.test", asker)["tox_id"], None)
        finally:
            self.liar.tox3_port = None
            server.stdin.close()
            server.wait(10)
            server.stdout.close()

    def test_records_that_must_be_signed_with_the_key_of_the_domain(self) -> None:
        vectors = json.loads(VECTORS.read_text())["sign"]
        forms = [vector["txt"] for vector in vectors["vectors"] if vector["name"] == "tarek"]
        asker = self.new_agent("signed", extra_config=domain("plain.test", sign_key=vectors["verify_key"]))
        for text in forms:
            self.named.publish("plain.test", "tarek._tox", text)
            found = self.look_up("tarek@plain.test", asker)
            self.assertEqual((found["tox_id"], found["proof"]), (text[10:86], "insecure"), "no proof of DNSSEC")
        stranger = self.new_agent("signed-wrong", extra_config=domain("plain.test", sign_key="33" * 32))
        self.assertEqual(self.look_up("tarek@plain.test", stranger)["tox_id"], None)
        for broken in (tox1("tarek"), f"{tox1('tarek')};sign={forms[0].partition('sign=')[2]}"):
            self.named.publish("plain.test", "tarek._tox", broken)
            found = self.look_up("tarek@plain.test", asker)
            self.assertEqual((found["tox_id"], found["status"]), (None, "4.4.3"), found)
            self.assertIn("sign", found["text"])

    def test_the_names_of_the_dead_services_are_not_asked(self) -> None:
        self.liar.queries.clear()
        for address in ("tarek@toxme.se", "tarek@TOXME.io"):
            found = self.look_up(address)
            self.assertEqual((found["tox_id"], found["status"]), (None, "5.1.1"), found)
            self.assertIn("names.allow_toxme", found["text"])
        self.assertEqual([name for name, _ in self.liar.queries if "toxme" in name.lower()], [])


class NamesEndToEndTest(SandboxCase):
    """Mail by name between agents, from the first mail to a key that changes: real Postfix, Tox and Maildirs."""

    named: ClassVar[Named]
    liar: ClassVar[Liar]
    bootstrap: ClassVar[Bootstrap]
    binaries: ClassVar[Path]
    alice: ClassVar[Agent]
    bob: ClassVar[Agent]
    carol: ClassVar[Agent]
    postfix: ClassVar[Postfix]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.named = Named(cls.box)
        cls.liar = Liar(cls.box, cls.named.port)
        cls.bootstrap = Bootstrap(cls.box)
        cls.binaries = install_programs(cls.box, BIN)
        cls.alice = cls.new_agent("alice", ["alice@example.test"])
        # Proved names are welcome at bob's; one agent serves two people under one key.
        cls.bob = cls.new_agent(
            "bob",
            ["bob@example.test", "bob@plain.test"],
            incoming="verified",
            extra_config=cls.mailbox("work", ["first.last@alice.test"]),
        )
        cls.carol = cls.new_agent("carol", ["carol@example.test"])
        for agent in (cls.alice, cls.bob, cls.carol):
            cls.named.publish("example.test", f"{agent.name}._tox", f"v=tox1;id={agent.tox_id}")
        cls.named.publish("plain.test", "bob._tox", f"v=tox1;id={cls.bob.tox_id}")
        cls.named.publish("alice.test", "_tox", f"v=tox1;id={cls.bob.tox_id}")
        cls.postfix = Postfix(
            cls.box,
            "postfix",
            domain="alice.example",
            lmtp_socket=cls.alice.lmtp_socket,
            program=cls.binaries / "tox-transport",
            domains=["example.test", "plain.test", "alice.test"],
        )

    @classmethod
    def mailbox(cls, name: str, addresses: Sequence[str]) -> str:
        maildir = cls.box.dir("bob-agent", user=UNPRIVILEGED) / name
        return f"[[account.mailbox]]\nname = '{name}'\naddresses = {json.dumps(addresses)}\nmaildir = '{maildir}'\n"

    @classmethod
    def new_agent(cls, name: str, addresses: Sequence[str], *, extra_config: str = "", **names: Any) -> Agent:
        section = {"resolver": [f"{HOST}:{cls.liar.port}"], "trust_anchor": str(cls.named.anchor), "timeout": "2s"}
        return Agent(
            cls.box,
            name,
            binaries=cls.binaries,
            bootstrap=cls.bootstrap,
            addresses=addresses,
            senders=[f"{name}@{name}.example"],
            extra_config=extra_config,
            settings={
                "names": {**section, **names},
                "queue": {"retry_min": "1s", "retry_max": "1s"},
            },
        )

    def setUp(self) -> None:
        self.liar.mode = "honest"

    def send(self, to: str, subject: str, sender: str = "alice@alice.example", author: str | None = None) -> str:
        """Give Postfix a mail; its Message-ID."""
        message_id = f"<{subject}@alice.example>"
        mail = sample_mail(
            sender=author or f"Alice <{sender}>", to=to, subject=subject, text="hello\n", message_id=message_id
        )
        queue_id = self.postfix.smtp(sender, [to], mail)
        self.assertEqual(self.postfix.wait_status(queue_id, to)[0], "sent")
        return message_id

    def arrived(self, maildir: Path, message_id: str, timeout: float = 120) -> bytes:
        """The mail, once it is in the Maildir."""
        found = wait_for(message_id, lambda: find_in_maildir(maildir, message_id) or None, timeout)
        self.assertEqual(len(found), 1)
        return found[0].read_bytes()

    def name(self, agent: Agent, address: str) -> dict[str, Any] | None:
        return next((dict(n) for n in agent.json("name", "list") if n["address"] == address), None)

    def queued(self, address: str) -> dict[str, Any]:
        """The last recipient with this address in alice's queue."""
        recipients = [r for mail in self.alice.json("queue", "list") for r in mail["recipients"]]
        return next(dict(r) for r in reversed(recipients) if r["address"] == address)

    def wait_state(self, address: str, state: str) -> dict[str, Any]:
        def probe() -> dict[str, Any] | None:
            name = self.name(self.alice, address)
            return name if name is not None and name["state"] == state else None

        return wait_for(f"{address} {state}", probe, 120)

    def notice(self, *words: bytes) -> bytes:
        """The notice in alice's Maildir that says all of it."""

        def probe() -> bytes | None:
            texts = (path.read_bytes() for path in (self.alice.maildir / "new").glob("*"))
            return next((text for text in texts if all(word in text for word in words)), None)

        return wait_for(f"notice of {words!r}", probe, 120)

    def test_1_a_first_mail_makes_the_contact_and_whoever_proves_his_name_is_welcome(self) -> None:
        message_id = self.send("bob@example.test", "first", author="Alice <alice@example.test>")
        text = self.arrived(self.bob.maildir, message_id)
        # Bob's agent has accepted alice by itself, as her claim is proved; so it knows her address as hers.
        results = header(text, "Authentication-Results") or ""
        self.assertIn("tox=pass", results)
        self.assertIn("header.from=alice@example.test", results)
        self.assertEqual((self.name(self.bob, "alice@example.test") or {}).get("key"), self.alice.key)
        self.assertEqual((self.name(self.alice, "bob@example.test") or {}).get("proof"), "secure")
        # What claims to be somebody else is marked, whether that name is there or not.
        for author, reason in (
            ("carol@example.test", "From leads to another key"),
            ("nobody@example.test", "From is not an address of this peer"),
            ("bob@plain.test", "From leads to another key"),
        ):
            message_id = self.send("bob@example.test", f"forged-{author[:3]}", author=f"Carol <{author}>")
            results = header(self.arrived(self.bob.maildir, message_id), "Authentication-Results") or ""
            self.assertIn(f"tox=fail ({reason})", results)
        shown = self.alice.json("contact", "show", "bob@example.test")
        self.assertEqual((shown["pins"][0]["method"], shown["tox_id"]), ("tox1", self.bob.tox_id))

    def test_2_a_domain_with_one_agent_for_all(self) -> None:
        message_id = self.send("first.last@alice.test", "whole-domain")
        text = self.arrived(self.box.path / "bob-agent" / "work", message_id)
        self.assertEqual(header(text, "Delivered-To"), f"first.last@{self.bob.address[:52]}.tox.alt")
        self.assertEqual((self.name(self.alice, "first.last@alice.test") or {}).get("via"), "domain")

    def test_3_a_name_without_proof_waits_for_the_operator(self) -> None:
        message_id = self.send("bob@plain.test", "unsigned")
        name = self.wait_state("bob@plain.test", "unconfirmed")
        self.assertEqual((name["offer"]["tox_id"], name["waiting"]), (self.bob.tox_id, 1))
        entry = self.queued("bob@plain.test")
        self.assertEqual((entry["state"], entry["status"]), ("held", "4.7.1"))
        self.assertIn("toxctl contact add bob@plain.test", entry["text"])
        self.assertIn("toxctl contact add bob@plain.test", self.alice.log)
        self.assertEqual(self.alice.account()["names_unconfirmed"], 1)
        self.assertEqual(find_in_maildir(self.bob.maildir, message_id), [])
        self.alice.ctl("contact", "add", "bob@plain.test")
        self.arrived(self.bob.maildir, message_id)
        self.assertEqual(self.wait_state("bob@plain.test", "pinned")["proof"], "insecure")

    def test_4_what_is_proved_absent_bounces_and_what_only_fails_waits(self) -> None:
        self.send("nobody@example.test", "absent")
        self.notice(b"Final-Recipient: rfc822; nobody@example.test", b"Action: failed\nStatus: 5.1.1")
        self.liar.mode = "nxdomain-without-proof"
        self.send("carla@example.test", "lied-about")

        def refused() -> dict[str, Any] | None:
            name = self.name(self.alice, "carla@example.test")
            return name if name is not None and name["text"] and "bogus" in name["text"] else None

        wait_for("look-ups that are not believed", refused, 60)
        entry = self.queued("carla@example.test")
        self.assertEqual((entry["state"], entry["status"]), ("held", "4.4.3"))
        self.liar.mode = "honest"
        self.named.publish("example.test", "carla._tox", f"v=tox1;id={self.bob.tox_id}")
        # It waited for the truth; that it leads to bob, who has no such address, bob's agent says.
        self.notice(b"Final-Recipient: rfc822; carla@example.test", b"Action: failed\nStatus: 5.1.1")

    def test_5_a_changed_key_holds_all_mail_until_it_is_accepted(self) -> None:
        first = self.send("bob@example.test", "before")
        self.arrived(self.bob.maildir, first)
        # Nothing that goes wrong with the DNS stops mail to a pinned contact.
        for mode in ("servfail", "stripped-all"):
            self.liar.mode = mode
            self.alice.ctl("contact", "refresh", "bob@example.test")
            pinned = wait_for(f"a look-up with {mode}", lambda: self._text_of("bob@example.test"), 60)
            self.arrived(self.bob.maildir, self.send("bob@example.test", f"in-spite-of-{mode}"))
            self.assertEqual((self.name(self.alice, "bob@example.test") or {})["state"], "pinned", pinned)
            self.liar.mode = "honest"
            self.alice.ctl("contact", "refresh", "bob@example.test")
            wait_for("a good look-up", lambda: self._text_of("bob@example.test") is None, 60)
        # Now the domain says that bob is somebody else: carol's agent, signed and all.
        self.named.publish("example.test", "bob._tox", f"v=tox1;id={self.carol.tox_id}")
        self.alice.ctl("contact", "refresh", "bob@example.test")
        self.wait_state("bob@example.test", "changed")
        held = self.send("bob@example.test", "after")
        notice = self.notice(b"the key of bob@example.test has changed")
        self.assertIn(b"Action: delayed\nStatus: 4.7.1", notice)
        self.assertIn(b"Will-Retry-Until: ", notice)
        entry = self.queued("bob@example.test")
        self.assertEqual((entry["state"], entry["status"]), ("held", "4.7.1"))
        self.assertIn("the key of bob@example.test has changed", self.alice.log)
        self.assertEqual(self.alice.account()["names_changed"], 1)
        self.assertIn("KEY CHANGED", self.alice.ctl("name", "list"))
        # The contact himself is reached by his key as ever, and what is held goes to nobody.
        self.arrived(self.bob.maildir, self.send(self.bob.address, "by-key"))
        self.assertEqual(find_in_maildir(self.bob.maildir, held), [])
        self.assertEqual(find_in_maildir(self.carol.maildir, held), [])
        self.alice.ctl("contact", "accept-key", "bob@example.test")
        self.carol.wait_request(self.alice.key)
        self.carol.ctl("request", "accept", self.alice.key)
        # Carol's agent was never told that it is bob: it says so, and the sender hears it.
        self.notice(b"Subject: after", b"Action: failed\nStatus: 5.1.1")
        self.assertEqual(find_in_maildir(self.bob.maildir, held), [])

    def test_7_a_refused_request_bounces_the_mail_that_waited_for_it(self) -> None:
        dave = self.new_agent("dave", ["dave@example.test"], incoming="ask")
        self.named.publish("example.test", "dave._tox", f"v=tox1;id={dave.tox_id}")
        self.send("dave@example.test", "unwanted")
        alice = self.alice.key
        dave.wait_request(alice)
        # He says no while she is away, and his agent is started anew before she is back.
        self.alice.stop()
        self.assertTrue(dave.json("request", "refuse", alice)["tell"])
        self.assertIs(dave.json("request", "list")[0]["told"], False)
        dave.kill()
        dave.start()
        self.alice.start()
        notice = self.notice(b"Final-Recipient: rfc822; dave@example.test", b"Action: failed\nStatus: 5.7.1")
        self.assertIn(b"does not want to exchange mail with you", notice)
        self.assertEqual(find_in_maildir(dave.maildir, "<unwanted@alice.example>"), [])
        wait_for("dave's word that she was told", lambda: dave.json("request", "list")[0]["told"], 120)
        # He is neither a contact nor a name that she knows any more, and never was one of his.
        self.assertIsNone(self.alice.contact(dave.key))
        self.assertIsNone(self.name(self.alice, "dave@example.test"))
        self.assertEqual((dave.json("contact", "list"), dave.account()["contacts_online"]), ([], 0))
        # He thinks better of it, and she asks once more.
        self.alice.ctl("contact", "add", "dave@example.test")
        dave.ctl("contact", "add", self.alice.tox_id)
        self.arrived(dave.maildir, self.send("dave@example.test", "wanted"))

    def _text_of(self, address: str) -> str | None:
        name = self.name(self.alice, address)
        return None if name is None else name["text"]

    def test_6_who_is_blocked_is_not_heard(self) -> None:
        self.bob.ctl("contact", "block", self.alice.key)
        wait_for("end of the link", lambda: not self.alice.mail_link(self.bob), 120)
        self.assertTrue((self.bob.contact(self.alice.key) or {})["blocked"])
        message_id = self.send(self.bob.address, "blocked")
        status, words = self.bob.transport(
            "bob@bob.example", [self.alice.address], b"Subject: x\n\nx\n", user=UNPRIVILEGED
        )
        self.assertEqual((status, words[:5]), (77, "5.7.1"))
        self.bob.ctl("contact", "unblock", self.alice.key)
        self.arrived(self.bob.maildir, message_id, 240)


class PoliciesTest(SandboxCase):
    """What the operator may choose in [names], end to end."""

    named: ClassVar[Named]
    liar: ClassVar[Liar]
    bootstrap: ClassVar[Bootstrap]
    binaries: ClassVar[Path]
    frank: ClassVar[Agent]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.named = Named(cls.box)
        cls.liar = Liar(cls.box, cls.named.port)
        cls.bootstrap = Bootstrap(cls.box)
        cls.binaries = install_programs(cls.box, BIN)
        cls.frank = cls.new_agent("frank", ["frank@example.test", "frank@plain.test"], incoming="all")
        for zone in ("example.test", "plain.test"):
            cls.named.publish(zone, "frank._tox", f"v=tox1;id={cls.frank.tox_id}")

    @classmethod
    def new_agent(cls, name: str, addresses: Sequence[str], **names: Any) -> Agent:
        section = {"resolver": [f"{HOST}:{cls.liar.port}"], "trust_anchor": str(cls.named.anchor), "timeout": "2s"}
        return Agent(
            cls.box,
            name,
            binaries=cls.binaries,
            bootstrap=cls.bootstrap,
            addresses=addresses,
            senders=[f"{name}@{name}.example"],
            settings={"names": {**section, **names}, "queue": {"retry_min": "1s", "retry_max": "1s"}},
        )

    def send(self, agent: Agent, to: str) -> str:
        """Submit a mail; its Message-ID."""
        message_id = f"<{agent.name}-{to}>"
        sender = f"{agent.name}@{agent.name}.example"
        agent.submit(sender, [to], sample_mail(sender=sender, to=to, subject="x", text="x\n", message_id=message_id))
        return message_id

    def name(self, agent: Agent, address: str, state: str) -> dict[str, Any]:
        """What the agent knows of the name, once it is in this state."""

        def probe() -> dict[str, Any] | None:
            names = (dict(name) for name in agent.json("name", "list"))
            return next((name for name in names if (name["address"], name["state"]) == (address, state)), None)

        return wait_for(f"{address} {state}", probe, 120)

    def arrived(self, message_id: str) -> bytes:
        """The mail, once frank has it."""
        found = wait_for(message_id, lambda: find_in_maildir(self.frank.maildir, message_id) or None, 120)
        return found[0].read_bytes()

    def test_trust_on_first_use_behind_a_dead_resolver_and_whoever_asks_is_accepted(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as dead:
            dead.bind((HOST, 0))
            resolvers = [f"{HOST}:{dead.getsockname()[1]}", f"{HOST}:{self.liar.port}"]
            gina = self.new_agent("gina", ["gina@plain.test"], unsigned="tofu", resolver=resolvers)
            text = self.arrived(self.send(gina, "frank@plain.test"))
            dead.settimeout(1)
            self.assertIn(b"_tox", dead.recv(512).lower(), "the dead one was never asked")
        pin = self.name(gina, "frank@plain.test", "pinned")
        self.assertEqual((pin["proof"], pin["key"].upper()), ("insecure", self.frank.key))
        # Accepted is not believed: nothing proves her address.
        self.assertIn("tox=fail", header(text, "Authentication-Results") or "")
        self.assertEqual(self.frank.json("request", "list"), [])

    def test_what_is_not_proved_may_be_refused_and_what_is_may_wait_for_the_operator(self) -> None:
        hugo = self.new_agent("hugo", ["hugo@example.test"], unsigned="refuse", outgoing="ask")
        self.send(hugo, "frank@plain.test")

        def bounced() -> bytes | None:
            return next((path.read_bytes() for path in (hugo.maildir / "new").glob("*")), None)

        notice = wait_for("bounce", bounced, 60)
        self.assertIn(b"Final-Recipient: rfc822; frank@plain.test", notice)
        self.assertIn(b"Action: failed\nStatus: 5.7.1", notice)
        message_id = self.send(hugo, "frank@example.test")
        self.assertEqual(self.name(hugo, "frank@example.test", "unconfirmed")["offer"]["proof"], "secure")
        (mail,) = hugo.json("queue", "list")
        self.assertEqual([(r["state"], r["status"]) for r in mail["recipients"]], [("held", "4.7.1")])
        self.assertEqual(hugo.json("contact", "list"), [])
        hugo.ctl("contact", "accept-key", "frank@example.test", self.frank.tox_id)
        self.arrived(message_id)

    def test_an_agent_tells_at_its_start_what_the_dns_says_of_its_own_names(self) -> None:
        self.named.publish("example.test", "judy._tox", tox1("somebody else"))
        judy = self.new_agent("judy", ["judy@example.test", "judy@rsa.test"])
        for words in (r"judy@example\.test .*leads to another Tox ID", r"warn: judy: judy@rsa\.test has no good record: "):
            wait_for(words, lambda words=words: re.search(words, judy.log), 60)
        self.named.publish("example.test", "judy._tox", f"v=tox1;id={judy.tox_id}")
        judy.stop()
        judy.start()
        wait_for("a good record", lambda: "judy: judy@example.test leads here (tox1, " in judy.log, 60)


if __name__ == "__main__":
    unittest.main()
