"""What toxmail does in a second, next to what others do on the same machine at the same time.

Prints a table and writes `target/bench.json`. Every rival is measured in the same run, so the ratios mean something
where the absolute numbers depend on the machine. Run by `make bench`.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests/e2e"), str(ROOT / "benches")]

from lmtp_load import Client, load  # noqa: E402
from rig import Agent, Bootstrap, Postfix, Sandbox, wait_for  # noqa: E402
from rig.agent import befriend, install_programs  # noqa: E402
from rig.sandbox import UNPRIVILEGED  # noqa: E402

SENDER = "alice@alice.example"
RECIPIENT = "bob@tox.alt"


@dataclass
class Row:
    """One line of the table: a figure of ours, one to hold it against, and what their ratio should be."""

    what: str
    unit: str
    ours: float
    rival: str
    rivals: float | None
    target: str
    met: bool | None

    @property
    def ratio(self) -> float | None:
        """Ours divided by the rival's."""
        return self.ours / self.rivals if self.rivals else None


def mail(number: int, size: int) -> bytes:
    """A mail of about `size` octets with CRLF line ends, whose body compresses about as base64 does."""
    import base64
    import random

    chance = random.Random(number)
    head = f"From: {SENDER}\r\nTo: {RECIPIENT}\r\nMessage-ID: <{number}.{time.time_ns()}@bench>\r\n\r\n".encode()
    body = base64.b64encode(chance.randbytes(max(size - len(head), 0) * 3 // 4))
    return head + b"\r\n".join(body[at : at + 76] for at in range(0, len(body), 76)) + b"\r\n"


def cpu_seconds(pid: int) -> float:
    """CPU time of a process."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def rss_megabytes(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


class Bench:
    """The measurements; each appends its rows."""

    def __init__(self, box: Sandbox, binaries: Path, count: int) -> None:
        self.box = box
        self.count = count
        self.rows: list[Row] = []
        self.bare = binaries / "examples/bare_tox"
        self.bootstrap = Bootstrap(box)
        self.programs = install_programs(box, binaries)
        self.alice, self.bob = (self.agent(name) for name in ("alice", "bob"))
        befriend(self.alice, self.bob)
        self.new = self.bob.maildir / "new"

    def agent(self, name: str) -> Agent:
        """An agent as an operator runs it: log level info."""
        agent = Agent(
            self.box, name, binaries=self.programs, bootstrap=self.bootstrap, addresses=[],
            senders=[f"{name}@{name}.example"], start=False,
        )
        agent.config.write_text(agent.config.read_text().replace('level = "debug"', 'level = "info"'))
        agent.start()
        return agent

    def row(self, what: str, unit: str, ours: float, target: str, *, met: bool | None = None, rival: str = "",
            rivals: float | None = None) -> None:
        """Append a row and show it."""
        row = Row(what, unit, ours, rival, rivals, target, met)
        self.rows.append(row)
        print(line(row), flush=True)

    def delivered(self) -> int:
        """How many mails bob has."""
        return len(os.listdir(self.new))

    def wait_delivered(self, count: int) -> None:
        """Wait until bob has that many."""
        wait_for(f"{count} mails", lambda: self.delivered() >= count, 600, interval=0.001)

    def latency(self) -> None:
        """Submission to Maildir, one mail at a time, link up."""
        client = Client(self.alice.lmtp_socket)
        took = []
        for number in range(200):
            before, message = self.delivered(), mail(number, 4096)
            begin = time.perf_counter()
            client.send(SENDER, RECIPIENT, message)
            while self.delivered() == before:
                time.sleep(0.0002)
            took.append((time.perf_counter() - begin) * 1000)
        client.close()
        p50 = statistics.median(took)
        self.row("submit → in the Maildir, 4 KiB, p50", "ms", p50, "≤ 10 ms", met=p50 <= 10)
        self.row("submit → in the Maildir, 4 KiB, p90", "ms", statistics.quantiles(took, n=10)[8], "")

    def throughput(self) -> None:
        """Many queued small mails from agent to agent, and how soon the first arrives when the peer comes online."""
        self.bob.stop()
        before = self.delivered()
        begin = time.perf_counter()
        load(self.alice.lmtp_socket, SENDER, RECIPIENT, [mail(n, 4096) for n in range(self.count)], 16)
        submitted = self.count / (time.perf_counter() - begin)
        self.bob.start()
        online = first = None
        first_count = 0
        while (have := self.delivered() - before) < self.count:
            if online is None and self.bob.account()["contacts_online"]:
                online = time.perf_counter()
            if have and first is None:
                first, first_count = time.perf_counter(), have
            if first is None or online is None:
                continue
            time.sleep(0.002)
        end = time.perf_counter()
        assert first is not None
        rate = (self.count - first_count) / (end - first)
        self.row("agent → agent → Maildir, 4 KiB, queued", "mails/s", rate, "≥ 1000/s", met=rate >= 1000)
        self.row("LMTP → durable in the queue, 4 KiB, 16 clients", "mails/s", submitted, "")
        soon = max(0.0, first - online) if online is not None else 0.0
        self.row("contact online → first waiting mail stored", "s", soon, "≤ 1 s", met=soon <= 1)

    def bulk(self) -> None:
        """One 25 MiB mail against bare messages under the same window."""
        client = Client(self.alice.lmtp_socket)
        took = []
        for number in range(3):
            before, message = self.delivered(), mail(number, 25 << 20)
            client.send(SENDER, RECIPIENT, message)
            begin = time.perf_counter()
            self.wait_delivered(before + 1)
            took.append(25 / (time.perf_counter() - begin))
        client.close()
        done = self.box.run([self.bare, self.bootstrap.host, str(self.bootstrap.port), self.bootstrap.key, "messages",
                             "25"], timeout=120)
        raw = 25 / float(done.stdout)
        ours = statistics.median(took)
        self.row("25 MiB mail, durable in one queue → in the Maildir", "MiB/s", ours, "≥ 0.3 × raw messages",
                 rival="raw messages", rivals=raw, met=ours >= 0.3 * raw)

    def idle(self) -> None:
        """An idle agent against a bare libtoxcore program."""
        seconds = 20
        before, begin = cpu_seconds(self.alice.pid), time.monotonic()
        done = self.box.run([self.bare, self.bootstrap.host, str(self.bootstrap.port), self.bootstrap.key, "idle",
                             str(seconds)], timeout=120)
        ours = (cpu_seconds(self.alice.pid) - before) / (time.monotonic() - begin) * 100
        bare = float(done.stdout) / seconds * 100
        self.row("idle agent, one account", "% CPU", ours, "≤ 1.2 × bare libtoxcore", rival="bare libtoxcore",
                 rivals=bare, met=ours <= 1.2 * bare)
        fresh = self.agent("carol")
        fresh.wait_online()
        memory = rss_megabytes(fresh.pid)
        self.row("idle agent, one account", "MB RSS", memory, "≤ 25 MB", met=memory <= 25)
        fresh.stop()

    def postfix(self, what: str, send: Callable[[Postfix], None], instances: dict[str, Postfix]) -> dict[str, float]:
        """Mails a second through each Postfix, from the first submission to the last status=sent."""
        rates = {}
        for name, instance in instances.items():
            lines = lambda instance=instance: instance.log().count("status=sent")  # noqa: E731
            before = lines()
            begin = time.perf_counter()
            send(instance)
            wait_for(f"all mails sent by {what} {name}", lambda: lines() - before >= self.count, 600, interval=0.01)
            rates[name] = self.count / (time.perf_counter() - begin)
            instance.stop()
        return rates

    def mta(self) -> None:
        """Postfix by pipe and by LMTP, against programs that do less or the same."""
        folder = self.box.dir("discard")
        self.box.run(["gcc", "-O2", "-static", "-o", folder / "discard", ROOT / "benches/discard.c"])
        sink = folder / "sink.sock"
        self.box.start("smtp-sink", ["smtp-sink", "-u", UNPRIVILEGED, "-L", f"unix:{sink}", "1000"])
        dovecot = dovecot_lmtp(self.box)
        self.bob.stop()

        def source(instance: Postfix) -> None:
            self.box.run(["smtp-source", "-s", "4", "-m", str(self.count), "-l", "4096", "-f", SENDER, "-t", RECIPIENT,
                          f"inet:127.0.0.1:{instance.port}"], timeout=600)

        def instance(name: str, route: str, socket: Path, program: Path | None = None) -> Postfix:
            settings = {"smtpd_client_connection_rate_limit": "0", "smtpd_client_connection_count_limit": "0"}
            return Postfix(self.box, name, domain="alice.example", route=route, lmtp_socket=socket,  # type: ignore[arg-type]
                           program=program, settings=settings)

        agent = self.alice.lmtp_socket
        pipe = self.postfix("pipe", source, {
            "tox-transport": instance("pf-transport", "pipe", agent, self.programs / "tox-transport"),
            "discard": instance("pf-discard", "pipe", agent, folder / "discard"),
        })
        self.row("Postfix → tox-transport → durable, 4 KiB", "mails/s", pipe["tox-transport"],
                 "≥ 0.8 × a static C program that discards", rival="C discard by pipe(8)", rivals=pipe["discard"],
                 met=pipe["tox-transport"] >= 0.8 * pipe["discard"])
        lmtp = self.postfix("lmtp", source, {
            "agent": instance("pf-agent", "lmtp", agent),
            "dovecot": instance("pf-dovecot", "lmtp", dovecot),
            "sink": instance("pf-sink", "lmtp", sink),
        })
        self.row("Postfix → LMTP → durable, 4 KiB", "mails/s", lmtp["agent"], "≥ 1.2 × Dovecot LMTP → Maildir",
                 rival="Dovecot LMTP", rivals=lmtp["dovecot"], met=lmtp["agent"] >= 1.2 * lmtp["dovecot"])
        self.row("Postfix → LMTP → durable, 4 KiB", "mails/s", lmtp["agent"], "", rival="smtp-sink (stores nothing)",
                 rivals=lmtp["sink"])
        self.bob.start()

    def waiting(self, count: int) -> None:
        """A long queue for a contact that is offline."""
        self.bob.stop()
        left = count - self.alice.queued()
        load(self.alice.lmtp_socket, SENDER, RECIPIENT, [mail(n, 2048) for n in range(max(left, 0))], 16)
        self.alice.stop()
        begin = time.perf_counter()
        self.alice.start()
        started = time.perf_counter() - begin
        self.alice.wait_online()
        before, begin = cpu_seconds(self.alice.pid), time.monotonic()
        # The window that is measured, not a wait for something.
        time.sleep(20)
        cpu = (cpu_seconds(self.alice.pid) - before) / (time.monotonic() - begin) * 100
        what = f"{self.alice.queued():,} mails wait for an offline contact"
        self.row(f"{what}: start until it answers", "s", started, "≤ 2 s", met=started <= 2)
        memory = rss_megabytes(self.alice.pid)
        self.row(f"{what}: memory", "MB RSS", memory, "≤ 100 MB", met=memory <= 100)
        idle = next(row.ours for row in self.rows if row.unit == "% CPU")
        self.row(f"{what}: idle", "% CPU", cpu, "as with none", rival="empty queue", rivals=idle, met=cpu <= 1.2 * idle + 0.2)


def dovecot_lmtp(box: Sandbox) -> Path:
    """Dovecot's LMTP server in front of a Maildir; its socket."""
    import pwd

    account = pwd.getpwnam(UNPRIVILEGED)
    folder = box.dir("dovecot-lmtp")
    home = box.dir("dovecot-lmtp/home", user=UNPRIVILEGED)
    socket = folder / "lmtp.sock"
    (folder / "dovecot.conf").write_text(f"""protocols = lmtp
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {box.log("dovecot-lmtp-mail")}
ssl = no
first_valid_uid = 1
first_valid_gid = 1
postmaster_address = postmaster@alice.example
mail_location = maildir:{home}/Maildir
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid={account.pw_uid} gid={account.pw_gid} home={home} allow_all_users=yes
}}
service lmtp {{
  unix_listener {socket} {{
    mode = 0666
  }}
}}
""")
    process = box.start("dovecot-lmtp", ["dovecot", "-F", "-c", folder / "dovecot.conf"])
    process.wait_ready("LMTP socket", socket.is_socket)
    return socket


def line(row: Row) -> str:
    """A row of the table."""
    verdict = {True: "met", False: "NOT MET", None: ""}[row.met]
    against = f"{row.rivals:.1f} ({row.rival}), ratio {row.ratio:.2f}" if row.rivals and row.ratio else ""
    return f"{row.what:<62} {row.ours:>9.2f} {row.unit:<8} {against:<58} {row.target:<42} {verdict}"


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release")
    parser.add_argument("--count", type=int, default=2000, help="mails of each measurement")
    parser.add_argument("--waiting", type=int, default=100_000, help="mails that wait for an offline contact")
    parser.add_argument("--json", type=Path, default=ROOT / "target/bench.json")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with Sandbox("toxbench") as box:
        bench = Bench(box, options.bin, options.count)
        bench.latency()
        bench.bulk()
        bench.idle()
        bench.throughput()
        bench.mta()
        bench.waiting(options.waiting)
    rows = [{**asdict(row), "ratio": row.ratio} for row in bench.rows]
    options.json.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    print(f"written to {options.json}")


if __name__ == "__main__":
    main()
