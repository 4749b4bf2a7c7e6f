"""Owners, modes and device nodes that the host does not store: `ownership=xattr`.

Whatever the guest makes on the share is the server's own on the host. What the guest is to see of it is kept in the
extended attribute `user.subos.stat` of files and directories, one line of text:

    UID GID MODE MAJOR:MINOR        as in: 0 42 102755 0:0

The mode is octal, with the type. A device node, fifo or socket is an empty regular file with such a line, and never
opened. Symlinks cannot have such attributes: they keep the host's owner. Others may have written on the host:
a line that is not exactly as we write it counts for nothing, as does one that makes a folder of a file.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from .identity import IDS
from .share import UNCHANGED, Header, Share, error, privileges

NAME = b"user.subos.stat"
STUBS = (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)
_LONGEST = 40  # bytes of a line
_LINE = re.compile(rb"(\d{1,10}) (\d{1,10}) ([0-7]{5,6}) (\d{1,4}):(\d{1,7})")
_FITTING = {stat.S_IFREG: (stat.S_IFREG, *STUBS), stat.S_IFDIR: (stat.S_IFDIR,)}
"""By what a node is on the host: what the guest may see in it."""


class Kept(NamedTuple):
    """What the guest sees. `rdev` is as in stat."""

    uid: int
    gid: int
    mode: int
    rdev: int = 0

    def pack(self) -> bytes:
        rdev = os.major(self.rdev), os.minor(self.rdev)
        return b"%d %d %o %d:%d" % (self.uid, self.gid, self.mode, *rdev)


def parse(line: bytes, host_mode: int) -> Kept | None:
    """What a line says of a node that is of `host_mode` on the host; None where it says nothing."""
    match = _LINE.fullmatch(line) if len(line) <= _LONGEST else None
    if match is None:
        return None
    uid, gid, major, minor = (int(match[index]) for index in (1, 2, 4, 5))
    mode = int(match[3], 8)
    fits = stat.S_IFMT(mode) in _FITTING.get(stat.S_IFMT(host_mode), ())
    if not fits or max(uid, gid) >= IDS or major >= 1 << 12 or minor >= 1 << 20:
        return None
    kept = Kept(uid, gid, mode, os.makedev(major, minor))
    return kept if kept.pack() == line else None


class KeptShare(Share):
    """A share whose guest owns and chmods what it likes, while all is ours."""

    def seen(self, fd: int) -> Kept:
        """What the guest sees of a node."""
        here = os.fstat(fd)
        kept = self.kept(b"/proc/self/fd/%d" % fd, here.st_mode)
        if kept is not None:
            return kept
        users, groups = self.identity.users, self.identity.groups
        return Kept(users.guest(here.st_uid), groups.guest(here.st_gid), here.st_mode, here.st_rdev)

    def kept(self, path: bytes, host_mode: int, *, follow: bool = True) -> Kept | None:
        """What is kept of a node; `follow` is for paths that end in a descriptor's number. None without a line of ours,
        and where we may not read it, or it is gone. Raises EIO, ENOMEM."""
        if stat.S_IFMT(host_mode) not in _FITTING:
            return None
        try:
            return parse(os.getxattr(path, NAME, follow_symlinks=follow), host_mode)
        except OSError as refusal:
            if refusal.errno in (errno.EIO, errno.ENOMEM):
                raise
            return None

    def keep(self, fd: int, kept: Kept) -> None:
        """Keeps it, and gives the host's file what fits of the mode, so that we ourselves can go on with it."""
        here = os.fstat(fd).st_mode
        ours = self.made_as(kept.mode)
        if stat.S_IFMT(here) != stat.S_IFMT(ours):  # a device node or fifo that the host made
            raise error(errno.EPERM)
        if stat.S_IMODE(here) != stat.S_IMODE(ours):
            super().chmod(fd, ours)
        os.setxattr(f"/proc/self/fd/{fd}", NAME, kept.pack())

    # --- what a share does, done here by what is kept

    @contextmanager
    def caller(self, header: Header, umask: int = 0) -> Iterator[None]:
        """Whoever asks, it is ours on the host, and `settle` says whose in the guest. Raises EPERM as Share's does."""
        self.identity.users.host(header[4])
        self.identity.groups.host(header[5])
        os.umask(umask & 0o077)
        yield

    def made_as(self, mode: int) -> int:
        if stat.S_ISDIR(mode):
            return stat.S_IFDIR | mode & 0o777 | 0o700
        if stat.S_IFMT(mode) in STUBS:
            return stat.S_IFREG | 0o600
        return stat.S_IFMT(mode) | mode & 0o777 | 0o600

    def settle(self, fd: int, parent: int, header: Header, mode: int, device: int, *, inherited: bool) -> None:
        above = self.seen(parent)
        uid, gid = self.identity.users.shown(header[4]), self.identity.groups.shown(header[5])
        if above.mode & stat.S_ISGID:
            gid = above.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        self.keep(fd, Kept(uid, gid, mode, device if stat.S_IFMT(mode) in (stat.S_IFCHR, stat.S_IFBLK) else 0))

    def mode(self, fd: int) -> int:
        return self.seen(fd).mode

    def group(self, fd: int) -> int:
        return self.seen(fd).gid

    def chmod(self, fd: int, mode: int) -> None:
        seen = self.seen(fd)
        self.keep(fd, seen._replace(mode=stat.S_IFMT(seen.mode) | stat.S_IMODE(mode)))

    def chown(self, fd: int, uid: int, gid: int) -> None:
        """suid and sgid go with it, as in the kernel. Symlinks stay whose they are."""
        new_uid = None if uid == UNCHANGED else self.identity.users.shown(uid)
        new_gid = None if gid == UNCHANGED else self.identity.groups.shown(gid)
        seen = self.seen(fd)
        if stat.S_ISLNK(seen.mode):
            return
        mode = seen.mode if stat.S_ISDIR(seen.mode) else seen.mode & ~privileges(seen.mode)
        uid, gid = seen.uid if new_uid is None else new_uid, seen.gid if new_gid is None else new_gid
        self.keep(fd, Kept(uid, gid, mode, seen.rdev))

    def regular(self, nodeid: int) -> int:
        """As Share's: what the guest takes for a device, fifo or socket is refused too."""
        fd = super().regular(nodeid)
        if not stat.S_ISREG(self.mode(fd)):
            raise error(errno.ENXIO)
        return fd
