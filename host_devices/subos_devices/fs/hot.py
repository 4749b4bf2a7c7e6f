"""The operations that come by the million: LOOKUP, GETATTR, OPEN, READ, WRITE, RELEASE.

Plain Python, and written for it: precompiled structs, one pack a reply, no objects that outlive a request.
`requests.py` and this module are the seam for a compiled twin.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import get_errno
from struct import Struct
from time import time

from subos_protocol.fuse import FUSE_ATTR_OUT, FUSE_ENTRY_OUT, FUSE_OPEN_OUT, FUSE_WRITE_IN
from subos_protocol.fuse_opcodes import (
    FUSE_OPEN_KILL_SUIDGID,
    FUSE_WRITE_CACHE,
    FUSE_WRITE_KILL_SUIDGID,
    FuseOpcode,
    FuseOpened,
)

from . import syscalls
from .caching import CachePolicy
from .descriptors import stale
from .journal import FACTS, GIVEN_FILE, NOTED, STAGE
from .nodes import NAMELESS, bad_descriptor
from .share import MAX_NAME, NS, REFUSED, Data, Header, Share, component, error
from .statistics import BYTES_READ, BYTES_WRITTEN
from .syscalls import AT_SYMLINK_NOFOLLOW

ATTR_SIZE, ENTRY_SIZE, OPEN_SIZE, WRITE_ARGS = (
    FUSE_ATTR_OUT.size,
    FUSE_ENTRY_OUT.size,
    FUSE_OPEN_OUT.size,
    FUSE_WRITE_IN.size,
)
IOV_MAX = 1024  # linux/uio.h: buffers that one preadv or pwritev takes

OPEN_FLAGS = os.O_ACCMODE | os.O_TRUNC | os.O_SYNC | os.O_DSYNC
"""What of a guest's open flags reaches the host. Not O_DIRECT: it is past the guest's cache anyway, and would ask
its buffers for the host file system's alignment. Not O_APPEND: a program may change it at any time, and pages of shared
mappings come by any handle that may write; so each write says whether it appends."""

FINE_TICK, COARSE_TICK = 50_000_000, 2_100_000_000
"""Nanoseconds in which a file may be written twice and keep its time: on file systems that count less than
seconds (the kernel's tick is 1 to 10 ms), and on those that do not."""
SETTLED = 1  # bit of NodeTable.opened: the file's times were older than CachePolicy.settles then

_unpack_io = Struct("<QQII").unpack_from  # how fuse_read_in begins: fh, offset, size, read_flags
_unpack_write = Struct("<QQII8xI").unpack_from  # fuse_write_in: fh, offset, size, write_flags, open flags
_unpack_open = Struct("<II").unpack_from  # fuse_open_in
_unpack_handle = Struct("<Q").unpack_from  # how fuse_release_in begins
_pack_attr = Struct("<Q8x3Q3q10I").pack_into  # fuse_attr_out and fuse_entry_out without the fields that are 0 here
_pack_entry = Struct("<4Q8x3Q3q10I").pack_into
_pack_open = FUSE_OPEN_OUT.pack_into
_pack_written = Struct("<Q").pack_into  # fuse_write_out: size and padding in one
_KEEP_CACHE, _NOFLUSH = int(FuseOpened.FOPEN_KEEP_CACHE), int(FuseOpened.FOPEN_NOFLUSH)
_DIRECTORY = 0o4  # S_IFDIR >> 12
_OPENING = FuseOpcode.FUSE_OPEN << 8 | NOTED
_APPENDING = FuseOpcode.FUSE_WRITE << 8 | NOTED
_NOT_SHARED = os.O_ACCMODE | os.O_TRUNC
_U32, _U64 = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF
_preadv, _pwritev = os.preadv, os.pwritev
_fstat, _fstatat, _status, _pointer = syscalls.fstat, syscalls.fstatat, syscalls.status, syscalls.status_pointer
_unpack = syscalls.STATUS.unpack_from


class HotOperations:
    """`flushes`: whether a FLUSH could tell the guest anything (see files.py); `shares`: whether openings for reading
    may share a descriptor."""

    def __init__(self, share: Share, cache: CachePolicy, *, flushes: bool = False, shares: bool = True) -> None:
        self.share = share
        self.opened = int(cache.opened) | (0 if flushes else _NOFLUSH)  # a flag's own operators cost a microsecond
        self.settles = cache.settles * NS
        self.again = self.opened | (_KEEP_CACHE if cache.compares else 0)
        """What the guest is told of a file that is as it was when it was opened last."""
        self.negative = cache.negative
        self.valid = share.valid
        self.writeback = cache.writeback
        self.shares = shares
        self.fd = share.fd
        nodes = share.nodes
        self.nodes, self.fds, self.used, self.readable = nodes, nodes.fds, nodes.used, nodes.readable
        self.generations = nodes.generations
        self.files, self.file_fds = share.files, share.files.fds
        self.journal, self.given = share.journal, share.journal.given
        self.counted = share.statistics.words

    def lookup(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """A name in a directory: one fstatat, whether the inode is known or not; a directory is opened, too."""
        end = a + n - 1
        name = bytes(mem[a:end])
        # Short names may be "." or "..".
        if mem[end] or b"/" in name or b"\0" in name or not 3 < n <= MAX_NAME + 1:
            if mem[end]:
                raise error(errno.EINVAL)
            component(name)
        parent = header[3]
        directory = self.fds[parent] or self.fd(parent)
        self.used[parent] = 1
        if _fstatat(directory, name, _pointer, AT_SYMLINK_NOFOLLOW):
            number = get_errno()
            if number != errno.ENOENT or not self.negative:
                return REFUSED - number
            mem[o : o + ENTRY_SIZE] = bytes(ENTRY_SIZE)
            _pack_written(mem, o + 16, self.valid)
            return ENTRY_SIZE
        dev, ino, nlink, mode, uid, gid, rdev, size, blksize, blocks, at, atn, mt, mtn, ct, ctn = _unpack(_status)
        nodeid = self.nodes.learn(parent, name, dev, ino, mode)
        if mode >> 12 == _DIRECTORY and not self.fds[nodeid]:
            with suppress(OSError):
                self.fd(nodeid)  # the guest will go in, and may stay there while the host moves it
        flags = 0
        if dev != self.nodes.device:
            ino, flags = self.share.foreign(nodeid, ino, mode)
        # fmt: off
        _pack_entry(
            mem, o, nodeid, self.generations[nodeid], self.valid, self.valid, ino, size, blocks,
            at, mt, ct, atn, mtn, ctn, mode, nlink, uid, gid, rdev & _U32, blksize, flags,
        )
        # fmt: on
        return ENTRY_SIZE

    def getattr(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """The node's status; a handle that comes along names the same inode, so it is not looked at."""
        nodeid = header[3]
        fd = self.fds[nodeid]
        if _fstat(fd, _pointer) if fd else self._stat_by_name(nodeid):
            return REFUSED - get_errno()
        dev, ino, nlink, mode, uid, gid, rdev, size, blksize, blocks, at, atn, mt, mtn, ct, ctn = _unpack(_status)
        flags = 0
        if dev != self.nodes.device:
            ino, flags = self.share.foreign(nodeid, ino, mode)
        # fmt: off
        _pack_attr(
            mem, o, self.valid, ino, size, blocks,
            at, mt, ct, atn, mtn, ctn, mode, nlink, uid, gid, rdev & _U32, blksize, flags,
        )
        # fmt: on
        return ATTR_SIZE

    def _stat_by_name(self, nodeid: int) -> int:
        """fstat of a node that is not open. It is opened only where its name has become another inode's."""
        nodes = self.nodes
        if nodes.known(nodeid) and (parent := nodes.parents[nodeid]) != NAMELESS:
            with suppress(OSError):
                directory = self.fds[parent] or self.fd(parent)
                if not _fstatat(directory, nodes.names[nodeid], _pointer, AT_SYMLINK_NOFOLLOW):
                    dev, ino, _nlink, mode = _unpack(_status)[:4]
                    if nodes.find(dev, ino) == nodeid and nodes.kinds[nodeid] == mode >> 12:
                        return 0
        return _fstat(self.fd(nodeid), _pointer)

    def open(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """An opening for reading of a file that is as it was at the last one shares its descriptor, since every READ
        says where it reads."""
        flags, open_flags = _unpack_open(mem, a)
        self.given[GIVEN_FILE] = 0
        self.journal.current.words[STAGE] = _OPENING
        nodeid = header[3]
        for_reading = not flags & _NOT_SHARED and self.shares
        if for_reading and self.readable[nodeid]:
            fd = self.fds[nodeid]
            if not _fstat(fd, _pointer):
                _, _, links, _, _, _, _, size, _, _, _, _, *times = _unpack(_status)
                now = hash((size, *times)) & _U64 | SETTLED
                if links and self.nodes.opened[nodeid] | SETTLED == now:
                    settled = self._look(nodeid, now, *times[2:])
                    self.used[nodeid] = 1
                    _pack_open(mem, o, self.files.add(fd, nodeid), self.again if settled else self.opened, 0)
                    return OPEN_SIZE
        if self.files.in_use >= self.share.descriptors.limit:
            self.share.descriptors.admit()
        fd = self.open_node(nodeid, flags, open_flags, header[5])
        size = self.put_open(mem, o, fd, nodeid)
        if for_reading:
            self.share.descriptors.share(nodeid, fd)
        return size

    def open_node(self, nodeid: int, flags: int, open_flags: int, gid: int) -> int:
        """Opens a regular file by open(2) `flags` and fuse_open_in's `open_flags`, for a caller of group `gid`.
        Returns the descriptor."""
        share = self.share
        fd = share.regular(nodeid)
        access = self.access(flags)
        if access & _NOT_SHARED:
            if share.readonly:
                raise error(errno.EROFS)
            if open_flags & FUSE_OPEN_KILL_SUIDGID and access & os.O_TRUNC:
                share.drop_privileges(fd, gid)
        try:
            return share.reopen(fd, access)
        except PermissionError:  # the guest asked for less than we do, so that its cache can read
            if not self.writeback or not flags & os.O_WRONLY:
                raise
            return share.reopen(fd, access ^ os.O_RDWR ^ os.O_WRONLY)

    def access(self, flags: int) -> int:
        """What of a guest's open flags reaches the host. A guest that writes back later reads the rest of the pages
        that it writes a part of."""
        access = flags & OPEN_FLAGS
        if self.writeback and access & os.O_ACCMODE == os.O_WRONLY:
            access ^= os.O_WRONLY ^ os.O_RDWR
        return access

    def put_open(self, mem: memoryview, o: int, fd: int, nodeid: int, *, made: bool = False) -> int:
        """A handle for the descriptor `fd`, which is closed where this raises, and its fuse_open_out at `o`. Returns
        the size of that.

        Raises ESTALE where the file has lost its last name and the guest has it not open: the host has
        replaced it since the guest looked its name up, which it does again then."""
        if _fstat(fd, _pointer):
            number = get_errno()
            os.close(fd)
            raise error(number)
        _, _, links, _, _, _, _, size, _, _, _, _, *times = _unpack(_status)
        if not links and not made and next(self.files.of(nodeid), None) is None:
            os.close(fd)
            raise stale()
        now = hash((size, *times)) & _U64 | SETTLED
        opened = self.again if self._look(nodeid, now, *times[2:]) else self.opened
        _pack_open(mem, o, self.files.add(fd, nodeid), opened, 0)
        return OPEN_SIZE

    def _look(self, nodeid: int, now: int, changed: int, changed_ns: int) -> bool:
        """Notes what the file is like now that it is opened: `now` is of its size and times, with SETTLED. Returns
        whether it is what it was at the last opening, so that the pages which the guest has of it are good.

        Its times and size say so, once they are old enough that another write would have changed them: what is looked
        at before that is not remembered. A store into a page that a host program has mapped changes them only when
        the page was written back since the last one, so pages are good only if they were read after that.
        """
        before = 0 if self.journal.current.replaying else self.nodes.opened[nodeid]
        age = (time() - changed) * NS - changed_ns
        if age <= (FINE_TICK if changed_ns else COARSE_TICK):
            self.nodes.opened[nodeid] = 0
        else:
            self.nodes.opened[nodeid] = now if age > self.settles else now ^ SETTLED
        return bool(before == now)

    def release(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        try:
            self.files.remove(_unpack_handle(mem, a)[0])
        except OSError:
            if not self.journal.current.replaying:
                raise
        return 0

    def read(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """From the file straight into guest memory."""
        handle, offset, size, _flags = _unpack_io(mem, a)
        fd = self.file_fds[handle]
        if not fd:
            raise bad_descriptor()
        if data is None:
            if room < size:
                size = room
            read = _preadv(fd, (mem[o : o + size],), offset)
        else:
            read = _transfer(_preadv, fd, data if room == size else _first(data, size), offset)
        self.counted[BYTES_READ] += read
        return read

    def write(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """From guest memory straight into the file."""
        handle, offset, size, flags, opened = _unpack_write(mem, a)
        fd = self.file_fds[handle]
        if not fd:
            raise bad_descriptor()
        if data is None:
            data = (mem[a + WRITE_ARGS : a + n],)
        if flags & FUSE_WRITE_KILL_SUIDGID:
            self.share.drop_privileges(fd, header[5])
        there = len(data[0]) if len(data) == 1 else sum(map(len, data))
        if there != size:
            if there < size:
                raise error(errno.EINVAL)
            data = _first(data, size)
        if opened & os.O_APPEND and not flags & FUSE_WRITE_CACHE:
            written = self._append(header, fd, data, size)
        else:
            written = _transfer(_pwritev, fd, data, offset)
        self.counted[BYTES_WRITTEN] += written
        _pack_written(mem, o, written)
        return 8

    def _append(self, header: Header, fd: int, data: Sequence[memoryview], size: int) -> int:
        """To the end of the file as the host has it, whatever the guest believes that to be."""
        slot = self.journal.current
        facts = slot.recall()
        if facts is not None:
            return self._append_again(fd, b"".join(data), facts[0])
        slot.words[FACTS] = os.lseek(fd, 0, os.SEEK_END)  # half an fstat; nobody goes by where the descriptor stands
        slot.words[STAGE] = _APPENDING
        return _transfer(_append, fd, data, 0)

    def _append_again(self, fd: int, data: bytes, before: int) -> int:
        """In a replay, where the file was `before` bytes long: what is not there yet of `data`. If others have
        written to its end since, it is all there or not at all."""
        done = self._appended(fd, data, before)
        rest = memoryview(data)[done:]
        try:
            return done + (_transfer(_append, fd, (rest,), 0) if rest else 0)
        except OSError:  # a disk that got full in the middle
            if not done:
                raise
            return done

    def _appended(self, fd: int, data: bytes, before: int) -> int:
        """How many bytes of `data` are in the file already, which was `before` bytes long."""
        size = os.fstat(fd).st_size
        try:
            read = self.share.reopen(fd, os.O_RDONLY)
        except PermissionError:  # its owner may not read it, nor may we: then its size must do
            return min(max(0, size - before), len(data))
        try:
            there = os.pread(read, len(data), before)
            if data.startswith(there):
                return len(there)
            return len(data) if os.pread(read, len(data), max(before, size - len(data))) == data else 0
        finally:
            os.close(read)


def _append(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
    return _pwritev(fd, buffers, offset, os.RWF_APPEND)


def _first(buffers: Sequence[memoryview], size: int) -> list[memoryview]:
    """The first `size` bytes of `buffers`, or all there are."""
    found = []
    for buffer in buffers:
        if size <= 0:
            break
        found.append(buffer[:size])
        size -= len(buffer)
    return found


def _transfer(
    call: Callable[[int, Sequence[memoryview], int], int], fd: int, buffers: Sequence[memoryview], offset: int
) -> int:
    """preadv or pwritev of any number of buffers. Returns the bytes moved: fewer at the end of a file."""
    if len(buffers) <= IOV_MAX:
        return call(fd, buffers, offset)
    done = 0
    for first in range(0, len(buffers), IOV_MAX):
        part = buffers[first : first + IOV_MAX]
        moved = call(fd, part, offset + done)
        done += moved
        if moved < sum(map(len, part)):
            break
    return done
