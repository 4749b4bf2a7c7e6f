"""Names: making, linking, moving and removing them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import nullcontext, suppress

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
from .descriptors import stale
from .hot import HotOperations
from .nodes import NAMELESS
from .share import NOTHING, Data, Header, Operation, Seen, Share, component, error, look, name_after, strings

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4  # linux/fs.h
_RENAME_FLAGS = RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT
_PATH_MAX = 4096  # linux/limits.h, with the NUL
_MAKE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Finish = Callable[[Header, int, int, int, int], None]


class Namespace:
    """Operations on names. What they make belongs to the caller, with the caller's umask or what the directory's
    default ACL says: the host decides that, as it does for its own processes."""

    def __init__(self, share: Share, hot: HotOperations, finish: Finish | None = None) -> None:
        """`finish`, if there is more to do than the host does itself, is called with the header, node, mode (with its
        type), umask and device number of what was just made. It raises OSError, and then all is undone."""
        self.share = share
        self.hot = hot
        self.finish = finish

    def fresh(self, operation: Operation) -> Operation:
        """`operation`, but where the directory itself was removed on the host, its names are not missing but stale:
        the guest looks its path up again, and finds the one that took its place."""

        def checked(header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
            try:
                return operation(header, mem, a, n, o, room, data)
            except FileNotFoundError as missing:
                if os.fstat(self.share.fd(header[3])).st_nlink == 0:
                    raise stale() from missing
                raise

        return checked

    def _answer(
        self, header: Header, name: bytes, mem: memoryview, o: int, mode: int, umask: int = 0, device: int = 0
    ) -> int:
        """The fuse_entry_out of what was just made."""
        nodeid, status = self.share.find(header[3], name)
        if self.finish is not None:
            status = self._finished(header, nodeid, mode, umask, device)
        return self.share.put_entry(mem, o, nodeid, status)

    def _finished(self, header: Header, nodeid: int, mode: int, umask: int, device: int = 0) -> os.stat_result:
        """Its status, once it is as it should be; or else it is gone again."""
        share = self.share
        try:
            if self.finish is not None:
                self.finish(header, nodeid, mode, umask, device)
            return os.fstat(share.fd(nodeid))
        except OSError:
            parent, name = share.nodes.parents[nodeid], share.nodes.names[nodeid]
            remove = os.rmdir if stat.S_ISDIR(mode) else os.unlink
            with suppress(OSError):
                if parent and share.nodes.is_same(
                    nodeid, os.stat(name, dir_fd=share.fd(parent), follow_symlinks=False)
                ):
                    remove(name, dir_fd=share.fd(parent))
            share.unlearn(nodeid)
            raise

    def _was_made(self, header: Header, directory: int, name: bytes, fits: Callable[[Seen], bool]) -> bool:
        """Whether `name` is what an earlier try of this request has made: it was not there before, and what it is now
        `fits`. The first time it is noted whether it is there."""
        slot = self.share.journal.current
        facts, seen = slot.recall(), look(directory, name)
        if facts is None:
            slot.note(header[1], seen != NOTHING)
            return False
        return not facts[0] and seen != NOTHING and fits(seen)

    def mknod(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        mode, device, umask, _padding = FUSE_MKNOD_IN.unpack_from(mem, a)
        mode = mode if stat.S_IFMT(mode) else mode | stat.S_IFREG
        name = name_after(mem, a, n, FUSE_MKNOD_IN.size)
        directory, host_mode = self.share.fd(header[3]), self.share.made_as(mode)
        if not self._was_made(header, directory, name, lambda seen: _is_kind(seen, host_mode)):
            with self.share.caller(header, umask):
                os.mknod(name, host_mode, device, dir_fd=directory)
        return self._answer(header, name, mem, o, mode, umask, device)

    def mkdir(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        mode, umask = FUSE_MKDIR_IN.unpack_from(mem, a)
        name = name_after(mem, a, n, FUSE_MKDIR_IN.size)
        directory = self.share.fd(header[3])
        mode = stat.S_IFDIR | stat.S_IMODE(mode)
        if not self._was_made(header, directory, name, lambda seen: _is_kind(seen, mode)):
            with self.share.caller(header, umask):
                os.mkdir(name, stat.S_IMODE(self.share.made_as(mode)), dir_fd=directory)
        return self._answer(header, name, mem, o, mode, umask)

    def symlink(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """The target is the guest's business: it is kept as it is, and never followed here."""
        name, target = strings(mem, a, n, 2)
        component(name)
        if not target or len(target) >= _PATH_MAX:
            raise error(errno.ENAMETOOLONG if target else errno.ENOENT)
        directory = self.share.fd(header[3])

        def fits(seen: Seen) -> bool:
            return stat.S_ISLNK(seen[2]) and os.readlink(name, dir_fd=directory) == target

        if not self._was_made(header, directory, name, fits):
            with self.share.caller(header):
                os.symlink(target, name, dir_fd=directory)
        return self._answer(header, name, mem, o, stat.S_IFLNK | 0o777)

    def link(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """Through /proc/self/fd, which needs no capability and links a symlink itself."""
        (oldnodeid,) = FUSE_LINK_IN.unpack_from(mem, a)
        name = name_after(mem, a, n, FUSE_LINK_IN.size)
        share = self.share
        directory, old = share.descriptors.both(header[3], oldnodeid)
        if share.nodes.orphans[oldnodeid]:
            old = next(share.files.of(oldnodeid), old)  # made without a name: Linux links the open file itself only
        itself = os.fstat(old)
        if not self._was_made(header, directory, name, lambda seen: seen[:2] == (itself.st_dev, itself.st_ino)):
            os.link(b"%d" % old, name, src_dir_fd=share.proc, dst_dir_fd=directory, follow_symlinks=True)
        share.nodes.orphans[oldnodeid] = 0
        return share.put_entry(mem, o, *share.find(header[3], name))

    def unlink(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        return self._remove(os.unlink, header, name_after(mem, a, n, 0))

    def rmdir(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        return self._remove(os.rmdir, header, name_after(mem, a, n, 0))

    def _remove(self, call: Callable[..., None], header: Header, name: bytes) -> int:
        share, parent = self.share, header[3]
        facts = share.journal.current.recall()
        inode = NOTHING[:2] if facts is None else (facts[0], facts[1])
        if inode != NOTHING[:2] and look(share.fd(parent), name)[:2] != inode:
            share.lost(parent, name, *inode)
            return 0
        with share.losing(parent, name) as seen:
            share.journal.current.note(header[1], *seen[:2])
            call(name, dir_fd=share.fd(parent))
        return 0

    def rename(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        (newdir,) = FUSE_RENAME_IN.unpack_from(mem, a)
        return self._rename(header, newdir, 0, strings(mem, a + FUSE_RENAME_IN.size, n - FUSE_RENAME_IN.size, 2))

    def rename2(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        newdir, flags, _padding = FUSE_RENAME2_IN.unpack_from(mem, a)
        names = strings(mem, a + FUSE_RENAME2_IN.size, n - FUSE_RENAME2_IN.size, 2)
        return self._rename(header, newdir, flags, names)

    def _rename(self, header: Header, newdir: int, flags: int, names: list[bytes]) -> int:
        share, olddir = self.share, header[3]
        old, new = map(component, names)
        if flags & ~_RENAME_FLAGS:
            raise error(errno.EINVAL)
        keeps = flags & (RENAME_NOREPLACE | RENAME_EXCHANGE)
        if not self._was_moved(olddir, old, newdir, new, flags):
            with nullcontext(NOTHING) if keeps else share.losing(newdir, new) as target:
                first, second = share.descriptors.both(olddir, newdir)
                if flags & RENAME_EXCHANGE:
                    target = look(second, new)
                share.journal.current.note(header[1], *look(first, old)[:2], *target[:2])
                syscalls.renameat2(first, old, second, new, flags)
        share.moved(newdir, new)
        if flags & RENAME_EXCHANGE:
            share.moved(olddir, old)
        return 0

    def _was_moved(self, olddir: int, old: bytes, newdir: int, new: bytes, flags: int) -> bool:
        """Whether an earlier try of this request has moved it. What it replaced is lost then."""
        share = self.share
        facts = share.journal.current.recall()
        if facts is None:
            return False
        source, target = (facts[0], facts[1]), (facts[2], facts[3])
        first, second = share.descriptors.both(olddir, newdir)
        left, came = look(first, old)[:2], look(second, new)[:2]
        if source == NOTHING[:2] or came != source or left == source:
            return False
        if flags & RENAME_EXCHANGE:
            return left == target
        if target != NOTHING[:2]:
            share.lost(newdir, new, *target)
        return True

    # --- making and opening in one

    def create(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """O_CREAT without O_EXCL may meet a fifo or a device that came in the meantime, so we only ever open(2)
        what we make; a file that is there already is opened as a node, which checks what it is."""
        flags, mode, umask, open_flags = FUSE_CREATE_IN.unpack_from(mem, a)
        name = name_after(mem, a, n, FUSE_CREATE_IN.size)
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        parent, share = header[3], self.share
        share.descriptors.admit()
        directory, as_mode = share.fd(parent), stat.S_IMODE(share.made_as(mode))
        again = self._was_made(header, directory, name, lambda seen: stat.S_ISREG(seen[2]))
        access = self.hot.access(flags) & ~os.O_TRUNC
        try:
            if again:
                fd = self._open_made(directory, name, access)
            else:
                with share.caller(header, umask):
                    fd = os.open(name, access | _MAKE, as_mode, dir_fd=directory)
            made = True
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            made = False
            nodeid, status = share.find(parent, name)
            try:
                fd = self.hot.open_node(nodeid, flags, open_flags, header[5])
                if flags & os.O_TRUNC:
                    status = os.fstat(fd)
            except OSError:
                share.unlearn(nodeid)
                raise
        else:
            try:
                status = os.fstat(fd)
                nodeid = share.learn(parent, name, status)
                if self.finish is not None:
                    status = self._finished(header, nodeid, mode, umask)
            except OSError:
                os.close(fd)
                raise
        share.put_entry(mem, o, nodeid, status)
        if not made:  # a kernel takes what it hears here of the length for newer than what it has written meanwhile
            mem[o + 24 : o + 32] = bytes(8)  # attr_valid
        try:
            return FUSE_ENTRY_OUT.size + self.hot.put_open(mem, o + FUSE_ENTRY_OUT.size, fd, nodeid, made=made)
        except OSError:
            share.unlearn(nodeid)
            raise

    def _open_made(self, directory: int, name: bytes, access: int) -> int:
        """What an earlier try of this request has made, as whoever makes a file opens it: whatever its mode is."""
        share = self.share
        node = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            if not stat.S_ISREG(os.fstat(node).st_mode):
                raise stale()
            share.undo_lent(node)
            try:
                return share.reopen(node, access)
            except PermissionError:
                with share.lent(node):
                    return share.reopen(node, access)
        finally:
            os.close(node)

    def tmpfile(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """A file without a name; the one that follows the structure means nothing."""
        flags, mode, umask, _open_flags = FUSE_CREATE_IN.unpack_from(mem, a)
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        share = self.share
        share.descriptors.admit()
        directory = share.fd(header[3])
        access = self.hot.access(flags) & ~os.O_TRUNC | flags & os.O_EXCL | os.O_TMPFILE | os.O_CLOEXEC
        share.journal.current.note(header[1])
        with share.caller(header, umask):
            fd = os.open(b".", access, stat.S_IMODE(share.made_as(mode)), dir_fd=directory)
        nodeid = 0
        try:
            status = os.fstat(fd)
            nodeid = share.learn(NAMELESS, b"", status)
            share.descriptors.hold(nodeid, share.reopen(fd, os.O_PATH))
            share.nodes.orphans[nodeid] = 1
            if self.finish is not None:
                self.finish(header, nodeid, mode, umask, 0)
                status = os.fstat(fd)
        except OSError:
            os.close(fd)
            if nodeid:
                share.unlearn(nodeid)
            raise
        share.put_entry(mem, o, nodeid, status)
        try:
            return FUSE_ENTRY_OUT.size + self.hot.put_open(mem, o + FUSE_ENTRY_OUT.size, fd, nodeid, made=True)
        except OSError:
            share.unlearn(nodeid)
            raise


def _is_kind(seen: Seen, mode: int) -> bool:
    return stat.S_IFMT(seen[2]) == stat.S_IFMT(mode)
