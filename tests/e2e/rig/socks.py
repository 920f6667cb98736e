"""A small SOCKS5 proxy (RFC 1928: CONNECT, no authentication)."""

import contextlib
import socket
import struct
import threading

from rig.net import HOST
from rig.sandbox import Sandbox

_REFUSED = b"\x05\x05\x00\x01" + bytes(6)


class SocksServer:
    """Listens at `port` of 127.0.0.1 until the sandbox closes; `targets` are the places it connected to."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.targets: list[tuple[str, int]] = []
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        sandbox.on_close(self._listener.close)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ConnectionError), client:
            version, methods = _take(client, 2)
            if version != 5 or 0 not in _take(client, methods):
                return
            client.sendall(b"\x05\x00")
            _, command, _, kind = _take(client, 4)
            if kind == 1:
                host = socket.inet_ntoa(_take(client, 4))
            elif kind == 3:
                host = _take(client, _take(client, 1)[0]).decode()
            else:
                host = socket.inet_ntop(socket.AF_INET6, _take(client, 16))
            (port,) = struct.unpack("!H", _take(client, 2))
            try:
                if command != 1:
                    raise ConnectionError
                server = socket.create_connection((host, port), timeout=10)
            except OSError:
                client.sendall(_REFUSED)
                return
            self.targets.append((host, port))
            client.sendall(b"\x05\x00\x00\x01" + bytes(6))
            server.settimeout(None)
            with server:
                threading.Thread(target=_pump, args=(client, server), daemon=True).start()
                _pump(server, client)


def _take(connection: socket.socket, count: int) -> bytes:
    octets = b""
    while len(octets) < count:
        if not (piece := connection.recv(count - len(octets))):
            raise ConnectionError("closed")
        octets += piece
    return octets


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
