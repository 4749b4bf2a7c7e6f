"""What processes hold: descriptors, memory, life."""

from __future__ import annotations

import os
import re
from pathlib import Path


def descriptors(pid: int | str = "self") -> list[str]:
    """What each open descriptor of a process is, without numbers that differ from one opening to the next."""
    found = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(entry.path)
        except FileNotFoundError:
            continue  # the one that lists this folder
        found.append(re.sub(r"^/proc/\d+/", "/proc/PID/", target.partition(":[")[0]))
    return sorted(found)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def maps(pid: int, name: str) -> int:
    """How many mappings of files called `name` a process has."""
    return Path(f"/proc/{pid}/maps").read_text().count(name)


def private_memory(pid: int) -> int:
    """Bytes that are the process's alone; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))
