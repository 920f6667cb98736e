"""A temporary folder, and the processes started in it: both are gone at the end, whatever the end is."""

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self, TextIO

from rig.wait import wait_for

_PR_SET_CHILD_SUBREAPER = 36
_TAIL = 4000

# Who the programs under test run as. Never root: Postfix and Dovecot refuse to act as root.
UNPRIVILEGED = "nobody"


class RigError(Exception):
    """The rig cannot do what it was asked for."""


class Process:
    """A process of its own session, its output in a log file."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        log: Path,
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        talk: bool = False,
    ) -> None:
        self.name = name
        self.log = log
        account = pwd.getpwnam(user) if user is not None else None
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                env={**os.environ, **(env or {})},
                cwd=cwd,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        if self._popen.stdin is None:
            raise RigError(f"{self.name} was not started to be talked to")
        self._popen.stdin.write(f"{line}\n".encode())
        self._popen.stdin.flush()

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    def require_alive(self) -> None:
        """Raise, with what it said last, if it has ended."""
        if not self.alive():
            raise RigError(f"{self.name} ended with status {self._popen.returncode}:\n{tail(self.log)}")

    def wait_ready(self, what: str, probe: Callable[[], bool], timeout: float = 60.0) -> None:
        """Wait until `probe` is true; raise at once if the process ends instead."""

        def step() -> bool:
            self.require_alive()
            return probe()

        wait_for(f"{what} of {self.name}", step, timeout)

    def stop(self, timeout: float = 15.0) -> int:
        """SIGTERM, then, when it does not listen, SIGKILL. The exit status."""
        if self.alive():
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout)
        return self.kill()

    def kill(self) -> int:
        """SIGKILL to it and to all of its process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.alive():
                os.killpg(self.pid, signal.SIGKILL)
        if self._popen.stdin is not None:
            self._popen.stdin.close()
        return self._popen.wait()


class Sandbox:
    """Use as a context manager; `with` blocks of several may overlap.

    On failure the folder stays and the tails of its logs are printed.
    """

    _living = 0

    def __init__(self, name: str = "toxmail", *, keep: bool = False, out: TextIO = sys.stderr) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        self.path.chmod(0o755)
        self._keep = keep
        self._out = out
        self._processes: list[Process] = []
        self._cleanups: list[Callable[[], None]] = []
        self._logs: list[Path] = []
        self._old_handlers: dict[int, object] = {}
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", Path(__file__).with_name("watchdog.py")],
            stdin=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )

    def __enter__(self) -> Self:
        # Daemons that detach themselves become children of this process instead of init's: none can get away.
        Sandbox._living += 1
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._old_handlers[number] = signal.signal(number, _interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)

    def dir(self, name: str, *, user: str | None = None, mode: int = 0o755) -> Path:
        """A folder below the sandbox; made if needed, owned by `user`."""
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        if user is not None:
            entry = pwd.getpwnam(user)
            os.chown(path, entry.pw_uid, entry.pw_gid)
        return path

    def log(self, name: str) -> Path:
        """The path of a log file, whose tail is shown on failure."""
        path = self.dir("log") / f"{name}.log"
        if path not in self._logs:
            self._logs.append(path)
        return path

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        talk: bool = False,
    ) -> Process:
        """Start a process that is stopped with the sandbox; with `talk`, it can be told lines."""
        process = Process(name, argv, self.log(name), user=user, env=env, cwd=cwd, talk=talk)
        self._processes.append(process)
        self._tell_watchdog(f"+{process.pid}")
        return process

    def run(
        self, argv: Sequence[str | Path], *, stdin: bytes = b"", timeout: float = 60.0, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end; raise with its words unless it succeeds."""
        done = subprocess.run([str(word) for word in argv], input=stdin, capture_output=True, timeout=timeout)
        if check and done.returncode != 0:
            words = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise RigError(f"{' '.join(map(str, argv))} ended with status {done.returncode}: {words}")
        return done

    def on_close(self, action: Callable[[], None]) -> None:
        """Something to do before the processes are stopped."""
        self._cleanups.append(action)

    def close(self, *, failed: bool = False) -> None:
        """Stop what was started, newest first; remove the folder or, on failure, show the logs and keep it."""
        # A second Ctrl-C must not leave the rest running.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            previous = signal.signal(number, signal.SIG_IGN)
            self._old_handlers.setdefault(number, previous)
        try:
            for action in reversed(self._cleanups):
                with contextlib.suppress(Exception):
                    action()
            known = _descendants(process.pid for process in self._processes if process.alive())
            for process in reversed(self._processes):
                process.stop(timeout=5)
                self._tell_watchdog(f"-{process.pid}")
            self._watchdog.communicate(timeout=10)
            Sandbox._living -= 1
            _kill_rest(known, all_children=Sandbox._living == 0)
            if failed:
                self.show_logs()
            if failed or self._keep:
                print(f"kept: {self.path}", file=self._out)
            else:
                shutil.rmtree(self.path, ignore_errors=True)
        finally:
            for handled, handler in self._old_handlers.items():
                signal.signal(handled, handler)  # type: ignore[arg-type]
            self._old_handlers.clear()

    def _tell_watchdog(self, line: str) -> None:
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.write(line + "\n")
        self._watchdog.stdin.flush()

    def show_logs(self) -> None:
        """The last lines of each log."""
        for path in self._logs:
            if path.exists() and (text := tail(path)):
                print(f"==> {path} <==\n{text}", file=self._out)


def as_user(user: str, *command: str | Path) -> list[str | Path]:
    """The command, to be run as another user with no groups but his own."""
    entry = pwd.getpwnam(user)
    return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", *command]


def tail(path: Path, size: int = _TAIL) -> str:
    """The last lines of a file."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - size))
        data = file.read()
    if length > size:
        data = data[data.find(b"\n") + 1 :]
    return data.decode(errors="replace").rstrip()


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@dataclass(frozen=True)
class _Pid:
    """A process for good: its number may be given to another one, together with the time of its start it is unique."""

    number: int
    started: int


def _table() -> dict[int, list[_Pid]]:
    """All processes by their parent."""
    table: dict[int, list[_Pid]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                # The name in parentheses may contain anything, so count from its end.
                words = (entry / "stat").read_text().rpartition(")")[2].split()
                table.setdefault(int(words[1]), []).append(_Pid(int(entry.name), int(words[19])))
    return table


def _descendants(roots: Iterable[int]) -> set[_Pid]:
    table = _table()
    found: set[_Pid] = set()
    todo = list(roots)
    while todo:
        for child in table.get(todo.pop(), []):
            found.add(child)
            todo.append(child.number)
    return found


def descendants(roots: Iterable[int]) -> list[int]:
    """The ids of all processes that descend from these."""
    return [process.number for process in _descendants(roots)]


def _kill_rest(known: set[_Pid], *, all_children: bool) -> None:
    """Kill what is left of the `known` processes, and what descends from this one when no other sandbox lives."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        below = _descendants([os.getpid()])
        left = below if all_children else known & below
        if not left:
            return
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.number, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.number, os.WNOHANG)
        time.sleep(0.01)
