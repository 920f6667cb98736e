"""A private Postfix: configuration, queue, data and log below the sandbox, SMTP on a port of 127.0.0.1."""

import contextlib
import json
import pwd
import re
import smtplib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rig.mta import Route, talk
from rig.net import HOST, accepts, free_port
from rig.sandbox import UNPRIVILEGED, RigError, Sandbox
from rig.wait import DEADLINE, TimedOut, wait_for

# How long a Postfix that does nothing is waited for, in seconds. What it is asked here takes it moments.
STANDSTILL = 40.0

# What is tested is what users install.
FRAGMENTS = Path(__file__).resolve().parents[3] / "postfix"

_DAEMONS = Path("/usr/lib/postfix/sbin")

_MASTER_CF = """\
{host}:{port} inet n - n - - smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
virtual   unix  - n n - - virtual
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """`domain` is its host name; mail for that domain, bounces too, comes to `inbox`. Nothing leaves but over Tox: mail
    for tox.alt, and for `domains`, whose names the agent looks up. A `plain` one knows nothing of Tox, and is not started.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        name: str,
        *,
        domain: str,
        route: Route = "lmtp",
        lmtp_socket: Path,
        program: Path | None = None,
        settings: Mapping[str, str] | None = None,
        domains: Sequence[str] = (),
        start: bool = True,
        plain: bool = False,
    ) -> None:
        self.name = name
        self.domain = domain
        self.route = route
        self.port = free_port()
        self._sandbox = sandbox
        self._domains = domains
        self.dir = sandbox.dir(name)
        self.etc = sandbox.dir(f"{name}/etc")
        self.spool = sandbox.dir(f"{name}/spool")
        self.log_path = sandbox.log(name)
        sandbox.dir(f"{name}/data", user="postfix")
        self.inbox = sandbox.dir(f"{name}/mail", user=UNPRIVILEGED) / "inbox"
        self._write_config(lmtp_socket, program or Path("/nonexistent/tox-transport"), settings or {}, plain)
        # Makes the queue folders, and refuses a configuration that is wrong.
        sandbox.run(["postfix", "-c", self.etc, "check"])
        if start and not plain:
            self.start()

    def _write_config(self, lmtp_socket: Path, program: Path, settings: Mapping[str, str], plain: bool) -> None:
        def fragment(file: str) -> str:
            text = (FRAGMENTS / file).read_text()
            # A fragment that no longer says what is replaced here would be tested with somebody else's paths.
            for old, new in (
                ("/etc/postfix/", f"{self.etc}/"),
                ("/run/tox-agent/lmtp.sock", str(lmtp_socket)),
                ("/usr/bin/tox-transport", str(program)),
            ):
                text = text.replace(old, new)
            return text

        user = pwd.getpwnam(UNPRIVILEGED)
        base = {
            "compatibility_level": "3.6",
            "queue_directory": str(self.spool),
            "data_directory": f"{self.dir}/data",
            "command_directory": "/usr/sbin",
            "daemon_directory": str(_DAEMONS),
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "maillog_file": str(self.log_path),
            "maillog_file_prefixes": str(self._sandbox.path),
            "inet_interfaces": HOST,
            "inet_protocols": "ipv4",
            "myhostname": self.domain,
            "myorigin": self.domain,
            "mydestination": "",
            "mynetworks": f"{HOST}/32",
            "alias_maps": "",
            "alias_database": "",
            "default_transport": "error:5.4.4 this test machine sends nothing",
            "relay_transport": "error:5.4.4 this test machine sends nothing",
            "disable_dns_lookups": "yes",
            # After trouble with a process of its own Postfix pauses for a minute, as long as a test waits at most.
            "service_throttle_time": "1s",
            "transport_retry_time": "1s",
            "virtual_mailbox_domains": self.domain,
            "virtual_mailbox_base": f"{self.dir}/mail",
            "virtual_mailbox_maps": "static:inbox/",
            "virtual_uid_maps": f"static:{user.pw_uid}",
            "virtual_gid_maps": f"static:{user.pw_gid}",
            "virtual_minimum_uid": "1",
        }
        lines = "".join(f"{key} = {value}\n" for key, value in base.items())
        extra = "".join(f"{key} = {value}\n" for key, value in settings.items())
        master_cf = _MASTER_CF.format(host=HOST, port=self.port)
        if plain:
            (self.etc / "main.cf").write_text(lines + extra)
            (self.etc / "master.cf").write_text(master_cf)
            return
        (self.etc / "main.cf").write_text(lines + fragment("main.cf.fragment") + extra)
        (self.etc / "master.cf").write_text(master_cf + fragment("master.cf.fragment"))
        (self.etc / "tox_status").write_text(fragment("tox_status"))
        routed = _routed(fragment("tox_transport"), self.route)
        way = next(line.split(None, 1)[1] for line in routed.splitlines() if line.startswith("tox.alt"))
        more = "".join(f"{domain}\t{way}\n" for domain in self._domains)
        (self.etc / "tox_transport").write_text(routed + more)

    def start(self) -> None:
        """Start it and wait until it takes mail."""
        self._process = self._sandbox.start(
            f"{self.name}-master", [_DAEMONS / "master", "-d", "-c", self.etc], env={"MAIL_CONFIG": str(self.etc)}
        )
        self._process.wait_ready("SMTP port", lambda: accepts(self.port))

    def stop(self) -> None:
        """Stop it; what is queued stays queued."""
        self._process.stop()

    def _restart(self) -> None:
        """End a standstill as an operator would: now and then, on a machine under load, one of Postfix's processes stands
        still with a mail or a connection and says nothing. What is queued is tried again.
        """
        print(f"{self.name}: stood still for {STANDSTILL:.0f} s and is started again", file=sys.stderr)
        self.stop()
        self.start()

    @property
    def pid(self) -> int:
        """The process id of its master."""
        return self._process.pid

    def smtp(
        self,
        sender: str,
        recipients: Sequence[str],
        message: bytes,
        *,
        options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> str:
        """Submit by SMTP, with these further parameters of MAIL and of each RCPT; the queue id. `message` has LF line ends
        and arrives as it is.
        """
        try:
            client = smtplib.SMTP(HOST, self.port, local_hostname=self.domain, timeout=STANDSTILL)
        except (TimeoutError, smtplib.SMTPServerDisconnected):
            self._restart()
            client = smtplib.SMTP(HOST, self.port, local_hostname=self.domain, timeout=DEADLINE)
        with client:
            words = talk(client, sender, recipients, message, options, rcpt_options)
        found = re.search(r"queued as (\w+)", words)
        if not found:
            raise RigError(f"{self.name}: no queue id in {words!r}")
        return found.group(1)

    def sendmail(self, sender: str, recipients: Sequence[str], message: bytes) -> None:
        """Submit by the sendmail command."""
        self._sandbox.run([*self.sendmail_command, "-f", sender, "--", *recipients], stdin=message)

    @property
    def sendmail_command(self) -> list[str]:
        """The sendmail command of this instance, for mutt and the like."""
        return ["/usr/sbin/sendmail", "-C", str(self.etc), "-oi"]

    def queue(self) -> list[dict[str, Any]]:
        """What is queued: Postfix's own JSON, one object for each mail."""
        done = self._sandbox.run(["postqueue", "-c", self.etc, "-j"])
        return [json.loads(line) for line in done.stdout.splitlines()]

    def flush(self) -> None:
        """Try everything that is queued now."""
        self._sandbox.run(["postqueue", "-c", self.etc, "-f"])

    def inbox_mails(self) -> list[bytes]:
        """What came to the mailbox of its domain: bounces."""
        return [path.read_bytes() for path in (self.inbox / "new").glob("*")]

    def log(self) -> str:
        """All it has logged."""
        with contextlib.suppress(FileNotFoundError):
            return self.log_path.read_text(errors="replace")
        return ""

    def wait_log(self, pattern: str, timeout: float = DEADLINE) -> re.Match[str]:
        """The first log line that matches."""
        regex = re.compile(pattern)

        def probe() -> re.Match[str] | None:
            self._process.require_alive()
            return regex.search(self.log())

        return wait_for(f"/{pattern}/ in the log of {self.name}", probe, timeout)

    def queue_id(self, message_id: str) -> str:
        """The queue id a mail got."""
        return self.wait_log(rf"cleanup\[\d+\]: (\w+): message-id={re.escape(message_id)}\n").group(1)

    def wait_status(self, queue_id: str, recipient: str, timeout: float = DEADLINE) -> tuple[str, str, str]:
        """What became of a mail for one recipient first: status (sent, deferred, bounced), DSN code and text."""
        pattern = rf"{queue_id}: to=<{re.escape(recipient)}>, .*dsn=([0-9.]+), status=(\w+) \((.*)\)\n"
        try:
            found = self.wait_log(pattern, min(timeout, STANDSTILL))
        except TimedOut:
            self._restart()
            found = self.wait_log(pattern, timeout)
        return found.group(2), found.group(1), found.group(3)


def _routed(table: str, route: Route) -> str:
    """The transport table with one of the two routes it offers: LMTP as it stands, pipe when its comment signs go."""
    if route == "lmtp":
        return table
    lines = [line for line in table.splitlines() if re.match(r"#\.?tox\.alt\s", line)]
    return "".join(f"{line[1:]}\n" for line in lines)
