"""What a process costs in memory."""

from __future__ import annotations

from pathlib import Path

_SHARED_FILES = ("/memfd:", "/dev/shm/")
"""Mappings that are guest memory or counters: others' too, and no cost of the worker."""


def private_memory(pid: int) -> tuple[int, int]:
    """Bytes that are the process's alone, and its proportional share of all; both without guest memory."""
    private = proportional = 0
    counts = True
    for line in Path(f"/proc/{pid}/smaps").read_text(errors="replace").splitlines():
        name, _, rest = line.partition(":")
        if "-" in name and not rest.strip().endswith("kB"):  # the head of a mapping
            counts = not any(place in line for place in _SHARED_FILES)
        elif counts and name in ("Private_Clean", "Private_Dirty"):
            private += 1024 * int(rest.split()[0])
        elif counts and name == "Pss":
            proportional += 1024 * int(rest.split()[0])
    return private, proportional
