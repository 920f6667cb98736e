"""A private Exim of Debian's packages, which are unpacked and never installed: beside Postfix they cannot be.

Exim has its user and its configuration's path compiled in, so each of its processes is started in a mount namespace of
its own: with an /etc that holds little more than that user and that file, and with the set-uid program on a file system
that nobody else sees. Queue and log are below the sandbox, SMTP is on a port of 127.0.0.1.
"""

import contextlib
import os
import re
import shutil
import smtplib
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rig.mta import Route, talk
from rig.net import HOST, accepts, free_port
from rig.sandbox import UNPRIVILEGED, RigError, Sandbox
from rig.wait import DEADLINE, wait_for

_ROOT = Path(__file__).resolve().parents[3]

# What is tested is what users install.
FILES = _ROOT / "exim"

# Where scripts/install-deps unpacks the packages.
PACKAGES = _ROOT / "target" / "exim4"

USER = "Debian-exim"
# From Debian's range for numbers that are given out by hand, as no package has it on this machine.
EXIM_UID = 64999

_NAMESPACE = """\
mount -t tmpfs -o mode=755 tmpfs "$1"
install -m 4755 "$2" "$1/exim4"
mount --bind "$3" /etc
shift 3
exec "$@"
"""

# As somebody without Debian's scheme writes it; {words} in braces are filled in.
_CONFIG = """\
{macros}
exim_path = {program}
primary_hostname = {domain}
qualify_domain = {domain}
spool_directory = {dir}/spool
log_file_path = {dir}/log/%s.log
pid_file_path = {dir}/spool/pid
local_interfaces = {host}
daemon_smtp_ports = {port}
smtputf8_advertise_hosts = *
tls_advertise_hosts =
keep_environment =
message_size_limit = 100M
local_from_check = false
untrusted_set_sender = *
acl_smtp_rcpt = acl_check_rcpt
{settings}

begin acl

acl_check_rcpt:
  accept verify = recipient

begin routers

inbox:
  driver = accept
  domains = {domain}
  transport = inbox

begin transports

inbox:
  driver = appendfile
  directory = {dir}/mail/inbox
  maildir_format
  user = {unprivileged}

begin retry

*  *  F,4d,6h
"""


class Namespace:
    """Exim's programs in a mount namespace of their own, below the folder `name` of the sandbox; `etc` is /etc there.

    With `offline` they have no network either, and nobody's DNS is asked.
    """

    def __init__(self, sandbox: Sandbox, name: str, *, offline: bool = False) -> None:
        if not (PACKAGES / "usr/sbin/exim4").is_file():
            raise RigError(f"no Exim in {PACKAGES}: run scripts/install-deps test")
        self._sandbox = sandbox
        self._new = ["--mount", "--net"] if offline else ["--mount"]
        self.dir = sandbox.dir(name)
        self.etc = sandbox.dir(f"{name}/etc")
        self.program = sandbox.dir(f"{name}/bin") / "exim4"
        for file in ("nsswitch.conf", "ld.so.cache", "hosts", "services", "protocols", "localtime"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(f"/etc/{file}", self.etc / file)
        number = str(EXIM_UID)
        entries = {"passwd": f"{USER}:x:{number}:{number}::/:/usr/sbin/nologin", "group": f"{USER}:x:{number}:"}
        for file, entry in entries.items():
            lines = [line for line in Path("/etc", file).read_text().splitlines() if not line.startswith(f"{USER}:")]
            (self.etc / file).write_text("\n".join([*lines, entry, ""]))
        sandbox.dir(f"{name}/etc/exim4")

    def own(self, name: str) -> Path:
        """A folder below its own that belongs to Exim's user."""
        path = self.dir / name
        path.mkdir(exist_ok=True)
        os.chown(path, EXIM_UID, EXIM_UID)
        return path

    def inside(self, *argv: str | Path) -> list[str | Path]:
        """The command that runs `argv` in the namespace; it keeps its process id."""
        enter: list[str | Path] = ["unshare", *self._new, "--propagation", "private", "sh", "-ec", _NAMESPACE, "sh"]
        return [*enter, self.program.parent, PACKAGES / "usr/sbin/exim4", self.etc, *argv]

    def run(
        self, *argv: str | Path, stdin: bytes = b"", check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command in the namespace to its end."""
        return self._sandbox.run(self.inside(*argv), stdin=stdin, check=check)


def install_included(sandbox: Sandbox, namespace: Namespace, config: Path) -> None:
    """Put toxmail's files into a configuration of one file, by the steps of exim/README.md."""
    shutil.copytree(FILES / "conf.d", namespace.etc / "exim4/toxmail")
    sandbox.run(["sed", "-i", "-f", FILES / "include.sed", config])


class Exim:
    """`domain` is its host name; mail for that domain, bounces too, comes to `inbox`. Nothing leaves but over Tox: mail
    for tox.alt. `macros` and `settings` are lines of its configuration, `macros` on top of it."""

    def __init__(
        self,
        sandbox: Sandbox,
        name: str,
        *,
        domain: str,
        route: Route = "lmtp",
        lmtp_socket: Path,
        program: Path | None = None,
        macros: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.domain = domain
        self.route = route
        self.port = free_port()
        self._sandbox = sandbox
        self.namespace = Namespace(sandbox, name)
        self.namespace.own("spool")
        self._log = self.namespace.own("log") / "main.log"
        sandbox.log(name).symlink_to(self._log)
        self.inbox = sandbox.dir(f"{name}/mail", user=UNPRIVILEGED) / "inbox"
        values = {
            "TOXMAIL_SOCKET": str(lmtp_socket),
            "TOXMAIL_PROGRAM": str(program or "/nonexistent/tox-transport"),
            **({"TOXMAIL_PIPE": "yes"} if route == "pipe" else {}),
            **(macros or {}),
        }
        config = _CONFIG.format(
            macros="\n".join(f"{key} = {value}" for key, value in values.items()),
            settings="\n".join(f"{key} = {value}" for key, value in (settings or {}).items()),
            program=self.namespace.program,
            domain=domain,
            dir=self.namespace.dir,
            host=HOST,
            port=self.port,
            unprivileged=UNPRIVILEGED,
        )
        file = self.namespace.etc / "exim4/exim4.conf"
        file.write_text(config)
        install_included(sandbox, self.namespace, file)
        self.start()

    def start(self) -> None:
        """Start it and wait until it takes mail."""
        command = self.namespace.inside(self.namespace.program, "-bdf")
        self._process = self._sandbox.start(f"{self.name}-daemon", command)
        self._process.wait_ready("SMTP port", lambda: accepts(self.port))

    def stop(self) -> None:
        """Stop it; what is queued stays queued."""
        self._process.stop()

    def exim(self, *args: str, stdin: bytes = b"") -> str:
        """Run the exim command as root; what it prints."""
        return self.namespace.run(self.namespace.program, *args, stdin=stdin).stdout.decode()

    def smtp(self, sender: str, recipients: Sequence[str], message: bytes) -> str:
        """Submit by SMTP; the message id, which is Exim's queue id. `message` has LF line ends, arrives as it is."""
        with smtplib.SMTP(HOST, self.port, local_hostname=self.domain, timeout=DEADLINE) as client:
            words = talk(client, sender, recipients, message)
        found = re.search(r"id=(\S+)", words)
        if not found:
            raise RigError(f"{self.name}: no message id in {words!r}")
        return found.group(1)

    def sendmail(self, sender: str, recipients: Sequence[str], message: bytes) -> None:
        """Submit by the sendmail command, and wait for the first attempt."""
        self.exim("-oi", "-odi", "-f", sender, "--", *recipients, stdin=message)

    def queue(self) -> list[dict[str, Any]]:
        """What is queued: `queue_id`, `frozen`, and `recipients` that are not done, each with its `address`."""
        mails: list[dict[str, Any]] = []
        for line in self.exim("-bpu").splitlines():
            if found := re.match(r"\s*\S+\s+\S+\s+(\S+) <.*>( \*\*\* frozen \*\*\*)?", line):
                mails.append({"queue_id": found.group(1), "frozen": bool(found.group(2)), "recipients": []})
            elif line.strip():
                mails[-1]["recipients"].append({"address": line.strip()})
        return mails

    def flush(self) -> None:
        """Try everything for Tox that is queued now, what is frozen too, as exim/README.md has it."""
        self.exim("-Rff", "tox.alt")

    def inbox_mails(self) -> list[bytes]:
        """What came to the mailbox of its domain: bounces."""
        return [path.read_bytes() for path in (self.inbox / "new").glob("*")]

    def log(self) -> str:
        """All it has logged."""
        with contextlib.suppress(FileNotFoundError):
            return self._log.read_text(errors="replace")
        return ""

    def wait_status(self, queue_id: str, recipient: str, timeout: float = DEADLINE) -> tuple[str, str, str]:
        """What became of a mail for one recipient first: status (sent, deferred, bounced), enhanced status code and
        text, what a program said included; the code is empty where nobody said one."""
        local, address = re.escape(recipient.partition("@")[0]), re.escape(recipient)
        line = re.compile(rf"{queue_id} (=>|->|==|\*\*) (?:{local} <{address}>|{address}) (.*)\n")
        output = re.compile(rf"{queue_id} <{address}>: \S+ transport output: (.*)\n")

        def probe() -> tuple[str, str, str] | None:
            self._process.require_alive()
            log = self.log()
            if not (found := line.search(log)):
                return None
            status = {"==": "deferred", "**": "bounced"}.get(found.group(1), "sent")
            said = output.search(log[: found.start()])
            text = (said.group(1) + ": " if said else "") + found.group(2)
            code = re.search(r"\b[245]\.\d{1,3}\.\d{1,3}\b", text)
            return status, code.group() if code else "", text

        return wait_for(f"fate of {queue_id} for {recipient} in the log of {self.name}", probe, timeout)
