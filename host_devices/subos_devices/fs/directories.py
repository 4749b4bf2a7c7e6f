"""Open directories: OPENDIR, READDIR, READDIRPLUS, RELEASEDIR, FSYNCDIR.

The entries are read whole when offset 0 is asked for, so an offset stays what it was however the directory changes:
`off` of an entry is its position in that list, plus one. The guest may mix READDIR and READDIRPLUS on one handle.
"""

from __future__ import annotations

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
from subos_protocol.fuse_opcodes import FUSE_FSYNC_FDATASYNC

from .nodes import bad_descriptor
from .share import NS, Data, Directory, Header, Share, error

DT_UNKNOWN, DT_DIR, DT_REG, DT_LNK = 0, 4, 8, 10  # dirent.h

_NO_ENTRY = bytes(FUSE_ENTRY_OUT.size)  # node 0: the name is there, the guest must look it up itself
_pack_dirent = FUSE_DIRENT.pack_into
_pack_plus = Struct(FUSE_ENTRY_OUT.struct.format + FUSE_DIRENT.struct.format[1:]).pack_into
_DIRENT, _PLUS = FUSE_DIRENT.size, FUSE_ENTRY_OUT.size + FUSE_DIRENT.size


class Directories:
    """`opened` are the FuseOpened flags of a directory that was opened."""

    def __init__(self, share: Share, opened: int = 0) -> None:
        self.share = share
        self.opened = int(opened)

    def opendir(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        nodeid = header[3]
        fd = self.share.nodes.fd(nodeid)
        if self.share.nodes.kinds[nodeid] != stat.S_IFDIR:
            raise error(errno.ENOTDIR)
        directory = Directory(self.share.reopen(fd, os.O_RDONLY | os.O_DIRECTORY))
        FUSE_OPEN_OUT.pack_into(mem, o, self.share.directories.add(directory), self.opened, 0)
        return FUSE_OPEN_OUT.size

    def releasedir(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        handle = FUSE_RELEASE_IN.unpack_from(mem, a)[0]
        directory = self._get(handle)
        self.share.directories.remove(handle)
        os.close(directory.fd)
        return 0

    def fsyncdir(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        handle, flags, _padding = FUSE_FSYNC_IN.unpack_from(mem, a)
        sync = os.fdatasync if flags & FUSE_FSYNC_FDATASYNC else os.fsync
        sync(self._get(handle).fd)
        return 0

    def readdir(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        entries, index, end = self._range(mem, a, o, room)
        at = o
        for name, ino, kind in entries[index:]:
            after = at + (_DIRENT + len(name) + 7 & ~7)
            if after > end:
                if at == o:
                    raise error(errno.EINVAL)
                break
            index += 1
            _pack_dirent(mem, at, ino, index, len(name), kind)
            mem[at + _DIRENT : after] = name.ljust(after - at - _DIRENT, b"\0")
            at = after
        return at - o

    def readdirplus(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """As READDIR, with a LOOKUP of every entry but "." and ".."; whatever is gone is left out."""
        entries, index, end = self._range(mem, a, o, room)
        share, nodes = self.share, self.share.nodes
        ids, lookups, generations, valid, device = (
            nodes.ids,
            nodes.lookups,
            nodes.generations,
            share.valid,
            nodes.device,
        )
        directory = nodes.fd(header[3])
        look, at = os.stat, o
        for name, ino, kind in entries[index:]:
            length = len(name)
            after = at + (_PLUS + length + 7 & ~7)
            if after > end:
                if at == o:
                    raise error(errno.EINVAL)
                break
            index += 1
            try:
                if index <= 2:
                    raise error(errno.EISDIR)
                st = look(name, dir_fd=directory, follow_symlinks=False)
                nodeid = ids.get((st[2], st[1]))
                if nodeid is None:
                    nodeid, st = share.find(directory, name)
                else:
                    lookups[nodeid] += 1
            except FileNotFoundError:
                continue
            except OSError:
                mem[at : at + FUSE_ENTRY_OUT.size] = _NO_ENTRY
                _pack_dirent(mem, at + FUSE_ENTRY_OUT.size, ino, index, length, kind)
            else:
                mode, ino, dev, nlink, uid, gid, size, atime, mtime, ctime = st[:10]
                if dev != device:
                    ino = share.inode(dev, ino)
                # fmt: off
                _pack_plus(
                    mem, at, nodeid, generations[nodeid], valid, valid, 0, 0, ino, size, st.st_blocks,
                    atime, mtime, ctime, st.st_atime_ns % NS, st.st_mtime_ns % NS, st.st_ctime_ns % NS,
                    mode, nlink, uid, gid, st.st_rdev, st.st_blksize, 0,
                    ino, index, length, mode >> 12,
                )
                # fmt: on
            mem[at + _PLUS : after] = name.ljust(after - at - _PLUS, b"\0")
            at = after
        return at - o

    def _get(self, handle: int) -> Directory:
        directory = self.share.directories.get(handle)
        if directory is None:
            raise bad_descriptor()
        return directory

    def _range(self, mem: memoryview, a: int, o: int, room: int) -> tuple[list[tuple[bytes, int, int]], int, int]:
        """What a READDIR is about: the entries, the index of the first, and where in `mem` the reply must end."""
        handle, offset, size, *_rest = FUSE_READ_IN.unpack_from(mem, a)
        directory = self._get(handle)
        if offset == 0:
            directory.entries = self._list(directory.fd)
        return directory.entries, min(offset, len(directory.entries)), o + min(size, room)

    def _list(self, fd: int) -> list[tuple[bytes, int, int]]:
        device, ino = os.fstat(fd)[2:0:-1]
        dots = self.share.inode(device, ino)
        entries = [(b".", dots, DT_DIR), (b"..", dots, DT_DIR)]
        encode, foreign = os.fsencode, device != self.share.nodes.device
        with os.scandir(fd) as found:
            for entry in found:
                # d_type as the directory has it; only an unknown one costs a stat here.
                if entry.is_dir(follow_symlinks=False):
                    kind = DT_DIR
                elif entry.is_file(follow_symlinks=False):
                    kind = DT_REG
                else:
                    kind = DT_LNK if entry.is_symlink() else DT_UNKNOWN
                number = entry.inode()
                entries.append((encode(entry.name), self.share.inode(device, number) if foreign else number, kind))
        return entries
