"""The Debian package on a machine that systemd has booted: install, use with the machine's Postfix, upgrade, remove, purge.

python3 -m unittest discover -s tests/e2e -p test_package.py      # TOXMAIL_BIN=DIR for programs elsewhere
"""

import json
import os
import re
import subprocess
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from rig.agent import Agent, befriend, install_programs
from rig.bootstrap import Bootstrap
from rig.case import SandboxCase
from rig.mail import find_in_maildir
from rig.netns import Network
from rig.systemd import Machine, ServiceAgent
from rig.wait import wait_for

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("TOXMAIL_BIN", ROOT / "target/release"))
SERVICE = "tox-agent.service"
CONFIG = "/etc/tox-agent/tox-agent.toml"
SENDER = "alice@machine.example"
# Debian's Exim, as scripts/install-deps unpacks it.
EXIM = ROOT / "target/exim4"
EXIM_ANSWERS = """\
dc_eximconfig_configtype='local'
dc_other_hostnames='machine.example'
dc_local_interfaces='127.0.0.1'
dc_use_split_config='{split}'
dc_localdelivery='maildir_home'
CFILEMODE='644'
"""
BOB = "bob@bob.example"
# A key of nobody, and a nospam.
CAROL = "AB" * 31 + "2B" + "01020304"


def tox_id(digits: str) -> str:
    """A Tox ID of these 36 octets, with its checksum."""
    octets = bytes.fromhex(digits)[:36]
    check = [0, 0]
    for at, octet in enumerate(octets):
        check[at % 2] ^= octet
    return (octets + bytes(check)).hex().upper()


class PackageTest(SandboxCase):
    """The steps of a package's life, in their order: each goes on where the one before ended."""

    bootstrap: ClassVar[Bootstrap]
    machine: ClassVar[Machine]
    bob: ClassVar[Agent]
    old: ClassVar[Path]
    new: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.new = cls.build()
        cls.old = cls.as_version(cls.new, "0.0.1-1")
        network = Network(cls.box)
        cls.bootstrap = Bootstrap(cls.box, host=network.hub_address, netns=network.hub)
        cls.machine = Machine(cls.box, netns=network.join("machine"))
        cls.bob = Agent(
            cls.box,
            "bob",
            binaries=install_programs(cls.box, BIN),
            bootstrap=cls.bootstrap,
            addresses=[BOB],
            senders=[],
            netns=network.join("bob"),
        )
        for deb in (cls.old, cls.new):
            cls.machine.copy(deb, f"/root/{deb.name}")

    @classmethod
    def build(cls) -> Path:
        """The package of the programs under test."""
        out = cls.box.dir("deb")
        # Debugging symbols of a debug build are large, and of no use here.
        cls.box.run(["env", "DEB_BUILD_OPTIONS=noautodbgsym", ROOT / "scripts/package", BIN, out], timeout=300)
        (deb,) = out.glob("toxmail_*.deb")
        return deb

    @classmethod
    def as_version(cls, deb: Path, version: str) -> Path:
        """The same package under another version."""
        tree = cls.box.dir("deb-tree")
        cls.box.run(["dpkg-deb", "-R", deb, tree])
        control = tree / "DEBIAN/control"
        control.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}", control.read_text()))
        made = deb.with_name(f"toxmail_{version}.deb")
        cls.box.run(["dpkg-deb", "-Zgzip", "-z1", "-b", tree, made])
        return made

    def toxctl(self, *words: str) -> Any:
        """What `toxctl --json` says in the machine."""
        return json.loads(self.machine.run("toxctl", "--json", *words).stdout)

    def queued(self) -> list[str]:
        """The senders of what waits."""
        return [mail["sender"] for mail in self.toxctl("queue", "list")]

    def submit(self, number: int) -> int:
        """Hand over one mail as the mail server's pipe would; the exit status."""
        command = self.machine.inside(
            "tox-transport", "--queue-id", f"LOAD{number}", "-f", SENDER, "--", "carol@tox.alt", user="nobody"
        )
        message = f"Subject: {number}\n\nHello\n".encode()
        return subprocess.run(command, input=message, capture_output=True, timeout=60).returncode

    def test_1_lintian_finds_no_error(self) -> None:
        done = self.box.run(["lintian", "--fail-on", "error", "--allow-root", self.new], check=False, timeout=120)
        self.assertEqual(done.returncode, 0, done.stdout.decode())

    def test_2_after_the_installation_the_service_runs(self) -> None:
        self.machine.run("dpkg", "-i", f"/root/{self.old.name}")
        self.machine.wait_property(SERVICE, "ActiveState", "active")
        for unit in (SERVICE, "tox-agent.socket"):
            self.assertEqual(self.machine.property(unit, "UnitFileState"), "enabled", unit)
        status = self.toxctl("status")
        self.assertEqual([account["name"] for account in status["accounts"]], ["mail"])
        self.assertRegex(self.toxctl("id")[0]["tox_id"], r"^[0-9A-F]{76}$")
        self.assertIn(f" {CONFIG} ", self.machine.run("dpkg-query", "-W", "-f=${Conffiles}\n", "toxmail").stdout.decode())
        owner = self.machine.run("stat", "-c", "%U %a", "/var/lib/tox-agent").stdout
        self.assertEqual(owner, b"tox-agent 700\n")
        self.assertEqual(self.machine.run("dpkg", "--verify", "toxmail").stdout, b"")

    def test_3_the_mail_server_is_set_up_and_hands_over_mail(self) -> None:
        # As its user edits it, but that the Tox network is the test's.
        text = self.machine.read(CONFIG).decode().replace("senders = []", f'senders = ["{SENDER}"]')
        text = text[: text.index("[[tox.bootstrap]]")] + (
            "[names]\nlookup = false\n[tox]\nipv6 = false\nlan_discovery = false\n[[tox.bootstrap]]\n"
            f'host = "{self.bootstrap.host}"\nport = {self.bootstrap.port}\nkey = "{self.bootstrap.key}"\n'
        )
        self.machine.write(CONFIG, text)
        self.machine.run("toxctl", "check")
        self.machine.systemctl("restart", SERVICE)
        agent = ServiceAgent(self.machine, "mail", SERVICE)
        befriend(agent, self.bob)
        self.machine.run("toxctl", "contact", "add", tox_id(CAROL), "--nick", "carol")
        self.machine.run("postconf", "-e", "maillog_file=/var/log/postfix.log")
        before = {name: self.machine.read(f"/etc/postfix/{name}") for name in ("main.cf", "master.cf")}
        self.machine.systemctl("start", "postfix")
        said = self.machine.run("toxctl", "setup", "postfix", "--apply").stdout.decode()
        self.assertIn(f"probe: ok: from <{SENDER}>", said)
        message = b"Subject: hi\nMessage-ID: <hi@machine.example>\n\nHello\n"
        self.machine.run("sendmail", "-f", SENDER, "bob@tox.alt", "carol@tox.alt", stdin=message, user="nobody")
        wait_for("mail at bob's", lambda: find_in_maildir(self.bob.maildir, "<hi@machine.example>"))
        wait_for("only carol's mail in the queue", lambda: self.queued() == [SENDER])
        self.bob.submit(BOB, ["mail@tox.alt"], b"Subject: re\n\nHello\n")
        wait_for("the answer", lambda: self.machine.run("ls", "/var/lib/tox-agent/Maildir/new").stdout)
        self.bob.stop()
        self.machine.run("toxctl", "setup", "postfix", "--revert")
        self.assertEqual({name: self.machine.read(f"/etc/postfix/{name}") for name in before}, before)

    def test_4_debians_exim_is_set_up_and_is_as_before_afterwards(self) -> None:
        self.machine.systemctl("stop", "postfix")
        self.machine.run("useradd", "--system", "--no-create-home", "Debian-exim")
        tree = subprocess.run(["tar", "-c", "-C", EXIM, "."], check=True, capture_output=True).stdout
        # /lib is a link there, and must stay one.
        self.machine.run("tar", "-x", "--no-same-owner", "--keep-directory-symlink", "-C", "/", stdin=tree)
        self.machine.run("chmod", "u+s", "/usr/sbin/exim4")
        for folder in ("/var/spool/exim4", "/var/log/exim4", "/run/exim4"):
            self.machine.run("install", "-d", "-o", "Debian-exim", "-g", "Debian-exim", folder)
        self.machine.write("/etc/mailname", "machine.example\n")
        for split in ("true", "false"):
            with self.subTest(split=split):
                self.machine.write("/etc/exim4/update-exim4.conf.conf", EXIM_ANSWERS.format(split=split))
                self.machine.run("update-exim4.conf")
                self.machine.systemctl("daemon-reload")
                self.machine.systemctl("restart", "exim4")
                before = self.tree("/etc/exim4")
                shown = self.machine.run("toxctl", "setup", "exim", "example.net").stdout.decode()
                self.assertIn("+TOXMAIL_DOMAINS = tox.alt : *.tox.alt : example.net", shown)
                self.assertEqual(self.tree("/etc/exim4"), before)

                said = self.machine.run("toxctl", "setup", "exim", "example.net", "--apply").stdout.decode()
                self.assertIn(f"probe: ok: from <{SENDER}>", said)
                self.assertNotIn("does not run", said)
                route = self.machine.run("exim4", "-bt", "bob@example.net").stdout
                self.assertIn(b"router = toxmail, transport = toxmail_lmtp", route)
                self.assertIn("already so", self.machine.run("toxctl", "setup", "exim", "--apply").stdout.decode())
                own = self.machine.run("toxctl", "setup", "exim", "machine.example", check=False)
                self.assertIn(b"own domains (dc_other_hostnames)", own.stderr)
                self.machine.systemctl("stop", "tox-agent.socket", SERVICE)
                said = self.machine.run("toxctl", "setup", "exim", "--apply", check=False).stdout.decode()
                self.assertIn("probe: FAILED, none was sent: tox-agent is not running", said)
                self.machine.systemctl("start", "tox-agent.socket", SERVICE)
                failed = self.machine.run("toxctl", "setup", "exim", "--apply", "--from", "eve@machine.example", check=False)
                self.assertIn(b"<eve@machine.example> belongs to no account", failed.stdout)

                self.machine.run("toxctl", "setup", "exim", "--revert")
                self.assertEqual(self.tree("/etc/exim4"), before)
        self.machine.systemctl("stop", "exim4")
        self.assertEqual(self.queued(), [SENDER])

    def tree(self, folder: str) -> bytes:
        """All below a folder of the machine: names, modes, owners, and digests of what is in files."""
        script = f"cd {folder} && find . -printf '%p %m %u\\n' | sort && find . -type f -print0 | sort -z | xargs -0 sha256sum"
        return self.machine.run("sh", "-c", script).stdout

    def test_4_dovecot_takes_the_examples(self) -> None:
        # As dovecot/README.md says, in Debian's own configuration.
        examples = "/usr/share/doc/toxmail/examples/dovecot"
        self.machine.run("cp", f"{examples}/toxmail.sieve", "/etc/dovecot/")
        self.machine.run("cp", f"{examples}/95-toxmail.conf", "/etc/dovecot/conf.d/")
        self.machine.run("sievec", "/etc/dovecot/toxmail.sieve")
        for words, expected in (
            (["-h", "plugin/sieve_before"], "file:/etc/dovecot/toxmail.sieve"),
            (["-h", "plugin/sieve_duplicate_max_period"], "30d"),
            (["-f", "protocol=lmtp", "-h", "mail_plugins"], "sieve"),
        ):
            said = self.machine.run("doveconf", *words).stdout.decode().split()
            self.assertEqual(said[-1:], [expected], words)
        self.machine.run("rm", "/etc/dovecot/conf.d/95-toxmail.conf")

    def test_5_an_upgrade_under_load_loses_and_defers_nothing(self) -> None:
        before = self.machine.property(SERVICE, "MainPID")
        identity = self.toxctl("id")[0]["tox_id"]
        with ThreadPoolExecutor(4) as pool:
            upgrade = pool.submit(self.machine.run, "dpkg", "--force-confold", "-i", f"/root/{self.new.name}")
            statuses = []
            while not upgrade.done() or len(statuses) < 30:
                statuses += pool.map(self.submit, range(len(statuses), len(statuses) + 3))
            upgrade.result()
        self.assertEqual(set(statuses), {0})
        self.machine.wait_property(SERVICE, "ActiveState", "active")
        self.assertNotEqual(self.machine.property(SERVICE, "MainPID"), before)
        self.assertEqual(len(self.queued()), 1 + len(statuses))
        self.assertEqual(self.toxctl("id")[0]["tox_id"], identity)
        self.assertIn(SENDER, self.machine.read(CONFIG).decode())

    def test_6_a_killed_agent_is_back_with_its_queue(self) -> None:
        queued, before = len(self.queued()), self.machine.property(SERVICE, "MainPID")
        self.machine.run("kill", "-KILL", before)
        self.machine.wait_property(SERVICE, "NRestarts", "[1-9].*")
        self.assertEqual(self.submit(9999), 0)
        self.machine.wait_property(SERVICE, "ActiveState", "active")
        self.assertEqual(len(self.queued()), queued + 1)

    def test_7_removing_ends_the_service_and_keeps_what_is_the_users(self) -> None:
        self.machine.run("dpkg", "-r", "toxmail")
        self.assertFalse(self.machine.exists("/usr/bin/tox-agent"))
        self.assertFalse(self.machine.systemctl("list-units", "tox-agent*", "--no-legend", "--state=active"))
        self.assertEqual(self.machine.run("pgrep", "-x", "tox-agent", check=False).returncode, 1)
        for path in (CONFIG, "/var/lib/tox-agent/identities", "/var/lib/tox-agent/Maildir"):
            self.assertTrue(self.machine.exists(path), path)

    def test_8_purging_keeps_identities_and_says_so(self) -> None:
        said = self.machine.run("dpkg", "-P", "toxmail").stdout.decode()
        self.assertRegex(said, re.escape("/var/lib/tox-agent is kept") + r".*rm -r /var/lib/tox-agent")
        self.assertFalse(self.machine.exists("/etc/tox-agent"))
        self.assertTrue(self.machine.exists("/var/lib/tox-agent/identities"))
        self.assertTrue(self.machine.run("ls", "/var/lib/tox-agent/Maildir/new").stdout)
        # Without identities and mail nothing is left.
        self.machine.run("dpkg", "-i", f"/root/{self.new.name}")
        self.machine.wait_property(SERVICE, "ActiveState", "active")
        self.machine.systemctl("stop", SERVICE, "tox-agent.socket")
        self.machine.run("rm", "-r", "/var/lib/tox-agent/identities", "/var/lib/tox-agent/Maildir")
        self.machine.run("dpkg", "-P", "toxmail")
        self.assertFalse(self.machine.exists("/var/lib/tox-agent"))
        left = self.machine.run("systemctl", "list-unit-files", "tox-agent*", "--no-legend", check=False).stdout
        self.assertEqual(left, b"")


if __name__ == "__main__":
    unittest.main()
