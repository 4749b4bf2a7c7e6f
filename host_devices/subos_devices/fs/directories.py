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
from .share import NS, Data, Header, Share, error

BUFFER = 32 << 10  # bytes of dirents read at once

_NO_ENTRY = bytes(FUSE_ENTRY_OUT.size)  # node 0: the name is there, the guest must look it up itself
_unpack_dirent = Struct("<QqHB").unpack_from  # struct linux_dirent64, before the name
_NAME = 19  # its offset
_pack_dirent = FUSE_DIRENT.pack_into
_pack_plus = Struct(FUSE_ENTRY_OUT.struct.format + FUSE_DIRENT.struct.format[1:]).pack_into
_DIRENT, _PLUS = FUSE_DIRENT.size, FUSE_ENTRY_OUT.size + FUSE_DIRENT.size
_DOTS = (b".", b"..")
_U64 = (1 << 64) - 1


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
        directory = Directory(share.reopen(share.fd(nodeid), os.O_RDONLY | os.O_DIRECTORY), nodeid)
        FUSE_OPEN_OUT.pack_into(mem, o, share.files.add_directory(directory), self.opened, 0)
        return FUSE_OPEN_OUT.size

    def releasedir(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        self.share.files.remove_directory(FUSE_RELEASE_IN.unpack_from(mem, a)[0])
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
        look, at, fd, parent = os.stat, o, directory.fd, directory.nodeid
        while directory.at < directory.end or self._fill(directory):
            ino, off, size, kind = _unpack_dirent(directory.buffer, directory.at)
            name = self._name(directory, size)
            length = len(name)
            after = at + (_PLUS + length + 7 & ~7)
            if after > end:
                break
            directory.at += size
            directory.cookie = off
            try:
                st = None if name in _DOTS else look(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError:
                st = None
            if st is None:
                mem[at : at + FUSE_ENTRY_OUT.size] = _NO_ENTRY
                if name == b".." and parent == FUSE_ROOT_ID:
                    ino = nodes.inos[FUSE_ROOT_ID]
                _pack_dirent(mem, at + FUSE_ENTRY_OUT.size, ino, off & _U64, length, kind)
            else:
                mode, ino, dev, nlink, uid, gid, size, atime, mtime, ctime = st[:10]
                nodeid = learn(parent, name, dev, ino, mode)
                flags = 0
                if dev != device:
                    ino, flags = share.foreign(nodeid, st)
                # fmt: off
                _pack_plus(
                    mem, at, nodeid, generations[nodeid], valid, valid, 0, 0, ino, size, st.st_blocks,
                    atime, mtime, ctime, st.st_atime_ns % NS, st.st_mtime_ns % NS, st.st_ctime_ns % NS,
                    mode, nlink, uid, gid, st.st_rdev, st.st_blksize, flags,
                    ino, off & _U64, length, mode >> 12,
                )
                # fmt: on
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
