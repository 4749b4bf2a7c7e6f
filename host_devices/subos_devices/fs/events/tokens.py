"""The server's part in replays: requests that the agent sends on purpose, answered without touching the share.

A replay's requests carry its token as their group. What they ask is matched with what was announced (kind, directory,
name): then the guest's kernel is told what it must believe for its operation to go through, and whatever would change
something is answered with success, and done by nobody. Where nothing was announced, what only looks is answered truly,
and anything else is EPERM. So a request that is late or a guest that lies changes nothing on the host, and in no other
guest.

An answer that is not, or not yet, true for good is not to be kept (no time that it is valid for): the guest's next look
at such a name comes to the server again.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from time import monotonic_ns
from typing import TYPE_CHECKING

from subos_protocol import file_events as kind
from subos_protocol.file_events import END_OF_TOKENS
from subos_protocol.fuse import (
    ATTR_ATTR,
    ENTRY_ATTR,
    FUSE_ATTR,
    FUSE_ATTR_OUT,
    FUSE_ENTRY_OUT,
    FUSE_MKDIR_IN,
    FUSE_MKNOD_IN,
    FUSE_OPEN_OUT,
    FUSE_RENAME2_IN,
    FUSE_RENAME_IN,
    fuse_attr,
)
from subos_protocol.fuse_opcodes import FuseOpcode, FuseOpened

from ..handles import DUMMY
from ..nodes import FOREVER
from ..share import Data, Header, Operation, component, error, name_after, strings
from .changes import Change, ChangeQueue, Place

if TYPE_CHECKING:
    from ..server import FuseServer, Row

Answer = Callable[[Change, Header, memoryview, int, int, int, int, Data], int]

GHOSTS = FOREVER  # as a device: that of inodes which were never there when the guest looked
_CONTENT = (kind.MODIFY, kind.WRITTEN)
_TOLD_TRULY = (*_CONTENT, kind.ATTRIB, kind.SYNC)
_VALID, _ATTR_VALID = slice(16, 24), slice(24, 32)  # of a fuse_entry_out
_MTIMENSEC = ATTR_ATTR + 52  # of a fuse_attr_out
_MODE = slice(ENTRY_ATTR + 60, ENTRY_ATTR + 64)  # of a fuse_entry_out
_LINKS = slice(ENTRY_ATTR + 64, ENTRY_ATTR + 68)
_pack_node = struct.Struct("<QQ").pack_into  # how a fuse_entry_out begins: nodeid, generation
_SCRATCH_REPLY = 512
_UNCHANGED = (
    FuseOpcode.FUSE_FORGET,
    FuseOpcode.FUSE_BATCH_FORGET,
    FuseOpcode.FUSE_INTERRUPT,
    FuseOpcode.FUSE_RELEASE,
    FuseOpcode.FUSE_STATX,
    FuseOpcode.FUSE_GETXATTR,
    FuseOpcode.FUSE_LISTXATTR,
)
"""What only tells, or ends something, is no different for a token: a wrong answer about an ACL, say, would be kept."""


class Tokens:
    """`operations` answers requests with a token; `queue` knows the replays. `catch_up` puts into it what was told but
    not read yet."""

    def __init__(self, server: FuseServer, queue: ChangeQueue, catch_up: Callable[[], None]) -> None:
        self.server = server
        self.share = server.share
        self.queue = queue
        self.catch_up = catch_up
        self._lookup, self._getattr = (server.rows[op][0] for op in (FuseOpcode.FUSE_LOOKUP, FuseOpcode.FUSE_GETATTR))
        self._scratch = memoryview(bytearray(1024))
        self._opened = int(server.cache.opened & ~FuseOpened.FOPEN_KEEP_CACHE | FuseOpened.FOPEN_NOFLUSH)
        self._ghosts = monotonic_ns() & ~1  # not those of the worker before
        self.operations = self._table()

    def _table(self) -> list[Row]:
        op = FuseOpcode
        answers: dict[int, Answer] = {
            op.FUSE_LOOKUP: self.lookup,
            op.FUSE_GETATTR: self.getattr,
            op.FUSE_SETATTR: self.setattr,
            op.FUSE_MKNOD: self.mknod,
            op.FUSE_MKDIR: self.mkdir,
            op.FUSE_SYMLINK: self.symlink,
            op.FUSE_UNLINK: self.remove,
            op.FUSE_RMDIR: self.remove,
            op.FUSE_RENAME: self.rename,
            op.FUSE_RENAME2: self.rename,
            op.FUSE_OPEN: self.open,
            op.FUSE_FALLOCATE: _nothing,
            op.FUSE_FLUSH: _nothing,
        }
        rows = []
        for opcode, (operation, least, needed) in enumerate(self.server.rows):
            if opcode not in _UNCHANGED:
                operation = self._row(opcode, answers.get(opcode, _refuse))
            rows.append((operation, least, needed))
        return rows

    def _row(self, opcode: int, answer: Answer) -> Operation:
        operations, replaying = self.server.operations, self.queue.replaying

        def serve(header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
            if header[5] >= END_OF_TOKENS:
                return operations[opcode][0](header, mem, a, n, o, room, data)
            change = replaying.get(header[5] - kind.FIRST_TOKEN >> 1)
            if not self.server.flags:
                raise error(errno.EPERM)
            if change is None:
                return self._unannounced(header, mem, a, n, o, room, data)
            return answer(change, header, mem, a, n, o, room, data)

        return serve

    # --- what is there

    def located(self, change: Change, place: Place) -> tuple[Place, os.stat_result] | None:
        """Where what has come to the place of a change is by now, and its status; None where it has gone for good, or
        nobody has told yet why it is not there."""
        found = self._find(change, place)
        if found is None and not self.queue.departs(place, change):
            self.catch_up()
            found = self._find(change, place)
        return found

    def _find(self, change: Change, place: Place) -> tuple[Place, os.stat_result] | None:
        for parent, name in self.queue.moves(place, change):
            try:
                return (parent, name), os.stat(name, dir_fd=self.share.fd(parent), follow_symlinks=False)
            except OSError:
                continue
        return None

    def node_at(self, place: Place) -> int:
        """The inode's node at the place, 0 where the guest knows none for it; -1 where nothing is there."""
        try:
            status = os.stat(place[1], dir_fd=self.share.fd(place[0]), follow_symlinks=False)
        except OSError:
            return -1
        return self.share.nodes.find(status.st_dev, status.st_ino)

    def truth(self, place: Place) -> bytearray:
        """The fuse_entry_out of what is at the place, counted as looked up. Raises OSError."""
        parent, name = place
        scratch = self._scratch
        scratch[: len(name) + 1] = name + b"\0"
        header = (0, int(FuseOpcode.FUSE_LOOKUP), 0, parent, 0, 0, 0, 0, 0)
        written = self._lookup(header, scratch, 0, len(name) + 1, _SCRATCH_REPLY, FUSE_ENTRY_OUT.size, None)
        entry = bytearray(scratch[_SCRATCH_REPLY : _SCRATCH_REPLY + FUSE_ENTRY_OUT.size])
        if written < 0 or not any(entry[:8]):
            raise error(errno.ENOENT)
        return entry

    def mode(self, place: Place, status: os.stat_result) -> int:
        """The mode that the guest sees."""
        if self._lookup is self.server.hot[FuseOpcode.FUSE_LOOKUP][0]:
            return status.st_mode
        entry = self.truth(place)
        self.share.descriptors.forget(int.from_bytes(entry[:8], "little"), 1)
        return int.from_bytes(entry[_MODE], "little")

    # --- what is told that is not so, or no longer

    def _gone(self, change: Change, *, covered: bool = False) -> bytearray:
        """The fuse_entry_out of what the guest has by a name that is another's by now, or nobody's: its node, and its
        true attributes if they can still be had; for what the guest has never seen, an inode of no file."""
        had = change.covered if covered else change.old
        nodes, (nodeid, generation) = self.share.nodes, had
        if not self._has(had) or self._lives_on(nodeid):
            return self._ghost(change, covered=covered)
        entry = bytearray(FUSE_ENTRY_OUT.size)
        attributes = memoryview(bytearray(FUSE_ATTR_OUT.size))
        header = (0, int(FuseOpcode.FUSE_GETATTR), 0, nodeid, 0, 0, 0, 0, 0)
        is_it = bool(nodes.fds[nodeid])  # the file itself, and no new one that has got its number
        try:
            if self._getattr(header, attributes, 0, 0, 0, len(attributes), None) < 0:
                raise error(errno.ESTALE)
        except OSError:
            mode = int(nodes.kinds[nodeid]) << 12 | 0o600
            _put_attr(entry, int(nodes.inos[nodeid]), mode)
        else:
            entry[ENTRY_ATTR:] = attributes[ATTR_ATTR:]
            links = int.from_bytes(entry[_LINKS], "little")  # of which the guest's kernel takes one away itself
            entry[_LINKS] = (links + 1 if links > 1 or (links and is_it) else 1).to_bytes(4, "little")
        _pack_node(entry, 0, nodeid, generation)
        nodes.lookups[nodeid] += 1
        return entry

    def _has(self, node: tuple[int, int]) -> bool:
        """Whether the guest still has what was a node of a generation when the host did something to it."""
        nodes, (nodeid, generation) = self.share.nodes, node
        return bool(nodeid and nodes.known(nodeid) and nodes.generations[nodeid] == generation)

    def _lives_on(self, nodeid: int) -> bool:
        """A directory that has left its name only, for where the guest does not look. Removed by a replay, it would be
        dead to the guest's kernel wherever it is (see rescan.py)."""
        if self.share.nodes.kind(nodeid) != stat.S_IFDIR:
            return False
        try:
            return os.fstat(self.share.fd(nodeid)).st_nlink > 0
        except OSError:
            return False

    def _ghost(self, change: Change, *, covered: bool = False, form: int = 0) -> bytearray:
        """The fuse_entry_out of an inode that is none: of a change the same one, however often it is looked up."""
        nodes, form = self.share.nodes, form or (stat.S_IFDIR if change.is_directory else stat.S_IFREG)
        if not change.ghosts:
            change.ghosts = self._ghosts = self._ghosts + 2
        ino = change.ghosts + covered
        nodeid = nodes.learn(0, b"", GHOSTS, ino, form)
        entry = bytearray(FUSE_ENTRY_OUT.size)
        _put_attr(entry, FOREVER + ino, form | 0o600)
        _pack_node(entry, 0, nodeid, nodes.generations[nodeid])
        return entry

    # --- requests

    def _unannounced(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        match header[1]:
            case FuseOpcode.FUSE_LOOKUP:
                return self._look(header, mem, a, n, o, room, data)
            case FuseOpcode.FUSE_GETATTR:
                return self.server.operations[FuseOpcode.FUSE_GETATTR][0](header, mem, a, n, o, room, data)
        raise error(errno.EPERM)

    def _look(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """A LOOKUP for which nothing was announced (any more, where a worker has died over it). By any error a kernel
        takes a name that it looks up once more for gone, and a folder from under whoever works in it. What the guest
        does not know yet it is to hear of by a replay."""
        if not header[5] & 1 and self.node_at((header[3], component(strings(mem, a, n, 1)[0]))) <= 0:
            raise error(errno.EPERM)
        return self.server.operations[FuseOpcode.FUSE_LOOKUP][0](header, mem, a, n, o, room, data)

    def _is_anew(self, change: Change, place: Place) -> bool:
        """Whether the guest has put something else where a name has gone, or where something was moved to."""
        if change.kind not in (kind.DELETE, kind.RENAME):
            return False
        there = self.node_at(place)
        if there < 0 or self._is_told(change, place):
            return False
        self.catch_up()
        if self._is_told(change, place):
            return False
        return place == change.at or (there > 0 and self._has(change.old) and there != change.old[0])

    def _is_told(self, change: Change, place: Place) -> bool:
        """Whether the host has done it, and a later replay says so."""
        return self.queue.arrives(place, change) or (place != change.at and self.queue.departs(place, change))

    def lookup(
        self, change: Change, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data
    ) -> int:
        place = header[3], strings(mem, a, n, 1)[0]
        if header[5] & 1 or change.kind == kind.SYNC or place not in change.places or self._is_anew(change, place):
            return self._look(header, mem, a, n, o, room, data)
        if change.kind == kind.CREATE:
            raise error(errno.ENOENT)
        if change.kind in _TOLD_TRULY:
            return self._put(mem, o, self._entry(change, place))
        if place == change.at and change.kind == kind.DELETE:
            return self._put(mem, o, self._gone(change))
        if place == change.at:
            return self._put(mem, o, self._entry(change, change.to), kept=False)
        if change.covered == (0, 0):
            raise error(errno.ENOENT)
        return self._put(mem, o, self._gone(change, covered=True), kept=False)

    def _entry(self, change: Change, place: Place) -> bytearray:
        """The fuse_entry_out of what has come to the place, wherever it is now. Raises ENOENT where it is gone and the
        guest is not to see it go."""
        found = self.located(change, place)
        if found is None:
            if not self.queue.departs(place, change):
                raise error(errno.ENOENT)
            return self._ghost(change)
        entry = self.truth(found[0])
        if found[0] != place or self.queue.departs(place, change):
            entry[_VALID] = entry[_ATTR_VALID] = bytes(8)
        return entry

    def _put(self, mem: memoryview, o: int, entry: bytearray, *, kept: bool = True) -> int:
        if not kept:
            entry[_VALID] = bytes(8)
        mem[o : o + FUSE_ENTRY_OUT.size] = entry
        return FUSE_ENTRY_OUT.size

    def getattr(
        self, change: Change, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data
    ) -> int:
        """The truth, but for a bit of the time of writing where content may have changed within the clock's tick, and
        no opening follows: so the guest's kernel drops its pages of the file. It is told to ask again, and then hears
        the time as it is."""
        written = self._getattr(header, mem, a, n, o, room, data)
        opens = change.kind == kind.WRITTEN and not header[5] & 1
        if written > 0 and change.kind != kind.ATTRIB and not opens:
            mem[_MTIMENSEC + o] ^= 1
            mem[o : o + 8] = bytes(8)
        return written

    def setattr(
        self, change: Change, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data
    ) -> int:
        if change.kind not in (*_CONTENT, kind.ATTRIB) or header[5] & 1:
            raise error(errno.EPERM)
        return self._getattr(header, mem, a, n, o, room, data)

    def mknod(
        self, change: Change, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data
    ) -> int:
        mode = FUSE_MKNOD_IN.unpack_from(mem, a)[0]
        return self._make(change, header, mem, o, name_after(mem, a, n, FUSE_MKNOD_IN.size), mode)

    def mkdir(
        self, change: Change, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data
    ) -> int:
        return self._make(change, header, mem, o, name_after(mem, a, n, FUSE_MKDIR_IN.size), stat.S_IFDIR)

    def symlink(
        self, change: Change, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data
    ) -> int:
        return self._make(change, header, mem, o, component(strings(mem, a, n, 2)[0]), stat.S_IFLNK)

    def _make(self, change: Change, header: Header, mem: memoryview, o: int, name: bytes, mode: int) -> int:
        """What was made is what is there; or, of a file that may be written to meanwhile by another name, a ghost: the
        guest's kernel takes the attributes of what it has made for the newest, and does not look whether more was
        written since. The next look at the name finds the file."""
        if change.kind != kind.CREATE or header[5] & 1 or (header[3], name) != change.at:
            raise error(errno.EPERM)
        found = self.located(change, change.at)
        if found is not None and stat.S_ISREG(mode) and self._may_be_written_to(found[1]):
            seen, entry = self.mode(*found), self._ghost(change, form=stat.S_IFREG)
        else:
            entry = self._entry(change, change.at)
            seen = int.from_bytes(entry[_MODE], "little")
        if stat.S_IFMT(seen ^ mode):
            self.share.descriptors.forget(int.from_bytes(entry[:8], "little"), 1)
            raise error(errno.EEXIST)  # something else took its place since
        return self._put(mem, o, entry)

    def _may_be_written_to(self, status: os.stat_result) -> bool:
        """Whether the guest may have a file already: by another name, since nobody looks at this one meanwhile."""
        return status.st_nlink > 1 or self.share.nodes.find(status.st_dev, status.st_ino) != 0

    def remove(
        self, change: Change, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data
    ) -> int:
        """UNLINK, RMDIR: not where the guest has made the name anew."""
        place = header[3], name_after(mem, a, n, 0)
        if change.kind != kind.DELETE or header[5] & 1 or place != change.at:
            raise error(errno.EPERM)
        if self._is_anew(change, place):
            raise error(errno.EBUSY)  # by ENOENT a kernel would drop the name
        if not change.ghosts and self._has(change.old) and self._lives_on(change.old[0]):
            raise error(errno.ENOENT)  # the agent has the name looked up, which finds a ghost, and removes that
        return 0

    def rename(
        self, change: Change, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data
    ) -> int:
        """RENAME, RENAME2: not where the guest has made either of the names anew."""
        layout = FUSE_RENAME2_IN if header[1] == FuseOpcode.FUSE_RENAME2 else FUSE_RENAME_IN
        to, *flags = layout.unpack_from(mem, a)
        old, new = strings(mem, a + layout.size, n - layout.size, 2)
        places = (header[3], old), (to, new)
        if change.kind != kind.RENAME or header[5] & 1 or places != change.places or any(flags):
            raise error(errno.EPERM)
        if any(self._is_anew(change, place) for place in places):
            raise error(errno.EBUSY)
        if self.node_at(change.to) < 0 and not self.queue.departs(change.to, change):
            raise error(errno.ENOENT)
        return 0

    def open(
        self, change: Change, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data
    ) -> int:
        if change.kind != kind.WRITTEN or header[5] & 1 or self.share.nodes.kind(header[3]) != stat.S_IFREG:
            raise error(errno.EPERM)
        if self.server.cache.writeback:
            raise error(errno.ETXTBSY)  # the guest's kernel would write back by any handle that may write
        FUSE_OPEN_OUT.pack_into(mem, o, DUMMY, self._opened, 0)
        return FUSE_OPEN_OUT.size


def _nothing(change: Change, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
    """FALLOCATE, FLUSH: success."""
    if change.kind != kind.WRITTEN or header[5] & 1:
        raise error(errno.EPERM)
    return 0


def _refuse(change: Change, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
    raise error(errno.EPERM)


def _put_attr(entry: bytearray, ino: int, mode: int) -> None:
    """Attributes of what is not there."""
    attributes = fuse_attr(ino, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
    FUSE_ATTR.pack_into(entry, ENTRY_ATTR, *attributes)
