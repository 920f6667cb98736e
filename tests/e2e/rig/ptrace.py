"""Hanging one thread of a process, whose other threads go on."""

import ctypes
import os
import threading
from pathlib import Path

from rig.sandbox import RigError

_SEIZE, _INTERRUPT = 0x4206, 0x4207
_WALL = 0x40000000


class HungThread:
    """The thread called `name` of process `pid` stands still until the process is killed."""

    def __init__(self, pid: int, name: str) -> None:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        found = [int(task.name) for task in tasks if (task / "comm").read_text().rstrip("\n") == name]
        if len(found) != 1:
            raise RigError(f"process {pid} has {len(found)} threads called {name!r}")
        self._tid = found[0]
        self._stopped = threading.Event()
        self._error = 0
        # Only the thread that traces may wait; and it must, or the process's end would not be seen by its parent.
        self._tracer = threading.Thread(target=self._trace, daemon=True)
        self._tracer.start()
        self._stopped.wait(10)
        if self._error or not self._stopped.is_set():
            raise RigError(f"cannot stop thread {name!r}: {os.strerror(self._error)}")

    def wait_end(self, timeout: float = 60.0) -> None:
        """Wait until the process has ended."""
        self._tracer.join(timeout)
        if self._tracer.is_alive():
            raise RigError(f"thread {self._tid} still stands there")

    def _trace(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        libc.ptrace.restype = ctypes.c_long
        for request in (_SEIZE, _INTERRUPT):
            if libc.ptrace(request, self._tid, None, None) != 0:
                self._error = ctypes.get_errno()
                self._stopped.set()
                return
        while True:
            _, status = os.waitpid(self._tid, _WALL)
            if not os.WIFSTOPPED(status):
                return
            self._stopped.set()
