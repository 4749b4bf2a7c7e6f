"""Landlock: which files this process may reach, by what lies beneath which folder (linux/landlock.h).

It knows nothing of attributes: modes, owners and times of whatever can be named stay within reach, and so does stat.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Mapping, Sequence

from .system import call, must

_VERSION, _PATH_BENEATH = 1, 1
_FILES = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 5: 0xFFFF}  # rights that exist as of each ABI: …, REFER, TRUNCATE, IOCTL_DEV
_READ = 0x4 | 0x8  # READ_FILE, READ_DIR
_OF_FILES = 0x2 | 0x4 | 0x4000 | 0x8000  # the rights that a single file can have, execution left out
_EXECUTE = 0x1
_TCP, _SCOPES = 0x3, 0x3  # bind, connect (ABI 4); abstract Unix sockets, signals (ABI 6)
_RULESET = struct.Struct("=QQQ")  # struct landlock_ruleset_attr
_BENEATH = struct.Struct("=Qi")  # struct landlock_path_beneath_attr


def abi() -> int:
    """Which version the kernel has; 0 where there is none, or it is switched off."""
    try:
        return max(0, call("landlock_create_ruleset", None, 0, _VERSION))
    except OSError:
        return 0


def _rights(version: int) -> int:
    return max(rights for since, rights in _FILES.items() if since <= version)


def restrict(paths: Mapping[str, bool] | None, *, network: bool, programs: Sequence[str | int] = ()) -> None:
    """Leaves `paths`, the writable ones of which are True; None leaves all. What lies in `programs` (paths and
    descriptors) may be executed. No TCP without `network`, and nobody else's abstract sockets and processes, where the
    kernel has rules for these. Takes no_new_privs. Raises OSError."""
    version = abi()
    if not version:
        raise OSError(95, "the kernel has no Landlock, or starts without it (lsm=landlock,…)")
    every = _rights(version)
    files = 0 if paths is None else every
    attributes = _RULESET.pack(files, _TCP if version >= 4 and not network else 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    if not any(attributes):
        raise OSError(95, f"Landlock's ABI {version} has nothing but files, which this device must name anew")
    ruleset = must("landlock_create_ruleset", attributes, size, 0)
    try:
        rules = [(path, every & ~_EXECUTE if writable else _READ) for path, writable in (paths or {}).items()]
        for path, allowed in [*rules, *((path, _READ | _EXECUTE) for path in (() if paths is None else programs))]:
            try:
                fd = os.dup(path) if isinstance(path, int) else os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:  # what cannot be opened is not let in; the device will say what it misses
                continue
            try:
                if not stat.S_ISDIR(os.fstat(fd).st_mode):
                    allowed &= _OF_FILES | _EXECUTE
                rule = ctypes.create_string_buffer(_BENEATH.pack(allowed, fd))
                must("landlock_add_rule", ruleset, _PATH_BENEATH, rule, 0)
            finally:
                os.close(fd)
        must("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
