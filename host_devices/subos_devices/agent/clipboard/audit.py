"""A log of what has passed: when, which way, of what type, how much, and its hash. Never what it was.

One JSON object a line, in STATE/subos/clipboard-VM.log, which only its owner may read ($XDG_STATE_HOME or
~/.local/state). A copy that is pasted again and again, or that a guest reads again and again, has two lines for each
type: one at once, and one for all the further times when something else was copied (`count`; size and hash are the last
one's). So nobody can wash a line out of the log by reading.
"""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

MAX_SIZE = 4 << 20
"""Bytes; then the file is put aside as clipboard-VM.log.1, in place of the last one."""


@dataclass(frozen=True)
class Line:
    """`size` bytes have passed, `count` times; not `complete`: it was broken off, so much of it has passed."""

    direction: str
    selection: str
    mime: str
    size: int
    digest: str
    complete: bool
    count: int = 1


class Log:
    """Of the VM `vm`; `record` and `over` raise OSError."""

    def __init__(self, vm: str) -> None:
        self._vm = vm
        self._again: dict[int, dict[tuple[str, str], Line | None]] = {}
        """Of each copy that is not over: what has passed since its first line, by direction and type."""

    def begin(self, copy: int) -> None:
        """From now on, until it is `over`, what passes of the copy is counted."""
        self._again.setdefault(copy, {})

    def record(self, copy: int, line: Line) -> None:
        counted, key = self._again.get(copy), (line.direction, line.mime)
        if counted is None or key not in counted:
            self._write(line)
            if counted is not None:
                counted[key] = None
        else:
            before = counted[key]
            counted[key] = line if before is None else replace(line, count=before.count + 1)

    def over(self, copy: int) -> None:
        """Writes what was counted."""
        for line in self._again.pop(copy, {}).values():
            if line is not None:
                self._write(line)

    def close(self) -> None:
        for copy in list(self._again):
            self.over(copy)

    def _write(self, line: Line) -> None:
        file = path(self._vm)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fields = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "vm": self._vm,
            "direction": line.direction,
            "selection": line.selection,
            "type": line.mime,
            "size": line.size,
            "sha256": line.digest,
            "complete": line.complete,
            "count": line.count,
        }
        descriptor = os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(descriptor, json.dumps(fields).encode() + b"\n")
            full = os.fstat(descriptor).st_size > MAX_SIZE
        finally:
            os.close(descriptor)
        if full:
            file.replace(file.with_name(f"{file.name}.1"))


def path(vm: str) -> Path:
    """Where the log is; `vm` is a VM's name, and so a file's."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state, "subos", f"clipboard-{vm}.log")
