"""An LMTP server on a Unix socket that keeps what it is given: stands for the agent where only the MTA is looked at."""

import contextlib
import queue
import re
import socket
import socketserver
import threading
from dataclasses import dataclass, field
from typing import Self

from rig.sandbox import Sandbox
from rig.wait import DEADLINE

_NEEDS_SMTPUTF8 = "553 5.6.7 an address with non-ASCII characters needs SMTPUTF8"
# What `cut…@` reads before it closes, in octets.
_SOME = 10_000


@dataclass
class Received:
    """One mail as it came."""

    sender: str
    parameters: str
    recipients: list[str]
    content: bytes
    xforward: dict[str, str] = field(default_factory=dict)


class LmtpStub:
    """Recipients `defer…@` get 450 4.4.1 and `nouser…@` 550 5.1.1, both at RCPT; `full…@` 452 4.2.2 after the data.

    Only at the first time: for `once…@` 450 4.4.1 at RCPT; for `cut…@` the connection is closed in the middle of the
    data; for `stall…@` the data is read no further until `go_on` is set, and `stalled` tells the client's process id.
    """

    def __init__(self, sandbox: Sandbox, name: str = "lmtp-stub") -> None:
        self.socket = sandbox.dir(name) / "lmtp.sock"
        self.mails: list[Received] = []
        self.truncated: list[Received] = []
        """Those whose connection ended before the final dot."""
        self.stalled: queue.Queue[int] = queue.Queue()
        self.go_on = threading.Event()
        self._seen: set[str] = set()
        stub = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):
                    _Session(self, stub).run()

        self._server = _Server(str(self.socket), Handler)
        self.socket.chmod(0o666)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        sandbox.on_close(self.close)

    def first_time(self, address: str) -> bool:
        """Whether this is asked for the first time."""
        first = address not in self._seen
        self._seen.add(address)
        return first

    def close(self) -> None:
        """Stop listening; the socket goes."""
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self.socket.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


class _Session:
    def __init__(self, handler: socketserver.StreamRequestHandler, stub: LmtpStub) -> None:
        self._connection = handler.request
        self._in = handler.rfile
        self._out = handler.wfile
        self._stub = stub
        self._mail = Received("", "", [], b"")

    def run(self) -> None:
        self._say("220 stub.example LMTP")
        while line := self._in.readline().decode().rstrip("\r\n"):
            verb = line.split(" ")[0].upper()
            if verb == "LHLO":
                self._say(
                    "250-stub.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-SIZE 0\r\n"
                    "250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n250 XFORWARD NAME ADDR PROTO HELO IDENT SOURCE"
                )
            elif verb == "XFORWARD":
                self._mail.xforward |= dict(re.findall(r"(\w+)=(\S+)", line))
                self._say("250 2.0.0 Ok")
            elif verb == "MAIL":
                self._mail.sender, self._mail.parameters = self._address(line)
                self._say(_NEEDS_SMTPUTF8 if self._unasked_utf8(self._mail.sender) else "250 2.1.0 Ok")
            elif verb == "RCPT":
                self._recipient(self._address(line)[0])
            elif verb == "DATA":
                self._data()
            elif verb == "RSET":
                self._mail = Received("", "", [], b"")
                self._say("250 2.0.0 Ok")
            elif verb == "QUIT":
                self._say("221 2.0.0 Bye")
                return
            else:
                self._say("500 5.5.2 Unknown command")

    def _recipient(self, address: str) -> None:
        if self._unasked_utf8(address):
            self._say(_NEEDS_SMTPUTF8)
        elif address.startswith("defer") or (address.startswith("once") and self._stub.first_time(address)):
            self._say("450 4.4.1 Tox contact is offline")
        elif address.startswith("nouser"):
            self._say("550 5.1.1 No such contact")
        else:
            self._mail.recipients.append(address)
            self._say("250 2.1.5 Ok")

    def _data(self) -> None:
        if not self._mail.recipients:
            self._say("503 5.5.1 No recipients")
            return
        self._say("354 Go on")
        if any(r.startswith("cut") and self._stub.first_time(r) for r in self._mail.recipients):
            self._in.read(_SOME)
            self._connection.shutdown(socket.SHUT_RDWR)
            return
        if any(r.startswith("stall") and self._stub.first_time(r) for r in self._mail.recipients):
            credentials = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            self._stub.stalled.put(int.from_bytes(credentials[:4], "little"))
            self._stub.go_on.wait(DEADLINE)
        lines = []
        while (line := self._in.readline()) != b".\r\n":
            if not line:
                self._stub.truncated.append(self._mail)
                return
            line = line.removeprefix(b".")
            lines.append(line[:-2] + b"\n" if line.endswith(b"\r\n") else line)
        self._mail.content = b"".join(lines)
        self._stub.mails.append(self._mail)
        for address in self._mail.recipients:
            self._say("452 4.2.2 Mailbox full" if address.startswith("full") else "250 2.0.0 Stored")
        self._mail = Received("", "", [], b"")

    def _unasked_utf8(self, address: str) -> bool:
        return not address.isascii() and "SMTPUTF8" not in self._mail.parameters.upper()

    @staticmethod
    def _address(line: str) -> tuple[str, str]:
        found = re.match(r"\w+ \w+:<([^>]*)> ?(.*)", line, re.IGNORECASE)
        return (found.group(1), found.group(2)) if found else ("", "")

    def _say(self, text: str) -> None:
        self._out.write(text.encode() + b"\r\n")
