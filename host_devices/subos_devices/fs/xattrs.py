"""Extended attributes: the host's own, or those kept in its `user.` attributes where it would refuse them.

All take any descriptor of the node, O_PATH ones too. The calls themselves know neither O_PATH nor dir_fd, so they
go through /proc/self/fd, which names the node itself, a symlink too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple, TypeVar

from . import acl
from .share import Share, error

OURS = b"user.subos."
TRUSTED = b"trusted."
_USER, _SECURITY = b"user.", b"security."


T = TypeVar("T")


class Inherited(NamedTuple):
    """What a default ACL gives to what is made: its mode, and its own ACLs by name."""

    mode: int
    acls: Mapping[bytes, acl.Acl]


def _path(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


class Xattrs:
    """The host's own, with what it allows. Ids in ACLs are mapped as the share maps them."""

    def __init__(self, share: Share) -> None:
        self.share = share

    def set(self, fd: int, name: bytes, value: bytes, flags: int = 0) -> None:
        if name in acl.NAMES and self.share.identity.maps:
            users, groups = self.share.identity.users, self.share.identity.groups
            value = acl.pack(acl.translated(acl.parse(value), users.host, groups.host))
        os.setxattr(_path(fd), name, value, flags)

    def get(self, fd: int, name: bytes) -> bytes:
        value = os.getxattr(_path(fd), name)
        if name in acl.NAMES and self.share.identity.maps:
            users, groups = self.share.identity.users, self.share.identity.groups
            value = acl.pack(acl.translated(acl.parse(value), users.guest, groups.guest))
        return value

    def list(self, fd: int) -> Iterable[bytes]:
        return map(os.fsencode, os.listxattr(_path(fd)))

    def remove(self, fd: int, name: bytes) -> None:
        os.removexattr(_path(fd), name)

    def label(self, fd: int, name: bytes, value: bytes) -> None:
        """Sets a security context on what was just made."""
        self.set(fd, name, value)

    def mode_changed(self, fd: int, mode: int) -> None:
        """After a chmod to `mode`."""

    def inherited(self, parent: int, mode: int) -> Inherited | None:
        """What is made with `mode` in the directory `parent` gets from its default ACL; None where that says
        nothing, or the host has done it all."""
        return None

    def keep(self, fd: int, name: bytes, entries: acl.Acl) -> None:
        """Sets an ACL that was inherited."""


class MappedXattrs(Xattrs):
    """`security.*`, `trusted.*` and POSIX ACLs are `user.subos.` and their name on the host; what ACLs do on a local
    file system is done here. Only files and directories have any: Linux gives `user.` attributes to nothing else."""

    def _host(self, name: bytes, refusal: int) -> bytes:
        """The name on the host. Raises `refusal` for ours, EOPNOTSUPP for other classes of attributes."""
        if name.startswith(OURS):
            raise error(refusal)
        if name.startswith(_USER):
            return name
        if name.startswith((_SECURITY, TRUSTED)) or name in acl.NAMES:
            return OURS + name
        raise error(errno.EOPNOTSUPP)

    def set(self, fd: int, name: bytes, value: bytes, flags: int = 0) -> None:
        host = self._host(name, errno.EPERM)
        if name in acl.NAMES:
            self._set_acl(fd, name, value)
        else:
            self._call(os.setxattr, fd, host, value, flags)

    def get(self, fd: int, name: bytes) -> bytes:
        return self._call(os.getxattr, fd, self._host(name, errno.ENODATA))

    def list(self, fd: int) -> Iterable[bytes]:
        for name in super().list(fd):
            if name.startswith(OURS):
                with suppress(OSError):
                    if self._host(name[len(OURS) :], errno.EPERM) == name:
                        yield name[len(OURS) :]
            elif name.startswith(_USER):
                yield name

    def remove(self, fd: int, name: bytes) -> None:
        self._call(os.removexattr, fd, self._host(name, errno.EPERM))

    def _call(self, call: Callable[..., T], fd: int, *arguments: bytes | int) -> T:
        """Linux lets nobody but root at `user.` attributes of a file that its mode does not let them read or write;
        that is not so with those that are kept in them."""
        self.share.undo_lent(fd)
        try:
            return call(_path(fd), *arguments)
        except PermissionError as refusal:
            kind = stat.S_IFMT(os.fstat(fd).st_mode)
            if refusal.errno != errno.EACCES or kind not in (stat.S_IFREG, stat.S_IFDIR):
                raise
        with self.share.lent(fd):
            return call(_path(fd), *arguments)

    def label(self, fd: int, name: bytes, value: bytes) -> None:
        """What is neither file nor directory on the host goes without: there is nothing to keep it in."""
        if stat.S_IFMT(os.fstat(fd).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
            self.set(fd, name, value)

    # --- ACLs

    def _set_acl(self, fd: int, name: bytes, value: bytes) -> None:
        """An access ACL sets the mode too, and one that says no more than a mode is not kept."""
        entries = acl.parse(value)
        mode = self.share.mode(fd)
        if stat.S_ISLNK(mode):
            raise error(errno.EOPNOTSUPP)
        if name == acl.DEFAULT and entries and not stat.S_ISDIR(mode):
            raise error(errno.EACCES)
        if name == acl.ACCESS and entries:
            self.share.chmod(fd, mode & ~0o777 | acl.permissions(entries))
        self.keep(fd, name, entries if name == acl.DEFAULT or acl.says_more(entries) else ())

    def keep(self, fd: int, name: bytes, entries: acl.Acl) -> None:
        if entries:
            users, groups = self.share.identity.users, self.share.identity.groups
            entries = acl.translated(entries, users.shown, groups.shown)
            self._call(os.setxattr, fd, OURS + name, acl.pack(entries))
            return
        try:
            self._call(os.removexattr, fd, OURS + name)
        except OSError as refusal:
            if refusal.errno != errno.ENODATA:
                raise

    def _kept(self, fd: int, name: bytes) -> acl.Acl:
        """The ACL that is kept, none where it is no ACL: the host's files may be anybody's."""
        with suppress(OSError):
            return acl.parse(self._call(os.getxattr, fd, OURS + name))
        return ()

    def mode_changed(self, fd: int, mode: int) -> None:
        entries = self._kept(fd, acl.ACCESS)
        if entries:
            self.keep(fd, acl.ACCESS, acl.with_mode(entries, mode))

    def inherited(self, parent: int, mode: int) -> Inherited | None:
        default = () if stat.S_ISLNK(mode) else self._kept(parent, acl.DEFAULT)
        if not default:
            return None
        mode, access = acl.inherited(default, mode)
        acls = {acl.DEFAULT: default} if stat.S_ISDIR(mode) else {}
        return Inherited(mode, acls | {acl.ACCESS: access} if acl.says_more(access) else acls)
