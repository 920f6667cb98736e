"""A small disk in the place of a folder, to be filled and emptied again."""

import ctypes
import os
import shutil
from pathlib import Path

from rig.sandbox import RigError, Sandbox

_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_SLAVE = 0x4000, 1 << 19


def own_mounts() -> None:
    """From here on this process and its children have mounts of their own, which end with the last of them."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0 or libc.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None) != 0:
        raise RigError(f"no mounts of our own: {os.strerror(ctypes.get_errno())}")


class SmallDisk:
    """A tmpfs over `folder`, with what was in it, until `unmount`. Nobody may use the folder meanwhile."""

    def __init__(self, sandbox: Sandbox, folder: Path, *, spare: int) -> None:
        self.folder = folder
        self._sandbox = sandbox
        self._beside = folder.with_name(f"{folder.name}.beside")
        self._ballast = folder / "ballast"
        used = sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
        owner = folder.stat()
        folder.rename(self._beside)
        folder.mkdir()
        options = f"size={used + spare},mode=0700,uid={owner.st_uid},gid={owner.st_gid}"
        sandbox.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder])
        sandbox.run(["cp", "-a", f"{self._beside}/.", folder], timeout=600)

    @property
    def free(self) -> int:
        """Free octets."""
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize

    def fill(self, leave: int) -> None:
        """Take all but `leave` octets."""
        file = os.open(self._ballast, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            while (more := self.free - leave) > 0:
                # Somebody else may take of it at the same time, and then nothing of what was asked for is given.
                while more > 0:
                    try:
                        os.posix_fallocate(file, os.fstat(file).st_size, more)
                        break
                    except OSError:
                        more //= 2
                if more == 0:
                    return
        finally:
            os.close(file)

    def empty(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Put everything back to where it was."""
        self.empty()
        shutil.rmtree(self._beside)
        self._sandbox.run(["cp", "-a", self.folder, self._beside], timeout=600)
        self._sandbox.run(["umount", self.folder])
        self.folder.rmdir()
        self._beside.rename(self.folder)
