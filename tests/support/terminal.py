"""`subos-devices` on a terminal, as a person sees it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import time
from collections.abc import Iterator

from subos_devices.errors import GuestLost

from .command import COMMAND


class Terminal:
    """A terminal with `subos-devices` on it."""

    def __init__(self, *words: str, rows: int, columns: int) -> None:
        self._master, self.slave = pty.openpty()
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            [*COMMAND, *words],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env={**os.environ, "SHELL": "/bin/sh", "PS1": "ready> ", "TERM": "dumb"},
            preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
        )
        os.set_blocking(self._master, False)
        self.shown = ""

    def resize(self, rows: int, columns: int) -> None:
        """The kernel tells the terminal's foreground process by SIGWINCH."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, pattern: str, timeout: float = 120) -> re.Match[str]:
        """Reads until `pattern` is shown, and forgets all up to its end. Raises GuestLost."""
        deadline = time.monotonic() + timeout
        while not (match := re.search(pattern, self.shown)):
            try:
                self.shown += os.read(self._master, 65536).decode(errors="replace")
            except BlockingIOError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise GuestLost(f"{pattern!r} was not shown, only {self.shown!r}") from None
                time.sleep(0.02)
        self.shown = self.shown[match.end() :]
        return match

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self.slave)


@contextlib.contextmanager
def terminal(*words: str, rows: int, columns: int) -> Iterator[Terminal]:
    shown = Terminal(*words, rows=rows, columns=columns)
    try:
        yield shown
    finally:
        shown.close()
