"""A private Dovecot: IMAP on a port of 127.0.0.1 over existing Maildirs, and LMTP into them on a Unix socket."""

import imaplib
import pwd
from collections.abc import Mapping
from pathlib import Path

from rig.net import HOST, accepts, free_port
from rig.sandbox import UNPRIVILEGED, RigError, Sandbox
from rig.wait import DEADLINE

_PASSWORD = "secret"

_LMTP = """postmaster_address = postmaster@dovecot.example
mail_plugins = quota
protocol lmtp {{
  mail_plugins = quota sieve
}}
plugin {{
  quota = maildir:User quota
  sieve = file:~/.dovecot.sieve
}}
service lmtp {{
  unix_listener {socket} {{
    mode = 0666
  }}
}}
"""


class Dovecot:
    """`maildirs`: user name → Maildir, all owned by the system user `owner`.

    With `lmtp` it takes mail, too: with a Maildir++ quota in KiB (`quotas`) and a Sieve script (`sieve`) for each user who
    has one.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        maildirs: Mapping[str, Path],
        *,
        name: str = "dovecot",
        owner: str = UNPRIVILEGED,
        lmtp: bool = False,
        quotas: Mapping[str, int] | None = None,
        sieve: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        folder = sandbox.dir(name)
        self.lmtp_socket = folder / "lmtp.sock"
        self._name = name
        self._sandbox = sandbox
        account = pwd.getpwnam(owner)
        users = folder / "users"
        users.write_text(
            "".join(
                f"{user}:{{PLAIN}}{_PASSWORD}:{account.pw_uid}:{account.pw_gid}:"
                f":{sandbox.dir(f'{name}/{user}', user=owner)}"
                f"::userdb_mail=maildir:{maildir}"
                + (f" userdb_quota_rule=*:storage={quotas[user]}K" if quotas and user in quotas else "")
                + "\n"
                for user, maildir in maildirs.items()
            )
        )
        for user, script in (sieve or {}).items():
            (folder / user / ".dovecot.sieve").write_text(script)
        self._config = folder / "dovecot.conf"
        self._config.write_text(
            f"""protocols = imap{" lmtp" if lmtp else ""}
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
            + (_LMTP.format(socket=self.lmtp_socket) if lmtp else "")
        )
        self._lmtp = lmtp
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = self._sandbox.start(self._name, ["dovecot", "-F", "-c", self._config])
        self.process.wait_ready("IMAP port", lambda: accepts(self.port))
        if self._lmtp:
            self.process.wait_ready("LMTP socket", self.lmtp_socket.is_socket)

    def stop(self) -> None:
        """Stop it."""
        self.process.stop()
        self.lmtp_socket.unlink(missing_ok=True)

    def used(self, user: str) -> tuple[int, int]:
        """What counts for the user's quota: KiB and mails, as doveadm says."""
        done = self._sandbox.run(["doveadm", "-c", self._config, "-f", "tab", "quota", "get", "-u", user])
        rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
        value = {row[1]: int(row[2]) for row in rows[1:]}
        return value["STORAGE"], value["MESSAGE"]

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
