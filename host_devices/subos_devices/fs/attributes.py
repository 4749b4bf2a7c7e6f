"""What a node says about itself: SETATTR, STATX, READLINK, STATFS, ACCESS, and its extended attributes."""

from __future__ import annotations

import errno
import os
import stat

from subos_protocol.fuse import (
    FUSE_ACCESS_IN,
    FUSE_GETXATTR_IN,
    FUSE_GETXATTR_OUT,
    FUSE_SETATTR_IN,
    FUSE_SETXATTR_IN,
    FUSE_SETXATTR_SHORT,
    FUSE_STATFS_OUT,
    FUSE_STATX_IN,
    FUSE_STATX_OUT,
    fuse_setattr_in,
    fuse_statfs_out,
)
from subos_protocol.fuse_opcodes import FUSE_SETXATTR_ACL_KILL_SGID, FuseSetattr

from . import syscalls
from .share import UNCHANGED, Data, Header, Operation, Share, error, strings
from .xattrs import TRUSTED, Xattrs

_STATX_SYNC = 0x6000  # linux/fcntl.h, AT_STATX_SYNC_TYPE: all that a guest may choose
_STATX_INO = 32  # offset in struct statx, u64 stx_ino

MODE, UID, GID, SIZE, ATIME, MTIME, FH, ATIME_NOW, MTIME_NOW = (int(FuseSetattr(1 << bit)) for bit in range(9))
_CHANGES = MODE | UID | GID | SIZE | ATIME | MTIME | ATIME_NOW | MTIME_NOW
KILL = int(FuseSetattr.FATTR_KILL_SUIDGID)


class Attributes:
    """`getattr` ends a SETATTR; `setxattr_ext` says which form of fuse_setxattr_in was negotiated."""

    def __init__(self, share: Share, getattr: Operation, xattrs: Xattrs) -> None:
        self.share = share
        self.xattrs = xattrs
        self.getattr = getattr
        self.setxattr_ext = False

    def setattr(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """Mode, owner, size, times, in this order: a change of owner or size may clear suid, and touches mtime."""
        asked = fuse_setattr_in(*FUSE_SETATTR_IN.unpack_from(mem, a))
        valid = asked.valid
        fd = self.share.fd(header[3])
        if valid & MODE:
            self.share.chmod(fd, asked.mode)
            self.xattrs.mode_changed(fd, asked.mode)
        if valid & (UID | GID) or not valid & _CHANGES:
            # Nothing at all is asked for where only suid and sgid are to go (chown(-1, -1), or before fallocate). That
            # sgid goes too where the group may not execute depends on who asks, which the host's chown cannot know.
            if not valid & _CHANGES and header[4]:
                self.share.drop_privileges(fd, header[5])
            self.share.chown(fd, asked.uid if valid & UID else UNCHANGED, asked.gid if valid & GID else UNCHANGED)
        if valid & SIZE:
            self._truncate(header, asked)
        if valid & (ATIME | MTIME | ATIME_NOW | MTIME_NOW):
            syscalls.utimens(
                fd,
                _time(valid & ATIME, valid & ATIME_NOW, asked.atime, asked.atimensec),
                _time(valid & MTIME, valid & MTIME_NOW, asked.mtime, asked.mtimensec),
            )
        return self.getattr(header, mem, a, n, o, room, data)

    def _truncate(self, header: Header, asked: fuse_setattr_in) -> None:
        node = self.share.regular(header[3])
        if asked.valid & KILL:
            self.share.drop_privileges(node, header[5])
        if asked.valid & FH:
            os.ftruncate(self.share.files.get(asked.fh), asked.size)
            return
        fd = self.share.reopen(node, os.O_WRONLY)
        try:
            os.ftruncate(fd, asked.size)
        finally:
            os.close(fd)

    def statx(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        _flags, _reserved, _fh, flags, mask = FUSE_STATX_IN.unpack_from(mem, a)
        nodeid = header[3]
        fd = self.share.fd(nodeid)
        status = syscalls.statx(fd, flags & _STATX_SYNC, mask)
        if self.share.nodes.devices[nodeid]:
            st = os.fstat(fd)
            ino, _ = self.share.foreign(nodeid, st.st_ino, st.st_mode)
            status[_STATX_INO : _STATX_INO + 8] = ino.to_bytes(8, "little")
        FUSE_STATX_OUT.pack_into(mem, o, self.share.valid, 0, 0, bytes(16), bytes(status))
        return FUSE_STATX_OUT.size

    def readlink(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        return _put(mem, o, room, os.readlink(b"", dir_fd=self.share.fd(header[3])), errno.ENAMETOOLONG)

    def statfs(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """Of the file system that the node is on."""
        of = os.fstatvfs(self.share.fd(header[3]))
        sizes = of.f_bsize & 0xFFFF_FFFF, of.f_namemax & 0xFFFF_FFFF, of.f_frsize & 0xFFFF_FFFF
        answer = fuse_statfs_out(of.f_blocks, of.f_bfree, of.f_bavail, of.f_files, of.f_ffree, *sizes, 0, bytes(24))
        FUSE_STATFS_OUT.pack_into(mem, o, *answer)
        return FUSE_STATFS_OUT.size

    def access(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """Permissions are the guest kernel's to check, which it does by mode; what is left is the read-only share."""
        mask, _padding = FUSE_ACCESS_IN.unpack_from(mem, a)
        self.share.fd(header[3])
        if mask & os.W_OK and self.share.readonly:
            raise error(errno.EROFS)
        return 0

    # --- extended attributes

    def setxattr(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        layout = FUSE_SETXATTR_IN if self.setxattr_ext else FUSE_SETXATTR_SHORT
        if n < layout.size:
            raise error(errno.EINVAL)
        size, flags, *rest = layout.unpack_from(mem, a)
        name, nul, value = bytes(mem[a + layout.size : a + n]).partition(b"\0")
        if not name or not nul or len(value) != size:
            raise error(errno.EINVAL)
        fd = self.share.fd(header[3])
        if flags & os.XATTR_CREATE and self._was_there(header, fd, name) is False:
            flags ^= os.XATTR_CREATE  # what is there now is this request's own
        self.xattrs.set(fd, name, value, flags)
        if rest and rest[0] & FUSE_SETXATTR_ACL_KILL_SGID:
            self.share.chmod(fd, self.share.mode(fd) & ~stat.S_ISGID)
        return 0

    def getxattr(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        size, _padding = FUSE_GETXATTR_IN.unpack_from(mem, a)
        name = strings(mem, a + FUSE_GETXATTR_IN.size, n - FUSE_GETXATTR_IN.size, 1)[0]
        return _value(mem, o, room, size, self.xattrs.get(self.share.fd(header[3]), name))

    def listxattr(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        size, _padding = FUSE_GETXATTR_IN.unpack_from(mem, a)
        names = self.xattrs.list(self.share.fd(header[3]))
        if header[4]:  # as simple_xattr_list in fs/xattr.c, but that root may have lost CAP_SYS_ADMIN is not told
            names = (name for name in names if not name.startswith(TRUSTED))
        return _value(mem, o, room, size, b"".join(name + b"\0" for name in names))

    def removexattr(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        fd, name = self.share.fd(header[3]), strings(mem, a, n, 1)[0]
        was_there = self._was_there(header, fd, name)
        try:
            self.xattrs.remove(fd, name)
        except OSError as refusal:
            if refusal.errno != errno.ENODATA or not was_there:
                raise
        return 0

    def _was_there(self, header: Header, fd: int, name: bytes) -> bool | None:
        """Whether there was such an attribute before this request, where it is a replay; else None, and it is noted."""
        slot = self.share.journal.current
        facts = slot.recall()
        if facts is not None:
            return bool(facts[0])
        try:
            self.xattrs.get(fd, name)
        except OSError as refusal:
            slot.note(header[1], refusal.errno != errno.ENODATA)
        else:
            slot.note(header[1], 1)
        return None


def _time(given: int, now: int, seconds: int, nanoseconds: int) -> tuple[int, int]:
    if now:
        return 0, syscalls.UTIME_NOW
    if not given:
        return 0, syscalls.UTIME_OMIT
    if nanoseconds > 999_999_999:  # the numbers beyond have meanings that only we may give them
        raise error(errno.EINVAL)
    return seconds, nanoseconds


def _value(mem: memoryview, o: int, room: int, size: int, value: bytes) -> int:
    """Answers GETXATTR or LISTXATTR: the size where it was asked for, else the value."""
    if size == 0:
        return _put(mem, o, room, FUSE_GETXATTR_OUT.struct.pack(len(value), 0), errno.ERANGE)
    return _put(mem, o, min(room, size), value, errno.ERANGE)


def _put(mem: memoryview, o: int, room: int, answer: bytes, too_long: int) -> int:
    if len(answer) > room:
        raise error(too_long)
    mem[o : o + len(answer)] = answer
    return len(answer)
