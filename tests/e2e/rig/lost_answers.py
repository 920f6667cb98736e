"""A proxy before a server of LMTP or SMTP. It passes mail on, but of some it keeps the answer to the final dot to
itself: the server has them, and the client cannot know.
"""

import contextlib
import queue
import re
import socket
import socketserver
import threading
from dataclasses import dataclass
from pathlib import Path

from rig.mail import header
from rig.net import HOST
from rig.sandbox import Sandbox

_END = b"\r\n.\r\n"


@dataclass(frozen=True)
class Attempt:
    """One time that a mail was handed over."""

    subject: str
    identity: str
    """Its Tox-Mail-Id."""
    answer: str
    """What the server said to the final dot."""


class LostAnswers:
    """`server` is the path of a Unix socket, or a port of 127.0.0.1; the proxy is of the same kind.

    The first time that a mail comes whose subject is in `lose`, its connection is closed in place of the answer. If its
    subject is in `hold`, it is told by `held`, and gets no answer until its client is gone.
    """

    def __init__(self, sandbox: Sandbox, server: Path | int, name: str) -> None:
        self.lose: set[str] = set()
        self.hold: set[str] = set()
        self.held: queue.Queue[str] = queue.Queue()
        self.attempts: list[Attempt] = []
        self.most_at_once = 0
        """How many mails were between their final dot and its answer, at most."""
        self._unanswered: set[int] = set()
        self._lock = threading.Lock()
        self._server = server
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    proxy._serve(self.request)

        self.socket = sandbox.dir(name) / "proxy.sock"
        self.port = 0
        self._proxy: socketserver.BaseServer
        if isinstance(server, Path):
            self._proxy = _UnixServer(str(self.socket), Handler)
            self.socket.chmod(0o666)
        else:
            tcp = _TcpServer((HOST, 0), Handler)
            self.port = tcp.server_address[1]
            self._proxy = tcp
        threading.Thread(target=self._proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        sandbox.on_close(self._close)

    def of(self, subject: str) -> list[Attempt]:
        """The attempts of one mail that were answered by the server."""
        return [attempt for attempt in self.attempts if attempt.subject == subject]

    def _close(self) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()

    def _connect(self) -> socket.socket:
        if isinstance(self._server, int):
            return socket.create_connection((HOST, self._server))
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self._server))
        return server

    def _serve(self, client: socket.socket) -> None:
        with self._connect() as server:
            ended = threading.Event()
            sent = bytearray()
            answers = threading.Thread(target=self._answers, args=(client, server, ended, sent), daemon=True)
            answers.start()
            while octets := client.recv(65536):
                sent += octets
                # Only data can have this: no command is a dot. What the server says from here on is its answer to it,
                # since the client has waited for all others before it sent the data.
                if not ended.is_set() and _END in sent[-len(octets) - len(_END) :]:
                    self._note(client, unanswered=True)
                    ended.set()
                server.sendall(octets)
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            answers.join()
            self._note(client, unanswered=False)

    def _answers(self, client: socket.socket, server: socket.socket, ended: threading.Event, sent: bytearray) -> None:
        answered = False
        with contextlib.suppress(OSError):
            while octets := server.recv(65536):
                if ended.is_set() and not answered:
                    answered = True
                    if not self._may_pass(bytes(sent), octets.decode().strip(), client):
                        continue
                    self._note(client, unanswered=False)
                client.sendall(octets)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _note(self, client: socket.socket, *, unanswered: bool) -> None:
        with self._lock:
            if unanswered:
                self._unanswered.add(id(client))
                self.most_at_once = max(self.most_at_once, len(self._unanswered))
            else:
                self._unanswered.discard(id(client))

    def _may_pass(self, sent: bytes, answer: str, client: socket.socket) -> bool:
        message = re.split(rb"\r\nDATA\r\n", sent, maxsplit=1)[-1].replace(b"\r\n", b"\n")
        subject = header(message, "Subject") or ""
        first = not self.of(subject)
        self.attempts.append(Attempt(subject, header(message, "Tox-Mail-Id") or "", answer))
        if first and subject in self.lose:
            self._note(client, unanswered=False)
            client.shutdown(socket.SHUT_RDWR)
            return False
        if first and subject in self.hold:
            self.held.put(subject)
            return False
        return True


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


class _TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
