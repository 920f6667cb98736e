"""Making mails, finding them in Maildirs, and comparing what was sent with what was stored."""

import random
import re
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

_POLICY = SMTP.clone(linesep="\n")


def sample_mail(
    *, sender: str, to: str, subject: str, text: str, message_id: str, attachment_size: int = 0, seed: int = 1
) -> bytes:
    """A mail as a mail program would submit it, with LF line ends; the attachment is random: it does not compress."""
    mail = EmailMessage(policy=_POLICY)
    mail["From"] = sender
    mail["To"] = to
    mail["Subject"] = subject
    mail["Date"] = "Mon, 05 Jan 2026 10:00:00 +0000"
    mail["Message-ID"] = message_id
    mail["X-Long-Field"] = "folded " * 20
    mail.set_content(text, cte="8bit" if not text.isascii() else "7bit")
    if attachment_size:
        data = random.Random(seed).randbytes(attachment_size)
        mail.add_attachment(data, maintype="application", subtype="octet-stream", filename="attachment.bin")
    return mail.as_bytes()


def split(message: bytes) -> tuple[list[bytes], bytes]:
    """The header fields, each with its folds as they are, and the body."""
    header, _, body = message.partition(b"\n\n")
    fields: list[bytes] = []
    for line in header.split(b"\n"):
        if line[:1] in (b" ", b"\t") and fields:
            fields[-1] += b"\n" + line
        else:
            fields.append(line)
    return fields, body


def field_name(field: bytes) -> str:
    """The name of a header field."""
    return field.partition(b":")[0].decode(errors="replace").strip()


def delivery_status(notice: EmailMessage) -> dict[str, str]:
    """The fields of the delivery status of a notice (RFC 3464): those of the mail and those of its only recipient."""
    report = next(part for part in notice.walk() if part.get_content_type().endswith("delivery-status"))
    blocks = report.get_payload()
    assert isinstance(blocks, list)
    if len(blocks) == 2:
        message, recipient = blocks
        return {**dict(message.items()), **dict(recipient.items())}
    # The parser does not know message/global-delivery-status (RFC 6533), and takes it for a mail.
    text = re.sub(r"\n[ \t]+", " ", blocks[0].as_bytes().decode())
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


def header(message: bytes, name: str) -> str | None:
    """The first field of this name, unfolded."""
    for field in split(message)[0]:
        if field_name(field).lower() == name.lower():
            return field.partition(b":")[2].decode(errors="replace").replace("\n", "").strip()
    return None


@dataclass(frozen=True)
class Comparison:
    """How a stored mail differs from the one sent."""

    missing: list[str]
    """Names of sent fields that are not there byte for byte and in the order they were sent."""
    added: list[str]
    """Names of fields that were not sent, in order."""
    body_same: bool

    @property
    def intact(self) -> bool:
        """Nothing of what was sent is lost or changed."""
        return self.body_same and not self.missing


def compare(sent: bytes, stored: bytes) -> Comparison:
    """Compare a mail as sent with the same as stored, both with LF line ends."""
    wanted, sent_body = split(sent)
    fields, stored_body = split(stored)
    missing: list[str] = []
    position = 0
    kept: set[int] = set()
    for field in wanted:
        try:
            found = fields.index(field, position)
        except ValueError:
            missing.append(field_name(field))
            continue
        kept.add(found)
        position = found + 1
    added = [field_name(field) for index, field in enumerate(fields) if index not in kept]
    return Comparison(missing, added, sent_body == stored_body)


def find_in_maildir(maildir: Path, message_id: str) -> list[Path]:
    """The mails with this Message-ID in new/ and cur/."""
    found = []
    for folder in ("new", "cur"):
        if not (maildir / folder).is_dir():
            continue
        for path in (maildir / folder).iterdir():
            try:
                with path.open("rb") as file:
                    head = file.read(65536)
            except FileNotFoundError:  # a reader has moved it from new/ to cur/
                continue
            if header(head, "Message-ID") == message_id:
                found.append(path)
    return found
