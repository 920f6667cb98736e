"""A machine booted by systemd, from an overlay of this one, in namespaces of its own; and an agent run as its service.

systemd need not be what runs the tests' own machine. What is changed in there is gone with it.
"""

import re
import subprocess
from pathlib import Path

from rig.agent import PROGRAMS, Agent, ToxctlError
from rig.sandbox import Process, RigError, Sandbox, descendants
from rig.wait import wait_for

UNITS = Path(__file__).resolve().parents[3] / "systemd"

# In a mount namespace of its own, and outside of all others: it waits for the machine's end and removes its cgroup.
_OUTSIDE = r"""
set -eu
work=$1 netns=$2
mount -t cgroup2 cgroup2 "$work"
own=$work$(sed -n 's/^0:://p' /proc/self/cgroup)
remove() { find "$1" -depth -type d -exec rmdir {} + 2>/dev/null; }
for left in "$own"/toxmail-*; do
    [ ! -d "$left" ] || kill -0 "${left##*-}" 2>/dev/null || remove "$left" || true
done
# Before there is a namespace of cgroups: systemd must not find the host's groups at its root.
box=$own/toxmail-$$
mkdir "$box"
echo $$ >"$box/cgroup.procs"
child=
trap '[ -z "$child" ] || kill -KILL $child' TERM INT HUP
if [ -n "$netns" ]; then enter="nsenter --net=$netns unshare"; else enter="unshare --net"; fi
$enter --mount --uts --ipc --pid --cgroup --fork --kill-child sh -eu -c "$3" boot "$work" &
child=$!
rc=0
wait $child || rc=$?
wait $child 2>/dev/null || true
echo $$ >"$own/cgroup.procs" || true
for _ in $(seq 100); do
    remove "$box" && break
    sleep 0.05
done
exit $rc
"""

# Process 1 of the machine, until it becomes systemd.
_INSIDE = r"""
work=$1
mount -t tmpfs -o mode=755 tmpfs "$work"
cd "$work"
mkdir upper work root
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root
cd root
mount -t proc proc proc
# What is set there is set for the whole host.
mount --bind -o ro proc/sys proc/sys
[ ! -e proc/sysrq-trigger ] || mount --bind -o ro proc/sysrq-trigger proc/sysrq-trigger
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do
    touch dev/$node
    mount --bind /dev/$node dev/$node
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
# Of the services of this machine none starts: a fresh installation has what belongs to systemd.
find etc/systemd/system -mindepth 1 -name '*.wants' -type d -exec rm -r {} +
ln -s /dev/null etc/systemd/system/systemd-modules-load.service
rm -f etc/fstab usr/sbin/policy-rc.d
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
echo machine >etc/hostname
mkdir old
pivot_root . old
umount -l old
rmdir old
# Otherwise no service can read its credentials.
mount --make-rshared /
exec env -i container=toxmail PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=basic.target --show-status=no
"""

_ENVIRONMENT = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]


class Machine:
    """Boots when made, and is switched off with the sandbox. `netns` is a network namespace (`rig.netns`) to be in;
    without, it has a net of its own with nothing but a loopback.
    """

    def __init__(self, sandbox: Sandbox, name: str = "machine", *, netns: str | None = None) -> None:
        self._sandbox = sandbox
        self._journal = sandbox.log(f"{name}-journal")
        net = f"/run/netns/{netns}" if netns is not None else ""
        command = ["unshare", "--mount", "sh", "-c", _OUTSIDE, name, sandbox.dir(name), net, _INSIDE]
        self._process: Process = sandbox.start(name, command)
        sandbox.on_close(self._keep_journal)
        self._process.wait_ready("process 1", self._find_init)
        self._process.wait_ready("end of the boot", lambda: self.state() in ("running", "degraded"))

    def state(self) -> str:
        """What `systemctl is-system-running` says."""
        return self.run("systemctl", "is-system-running", check=False).stdout.decode().strip()

    def run(
        self,
        *command: str | Path,
        stdin: bytes = b"",
        timeout: float = 60.0,
        check: bool = True,
        user: str | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command in there to its end, as root or `user`; raise with its words unless it succeeds."""
        return self._sandbox.run(self.inside(*command, user=user), stdin=stdin, timeout=timeout, check=check)

    def inside(self, *command: str | Path, user: str | None = None) -> list[str | Path]:
        """The command that runs `command` in there, for `Sandbox.start` and the like."""
        words: list[str | Path] = ["nsenter", f"--target={self.init}", "--mount", "--uts", "--ipc", "--net", "--pid"]
        words += [*_ENVIRONMENT, *(["runuser", "-u", user, "--"] if user is not None else []), *command]
        return words

    def systemctl(self, *words: str) -> str:
        """What `systemctl WORDS` prints; it must succeed."""
        return self.run("systemctl", *words).stdout.decode()

    def property(self, unit: str, name: str) -> str:
        """A property of a unit, as in `ActiveState`, `MainPID`, `NRestarts`, `StatusText`."""
        return self.systemctl("show", "--value", f"--property={name}", unit).strip()

    def wait_property(self, unit: str, name: str, value: str, timeout: float = 60.0) -> None:
        """Wait until a property of a unit matches the regular expression `value`."""

        def probe() -> bool:
            return re.fullmatch(value, self.property(unit, name)) is not None

        self._process.wait_ready(f"{name}={value} of {unit}", probe, timeout)

    def journal(self, *words: str) -> str:
        """What the journal has: `journal("-u", UNIT)`."""
        return self.run("journalctl", "--no-pager", "-o", "short-monotonic", *words).stdout.decode(errors="replace")

    def write(
        self, path: str, content: str | bytes, *, mode: int = 0o644, owner: str = "root", group: str = ""
    ) -> None:
        """Put a file there, and its folders where they are missing."""
        octets = content.encode() if isinstance(content, str) else content
        install = ["install", "-D", f"--mode={mode:o}", f"--owner={owner}", f"--group={group or owner}"]
        self.run(*install, "/dev/stdin", path, stdin=octets)

    def copy(self, source: Path, path: str, *, mode: int = 0o644) -> None:
        """Put a copy of a file of this machine there."""
        self.write(path, source.read_bytes(), mode=mode)

    def read(self, path: str) -> bytes:
        """What is in a file there."""
        return self.run("cat", path).stdout

    def path(self, path: str) -> Path:
        """A path of the machine as it is reached from outside. Symbolic links with an absolute target lead astray."""
        return Path(f"/proc/{self.init}/root{path}")

    def exists(self, path: str) -> bool:
        """Whether there is something at this path."""
        return self.run("test", "-e", path, check=False).returncode == 0

    def host_pid(self, pid: int) -> int:
        """The process id that a process of the machine has outside."""
        for process in descendants([self._process.pid]):
            if _ns_pids(process)[1:] == [pid]:
                return process
        raise RigError(f"the machine has no process {pid}")

    def require_alive(self) -> None:
        """Raise, with what it said last, if it has ended."""
        self._process.require_alive()

    def poweroff(self) -> None:
        """Switch it off in good order, and wait until it is."""
        self._keep_journal()
        self.run("systemctl", "poweroff", check=False)
        wait_for("end of the machine", lambda: not self._process.alive(), 60)

    def _find_init(self) -> bool:
        for process in descendants([self._process.pid]):
            if _ns_pids(process)[1:] == [1] and _program(process) == "systemd":
                self.init = process
                return True
        return False

    def _keep_journal(self) -> None:
        if self._process.alive():
            self._journal.write_text(self.journal())


class ServiceAgent(Agent):
    """The agent of a unit in a machine, as far as toxctl and the service manager reach."""

    def __init__(
        self, machine: Machine, name: str, unit: str, *, control: str = "/run/tox-agent/control.sock"
    ) -> None:
        # Nothing of Agent's own: systemd starts it, and its files are the machine's.
        self.name = name
        self.unit = unit
        self._machine = machine
        self._control = control

    def ctl(self, *args: str) -> str:
        """What `toxctl ARGS` prints."""
        done = self._machine.run("toxctl", "--socket", self._control, *args, check=False)
        if done.returncode != 0:
            words = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise ToxctlError(f"{self.name}: toxctl {' '.join(args)} ended with status {done.returncode}: {words}")
        return done.stdout.decode()

    def require_alive(self) -> None:
        """Raise if the machine has ended; its systemd looks after the agent."""
        self._machine.require_alive()


def install(machine: Machine, binaries: Path) -> None:
    """Put programs and units where a package would."""
    for program in PROGRAMS:
        machine.copy(binaries / program, f"/usr/bin/{program}", mode=0o755)
    for unit in UNITS.glob("tox-agent*.*"):
        if unit.suffix in (".service", ".socket"):
            machine.copy(unit, f"/usr/lib/systemd/system/{unit.name}")
    machine.copy(UNITS / "tox-agent.sysusers", "/usr/lib/sysusers.d/tox-agent.conf")
    machine.copy(UNITS / "tox-agent.tmpfiles", "/usr/lib/tmpfiles.d/tox-agent.conf")
    machine.run("systemd-sysusers", "tox-agent.conf")
    machine.run("systemd-tmpfiles", "--create", "tox-agent.conf")
    machine.systemctl("daemon-reload")


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _ns_pids(pid: int) -> list[int]:
    """Its process ids, from this namespace to its own."""
    try:
        found = re.search(r"^NSpid:(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return []
    return [int(word) for word in found.group(1).split()] if found else []
