"""An LMTP client that says and sends exactly what it is told, octet for octet."""

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Reply:
    """A reply of the server."""

    code: int
    text: str
    """Its lines without the code, joined with blanks."""


class LmtpClient:
    """A session; use as a context manager."""

    def __init__(self, path: Path, timeout: float = 60.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(str(path))
        self._in = self._socket.makefile("rb")
        self.greeting = self.reply()
        self.extensions = self.command("LHLO rig.example").text

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._in.close()
        self._socket.close()

    def command(self, line: str) -> Reply:
        """Say a line; the answer."""
        self._socket.sendall(line.encode() + b"\r\n")
        return self.reply()

    def reply(self) -> Reply:
        """The next reply."""
        texts = []
        while True:
            line = self._in.readline().decode(errors="replace")
            if not re.match(r"[245]\d\d[ -]|354 ", line):
                raise ConnectionError(f"no LMTP reply: {line!r}")
            texts.append(line[4:].rstrip("\r\n"))
            if line[3] == " ":
                return Reply(int(line[:3]), " ".join(texts))

    def envelope(
        self, sender: str, recipients: Sequence[str], *, mail: str = "", rcpt: str = "", queue_id: str | None = None
    ) -> tuple[Reply, list[Reply]]:
        """XFORWARD if there is a queue id, MAIL and RCPT with these parameters; the answers of the latter two."""
        if queue_id is not None and (told := self.command(f"XFORWARD IDENT={queue_id}")).code != 250:
            raise ConnectionError(f"XFORWARD: {told}")
        begun = self.command(f"MAIL FROM:<{sender}>{mail}")
        return begun, [self.command(f"RCPT TO:<{recipient}>{rcpt}") for recipient in recipients]

    def data(self, mail: bytes, recipients: int = 1) -> list[Reply]:
        """Send a mail, each LF of which becomes CRLF; the answer for each recipient. A last line must have its LF."""
        if (told := self.command("DATA")).code != 354:
            return [told]
        assert mail.endswith(b"\n")
        lines = mail[:-1].split(b"\n")
        wire = b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines)
        self._socket.sendall(wire + b".\r\n")
        return [self.reply() for _ in range(recipients)]

    def send(
        self,
        sender: str,
        recipients: Sequence[str],
        content: bytes,
        *,
        mail: str = "",
        rcpt: str = "",
        queue_id: str | None = None,
    ) -> list[Reply]:
        """A whole transaction; the answer for each recipient, that of RCPT for those that were refused."""
        begun, replies = self.envelope(sender, recipients, mail=mail, rcpt=rcpt, queue_id=queue_id)
        if begun.code != 250:
            return [begun]
        taken = [number for number, reply in enumerate(replies) if reply.code == 250]
        if taken:
            answers = self.data(content, len(taken))
            for number, answer in zip(taken, answers, strict=True):
                replies[number] = answer
        return replies
