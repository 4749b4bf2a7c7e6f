"""What the kernel can be told about a process of ours, or be asked, and Python has no call for."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import struct

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_NAME = 15

TURN = 100_000  # nanoseconds: the shortest that the kernel gives
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # asm/unistd.h
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")  # struct sched_attr, its first version: size, policy, flags, nice, priority, …

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


def take_short_turns() -> None:
    """Asks the scheduler to let this process, and those that it forks, run soon rather than for long: one that is woken
    comes before another whose turn is longer, and has no more of the processor than it would have had. Since Linux 6.12
    (sched_attr.sched_runtime of SCHED_OTHER, linux/sched/types.h); before, nothing changes."""
    call = SCHED_SETATTR.get(os.uname().machine)
    if call is not None:
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        attributes = _SCHED_ATTR.pack(_SCHED_ATTR.size, os.SCHED_OTHER, 0, nice, 0, TURN, 0, 0)
        _libc.syscall(ctypes.c_long(call), 0, attributes, 0)


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
