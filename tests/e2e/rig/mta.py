"""What the tests want of an MTA, whichever it is."""

import smtplib
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from rig.sandbox import RigError

Route = Literal["lmtp", "pipe"]


class Mta(Protocol):
    """A private Postfix or Exim. `domain` is its host name."""

    name: str
    domain: str
    route: Route

    def start(self) -> None:
        """Start it and wait until it takes mail."""

    def stop(self) -> None:
        """Stop it; what is queued stays queued."""

    def smtp(self, sender: str, recipients: Sequence[str], message: bytes) -> str:
        """Submit by SMTP; the queue id. `message` has LF line ends and arrives as it is."""

    def sendmail(self, sender: str, recipients: Sequence[str], message: bytes) -> None:
        """Submit by the sendmail command."""

    def wait_status(self, queue_id: str, recipient: str) -> tuple[str, str, str]:
        """What became of a mail for one recipient first: status (sent, deferred, bounced), enhanced status code and
        text, as logged; the code is empty where the log has none."""

    def queue(self) -> list[dict[str, Any]]:
        """What is queued, each with `queue_id` and `recipients`, which have an `address`."""

    def flush(self) -> None:
        """Try everything that is queued now."""

    def inbox_mails(self) -> list[bytes]:
        """What came to the mailbox of `domain`: bounces."""


def talk(
    client: smtplib.SMTP,
    sender: str,
    recipients: Sequence[str],
    message: bytes,
    options: Sequence[str] = (),
    rcpt_options: Sequence[str] = (),
) -> str:
    """One mail over an open connection, with these further parameters of MAIL and of each RCPT; the server's words after
    the data. `message` has LF line ends.
    """

    def expect(code: int, answer: tuple[int, bytes]) -> str:
        words = answer[1].decode(errors="replace")
        if answer[0] != code:
            raise RigError(f"the MTA answered {answer[0]} {words}")
        return words

    client.ehlo()
    all_options = [f"SIZE={len(message)}", *(["BODY=8BITMIME"] if not message.isascii() else []), *options]
    if not "".join([sender, *recipients]).isascii():
        client.command_encoding = "utf-8"
        all_options.append("SMTPUTF8")
    expect(250, client.mail(sender, all_options))
    for recipient in recipients:
        expect(250, client.rcpt(recipient, rcpt_options))
    return expect(250, client.data(message.replace(b"\n", b"\r\n")))
