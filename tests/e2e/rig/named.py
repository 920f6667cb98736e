"""A private DNS server with a root and a few domains of its own, signed by DNSSEC."""

import base64
import hashlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rig.dns_liar import Message, ask
from rig.net import HOST, free_port
from rig.sandbox import UNPRIVILEGED, RigError, Sandbox

_SERVER = "ns.test."


@dataclass(frozen=True)
class Signing:
    """How a zone is signed: `nsec3` is how it denies, `one_key` whether a single key signs both keys and data."""

    algorithm: str
    nsec3: bool = False
    one_key: bool = False
    expired: bool = False


# Every zone but the root is delegated from the longest other one that it ends with: with DS records, if it is signed.
ZONES: Mapping[str, Signing | None] = {
    ".": Signing("RSASHA256"),
    "test.": Signing("ECDSAP256SHA256", nsec3=True),
    "example.test.": Signing("ED25519"),
    "rsa.test.": Signing("RSASHA256", nsec3=True),
    "alice.test.": Signing("ECDSAP256SHA256", one_key=True),
    "mallory.test.": Signing("ECDSAP256SHA256", nsec3=True, one_key=True),
    "expired.test.": Signing("ED25519", expired=True),
    "plain.test.": None,
}


@dataclass(frozen=True)
class Rr:
    """A record as zone files have it: `Rr("CNAME", "bob._tox.alice.test.")`."""

    type: str
    data: str


# A TXT record of one string, a TXT record of several, any other record.
Published = str | Sequence[str] | Rr


@dataclass
class _Zone:
    name: str
    signing: Signing | None
    serial: int = 1
    keys: list[str] = field(default_factory=list)
    delegations: list[str] = field(default_factory=list)
    records: dict[str, list[Rr]] = field(default_factory=dict)

    @property
    def file(self) -> str:
        return f"{self.name}zone" if self.name != "." else "root.zone"


class Named:
    """`named` at `port` of 127.0.0.1, by UDP and TCP, for all of `ZONES` and nothing else: it asks nobody, and
    does not follow an alias from one zone into another. A `Liar` before it does, honestly, as resolvers do.

    `anchor` is a file with the DNSKEY record to trust, that of the root. Every record has a TTL of 0 seconds unless
    `ttl` says otherwise, so that nobody remembers what `publish` has changed.
    """

    def __init__(self, sandbox: Sandbox, name: str = "named", *, ttl: int = 0) -> None:
        program = shutil.which("named", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise RigError("named is not installed: scripts/install-deps test")
        self.port = free_port(socket.SOCK_DGRAM, also=socket.SOCK_STREAM)
        self._sandbox = sandbox
        self._ttl = ttl
        self._folder = sandbox.dir(name)
        self._keys = sandbox.dir(f"{name}/keys", mode=0o700)
        self._zones = {zone: _Zone(zone, signing) for zone, signing in ZONES.items()}
        self._pool = ThreadPoolExecutor(2 * (os.cpu_count() or 1))
        sandbox.on_close(lambda: self._pool.shutdown(wait=False))

        list(self._pool.map(self._make_keys, self._zones.values()))
        self._delegate()
        list(self._pool.map(self._write, self._zones.values()))

        self.anchor = self._folder / "root.anchor"
        (ksk,) = (key for key in self._zones["."].keys if key.startswith("257 "))
        self.anchor.write_text(f". 300 IN DNSKEY {ksk}\n")

        # A copy, since where AppArmor confines the installed one it may read /etc/bind and no other configuration.
        binary = self._folder / "named"
        shutil.copy(program, binary)
        run = sandbox.dir(f"{name}/run", user=UNPRIVILEGED)
        config = self._folder / "named.conf"
        config.write_text(
            f"""options {{
    directory "{run}";
    listen-on port {self.port} {{ {HOST}; }};
    listen-on-v6 {{ none; }};
    pid-file none;
    session-keyfile none;
    recursion no;
    dnssec-validation no;
    allow-transfer {{ none; }};
    notify no;
    check-names primary ignore;
}};
controls {{ }};
"""
            + "".join(
                f'zone "{zone.name}" {{ type primary; file "{self._folder / zone.file}"; }};\n'
                for zone in self._zones.values()
            )
        )
        # One thread is enough, and more take memory; -g: in the foreground, with the log to standard error.
        command: list[str | Path] = [binary, "-g", "-n", "1", "-c", config]
        self.process = sandbox.start(name, command, user=UNPRIVILEGED)
        self.process.wait_ready("zones", lambda: self._serves(self._zones.values()))

    def publish(self, zone: str, owner: str, *records: Published) -> None:
        """Let these be all the records at the name `owner` (below `zone`, or `@`), and serve them before it returns.

        A string is a TXT record, a list of strings is one TXT record of several strings. No records: no such name.
        """
        self.publish_all({(zone, owner): records})

    def publish_all(self, records: Mapping[tuple[str, str], Sequence[Published]]) -> None:
        """The same for many names, as (zone, owner), at the price of one."""
        changed: dict[str, _Zone] = {}
        for (name, owner), published in records.items():
            zone = self._zone(name)
            changed[zone.name] = zone
            zone.records[owner] = [_record(record) for record in published]
        for zone in changed.values():
            zone.serial += 1
        list(self._pool.map(self._write, changed.values()))
        logged = self.process.log.stat().st_size
        os.kill(self.process.pid, signal.SIGHUP)

        def probe() -> bool:
            said = self.process.log.read_bytes()[logged:].decode(errors="replace")
            if "not loaded due to errors" in said:
                raise RigError(f"named does not take {', '.join(changed)}:\n{said}")
            return self._serves(changed.values())

        self.process.wait_ready("new records", probe)

    def ask(self, name: str, type: str = "TXT", *, tcp: bool = True) -> Message:
        """What it answers, with signatures."""
        return ask(self.port, name, type, tcp=tcp)

    def _zone(self, name: str) -> _Zone:
        name = f"{name.rstrip('.')}."
        if name not in self._zones:
            raise RigError(f"{name} is none of {', '.join(self._zones)}")
        return self._zones[name]

    def _make_keys(self, zone: _Zone) -> None:
        """The keys that sign the zone, each as the data of its DNSKEY record."""
        if zone.signing is None:
            return
        for flags in [["-f", "KSK"]] if zone.signing.one_key else [["-f", "KSK"], []]:
            size = ["-b", "2048"] if zone.signing.algorithm.startswith("RSA") else []
            make: list[str | Path] = ["dnssec-keygen", "-q", "-K", self._keys, "-a", zone.signing.algorithm]
            made = self._sandbox.run([*make, *size, *flags, zone.name])
            text = (self._keys / f"{made.stdout.decode().strip()}.key").read_text()
            (line,) = (line for line in text.splitlines() if not line.startswith(";"))
            zone.keys.append(line.partition(" DNSKEY ")[2])

    def _delegate(self) -> None:
        for zone in self._zones.values():
            if zone.name == ".":
                continue
            above = (name for name in self._zones if zone.name != name and zone.name.endswith(f".{name.lstrip('.')}"))
            parent = self._zones[max([".", *above], key=len)]
            parent.delegations.append(f"{zone.name} NS {_SERVER}")
            parent.delegations += [f"{zone.name} DS {_ds(zone.name, key)}" for key in zone.keys if key[:3] == "257"]

    def _write(self, zone: _Zone) -> None:
        """Make the zone's file, signed."""
        lines = [f"$TTL {self._ttl}", f"$ORIGIN {zone.name}"]
        lines += [f"@ SOA {_SERVER} root.test. {zone.serial} 3600 600 86400 {self._ttl}", f"@ NS {_SERVER}"]
        lines += zone.delegations
        # Its own in test., in the root what is called glue.
        lines += [f"{_SERVER} A {HOST}"] if zone.name in (".", "test.") else []
        for owner, records in zone.records.items():
            lines += [f"{owner} {record.type} {record.data}" for record in records]
        target = self._folder / zone.file
        new = self._folder / f"{zone.file}.new"
        if zone.signing is None:
            new.write_text("\n".join(lines) + "\n")
        else:
            source = self._folder / f"{zone.file}.unsigned"
            source.write_text("\n".join(lines) + "\n")
            sign: list[str | Path] = ["dnssec-signzone", "-q", "-S", "-P", "-K", self._keys, "-d", self._keys]
            sign += ["-o", zone.name, "-T", str(self._ttl), "-f", new]
            sign += ["-z"] if zone.signing.one_key else []
            sign += ["-3", "-", "-H", "0"] if zone.signing.nsec3 else []
            sign += ["-s", _days_from_now(-2), "-e", _days_from_now(-1 if zone.signing.expired else 30)]
            self._sandbox.run([*sign, source])
        new.chmod(0o644)
        # named reads a file again that is newer than its last look at it; the file system's clock ticks too slowly.
        now = time.time_ns()
        os.utime(new, ns=(now, now))
        new.rename(target)

    def _serves(self, zones: Iterable[_Zone]) -> bool:
        """Whether it has what was written last."""
        try:
            for zone in zones:
                (soa,) = (record for record in self.ask(zone.name, "SOA").answers if record.type == "SOA")
                if soa.serial != zone.serial:
                    return False
        except (OSError, ValueError):
            return False
        return True


def _record(record: Published) -> Rr:
    if isinstance(record, Rr):
        return record
    strings = [record] if isinstance(record, str) else record
    return Rr("TXT", " ".join(f'"{_escaped(string)}"' for string in strings))


def _escaped(string: str) -> str:
    return "".join(chr(o) if 0x20 <= o < 0x7F and o not in b'"\\' else f"\\{o:03}" for o in string.encode())


def _days_from_now(days: int) -> str:
    return time.strftime("%Y%m%d%H%M%S", time.gmtime(time.time() + days * 86_400))


def _ds(zone: str, key: str) -> str:
    """The data of the DS record for a DNSKEY record (RFC 4034, 5.1.4 and appendix B)."""
    flags, protocol, algorithm, *words = key.split()
    data = int(flags).to_bytes(2) + bytes([int(protocol), int(algorithm)]) + base64.b64decode("".join(words))
    total = sum(octet << 8 if at % 2 == 0 else octet for at, octet in enumerate(data))
    owner = b"".join(bytes([len(label)]) + label.encode() for label in zone.split(".") if label) + b"\0"
    return f"{(total + (total >> 16)) & 0xFFFF} {algorithm} 2 {hashlib.sha256(owner + data).hexdigest()}"
