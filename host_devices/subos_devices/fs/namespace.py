"""Names: making, linking, moving and removing them."""

from __future__ import annotations

import errno
import os
import stat

from subos_protocol.fuse import (
    FUSE_CREATE_IN,
    FUSE_ENTRY_OUT,
    FUSE_LINK_IN,
    FUSE_MKDIR_IN,
    FUSE_MKNOD_IN,
    FUSE_RENAME2_IN,
    FUSE_RENAME_IN,
)

from . import syscalls
from .hot import OPEN_FLAGS, HotOperations
from .share import Data, Header, Share, component, error, name_after, strings

_RENAME_FLAGS = 1 | 2 | 4  # linux/fs.h: RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT
_PATH_MAX = 4096  # linux/limits.h, with the NUL
_MAKE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Namespace:
    """Operations on names. What they make belongs to the caller."""

    def __init__(self, share: Share, hot: HotOperations) -> None:
        self.share = share
        self.hot = hot

    def _answer(self, directory: int, name: bytes, mem: memoryview, o: int) -> int:
        """The fuse_entry_out of what was just made."""
        return self.share.put_entry(mem, o, *self.share.find(directory, name))

    def mknod(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        mode, device, _umask, _padding = FUSE_MKNOD_IN.unpack_from(mem, a)
        name = name_after(mem, a, n, FUSE_MKNOD_IN.size)
        directory = self.share.nodes.fd(header[3])
        with self.share.caller(header):
            os.mknod(name, mode, device, dir_fd=directory)
        return self._answer(directory, name, mem, o)

    def mkdir(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        mode, _umask = FUSE_MKDIR_IN.unpack_from(mem, a)
        name = name_after(mem, a, n, FUSE_MKDIR_IN.size)
        directory = self.share.nodes.fd(header[3])
        with self.share.caller(header):
            os.mkdir(name, stat.S_IMODE(mode), dir_fd=directory)
        return self._answer(directory, name, mem, o)

    def symlink(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """The target is the guest's business: it is kept as it is, and never followed here."""
        name, target = strings(mem, a, n, 2)
        if not target or len(target) >= _PATH_MAX:
            raise error(errno.ENAMETOOLONG if target else errno.ENOENT)
        directory = self.share.nodes.fd(header[3])
        with self.share.caller(header):
            os.symlink(target, component(name), dir_fd=directory)
        return self._answer(directory, name, mem, o)

    def link(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """Through /proc/self/fd, which needs no capability and links a symlink itself."""
        (oldnodeid,) = FUSE_LINK_IN.unpack_from(mem, a)
        name = name_after(mem, a, n, FUSE_LINK_IN.size)
        old, directory = b"%d" % self.share.nodes.fd(oldnodeid), self.share.nodes.fd(header[3])
        os.link(old, name, src_dir_fd=self.share.proc, dst_dir_fd=directory, follow_symlinks=True)
        return self._answer(directory, name, mem, o)

    def unlink(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        os.unlink(name_after(mem, a, n, 0), dir_fd=self.share.nodes.fd(header[3]))
        return 0

    def rmdir(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        os.rmdir(name_after(mem, a, n, 0), dir_fd=self.share.nodes.fd(header[3]))
        return 0

    def rename(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        (newdir,) = FUSE_RENAME_IN.unpack_from(mem, a)
        return self._rename(header[3], newdir, 0, strings(mem, a + FUSE_RENAME_IN.size, n - FUSE_RENAME_IN.size, 2))

    def rename2(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        newdir, flags, _padding = FUSE_RENAME2_IN.unpack_from(mem, a)
        names = strings(mem, a + FUSE_RENAME2_IN.size, n - FUSE_RENAME2_IN.size, 2)
        return self._rename(header[3], newdir, flags, names)

    def _rename(self, olddir: int, newdir: int, flags: int, names: list[bytes]) -> int:
        old, new = map(component, names)
        if flags & ~_RENAME_FLAGS:
            raise error(errno.EINVAL)
        syscalls.renameat2(self.share.nodes.fd(olddir), old, self.share.nodes.fd(newdir), new, flags)
        return 0

    # --- making and opening in one

    def create(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """O_CREAT without O_EXCL may meet a fifo or a device that came in the meantime, so we only ever open(2)
        what we make; a file that is there already is opened as a node, which checks what it is."""
        flags, mode, _umask, open_flags = FUSE_CREATE_IN.unpack_from(mem, a)
        name = name_after(mem, a, n, FUSE_CREATE_IN.size)
        directory = self.share.nodes.fd(header[3])
        access = flags & OPEN_FLAGS & ~os.O_TRUNC | _MAKE
        try:
            with self.share.caller(header):
                fd = os.open(name, access, stat.S_IMODE(mode), dir_fd=directory)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            nodeid, status = self.share.find(directory, name)
            try:
                fd = self.hot.open_node(nodeid, flags, open_flags)
            except OSError:
                self.share.nodes.forget(nodeid, 1)
                raise
            self.share.put_entry(mem, o, nodeid, status)
            return FUSE_ENTRY_OUT.size + self.hot.put_open(mem, o + FUSE_ENTRY_OUT.size, fd, flags)
        return self._opened(fd, flags, mem, o)

    def tmpfile(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """A file without a name; the one that follows the structure means nothing."""
        flags, mode, _umask, _open_flags = FUSE_CREATE_IN.unpack_from(mem, a)
        directory = self.share.nodes.fd(header[3])
        access = flags & OPEN_FLAGS & ~os.O_TRUNC | flags & os.O_EXCL | os.O_TMPFILE | os.O_CLOEXEC
        with self.share.caller(header):
            fd = os.open(b".", access, stat.S_IMODE(mode), dir_fd=directory)
        return self._opened(fd, flags, mem, o)

    def _opened(self, fd: int, flags: int, mem: memoryview, o: int) -> int:
        """Entry and handle of a file that was just made and opened as `fd`."""
        try:
            nodeid, status = self.share.adopt(self.share.reopen(fd, os.O_PATH))
        except OSError:
            os.close(fd)
            raise
        self.share.put_entry(mem, o, nodeid, status)
        return FUSE_ENTRY_OUT.size + self.hot.put_open(mem, o + FUSE_ENTRY_OUT.size, fd, flags)
