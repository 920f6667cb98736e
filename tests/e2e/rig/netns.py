"""Network namespaces on one bridge: hosts of their own whose cables can be pulled."""

import contextlib
import os
import pwd
from collections.abc import Sequence
from pathlib import Path

from rig.sandbox import UNPRIVILEGED, Sandbox

_NAMES = Path("/run/netns")
_NET = "10.231.77"


def inside(netns: str, argv: Sequence[str | Path], user: str = UNPRIVILEGED) -> list[str | Path]:
    """The command that runs `argv` in a namespace as `user`; it keeps its process id."""
    account = pwd.getpwnam(user)
    return ["nsenter", f"--net={_NAMES / netns}", f"--setuid={account.pw_uid}", f"--setgid={account.pw_gid}", *argv]


class Network:
    """A hub with the address `hub_address`, and the hosts that were joined to it, apart from the real net."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._prefix = f"toxmail-{os.getpid()}-"
        self._names: list[str] = []
        _sweep()
        sandbox.on_close(self._remove)
        self.hub = self._add("hub")
        self.hub_address = f"{_NET}.1"
        self._ip(self.hub, "link", "add", "br0", "type", "bridge")
        self._ip(self.hub, "addr", "add", f"{self.hub_address}/24", "dev", "br0")
        self._ip(self.hub, "link", "set", "br0", "up")

    def join(self, name: str) -> str:
        """A new host; the name of its namespace."""
        netns = self._add(name)
        cable = f"to-{name}"
        self._ip(self.hub, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", netns)
        self._ip(self.hub, "link", "set", cable, "master", "br0", "up")
        self._ip(netns, "addr", "add", f"{_NET}.{len(self._names)}/24", "dev", "eth0")
        self._ip(netns, "link", "set", "eth0", "up")
        return netns

    def cut(self, name: str) -> None:
        """Pull the cable of the host that was joined under this name."""
        self._ip(self.hub, "link", "set", f"to-{name}", "down")

    def restore(self, name: str) -> None:
        """Put it back."""
        self._ip(self.hub, "link", "set", f"to-{name}", "up")

    def _add(self, name: str) -> str:
        netns = self._prefix + name
        self._sandbox.run(["ip", "netns", "add", netns])
        self._names.append(netns)
        self._ip(netns, "link", "set", "lo", "up")
        return netns

    def _ip(self, netns: str, *words: str) -> None:
        self._sandbox.run(["ip", "-n", netns, *words])

    def _remove(self) -> None:
        for netns in self._names:
            with contextlib.suppress(Exception):
                self._sandbox.run(["ip", "netns", "del", netns])


def _sweep() -> None:
    """Remove the names that a run left behind which was itself ended by kill -9."""
    for path in _NAMES.glob("toxmail-*-*"):
        pid = path.name.split("-")[1]
        if pid.isdigit() and not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):
                path.unlink()
