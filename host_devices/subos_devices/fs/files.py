"""What else is done with open files: FLUSH, FSYNC, FALLOCATE, LSEEK, COPY_FILE_RANGE, and SYNCFS."""

from __future__ import annotations

import errno
import os
import stat

from subos_protocol.fuse import (
    FUSE_COPY_FILE_RANGE_IN,
    FUSE_FALLOCATE_IN,
    FUSE_FLUSH_IN,
    FUSE_FSYNC_IN,
    FUSE_LSEEK_IN,
    FUSE_LSEEK_OUT,
    FUSE_WRITE_OUT,
)
from subos_protocol.fuse_opcodes import FUSE_FSYNC_FDATASYNC

from . import syscalls
from .share import Data, Header, Share, error

_LONGEST_COPY = 256 << 20  # bytes of one COPY_FILE_RANGE: the guest asks again, and nobody else waits for long


class Files:
    """Operations on file handles."""

    def __init__(self, share: Share) -> None:
        self.share = share

    def flush(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """A close() in the guest, so that errors which the host file system keeps for close() reach it."""
        os.close(os.dup(self.share.files.get(FUSE_FLUSH_IN.unpack_from(mem, a)[0])))
        return 0

    def fsync(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        handle, flags, _padding = FUSE_FSYNC_IN.unpack_from(mem, a)
        sync = os.fdatasync if flags & FUSE_FSYNC_FDATASYNC else os.fsync
        sync(self.share.files.get(handle))
        return 0

    def fallocate(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        handle, offset, length, mode, _padding = FUSE_FALLOCATE_IN.unpack_from(mem, a)
        fd = self.share.files.get(handle)
        if max(offset, length, offset + length) >= 1 << 63:
            raise error(errno.EFBIG)
        syscalls.fallocate(fd, mode & 0x7FFF_FFFF, offset, length)
        return 0

    def lseek(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """Only SEEK_DATA and SEEK_HOLE need the file; the position itself is the guest's own."""
        handle, offset, whence, _padding = FUSE_LSEEK_IN.unpack_from(mem, a)
        fd = self.share.files.get(handle)
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE):
            raise error(errno.EINVAL)
        FUSE_LSEEK_OUT.pack_into(mem, o, os.lseek(fd, offset - (offset >> 63 << 64), whence))
        return FUSE_LSEEK_OUT.size

    def copy_file_range(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        handle_in, offset_in, _node, handle_out, offset_out, length, flags = FUSE_COPY_FILE_RANGE_IN.unpack_from(mem, a)
        source, target = self.share.files.get(handle_in), self.share.files.get(handle_out)
        if flags:
            raise error(errno.EINVAL)
        slot = self.share.journal.current
        (size, *_) = slot.recall() or (os.fstat(source).st_size,)
        slot.note(header[1], size)
        length = min(length, _LONGEST_COPY, max(0, size - offset_in))
        copied = os.copy_file_range(source, target, length, offset_in, offset_out)
        FUSE_WRITE_OUT.pack_into(mem, o, copied, 0)
        return FUSE_WRITE_OUT.size

    def syncfs(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """The file system that the node is on; syncfs(2) wants a descriptor that is really open."""
        nodeid = header[3]
        if self.share.nodes.kind(nodeid) not in (stat.S_IFDIR, stat.S_IFREG):
            raise error(errno.EINVAL)
        fd = self.share.reopen(self.share.fd(nodeid), os.O_RDONLY)
        try:
            syscalls.syncfs(fd)
        finally:
            os.close(fd)
        return 0
