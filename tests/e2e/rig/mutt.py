"""mutt, driven on a pseudo-terminal of its own: it refuses to work without one."""

import fcntl
import os
import re
import select
import shlex
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path

from rig.sandbox import RigError, Sandbox

_SETTINGS = """\
unset help
unset mark_old
unset confirmappend
unset confirmcreate
unset move
unset record
unset wait_key
unset markers
unset beep
unset crypt_use_gpgme
set delete=no
set quit=yes
set suspend=no
set sendmail_wait=0
set sleep_time=0
set mbox_type=Maildir
set fast_reply=yes
set include=yes
set reply_to=yes
set reply_self=no
set abort_unmodified=no
set abort_nosubject=no
set postpone=no
set use_from=yes
set use_envelope_from=yes
set charset=utf-8
set send_charset=us-ascii:utf-8
"""


class Mutt:
    """A user's mutt; with `sendmail`, the command that submits what it composes as `sender`."""

    def __init__(
        self, sandbox: Sandbox, name: str, *, sender: str = "nobody@localhost", sendmail: Sequence[str] = ("false",)
    ) -> None:
        self.dir = sandbox.dir(name)
        self._log = sandbox.log(name)
        self._count = 0
        self.sent = self.dir / "sent"
        self._reply = self.dir / "reply"
        submit = self.dir / "submit"
        submit.write_text(f'#!/bin/sh\ncat > {self.sent} && exec {shlex.join(sendmail)} "$@" < {self.sent}\n')
        editor = self.dir / "editor"
        # The text goes above the quoted mail; the header is not in the file, as edit_headers is off.
        editor.write_text(f'#!/bin/sh\ncat {self._reply} "$1" > "$1.new" && cat "$1.new" > "$1" && rm "$1.new"\n')
        for script in (submit, editor):
            script.chmod(0o755)
        user, _, domain = sender.partition("@")
        self._rc = self.dir / "muttrc"
        self._rc.write_text(
            _SETTINGS
            + f'set from="{sender}"\nset realname="{user.capitalize()}"\nset hostname="{domain}"\n'
            + f'set sendmail="{submit}"\nset editor="{editor}"\nset tmpdir="{self.dir}"\nset folder="{self.dir}"\n'
        )

    def print_message(self, maildir: Path, message_id: str) -> str:
        """What the user sees of a mail: decoded and weeded."""
        target = self._fresh("printed")
        self._on_message(
            maildir,
            message_id,
            "<print-message>",
            f'set print=yes\nset print_decode=yes\nset print_command="cat > {target}"\n',
        )
        return target.read_text(errors="replace")

    def copy_message(self, maildir: Path, message_id: str) -> bytes:
        """A mail as mutt stores it elsewhere: the bytes of the Maildir file, as mutt reads them."""
        target = self._fresh("copied")
        self._on_message(maildir, message_id, f"<copy-message>{target}<enter>")
        copies = [path for folder in ("new", "cur") for path in (target / folder).glob("*")]
        if len(copies) != 1:
            raise RigError(f"mutt copied {len(copies)} mails with Message-ID {message_id}")
        return copies[0].read_bytes()

    def reply(self, maildir: Path, message_id: str, text: str) -> bytes:
        """Answer a mail; to whom is mutt's own reading of its header. The mail as mutt handed it to sendmail."""
        self._reply.write_text(text)
        self.sent.unlink(missing_ok=True)
        self._on_message(maildir, message_id, "<reply><send-message>")
        if not self.sent.exists():
            raise RigError(f"mutt sent nothing:\n{self._log.read_text(errors='replace')[-2000:]}")
        return self.sent.read_bytes()

    def _fresh(self, name: str) -> Path:
        self._count += 1
        return self.dir / f"{name}-{self._count}"

    def _on_message(self, maildir: Path, message_id: str, keys: str, settings: str = "") -> None:
        bare = message_id.strip("<>")
        if not re.fullmatch(r"[\w.@=-]+", bare):
            raise RigError(f"Message-ID {message_id} cannot be typed into mutt")
        self._run(maildir, f"<limit>~i {bare}<enter><first-entry>{keys}<limit>all<enter><quit>", settings)

    def _run(self, maildir: Path, keys: str, settings: str, timeout: float = 60.0) -> None:
        rc = self._fresh("muttrc")
        rc.write_text(self._rc.read_text() + settings + f"push '{keys}'\n")
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
        env = {**os.environ, "TERM": "vt100", "HOME": str(self.dir), "LC_ALL": "C.UTF-8"}
        env.pop("MAIL", None)
        try:
            process = subprocess.Popen(
                ["mutt", "-n", "-F", rc, "-f", maildir],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env=env,
                start_new_session=True,
            )
        finally:
            os.close(slave)
        try:
            screen = _drain(process, master, timeout)
        finally:
            process.kill()
            process.wait()
            os.close(master)
        with self._log.open("a") as log:
            log.write(f"--- {keys}\n{screen}\n")
        if process.returncode != 0:
            raise RigError(f"mutt ended with status {process.returncode} on {keys}:\n{screen[-2000:]}")


def _drain(process: subprocess.Popen[bytes], terminal: int, timeout: float) -> str:
    """Read the terminal until the program ends; what it showed, without the control sequences."""
    end = time.monotonic() + timeout
    shown = b""
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # EIO: the last holder of the other end is gone
                data = b""
            if not data:
                process.wait(timeout)
                break
            shown += data
        elif process.poll() is not None:
            break
    text = re.sub(rb"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>78])", b" ", shown)
    return re.sub(r"[ \r\x0e\x0f]{2,}", " ", text.decode(errors="replace"))
