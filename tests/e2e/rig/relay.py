"""Agents that are relays for others, and what agents need who use them."""

import base64
import shutil
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rig.agent import Agent
from rig.bootstrap import Bootstrap
from rig.net import free_udp_ports
from rig.sandbox import UNPRIVILEGED, RigError, Sandbox
from rig.wait import wait_for

# What a slot may hold, in octets: `lane::keys::Class`.
CLASSES = (16 << 10, 128 << 10, 512 << 10, 1 << 20, 4 << 20)

# For an agent whose mail goes to relays soon, and what failed is tried again at once.
SOON: dict[str, dict[str, Any]] = {"queue": {"relay_after": "2s", "retry_min": "1s", "retry_max": "3s"}}

# An account is a Tox instance; so is the relay, and each look at a relay.
PORTS = 24


class Relay(Agent):
    """An agent whose relay is there for others.

    `relay` are further keys of its section of the configuration; `quota` is what each owner may have there.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        name: str,
        *,
        binaries: Path,
        bootstrap: Bootstrap,
        relay: Mapping[str, Any] | None = None,
        quota: str | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        self._quota = quota
        options.setdefault("addresses", [f"{name}@relay.example"])
        options.setdefault("senders", [f"{name}@{name}.example"])
        options.setdefault("ports", free_udp_ports(2))
        super().__init__(
            sandbox,
            name,
            binaries=binaries,
            bootstrap=bootstrap,
            settings={**(settings or {}), "relay": {"enabled": True, **(relay or {})}},
            **options,
        )

    @property
    def relay_state(self) -> Path:
        """What the relay keeps: its identity, its database, and below `slots` the contents."""
        return self.state / "relay"

    @property
    def text(self) -> str:
        """How it is told to others, without an invite."""
        return str(self.json("relay", "status")["own"]["text"])

    @property
    def relay_key(self) -> str:
        """The key of the relay, in lower case."""
        return key_of(self.text)

    def invite(self) -> str:
        """A text that makes its bearer an owner, once."""
        quota = ["--quota", self._quota] if self._quota is not None else []
        return str(self.json("relay", "invite", *quota)["text"])

    def contents(self) -> list[Path]:
        """The files of slots that are filled."""
        return [path for path in (self.relay_state / "slots").iterdir() if path.suffix != ".part"]

    def writing(self) -> bool:
        """Whether some content has come in part, and no more is said than that."""
        return any(path.suffix == ".part" for path in (self.relay_state / "slots").iterdir())

    def wait_empty(self, timeout: float = 120.0) -> None:
        """Wait until no slot holds anything."""
        wait_for(f"end of all contents at {self.name}", lambda: not self.contents(), timeout)

    def vanish(self) -> None:
        """For good: kill -9, and all that it kept is gone."""
        self.kill()
        shutil.rmtree(self.state)


class BadRelay:
    """`bad_relay` of `tests/support`, which keeps to the protocol but for what its mode says."""

    def __init__(self, sandbox: Sandbox, mode: str, *, source: Path, bootstrap: Bootstrap) -> None:
        program = sandbox.dir("bin") / "bad_relay"
        if not program.exists():
            shutil.copy(source / "examples" / "bad_relay", program)
            program.chmod(0o755)
        self.name = f"{mode}-relay"
        self._invites = 0
        node = f"{bootstrap.host}:{bootstrap.port}:{bootstrap.key}"
        self.process = sandbox.start(self.name, [program, mode, node], user=UNPRIVILEGED, talk=True)
        self.process.wait_ready("text", lambda: len(self._texts()) > 0)

    @property
    def relay_key(self) -> str:
        """The key of the relay, in lower case."""
        return key_of(self._texts()[0])

    def invite(self) -> str:
        """A text that makes its bearer an owner, once."""
        self._invites += 1
        if self._invites > len(self._texts()):
            self.process.tell("another")
            self.process.wait_ready("invite", lambda: len(self._texts()) >= self._invites)
        return self._texts()[self._invites - 1]

    def _texts(self) -> list[str]:
        lines = self.process.log.read_text(errors="replace").splitlines(keepends=True)
        return [line.rstrip("\n") for line in lines if line.startswith("toxmail-relay:") and line.endswith("\n")]


def person(
    sandbox: Sandbox,
    name: str,
    *,
    binaries: Path,
    bootstrap: Bootstrap,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    addresses: Sequence[str] = (),
    **account: Any,
) -> Agent:
    """An agent who uses relays; `account` are further keys of its account."""
    keys = {"relay_poll": "10s", **account}
    return Agent(
        sandbox,
        name,
        binaries=binaries,
        bootstrap=bootstrap,
        addresses=addresses or [f"{name}@tox.example"],
        senders=[f"{name}@{name}.example"],
        settings={**SOON, **(settings or {})},
        extra_config="".join(f'{key} = "{value}"\n' for key, value in keys.items()),
        ports=free_udp_ports(PORTS),
    )


def key_of(text: str) -> str:
    """The key of the relay that is told by this text, in lower case: the last 32 of its 70 octets."""
    octets = base64.b32decode(text.split(":")[1].upper())
    return octets[-32:].hex()


def relays_used(agent: Agent) -> dict[str, dict[str, Any]]:
    """The relays that an agent uses, by their keys."""
    return {str(used["key"]): used for used in agent.json("relay", "status")["used"]}


def wait_owner(agent: Agent, relays: Iterable[str], timeout: float = 120.0) -> None:
    """Wait until mail for the agent can be left at the relays with these keys."""
    wanted = set(relays)

    def probe() -> bool:
        agent.require_alive()
        used = agent.json("relay", "status")["used"]
        return wanted <= {str(relay["key"]) for relay in used if relay["slots"] > 0}

    wait_for(f"slots of {agent.name} at {len(wanted)} relays", probe, timeout, interval=0.1)


def wait_lane(agent: Agent, other: Agent, relays: Iterable[str], timeout: float = 120.0) -> None:
    """Wait until the agent knows that it may leave mail for the other one at all of these relays.

    Which they are only the store tells; toxctl says how many.
    """
    wanted = {bytes.fromhex(key) for key in relays}
    wait_owner(other, relays, timeout)
    peer = bytes.fromhex(other.key)

    def probe() -> bool:
        agent.require_alive()
        with closing(store(agent)) as tables:
            offers = tables.execute("SELECT offer FROM lane_out WHERE peer = ?", [peer]).fetchall()
        return any(all(key in offer for key in wanted) for (offer,) in offers)

    wait_for(f"lane from {agent.name} to {other.name} by {len(wanted)} relays", probe, timeout, interval=0.1)


def store(agent: Agent) -> sqlite3.Connection:
    """The store of an agent that runs, to be read."""
    agent.require_alive()  # else SQLite would make files that are root's
    return sqlite3.connect(f"file:{agent.state}/queue.sqlite?mode=ro", uri=True)


def at_relays(agent: Agent, queue_id: str) -> int:
    """At how many relays the agent says this mail is, for the recipient for whom it is at the fewest."""
    for mail in agent.json("queue", "list"):
        if mail["queue_id"] == queue_id:
            places = [recipient["at_relays"] for recipient in mail["recipients"]]
            return min(int(place["relays"]) if place else 0 for place in places)
    raise RigError(f"{agent.name}: {queue_id} is not in the queue")


def wait_at_relays(agent: Agent, queue_id: str, relays: int, timeout: float = 180.0) -> None:
    """Wait until the mail is at so many relays, or more."""

    def probe() -> bool:
        agent.require_alive()
        return at_relays(agent, queue_id) >= relays

    wait_for(f"{queue_id} of {agent.name} at {relays} relays", probe, timeout, interval=0.1)
