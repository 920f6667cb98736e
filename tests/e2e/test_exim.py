"""A real Exim of Debian's packages, by LMTP and by pipe with tox-transport: the files of exim/ as they are installed.

python3 -m unittest discover -s tests/e2e -p test_exim.py      # TOXMAIL_BIN=DIR for programs elsewhere
"""

import re
import shutil
import subprocess
import unittest
from pathlib import Path
from typing import ClassVar

from rig import cases
from rig.agent import Agent, befriend, install_programs
from rig.bootstrap import Bootstrap
from rig.case import SandboxCase
from rig.cases import ALICE, BIN, DOMAIN, mail
from rig.exim import EXIM_UID, FILES, PACKAGES, Exim, Namespace, install_included
from rig.mail import compare, find_in_maildir
from rig.mta import Route
from rig.sandbox import UNPRIVILEGED
from rig.wait import wait_for

BOB = "bob@bob.example"
# The exit statuses with which tox-transport says that a mail is refused for good.
FOR_GOOD = {65, 67, 69, 77}


class _Exim(cases.RouteCase):
    @classmethod
    def make(cls, name: str, lmtp_socket: Path, program: Path) -> Exim:
        return Exim(cls.box, name, domain=DOMAIN, route=cls.route, lmtp_socket=lmtp_socket, program=program)


class LmtpTest(_Exim, cases.AnswersCase):
    """The agent answers, and Exim does what it said."""

    route = "lmtp"
    tells_queue_id = False


class PipeTest(_Exim, cases.AnswersCase):
    """The same by tox-transport."""

    route = "pipe"


class LmtpNoAgentTest(_Exim, cases.NoAgentCase):
    """Whatever is wrong with the agent keeps the mail in Exim's queue."""

    route = "lmtp"


class PipeNoAgentTest(_Exim, cases.NoAgentCase, cases.NoProgramCase):
    """Whatever is wrong with the agent or with tox-transport keeps the mail in Exim's queue."""

    route = "pipe"


class EndingsTest(SandboxCase):
    """What Exim's pipe transport gives to a program, and what it makes of its end."""

    out: ClassVar[Path]
    exim: ClassVar[Exim]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.out = cls.box.dir("out", user=UNPRIVILEGED)
        cls.exim = Exim(
            cls.box,
            "pipe",
            domain=DOMAIN,
            route="pipe",
            lmtp_socket=cls.box.path / "none.sock",
            program=cases.install_fake_transport(cls.box, cls.out),
            macros={"TOXMAIL_TIMEOUT": "2s", "TOXMAIL_OWN_AUTO_THAW": "yes"},
            settings={"auto_thaw": "1s"},
        )

    def test_the_program_is_given_the_mail_and_nothing_else(self) -> None:
        sent = mail("<pipe@alice.example>", "From x\n.\n\n")
        queue_id = self.exim.smtp("", ["b.b@tox.alt"], sent)
        self.assertEqual(self.exim.wait_status(queue_id, "b.b@tox.alt")[0], "sent")
        received = (self.out / "mail").read_bytes()
        result = compare(sent, received)
        self.assertTrue(result.intact, result)
        self.assertEqual(result.added, ["Received"])
        argv = (self.out / "argv").read_text().splitlines()
        size = str(len(received))
        self.assertEqual(argv, ["--socket", str(self.box.path / "none.sock"), "--exim-env", "--size", size])
        env = dict(line.split("=", 1) for line in (self.out / "env").read_text().splitlines())
        wanted = {"SENDER": "", "LOCAL_PART": "b.b", "DOMAIN": "tox.alt", "MESSAGE_ID": queue_id}
        self.assertEqual({name: env.get(name) for name in wanted}, wanted)

    def test_every_exit_status(self) -> None:
        """Those that say so send a mail back; whatever else happens keeps it in the queue."""
        recipients = {status: f"exit{status}@tox.alt" for status in range(1, 256)}
        half = len(recipients) // 2
        for part in (list(recipients)[:half], list(recipients)[half:]):
            queue_id = self.exim.smtp(ALICE, [recipients[status] for status in part], mail(f"<exit{part[0]}@x>"))
            got = {status: self.exim.wait_status(queue_id, recipients[status])[0] for status in part}
            self.assertEqual({s for s in part if got[s] == "bounced"}, FOR_GOOD & set(part))
            self.assertEqual({s for s in part if got[s] == "deferred"}, set(part) - FOR_GOOD)

    def test_its_words_are_in_the_log_whatever_they_say(self) -> None:
        table = {
            "say75-571": ("deferred", "5.7.1 refused by the contact"),
            "say69-441": ("bounced", "4.4.1 contact is offline"),
            "say67-511": ("bounced", "5.1.1 no such contact"),
        }
        for local, (status, words) in table.items():
            with self.subTest(end=local):
                address = f"{local}@tox.alt"
                got = self.exim.wait_status(self.exim.smtp(ALICE, [address], mail(f"<{local}@x>")), address)
                self.assertEqual(got[0], status)
                self.assertIn(words, got[2])

    def test_a_timeout_defers(self) -> None:
        queue_id = self.exim.smtp(ALICE, ["hang@tox.alt"], mail("<hang@x>"))
        status, _, text = self.exim.wait_status(queue_id, "hang@tox.alt")
        self.assertEqual(status, "deferred", text)
        self.assertIn("timed out", text)

    def test_a_signal_freezes_and_what_is_frozen_is_tried_again(self) -> None:
        for local in ("kill", "segv"):
            with self.subTest(end=local):
                address = f"{local}@tox.alt"
                queue_id = self.exim.smtp(ALICE, [address], mail(f"<{local}@x>"))
                status, _, text = self.exim.wait_status(queue_id, address)
                self.assertEqual(status, "deferred", text)
                self.assertIn("terminated by signal", text)
                wait_for("frozen mail", lambda q=queue_id: f"{q} Frozen" in self.exim.log() or None)

                def thawed(queue_id: str = queue_id) -> bool:
                    self.exim.exim("-q")
                    return f"{queue_id} Unfrozen by auto-thaw" in self.exim.log()

                wait_for("thaw", thawed, interval=0.3)
                self.assertIn(queue_id, [m["queue_id"] for m in self.exim.queue()])
        self.assertEqual([m for m in self.exim.inbox_mails() if b"<kill@x>" in m or b"<segv@x>" in m], [])

    def test_by_itself_exim_would_return_all_that(self) -> None:
        """The options are there for a reason: if a later Exim needs them no more, they can go."""
        text = (FILES / "conf.d/transport/30_toxmail_pipe").read_text()
        bare = re.sub(r"  temp_errors = .*\n(    .*\n)+|  (timeout_defer|freeze_signal)\n", "", text)
        self.assertNotRegex(bare, "temp_errors|timeout_defer|freeze_signal")
        exim = Exim(
            self.box,
            "bare",
            domain=DOMAIN,
            route="pipe",
            lmtp_socket=self.box.path / "none.sock",
            program=cases.install_fake_transport(self.box, self.out),
            macros={"TOXMAIL_TIMEOUT": "1s"},
        )
        (exim.namespace.etc / "exim4/toxmail/transport/30_toxmail_pipe").write_text(bare)
        for local in ("exit1", "exit101", "exit127", "kill", "segv", "hang"):
            with self.subTest(end=local):
                address = f"{local}@tox.alt"
                queue_id = exim.smtp(ALICE, [address], mail(f"<bare-{local}@x>"))
                self.assertEqual(exim.wait_status(queue_id, address)[0], "bounced")


class AgentTest(SandboxCase):
    """Alice's Exim and her agent, and Bob's agent, whose Maildir has the mail."""

    alice: ClassVar[Agent]
    bob: ClassVar[Agent]
    mtas: ClassVar[dict[Route, Exim]]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        bootstrap = Bootstrap(cls.box)
        binaries = install_programs(cls.box, BIN)
        cls.alice, cls.bob = (
            Agent(cls.box, name, binaries=binaries, bootstrap=bootstrap, addresses=[address], senders=[address])
            for name, address in (("alice", ALICE), ("bob", BOB))
        )
        routes: tuple[Route, ...] = ("lmtp", "pipe")
        cls.mtas = {
            route: Exim(
                cls.box,
                f"exim-{route}",
                domain=DOMAIN,
                route=route,
                lmtp_socket=cls.alice.lmtp_socket,
                program=binaries / "tox-transport",
            )
            for route in routes
        }
        befriend(cls.alice, cls.bob)

    def test_a_mail_reaches_the_contacts_maildir(self) -> None:
        for route, exim in self.mtas.items():
            for size in (0, 1024 * 1024):
                with self.subTest(route=route, size=size):
                    message_id = f"<{route}-{size}@alice.example>"
                    sent = mail(message_id, ".\nFrom x\nGrüße " + "x" * 2000 + "\n", attachment_size=size)
                    queue_id = exim.smtp(ALICE, ["bob@tox.alt"], sent)
                    self.assertEqual(exim.wait_status(queue_id, "bob@tox.alt")[0], "sent")
                    (path,) = wait_for(message_id, lambda m=message_id: find_in_maildir(self.bob.maildir, m) or None)
                    result = compare(sent, path.read_bytes())
                    self.assertTrue(result.intact, result)

    def test_a_mail_that_exim_hands_over_twice_is_queued_once(self) -> None:
        """As after a crash between the agent's 250 and Exim's note of it; Exim's LMTP client does not tell its id."""
        for route, exim in self.mtas.items():
            with self.subTest(route=route):
                spool = exim.namespace.dir / "spool/input"
                kept = self.box.dir(f"kept-{route}")
                message_id = f"<twice-{route}@alice.example>"
                exim.stop()
                exim.exim("-oi", "-odq", "-f", ALICE, "--", "bob@tox.alt", stdin=mail(message_id))
                (queue_id,) = [m["queue_id"] for m in exim.queue()]
                for file in spool.glob(f"{queue_id}-*"):
                    shutil.copy2(file, kept)
                exim.exim("-M", queue_id)
                self.assertEqual(exim.queue(), [])
                for file in kept.iterdir():
                    shutil.copy2(file, spool)
                    shutil.chown(spool / file.name, EXIM_UID, EXIM_UID)
                exim.exim("-M", queue_id)
                self.assertEqual(exim.queue(), [])
                wait_for(
                    "the second time in the agent's log",
                    lambda q=queue_id: f"handed over again by the MTA (mta={q}), queued only once" in self.alice.log,
                )
                self.assertEqual(exim.log().count(f"{queue_id} => bob <bob@tox.alt>"), 2)
                exim.start()

    def test_mail_for_nobody_comes_back_with_the_agents_words(self) -> None:
        for route, exim in self.mtas.items():
            with self.subTest(route=route):
                queue_id = exim.smtp(ALICE, ["nobody@tox.alt"], mail(f"<unknown-{route}@alice.example>"))
                status, code, text = exim.wait_status(queue_id, "nobody@tox.alt")
                self.assertEqual((status, code), ("bounced", "5.1.1"), text)
                bounce = wait_for("bounce", lambda e=exim: next(iter(e.inbox_mails()), None))
                self.assertIn(b"no contact is called", bounce)


class DebianTest(SandboxCase):
    """The files in Debian's own configuration, by the steps of exim/README.md: update-exim4.conf makes one of both."""

    def namespace(self, name: str, *, split: bool, kind: str = "internet", macros: str = "") -> Namespace:
        """Debian's configuration with toxmail's files in it, made and ready to ask."""
        namespace = Namespace(self.box, name, offline=True)
        folder = namespace.etc / "exim4"
        shutil.copytree(PACKAGES / "etc/exim4", folder, dirs_exist_ok=True)
        (namespace.etc / "mailname").write_text(f"{DOMAIN}\n")
        (namespace.etc / "aliases").write_text("")
        (folder / "update-exim4.conf.conf").write_text(
            f"dc_eximconfig_configtype='{kind}'\ndc_other_hostnames='{DOMAIN}'\ndc_local_interfaces='127.0.0.1'\n"
            "dc_readhost=''\ndc_relay_domains=''\ndc_minimaldns='false'\ndc_relay_nets=''\n"
            "dc_smarthost='smart.example'\nCFILEMODE='644'\ndc_hide_mailname='true'\ndc_mailname_in_oh='true'\n"
            f"dc_localdelivery='maildir_home'\ndc_use_split_config='{str(split).lower()}'\n"
        )
        macros += f"SPOOLDIR = {namespace.own('spool')}\nlog_file_path = {namespace.own('log')}/%s.log\n"
        if split:
            shutil.copytree(FILES / "conf.d", folder / "conf.d", dirs_exist_ok=True)
            (folder / "conf.d/main/000_localmacros").write_text(macros)
        else:
            install_included(self.box, namespace, folder / "exim4.conf.template")
            (folder / "exim4.conf.localmacros").write_text(macros)
        # Where Exim looks first; the place that update-exim4.conf has by default is not in this namespace.
        namespace.run("/bin/sh", PACKAGES / "usr/sbin/update-exim4.conf", "-o", "/etc/exim4/exim4.conf")
        return namespace

    def ask(self, namespace: Namespace, *args: str) -> str:
        """What Exim answers; Debian's own routers may say no."""
        done = namespace.run(namespace.program, *args, check=False)
        return done.stdout.decode()

    def test_each_kind_of_set_up_routes_tox_and_nothing_else(self) -> None:
        for split in (True, False):
            for kind in ("internet", "smarthost", "satellite", "local"):
                with self.subTest(split=split, kind=kind):
                    namespace = self.namespace(f"debian-{kind}-{split}", split=split, kind=kind)
                    namespace.run(namespace.program, "-bV")
                    for address in ("bob@tox.alt", "carol@sub.tox.alt"):
                        self.assertIn("router = toxmail, transport = toxmail_lmtp", self.ask(namespace, "-bt", address))
                    for address in (f"root@{DOMAIN}", "bob@nottox.alt", "bob@192.0.2.1.example"):
                        self.assertNotIn("toxmail", self.ask(namespace, "-bt", address))

    def test_the_options_are_as_they_stand_in_the_files(self) -> None:
        for split in (True, False):
            with self.subTest(split=split):
                namespace = self.namespace(f"options-{split}", split=split)
                lmtp = self.ask(namespace, "-bP", "transport", "toxmail_lmtp")
                self.assertIn("socket = /run/tox-agent/lmtp.sock", lmtp)
                self.assertIn("batch_max = 100", lmtp)
                pipe = self.ask(namespace, "-bP", "transport", "toxmail_pipe")
                for line in ("freeze_signal", "timeout_defer", "timeout = 10m", "user = nobody"):
                    self.assertIn(f"{line}\n", pipe)
                (codes,) = re.findall(r"temp_errors = (.*)", pipe)
                self.assertEqual({int(code) for code in codes.split(":")}, set(range(1, 256)) - FOR_GOOD)

    def test_the_retry_rule_is_flat_for_tox_and_debians_for_the_rest(self) -> None:
        for split in (True, False):
            macros = "TOXMAIL_ADDRESSES = bob@example.net\n"
            namespace = self.namespace(f"retry-{split}", split=split, macros=macros)
            for address in ("bob@tox.alt", "bob@x.tox.alt", "bob@example.net"):
                with self.subTest(split=split, address=address):
                    self.assertIn("F,5d,5m;", self.ask(namespace, "-brt", address))
            self.assertIn("G,16h,1h,1.5;", self.ask(namespace, "-brt", "carol@example.net"))

    def test_the_macros_say_what_goes_over_tox_and_how(self) -> None:
        macros = "TOXMAIL_DOMAINS = tox.alt : *.tox.alt : example.org\nTOXMAIL_ADDRESSES = bob@example.net\n"
        for split in (True, False):
            namespace = self.namespace(f"macros-{split}", split=split, macros=macros + "TOXMAIL_PIPE = yes\n")
            with self.subTest(split=split):
                for address in ("bob@tox.alt", "any@example.org", "bob@example.net"):
                    self.assertIn("transport = toxmail_pipe", self.ask(namespace, "-bt", address))
                self.assertNotIn("toxmail", self.ask(namespace, "-bt", "carol@example.net"))
                self.assertIn("auto_thaw = 10m", self.ask(namespace, "-bP", "auto_thaw"))

    def test_strangers_may_not_send_over_tox(self) -> None:
        namespace = self.namespace("relay", split=True)
        dialogue = b"EHLO x.example\nMAIL FROM:<>\nRCPT TO:<bob@tox.alt>\nQUIT\n"
        for host, answer in (("192.0.2.1", "550 relay not permitted"), ("127.0.0.1", "250 Accepted")):
            with self.subTest(host=host):
                done = namespace.run(namespace.program, "-bh", host, stdin=dialogue)
                self.assertIn(answer, done.stdout.decode())

    def test_undoing_leaves_debians_configuration(self) -> None:
        namespace = self.namespace("undo", split=False)
        template = namespace.etc / "exim4/exim4.conf.template"
        lines = [line for line in template.read_text().splitlines() if "toxmail" not in line]
        before = (PACKAGES / "etc/exim4/exim4.conf.template").read_text().splitlines()
        self.assertEqual([line for line in lines if line], [line for line in before if line])


class NothingTouchedTest(SandboxCase):
    """Exim's /etc is one of its own."""

    def test_the_machines_files_stay_as_they_are(self) -> None:
        before = _listing()
        exim = Exim(self.box, "quiet", domain=DOMAIN, lmtp_socket=self.box.path / "none.sock")
        queue_id = exim.smtp(ALICE, ["bob@tox.alt"], mail("<quiet@x>"))
        self.assertEqual(exim.wait_status(queue_id, "bob@tox.alt")[0], "deferred")
        exim.stop()
        self.assertEqual(_listing(), before)
        self.assertFalse((exim.namespace.program).exists(), "the set-uid program is seen outside of its namespace")
        self.assertFalse((PACKAGES / "usr/sbin/exim4").stat().st_mode & 0o6000)


def _listing() -> str:
    places = ["/etc/passwd", "/etc/group", "/etc/exim4", "/var/spool/exim4", "/var/log/exim4", "/var/lib/exim4"]
    return subprocess.run(["ls", "-ld", "--time-style=full-iso", *places], capture_output=True, text=True).stdout


if __name__ == "__main__":
    unittest.main()
