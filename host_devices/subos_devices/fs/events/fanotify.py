"""fanotify(7) by directory: what others do in marked directories, with names, and none of what this process does.

Marks on directories need no privilege since Linux 5.13; FAN_RENAME and FAN_REPORT_TARGET_FID came with 5.17.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from .. import syscalls

# linux/fanotify.h
MODIFY, ATTRIB, CLOSE_WRITE = 0x2, 0x4, 0x8
CREATE, DELETE = 0x100, 0x200
OVERFLOW = 0x4000
RENAME = 0x1000_0000
ONDIR = 0x4000_0000
_EVENT_ON_CHILD = 0x0800_0000
_WANTED = MODIFY | ATTRIB | CLOSE_WRITE | CREATE | DELETE | RENAME | ONDIR | _EVENT_ON_CHILD
_CLOEXEC, _NONBLOCK, _UNLIMITED_QUEUE, _UNLIMITED_MARKS = 0x1, 0x2, 0x10, 0x20
# FID, DIR_FID, NAME, TARGET_FID. The last makes no two inodes' events of one name into one.
_REPORT = 0x200 | 0x400 | 0x800 | 0x1000
_MARK_ADD, _MARK_ONLYDIR = 0x1, 0x8
_DFID_NAME, _OLD_DFID_NAME, _NEW_DFID_NAME = 2, 10, 12

_HEADER = struct.Struct("=IBBHQii")  # struct fanotify_event_metadata
_RECORD = struct.Struct("=BBH8sI")  # fanotify_event_info_header, fsid, handle_bytes; handle_type and the handle follow
_AT_HANDLE = 12  # of the struct file_handle in a record
_BUFFER = 1 << 15  # bytes of one read: some hundred events, which nobody waits for long

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fanotify_mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p]


class Event(NamedTuple):
    """`key` is the directory's, as `Fanotify.add` returned it. A rename has `to_key` and `to_name` too, or one of the
    two places alone where only that one's directory is marked (the other key is empty)."""

    mask: int
    key: bytes
    name: bytes
    to_key: bytes = b""
    to_name: bytes = b""


class Fanotify:
    """Raises OSError where the kernel has no fanotify of this kind, or does not let us."""

    def __init__(self) -> None:
        flags = _CLOEXEC | _NONBLOCK | _REPORT
        self.fd = _libc.fanotify_init(flags | _UNLIMITED_QUEUE | _UNLIMITED_MARKS, os.O_RDONLY)
        if self.fd < 0:
            self.fd = _libc.fanotify_init(flags, os.O_RDONLY)
        if self.fd < 0:
            raise _error()
        self._pid = os.getpid()

    def add(self, directory: int) -> bytes:
        """Marks the directory of a descriptor (an O_PATH one will do). Returns its key. Raises OSError."""
        key = syscalls.name_to_handle(directory)
        if _libc.fanotify_mark(self.fd, _MARK_ADD | _MARK_ONLYDIR, _WANTED, directory, b"."):
            raise _error()
        return key

    def read(self) -> tuple[int, list[Event]]:
        """Bytes read, 0 where there is nothing, and what others did."""
        try:
            data = os.read(self.fd, _BUFFER)
        except BlockingIOError:
            return 0, []
        return len(data), list(self._events(data))

    def _events(self, data: bytes) -> Iterator[Event]:
        at = 0
        while at + _HEADER.size <= len(data):
            length, _version, _reserved, before, mask, _fd, pid = _HEADER.unpack_from(data, at)
            if mask & OVERFLOW:
                yield Event(OVERFLOW, b"", b"")
            elif pid != self._pid:  # which reads as 0 where it is another user's
                yield _places(data, at + before, at + length, mask)
            at += length

    def close(self) -> None:
        os.close(self.fd)


def _places(data: bytes, at: int, end: int, mask: int) -> Event:
    key, name, to_key, to_name = b"", b"", b"", b""
    while at < end:
        kind, _padding, length, _fsid, size = _RECORD.unpack_from(data, at)
        handle = at + _AT_HANDLE
        place = data[handle : handle + 8 + size], data[handle + 8 + size : at + length].partition(b"\0")[0]
        if kind in (_DFID_NAME, _OLD_DFID_NAME):
            key, name = place
        elif kind == _NEW_DFID_NAME:
            to_key, to_name = place
        at += length
    return Event(mask, key, name, to_key, to_name)


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
