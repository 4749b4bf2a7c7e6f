"""A log of what has passed: when, which way, of what type, how much, and its hash. Never what it was.

One JSON object a line, in STATE/subos/clipboard.log, which only its owner may read ($XDG_STATE_HOME or ~/.local/state).
"""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path

MAX_SIZE = 4 << 20
"""Bytes; then the file is put aside as clipboard.log.1, in place of the last one."""


def path() -> Path:
    """Where the log is."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state, "subos", "clipboard.log")


def record(vm: str, direction: str, mime: str, size: int, digest: str, complete: bool) -> None:
    """Adds a line. What was broken off (not `complete`) is there too: so much of it has passed. Raises OSError."""
    file = path()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "vm": vm,
        "direction": direction,
        "type": mime,
        "size": size,
        "sha256": digest,
        "complete": complete,
    }
    descriptor = os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
        full = os.fstat(descriptor).st_size > MAX_SIZE
    finally:
        os.close(descriptor)
    if full:
        file.replace(file.with_name(f"{file.name}.1"))
