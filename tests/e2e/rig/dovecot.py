"""A private Dovecot: IMAP on a port of 127.0.0.1 over existing Maildirs."""

import imaplib
import pwd
from collections.abc import Mapping
from pathlib import Path

from rig.net import HOST, accepts, free_port
from rig.sandbox import UNPRIVILEGED, RigError, Sandbox
from rig.wait import DEADLINE

_PASSWORD = "secret"


class Dovecot:
    """`maildirs`: user name → Maildir, all owned by the system user `owner`."""

    def __init__(
        self, sandbox: Sandbox, maildirs: Mapping[str, Path], *, name: str = "dovecot", owner: str = UNPRIVILEGED
    ) -> None:
        self.port = free_port()
        folder = sandbox.dir(name)
        account = pwd.getpwnam(owner)
        users = folder / "users"
        users.write_text(
            "".join(
                f"{user}:{{PLAIN}}{_PASSWORD}:{account.pw_uid}:{account.pw_gid}:"
                f":{sandbox.dir(f'{name}/{user}', user=owner)}"
                f"::userdb_mail=maildir:{maildir}\n"
                for user, maildir in maildirs.items()
            )
        )
        config = folder / "dovecot.conf"
        config.write_text(
            f"""protocols = imap
listen = {HOST}
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {sandbox.log(f"{name}-mail")}
ssl = no
disable_plaintext_auth = no
first_valid_uid = 1
first_valid_gid = 1
mail_fsync = never
passdb {{
  driver = passwd-file
  args = {users}
}}
userdb {{
  driver = passwd-file
  args = {users}
}}
service imap-login {{
  inet_listener imap {{
    address = {HOST}
    port = {self.port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
"""
        )
        self.process = sandbox.start(name, ["dovecot", "-F", "-c", config])
        self.process.wait_ready("IMAP port", lambda: accepts(self.port))

    def login(self, user: str) -> imaplib.IMAP4:
        """A session with INBOX selected."""
        client = imaplib.IMAP4(HOST, self.port, timeout=DEADLINE)
        client.login(user, _PASSWORD)
        _check(client.select("INBOX"))
        return client

    def messages(self, user: str) -> list[bytes]:
        """All mails of INBOX as IMAP serves them, with LF line ends."""
        with self.login(user) as client:
            return [_fetch(client, number) for number in _check(client.search(None, "ALL"))[0].split()]

    def fetch(self, user: str, message_id: str) -> bytes:
        """The one mail with this Message-ID, with LF line ends."""
        with self.login(user) as client:
            numbers = _check(client.search(None, "HEADER", "Message-ID", f'"{message_id}"'))[0].split()
            if len(numbers) != 1:
                raise RigError(f"IMAP: {len(numbers)} mails with Message-ID {message_id} for {user}")
            return _fetch(client, numbers[0])


def _fetch(client: imaplib.IMAP4, number: bytes) -> bytes:
    answer = _check(client.fetch(number.decode(), "(BODY.PEEK[])"))[0]
    return bytes(answer[1]).replace(b"\r\n", b"\n")


def _check(answer: tuple[str, list]) -> list:  # type: ignore[type-arg]
    if answer[0] != "OK":
        raise RigError(f"IMAP: {answer}")
    return answer[1]
