"""Owners as the guest is to see them: rows of the table of operations, wrapped so that replies are gone over.

Only a share with id maps or kept owners has these. Attributes lie at known offsets in all replies that have any, so the
operations themselves know nothing of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from struct import Struct

from subos_protocol.fuse import ATTR_ATTR, ENTRY_ATTR, FUSE_DIRENT, FUSE_ENTRY_OUT, STATX_STAT
from subos_protocol.fuse_opcodes import FuseOpcode

from .kept import Kept, KeptShare
from .nodes import NAMELESS
from .share import Data, Header, Operation, Share

_attr = Struct("<IIIII")  # in fuse_attr from `mode`: mode, nlink, uid, gid, rdev
_MODE = 60  # its offset there
_statx_owner, _statx_device = Struct("<IIH"), Struct("<II")  # struct statx: stx_uid, stx_gid, stx_mode; stx_rdev
_STATX_UID, _STATX_RDEV = 20, 128  # their offsets there
_dirent = Struct("<II")  # in fuse_dirent: namelen, type
_DIRENT_NAMELEN = 16
_DT_UNKNOWN, _DT_REG = 0, stat.S_IFREG >> 12

ENTRIES = (
    *(FuseOpcode.FUSE_LOOKUP, FuseOpcode.FUSE_MKNOD, FuseOpcode.FUSE_MKDIR, FuseOpcode.FUSE_SYMLINK),
    *(FuseOpcode.FUSE_LINK, FuseOpcode.FUSE_CREATE, FuseOpcode.FUSE_TMPFILE),
)
"""Whose replies begin with a fuse_entry_out."""


class Owners:
    """What `share` says of owners and kept modes, put into replies."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.keeping = share if isinstance(share, KeptShare) else None
        wrappers = dict.fromkeys(ENTRIES, self._entry)
        wrappers |= {FuseOpcode.FUSE_GETATTR: self._attr, FuseOpcode.FUSE_SETATTR: self._attr}
        wrappers |= {FuseOpcode.FUSE_STATX: self._statx, FuseOpcode.FUSE_READDIRPLUS: self._readdirplus}
        if self.keeping is not None:
            wrappers[FuseOpcode.FUSE_READDIR] = self._readdir
            wrappers[FuseOpcode.FUSE_OPEN] = self._open
        self.wrappers: Mapping[FuseOpcode, Callable[[Operation], Operation]] = wrappers
        """By opcode: what makes its operation one that shows owners."""

    def _seen(self, nodeid: int, host: Kept) -> Kept:
        """What the guest is to see where the host says `host`."""
        kept = self._kept(nodeid, host.mode)
        if kept is not None:
            return kept
        identity = self.share.identity
        return host._replace(uid=identity.users.guest(host.uid), gid=identity.groups.guest(host.gid))

    def _kept(self, nodeid: int, host_mode: int) -> Kept | None:
        """By its descriptor where it has one, else by its name, which costs no opening."""
        if self.keeping is None:
            return None
        nodes = self.share.nodes
        fd = nodes.fds[nodeid]
        parent = nodes.parents[nodeid]
        if not fd and parent != NAMELESS and nodes.fds[parent]:
            path = b"/proc/self/fd/%d/%s" % (nodes.fds[parent], nodes.names[nodeid])
            return self.keeping.kept(path, host_mode, follow=False)
        return self.keeping.kept(b"/proc/self/fd/%d" % (fd or self.share.fd(nodeid)), host_mode)

    def _show(self, mem: memoryview, at: int, nodeid: int) -> int:
        """Goes over the fuse_attr at `at`. Returns the mode that the guest sees."""
        at += _MODE
        mode, nlink, uid, gid, rdev = _attr.unpack_from(mem, at)
        seen = self._seen(nodeid, Kept(uid, gid, mode, rdev))
        _attr.pack_into(mem, at, seen.mode, nlink, seen.uid, seen.gid, seen.rdev & 0xFFFF_FFFF)
        return seen.mode

    # --- the wrappers

    def _open(self, operation: Operation) -> Operation:
        """What the guest takes for a device, fifo or socket is not opened."""

        def run(header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
            self.share.regular(header[3])
            return operation(header, mem, a, n, o, room, data)

        return run

    def _entry(self, operation: Operation) -> Operation:
        def run(header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
            written = operation(header, mem, a, n, o, room, data)
            nodeid = int.from_bytes(mem[o : o + 8], "little")
            if nodeid:
                self._show(mem, o + ENTRY_ATTR, nodeid)
            return written

        return run

    def _attr(self, operation: Operation) -> Operation:
        def run(header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
            written = operation(header, mem, a, n, o, room, data)
            self._show(mem, o + ATTR_ATTR, header[3])
            return written

        return run

    def _statx(self, operation: Operation) -> Operation:
        def run(header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
            written = operation(header, mem, a, n, o, room, data)
            at = o + STATX_STAT
            uid, gid, mode = _statx_owner.unpack_from(mem, at + _STATX_UID)
            device = _statx_device.unpack_from(mem, at + _STATX_RDEV)
            seen = self._seen(header[3], Kept(uid, gid, mode, os.makedev(*device)))
            _statx_owner.pack_into(mem, at + _STATX_UID, seen.uid, seen.gid, seen.mode)
            _statx_device.pack_into(mem, at + _STATX_RDEV, os.major(seen.rdev), os.minor(seen.rdev))
            return written

        return run

    def _readdirplus(self, operation: Operation) -> Operation:
        def run(header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
            written = operation(header, mem, a, n, o, room, data)
            at = o
            while at < o + written:
                nodeid, entry = int.from_bytes(mem[at : at + 8], "little"), at + FUSE_ENTRY_OUT.size
                namelen, kind = _dirent.unpack_from(mem, entry + _DIRENT_NAMELEN)
                if nodeid:
                    kind = self._show(mem, at + ENTRY_ATTR, nodeid) >> 12
                elif kind == _DT_REG:
                    kind = _DT_UNKNOWN
                _dirent.pack_into(mem, entry + _DIRENT_NAMELEN, namelen, kind)
                at = entry + (FUSE_DIRENT.size + namelen + 7 & ~7)
            return written

        return run

    def _readdir(self, operation: Operation) -> Operation:
        """What is a file on the host may be anything: its type is left open, and whoever must know it asks."""

        def run(header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
            written = operation(header, mem, a, n, o, room, data)
            at = o
            while at < o + written:
                namelen, kind = _dirent.unpack_from(mem, at + _DIRENT_NAMELEN)
                if kind == _DT_REG:
                    _dirent.pack_into(mem, at + _DIRENT_NAMELEN, namelen, _DT_UNKNOWN)
                at += FUSE_DIRENT.size + namelen + 7 & ~7
            return written

        return run
