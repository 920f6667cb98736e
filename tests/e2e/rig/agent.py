"""A tox-agent with one account, and the toxctl that talks to it."""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rig.bootstrap import Bootstrap
from rig.net import free_udp_port
from rig.netns import inside
from rig.sandbox import UNPRIVILEGED, Process, RigError, Sandbox, as_user
from rig.sockets import SocketWatch
from rig.wait import wait_for

T = TypeVar("T")

PROGRAMS = ("tox-agent", "toxctl", "tox-transport")


class ToxctlError(RigError):
    """toxctl ended with a status other than 0."""


def install_programs(sandbox: Sandbox, source: Path) -> Path:
    """Copy the programs to where every user may run them: a build folder below /root is closed to others."""
    target = sandbox.dir("bin")
    for program in PROGRAMS:
        shutil.copy(source / program, target / program)
        (target / program).chmod(0o755)
    return target


def queue_id_of(words: str) -> str:
    """The agent's queue id in its answer."""
    found = re.search(r"queued as ([0-9A-V]{16})", words)
    if found is None:
        raise RigError(f"no queue id in {words!r}")
    return found.group(1)


class Agent:
    """`binaries` is the folder of `install_programs`. The agent runs as a user without rights, as a service would.

    `extra_config` comes last in its configuration: it may go on with the account, or open a section of its own.
    `deliver` is the server that gets its mail in place of the Maildir, for the user `deliver_to`. `settings` are keys
    of sections, on top of the usual ones or in their place (`None`: without the key). `ports` are consecutive UDP
    ports. `netns` is the network namespace it runs in, `watch` sees what it does with sockets. Changes of `env` take
    effect at the next start.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        name: str,
        *,
        binaries: Path,
        bootstrap: Bootstrap,
        addresses: Sequence[str],
        senders: Sequence[str],
        user: str = UNPRIVILEGED,
        deliver: str | None = None,
        deliver_to: str | None = None,
        extra_config: str = "",
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        ports: Sequence[int] | None = None,
        netns: str | None = None,
        watch: SocketWatch | None = None,
        start: bool = True,
    ) -> None:
        self.name = name
        self.env: dict[str, str] = {}
        self.log_path = sandbox.log(f"{name}-agent")
        self._netns = netns
        self._watch = watch
        self._sandbox = sandbox
        self._binaries = binaries
        self._user = user
        self._process: Process | None = None
        folder = sandbox.dir(f"{name}-agent", user=user)
        run = sandbox.dir(f"{name}-agent/run", user=user)
        self.state = sandbox.dir(f"{name}-agent/state", user=user, mode=0o700)
        self.maildir = folder / "Maildir"
        self.lmtp_socket = run / "lmtp.sock"
        self.control_socket = run / "control.sock"
        if len(str(self.control_socket)) > 100:
            raise RigError(f"{run}: too long for a socket; set TMPDIR to something short")
        # One UDP port for each of its accounts, and nobody else's.
        self._ports = ports or [free_udp_port()]
        self._bootstrap = bootstrap
        self._addresses = list(addresses)
        self._senders = list(senders)
        self._way = f"maildir = {json.dumps(str(self.maildir))}"
        if deliver is not None:
            self._way = f"deliver = {json.dumps(deliver)}\ndeliver_to = {json.dumps(deliver_to or name)}"
        self._extra_config = extra_config
        self.config = folder / "agent.toml"
        self.configure(settings or {})
        if start:
            self.start()

    def configure(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Write its configuration; it reads it at the next start."""
        text = json.dumps  # JSON's strings, numbers, booleans and lists of them are TOML's too
        sections: dict[str, dict[str, Any]] = {
            "lmtp": {"socket": str(self.lmtp_socket), "mode": "0666"},
            "control": {"socket": str(self.control_socket), "mode": "0600"},
            "log": {"level": "debug", "syslog": False, "stderr": True},
            "tox": {
                "udp": True,
                "ipv6": False,
                "lan_discovery": False,
                "port_range": [self._ports[0], self._ports[-1]],
            },
        }
        if "names" not in settings:
            # The DNS of the machine is nobody's to ask.
            sections["names"] = {"lookup": False}
        for section, keys in settings.items():
            sections[section] = {**sections.get(section, {}), **keys}
        lines = [f"state_dir = {text(str(self.state))}", f"hostname = {text(f'{self.name}.example')}", ""]
        for section, keys in sections.items():
            given = (f"{key} = {text(value)}" for key, value in keys.items() if value is not None)
            lines += [f"[{section}]", *given, ""]
        self.config.write_text(
            "\n".join(lines)
            + f"""
[[tox.bootstrap]]
host = {text(self._bootstrap.host)}
port = {self._bootstrap.port}
key = {text(self._bootstrap.key)}
tcp_ports = [{self._bootstrap.tcp_port}]

[[account]]
name = {text(self.name)}
addresses = {text(self._addresses)}
senders = {text(self._senders)}
{self._way}
{self._extra_config}"""
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        command: list[str | Path] = [self._binaries / "tox-agent", "--config", self.config]
        if self.env:
            # Not for the command around it: libfaketime makes a semaphore for the user it starts as.
            command = ["env", *(f"{name}={value}" for name, value in self.env.items()), *command]
        if self._watch is not None:
            command = [*self._watch.command, *command]
        user: str | None = self._user
        if self._netns is not None:
            command, user = inside(self._netns, command, self._user), None
        self._process = self._sandbox.start(f"{self.name}-agent", command, user=user)
        self._process.wait_ready("control socket", self._answers)

    def stop(self) -> int:
        """Stop it in good order. The exit status."""
        return self._running().stop()

    def kill(self) -> None:
        """kill -9."""
        self._running().kill()

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.alive()

    def require_alive(self) -> None:
        """Raise, with what it said last, if it has ended."""
        self._running().require_alive()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._running().pid

    @property
    def log(self) -> str:
        """All it has logged, in all of its runs."""
        return self.log_path.read_text(errors="replace")

    def transport(
        self,
        sender: str,
        recipients: Sequence[str],
        mail: bytes,
        *,
        queue_id: str | None = None,
        user: str | None = None,
    ) -> tuple[int, str]:
        """Hand over a mail by tox-transport, as `user`; its exit status and its line."""
        command: list[str | Path] = [self._binaries / "tox-transport", "--socket", self.lmtp_socket, "-f", sender]
        if queue_id is not None:
            command += ["--queue-id", queue_id]
        command += ["--", *recipients]
        done = self._sandbox.run(as_user(user, *command) if user else command, stdin=mail, check=False)
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace").rstrip("\n")

    def submit(self, sender: str, recipients: Sequence[str], mail: bytes, *, queue_id: str | None = None) -> str:
        """Hand over a mail that must be taken; what tox-transport says."""
        status, words = self.transport(sender, recipients, mail, queue_id=queue_id)
        if status != 0:
            raise RigError(f"{self.name}: tox-transport ended with status {status}: {words}")
        return words

    def ctl(self, *args: str) -> str:
        """What `toxctl ARGS` prints."""
        command: list[str | Path] = [self._binaries / "toxctl", "--socket", self.control_socket, *args]
        done = self._sandbox.run(command, check=False)
        if done.returncode != 0:
            words = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise ToxctlError(f"{self.name}: toxctl {' '.join(args)} ended with status {done.returncode}: {words}")
        return done.stdout.decode()

    def json(self, *args: str) -> Any:
        """What `toxctl --json ARGS` prints, read."""
        return json.loads(self.ctl("--json", *args))

    def account(self) -> dict[str, Any]:
        """The account of this agent in its status."""
        account: dict[str, Any] = self.json("status")["accounts"][0]
        return account

    @property
    def tox_id(self) -> str:
        """The Tox ID of the account."""
        return str(self.account()["tox_id"])

    @property
    def key(self) -> str:
        """The public key of the account, in upper case."""
        return self.tox_id[:64].upper()

    @property
    def address(self) -> str:
        """`<52 base32>@tox.alt`, the address of the account's key."""
        return str(self.account()["address"])

    def queued(self) -> int:
        """How many mails wait in its queue."""
        return int(self.json("status")["queue"]["mails"])

    def contact(self, key: str) -> dict[str, Any] | None:
        """The contact with this key."""
        for contact in self.json("contact", "list"):
            if str(contact["key"]).upper() == key.upper():
                return dict(contact)
        return None

    def mail_link(self, other: "Agent") -> bool:
        """Whether it has a link for mail with the other agent."""
        contact = self.contact(other.key)
        return contact is not None and bool(contact["mail"])

    def wait_online(self, timeout: float = 120.0) -> str:
        """Wait until it is connected to the Tox network; how it is."""

        def probe() -> str | None:
            connection = str(self.account()["connection"])
            return None if connection == "offline" else connection

        return self._wait("connection to the Tox network", probe, timeout)

    def wait_request(self, key: str, timeout: float = 120.0) -> dict[str, Any]:
        """Wait for the contact request of the owner of this key."""

        def probe() -> dict[str, Any] | None:
            return next((dict(r) for r in self.json("request", "list") if str(r["key"]).upper() == key.upper()), None)

        return self._wait("contact request", probe, timeout)

    def wait_mail_link(self, other: "Agent", timeout: float = 120.0) -> None:
        """Wait for the mail link with the other agent."""
        self._wait(f"mail link with {other.name}", lambda: self.mail_link(other), timeout)

    def _wait(self, what: str, probe: Callable[[], T | None], timeout: float) -> T:
        def step() -> T | None:
            self.require_alive()
            return probe()

        return wait_for(f"{what} at {self.name}", step, timeout, interval=0.05)

    def _answers(self) -> bool:
        if not (self.control_socket.is_socket() and self.lmtp_socket.is_socket()):
            return False
        try:
            self.json("status")
        except (ToxctlError, json.JSONDecodeError):
            return False
        return True

    def _running(self) -> Process:
        if self._process is None:
            raise RigError(f"{self.name}-agent was not started")
        return self._process


def befriend(one: Agent, other: Agent, message: str = "hi") -> None:
    """Make two agents contacts of each other, each under the other's name, and wait for the link."""
    one.ctl("contact", "add", other.tox_id, "--nick", other.name, "--message", message)
    other.wait_request(one.key)
    other.ctl("request", "accept", one.key, "--nick", one.name)
    one.wait_mail_link(other)
    other.wait_mail_link(one)
