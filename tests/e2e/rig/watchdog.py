"""Ends the processes of a rig that was itself ended by kill -9. Reads `+PID` and `-PID` lines from standard input.

PR_SET_PDEATHSIG would be simpler, but Postfix's master changes its effective user for a moment, which clears it.
"""

import contextlib
import os
import signal
import sys
import time


def started(pid: int) -> str:
    """When a process was started, in the kernel's ticks; nothing if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def main() -> None:
    """Until the end of input: remember. Then: SIGTERM for who is left, and SIGKILL for the group of who ignores it."""
    known: dict[int, str] = {}
    for line in sys.stdin:
        pid = int(line[1:])
        if line[0] == "+":
            known[pid] = started(pid)
        else:
            known.pop(pid, None)
    # Numbers are used again: only who was started when we were told of it is meant.
    left = [pid for pid, start in known.items() if start and started(pid) == start]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in reversed(left):
            with contextlib.suppress(ProcessLookupError):
                # Each is the leader of a group; Postfix's and Dovecot's masters end their own children in good order.
                (os.kill if number == signal.SIGTERM else os.killpg)(pid, number)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and any(os.path.exists(f"/proc/{pid}") for pid in left):
            time.sleep(0.02)


if __name__ == "__main__":
    main()
