"""A private Dovecot: IMAP on a port of 127.0.0.1 over existing Maildirs, and LMTP into them on a Unix socket."""

import imaplib
import pwd
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from rig.net import HOST, accepts, free_port
from rig.sandbox import UNPRIVILEGED, RigError, Sandbox
from rig.wait import DEADLINE

# What is tested is what users install.
SCRIPT_AND_FRAGMENT = Path(__file__).resolve().parents[3] / "dovecot"

_PASSWORD = "secret"

_LMTP = """postmaster_address = postmaster@dovecot.example
mail_plugins = quota
plugin {
  quota = maildir:User quota
  sieve = file:~/.dovecot.sieve
}
"""


class Dovecot:
    """`maildirs`: user name → Maildir, all owned by the system user `owner`.

    With `lmtp` it takes mail, too: with a Maildir++ quota in KiB (`quotas`) and a Sieve script (`sieve`) for each user who
    has one. A mail over the quota of one of `patient` is deferred, that of others refused.
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
        patient: Collection[str] = (),
    ) -> None:
        self.port = free_port()
        folder = sandbox.dir(name)
        self.lmtp_socket = folder / "run/lmtp"
        self._name = name
        self._sandbox = sandbox
        self._maildirs = maildirs
        self._owner = pwd.getpwnam(owner)
        self._homes = {user: sandbox.dir(f"{name}/{user}", user=owner) for user in maildirs}
        self._patient = patient
        self._users = folder / "users"
        self.set_quotas(quotas or {})
        for user, script in (sieve or {}).items():
            (self._homes[user] / ".dovecot.sieve").write_text(script)
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
  args = {self._users}
}}
userdb {{
  driver = passwd-file
  args = {self._users}
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
            + (_LMTP + self._fragment(folder) if lmtp else "")
        )
        self._lmtp = lmtp
        if lmtp:
            shutil.copy(SCRIPT_AND_FRAGMENT / "toxmail.sieve", folder)
            sandbox.run(["sievec", "-c", self._config, folder / "toxmail.sieve"])
        self.start()

    def _fragment(self, folder: Path) -> str:
        text = (SCRIPT_AND_FRAGMENT / "95-toxmail.conf").read_text()
        # One that no longer says where the script is would be tested with somebody else's.
        if "/etc/dovecot/" not in text:
            raise RigError(f"no /etc/dovecot/ in {text}")
        return text.replace("/etc/dovecot/", f"{folder}/")

    def home(self, user: str) -> Path:
        """The user's home directory."""
        return self._homes[user]

    def set_quotas(self, quotas: Mapping[str, int]) -> None:
        """Give these users these quotas, in KiB, and the others none. In force at once."""
        new = self._users.with_suffix(".new")
        new.write_text(
            "".join(
                f"{user}:{{PLAIN}}{_PASSWORD}:{self._owner.pw_uid}:{self._owner.pw_gid}::{self._homes[user]}"
                f"::userdb_mail=maildir:{maildir}"
                + (f" userdb_quota_rule=*:storage={quotas[user]}K" if user in quotas else "")
                + (" userdb_quota_full_tempfail=yes" if user in self._patient else "")
                + "\n"
                for user, maildir in self._maildirs.items()
            )
        )
        new.rename(self._users)

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
