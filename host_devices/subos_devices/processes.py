"""What the kernel can be told about a process of ours, or be asked, and Python has no call for."""

from __future__ import annotations

import ctypes
import os
import re
import signal

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_NAME = 15

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """The kernel kills this process when its parent ends, however it ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it ended before we asked


def waits_for_disk(pid: int) -> bool:
    """Whether it sleeps in the kernel where no signal reaches it, but for SIGKILL perhaps."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] == b"D"
    except OSError:
        return False


def set_name(name: str) -> None:
    """What `ps` and `top` call this process; its first 15 bytes."""
    _libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def pss(pid: int) -> int | None:
    """Bytes of memory that a process costs: its own, and its part of what it shares, but for shared memory (the guest's
    is that). None where it has ended, or may not be looked at."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as said:
            found = {
                name: 1024 * int(size) for name, size in re.findall(rb"^(\w+): +(\d+) kB", said.read(), re.MULTILINE)
            }
    except OSError:
        return None
    return found.get(b"Pss", 0) - found.get(b"Pss_Shmem", 0)
