#!/usr/bin/env python3
"""Nothing lost: kill -9, cut cables, set clocks and fill disks while mails flow between two people.

A mail counts from the moment Postfix has answered 250. At the end every one of them must be in the Maildir once, with
its body and its header fields as they were sent, and no queue may hold anything. The seed that is printed says which
mails are sent and in which order things go wrong; the moments are those of the machine.
"""

import argparse
import base64
import contextlib
import os
import queue
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rig.agent import PROGRAMS, Agent, befriend, install_programs
from rig.bootstrap import Bootstrap
from rig.disk import SmallDisk, own_mounts
from rig.mail import compare, header
from rig.netns import Network
from rig.postfix import Postfix
from rig.sandbox import RigError, Sandbox
from rig.wait import TimedOut, wait_for

KIB, MIB = 1024, 1024 * 1024
DAY = 86_400

# Kills in turn; alice and bob both send, so that each is now the sending and now the receiving one. When both were
# killed they find each other again in 9 s; after one alone was, the other one has to give up the old session first,
# which takes up to a minute. So `both` comes before each of them: they are killed while mails flow.
TURN = ("sender", "transport", "both", "receiver", "pipe", "both")

# For what takes as long as the agents need to find each other again, or the backlog to flow.
PATIENCE = 240.0

_start = time.monotonic()


def say(text: str) -> None:
    """Show a step with the time since the start."""
    print(f"[{time.monotonic() - _start:7.2f} s] {text}", flush=True)


# --- mails


def body(chance: random.Random, size: int) -> bytes:
    """About `size` octets of all that mails are made of; lines end with LF."""
    parts: list[bytes] = []
    length = 0
    while length < size:
        kind = chance.randrange(7)
        much = min(size - length, int(2 ** chance.uniform(5, 18)))
        if kind == 0:
            part = b"".join(b"The quick brown fox jumps over the lazy dog %d times.\n" % n for n in range(much // 50))
        elif kind == 1:
            part = base64.encodebytes(chance.randbytes(much * 3 // 4))
        elif kind == 2:
            part = "Grüße aus Köln, naïve Ænigma – 你好\n".encode() * (much // 50)
        elif kind == 3:
            # Any octets but those that SMTP gives a meaning.
            part = chance.randbytes(much).translate(None, b"\0\r\n") + b"\n"
        elif kind == 4:
            part = bytes(chance.choices(b"abcdefghij ", k=min(much, 9000))) + b"\n"
        elif kind == 5:
            part = b".\n..\n...\n.dots at the beginning\n. \n" + b"\n" * chance.randrange(4)
        else:
            part = b"trailing blanks   \t \nFrom here on\n>From there\n \n\t\n--\n-- \n"
        parts.append(part)
        length += len(part)
    return b"".join(parts)[: size - 1] + b"\n"


@dataclass(frozen=True)
class Plan:
    """What is to be said about a mail before it is made, so that thousands need not be kept in memory."""

    number: int
    seed: int

    @property
    def message_id(self) -> str:
        """Its Message-ID."""
        return f"<crash.{self.number}.{self.seed}@toxmail.example>"

    @property
    def to_bob(self) -> bool:
        """Whether alice sends it, or bob."""
        return self.number % 2 == 0

    @property
    def by_pipe(self) -> bool:
        """Whether it goes by tox-transport, or by LMTP."""
        return self.number // 2 % 2 == 0

    def mail(self, sender: str, recipient: str) -> bytes:
        """The mail, the same each time."""
        chance = random.Random(f"{self.seed}/{self.number}")
        size = int(KIB * 2048 ** chance.random())
        fields = (
            f"From: {sender}\nTo: {recipient}\nSubject: mail {self.number}\nDate: Mon, 05 Jan 2026 10:00:00 +0000\n"
            f"Message-ID: {self.message_id}\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n"
            f"Content-Transfer-Encoding: 8bit\nX-Long-Field: {'word ' * 12}\n\tfolded  \nX-Empty:\n\n"
        )
        return fields.encode() + body(chance, size)


# --- the two sides


class Log:
    """What an agent's log has told since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self.link = False
        self.delivered = 0
        self.expired: list[str] = []
        self.deferred: Counter[str] = Counter()

    def look(self) -> None:
        """Take in what is new."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = self._rest + file.read()
            self._offset = file.tell()
        *lines, self._rest = data.split(b"\n")
        for raw in lines:
            line = raw.decode(errors="replace")
            if "mail link with" in line:
                self.link = line.rstrip().endswith("is up")
            elif "delivered to mailbox" in line:
                self.delivered += 1
            elif found := re.search(r"status=deferred \((.*)\), mta=", line):
                self.deferred[found.group(1)] += 1
            elif "status=expired" in line or "status=bounced" in line:
                self.expired.append(line)
            elif " starts, libtoxcore " in line:
                self.link = False

    def __contains__(self, words: str) -> bool:
        return words.encode() in self._path.read_bytes()


@dataclass
class Side:
    """An agent and its Postfix."""

    agent: Agent
    postfix: Postfix
    sender: str
    log: Log
    # Numbers of the mails that Postfix has answered for, and their queue ids.
    accepted: dict[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Whose it is."""
        return self.agent.name


class Load:
    """Submits mails in threads of its own, as many as it is told to."""

    def __init__(self, sides: tuple[Side, Side], recipients: Callable[[Plan], str], seed: int) -> None:
        self._sides = sides
        self._recipients = recipients
        self._seed = seed
        self._todo: list[queue.Queue[Plan | None]] = [queue.Queue(), queue.Queue()]
        self.released = 0
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(side, number), daemon=True)
            for side in (0, 1)
            for number in range(2)
        ]
        for thread in self._threads:
            thread.start()

    def release(self, count: int) -> None:
        """So many mails more."""
        for _ in range(count):
            plan = Plan(self.released, self._seed)
            self.released += 1
            self._todo[0 if plan.to_bob else 1].put(plan)

    @property
    def accepted(self) -> int:
        """How many mails Postfix has answered for."""
        if self._failure is not None:
            raise RigError(f"a mail could not be submitted: {self._failure!r}")
        return sum(len(side.accepted) for side in self._sides)

    def drain(self) -> None:
        """Wait until everything released was submitted."""
        wait_for("end of the submissions", lambda: self.accepted == self.released, PATIENCE)

    def stop(self) -> None:
        """End the threads."""
        for todo in self._todo:
            for _ in self._threads:
                todo.put(None)
        for thread in self._threads:
            thread.join(60)

    def _run(self, number: int, thread: int) -> None:
        side, todo = self._sides[number], self._todo[number]
        chance = random.Random(f"{self._seed}/{number}/{thread}")
        while (plan := todo.get()) is not None:
            try:
                recipient = self._recipients(plan)
                side.accepted[plan.number] = side.postfix.smtp(
                    side.sender, [recipient], plan.mail(side.sender, recipient)
                )
            except BaseException as error:
                self._failure = error
                return
            # Not a wait for anything: spreads the load over the time.
            time.sleep(chance.expovariate(1 / 0.02))


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def command(pid: int) -> str:
    """Its short name."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def settings(min_free: str) -> dict[str, dict[str, str]]:
    """Of the agents: what failed is tried again at once."""
    return {"queue": {"retry_min": "1s", "retry_max": "3s"}, "delivery": {"min_free": min_free}}


class Crash:
    """The suite."""

    def __init__(self, box: Sandbox, binaries: Path, *, mails: int, kills: int, seed: int) -> None:
        self.box = box
        self.chance = random.Random(seed)
        self.seed = seed
        self.mails = mails
        self.wanted = kills
        self.kills: Counter[str] = Counter()
        self.flowing = 0
        self.problems: list[str] = []
        self.network = Network(box)
        bootstrap = Bootstrap(box, host=self.network.hub_address, netns=self.network.hub)
        programs = install_programs(box, binaries)
        self.alice, self.bob = (self._side(name, bootstrap, programs) for name in ("alice", "bob"))
        self.sides = (self.alice, self.bob)
        self._names = {side.name: f"{_base32(side.agent.key)}@tox.alt" for side in self.sides}
        for side, other in (self.sides, self.sides[::-1]):
            with (side.postfix.etc / "tox_transport").open("a") as table:
                table.write(f"{self._names[other.name]}  tox:\n")
            side.postfix.start()
        befriend(self.alice.agent, self.bob.agent)
        self.load = Load(self.sides, self._recipient, seed)

    def _side(self, name: str, bootstrap: Bootstrap, programs: Path) -> Side:
        sender = f"{name}@{name}.example"
        agent = Agent(
            self.box,
            name,
            binaries=programs,
            bootstrap=bootstrap,
            addresses=[f"{name}@tox.example"],
            senders=[sender],
            netns=self.network.join(name),
            settings=settings(min_free="1 MiB"),
        )
        postfix = Postfix(
            self.box,
            f"{name}-postfix",
            domain=f"{name}.example",
            lmtp_socket=agent.lmtp_socket,
            program=programs / "tox-transport",
            # What was deferred is tried again at once; a route that broke is not left alone for a minute.
            settings={
                "queue_run_delay": "2s",
                "minimal_backoff_time": "2s",
                "maximal_backoff_time": "3s",
                "transport_retry_time": "2s",
            },
            start=False,
        )
        return Side(agent, postfix, sender, Log(agent.log_path))

    def _recipient(self, plan: Plan) -> str:
        name = "bob" if plan.to_bob else "alice"
        return self._names[name] if plan.by_pipe else f"{name}@tox.alt"

    # --- waiting

    def look(self) -> None:
        """Take in the logs; whoever was not killed must live."""
        for side in self.sides:
            side.log.look()
        assert self.load.accepted >= 0

    def delivered(self) -> int:
        """How many mails the agents say they have put into Maildirs."""
        self.look()
        return sum(side.log.delivered for side in self.sides)

    def linked(self) -> bool:
        """Whether both sides have their mail link."""
        self.look()
        for side in self.sides:
            side.agent.require_alive()
        return all(side.log.link for side in self.sides)

    def wait_link(self) -> None:
        """Wait for the mail link."""
        wait_for("mail link", self.linked, PATIENCE)

    def wait_flow(self, count: int = 1, timeout: float = PATIENCE) -> None:
        """Wait until so many more mails were delivered."""
        before = self.delivered()
        goal = before + count
        look_again = time.monotonic() + 3

        def flowed() -> bool:
            nonlocal before, look_again
            now = self.delivered()
            if now < goal and time.monotonic() > look_again:
                # Nothing is left to flow: all was there before, or a crash took the log line of a delivery with it.
                if now == before and self.linked() and self.load.accepted == self.load.released:
                    self.load.release(min(goal - now, 8))
                before, look_again = now, time.monotonic() + 3
            return now >= goal

        wait_for("delivery of further mails", flowed, timeout)

    def moment(self, most: float) -> None:
        """Not a wait for anything: the moment of what comes next is what is varied."""
        time.sleep(most * self.chance.random() ** 2)

    # --- kills

    def kill(self, *sides: Side, kind: str) -> None:
        """kill -9 for agents, which are started again at once."""
        for side in sides:
            side.agent.kill()
        self.kills[kind] += 1
        for side in sides:
            side.agent.start()
            side.postfix.flush()

    def snipe(self, kind: str, timeout: float = 5.0) -> bool:
        """kill -9 for a tox-transport at work, or for the pipe process that started it."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            pipes = [pid for side in self.sides for pid in children(side.postfix.pid) if command(pid) == "pipe"]
            again = time.monotonic() + 0.1
            while time.monotonic() < again:
                for pipe in pipes:
                    for transport in children(pipe):
                        if self._shoot(pipe if kind == "pipe" else transport, kind):
                            return True
        return False

    def _shoot(self, pid: int, kind: str) -> bool:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            time.sleep(self.chance.choice((0.0, 0.001, 0.005, 0.02)) * self.chance.random())
            # The name is that of the program only after exec; a dead process that nobody has looked after keeps it.
            if command(pid) != ("pipe" if kind == "pipe" else "tox-transport") or " Z " in _stat(pid):
                return False
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        self.kills[kind] += 1
        return True

    def one_kill(self, kind: str, mails: int) -> None:
        """A kill of the turn while mails flow."""
        self.load.release(mails)
        if kind in ("transport", "pipe"):
            while not self.snipe(kind):
                self.load.release(4)
            return
        pair = self.chance.sample(self.sides, 2)
        # Mostly while mails flow, and now and then before the agents have found each other again.
        patience = self.chance.uniform(1, 12) if kind == "both" else 30
        with contextlib.suppress(TimedOut):
            wait_for("mail link", self.linked, patience)
            self.wait_flow(timeout=10)
            self.flowing += 1
            self.moment(0.4)
        if kind == "both":
            self.kill(*pair, kind=kind)
        else:
            self.kill(pair[0], kind=kind)
        # Whoever waits for the agent meets trouble of its own.
        for other in ("transport", "pipe"):
            if self.chance.random() < 0.5:
                self.snipe(other, timeout=0.5)

    # --- what else goes wrong

    def cut_short(self, mails: int) -> None:
        """A cable is out for 5 s: the session survives it."""
        self.wait_link()
        self.load.release(mails)
        self.wait_flow()
        side = self.chance.choice(self.sides)
        self.network.cut(side.name)
        # Not a wait for anything: how long the cable is out is what is tested.
        time.sleep(5)
        self.network.restore(side.name)
        self.wait_flow(mails // 2)
        self.look()
        say(f"cable of {side.name} out for 5 s, link still up: {self.linked()}")

    def cut_long(self, mails: int) -> None:
        """A cable is out for so long that the sessions die."""
        self.wait_link()
        self.load.release(mails)
        self.wait_flow()
        side = self.chance.choice(self.sides)
        out = time.monotonic()
        self.network.cut(side.name)
        wait_for("end of the link", lambda: (self.look(), not any(s.log.link for s in self.sides))[1], PATIENCE)
        wait_for("35 s without cable", lambda: time.monotonic() - out > 35, 60)
        self.network.restore(side.name)
        self.wait_link()
        self.wait_flow(mails // 2)
        say(f"cable of {side.name} out for {time.monotonic() - out:.0f} s")

    def clocks(self, mails: int) -> None:
        """The clocks of both are set forward and back, by more than mails live."""
        files = {side.name: self.box.path / f"{side.name}-clock" for side in self.sides}

        def step(days: int, *sides: Side) -> None:
            for side in sides:
                new = files[side.name].with_suffix(".new")
                new.write_text(f"{days * DAY:+d}\n")
                new.rename(files[side.name])

        step(0, *self.sides)
        for side in self.sides:
            side.agent.env = {
                "LD_PRELOAD": "/usr/$LIB/faketime/libfaketimeMT.so.1",
                "FAKETIME_TIMESTAMP_FILE": str(files[side.name]),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "NO_FAKE_STAT": "1",
            }
        self.kill(*self.sides, kind="both")
        self.wait_link()
        for days in (3, 0, -3):
            step(days, *self.sides)
            self.load.release(mails // 5)
            self.wait_flow(mails // 5)
        step(0, *self.sides)
        self.wait_flow()
        # Beyond the five days after which a mail is given up, while the recipient is away; then a restart there.
        bob, alice = self.chance.sample(self.sides, 2)
        bob.agent.stop()
        told = "s ahead of the queue's"
        self.load.release(mails // 5)
        wait_for("mail that waits", alice.agent.queued, PATIENCE)
        step(10, *self.sides)
        wait_for("word of the step", lambda: told in alice.log, PATIENCE)
        alice.agent.kill()
        self.kills["sender"] += 1
        alice.agent.start()
        alice.postfix.flush()
        self.load.release(mails // 5)
        waiting = alice.agent.queued()
        if waiting == 0:
            self.problems.append("the clock was set, and nothing waits any more")
        bob.agent.start()
        bob.postfix.flush()
        self.wait_link()
        self.wait_flow(waiting // 2 + 1)
        step(0, *self.sides)
        self.wait_flow()
        for side in self.sides:
            side.agent.env = {}
        self.kill(*self.sides, kind="both")
        say("clocks set by +3, -3, -3, +3, +10 and -10 days")

    def disks(self, mails: int) -> None:
        """The disks of Maildir and queue fill up, and are emptied again."""
        self.stop_agents()
        for side in self.sides:
            side.agent.configure(settings(min_free="0"))
        state = {s.name: SmallDisk(self.box, s.agent.state, spare=128 * MIB) for s in self.sides}
        spare = 512 * MIB + self.mails * 400 * KIB
        maildir = {s.name: SmallDisk(self.box, s.agent.maildir, spare=spare) for s in self.sides}
        self.start_agents()
        self.wait_link()
        few = max(mails // 4, 4)
        receiver, sender = self.chance.sample(self.sides, 2)
        for side, other, disks, what in (
            (receiver, sender, maildir, "Maildir"),
            (receiver, sender, state, "queue"),
            (sender, receiver, state, "queue"),
        ):
            disk = disks[side.name]
            self.load.release(few)
            self.wait_flow()
            before = self._full(other)
            refused = _refusals(side.postfix)
            fill = partial(disk.fill, self.chance.randrange(300 * KIB))
            fill()
            self.load.release(few)
            self._until(f"word of {side.name}'s full disk", lambda: self._full(other) > before, fill)
            if what == "queue":
                self._until(f"refusal by {side.name}", lambda: _refusals(side.postfix) > refused, fill)
            if self.chance.random() < 0.5:
                # It may not even start on a full disk.
                self.stop_agents()
                disk.empty()
                self.start_agents()
            else:
                disk.empty()
            side.postfix.flush()
            self.wait_link()
            self.wait_flow(few // 2)
            say(f"{what} of {side.name} on a full disk: {self._full(other) - before} mails deferred by {other.name}")
        # Refused in good time: nothing is taken while less than this is free.
        self.stop_agents()
        for side in self.sides:
            side.agent.configure(settings(min_free="64 MiB"))
        self.start_agents()
        self.wait_link()
        nearly = "the recipient's disk is nearly full"
        before = sender.log.deferred[nearly]
        fill = partial(maildir[receiver.name].fill, 32 * MIB)
        fill()
        self.load.release(few)
        self._until(
            f"refusal by {receiver.name}", lambda: (self.look(), sender.log.deferred[nearly] > before)[1], fill
        )
        maildir[receiver.name].empty()
        self.wait_flow(few // 2)
        say(f"Maildir of {receiver.name} on a nearly full disk: {sender.log.deferred[nearly] - before} mails deferred")
        self.stop_agents()
        for side in self.sides:
            side.agent.configure(settings(min_free="1 MiB"))
        for disk in (*state.values(), *maildir.values()):
            disk.unmount()
        self.start_agents()

    def _full(self, side: Side) -> int:
        """How many mails of this side were refused because of a full disk."""
        self.look()
        return side.log.deferred["the recipient's disk is full"]

    def _until(self, what: str, probe: Callable[[], bool], fill: Callable[[], None]) -> None:
        """Wait for a refusal, and until it comes send more and take what delivered mails have left of the disk."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                wait_for(what, probe, 3)
                return
            except TimedOut:
                if time.monotonic() > end:
                    raise TimedOut(f"no {what} within {PATIENCE:.0f} s") from None
                fill()
                self.load.release(8)

    def stop_agents(self) -> None:
        """kill -9 for both."""
        for side in self.sides:
            side.agent.kill()
        self.kills["both"] += 1

    def start_agents(self) -> None:
        """Start both."""
        for side in self.sides:
            side.agent.start()
            side.postfix.flush()

    # --- the whole

    def run(self) -> bool:
        """All of it; whether nothing was lost."""
        faults: list[Callable[[int], None]] = [self.cut_short, self.cut_long, self.clocks, self.disks]
        faults *= max(1, self.wanted // 100)
        # A third of the mails for the faults, two for the kills.
        share = max(10, self.mails // 3 // len(faults))
        quota = max(2, self.mails * 2 // 3 // self.wanted)
        every = max(1, self.wanted // (len(faults) + 1))
        for number in range(self.wanted):
            if number % every == every - 1 and faults:
                self.step(faults.pop(0), share)
            self.one_kill(TURN[number % len(TURN)], quota)
            if number % 5 == 4:
                say(self.line())
        for fault in faults:
            self.step(fault, share)
        self.load.release(max(0, self.mails - self.load.released))
        self.load.drain()
        self.load.stop()
        self.wait_link()
        self.settle()
        # Whatever a start finishes of what a crash interrupted has to be right, too.
        self.kill(*self.sides, kind="both")
        self.wait_link()
        self.settle()
        return self.verify()

    def step(self, fault: Callable[[int], None], mails: int) -> None:
        """One of the faults."""
        fault(mails)
        say(self.line())

    def line(self) -> str:
        """Where we are."""
        return f"{self.load.accepted} mails accepted, {self.delivered()} delivered, {sum(self.kills.values())} kills"

    def settle(self) -> None:
        """Wait until no queue holds anything."""
        flushed = 0.0

        def empty() -> bool:
            nonlocal flushed
            if time.monotonic() - flushed > 2:
                flushed = time.monotonic()
                for side in self.sides:
                    side.postfix.flush()
            return self.linked() and all(s.agent.queued() == 0 and not s.postfix.queue() for s in self.sides)

        try:
            wait_for("empty queues", empty, PATIENCE + self.mails / 10, interval=0.2)
        except TimedOut as error:
            self.problems.append(str(error))
            for side in self.sides:
                self.problems.append(f"{side.name}: {side.agent.ctl('queue', 'list')}")
                self.problems += [f"{side.name}: Postfix: {entry}" for entry in side.postfix.queue()]

    def verify(self) -> bool:
        """Compare what was accepted with what is there."""
        self.look()
        lost = doubled = truncated = 0
        for side, other in (self.sides, self.sides[::-1]):
            found = _by_message_id(other.agent.maildir)
            for number in side.accepted:
                plan = Plan(number, self.seed)
                paths = found.pop(plan.message_id, [])
                lost += not paths
                doubled += len(paths) > 1
                sent = plan.mail(side.sender, self._recipient(plan))
                bad = [path for path in paths if not (same := compare(sent, path.read_bytes())).intact]
                truncated += bool(bad)
                if len(paths) != 1 or bad:
                    self.problems.append(
                        f"mail {number} of {side.name} ({len(sent)} octets, Postfix {side.accepted[number]}): "
                        f"{len(paths)} times in the Maildir{f', differs: {same}' if bad else ''}\n" + self._story(plan)
                    )
            self.problems += [f"nobody sent {what}: {paths}" for what, paths in found.items()]
            self.problems += [f"left over: {path}" for path in (side.agent.maildir / "tmp").iterdir()]
            self.problems += [f"left over: {path}" for path in (side.agent.state / "bodies").iterdir()]
            self.problems += [f"bounced: {path}" for path in side.postfix.inbox.rglob("*") if path.is_file()]
            self.problems += side.log.expired
        for problem in self.problems:
            print(problem, flush=True)
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kills.items())
        say(f"kills: {kinds}; {self.flowing} of those of agents while mails were being delivered")
        print(
            f"crash: {self.load.accepted} mails accepted, {sum(self.kills.values())} kills, "
            f"{lost} lost, {doubled} doubled, {truncated} truncated",
            flush=True,
        )
        return not self.problems

    def _story(self, plan: Plan) -> str:
        """What the logs say about a mail."""
        side = self.alice if plan.to_bob else self.bob
        words = {side.accepted[plan.number], plan.message_id}
        for _ in range(2):  # what the first look finds leads to further lines
            for line in list(_lines(side.agent.log_path, words)):
                words |= set(re.findall(r"\b[0-9A-V]{16}\b", line)) | set(re.findall(r"\b[0-9a-f]{32}\b", line))
        logs = [side.postfix.log_path, self.alice.agent.log_path, self.bob.agent.log_path]
        return "\n".join(f"  {log.name}: {line}" for log in logs for line in _lines(log, words))


def _base32(key: str) -> str:
    return base64.b32encode(bytes.fromhex(key)).decode().lower().rstrip("=")


def _stat(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return " Z "


def _refusals(postfix: Postfix) -> int:
    """How often the agent told Postfix that a disk is full."""
    return len(re.findall(r"status=deferred \(.*(?:disk of tox-agent's queue is full|4\.3\.1)", postfix.log()))


def _lines(path: Path, words: set[str]) -> Iterator[str]:
    with path.open(errors="replace") as file:
        yield from (line.rstrip() for line in file if any(word in line for word in words))


def _by_message_id(maildir: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for folder in ("new", "cur"):
        for path in (maildir / folder).iterdir():
            with path.open("rb") as file:
                found.setdefault(header(file.read(65536), "Message-ID") or path.name, []).append(path)
    return found


def main() -> int:
    """Command line."""
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description="Nothing lost, whatever happens.")
    parser.add_argument("--mails", type=int, default=300, help="at least so many")
    parser.add_argument("--kills", type=int, default=30, help="at least so many")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--bin", type=Path, default=root / "target/release", help="folder of the programs")
    parser.add_argument("--keep", action="store_true", help="keep the folder with all logs and Maildirs")
    options = parser.parse_args()
    print(f"crash: --mails {options.mails} --kills {options.kills} --seed {options.seed}", flush=True)
    if os.geteuid() != 0:
        print("crash: must be run as root: for Postfix, mounts and network namespaces")
        return 1
    if absent := [name for name in PROGRAMS if not (options.bin / name).is_file()]:
        print(f"crash: {', '.join(absent)} not in {options.bin}: run cargo build --release")
        return 1
    own_mounts()
    good = False
    with Sandbox("crash", keep=options.keep, out=sys.stdout) as box:
        good = Crash(box, options.bin, mails=options.mails, kills=options.kills, seed=options.seed).run()
        if not good:
            raise SystemExit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
