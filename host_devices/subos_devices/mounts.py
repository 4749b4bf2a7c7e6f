"""Mounts by descriptor (open_tree(2), mount_setattr(2), Linux 5.12): a part of this host's files, alone.

From a descriptor of a cloned tree there is no way up: `..` ends at its root.
"""

from __future__ import annotations

import ctypes
import os
import struct

# The same numbers on every architecture.
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_CLONE, _MOVE_EMPTY_PATH = 1, 4  # OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH (linux/mount.h)
_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8  # MOUNT_ATTR_*
_ATTRIBUTES = struct.Struct("=QQQQ")  # struct mount_attr: set, clear, propagation, userns_fd

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_long = ctypes.c_long


def clone_tree(path: str, *, writable: bool, executable: bool = False) -> int:
    """A descriptor of what `path` names and all that is mounted below it, attached nowhere: no device node in it can be
    opened, no program run but where `executable`. Raises OSError; it takes CAP_SYS_ADMIN over the mount namespace."""
    flags = _CLONE | os.O_CLOEXEC | _AT_RECURSIVE
    tree = _check(_libc.syscall(_long(_SYS_OPEN_TREE), _long(_AT_FDCWD), os.fsencode(path), _long(flags)), path)
    forbidden = _NOSUID | _NODEV | (0 if executable else _NOEXEC) | (0 if writable else _RDONLY)
    attributes = _ATTRIBUTES.pack(forbidden, 0, 0, 0)
    size = _long(len(attributes))
    below = _long(_AT_EMPTY_PATH | _AT_RECURSIVE)
    try:
        _check(_libc.syscall(_long(_SYS_MOUNT_SETATTR), _long(tree), b"", below, attributes, size), path)
    except OSError:
        os.close(tree)
        raise
    return tree


def attach(tree: int, target: str) -> None:
    """Mounts a cloned tree on `target`. Raises OSError."""
    flags = _long(_MOVE_EMPTY_PATH)
    moved = _libc.syscall(_long(_SYS_MOVE_MOUNT), _long(tree), b"", _long(_AT_FDCWD), os.fsencode(target), flags)
    _check(moved, target)


def _check(result: int, path: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result
