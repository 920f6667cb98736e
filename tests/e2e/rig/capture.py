"""What a program was told over Tox, every octet that libtoxcore handed to it, decrypted; and how to search in that."""

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from rig.sandbox import Sandbox

_HEAD = struct.Struct("=BQII")
_KEY_SIZE = 32

# Of `wire.rs`: what begins a session, and the requests that carry a slot's content.
_PUT, _PIECE = 3, 4


class Kind(Enum):
    """What libtoxcore calls it."""

    REQUEST = 0
    MESSAGE = 1
    PACKET = 2


@dataclass(frozen=True)
class Heard:
    """One thing that came in. `instance` tells a process's Tox instances apart, `friend` the friends of one of them."""

    kind: Kind
    instance: int
    friend: int
    octets: bytes
    """Of a friend request, after the sender's key."""
    key: bytes = b""
    """Of a friend request, who sent it."""


class Capture:
    """Set `env` for an agent before its start: what it is told from then on comes to a file."""

    def __init__(self, sandbox: Sandbox, name: str, user: str) -> None:
        library = sandbox.dir("bin") / "capture.so"
        if not library.exists():
            source = Path(__file__).with_name("capture.c")
            sandbox.run(["gcc", "-Wall", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"])
        self.path = sandbox.dir(f"{name}-capture", user=user, mode=0o700) / "heard"
        self.env = {"LD_PRELOAD": str(library), "TOX_CAPTURE": str(self.path)}

    @property
    def octets(self) -> bytes:
        """The file as it is."""
        return self.path.read_bytes()

    def heard(self) -> Iterator[Heard]:
        """All of it, in order."""
        data, at = self.octets, 0
        while at + _HEAD.size <= len(data):
            kind, instance, friend, size = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            octets = data[at : at + size]
            at += size
            if Kind(kind) is Kind.REQUEST:
                yield Heard(Kind.REQUEST, instance, friend, octets[_KEY_SIZE:], octets[:_KEY_SIZE])
            else:
                yield Heard(Kind(kind), instance, friend, octets)

    def requests(self) -> Iterator[list[Any]]:
        """What owners and visitors of a relay asked it for, each an array with its type first."""
        for heard in self.heard():
            if heard.kind is Kind.MESSAGE:
                yield from cbor_sequence(heard.octets)


def cbor_sequence(octets: bytes) -> Iterator[Any]:
    """The items of a CBOR sequence (RFC 8742), of those kinds that minicbor writes."""
    at = 0
    while at < len(octets):
        item, at = _cbor_item(octets, at)
        yield item


def _cbor_item(octets: bytes, at: int) -> tuple[Any, int]:
    major, value = octets[at] >> 5, octets[at] & 31
    at += 1
    if 24 <= value <= 27:
        width = 1 << (value - 24)
        value, at = int.from_bytes(octets[at : at + width], "big"), at + width
    elif value > 27:
        raise ValueError(f"CBOR item of no fixed length at {at - 1}: {octets.hex()}")
    if major == 0:
        return value, at
    if major in (2, 3):
        content = octets[at : at + value]
        return (content if major == 2 else content.decode()), at + value
    if major in (4, 5):
        items = []
        for _ in range(value * (major - 3)):
            item, at = _cbor_item(octets, at)
            items.append(item)
        return (items if major == 4 else dict(zip(items[::2], items[1::2], strict=True))), at
    if major == 7 and value in (20, 21, 22):
        return {20: False, 21: True, 22: None}[value], at
    raise ValueError(f"CBOR item of major type {major} at {at - 1}: {octets.hex()}")


@dataclass
class Deposits:
    """What visitors brought to a relay."""

    sizes: list[int]
    """The length that each said it would bring."""
    contents: dict[bytes, bytes]
    """What came for each slot, as far as it did."""


def deposits(requests: Iterable[list[Any]]) -> Deposits:
    """Put together what came in pieces."""
    sizes: list[int] = []
    contents: dict[bytes, bytearray] = {}
    for request in requests:
        if request[0] == _PUT:
            sizes.append(request[2])
            contents.setdefault(request[1], bytearray())
        elif request[0] == _PIECE:
            _, slot, offset, octets = request[:4]
            content = contents.setdefault(slot, bytearray())
            content[offset : offset + len(octets)] = octets
    return Deposits(sizes, {slot: bytes(content) for slot, content in contents.items()})


def common_run(one: Iterable[bytes], other: Iterable[bytes], length: int = 16) -> bytes | None:
    """A run of `length` octets that is in one of `one` and in one of `other`, wherever in them, if there is any."""
    step = length // 2
    # Whatever is that long holds a whole window of half the length that begins at a multiple of that half.
    windows: dict[bytes, list[tuple[bytes, int]]] = {}
    for content in one:
        for at in range(0, len(content) - step + 1, step):
            windows.setdefault(content[at : at + step], []).append((content, at))
    for content in other:
        for at in range(len(content) - step + 1):
            for found, place in windows.get(content[at : at + step], ()):
                if run := _around(found, place, content, at, step, length):
                    return run
    return None


def _around(one: bytes, at_one: int, other: bytes, at_other: int, size: int, length: int) -> bytes | None:
    """The common run around a common window, if it is long enough."""
    begin = 0
    while begin < min(at_one, at_other, length) and one[at_one - begin - 1] == other[at_other - begin - 1]:
        begin += 1
    end = size
    room = min(len(one) - at_one, len(other) - at_other, length)
    while end < room and one[at_one + end] == other[at_other + end]:
        end += 1
    return one[at_one - begin : at_one + end] if begin + end >= length else None


def memory(pid: int) -> Iterator[bytes]:
    """All that a process may write to of its memory, piece by piece; what goes away meanwhile is left out."""
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as mem:
        for line in maps:
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if found is None:
                continue
            start, end = (int(word, 16) for word in found.groups())
            try:
                mem.seek(start)
                yield mem.read(end - start)
            except (OSError, OverflowError):
                continue
