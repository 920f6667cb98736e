#!/usr/bin/python3
"""Test vectors of lanes, made from docs/protocol.md ("Lanes") with PyNaCl, and without any of the program's code.

/usr/bin/python3 tests/lane_vectors.py           write tests/data/lane-vectors.json
/usr/bin/python3 tests/lane_vectors.py --check   fail if that is not what is there

Debian's interpreter, as python3-nacl is a package of Debian. tests/lane_vectors.rs reads the file.
"""

import base64
import hashlib
import json
import sys
from pathlib import Path

from nacl import bindings
from nacl.signing import SigningKey

FILE = Path(__file__).parent / "data" / "lane-vectors.json"
CLASSES = [16 << 10, 128 << 10, 512 << 10, 1 << 20, 4 << 20]
# Of the content of a slot, what is not the parcel's.
OVERHEAD = 24 + 16 + 4 + 24 + 16 + 4 + 51


def cbor(value: object) -> bytes:
    """Deterministic CBOR (RFC 8949 section 4.2) of what a lane needs."""

    def head(major: int, number: int) -> bytes:
        if number < 24:
            return bytes([major << 5 | number])
        for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
            if number < 1 << 8 * size:
                return bytes([major << 5 | code]) + number.to_bytes(size, "big")
        raise ValueError(number)

    match value:
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return head(0, value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case list():
            return head(4, len(value)) + b"".join(map(cbor, value))
        case dict():
            return head(5, len(value)) + b"".join(cbor(key) + cbor(item) for key, item in value.items())
    raise TypeError(value)


def framed(label: str, parts: list[bytes]) -> bytes:
    return label.encode() + b"\0" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def derive(secret: bytes, label: str, *parts: bytes) -> bytes:
    return hashlib.blake2b(framed(label, list(parts)), digest_size=32, key=secret).digest()


def digest(octets: bytes) -> bytes:
    return hashlib.blake2b(octets, digest_size=32).digest()


def sign(seed: bytes, label: str, *parts: bytes) -> bytes:
    return SigningKey(seed).sign(framed(label, list(parts))).signature


def ed25519(seed: bytes) -> bytes:
    return bytes(SigningKey(seed).verify_key)


def x25519(secret: bytes) -> bytes:
    return bindings.crypto_scalarmult_base(secret)


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def mail_key(secret: bytes) -> bytes:
    return ed25519(derive(secret, "toxmail mail sign 1")) + x25519(derive(secret, "toxmail mail seal 1"))


def place(relay: bytes, number_of_class: int, number: int) -> list[bytes]:
    return [relay, bytes([number_of_class]), u64(number)]


def seal(sender: bytes, pre_key_id: int, pre_key: bytes, part: bytes, size: int) -> bytes:
    """What all copies of a part have in common: the number of the pre-key, a nonce, and the box."""
    padded = len(part).to_bytes(4, "big") + part
    padded += bytes(size - 24 - 16 - 4 - 24 - 16 - len(padded))
    nonce = derive(sender, "toxmail mail nonce 1", pre_key, padded)[:24]
    box = bindings.crypto_box(padded, nonce, pre_key, derive(sender, "toxmail mail seal 1"))
    return pre_key_id.to_bytes(4, "big") + nonce + box


def wrap(inner: bytes, seed: bytes, at: list[bytes]) -> bytes:
    key = derive(seed, "toxmail slot layer 1", *at)
    nonce = derive(key, "toxmail layer nonce 1", inner)[:24]
    return nonce + bindings.crypto_secretbox(inner, nonce, key)


def unseal(blob: bytes, seed: bytes, at: list[bytes], sender_key: bytes, pre_key_secret: bytes) -> bytes:
    """The part in the content of a slot."""
    inner = bindings.crypto_secretbox_open(blob[24:], blob[:24], derive(seed, "toxmail slot layer 1", *at))
    padded = bindings.crypto_box_open(inner[28:], inner[4:28], sender_key, pre_key_secret)
    length = int.from_bytes(padded[:4], "big")
    assert not any(padded[4 + length :])
    return padded[4 : 4 + length]


def tox_id(key: bytes, nospam: bytes) -> bytes:
    checksum = bytearray(2)
    for at, octet in enumerate(key + nospam):
        checksum[at % 2] ^= octet
    return key + nospam + bytes(checksum)


def pattern(length: int) -> bytes:
    """What the vectors have as a content: 0, 1, … 250, 0, 1 …"""
    return bytes(at % 251 for at in range(length))


def secret(name: str) -> bytes:
    return digest(name.encode())


ALICE, BOB = secret("mail secret of alice"), secret("mail secret of bob")
PRE_KEY_ID, PRE_KEY = 7, secret("pre-key of bob")
SEED = secret("seed")
RELAYS = [secret(f"relay {number}") for number in range(5)]
TOX_KEY = secret("tox key of alice")


def keys() -> dict[str, object]:
    return {
        "mail": [{"secret": one.hex(), "public": mail_key(one).hex()} for one in (ALICE, BOB)],
        "pre_key": {"secret": PRE_KEY.hex(), "public": x25519(PRE_KEY).hex()},
        "relay": [{"secret": one.hex(), "public": ed25519(one).hex()} for one in RELAYS],
    }


def slots() -> list[dict[str, object]]:
    out: list[dict[str, object]] = []
    content, visitor, expiry = digest(b"content"), secret("visitor"), 1_800_000_000
    for relay_secret, number_of_class, number in ((RELAYS[0], 0, 0), (RELAYS[0], 4, 1), (RELAYS[1], 2, 2**64 - 1)):
        relay, size = ed25519(relay_secret), CLASSES[number_of_class]
        key = derive(SEED, "toxmail slot key 1", *place(relay, number_of_class, number))
        out.append(
            {
                "seed": SEED.hex(),
                "relay": relay.hex(),
                "class": number_of_class,
                "number": number,
                "id": ed25519(key).hex(),
                "digest": content.hex(),
                "put": sign(key, "toxmail slot put 1", relay, content, u64(size)).hex(),
                "delete": sign(key, "toxmail slot delete 1", relay).hex(),
                "visitor": visitor.hex(),
                "visit": sign(key, "toxmail slot visit 1", relay, visitor).hex(),
                "relay_secret": relay_secret.hex(),
                "expiry": expiry,
                "stored": sign(relay_secret, "toxmail relay stored 1", ed25519(key), content, u64(expiry)).hex(),
                "gone": sign(relay_secret, "toxmail relay gone 1", ed25519(key)).hex(),
            }
        )
    return out


def offers() -> list[dict[str, object]]:
    out: list[dict[str, object]] = []
    for serial, relays, receipts in ((1, 0, False), (2, 1, True), (2**32, 5, True)):
        lane, slots_open = secret(f"lane {serial}")[:16], [32, 8, 4, 2, relays]
        named = [tox_id(secret(f"tox key {at}"), bytes([at] * 4)) + ed25519(RELAYS[at]) for at in range(relays)]
        not_after, max_mail = 1_800_000_000, 50 << 20
        body = cbor(
            {
                1: lane,
                2: serial,
                3: TOX_KEY,
                4: SEED,
                5: named,
                6: slots_open,
                7: [PRE_KEY_ID, x25519(PRE_KEY), not_after],
                8: max_mail,
                9: mail_key(BOB),
                10: receipts,
            }
        )
        signature = sign(derive(BOB, "toxmail mail sign 1"), "toxmail lane offer 1", body)
        out.append(
            {
                "secret": BOB.hex(),
                "lane": lane.hex(),
                "serial": serial,
                "to": TOX_KEY.hex(),
                "seed": SEED.hex(),
                "relays": [one.hex() for one in named],
                "open": slots_open,
                "pre_key_id": PRE_KEY_ID,
                "pre_key": x25519(PRE_KEY).hex(),
                "not_after": not_after,
                "max_mail": max_mail,
                "receipts": receipts,
                "octets": cbor([body, signature]).hex(),
            }
        )
    return out


def mail() -> dict[str, object]:
    recipients = [[0, "bob@example.org"], [300, "Grüße@example.org"]]
    fields = {1: "alice@example.org", 2: recipients, 3: 70_000, 4: 1234, 5: digest(b"mail"), 6: 1, 7: 1_800_000_000_000}
    return {
        "sender": fields[1],
        "recipients": recipients,
        "size": fields[3],
        "wire_size": fields[4],
        "digest": digest(b"mail").hex(),
        "encoding": fields[6],
        "expires": fields[7],
        "head": cbor([0, fields]).hex(),
    }


def control() -> dict[str, object]:
    name, of_mail, at = secret("mail")[:16], digest(b"mail"), 1_800_000_000
    offer = b"an offer"
    items = [
        [0, name, of_mail, 0, at, [0, False, True]],
        [0, name, of_mail, 300, at, [1, "5.1.1", "no such mailbox"]],
        [1, offer],
        [2, 2**32],
        [3, name],
    ]
    return {
        "mail": name.hex(),
        "digest": of_mail.hex(),
        "at": at,
        "status": "5.1.1",
        "text": "no such mailbox",
        "offer": offer.hex(),
        "seen": 2**32,
        "head": cbor([1, items]).hex(),
    }


def sealed() -> list[dict[str, object]]:
    out: list[dict[str, object]] = []
    cases = [(number, 0, size - OVERHEAD) for number, size in enumerate(CLASSES)]
    cases += [(0, 1, 1), (0, 2**40, 500)]
    for number_of_class, number, length in cases:
        size, relay = CLASSES[number_of_class], ed25519(RELAYS[0])
        parcel, total, offset = secret("parcel")[:16], length + 100_000, 65_536
        part = cbor([parcel, 1, 3, total, offset, pattern(length)])
        inner = seal(ALICE, PRE_KEY_ID, x25519(PRE_KEY), part, size)
        at = place(relay, number_of_class, number)
        blob = wrap(inner, SEED, at)
        assert len(blob) == size
        assert unseal(blob, SEED, at, mail_key(ALICE)[32:], PRE_KEY) == part
        case: dict[str, object] = {
            "sender": ALICE.hex(),
            "pre_key_id": PRE_KEY_ID,
            "pre_key_secret": PRE_KEY.hex(),
            "seed": SEED.hex(),
            "relay": relay.hex(),
            "class": number_of_class,
            "number": number,
            "parcel": parcel.hex(),
            "part": 1,
            "parts": 3,
            "total": total,
            "offset": offset,
            "length": length,
            "begins": blob[:80].hex(),
            "digest": digest(blob).hex(),
        }
        if length == 500:
            case["content"] = base64.b64encode(blob).decode()
        out.append(case)
    return out


def base32(octets: bytes) -> str:
    return base64.b32encode(octets).decode().rstrip("=").lower()


def invitation() -> dict[str, object]:
    """An invitation of Bob and the introduction of Alice that answers it."""
    owner_secret, tox_secret = secret("tox secret of bob"), secret("tox secret of alice")
    owner, sender = x25519(owner_secret), x25519(tox_secret)
    code, bits, day = secret("code")[:16], 10, 20_000
    inbox = bytes([bits]) + code + mail_key(BOB)
    named = [tox_id(secret(f"tox key {at}"), bytes([at] * 4)) + ed25519(RELAYS[at]) for at in range(2)]
    offer = cbor([b"no offer", bytes(64)])
    text = "Hello Bob\nAddress: alice@example.org"
    body = cbor({1: tox_id(sender, bytes(4)), 2: text, 3: offer})
    work = derive(code, "toxmail introduction body 1", mail_key(BOB), sender, u64(day), body)
    stamp = next(
        stamp
        for stamp in range(1 << 20)
        if int.from_bytes(derive(work, "toxmail introduction stamp 1", u64(stamp)), "big") >> 256 - bits == 0
    )
    to, content = mail_key(BOB)[32:], u64(stamp) + body
    nonce = derive(tox_secret, "toxmail introduction nonce 1", to, content)[:24]
    box = nonce + bindings.crypto_box(content, nonce, to, tox_secret)
    once = derive(tox_secret, "toxmail introduction key 1", to, box)
    padded = (32 + len(box)).to_bytes(4, "big") + sender + box
    padded += bytes(CLASSES[0] - 24 - 16 - 32 - 24 - 16 - len(padded))
    nonce = derive(tox_secret, "toxmail introduction nonce 1", to, padded)[:24]
    inner = x25519(once) + nonce + bindings.crypto_box(padded, nonce, to, once)
    number = 8 * day + 3
    seed = derive(code, "toxmail inbox seed 1", owner)
    blob = wrap(inner, seed, place(ed25519(RELAYS[0]), 0, number))
    assert len(blob) == CLASSES[0]
    return {
        "secret": BOB.hex(),
        "id": tox_id(owner, bytes(4)).hex(),
        "bits": bits,
        "code": code.hex(),
        "relays": [one.hex() for one in named],
        "text": "toxmail-invite:" + base32(tox_id(owner, bytes(4)) + inbox + b"".join(named)),
        "fields": f"inv={base32(inbox)};r={','.join(map(base32, named))}",
        "seed": seed.hex(),
        "tox_secret": tox_secret.hex(),
        "words": text,
        "offer": offer.hex(),
        "day": day,
        "stamp": stamp,
        "relay": ed25519(RELAYS[0]).hex(),
        "number": number,
        "digest": digest(blob).hex(),
    }


def vectors() -> str:
    """The text of the file."""
    everything = {
        "about": "Written by tests/lane_vectors.py; a part holds the first `length` of the octets 0, 1, … 250, 0, 1 …",
        "keys": keys(),
        "slots": slots(),
        "offers": offers(),
        "mail": mail(),
        "control": control(),
        "sealed": sealed(),
        "invitation": invitation(),
    }
    return json.dumps(everything, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    text = vectors()
    if sys.argv[1:] == ["--check"]:
        if FILE.read_text(encoding="utf-8") != text:
            print(f"{FILE} is not what this script yields: run it", file=sys.stderr)
            return 1
    elif sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    else:
        FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
