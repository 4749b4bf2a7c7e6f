"""The shell of a guest on its serial port, at the other end of a process's standard input and output."""

from __future__ import annotations

import os
import re
import subprocess
import time

from subos_devices.errors import GuestLost


class Console:
    """`process` has pipes; `who` it is, for messages, and `timeout` is in seconds."""

    def __init__(self, process: subprocess.Popen[bytes], who: str, timeout: float) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._who, self._timeout = who, timeout
        self._input, self._output = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(self._output, False)
        self._shown = ""
        self._commands = 0

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Reads the console until `pattern` is shown, and forgets all up to its end. Raises GuestLost."""
        deadline = time.monotonic() + self._timeout
        while not (match := re.search(pattern, self._shown, re.DOTALL)):
            try:
                data = os.read(self._output, 65536)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise GuestLost(f"{self._who} did not show {pattern!r}: {self._shown!r}") from None
                time.sleep(0.02)
                continue
            if not data:
                raise GuestLost(f"{self._who} ended: {self._shown!r}")
            self._shown += data.decode(errors="replace")
        self._shown = self._shown[match.end() :]
        return match

    def type(self, text: str) -> None:
        os.write(self._input, text.encode())

    def run(self, command: str) -> str:
        """What a command of the guest's shell prints. A status other than 0 fails the test."""
        self._commands += 1
        number = self._commands
        self.type(f'echo "<$(({number}))>"; {command}; echo "<end {number} $?>"\n')
        match = self.wait_for(rf"<{number}>\r?\n(.*)<end {number} (\d+)>")
        said = match[1].replace("\r", "")
        assert match[2] == "0", f"{command} in {self._who}: status {match[2]}\n{said}"
        return said
