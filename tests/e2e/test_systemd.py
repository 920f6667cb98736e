"""The units on a machine booted by systemd: start, restart under load, kill, hang, credentials, a user's agent.

python3 -m unittest discover -s tests/e2e -p test_systemd.py      # TOXMAIL_BIN=DIR for programs elsewhere
"""

import json
import os
import socket
import subprocess
import threading
import unittest
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from rig.agent import Agent, befriend
from rig.bootstrap import Bootstrap
from rig.case import SandboxCase
from rig.lmtp import LmtpClient
from rig.mail import find_in_maildir
from rig.netns import Network
from rig.ptrace import HungThread
from rig.systemd import UNITS, Machine, ServiceAgent, install
from rig.wait import wait_for

BIN = Path(os.environ.get("TOXMAIL_BIN", Path(__file__).resolve().parents[2] / "target/release"))
ALICE = "alice@alice.example"
BOB = "bob@bob.example"
CAROL = "carol@carol.example"
SERVICE = "tox-agent.service"
# What WatchdogSec= says in the tests.
WATCHDOG = 4


def mail(message_id: str, sender: str = ALICE) -> bytes:
    """A small mail."""
    return f"From: <{sender}>\nSubject: a test\nMessage-ID: {message_id}\n\nHello\n".encode()


class SystemdTest(SandboxCase):
    """Alice's agent is the host's service; Bob's runs elsewhere, and is her contact."""

    network: ClassVar[Network]
    bootstrap: ClassVar[Bootstrap]
    machine: ClassVar[Machine]
    alice: ClassVar[ServiceAgent]
    bob: ClassVar[Agent]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.network = Network(cls.box)
        cls.bootstrap = Bootstrap(cls.box, host=cls.network.hub_address, netns=cls.network.hub)
        cls.machine = machine = Machine(cls.box, netns=cls.network.join("alice"))
        install(machine, BIN)
        machine.write("/etc/credstore/tox-agent.passphrase", "hush\n", mode=0o600)
        machine.write("/etc/tox-agent/tox-agent.toml", cls.config(), mode=0o640, group="tox-agent")
        machine.write(f"/etc/systemd/system/{SERVICE}.d/test.conf", f"[Service]\nWatchdogSec={WATCHDOG}\n")
        machine.systemctl("daemon-reload")
        machine.systemctl("enable", "--now", SERVICE)
        cls.alice = ServiceAgent(machine, "alice", SERVICE)
        cls.bob = Agent(
            cls.box,
            "bob",
            binaries=BIN,
            bootstrap=cls.bootstrap,
            addresses=[BOB],
            senders=[],
            netns=cls.network.join("bob"),
        )
        befriend(cls.alice, cls.bob)

    @classmethod
    def config(cls, *, level: str = "info", senders: Sequence[str] = (), port: int = 33445) -> str:
        """Alice's configuration."""
        return f"""
[log]
level = "{level}"
[names]
lookup = false
[tox]
ipv6 = false
lan_discovery = false
port_range = [{port}, {port}]
{cls.node()}
[[account]]
name = "alice"
addresses = ["{ALICE}"]
senders = {json.dumps(list(senders))}
maildir = "/var/lib/tox-agent/Maildir"
passphrase_credential = "tox-agent.passphrase"
"""

    @classmethod
    def node(cls) -> str:
        """The way into the private Tox network."""
        node = cls.bootstrap
        return f"""[[tox.bootstrap]]
host = "{node.host}"
port = {node.port}
key = "{node.key}"
tcp_ports = [{node.tcp_port}]
"""

    def configure(self, text: str) -> None:
        """Put it where alice's agent finds it at the next reload."""
        self.machine.write("/etc/tox-agent/tox-agent.toml", text, mode=0o640, group="tox-agent")

    def refusal(self, sender: str) -> int:
        """What alice's agent answers to this envelope sender."""
        with LmtpClient(self.machine.path("/run/tox-agent/lmtp.sock")) as client:
            return client.envelope(sender, [])[0].code

    def restarts(self) -> int:
        """How often systemd has started the agent anew by itself."""
        return int(self.machine.property(SERVICE, "NRestarts"))

    def test_units_are_valid_and_leave_little_open(self) -> None:
        units = [SERVICE, "tox-agent.socket", "tox-agent@carol.service", "tox-agent@carol.socket"]
        checked = self.machine.run("systemd-analyze", "verify", *units)
        self.assertEqual((checked.stdout, checked.stderr), (b"", b""))
        for unit in (SERVICE, "tox-agent@.service"):
            path = f"/usr/lib/systemd/system/{unit}"
            self.machine.run("systemd-analyze", "security", "--offline=true", "--threshold=15", path)

    def test_the_profile_for_apparmor_compiles(self) -> None:
        self.box.run(["apparmor_parser", "--skip-kernel-load", "--skip-cache", UNITS / "apparmor/usr.bin.tox-agent"])

    def test_the_status_tells_contacts_and_mail(self) -> None:
        self.alice.wait_mail_link(self.bob)
        self.machine.wait_property(SERVICE, "StatusText", "1 of 1 contacts online; no mail waiting")
        self.assertEqual(self.machine.property(SERVICE, "ActiveState"), "active")
        self.assertIn("1 of 1 contacts online", self.machine.systemctl("status", SERVICE))

    def test_the_passphrase_is_a_credential_that_only_root_can_read_on_disk(self) -> None:
        self.assertTrue(self.machine.read("/var/lib/tox-agent/identities/alice.tox").startswith(b"toxEsave"))
        stored = self.machine.run("cat", "/etc/credstore/tox-agent.passphrase", user="tox-agent", check=False)
        self.assertNotEqual(stored.returncode, 0)

    def test_a_reload_changes_what_it_can_names_the_rest_and_keeps_the_link(self) -> None:
        work = "work@alice.example"
        self.alice.wait_mail_link(self.bob)
        main, log = self.machine.property(SERVICE, "MainPID"), len(self.bob.log)
        self.addCleanup(self.machine.run, "toxctl", "reload")
        self.addCleanup(self.configure, self.config())
        self.assertEqual(self.refusal(work), 550)
        self.configure(self.config(level="debug", senders=[work], port=33499))
        self.machine.systemctl("reload", SERVICE)
        self.assertEqual(self.refusal(work), 250)
        journal = self.machine.journal("-u", SERVICE)
        self.assertIn("configuration read again: log.level, account `alice`: senders", journal)
        self.assertIn("needs a restart, and stays as it was: tox.port_range", journal)
        self.assertIn("lmtp: connection of uid 0", journal)

        self.configure(self.config() + "nonsense = 1\n")
        failed = self.machine.run("systemctl", "reload", SERVICE, check=False)
        self.assertNotEqual(failed.returncode, 0)
        self.assertIn("unknown key `nonsense`", self.machine.journal("-u", SERVICE))
        self.assertEqual(self.refusal(work), 250)

        self.configure(self.config())
        self.machine.systemctl("kill", "--signal=HUP", SERVICE)
        wait_for("old senders", lambda: self.refusal(work) == 550)
        self.machine.wait_property(SERVICE, "ActiveState", "active")
        self.assertEqual(self.machine.property(SERVICE, "MainPID"), main)
        self.assertTrue(self.alice.mail_link(self.bob))
        self.assertNotIn("mail link with alice is down", self.bob.log[log:])

    def test_a_restart_under_load_defers_no_mail(self) -> None:
        before, lock = self.machine.property(SERVICE, "MainPID"), threading.Lock()
        taken: list[str] = []
        refused: list[str] = []
        stop = threading.Event()

        def submit(thread: int) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                message_id = f"<load-{thread}-{number}@alice.example>"
                # As an MTA does it: a connection for each mail.
                try:
                    with LmtpClient(self.machine.path("/run/tox-agent/lmtp.sock")) as client:
                        reply = client.send(ALICE, ["bob@tox.alt"], mail(message_id))[0]
                        good, words = reply.code == 250, str(reply)
                except OSError as error:
                    good, words = False, str(error)
                with lock:
                    (taken if good else refused).append(message_id if good else words)

        threads = [threading.Thread(target=submit, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(4):
                so_far = len(taken)
                wait_for("some mails", lambda so_far=so_far: len(taken) > so_far + 20 or bool(refused))
                self.machine.systemctl("restart", SERVICE)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        self.assertEqual(refused, [])
        self.assertNotEqual(self.machine.property(SERVICE, "MainPID"), before)

        def arrived() -> bool:
            return len(list((self.bob.maildir / "new").glob("*"))) >= len(taken)

        wait_for("all mails at bob's", arrived, 120, interval=0.2)
        for message_id in taken:
            self.assertEqual(len(find_in_maildir(self.bob.maildir, message_id)), 1, message_id)

    def test_kill_9_is_followed_by_a_start(self) -> None:
        before, tox_id = self.restarts(), self.alice.tox_id
        self.machine.run("kill", "-KILL", self.machine.property(SERVICE, "MainPID"))
        wait_for("restart", lambda: self.restarts() == before + 1)
        self.machine.wait_property(SERVICE, "ActiveState", "active")
        self.assertEqual(self.alice.tox_id, tox_id)

    def test_a_tox_loop_that_hangs_is_noticed_and_the_agent_started_anew(self) -> None:
        before, tox_id = self.restarts(), self.alice.tox_id
        hung = HungThread(self.machine.host_pid(int(self.machine.property(SERVICE, "MainPID"))), "tox alice")
        hung.wait_end()
        wait_for("restart", lambda: self.restarts() == before + 1)
        self.machine.wait_property(SERVICE, "ActiveState", "active")
        journal = self.machine.journal("-u", SERVICE)
        self.assertIn("the thread `tox alice` has not answered", journal)
        self.assertIn("Watchdog timeout", journal)
        self.assertEqual(self.alice.tox_id, tox_id)

    def test_an_agent_that_is_well_is_left_alone(self) -> None:
        since = self.machine.property(SERVICE, "MainPID"), self.restarts()
        stamp = int(self.machine.property(SERVICE, "WatchdogTimestampMonotonic"))

        def pinged() -> bool:
            return int(self.machine.property(SERVICE, "WatchdogTimestampMonotonic")) > stamp + 2 * WATCHDOG * 1_000_000

        wait_for("pings", pinged)
        self.assertEqual((self.machine.property(SERVICE, "MainPID"), self.restarts()), since)

    def test_a_users_agent_delivers_into_the_home_and_sees_nothing_else_of_it(self) -> None:
        machine = self.machine
        machine.run("useradd", "--create-home", "--shell", "/bin/sh", "carol")
        machine.run("install", "-d", "-o", "carol", "-g", "carol", "-m", "700", "/home/carol/Maildir")
        machine.write("/home/carol/.ssh/id_ed25519", "secret", mode=0o600, owner="carol")
        run = "/run/tox-agent-users/carol"
        config = f"""state_dir = "/var/lib/tox-agent-users/carol"
[lmtp]
socket = "{run}.lmtp.sock"
[control]
socket = "{run}/control.sock"
[names]
lookup = false
[tox]
ipv6 = false
lan_discovery = false
port_range = [33446, 33446]
{self.node()}
[[account]]
name = "carol"
addresses = ["{CAROL}"]
maildir = "/home/carol/Maildir"
"""
        machine.write("/etc/tox-agent/users/carol.toml", config, mode=0o640, group="carol")
        machine.systemctl("enable", "--now", "tox-agent@carol.service")
        carol = ServiceAgent(machine, "carol", "tox-agent@carol.service", control=f"{run}/control.sock")
        befriend(carol, self.bob)
        self.bob.submit(BOB, ["carol@tox.alt"], mail("<to-carol@bob.example>", BOB))
        new = machine.path("/home/carol/Maildir/new")
        [file] = wait_for("the mail", lambda: list(new.glob("*")) or None)
        self.assertIn(b"<to-carol@bob.example>", file.read_bytes())
        owner = machine.run("stat", "--format=%U %a", f"/home/carol/Maildir/new/{file.name}").stdout
        self.assertEqual(owner, b"carol 600\n")
        main = machine.property("tox-agent@carol.service", "MainPID")
        seen = machine.run("nsenter", f"--target={main}", "--mount", "ls", "-A", "/home", "/home/carol").stdout
        self.assertEqual(seen.split(), [b"/home:", b"carol", b"/home/carol:", b"Maildir"])
        machine.systemctl("disable", "--now", "tox-agent@carol.service", "tox-agent@carol.socket")

    def test_only_a_listening_unix_socket_is_taken_over_and_its_path_wins(self) -> None:
        folder = self.box.dir("passed")
        passed = folder / "passed.sock"
        config = folder / "agent.toml"
        config.write_text(
            f"""state_dir = "{folder}/state"
[lmtp]
socket = "{folder}/lmtp.sock"
[control]
socket = "{folder}/control.sock"
[log]
syslog = false
[names]
lookup = false
[tox]
ipv6 = false
lan_discovery = false
[[account]]
name = "dave"
maildir = "{folder}/Maildir"
"""
        )
        exec_it = 'LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=lmtp exec "$@"'
        for line in (f"exec 3</dev/null; {exec_it}", exec_it):
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(passed))
                listener.listen()
                agent = subprocess.Popen(
                    ["sh", "-c", f"exec 3<&{listener.fileno()}; {line}", "sh", BIN / "tox-agent", "--config", config],
                    pass_fds=[listener.fileno()],
                    stderr=subprocess.PIPE,
                    text=True,
                )
                assert agent.stderr is not None
                with agent.stderr:
                    if line != exec_it:
                        self.assertIn("passed socket `lmtp`", agent.stderr.read())
                        self.assertEqual(agent.wait(), 1)
                    else:
                        self.assertTrue(any(f"has opened {passed}" in said for said in agent.stderr))
                        with LmtpClient(passed) as client:
                            self.assertEqual(client.greeting.code, 220)
                        agent.terminate()
                        agent.stderr.read()
                        self.assertEqual(agent.wait(), 0)
            self.assertTrue(passed.exists())
            passed.unlink()

    def test_zz_it_stops_in_good_order_and_its_socket_with_it(self) -> None:
        # While only the agent is stopped, the next mail would start it.
        self.machine.systemctl("stop", "tox-agent.socket", SERVICE)
        self.assertEqual(self.machine.property(SERVICE, "Result"), "success")
        self.assertEqual(self.machine.property(SERVICE, "ActiveState"), "inactive")
        self.assertFalse(self.machine.exists("/run/tox-agent/control.sock"))
        with socket.socket(socket.AF_UNIX) as client, self.assertRaises(ConnectionRefusedError):
            client.connect(str(self.machine.path("/run/tox-agent/lmtp.sock")))


if __name__ == "__main__":
    unittest.main()
