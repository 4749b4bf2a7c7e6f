"""What this process may do by what it is: capabilities, user, limits (capabilities(7), prctl(2), getrlimit(2))."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import struct
from collections.abc import Collection, Mapping
from contextlib import suppress

from .system import must, prctl

CAPABILITIES = {  # linux/capability.h
    "chown": 0,
    "dac_override": 1,
    "fowner": 3,
    "fsetid": 4,
    "setgid": 6,
    "setuid": 7,
    "sys_admin": 21,
    "mknod": 27,
    "setfcap": 31,
}
NOBODY = 65534
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_SECUREBITS = 1, 4, 24, 28  # linux/prctl.h
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_LAST_CAPABILITY = 63
_SECUREBITS = 0x1 | 0x2 | 0x4 | 0x8 | 0x20
"""SECBIT_NOROOT and NO_SETUID_FIXUP, locked; KEEP_CAPS locked: a program that root starts gets nothing, and who takes
another file system user id keeps what it has."""
_VERSION_3 = 0x2008_0522  # _LINUX_CAPABILITY_VERSION_3
_HEADER, _SET = struct.Struct("=Ii"), struct.Struct("=6I")


def become_nobody() -> None:
    """Root gives up its files and processes. Raises OSError."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def keep_capabilities(names: Collection[str]) -> None:
    """Gives up every capability but those that it has of `names`, now and for what it might become. Raises OSError."""
    kept = sum(1 << CAPABILITIES[name] for name in names) & permitted()
    with suppress(OSError):  # without CAP_SETPCAP: then there is little to lose
        prctl(_PR_SET_SECUREBITS, _SECUREBITS)
    with suppress(OSError):  # there is none of this number, or no CAP_SETPCAP
        for number in range(_LAST_CAPABILITY + 1):
            if not kept >> number & 1:
                prctl(_PR_CAPBSET_DROP, number)
    with suppress(OSError):  # before Linux 4.3 there are none
        prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    low, high = kept & 0xFFFF_FFFF, kept >> 32
    header = ctypes.create_string_buffer(_HEADER.pack(_VERSION_3, 0))
    must("capset", header, ctypes.create_string_buffer(_SET.pack(low, low, 0, high, high, 0)))


def permitted() -> int:
    """The mask of capabilities that this process has. Raises OSError."""
    header = ctypes.create_string_buffer(_HEADER.pack(_VERSION_3, 0))
    found = ctypes.create_string_buffer(_SET.size)
    must("capget", header, found)
    words = _SET.unpack(found.raw[: _SET.size])
    return int(words[1] | words[4] << 32)


def take_no_new_privileges() -> None:
    """Whatever is executed from now on gives nothing more. Raises OSError."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def hide_memory() -> None:
    """No core dump, and no other process of this user's may look in. Raises OSError."""
    prctl(_PR_SET_DUMPABLE, 0)


def die_with(parent: int) -> None:
    """The kernel kills this process when its parent ends, whose pidfd `parent` is. To be called again after a change of
    user, which makes the kernel forget it."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    waiting = select.poll()
    waiting.register(parent, select.POLLIN)
    if waiting.poll(0):
        os._exit(1)  # it ended before we asked


def limit(limits: Mapping[str, int]) -> None:
    """Sets limits by the end of their names (RLIMIT_*), where they are not lower already. Raises OSError."""
    for name, most in limits.items():
        which = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(which)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))
