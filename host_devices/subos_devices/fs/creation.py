"""What is left to do when something was made: owners that are kept, ACLs that are inherited, security contexts.

A guest with FUSE_SECURITY_CTX appends extensions to the requests that make something (CREATE, MKDIR, MKNOD, SYMLINK,
TMPFILE): they are cut off before the operation looks for its names, and whoever makes the node sets them on it.
"""

from __future__ import annotations

import errno
import stat

from subos_protocol.fuse import FUSE_EXT_HEADER, FUSE_SECCTX
from subos_protocol.fuse_opcodes import FUSE_MAX_NR_SECCTX, FuseOpcode

from .share import Data, Header, Operation, Share, error
from .xattrs import Xattrs

CREATING = (
    FuseOpcode.FUSE_CREATE,
    FuseOpcode.FUSE_MKDIR,
    FuseOpcode.FUSE_MKNOD,
    FuseOpcode.FUSE_SYMLINK,
    FuseOpcode.FUSE_TMPFILE,
)
Context = tuple[bytes, bytes]
"""Name and value of an attribute."""


class Creation:
    """Finishes what was made in `share`."""

    def __init__(self, share: Share, xattrs: Xattrs) -> None:
        self.share = share
        self.xattrs = xattrs
        self.contexts: list[Context] = []
        """Of the request that is being served."""

    def finish(self, header: Header, nodeid: int, mode: int, umask: int, device: int) -> None:
        """See Namespace. Raises OSError."""
        share, xattrs = self.share, self.xattrs
        if stat.S_ISLNK(mode):
            fd = share.fd(nodeid)
        else:
            parent, fd = share.descriptors.both(header[3], nodeid)
            inherited = xattrs.inherited(parent, mode)
            wanted = mode & ~umask if inherited is None else inherited.mode
            share.settle(fd, parent, header, wanted, device, inherited=inherited is not None)
            for name, entries in inherited.acls.items() if inherited else ():
                xattrs.keep(fd, name, entries)
        for name, value in self.contexts:
            xattrs.label(fd, name, value)

    def labelled(self, operation: Operation) -> Operation:
        """An operation that makes something, with the request's extensions for `finish`."""

        def run(header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
            size = header[7] * 8
            if size > n:
                raise error(errno.EINVAL)
            self.contexts = contexts(bytes(mem[a + n - size : a + n]))
            try:
                return operation(header, mem, a, n - size, o, room, data)
            finally:
                self.contexts = []

        return run


def contexts(extensions: bytes) -> list[Context]:
    """The security contexts in a request's extensions; of others only the sizes are looked at. Raises EINVAL."""
    found: list[Context] = []
    at = 0
    while at < len(extensions):
        if len(extensions) - at < FUSE_EXT_HEADER.size:
            raise error(errno.EINVAL)
        size, kind = FUSE_EXT_HEADER.unpack(extensions, at)
        if size < FUSE_EXT_HEADER.size or size % 8 or size > len(extensions) - at:
            raise error(errno.EINVAL)
        if kind <= FUSE_MAX_NR_SECCTX:
            found += _parse(extensions[at + FUSE_EXT_HEADER.size : at + size], kind)
        at += size
    return found


def _parse(data: bytes, count: int) -> list[Context]:
    """`count` contexts, which are all of `data`."""
    found: list[Context] = []
    at = 0
    for _ in range(count):
        if len(data) - at < FUSE_SECCTX.size:
            raise error(errno.EINVAL)
        size = FUSE_SECCTX.unpack(data, at).size
        name, nul, rest = data[at + FUSE_SECCTX.size :].partition(b"\0")
        if not name or not nul or size > len(rest):
            raise error(errno.EINVAL)
        found.append((name, rest[:size]))
        at += FUSE_SECCTX.size + len(name) + 1 + size + 7 & ~7
    if at != len(data):
        raise error(errno.EINVAL)
    return found
