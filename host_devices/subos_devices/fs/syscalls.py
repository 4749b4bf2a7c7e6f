"""System calls that Python's os module lacks, by ctypes on the C library. They raise OSError.

`path` is always bytes without NUL; an empty one with AT_EMPTY_PATH means the file of `fd` itself, O_PATH ones too.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import struct
from collections.abc import Callable

AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH = 0x100, 0x1000  # linux/fcntl.h
UTIME_NOW = (1 << 30) - 1  # linux/stat.h: as nanoseconds, "the current time"
UTIME_OMIT = (1 << 30) - 2  # as nanoseconds, "leave it"
STATX_SIZE = 256  # bytes of struct statx
PR_GET_SECUREBITS, PR_SET_SECUREBITS = 27, 28  # linux/prctl.h
_SYS_GETDENTS64 = {"x86_64": 217}.get(os.uname().machine, 61)  # 61 where numbers are the generic ones (aarch64, riscv)
_MAX_HANDLE_SIZE = 128  # linux/exportfs.h, MAX_HANDLE_SZ
SECBIT_NO_SETUID_FIXUP = 1 << 2  # linux/securebits.h

_libc = ctypes.CDLL(None, use_errno=True)
_Times = ctypes.c_long * 4
_int, _uint, _bytes, _offset = ctypes.c_int, ctypes.c_uint, ctypes.c_char_p, ctypes.c_int64

_libc.renameat2.argtypes = [_int, _bytes, _int, _bytes, _uint]
_libc.fchownat.argtypes = [_int, _bytes, _uint, _uint, _int]
_libc.utimensat.argtypes = [_int, _bytes, ctypes.POINTER(ctypes.c_long), _int]
_libc.fallocate64.argtypes = [_int, _int, _offset, _offset]
_libc.syncfs.argtypes = [_int]
_libc.statx.argtypes = [_int, _bytes, _int, _uint, ctypes.c_void_p]
_libc.syscall.restype = ctypes.c_long
_libc.name_to_handle_at.argtypes = [_int, _bytes, ctypes.c_void_p, ctypes.POINTER(_int), _int]
_libc.open_by_handle_at.argtypes = [_int, ctypes.c_char_p, _int]
_libc.fstatfs.argtypes = [_int, ctypes.c_void_p]
_libc.setfsuid.argtypes = [_uint]
_libc.setfsuid.restype = _uint
_libc.setfsgid.argtypes = [_uint]
_libc.setfsgid.restype = _uint
_libc.prctl.argtypes = [_int] + [ctypes.c_ulong] * 4

setfsuid = _libc.setfsuid
"""Sets this thread's file system user id and returns the one before; an id that may not be set changes nothing."""
setfsgid = _libc.setfsgid


STATUS = struct.Struct("<QQQIII4xQ9q")
"""struct stat as x86-64 has it: dev, ino, nlink, mode, uid, gid, rdev, size, blksize, blocks, then atime, mtime and
ctime as seconds and nanoseconds."""
status = bytearray(144)
"""What `fstat` and `fstatat` fill."""
status_pointer = ctypes.c_void_p(ctypes.addressof((ctypes.c_char * len(status)).from_buffer(status)))

_python = ctypes.PyDLL(None, use_errno=True)  # the worker has nobody to let in meanwhile


def _fill(found: os.stat_result) -> int:
    mode, ino, dev, nlink, uid, gid, size = found[:7]
    times = [divmod(at, 1_000_000_000) for at in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)]
    sizes = (found.st_rdev, size, found.st_blksize, found.st_blocks)
    STATUS.pack_into(status, 0, dev, ino, nlink, mode, uid, gid, *sizes, *itertools.chain(*times))
    return 0


def _fstat(fd: int, _pointer: object) -> int:
    try:
        return _fill(os.fstat(fd))
    except OSError as error:
        ctypes.set_errno(error.errno or errno.EIO)
        return -1


def _fstatat(directory: int, name: bytes, _pointer: object, _flags: int) -> int:
    try:
        return _fill(os.stat(name, dir_fd=directory, follow_symlinks=False))
    except OSError as error:
        ctypes.set_errno(error.errno or errno.EIO)
        return -1


fstat: Callable[[int, object], int] = _fstat
fstatat: Callable[[int, bytes, object, int], int] = _fstatat
"""`fstat(fd, status_pointer)`, `fstatat(fd, name, status_pointer, AT_SYMLINK_NOFOLLOW)` fill `status`; -1 with
ctypes.get_errno() else. They take half the time of os.stat and what comes after it to take its result apart. Without
argtypes, which would take the half of that: the caller gives them exactly int, bytes and `status_pointer`."""
if os.uname().machine == "x86_64" and hasattr(_python, "fstat"):  # glibc has had it since 2.33
    fstat, fstatat = _python.fstat, _python.fstatat


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def renameat2(old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int) -> None:
    _check(_libc.renameat2(old_fd, old, new_fd, new, flags))


def chown(fd: int, uid: int, gid: int) -> None:
    """fchownat of `fd` itself; 0xFFFFFFFF leaves an id as it is."""
    _check(_libc.fchownat(fd, b"", uid, gid, AT_EMPTY_PATH))


def utimens(fd: int, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """utimensat of `fd` itself; times are (seconds, nanoseconds), UTIME_NOW and UTIME_OMIT among the latter."""
    _check(_libc.utimensat(fd, b"", _Times(*atime, *mtime), AT_EMPTY_PATH))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    _check(_libc.fallocate64(fd, mode, offset, length))


def syncfs(fd: int) -> None:
    _check(_libc.syncfs(fd))


def statx(fd: int, flags: int, mask: int) -> bytearray:
    """struct statx of `fd` itself."""
    buffer = bytearray(STATX_SIZE)
    _check(_libc.statx(fd, b"", flags | AT_EMPTY_PATH, mask, (ctypes.c_char * STATX_SIZE).from_buffer(buffer)))
    return buffer


def file_system_type(fd: int) -> int:
    """statfs.f_type of the file system that `fd` is on: a magic number of linux/magic.h."""
    buffer = (ctypes.c_long * 32)()  # struct statfs is 120 bytes, its first a long
    _check(_libc.fstatfs(fd, buffer))
    return int(buffer[0]) & 0xFFFF_FFFF


def getdents(fd: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    """Reads struct linux_dirent64 into `buffer`. Returns the bytes, 0 at the end."""
    read: int = _check(_libc.syscall(_SYS_GETDENTS64, _int(fd), buffer, ctypes.c_size_t(len(buffer))))
    return read


def name_to_handle(fd: int) -> bytes:
    """struct file_handle of `fd` itself, an O_PATH one too. Raises EOPNOTSUPP where the file system has none."""
    buffer, mount = ctypes.create_string_buffer(8 + _MAX_HANDLE_SIZE), _int()
    ctypes.c_uint.from_buffer(buffer).value = _MAX_HANDLE_SIZE
    _check(_libc.name_to_handle_at(fd, b"", buffer, ctypes.byref(mount), AT_EMPTY_PATH))
    return buffer.raw[: 8 + ctypes.c_uint.from_buffer(buffer).value]


def open_by_handle(mount_fd: int, handle: bytes, flags: int) -> int:
    """Opens what name_to_handle() told of; `mount_fd` is really open, on the same file system. Raises ESTALE where
    the inode is gone, EPERM without CAP_DAC_READ_SEARCH."""
    return _check(_libc.open_by_handle_at(mount_fd, handle, flags))


def securebits() -> int:
    """This thread's SECBIT_ flags."""
    return _check(_libc.prctl(PR_GET_SECUREBITS, 0, 0, 0, 0))


def set_securebits(bits: int) -> None:
    """Raises PermissionError without CAP_SETPCAP."""
    _check(_libc.prctl(PR_SET_SECUREBITS, bits, 0, 0, 0))


def keep_capabilities_across_ids() -> None:
    """Lets a root thread that takes another file system user id keep its capabilities (CAP_DAC_OVERRIDE above all).

    Raises PermissionError without CAP_SETPCAP.
    """
    set_securebits(securebits() | SECBIT_NO_SETUID_FIXUP)
