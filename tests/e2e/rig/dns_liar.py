"""A DNS server between the asker and the honest one, that lies as it is told to; and the octets of DNS messages."""

import contextlib
import random
import re
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from rig.net import HOST, free_port
from rig.sandbox import RigError, Sandbox

# RFC 1035, 4.1: the octets of a message. Names are their labels, as they came: askers may play with upper case.

Name = tuple[bytes, ...]

_TYPES = {
    **{"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "DNAME": 39, "OPT": 41},
    **{"DS": 43, "RRSIG": 46, "NSEC": 47, "DNSKEY": 48, "NSEC3": 50, "NSEC3PARAM": 51, "CDS": 59, "CDNSKEY": 60},
}
_TYPE_NAMES = {number: name for name, number in _TYPES.items()}
_DNSSEC = ("DS", "RRSIG", "NSEC", "DNSKEY", "NSEC3", "NSEC3PARAM", "CDS", "CDNSKEY")
# Names in record data that may be compressed: how many octets come before them, how many names there are.
_NAMES_IN = {"NS": (0, 1), "CNAME": (0, 1), "SOA": (0, 2), "PTR": (0, 1), "MX": (2, 1), "DNAME": (0, 1)}
_IN = 1

QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5
_RCODE = 0x000F
_DO = 0x8000
_UDP_SIZE = 1232


def name_of(text: str) -> Name:
    """The labels of a name written with dots; `\\.` is a dot within a label."""
    labels = re.findall(r"(?:\\.|[^.\\])+", text)
    return tuple(re.sub(r"\\(.)", r"\1", label).encode() for label in labels)


def text_of(name: Name) -> str:
    """The name as it is written, in lower case, with the dot of the root."""
    labels = (label.decode(errors="backslashreplace").replace("\\", "\\\\").replace(".", "\\.") for label in name)
    return "".join(f"{label}." for label in labels).lower() or "."


def type_of(number: int) -> str:
    """The name of a record type."""
    return _TYPE_NAMES.get(number, f"TYPE{number}")


@dataclass(frozen=True)
class Question:
    """What is asked."""

    name: Name
    type: str


@dataclass(frozen=True)
class Record:
    """One record, without compression in its data; for OPT, `rclass` and `ttl` are the fields of EDNS."""

    name: Name
    type: str
    ttl: int
    data: bytes
    rclass: int = _IN

    @property
    def strings(self) -> list[bytes]:
        """The strings of a TXT record."""
        found, at = [], 0
        while at < len(self.data):
            end = at + 1 + self.data[at]
            found.append(self.data[at + 1 : end])
            at = end
        return found

    @property
    def text(self) -> str:
        """The strings of a TXT record, joined."""
        return b"".join(self.strings).decode(errors="replace")

    @property
    def target(self) -> Name:
        """The name its data begin with: of CNAME and NS."""
        return _read_name(self.data, 0)[0]

    @property
    def serial(self) -> int:
        """The serial number of a SOA record."""
        (serial,) = struct.unpack("!I", self.data[-20:-16])
        return int(serial)


def txt(name: Name, *strings: bytes, ttl: int = 0) -> Record:
    """A TXT record."""
    return Record(name, "TXT", ttl, b"".join(bytes([len(string)]) + string for string in strings))


@dataclass(frozen=True)
class Message:
    """A query or an answer."""

    id: int
    flags: int
    question: Question
    answers: Sequence[Record] = ()
    authority: Sequence[Record] = ()
    additional: Sequence[Record] = ()

    @classmethod
    def query(cls, name: Name, type: str, *, dnssec: bool = True) -> Self:
        """A question to a server."""
        opt = Record((), "OPT", _DO, b"", _UDP_SIZE)
        return cls(random.getrandbits(16), RD, Question(name, type), additional=[opt] if dnssec else [])

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The message in these octets; ValueError if there is none, or one without exactly one question."""
        try:
            number, flags, questions, *counts = struct.unpack_from("!6H", data)
            if questions != 1:
                raise ValueError(f"{questions} questions")
            name, at = _read_name(data, 12)
            (kind,) = struct.unpack_from("!H", data, at)
            at += 4
            sections: list[list[Record]] = [[], [], []]
            for section, count in zip(sections, counts, strict=True):
                for _ in range(count):
                    record, at = _read_record(data, at)
                    section.append(record)
        except (struct.error, IndexError) as error:
            raise ValueError("no DNS message") from error
        return cls(number, flags, Question(name, type_of(kind)), *sections)

    def pack(self) -> bytes:
        """Its octets, without compression."""
        sections = (self.answers, self.authority, self.additional)
        data = struct.pack("!6H", self.id, self.flags, 1, *(len(section) for section in sections))
        data += _pack_name(self.question.name) + struct.pack("!HH", _number(self.question.type), _IN)
        for record in (record for section in sections for record in section):
            head = struct.pack("!HHIH", _number(record.type), record.rclass, record.ttl, len(record.data))
            data += _pack_name(record.name) + head + record.data
        return data

    @property
    def rcode(self) -> int:
        """NOERROR and so on."""
        return self.flags & _RCODE

    def with_rcode(self, rcode: int) -> Self:
        """The same with another response code."""
        return replace(self, flags=self.flags & ~_RCODE | rcode)

    @property
    def udp_limit(self) -> int:
        """How many octets the asker takes by UDP."""
        return max([512, *(record.rclass for record in self.additional if record.type == "OPT")])

    def texts(self, owner: str | None = None) -> list[str]:
        """The TXT records among the answers, joined; those of one owner, if it is given."""
        found = (record for record in self.answers if record.type == "TXT")
        return [record.text for record in found if owner is None or text_of(record.name) == owner]

    def types(self) -> set[str]:
        """The types of all of its records."""
        return {record.type for section in (self.answers, self.authority, self.additional) for record in section}


def _number(type: str) -> int:
    return _TYPES[type] if type in _TYPES else int(type.removeprefix("TYPE"))


def _pack_name(name: Name) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in name) + b"\0"


def _read_name(data: bytes, at: int) -> tuple[Name, int]:
    labels: list[bytes] = []
    end = None
    for _ in range(256):
        length = data[at]
        if length >= 0xC0:
            end = end or at + 2
            at = (length & 0x3F) << 8 | data[at + 1]
        elif length:
            labels.append(data[at + 1 : at + 1 + length])
            at += 1 + length
        else:
            return tuple(labels), end or at + 1
    raise ValueError("endless name")


def _read_record(data: bytes, at: int) -> tuple[Record, int]:
    name, at = _read_name(data, at)
    number, rclass, ttl, size = struct.unpack_from("!HHIH", data, at)
    at += 10
    end = at + size
    if end > len(data):
        raise ValueError("the message ends within a record")
    kind = type_of(number)
    skip, count = _NAMES_IN.get(kind, (0, 0))
    content, at = data[at : at + skip], at + skip
    for _ in range(count):
        inner, at = _read_name(data, at)
        content += _pack_name(inner)
    return Record(name, kind, ttl, content + data[at:end], rclass), end


# Asking.


def exchange(port: int, query: bytes, *, tcp: bool = False, timeout: float = 5.0) -> bytes:
    """What a server at 127.0.0.1 answers first; TimeoutError or ConnectionError if it does not."""
    if tcp:
        with socket.create_connection((HOST, port), timeout) as stream:
            stream.sendall(_framed(query))
            answer = _read_frame(stream)
            if answer is None:
                raise ConnectionError("closed without an answer")
            return answer
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(timeout)
        datagrams.connect((HOST, port))
        datagrams.send(query)
        return datagrams.recv(65535)


def ask(
    port: int, name: str, type: str = "TXT", *, tcp: bool = False, dnssec: bool = True, timeout: float = 5.0
) -> Message:
    """The answer of a server at 127.0.0.1, whatever its message id; ValueError if it is no message."""
    query = Message.query(name_of(name), type, dnssec=dnssec)
    return Message.parse(exchange(port, query.pack(), tcp=tcp, timeout=timeout))


def _framed(message: bytes) -> bytes:
    return struct.pack("!H", len(message)) + message


def _read_frame(stream: socket.socket) -> bytes | None:
    """The next message of a TCP connection; none at its end."""
    head = _read_exactly(stream, 2)
    return _read_exactly(stream, int.from_bytes(head)) if head is not None else None


def _read_exactly(stream: socket.socket, count: int) -> bytes | None:
    octets = b""
    while len(octets) < count:
        if not (piece := stream.recv(count - len(octets))):
            return None
        octets += piece
    return octets


# Tox IDs in records.


def checked(octets: bytes) -> str:
    """The Tox ID of a key and a nospam, by adding the checksum."""
    check = [0, 0]
    for at, octet in enumerate(octets):
        check[at % 2] ^= octet
    return (octets + bytes(check)).hex().upper()


def tampered_id(tox_id: str) -> str:
    """Another key with the same checksum: what is changed in one octet is changed in the next but one too."""
    octets = bytearray.fromhex(tox_id)
    octets[0] ^= 0x10
    octets[2] ^= 0x10
    return octets.hex().upper()


def _tampered(record: Record) -> Record:
    """A TXT record with another Tox ID in strings of the same length; other records as they are."""
    found = re.search(rb"id\s*=\s*([0-9A-Fa-f]{76})", joined := b"".join(record.strings))
    if record.type != "TXT" or found is None:
        return record
    forged = tampered_id(found.group(1).decode()).encode()
    joined = joined[: found.start(1)] + forged + joined[found.end(1) :]
    strings = []
    for string in record.strings:
        strings.append(joined[: len(string)])
        joined = joined[len(string) :]
    return replace(record, data=txt(record.name, *strings).data)


def _without(records: Iterable[Record], *types: str) -> list[Record]:
    return [record for record in records if record.type not in types]


@dataclass(frozen=True)
class _Asked:
    """A query as it came."""

    raw: bytes
    message: Message
    tcp: bool

    @property
    def name(self) -> Name:
        return self.message.question.name

    @property
    def type(self) -> str:
        return self.message.question.type

    def blank(self, flags: int = 0) -> Message:
        """An answer without a record."""
        query = self.message
        opt = [replace(record, data=b"") for record in query.additional if record.type == "OPT"]
        return Message(query.id, QR | query.flags & (RD | CD) | flags, query.question, additional=opt)


class Liar:
    """Listens at `port` of 127.0.0.1, by UDP and TCP, and answers with what `upstream_port` says, as `mode` has it.

    Every attribute may change while it runs. `queries` are the (name, type) asked for, in order. With a `victim`, the
    lies are about this name only. Encrypted queries (tox3) go to `tox3_port`. Lies about the data are told where TXT records are asked for, the rest is honest,
    unless it says otherwise here:

    - honest
    - tampered: another Tox ID with a valid checksum (`tampered_id`) under the true signature
    - stripped: no signature; stripped-all: nothing of DNSSEC in any answer, as from a forwarder that knows none of it
    - downgraded: no DS record anywhere and no proof that there is none; the Tox ID tampered, without signature
    - invented-cut: as if `_tox` below the domain were a zone of its own, not signed; the Tox ID tampered
    - cname-injected: as if the name were an alias, without signature, of `attacker`, whose records come with it
    - second-cname-forged: of a name that is an alias, another one at its target, without signature, and the signed proof
      that what that leads to is not there
    - txt-added: `FORGED_ID` in a further record under the true signature; foreign-txt-first: in one of `attacker`
    - replayed-nodata: the signed proof that there is no TXT record, but at another name
    - nxdomain-without-proof: no such name, without signature
    - ad-forged: AD=1 in every answer; the Tox ID tampered, without signature
    - servfail, refused: all that is asked
    - truncated: TC=1 by UDP, everything by TCP; truncated-no-tcp: and TCP connections end at once
    - slow: everything after `delay` seconds; silent: nothing, ever
    - wrong-id: every answer under another message id; raced: before every answer, by UDP, one with another id and a
      tampered Tox ID, as of an attacker who does not see the query
    - garbage: the message id, then random octets
    """

    def __init__(self, sandbox: Sandbox, upstream_port: int, mode: str = "honest") -> None:
        self.mode = mode
        self.delay = 5.0
        self.victim: str | None = None
        self.attacker = "evil._tox.plain.test."
        self.queries: list[tuple[str, str]] = []
        self.tox3_port: int | None = None
        self.port = free_port(socket.SOCK_DGRAM, also=socket.SOCK_STREAM)
        self._upstream_port = upstream_port
        self._random = random.Random(1)
        self._closed = threading.Event()
        liar = self

        class Datagram(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, server = self.request
                with contextlib.suppress(OSError):
                    for answer in liar._answer(data, tcp=False):
                        server.sendto(answer, self.client_address)

        class Stream(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    while liar.mode != "truncated-no-tcp" and (query := _read_frame(self.request)) is not None:
                        # A connection of an earlier mode may have waited for this query.
                        if liar.mode == "truncated-no-tcp":
                            break
                        for answer in liar._answer(query, tcp=True):
                            self.request.sendall(_framed(answer))

        self._servers: list[socketserver.BaseServer] = [
            _Datagrams((HOST, self.port), Datagram),
            _Streams((HOST, self.port), Stream),
        ]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        sandbox.on_close(self.close)

    @property
    def mode(self) -> str:
        """Which lie it tells."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        if mode not in MODES:
            raise RigError(f"{mode!r} is no mode: {', '.join(MODES)}")
        self._mode = mode

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _answer(self, raw: bytes, *, tcp: bool) -> list[bytes]:
        try:
            asked = _Asked(raw, Message.parse(raw), tcp)
        except ValueError:
            return []
        self.queries.append((text_of(asked.name), asked.type))
        concerned = self.victim is None or text_of(asked.name) == self.victim
        answers = _LIES[self.mode if concerned else "honest"](self, asked)
        if tcp:
            return answers
        limit = asked.message.udp_limit
        return [answer if len(answer) <= limit else asked.blank(TC).pack() for answer in answers]

    # What is true.

    def _honest(self, asked: _Asked) -> list[bytes]:
        if self.tox3_port is not None and re.match(r"_[a-z0-5]{20,}\.", text_of(asked.name), re.IGNORECASE):
            return [exchange(self.tox3_port, asked.raw)]
        # By TCP, since only the asker's own limit may cut an answer short.
        raw = exchange(self._upstream_port, asked.raw, tcp=True)
        answer = Message.parse(raw)
        whole = self._followed(asked, answer)
        return [raw if whole is answer else whole.pack()]

    def _truth(self, asked: _Asked) -> Message:
        return Message.parse(self._honest(asked)[0])

    def _followed(self, asked: _Asked, answer: Message) -> Message:
        """With what aliases into other zones lead to: resolvers follow them, a server that only knows its zones not."""
        for _ in range(8):
            aliases = {text_of(record.name): record.target for record in answer.answers if record.type == "CNAME"}
            name = asked.name
            while (target := aliases.pop(text_of(name), None)) is not None:
                name = target
            answered = any(text_of(record.name) == text_of(name) for record in answer.answers)
            if answered or name == asked.name or asked.type == "CNAME":
                break
            rest = self._look_up(asked, name, asked.type)
            answer = replace(answer, answers=[*answer.answers, *rest.answers], authority=rest.authority)
            answer = answer.with_rcode(rest.rcode)
            if not rest.answers:
                break
        return answer

    def _look_up(self, asked: _Asked, name: Name, type: str) -> Message:
        """What is true of another name."""
        query = replace(asked.message, question=Question(name, type))
        return Message.parse(exchange(self._upstream_port, query.pack(), tcp=True))

    def _soa(self, asked: _Asked) -> Record:
        """The SOA record of the zone the name is in."""
        answer = self._look_up(asked, asked.name, "SOA")
        return next(record for record in (*answer.answers, *answer.authority) if record.type == "SOA")

    # What is not.

    def _about_txt(self, asked: _Asked, lie: Callable[[Message], Message]) -> list[bytes]:
        return [lie(self._truth(asked)).pack()] if asked.type == "TXT" else self._honest(asked)

    def _tampered(self, asked: _Asked) -> list[bytes]:
        return self._about_txt(asked, lambda true: replace(true, answers=[_tampered(r) for r in true.answers]))

    def _stripped(self, asked: _Asked) -> list[bytes]:
        return self._about_txt(asked, lambda true: replace(true, answers=_without(true.answers, "RRSIG")))

    def _stripped_all(self, asked: _Asked) -> list[bytes]:
        plain = replace(asked.message, flags=asked.message.flags & ~(AD | CD), additional=())
        true = Message.parse(exchange(self._upstream_port, plain.pack(), tcp=True))
        answers, authority, additional = (
            _without(section, "OPT", *_DNSSEC) for section in (true.answers, true.authority, true.additional)
        )
        return [Message(true.id, true.flags & ~(AD | CD), true.question, answers, authority, additional).pack()]

    @staticmethod
    def _forged(true: Message) -> Message:
        """Other data, and no signature that would give them away."""
        return replace(true, answers=[_tampered(record) for record in _without(true.answers, "RRSIG")])

    def _downgraded(self, asked: _Asked) -> list[bytes]:
        return [asked.blank(AA).pack()] if asked.type == "DS" else self._about_txt(asked, self._forged)

    def _invented_cut(self, asked: _Asked) -> list[bytes]:
        labels = [label.lower() for label in asked.name]
        if b"_tox" not in labels:
            return self._honest(asked)
        cut = asked.name[labels.index(b"_tox") :]
        ns = Record(cut, "NS", 0, _pack_name(name_of(self.attacker)))
        if asked.type == "NS" and asked.name == cut:
            return [replace(asked.blank(AA), answers=[ns]).pack()]
        # The proof that there is no DS record at the cut is a true one: but it also says that there is no cut.
        return self._about_txt(asked, lambda true: replace(self._forged(true), authority=[ns]))

    def _cname_injected(self, asked: _Asked) -> list[bytes]:
        target = name_of(self.attacker)
        if asked.type != "TXT" or text_of(asked.name) == text_of(target):
            return self._honest(asked)
        alias = Record(asked.name, "CNAME", 0, _pack_name(target))
        found = self._look_up(asked, target, "TXT").answers or [txt(target, FORGED_TXT)]
        return [replace(asked.blank(AA), answers=[alias, *found]).pack()]

    def _second_cname_forged(self, asked: _Asked) -> list[bytes]:
        true = self._truth(asked)
        first = [record for record in true.answers if text_of(record.name) == text_of(asked.name)]
        target = next((record.target for record in first if record.type == "CNAME"), None)
        if asked.type != "TXT" or target is None:
            return [true.pack()]
        nobody = name_of("nobody._tox.example.test.")
        denial = self._look_up(asked, nobody, "TXT")
        answers = [*first, Record(target, "CNAME", 0, _pack_name(nobody))]
        return [replace(true, answers=answers, authority=denial.authority).with_rcode(denial.rcode).pack()]

    def _txt_added(self, asked: _Asked) -> list[bytes]:
        def lie(true: Message) -> Message:
            ttl = next((record.ttl for record in true.answers if record.type == "TXT"), 0)
            return replace(true, answers=[*true.answers, txt(asked.name, FORGED_TXT, ttl=ttl)])

        return self._about_txt(asked, lie)

    def _foreign_txt_first(self, asked: _Asked) -> list[bytes]:
        foreign = txt(name_of(self.attacker), FORGED_TXT)
        return self._about_txt(asked, lambda true: replace(true, answers=[foreign, *true.answers]))

    def _replayed_nodata(self, asked: _Asked) -> list[bytes]:
        def lie(true: Message) -> Message:
            apex = self._look_up(asked, self._soa(asked).name, "TXT")
            return replace(apex, id=true.id, question=true.question)

        return self._about_txt(asked, lie)

    def _nxdomain_without_proof(self, asked: _Asked) -> list[bytes]:
        if asked.type != "TXT":
            return self._honest(asked)
        return [replace(asked.blank(AA), authority=[self._soa(asked)]).with_rcode(NXDOMAIN).pack()]

    def _ad_forged(self, asked: _Asked) -> list[bytes]:
        true = self._truth(asked)
        answer = self._forged(true) if asked.type == "TXT" else true
        return [replace(answer, flags=answer.flags | AD).pack()]

    def _servfail(self, asked: _Asked) -> list[bytes]:
        return [asked.blank().with_rcode(SERVFAIL).pack()]

    def _refused(self, asked: _Asked) -> list[bytes]:
        return [asked.blank().with_rcode(REFUSED).pack()]

    def _truncated(self, asked: _Asked) -> list[bytes]:
        return self._honest(asked) if asked.tcp else [asked.blank(TC).pack()]

    def _slow(self, asked: _Asked) -> list[bytes]:
        return [] if self._closed.wait(self.delay) else self._honest(asked)

    def _silent(self, _asked: _Asked) -> list[bytes]:
        return []

    def _wrong_id(self, asked: _Asked) -> list[bytes]:
        true = self._truth(asked)
        return [replace(true, id=true.id ^ 0x5555).pack()]

    def _raced(self, asked: _Asked) -> list[bytes]:
        true = self._truth(asked)
        forged = replace(self._forged(true), id=true.id ^ 0x5555).pack()
        return [forged, *self._honest(asked)] if not asked.tcp else self._honest(asked)

    def _garbage(self, asked: _Asked) -> list[bytes]:
        return [asked.raw[:2] + self._random.randbytes(self._random.randrange(1, 300))]


class _Datagrams(socketserver.ThreadingUDPServer):
    daemon_threads = True
    block_on_close = False
    max_packet_size = 65535


class _Streams(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64


FORGED_ID = checked(b"\x66" * 32 + b"\x06\x06\x06\x06")
FORGED_TXT = f"v=tox1;id={FORGED_ID}".encode()

_LIES: dict[str, Callable[[Liar, _Asked], list[bytes]]] = {
    "honest": Liar._honest,
    "tampered": Liar._tampered,
    "stripped": Liar._stripped,
    "stripped-all": Liar._stripped_all,
    "downgraded": Liar._downgraded,
    "invented-cut": Liar._invented_cut,
    "cname-injected": Liar._cname_injected,
    "second-cname-forged": Liar._second_cname_forged,
    "txt-added": Liar._txt_added,
    "foreign-txt-first": Liar._foreign_txt_first,
    "replayed-nodata": Liar._replayed_nodata,
    "nxdomain-without-proof": Liar._nxdomain_without_proof,
    "ad-forged": Liar._ad_forged,
    "servfail": Liar._servfail,
    "refused": Liar._refused,
    "truncated": Liar._truncated,
    "truncated-no-tcp": Liar._truncated,
    "slow": Liar._slow,
    "silent": Liar._silent,
    "wrong-id": Liar._wrong_id,
    "raced": Liar._raced,
    "garbage": Liar._garbage,
}
MODES = tuple(_LIES)
