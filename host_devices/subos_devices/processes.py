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


def memory_file(pid: int) -> int:
    """A descriptor of what the kernel says of a process's memory, for `pss`: it can be read also once the process may
    not be looked at any more. Raises OSError."""
    return os.open(f"/proc/{pid}/smaps_rollup", os.O_RDONLY | os.O_CLOEXEC)


def pss(memory: int) -> int:
    """Bytes of memory that a process costs: its own, and its part of what it shares, but for shared memory (the guest's
    is that). `memory` is its `memory_file`. Raises OSError where it has ended, or is another program by now."""
    sizes = re.findall(rb"^(\w+): +(\d+) kB", os.pread(memory, 4096, 0), re.MULTILINE)
    found = {name: 1024 * int(size) for name, size in sizes}
    return found.get(b"Pss", 0) - found.get(b"Pss_Shmem", 0)
