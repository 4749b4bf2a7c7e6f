"""The operations that come by the million: LOOKUP, GETATTR, OPEN, READ, WRITE, RELEASE.

Plain Python, and written for it: precompiled structs, one pack a reply, no objects that outlive a request.
`requests.py` and this module are the seam for a compiled twin: server.py imports both by name, and nobody else does.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from struct import Struct

from subos_protocol.fuse import FUSE_ATTR_OUT, FUSE_ENTRY_OUT, FUSE_OPEN_OUT, FUSE_WRITE_IN
from subos_protocol.fuse_opcodes import FUSE_OPEN_KILL_SUIDGID, FUSE_WRITE_KILL_SUIDGID, FuseOpened

from .share import MAX_NAME, NS, Data, Header, Share, component, error

ATTR_SIZE, ENTRY_SIZE, OPEN_SIZE, WRITE_ARGS = (
    FUSE_ATTR_OUT.size,
    FUSE_ENTRY_OUT.size,
    FUSE_OPEN_OUT.size,
    FUSE_WRITE_IN.size,
)
IOV_MAX = 1024  # linux/uio.h: buffers that one preadv or pwritev takes
LAST_OFFSET = (1 << 63) - 1  # of off_t

OPEN_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_TRUNC | os.O_SYNC | os.O_DSYNC
"""What of a guest's open flags reaches the host. Not O_DIRECT: it is past the guest's cache anyway, and would ask
its buffers for the host file system's alignment."""

_unpack_io = Struct("<QQII").unpack_from  # how fuse_read_in and fuse_write_in begin: fh, offset, size, flags
_unpack_open = Struct("<II").unpack_from  # fuse_open_in
_unpack_handle = Struct("<Q").unpack_from  # how fuse_release_in begins
_pack_attr = Struct("<Q8x3Q3q9I4x").pack_into  # fuse_attr_out and fuse_entry_out without the fields that are 0 here
_pack_entry = Struct("<4Q8x3Q3q9I4x").pack_into
_pack_open = FUSE_OPEN_OUT.pack_into
_pack_written = Struct("<Q").pack_into  # fuse_write_out: size and padding in one
_NOFLUSH = int(FuseOpened.FOPEN_NOFLUSH)
_stat, _fstat, _preadv, _pwritev = os.stat, os.fstat, os.preadv, os.pwritev


class HotOperations:
    """`opened` are the FuseOpened flags of a file that was opened; with `negative`, missing names are cached too."""

    def __init__(self, share: Share, opened: int = 0, negative: bool = False) -> None:
        self.share = share
        self.opened = int(opened)  # a flag's own operators cost a microsecond
        self.negative = negative
        self.valid = share.valid
        nodes = share.nodes
        self.device, self.fds, self.ids = nodes.device, nodes.fds, nodes.ids
        self.lookups, self.generations = nodes.lookups, nodes.generations
        self.files = share.files.items

    def lookup(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """A name in a directory: one fstatat where the inode is known, and an open besides where it is not."""
        end = a + n - 1
        name = bytes(mem[a:end])
        # Short names may be "." or ".."; fstatat itself refuses an inner NUL (ValueError).
        if mem[end] or b"/" in name or not 3 < n <= MAX_NAME + 1:
            if mem[end]:
                raise error(errno.EINVAL)
            component(name)
        directory = self.fds[header[3]]
        try:
            st = _stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            if not self.negative:
                raise
            mem[o : o + ENTRY_SIZE] = bytes(ENTRY_SIZE)
            _pack_written(mem, o + 16, self.valid)
            return ENTRY_SIZE
        mode, ino, dev, nlink, uid, gid, size, atime, mtime, ctime = st[:10]
        nodeid = self.ids.get((dev, ino))
        if nodeid is None:
            # What is opened may be another inode by now: its own status counts.
            nodeid, st = self.share.find(directory, name)
            return self.share.put_entry(mem, o, nodeid, st)
        self.lookups[nodeid] += 1
        if dev != self.device:
            ino = self.share.inode(dev, ino)
        # fmt: off
        _pack_entry(
            mem, o, nodeid, self.generations[nodeid], self.valid, self.valid, ino, size, st.st_blocks,
            atime, mtime, ctime, st.st_atime_ns % NS, st.st_mtime_ns % NS, st.st_ctime_ns % NS,
            mode, nlink, uid, gid, st.st_rdev, st.st_blksize,
        )
        # fmt: on
        return ENTRY_SIZE

    def getattr(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """The node's status; a handle that comes along names the same inode, so it is not looked at."""
        st = _fstat(self.fds[header[3]])
        mode, ino, dev, nlink, uid, gid, size, atime, mtime, ctime = st[:10]
        if dev != self.device:
            ino = self.share.inode(dev, ino)
        # fmt: off
        _pack_attr(
            mem, o, self.valid, ino, size, st.st_blocks,
            atime, mtime, ctime, st.st_atime_ns % NS, st.st_mtime_ns % NS, st.st_ctime_ns % NS,
            mode, nlink, uid, gid, st.st_rdev, st.st_blksize,
        )
        # fmt: on
        return ATTR_SIZE

    def open(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        flags, open_flags = _unpack_open(mem, a)
        return self.put_open(mem, o, self.open_node(header[3], flags, open_flags), flags)

    def open_node(self, nodeid: int, flags: int, open_flags: int) -> int:
        """Opens a regular file by open(2) `flags` and fuse_open_in's `open_flags`. Returns the descriptor."""
        share = self.share
        fd = share.regular(nodeid)
        access = flags & OPEN_FLAGS
        if access & (os.O_ACCMODE | os.O_TRUNC):
            if share.readonly:
                raise error(errno.EROFS)
            if access & os.O_ACCMODE == os.O_ACCMODE:
                raise error(errno.EINVAL)
            if open_flags & FUSE_OPEN_KILL_SUIDGID and access & os.O_TRUNC:
                share.drop_privileges(fd)
        return share.reopen(fd, access)

    def put_open(self, mem: memoryview, o: int, fd: int, flags: int) -> int:
        """A handle for the descriptor `fd`, and its fuse_open_out at `o`. Returns the size of that."""
        opened = self.opened
        if not flags & os.O_ACCMODE:
            opened |= _NOFLUSH  # a file that is only read has no late errors to tell at close
        _pack_open(mem, o, self.share.files.add(fd), opened, 0)
        return OPEN_SIZE

    def release(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        os.close(self.share.files.remove(_unpack_handle(mem, a)[0]))
        return 0

    def read(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """From the file straight into guest memory."""
        handle, offset, size, _flags = _unpack_io(mem, a)
        fd = self.files[handle]
        if data is None:
            if room < size:
                size = room
            return _preadv(fd, (mem[o : o + size],), offset)
        return _transfer(_preadv, fd, data if room == size else _first(data, size), offset)

    def write(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """From guest memory straight into the file."""
        handle, offset, size, flags = _unpack_io(mem, a)
        fd = self.files[handle]
        if data is None:
            data = (mem[a + WRITE_ARGS : a + n],)
        if flags & FUSE_WRITE_KILL_SUIDGID and fd >= 0:
            self.share.drop_privileges(fd)
        there = len(data[0]) if len(data) == 1 else sum(map(len, data))
        if there != size:
            if there < size:
                raise error(errno.EINVAL)
            data = _first(data, size)
        written = _transfer(_pwritev, fd, data, offset)
        _pack_written(mem, o, written)
        return 8


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
