"""A private Tox bootstrap node and TCP relay."""

import re
import socket
from pathlib import Path

from rig.net import HOST, free_port
from rig.netns import inside
from rig.sandbox import UNPRIVILEGED, Sandbox


class Bootstrap:
    """`tox-bootstrapd` with a key of its own: agents need `host`, `port`, `tcp_port` and `key`.

    It is at 127.0.0.1, or at the address `host` of the network namespace `netns`; with `other`, a further node of the
    network that this one is in.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        name: str = "bootstrap",
        *,
        host: str = HOST,
        netns: str | None = None,
        other: "Bootstrap | None" = None,
    ) -> None:
        self.host = host
        self.port = free_port(socket.SOCK_DGRAM, also=socket.SOCK_STREAM)
        self.tcp_port = free_port()
        folder = sandbox.dir(name, user=UNPRIVILEGED)
        config = folder / "tox-bootstrapd.conf"
        nodes = ""
        if other is not None:
            node = f'address = "{other.host}", port = {other.port}, public_key = "{other.key}"'
            nodes = f"bootstrap_nodes = ({{ {node} }})\n"
        config.write_text(
            nodes
            + f"""port = {self.port}
keys_file_path = "{folder}/keys"
pid_file_path = "{folder}/pid"
enable_ipv6 = false
enable_ipv4_fallback = true
enable_lan_discovery = false
enable_tcp_relay = true
tcp_relay_ports = [{self.tcp_port}]
enable_motd = false
"""
        )
        command: list[str | Path] = ["tox-bootstrapd", "--foreground", "--log-backend=stdout", f"--config={config}"]
        user: str | None = UNPRIVILEGED
        if netns is not None:
            command, user = inside(netns, command), None
        self.process = sandbox.start(name, command, user=user)
        self.key = ""
        self.process.wait_ready("public key", self._find_key)

    def _find_key(self) -> bool:
        found = re.search(r"Public Key: ([0-9A-Fa-f]{64})", self.process.log.read_text(errors="replace"))
        if found:
            self.key = found.group(1)
        return found is not None
