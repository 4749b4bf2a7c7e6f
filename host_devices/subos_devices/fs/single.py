"""A share of a single file: its root directory has that one name in it.

The file is written in place, made again where it is missing, and never removed, renamed or replaced by the guest; the
host may replace it, since it is found by its name. Nothing else in its folder can be reached, or is changed.
"""

from __future__ import annotations

import errno
import os

from subos_protocol.fuse import (
    FUSE_CREATE_IN,
    FUSE_DIRENT,
    FUSE_ENTRY_OUT,
    FUSE_MKNOD_IN,
    FUSE_READ_IN,
    fuse_dirent_size,
)
from subos_protocol.fuse_opcodes import FUSE_ROOT_ID, FuseOpcode

from .share import Data, Header, Operation, Share, error, strings

FORBIDDEN = (
    FuseOpcode.FUSE_SETATTR,
    FuseOpcode.FUSE_SYMLINK,
    FuseOpcode.FUSE_MKDIR,
    FuseOpcode.FUSE_UNLINK,
    FuseOpcode.FUSE_RMDIR,
    FuseOpcode.FUSE_RENAME,
    FuseOpcode.FUSE_RENAME2,
    FuseOpcode.FUSE_LINK,
    FuseOpcode.FUSE_TMPFILE,
    FuseOpcode.FUSE_SETXATTR,
    FuseOpcode.FUSE_GETXATTR,
    FuseOpcode.FUSE_LISTXATTR,
    FuseOpcode.FUSE_REMOVEXATTR,
)
"""What may not be done with the root, which is the file's folder."""

NAMED = {
    FuseOpcode.FUSE_LOOKUP: 0,
    FuseOpcode.FUSE_MKNOD: FUSE_MKNOD_IN.size,
    FuseOpcode.FUSE_CREATE: FUSE_CREATE_IN.size,
}
"""Operations on a name, and the size of what comes before it."""

_NO_ENTRY = bytes(FUSE_ENTRY_OUT.size)


class SingleFile:
    """Keeps the operations on `share` to the one name."""

    def __init__(self, share: Share, name: bytes) -> None:
        self.share = share
        self.name = name

    def wrap(self, opcode: int, operation: Operation) -> Operation:
        """`operation` as this share has it."""
        if opcode in FORBIDDEN:
            return self._outside_root(operation)
        if opcode in NAMED:
            return self._named(operation, NAMED[FuseOpcode(opcode)], opcode)
        if opcode in (FuseOpcode.FUSE_READDIR, FuseOpcode.FUSE_READDIRPLUS):
            return self._list_plus if opcode == FuseOpcode.FUSE_READDIRPLUS else self._list
        return operation

    @staticmethod
    def _outside_root(operation: Operation) -> Operation:
        def checked(header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
            if header[3] == FUSE_ROOT_ID:
                raise error(errno.EPERM)
            return operation(header, mem, a, n, o, room, data)

        return checked

    def _named(self, operation: Operation, before: int, opcode: int) -> Operation:
        other = errno.ENOENT if opcode == FuseOpcode.FUSE_LOOKUP else errno.EPERM

        def checked(header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
            if header[3] == FUSE_ROOT_ID and strings(mem, a + before, n - before, 1)[0] != self.name:
                raise error(other)
            return operation(header, mem, a, n, o, room, data)

        return checked

    def _list(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        return self._entries(header[3], mem, a, o, room, plus=False)

    def _list_plus(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        return self._entries(header[3], mem, a, o, room, plus=True)

    def _entries(self, nodeid: int, mem: memoryview, a: int, o: int, room: int, *, plus: bool) -> int:
        """The three names of the root. An entry's `off` is its number, from 1."""
        handle, offset, size, *_rest = FUSE_READ_IN.unpack_from(mem, a)
        self.share.files.directory(handle)
        at, end = o, o + min(size, room)
        for index, name in enumerate((b".", b"..", self.name)[offset:] if offset < 3 else (), offset + 1):
            after = at + (FUSE_ENTRY_OUT.size if plus else 0) + fuse_dirent_size(len(name))
            if after > end:
                if at == o:
                    raise error(errno.EINVAL)
                break
            ino, kind = self.share.nodes.inos[FUSE_ROOT_ID], 4
            entry = _NO_ENTRY
            if index == 3:
                try:
                    status = os.stat(name, dir_fd=self.share.fd(FUSE_ROOT_ID), follow_symlinks=False)
                except FileNotFoundError:
                    break
                ino, kind = status.st_ino, status.st_mode >> 12
                if plus:
                    found, status = self.share.find(FUSE_ROOT_ID, name)
                    self.share.put_entry(mem, at, found, status)
                    entry = bytes(mem[at : at + FUSE_ENTRY_OUT.size])
            told = (entry if plus else b"") + FUSE_DIRENT.struct.pack(ino, index, len(name), kind) + name
            mem[at:after] = told.ljust(after - at, b"\0")
            at = after
        return at - o
