"""Open directories: OPENDIR, READDIR, READDIRPLUS, RELEASEDIR, FSYNCDIR.

Entries are read from the host a buffer at a time, and an entry's `off` is the host's own position (d_off): so a
directory of any size costs the same memory, and goes on where it was for a guest that seeks. The guest may mix
READDIR and READDIRPLUS on one handle.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from ctypes import get_errno
from struct import Struct

from subos_protocol.fuse import (
    FUSE_DIRENT,
    FUSE_ENTRY_OUT,
    FUSE_FSYNC_IN,
    FUSE_OPEN_OUT,
    FUSE_READ_IN,
    FUSE_RELEASE_IN,
)
from subos_protocol.fuse_opcodes import FUSE_FSYNC_FDATASYNC, FUSE_ROOT_ID

from . import syscalls
from .handles import Directory
from .share import MAX_NAME, Data, Header, Share, error
from .syscalls import AT_SYMLINK_NOFOLLOW

BUFFER = 32 << 10  # bytes of dirents read at once

_NO_ENTRY = bytes(FUSE_ENTRY_OUT.size)  # node 0: the name is there, the guest must look it up itself
_unpack_dirent = Struct("<QqHB").unpack_from  # struct linux_dirent64, before the name
_NAME = 19  # its offset
_pack_dirent = FUSE_DIRENT.pack_into
_pack_plus = Struct(FUSE_ENTRY_OUT.struct.format + FUSE_DIRENT.struct.format[1:]).pack_into
_DIRENT, _PLUS = FUSE_DIRENT.size, FUSE_ENTRY_OUT.size + FUSE_DIRENT.size
_DOTS = (b".", b"..")
_unpack_status = syscalls.STATUS.unpack_from
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1


class Directories:
    """`opened` are the FuseOpened flags of a directory that was opened."""

    def __init__(self, share: Share, opened: int = 0) -> None:
        self.share = share
        self.opened = int(opened)
        self._buffer = ctypes.create_string_buffer(BUFFER)
        self._view = memoryview(self._buffer).cast("B")

    def opendir(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        nodeid, share = header[3], self.share
        if share.nodes.kind(nodeid) != stat.S_IFDIR:
            raise error(errno.ENOTDIR)
        share.descriptors.admit()
        share.journal.opens(header[1])
        directory = share.reopen(share.fd(nodeid), os.O_RDONLY | os.O_DIRECTORY)
        FUSE_OPEN_OUT.pack_into(mem, o, share.files.add_directory(directory, nodeid), self.opened, 0)
        return FUSE_OPEN_OUT.size

    def releasedir(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        try:
            self.share.files.remove_directory(FUSE_RELEASE_IN.unpack_from(mem, a)[0])
        except OSError:
            if not self.share.journal.current.replaying:
                raise
        return 0

    def fsyncdir(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        handle, flags, _padding = FUSE_FSYNC_IN.unpack_from(mem, a)
        sync = os.fdatasync if flags & FUSE_FSYNC_FDATASYNC else os.fsync
        sync(self.share.files.directory(handle).fd)
        return 0

    def readdir(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        directory, end = self._where(mem, a, o, room)
        at = o
        shift = self.share.inode_shift(directory.nodeid)
        while directory.at < directory.end or self._fill(directory):
            ino, off, size, kind = _unpack_dirent(directory.buffer, directory.at)
            name = self._name(directory, size)
            after = at + (_DIRENT + len(name) + 7 & ~7)
            if after > end:
                break
            if name == b".." and directory.nodeid == FUSE_ROOT_ID:
                ino = self.share.nodes.inos[FUSE_ROOT_ID]  # not what lies above the share
            _pack_dirent(mem, at, ino + shift & _U64, off & _U64, len(name), kind)
            mem[at + _DIRENT : after] = name.ljust(after - at - _DIRENT, b"\0")
            at = after
            directory.at += size
            directory.cookie = off
        return self._told(directory, at - o)

    def readdirplus(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """As READDIR, with a LOOKUP of every entry but "." and ".."; whatever is gone is left out."""
        directory, end = self._where(mem, a, o, room)
        share, nodes = self.share, self.share.nodes
        learn, generations, valid, device = nodes.learn, nodes.generations, share.valid, nodes.device
        look, pointer, status = syscalls.fstatat, syscalls.status_pointer, syscalls.status
        at, fd, parent = o, directory.fd, directory.nodeid
        while directory.at < directory.end or self._fill(directory):
            ino, off, size, kind = _unpack_dirent(directory.buffer, directory.at)
            name = self._name(directory, size)
            length = len(name)
            after = at + (_PLUS + length + 7 & ~7)
            if after > end:
                break
            directory.at += size
            directory.cookie = off
            if name in _DOTS:
                if length == 2 and parent == FUSE_ROOT_ID:
                    ino = nodes.inos[FUSE_ROOT_ID]  # not what lies above the share
                mem[at : at + FUSE_ENTRY_OUT.size] = _NO_ENTRY
                _pack_dirent(mem, at + FUSE_ENTRY_OUT.size, ino, off & _U64, length, kind)
            elif length <= MAX_NAME and not look(fd, name, pointer, AT_SYMLINK_NOFOLLOW):
                dev, ino, nlink, mode, uid, gid, rdev, size, blksize, blocks, *times = _unpack_status(status)
                nodeid, flags = learn(parent, name, dev, ino, mode), 0
                if dev != device:
                    ino, flags = share.foreign(nodeid, ino, mode)
                # fmt: off
                _pack_plus(
                    mem, at, nodeid, generations[nodeid], valid, valid, 0, 0, ino, size, blocks,
                    *times[::2], *times[1::2], mode, nlink, uid, gid, rdev & _U32, blksize, flags,
                    ino, off & _U64, length, mode >> 12,
                )
                # fmt: on
            elif length <= MAX_NAME and get_errno() == errno.ENOENT:
                continue
            else:
                mem[at : at + FUSE_ENTRY_OUT.size] = _NO_ENTRY
                _pack_dirent(mem, at + FUSE_ENTRY_OUT.size, ino, off & _U64, length, kind)
            mem[at + _PLUS : after] = name.ljust(after - at - _PLUS, b"\0")
            at = after
        return self._told(directory, at - o)

    def _where(self, mem: memoryview, a: int, o: int, room: int) -> tuple[Directory, int]:
        """What a READDIR is about: the directory, at the offset asked for, and where in `mem` the reply must end."""
        handle, offset, size, *_rest = FUSE_READ_IN.unpack_from(mem, a)
        directory = self.share.files.directory(handle)
        if offset == 0 or offset != directory.cookie & _U64:
            os.lseek(directory.fd, offset - (1 << 64) if offset >> 63 else offset, os.SEEK_SET)
            directory.at = directory.end = 0
            directory.cookie = offset
        return directory, o + min(size, room)

    def _fill(self, directory: Directory) -> bool:
        """Reads the next entries. False at the end of the directory."""
        read = syscalls.getdents(directory.fd, self._buffer)
        directory.buffer = bytes(self._view[:read])
        directory.at, directory.end = 0, read
        return read > 0

    @staticmethod
    def _name(directory: Directory, size: int) -> bytes:
        begin = directory.at + _NAME
        return directory.buffer[begin : directory.buffer.index(b"\0", begin, directory.at + size)]

    @staticmethod
    def _told(directory: Directory, size: int) -> int:
        """The reply's size. Raises EINVAL where not even one entry had room."""
        if not size and directory.at < directory.end:
            raise error(errno.EINVAL)
        return size
