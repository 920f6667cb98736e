"""What a process does with sockets, by strace(1): each one it makes, and whom it connects or sends to."""

import re
from pathlib import Path

_SOCKET = re.compile(r"socket\((AF_\w+), (SOCK_\w+)")
_UNIX = re.compile(r'connect\(\d+, \{sa_family=AF_UNIX, sun_path=@?"([^"]*)"')
_BOUND = re.compile(r"bind\(\d+, \{sa_family=(AF_INET6?)")
_INET = re.compile(
    r"\b(?:connect|sendto|sendmsg|sendmmsg)\(.*?sa_family=AF_INET6?, sin6?_port=htons\((\d+)\), .*?\"([0-9a-f.:]+)\""
)


class SocketWatch:
    """Put `command` before a program's command line; the program keeps its process id, and all of its threads are watched.

    The program's user must be able to write into `folder`.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "sockets"
        # As a grandchild, strace is not in the way of signals and exit statuses.
        self.command: list[str | Path] = [
            *("strace", "-D", "-f", "-qq", "-s", "0", "--seccomp-bpf"),
            *("-e", "trace=%network", "-e", "signal=none", "-o", self._path),
        ]

    def kinds(self) -> set[tuple[str, str]]:
        """Address family and type of each socket made, as in (AF_INET, SOCK_STREAM)."""
        return {(found.group(1), found.group(2)) for line in self._lines() if (found := _SOCKET.search(line))}

    def targets(self) -> set[tuple[str, int]]:
        """IP address and port of whomever it connected or sent a datagram to."""
        return {(found.group(2), int(found.group(1))) for line in self._lines() if (found := _INET.search(line))}

    def unix(self) -> set[str]:
        """The Unix sockets it connected to, or tried to."""
        return {found.group(1) for line in self._lines() if (found := _UNIX.search(line))}

    def bound(self) -> set[str]:
        """The families of those of its sockets that were bound to an IP address."""
        return {found.group(1) for line in self._lines() if (found := _BOUND.search(line))}

    def _lines(self) -> list[str]:
        lines = self._path.read_text(errors="replace").splitlines()
        assert lines, "strace has seen nothing"
        return lines

