"""Free ports of 127.0.0.1, found by binding."""

import os
import socket
from itertools import chain

HOST = "127.0.0.1"

# Handed out in this process, so that two callers never get the same one before either has bound it.
_taken: set[int] = set()

# Below the kernel's usual range for outgoing connections (32768-60999), which could take a port before it is used.
_RANGE = range(20100, 32000)


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM, also: socket.SocketKind | None = None) -> int:
    """A port nobody is bound to, for TCP unless said otherwise; with `also`, free for that kind too."""
    start = _RANGE.start + _first_offset() % len(_RANGE)
    for candidate in chain(range(start, _RANGE.stop), range(_RANGE.start, start)):
        if candidate in _taken or not _is_free(candidate, kind) or (also is not None and not _is_free(candidate, also)):
            continue
        _taken.add(candidate)
        return candidate
    raise OSError(f"no free port in {_RANGE.start}-{_RANGE.stop}")


def free_udp_port() -> int:
    """A free UDP port."""
    return free_port(socket.SOCK_DGRAM)


def free_udp_ports(count: int) -> list[int]:
    """Free UDP ports, one after the other."""
    ports = [free_udp_port()]
    while len(ports) < count:
        port = free_udp_port()
        ports = [*ports, port] if port == ports[-1] + 1 else [port]
    return ports


def _first_offset() -> int:
    """A number that differs between processes, so that two rigs at the same time start looking at different ports."""
    return os.getpid() * 97


def accepts(port: int) -> bool:
    """Whether somebody accepts TCP connections at the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0
