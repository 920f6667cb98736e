"""Backup and restore with real agents on a private Tox network: nothing is lost, nothing is shown twice, no half state.

python3 -m unittest discover -s tests/e2e -p test_backup.py      # TOXMAIL_BIN=DIR for programs elsewhere
"""

import json
import os
import pty
import pwd
import select
import signal
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from rig.agent import Agent, ToxctlError, befriend
from rig.mail import find_in_maildir
from rig.sandbox import UNPRIVILEGED, RigError, as_user
from rig.tox import ToxClient
from rig.wait import wait_for
from test_agent import ALICE, KIB, NetworkCase, any_tox_id, mail, queue_id_of, random_body, stored

SECRET = "correct horse battery staple"


class BackupCase(NetworkCase):
    """What the tests of backup and restore have in common."""

    secret: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.secret = cls.secret_file("passphrase", SECRET)

    @classmethod
    def secret_file(cls, name: str, text: str) -> Path:
        path = cls.box.path / name
        path.write_text(text + "\n")
        path.chmod(0o600)
        return path

    def toxctl(self, *args: str | Path, status: int = 0) -> str:
        """Run toxctl as root; what it says on both outputs."""
        done = self.box.run([self.binaries / "toxctl", *args], check=False)
        words = (done.stdout + done.stderr).decode(errors="replace")
        self.assertEqual(done.returncode, status, words)
        return words

    def backup(self, agent: Agent, name: str) -> Path:
        file = self.box.path / name
        self.toxctl("backup", file, "--config", agent.config, "--passphrase-file", self.secret)
        return file

    def restore(self, agent: Agent, file: Path, *options: str, status: int = 0, secret: Path | None = None) -> str:
        secret = secret or self.secret
        return self.toxctl(
            "restore", file, "--config", agent.config, "--passphrase-file", secret, *options, status=status
        )

    @classmethod
    def twin(cls, agent: Agent, name: str) -> Agent:
        """An agent with the same account and nothing in its state folder, not started."""
        twin = cls.agent(
            name, start=False, addresses=[f"{agent.name}@tox.example"], senders=[f"{agent.name}@{agent.name}.example"]
        )
        # The rig names the log after the account.
        twin.name, twin.log_path = agent.name, agent.log_path
        twin.configure({})
        return twin

    def assert_belongs_to_the_agent(self, state: Path) -> None:
        uid = pwd.getpwnam(UNPRIVILEGED).pw_uid
        for path in [state, *state.rglob("*")]:
            found = path.lstat()
            self.assertEqual(found.st_uid, uid, path)
            if path.is_dir() or path.suffix == ".tox" or path.name == "queue.sqlite":
                self.assertEqual(found.st_mode & 0o077, 0, f"{path}: {found.st_mode:o}")

    @staticmethod
    def content(folder: Path) -> dict[str, bytes]:
        """All files below a folder, but for the empty lock."""
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class MovingTest(BackupCase):
    """alice loses her host twice; bob is her contact."""

    def test_a_state_moves_to_another_host_and_its_mail_arrives_once(self) -> None:
        alice, bob = self.agent("alice"), self.agent("bob")
        befriend(alice, bob)
        blocked = any_tox_id(7)
        alice.ctl("contact", "block", blocked[:64])
        alice.ctl("contact", "add", any_tox_id(8), "--address", "eve@example.net", "--nick", "eve")
        tox_id = alice.tox_id
        contacts = sorted(contact["key"] for contact in alice.json("contact", "list"))

        # What waits: small, in the database; large, in a file. Then the host is gone.
        key = bob.key
        bob.stop()
        wait_for("bob offline", lambda: not (alice.contact(key) or {})["online"])
        small, large = mail("<small@m.example>"), mail("<large@m.example>", random_body(300 * KIB))
        ids = sorted(queue_id_of(alice.submit(ALICE, ["bob@tox.alt"], one)) for one in (small, large))
        file = self.backup(alice, "running.age")
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
        self.assertFalse((alice.state / "backup").exists())
        self.assert_belongs_to_the_agent(alice.state)
        alice.kill()
        # The same as a stopped agent's, whose database nobody has open; it leaves its files as they were.
        offline = self.backup(alice, "stopped.age")
        self.assert_belongs_to_the_agent(alice.state)
        check = ["--json", "restore", "--check", offline, "--passphrase-file", self.secret]
        listed = json.loads(self.toxctl(*check))
        self.assertEqual(listed["backup"]["counts"]["mails"], 2)

        second = self.twin(alice, "alice-second")
        self.assertNotIn("warning", self.restore(second, file))
        self.assert_belongs_to_the_agent(second.state)
        second.start()
        self.assertEqual(second.tox_id, tox_id)
        self.assertEqual(sorted(contact["key"] for contact in second.json("contact", "list")), contacts)
        self.assertEqual([entry["key"].upper() for entry in second.json("contact", "blocked")], [blocked[:64]])
        self.assertEqual([name["state"] for name in second.json("name", "list")], ["pinned"])
        waiting = second.json("queue", "list")
        self.assertEqual([entry["queue_id"] for entry in waiting], ids)
        self.assertTrue(all(recipient["restored"] for entry in waiting for recipient in entry["recipients"]))
        bob.start()
        self.assertTrue(stored(bob.maildir, "<small@m.example>").endswith(b"Hello\n"))
        self.assertTrue(stored(bob.maildir, "<large@m.example>").endswith(random_body(300 * KIB)))
        self.assert_nothing_waits(second)
        for message_id in ("<small@m.example>", "<large@m.example>"):
            self.assertEqual(len(find_in_maildir(bob.maildir, message_id)), 1)

        # Again, from the same backup: all of it has been delivered since, and is on hold until somebody says so.
        second.stop()
        third = self.twin(alice, "alice-third")
        self.restore(third, offline, "--hold")
        third.start()
        third.wait_mail_link(bob)
        states = [recipient["state"] for entry in third.json("queue", "list") for recipient in entry["recipients"]]
        self.assertEqual(states, ["on_hold", "on_hold"])
        new = queue_id_of(third.submit(ALICE, ["bob@tox.alt"], mail("<new@m.example>")))
        stored(bob.maildir, "<new@m.example>")
        self.assertNotIn(new, ids)
        wait_for("the answer for the new one", lambda: third.queued() <= 2)
        self.assertEqual([entry["queue_id"] for entry in third.json("queue", "list")], ids, "nothing went with it")
        third.ctl("queue", "delete", ids[0])
        third.ctl("queue", "release", ids[1])
        self.assert_nothing_waits(third)
        self.assertRegex(third.log, rf"{ids[1]}: to=<bob@tox.alt>.* status=sent \(stored by an earlier attempt\)")
        self.assertNotRegex(third.log, rf"{ids[0]}: to=<bob@tox.alt>.*stored by an earlier attempt")
        for message_id in ("<small@m.example>", "<large@m.example>", "<new@m.example>"):
            self.assertEqual(len(find_in_maildir(bob.maildir, message_id)), 1)


class FileTest(BackupCase):
    """One agent that has run, its backup, and what may be wrong with one."""

    alice: ClassVar[Agent]
    file: ClassVar[Path]
    tox_id: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.alice = cls.agent("alice")
        cls.alice.ctl("contact", "add", any_tox_id(3), "--nick", "bob")
        cls.alice.submit(ALICE, ["bob@tox.alt"], mail("<waits@m.example>", random_body(200 * KIB)))
        cls.tox_id = cls.alice.tox_id
        cls.file = cls.box.path / "alice.age"
        command = [cls.binaries / "toxctl", "backup", cls.file, "--config", cls.alice.config]
        cls.box.run([*command, "--passphrase-file", cls.secret])

    def test_age_and_tar_open_it(self) -> None:
        output = self.on_a_terminal(["age", "-d", "-o", self.box.path / "plain.tar", self.file], [SECRET])
        self.assertTrue((self.box.path / "plain.tar").exists(), output)
        names = self.box.run(["tar", "-tf", self.box.path / "plain.tar"]).stdout.decode().split()
        self.assertEqual(names[:4], ["manifest.json", "tox-agent.toml", "identities/alice.tox", "queue.sqlite"])
        self.assertRegex(" ".join(names[4:]), r"^bodies/[0-9A-V]{16}$")
        text = self.toxctl("restore", "--print-config", self.file, "--passphrase-file", self.secret)
        self.assertEqual(text, self.alice.config.read_text())

    def test_the_passphrase_is_asked_on_the_terminal_twice_and_not_shown(self) -> None:
        file = self.box.path / "asked.age"
        command: list[str | Path] = [self.binaries / "toxctl", "backup", file, "--config", self.alice.config]
        output = self.on_a_terminal(command, ["typed once", "typed twice"])
        self.assertIn("not the same", output)
        self.assertFalse(file.exists())
        output = self.on_a_terminal(command, ["typed", "typed"])
        self.assertNotIn("typed", output)
        secret = self.secret_file("typed", "typed")
        self.toxctl("restore", "--check", file, "--passphrase-file", secret)
        done = subprocess.run(
            [*map(str, command)], stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True, timeout=60
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"--passphrase-file", done.stderr)

    def test_a_wrong_passphrase_or_a_damaged_file_changes_nothing(self) -> None:
        twin = self.twin(self.alice, "damaged")
        whole = self.file.read_bytes()
        wrong = self.secret_file("wrong", "incorrect horse")
        for options in ([], ["--check"]):
            self.assertIn("passphrase", self.restore(twin, self.file, *options, status=1, secret=wrong))
        bad = self.box.path / "bad.age"
        for at in (0, 10, 150, 1000, len(whole) // 2, len(whole) - 1):
            changed = bytearray(whole)
            changed[at] ^= 1
            for content in (whole[:at], bytes(changed)):
                bad.write_bytes(content)
                self.restore(twin, bad, status=1)
        bad.write_bytes(whole[:-30])
        self.assertIn("cut off", self.restore(twin, bad, "--check", status=1))
        self.assertEqual([path.name for path in twin.state.iterdir()], ["lock"])

    def test_a_restore_needs_the_agent_stopped_and_keeps_what_was_there(self) -> None:
        other = self.agent("other", addresses=["alice@tox.example"])
        before = other.tox_id
        self.assertIn("stop it first", self.restore(other, self.file, "--replace", status=1))
        other.stop()
        other.name = "alice"
        other.configure({})
        held = self.content(other.state)
        self.assertIn("--replace", self.restore(other, self.file, status=1))
        self.assertEqual(self.content(other.state), held)
        output = self.restore(other, self.file, "--replace")
        self.assertIn("what was there before is in", output)
        [replaced] = other.state.glob("replaced-*")
        self.assertEqual(
            (replaced / "identities/other.tox").read_bytes(), held["identities/other.tox"], "nothing is deleted"
        )
        self.assert_belongs_to_the_agent(other.state)
        other.start()
        self.assertEqual(other.tox_id, self.tox_id)
        self.assertNotEqual(other.tox_id, before)
        self.assertEqual(other.queued(), 1)
        other.stop()

    def test_a_restore_killed_at_any_step_is_done_or_never_happened(self) -> None:
        other = self.agent("killed", addresses=["alice@tox.example"])
        other.ctl("contact", "add", any_tox_id(4), "--nick", "carol")
        old = other.tox_id
        other.stop()
        other.name = "alice"
        other.configure({})
        # The account of that name had the old identity.
        (other.state / "identities/killed.tox").rename(other.state / "identities/alice.tox")
        master = self.box.path / "killed-master"
        self.box.run(["cp", "-a", other.state, master])
        outcomes = []
        calls = "rename,renameat,renameat2,fsync,unlink,unlinkat,rmdir"
        step = 0
        while True:
            step += 1
            self.box.run(["rm", "-rf", other.state])
            self.box.run(["cp", "-a", master, other.state])
            toxctl = [self.binaries / "toxctl", "restore", self.file, "--replace", "--config", other.config]
            kill = ["strace", "-f", "-qq", "-o", "/dev/null", f"--inject={calls}:signal=SIGKILL:when={step}"]
            done = self.box.run([*kill, f"--trace={calls}", *toxctl, "--passphrase-file", self.secret], check=False)
            if done.returncode == 0:
                break
            self.assertIn(done.returncode, (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr)
            other.start()
            new = other.tox_id == self.tox_id
            self.assertIn(other.tox_id, (old, self.tox_id))
            nicks = [contact["nick"] for contact in other.json("contact", "list")]
            self.assertEqual(nicks, ["bob"] if new else ["carol"])
            self.assertEqual(other.queued(), 1 if new else 0)
            self.assertFalse((other.state / "restoring").exists())
            self.assertEqual(len(list(other.state.glob("replaced-*"))), 1 if new else 0)
            self.assert_belongs_to_the_agent(other.state)
            other.stop()
            outcomes.append(new)
        self.assertEqual(outcomes, sorted(outcomes), "first the old, then the new")
        self.assertIn(False, outcomes)
        self.assertIn(True, outcomes)

    def test_an_identity_with_a_passphrase_stays_encrypted_in_the_backup(self) -> None:
        secret = self.box.path / "identity-passphrase"
        secret.write_text("hush\n")
        secret.chmod(0o600)
        os.chown(secret, pwd.getpwnam(UNPRIVILEGED).pw_uid, -1)
        locked = self.agent("locked", extra_config=f"passphrase_file = {json.dumps(str(secret))}\n")
        tox_id = locked.tox_id
        file = self.box.path / "locked.age"
        command = ["backup", file, "--config", locked.config, "--passphrase-file", self.secret]
        self.assertRegex(self.toxctl(*command), "warning: .*not in the backup: keep a copy of")
        locked.stop()
        self.box.run(["rm", "-rf", locked.state])
        locked.state = self.box.dir("locked-agent/state", user=UNPRIVILEGED, mode=0o700)
        self.restore(locked, file)
        self.assertTrue((locked.state / "identities/locked.tox").read_bytes().startswith(b"toxEsave"))
        locked.start()
        self.assertEqual(locked.tox_id, tox_id)
        locked.stop()

    def test_what_others_may_read_or_change_keeps_the_agent_from_starting(self) -> None:
        careless = self.agent("careless")
        careless.stop()
        identity = careless.state / "identities/careless.tox"
        identity.chmod(0o640)
        careless.state.chmod(0o770)
        done = self.box.run(
            as_user(UNPRIVILEGED, self.binaries / "tox-agent", "--config", careless.config), check=False
        )
        self.assertEqual(done.returncode, 78, done.stderr)
        checked = self.toxctl("check", "--config", careless.config, status=78)
        for words in (done.stderr.decode(), checked):
            self.assertIn(f"chmod 600 {identity}", words)
            self.assertIn(f"chmod 700 {careless.state}", words)
        identity.chmod(0o600)
        careless.state.chmod(0o700)
        careless.start()
        careless.stop()

    def on_a_terminal(self, command: Sequence[str | Path], answers: Sequence[str]) -> str:
        """Run a command on a terminal of its own, answer each of its prompts; all that the terminal showed."""
        child, terminal = pty.fork()
        if child == 0:
            os.execvp(str(command[0]), [str(word) for word in command])
        shown, left, asked = b"", list(answers), 0
        deadline = time.monotonic() + 60
        try:
            while time.monotonic() < deadline:
                # A prompt ends with a colon and a space, and no line; what is typed before the echo is off is shown.
                echo = termios.tcgetattr(terminal)[3] & termios.ECHO
                if left and shown[asked:].endswith(b": ") and not echo:
                    asked = len(shown)
                    os.write(terminal, left.pop(0).encode() + b"\n")
                if not select.select([terminal], [], [], 0.05)[0]:
                    continue
                try:
                    octets = os.read(terminal, 4096)
                except OSError:  # EIO: the other side is closed
                    break
                if not octets:
                    break
                shown += octets
            else:
                os.kill(child, signal.SIGKILL)
                raise RigError(f"no end of {command[0]}: {shown!r}")
        finally:
            os.waitpid(child, 0)
            os.close(terminal)
        return shown.decode(errors="replace")


class NospamTest(BackupCase):
    """A new nospam."""

    def test_a_new_nospam_keeps_contacts_and_shuts_out_the_old_id(self) -> None:
        alice, bob = self.agent("alice"), self.agent("bob")
        befriend(alice, bob)
        old = alice.tox_id
        told = alice.json("nospam", "rotate")
        self.assertEqual(told["before"], old)
        new = alice.tox_id
        self.assertEqual((told["tox_id"], new[:64]), (new, old[:64]))
        self.assertNotEqual(new, old)
        self.assertTrue(alice.mail_link(bob), "the link goes on")
        # It was on disk before it was told.
        alice.kill()
        alice.start()
        self.assertEqual(alice.tox_id, new)
        alice.wait_mail_link(bob)
        late, early = ToxClient(self.box, self.bootstrap), ToxClient(self.box, self.bootstrap)
        late.ask(old)
        early.ask(new)
        alice.wait_request(early.key)
        self.assertNotIn(late.key, [str(request["key"]).upper() for request in alice.json("request", "list")])
        with self.assertRaisesRegex(ToxctlError, "there is no account"):
            alice.ctl("nospam", "rotate", "--account", "eve")

