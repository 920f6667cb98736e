"""Agents that are relays for others, and what agents need who use them."""

import base64
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rig.agent import Agent
from rig.bootstrap import Bootstrap
from rig.net import free_udp_ports
from rig.sandbox import RigError, Sandbox
from rig.wait import wait_for

# What a slot may hold, in octets: `lane::keys::Class`.
CLASSES = (16 << 10, 128 << 10, 512 << 10, 1 << 20, 4 << 20)

# For an agent whose mail goes to relays soon, and what failed is tried again at once.
SOON: dict[str, dict[str, Any]] = {"queue": {"relay_after": "2s", "retry_min": "1s", "retry_max": "3s"}}

# An account is a Tox instance; so is the relay, and each look at a relay.
PORTS = 24

_TEXT = re.compile(r"toxmail-relay:([a-z2-7]{112})(:[a-z2-7]{26})?")


def relay_key(text: str) -> str:
    """The key of a relay that is told by this text, in hexadecimal."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise RigError(f"no text of a relay: {text!r}")
    return base64.b32decode(found.group(1).upper()).hex()[-64:]


class Relay(Agent):
    """An agent whose relay is there for others; `relay` are further keys of its section of the configuration."""

    def __init__(
        self,
        sandbox: Sandbox,
        name: str,
        *,
        binaries: Path,
        bootstrap: Bootstrap,
        relay: Mapping[str, Any] | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
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

    def invite(self, *options: str) -> str:
        """A text that makes its bearer an owner, once."""
        text = self.ctl("relay", "invite", *options).strip()
        relay_key(text)
        return text

    @property
    def text(self) -> str:
        """What it is told by, without an invite."""
        return self.invite()[: -len(":" + "x" * 26)]

    def contents(self) -> list[Path]:
        """The files of slots that are filled, or being filled."""
        folder = self.relay_state / "slots"
        return [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []

    def wait_empty(self, timeout: float = 120.0) -> None:
        """Wait until no slot holds anything."""
        wait_for(f"end of all contents at {self.name}", lambda: not self.contents(), timeout)

    def vanish(self) -> None:
        """For good: kill -9, and all that it kept is gone."""
        self.kill()
        shutil.rmtree(self.state)


def person(
    sandbox: Sandbox,
    name: str,
    *,
    binaries: Path,
    bootstrap: Bootstrap,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    **account: Any,
) -> Agent:
    """An agent who uses relays; `account` are further keys of its account."""
    keys = {"relay_poll": "10s", **account}
    return Agent(
        sandbox,
        name,
        binaries=binaries,
        bootstrap=bootstrap,
        addresses=[f"{name}@tox.example"],
        senders=[f"{name}@{name}.example"],
        settings={**SOON, **(settings or {})},
        extra_config="".join(f'{key} = "{value}"\n' for key, value in keys.items()),
        ports=free_udp_ports(PORTS),
    )


def relays_of(agent: Agent, other: Agent) -> int:
    """At how many relays the agent may leave mail for the other one."""
    contact = agent.contact(other.key)
    return int(contact.get("relays") or 0) if contact is not None else 0


def wait_lane(agent: Agent, other: Agent, relays: int, timeout: float = 120.0) -> None:
    """Wait until the agent may leave mail for the other one at so many relays."""
    wait_for(
        f"lane from {agent.name} to {other.name} by {relays} relays",
        lambda: relays_of(agent, other) == relays,
        timeout,
        interval=0.1,
    )


def at_relays(agent: Agent, queue_id: str) -> int | None:
    """At how many relays the agent says this mail is for each of its recipients; None when it is gone."""
    for mail in agent.json("queue", "list"):
        if mail["queue_id"] == queue_id:
            return min(int(recipient.get("relays") or 0) for recipient in mail["recipients"])
    return None


def wait_at_relays(agent: Agent, queue_id: str, relays: int, timeout: float = 180.0) -> None:
    """Wait until the mail is at so many relays, or more."""

    def probe() -> bool:
        agent.require_alive()
        return (at_relays(agent, queue_id) or 0) >= relays

    wait_for(f"{queue_id} of {agent.name} at {relays} relays", probe, timeout, interval=0.1)
