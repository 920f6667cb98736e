"""Submitting mail over LMTP as fast as the agent takes it."""

import socket
import threading
from collections.abc import Sequence
from pathlib import Path


class Client:
    """One LMTP connection (RFC 2033) with pipelining."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")
        self._answer(220)
        self._socket.sendall(b"LHLO bench\r\n")
        self._answer(250)

    def _answer(self, code: int) -> None:
        while True:
            line = self._file.readline()
            if not line.startswith(str(code).encode()):
                raise RuntimeError(f"LMTP: {line!r} instead of {code}")
            if line[3:4] != b"-":
                return

    def send(self, sender: str, recipient: str, body: bytes) -> None:
        """Hand over one mail, with CRLF line ends and no line that begins with a dot; returns when it is durable."""
        envelope = f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode()
        self._socket.sendall(envelope)
        for code in (250, 250, 354):
            self._answer(code)
        self._socket.sendall(body + b".\r\n")
        self._answer(250)

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()


def load(path: Path, sender: str, recipient: str, bodies: Sequence[bytes], connections: int) -> None:
    """Hand over all `bodies`, shared out among `connections`."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            client = Client(path)
            for body in bodies[number::connections]:
                client.send(sender, recipient, body)
            client.close()
        except BaseException as failure:  # noqa: BLE001 - told to the caller
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
