"""System calls that Python's os module lacks, or has without the group that a replay needs. They raise OSError."""

from __future__ import annotations

import ctypes
import os

AT_SYMLINK_NOFOLLOW, AT_STATX_FORCE_SYNC = 0x100, 0x2000  # linux/fcntl.h
FALLOC_FL_KEEP_SIZE = 1  # linux/falloc.h
_FUSE_SUPER_MAGIC = 0x6573_5546  # linux/magic.h
_AT_EMPTY_PATH = 0x1000  # linux/fcntl.h
_OPEN_TREE, _FSCONFIG, _FSPICK, _MOUNT_SETATTR = 428, 431, 433, 442  # the same on every architecture
_OPEN_TREE_CLONE, _MOUNT_ATTR_RDONLY, _CLOEXEC = 1, 1, os.O_CLOEXEC  # linux/mount.h
_FSPICK_CLOEXEC, _FSPICK_EMPTY_PATH = 1, 8
_FSCONFIG_SET_FLAG, _FSCONFIG_CMD_RECONFIGURE = 0, 7
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2  # linux/stat.h
STATX_BASIC_STATS = 0x7FF
_STATX_SIZE = 256
_NOBODY = 0xFFFF_FFFF

_libc = ctypes.CDLL(None, use_errno=True)
_int, _uint, _bytes, _offset = ctypes.c_int, ctypes.c_uint, ctypes.c_char_p, ctypes.c_int64
_Times = ctypes.c_long * 4
_libc.fstatfs.argtypes = [_int, ctypes.c_void_p]
_libc.syscall.restype = ctypes.c_long
_libc.setfsgid.argtypes = [_uint]
_libc.setfsgid.restype = _uint
_libc.statx.argtypes = [_int, _bytes, _int, _uint, ctypes.c_void_p]
_libc.fallocate64.argtypes = [_int, _int, _offset, _offset]
_libc.utimensat.argtypes = [_int, _bytes, ctypes.POINTER(ctypes.c_long), _int]
_buffer = (ctypes.c_char * _STATX_SIZE)()


class AsGroup:
    """Within it, what this thread asks of file systems is asked by the group `gid`. Raises PermissionError for who
    may not take it."""

    def __init__(self, gid: int) -> None:
        self._gid = gid

    def __enter__(self) -> None:
        self._before = _libc.setfsgid(self._gid)
        if _libc.setfsgid(_NOBODY) != self._gid:
            _libc.setfsgid(self._before)
            raise PermissionError("file events can be replayed by root alone")

    def __exit__(self, *_: object) -> None:
        _libc.setfsgid(self._before)


def is_fuse(fd: int) -> bool:
    """Whether a descriptor is of a FUSE file system, as virtiofs is."""
    buffer = (ctypes.c_long * 32)()  # struct statfs is 120 bytes, its first a long
    _check(_libc.fstatfs(fd, buffer))
    return buffer[0] & 0xFFFF_FFFF == _FUSE_SUPER_MAGIC


def look(directory: int, name: bytes = b"") -> None:
    """Has the kernel ask the file system for the attributes of `name`, or of the directory itself."""
    flags = AT_SYMLINK_NOFOLLOW | AT_STATX_FORCE_SYNC | (0 if name else _AT_EMPTY_PATH)
    _check(_libc.statx(directory, name, flags, STATX_BASIC_STATS, _buffer))


def touch(directory: int, name: bytes, *, content: bool) -> None:
    """utimensat: the time of writing (IN_MODIFY), or both times (IN_ATTRIB)."""
    times = _Times(0, UTIME_OMIT if content else UTIME_NOW, 0, UTIME_NOW)
    _check(_libc.utimensat(directory, name, times, AT_SYMLINK_NOFOLLOW))


def allocate(fd: int) -> None:
    """Reserves the first byte of a file, which changes nothing that can be seen (IN_MODIFY)."""
    _check(_libc.fallocate64(fd, FALLOC_FL_KEEP_SIZE, 0, 1))


def writable(root: int) -> int:
    """The directory `root` of a file system that is mounted read-only, as by a mount of our own that is not, and that
    ends with the descriptor. What others have mounted stays read-only by the flag of their mounts (only one made with
    `ro=fs` has none); the file system's own is taken away once, for good.

    Nothing can be written by it that the share's server does not let us; but the kernel would replay nothing else.
    """
    tree = _syscall(_OPEN_TREE, root, b"", _OPEN_TREE_CLONE | _CLOEXEC | _AT_EMPTY_PATH)
    try:
        attributes = (ctypes.c_uint64 * 4)(0, _MOUNT_ATTR_RDONLY, 0, 0)  # struct mount_attr: set, clear
        _syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, ctypes.sizeof(attributes))
        if os.fstatvfs(tree).f_flag & os.ST_RDONLY:
            _make_writable(tree)
    except OSError:
        os.close(tree)
        raise
    return tree


def _make_writable(root: int) -> None:
    """The file system itself: each time costs the kernel what it has cached of names."""
    picked = _syscall(_FSPICK, root, b"", _FSPICK_CLOEXEC | _FSPICK_EMPTY_PATH)
    try:
        _syscall(_FSCONFIG, picked, _FSCONFIG_SET_FLAG, b"rw", None, 0)
        _syscall(_FSCONFIG, picked, _FSCONFIG_CMD_RECONFIGURE, None, None, 0)
    finally:
        os.close(picked)


def _syscall(number: int, *arguments: object) -> int:
    converted = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *converted)
    _check(result)
    return result


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
