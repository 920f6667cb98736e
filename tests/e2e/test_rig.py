"""The rig tested by itself: no toxmail program is needed.

python3 -m unittest discover -s tests/e2e -p test_rig.py
"""

import os
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path
from typing import ClassVar

from rig.bootstrap import Bootstrap
from rig.capture import cbor_sequence, common_run, deposits
from rig.case import SandboxCase
from rig.dovecot import Dovecot
from rig.lmtp_stub import LmtpStub
from rig.mail import compare, find_in_maildir, header, sample_mail
from rig.mutt import Mutt
from rig.postfix import Postfix
from rig.sandbox import UNPRIVILEGED, RigError, Sandbox
from rig.systemd import Machine
from rig.wait import TimedOut, wait_for

ALICE = "alice@alice.example"


def mail(message_id: str = "<1@alice.example>", **changes: object) -> bytes:
    settings: dict[str, object] = {
        "sender": f"Alice <{ALICE}>",
        "to": "bob@tox.alt",
        "subject": "a test",
        "text": "Hello Bob,\n.dots\n..more\nFrom here\ntrailing blanks  \n" + "x" * 900 + "\n",
        "message_id": message_id,
    }
    return sample_mail(**(settings | changes))  # type: ignore[arg-type]


class SearchTest(unittest.TestCase):
    """What a test that finds nothing rests upon: that what is there is found."""

    def test_a_common_run_is_found_wherever_it_is(self) -> None:
        run = bytes(range(16, 32))
        for before in (*range(20), 100):
            for after in (0, 1, 7, 50):
                one = [b"\1" * 99, b"\1" * before + run + b"\1" * after]
                other = [b"\2" * after + run + b"\2" * before, b""]
                self.assertEqual(common_run(one, other), run, (before, after))
                shorter = [content.replace(run, run[:-1]) for content in one]
                self.assertIsNone(common_run(shorter, other), (before, after))
        self.assertIsNone(common_run([run[:-1]], [run]))
        self.assertEqual(common_run([bytes(1000)], [bytes(16)]), bytes(16))

    def test_cbor_is_read_as_rfc_8949_writes_it(self) -> None:
        # Its appendix A.
        for octets, item in (
            ("00", 0),
            ("1818", 24),
            ("1903e8", 1000),
            ("1bffffffffffffffff", 18446744073709551615),
            ("4401020304", bytes([1, 2, 3, 4])),
            ("62c3bc", "ü"),
            ("8301820203820405", [1, [2, 3], [4, 5]]),
            ("a26161016162820203", {"a": 1, "b": [2, 3]}),
            ("83f4f5f6", [False, True, None]),
        ):
            self.assertEqual(list(cbor_sequence(bytes.fromhex(octets) * 2)), [item, item], octets)
        for octets in ("9f01ff", "f90000"):
            with self.assertRaises(ValueError):
                list(cbor_sequence(bytes.fromhex(octets)))

    def test_contents_are_put_together(self) -> None:
        requests = [[3, b"a", 4, b"digest"], [4, b"a", 0, b"12"], [0, 7], [3, b"b", 9, b"x"], [4, b"a", 2, b"34"]]
        # What is sent again is the same.
        come = deposits([*requests, [4, b"a", 1, b"23"], [5, b"a", b"signature"]])
        self.assertEqual((come.sizes, come.contents), ([4, 9], {b"a": b"1234", b"b": b""}))


class SandboxTest(unittest.TestCase):
    """It ends what it started, detached grandchildren included, and nothing else."""

    def test_everything_started_is_gone(self) -> None:
        bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
        try:
            code = (
                "import signal, sys, time; from rig.sandbox import Sandbox\n"
                # A shell that starts the tests in its background has it ignored, and so would its children.
                "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
                "with Sandbox() as box:\n"
                "    box.start('plain', ['sleep', '601'])\n"
                "    box.start('daemon', ['sh', '-c',\n"
                "        'setsid sh -c \"echo $$ > %s; exec sleep 602\" & exec sleep 603' % (box.path / 'pid')])\n"
                "    while not (box.path / 'pid').exists() or not (box.path / 'pid').read_text(): time.sleep(0.01)\n"
                "    print(box.path, (box.path / 'pid').read_text().strip(), flush=True)\n"
                "    time.sleep(600)\n"
            )
            for number, status in ((signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 128 + signal.SIGTERM)):
                with self.subTest(signal=number):
                    run = subprocess.Popen(
                        [sys.executable, "-c", code],
                        stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL,
                        cwd=Path(__file__).parent,
                        text=True,
                    )
                    assert run.stdout is not None
                    folder, pid = run.stdout.readline().split()
                    run.send_signal(number)
                    self.assertEqual(run.wait(20), status)
                    run.stdout.close()
                    self.assertFalse(Path(f"/proc/{pid}").exists(), "the detached grandchild lives on")
                    self.assertTrue(Path(folder).exists(), "the folder is kept on failure")
                    subprocess.run(["rm", "-r", folder], check=True)
            self.assertIsNone(bystander.poll())
        finally:
            bystander.kill()
            bystander.wait()

    def test_a_killed_rig_takes_its_processes_along(self) -> None:
        code = (
            "import time; from pathlib import Path; from rig.postfix import Postfix; from rig.sandbox import Sandbox\n"
            "box = Sandbox().__enter__()\n"
            f"process = box.start('plain', ['sleep', '604'], user='{UNPRIVILEGED}')\n"
            "postfix = Postfix(box, 'postfix', domain='alice.example', lmtp_socket=Path('/none'))\n"
            "print(box.path, process.pid, postfix.pid, flush=True)\n"
            "time.sleep(600)\n"
        )
        run = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parent, text=True
        )
        assert run.stdout is not None
        folder, *pids = run.stdout.readline().split()
        run.kill()
        run.wait()
        run.stdout.close()
        wait_for("end of the orphans", lambda: not any(_runs(int(pid)) for pid in pids), 20)
        subprocess.run(["rm", "-r", folder], check=True)

    def test_an_early_end_is_reported_with_its_words(self) -> None:
        with Sandbox() as box:
            process = box.start("short", ["sh", "-c", "echo no such key >&2; exit 3"])
            with self.assertRaisesRegex(RigError, "short ended with status 3:\nno such key"):
                process.wait_ready("socket", lambda: False)

    def test_waiting_has_an_end(self) -> None:
        start = time.monotonic()
        with self.assertRaisesRegex(TimedOut, "no miracle within 0 s"):
            wait_for("miracle", lambda: None, 0.1)
        self.assertLess(time.monotonic() - start, 5)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class CompareTest(unittest.TestCase):
    """The comparison sees each kind of damage."""

    def test_added_fields_are_told_from_damage(self) -> None:
        sent = b"From: a\nTo: b,\n c\nX: 1\nX: 1\n\nbody\n"
        self.assertTrue(compare(sent, sent).intact)
        good = compare(sent, b"Received: x\n y\n" + sent)
        self.assertEqual((good.intact, good.added), (True, ["Received"]))
        self.assertEqual(compare(sent, sent.replace(b"X: 1\n", b"", 1)).missing, ["X"])
        self.assertEqual(compare(sent, sent.replace(b"\n c", b" c")).missing, ["To"])
        self.assertEqual(compare(sent, b"To: b,\n c\nFrom: a\nX: 1\nX: 1\n\nbody\n").missing, ["To"])
        self.assertFalse(compare(sent, sent + b"\n").body_same)


class ReadersTest(SandboxCase):
    """Dovecot and mutt on a Maildir made by hand."""

    mail: ClassVar[bytes]
    maildir: ClassVar[Path]
    stub: ClassVar[LmtpStub]
    postfix: ClassVar[Postfix]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.mail = mail("<read.1@alice.example>", text="Grüße\n.\nFrom x\n")
        cls.mail = b"Reply-To: Alice <alice@tox.alt>\n" + cls.mail
        cls.maildir = cls.box.dir("home", user=UNPRIVILEGED) / "Maildir"
        for folder in ("cur", "new", "tmp"):
            cls.box.dir(f"home/Maildir/{folder}", user=UNPRIVILEGED, mode=0o700)
        cls.box.dir("home/Maildir", user=UNPRIVILEGED, mode=0o700)
        owner = cls.maildir.stat()
        for number, text in enumerate((cls.mail, mail("<read.2@alice.example>"))):
            path = cls.maildir / "new" / f"1700000000.M{number}P1.bob.example"
            path.write_bytes(text)
            os.chown(path, owner.st_uid, owner.st_gid)
            path.chmod(0o600)
        cls.stub = LmtpStub(cls.box)
        cls.postfix = Postfix(cls.box, "bob", domain="bob.example", lmtp_socket=cls.stub.socket)

    def test_dovecot_serves_it(self) -> None:
        dovecot = Dovecot(self.box, {"bob": self.maildir})
        self.assertEqual(len(dovecot.messages("bob")), 2)
        self.assertEqual(dovecot.fetch("bob", "<read.1@alice.example>"), self.mail)
        with self.assertRaisesRegex(RigError, "0 mails"):
            dovecot.fetch("bob", "<read.3@alice.example>")
        self.assertEqual(len(find_in_maildir(self.maildir, "<read.1@alice.example>")), 1)

    def test_mutt_reads_it_and_replies(self) -> None:
        mutt = Mutt(self.box, "mutt", sender="bob@bob.example", sendmail=self.postfix.sendmail_command)
        shown = mutt.print_message(self.maildir, "<read.1@alice.example>")
        self.assertIn("Subject: a test", shown)
        self.assertIn("Grüße", shown)
        copy = mutt.copy_message(self.maildir, "<read.1@alice.example>")
        self.assertTrue(compare(self.mail, copy).intact, compare(self.mail, copy))
        sent = mutt.reply(self.maildir, "<read.1@alice.example>", "Thank you, Alice.\n")
        self.assertEqual(header(sent, "To"), "Alice <alice@tox.alt>")
        self.assertEqual(header(sent, "In-Reply-To"), "<read.1@alice.example>")
        self.assertIn(b"\n\nThank you, Alice.\n", sent)
        self.assertIn("> Grüße".encode(), sent)
        received = wait_for("reply at the stub", lambda: next(iter(self.stub.mails), None))
        self.assertEqual((received.sender, received.recipients), ("bob@bob.example", ["alice@tox.alt"]))
        self.assertTrue(compare(sent, received.content).intact)


class BootstrapTest(unittest.TestCase):
    """The private Tox node."""

    def test_it_tells_its_key(self) -> None:
        with Sandbox() as box:
            one, two = Bootstrap(box, "one"), Bootstrap(box, "two")
            self.assertRegex(one.key, "^[0-9A-F]{64}$")
            self.assertNotEqual((one.key, one.port), (two.key, two.port))


class MachineTest(unittest.TestCase):
    """A machine booted by systemd."""

    def test_it_is_of_its_own_and_leaves_nothing_behind(self) -> None:
        before = _machine_groups()
        with Sandbox() as box:
            machine = Machine(box)
            self.assertEqual(machine.run("cat", "/proc/1/comm").stdout, b"systemd\n")
            machine.write("/etc/toxmail-rig-test", "in there")
            self.assertFalse(Path("/etc/toxmail-rig-test").exists())
            self.assertNotEqual(machine.run("sysctl", "-w", "kernel.pid_max=99999", check=False).returncode, 0)
            with self.assertRaises(RigError):
                machine.run("false")
            init = machine.init
            self.assertNotEqual(Path(f"/proc/{init}/cgroup").read_text(), Path("/proc/self/cgroup").read_text())
            machine.poweroff()
            self.assertFalse(_runs(init))
        wait_for("end of its cgroup", lambda: not _machine_groups() - before, 60)

    def test_a_killed_rig_takes_it_along(self) -> None:
        before = _machine_groups()
        code = (
            "import time; from rig.sandbox import Sandbox; from rig.systemd import Machine\n"
            "box = Sandbox().__enter__()\n"
            "print(box.path, Machine(box).init, flush=True)\n"
            "time.sleep(600)\n"
        )
        run = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parent, text=True
        )
        assert run.stdout is not None
        folder, init = run.stdout.readline().split()
        run.kill()
        run.wait()
        run.stdout.close()
        wait_for("end of the machine", lambda: not _runs(int(init)), 20)
        wait_for("end of its cgroup", lambda: not _machine_groups() - before, 60)
        subprocess.run(["rm", "-r", folder], check=True)


def _machine_groups() -> set[str]:
    """The cgroups with processes in them of machines whose launcher has ended. Where that was killed, with its rig, an empty
    one stays until the next machine removes it.
    """
    groups = [path for path in Path("/sys/fs/cgroup").glob("**/toxmail-[0-9]*") if path.is_dir()]

    def populated(group: Path) -> bool:
        try:
            return "populated 1" in (group / "cgroup.events").read_text()
        except OSError:
            return False

    return {group.name for group in groups if not _runs(int(group.name.split("-")[1])) and populated(group)}


if __name__ == "__main__":
    unittest.main()
