"""What the guest knows by number: its nodes, which are inodes that it looked up.

A node is a record, not a descriptor: which inode it is (`devices`, `inos`), and the name under which the guest last saw
it (`parents`, `names`). `descriptors.py` opens it when that is needed. The records are columns in anonymous
memory that is reserved whole and touched as the table grows, 46 bytes a node, and found by inode through a hash of 4
bytes a node that grows by one bucket at a time (linear hashing), so no request ever waits for a table to be copied.
With its name, a node costs about 110 bytes. The compiled twin reads and writes the same columns.

Node ids index the columns; an id that the guest invented finds a record without lookups, and answers EBADF.
While a node's descriptor is open its inode number can name nothing else. Without one, the host may remove the inode and
give its number to another file: that one then goes on as the same node, as if the file had been written anew, unless
it is of another kind.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

from subos_protocol.fuse_opcodes import FUSE_ROOT_ID

from .statistics import NODES, Statistics

FOREVER = 1 << 62  # the root's lookup count
NAMELESS = 0  # as a parent: no name is known for the node

_COLUMNS: dict[str, Any] = {
    "inos": "Q",
    "lookups": "Q",
    "opened": "Q",
    "generations": "I",
    "parents": "I",
    "links": "I",
    "heads": "I",
    "fds": "i",
    "devices": "H",
    "kinds": "B",
    "used": "B",
    "orphans": "B",
    "readable": "B",
}
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
"""Flags of memory of our own: the shared kind, which is Python's default, counts against no limit."""
_MAP_NORESERVE = 0x4000  # asm-generic/mman.h; Python names it since 3.13
_MOST = 1 << 25  # nodes: 1.5 GB of addresses, of which only what is used costs memory
_FEWEST = 1 << 16  # where the system reserves no more
_DIRECTORY = 0o4  # S_IFDIR >> 12
_SPREAD = 0x9E37_79B1  # what an inode number moves by with its device


def bad_descriptor() -> OSError:
    return OSError(errno.EBADF, os.strerror(errno.EBADF))


class NodeTable:
    """Columns by node id, read and written by hot operations directly.

    `inos`, `devices` (an index of `device_numbers`): the inode. `lookups`: how often the guest was told of it; 0 for no
    node. `opened`: what the file was like when the guest last opened it (see hot.py). `generations`: so that (node id,
    generation) never comes twice. `parents`, `names`: its name. `heads`: the first node of a bucket; `links`: the next
    one of it, or the next free node. `fds`: its O_PATH descriptor, 0 for none. `kinds`: S_IFMT >> 12. `used`:
    1 where the descriptor was since the clock's hand came by. `orphans`: 1 where the last name was removed;
    2 for a moment, see descriptors.py.
    `readable`: 1 where the descriptor is not an O_PATH one, but open for reading.
    """

    inos: memoryview
    lookups: memoryview
    opened: memoryview
    generations: memoryview
    parents: memoryview
    links: memoryview
    heads: memoryview
    fds: memoryview
    devices: memoryview
    kinds: memoryview
    used: memoryview
    orphans: memoryview
    readable: memoryview

    def __init__(self, root: os.stat_result, statistics: Statistics) -> None:
        self.counted = statistics.words
        self.capacity = _MOST
        while not self._reserve():
            self.capacity >>= 1
        self.names: list[bytes] = []
        self.shape = memoryview(bytearray(32)).cast("Q")
        """For the compiled twin: `device`, `buckets`, `mask`, `namings`."""
        self.on_directory: Callable[[int], None] | None = None
        """Called with each directory that the guest has come to know."""
        self.device_numbers: list[int] = []
        self.device_indexes: dict[int, int] = {}
        self.start(root)

    def _reserve(self) -> bool:
        """Reserves the columns for `capacity` nodes. False where that is too many for this system."""
        flags = PRIVATE | _MAP_NORESERVE
        self._memory: dict[str, mmap.mmap] = {}
        try:
            for name, code in _COLUMNS.items():
                memory = mmap.mmap(-1, self.capacity * struct.calcsize(code), flags=flags)
                self._memory[name] = memory
                setattr(self, name, memoryview(memory).cast(code))
        except OSError:
            if self.capacity <= _FEWEST:
                raise
            return False
        return True

    def start(self, root: os.stat_result) -> None:
        """Only the root is known."""
        self._clear(*_COLUMNS)
        self.names[:] = [b"", b""]
        self.count = 1
        """Nodes known, the root among them."""
        self.counted[NODES] = 1
        self.buckets, self.mask = 1, 0
        self._free = 0
        self.lookups[FUSE_ROOT_ID] = FOREVER
        self._set_root(root)

    def strand(self, root: os.stat_result) -> None:
        """The share's directory is another one from now on: what is known of the old one is found no more, but stays
        known until it is forgotten."""
        self._clear("inos", "parents", "heads")
        self._set_root(root)

    def _clear(self, *columns: str) -> None:
        for name in columns:
            self._memory[name].madvise(mmap.MADV_DONTNEED)  # zeros, and the memory is the system's again

    def _set_root(self, root: os.stat_result) -> None:
        self.device_numbers.clear()
        self.device_indexes.clear()
        self.device = root.st_dev
        self._reshape()
        self._describe(FUSE_ROOT_ID, root.st_dev, root.st_ino, root.st_mode)

    def _reshape(self) -> None:
        self.shape[0], self.shape[1], self.shape[2] = self.device, self.buckets, self.mask

    # --- finding and knowing

    def device_index(self, device: int) -> int:
        """Small numbers for st_dev, the share's own being 0. Raises ENFILE after 65,536."""
        index = self.device_indexes.get(device)
        if index is None:
            index = len(self.device_numbers)
            if index > 0xFFFF:
                raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
            self.device_numbers.append(device)
            self.device_indexes[device] = index
        return index

    def find(self, device: int, ino: int) -> int:
        """The node of an inode, or 0."""
        index = 0 if device == self.device else self.device_index(device)
        bucket = (ino + index * _SPREAD) & self.mask
        if bucket >= self.buckets:
            bucket &= self.mask >> 1
        nodeid: int = self.heads[bucket]
        inos, devices, links = self.inos, self.devices, self.links
        while nodeid and (inos[nodeid] != ino or devices[nodeid] != index):
            nodeid = links[nodeid]
        return nodeid

    def learn(self, parent: int, name: bytes, device: int, ino: int, mode: int) -> int:
        """The node of the inode that was just found as `name` in the node `parent`. It is counted as looked up."""
        nodeid = self.find(device, ino)
        if nodeid and self.kinds[nodeid] != mode >> 12:
            self._retire(nodeid)
            nodeid = 0
        added = not nodeid
        if added:
            nodeid = self._add(device, ino, mode)
        if nodeid != FUSE_ROOT_ID:
            self.rename(nodeid, parent, name)
        self.lookups[nodeid] += 1
        if added and mode >> 12 == _DIRECTORY and self.on_directory is not None:
            self.on_directory(nodeid)
        return nodeid

    def rename(self, nodeid: int, parent: int, name: bytes) -> None:
        """The node goes by this name from now on."""
        self.parents[nodeid] = parent
        self.names[nodeid] = name
        self.shape[3] += 1

    @property
    def namings(self) -> int:
        """How often a node has got a name, for who keeps what `children` found."""
        return int(self.shape[3])

    def children(self, parent: int) -> Iterator[int]:
        """The nodes whose names are in the node `parent`, as the guest last saw them. It goes through the whole column,
        as fast as memory is."""
        column, wanted, size = self._memory["parents"], struct.pack("=I", parent), 4
        end, at = size * len(self.names), 0
        while (at := column.find(wanted, at, end)) >= 0:
            if at % size:
                at += 1
                continue
            if self.lookups[at // size]:
                yield at // size
            at += size

    def known(self, nodeid: int) -> bool:
        return nodeid < self.capacity and self.lookups[nodeid] != 0

    def kind(self, nodeid: int) -> int:
        """S_IFMT of the node. Raises EBADF for a node that is none."""
        if not self.known(nodeid):
            raise bad_descriptor()
        return int(self.kinds[nodeid]) << 12

    def is_same(self, nodeid: int, status: os.stat_result) -> bool:
        """Whether `status` is of the node's inode."""
        return (
            self.inos[nodeid] == status.st_ino
            and self.device_numbers[self.devices[nodeid]] == status.st_dev
            and self.kinds[nodeid] == status.st_mode >> 12
        )

    def forget(self, nodeid: int, count: int) -> bool:
        """Takes back `count` lookups. Too many are as many as there are; an unknown node and the root do not care.
        True where the node is not known any more; its descriptor is the caller's to close, before."""
        if nodeid <= FUSE_ROOT_ID or not self.known(nodeid):
            return False
        left = self.lookups[nodeid] - min(count, self.lookups[nodeid])
        self.lookups[nodeid] = left
        if left:
            return False
        self._unlink(nodeid)
        self.names[nodeid] = b""
        self.links[nodeid], self._free = self._free, nodeid
        self.count -= 1
        self.counted[NODES] = self.count
        return True

    # --- the records

    def _add(self, device: int, ino: int, mode: int) -> int:
        nodeid = self._free
        if nodeid:
            self._free = self.links[nodeid]
            self.generations[nodeid] += 1
        else:
            nodeid = len(self.names)
            if nodeid >= self.capacity:
                raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
            self.names.append(b"")
        self._describe(nodeid, device, ino, mode)
        self.count += 1
        self.counted[NODES] = self.count
        if self.count > self.buckets:
            self._split()
        return nodeid

    def _describe(self, nodeid: int, device: int, ino: int, mode: int) -> None:
        self.inos[nodeid] = ino
        self.devices[nodeid] = self.device_index(device)
        self.kinds[nodeid] = mode >> 12
        self.used[nodeid] = self.orphans[nodeid] = 0
        self.opened[nodeid] = 0
        self.parents[nodeid] = NAMELESS
        bucket = self._bucket(nodeid)
        self.links[nodeid], self.heads[bucket] = self.heads[bucket], nodeid

    def _bucket(self, nodeid: int) -> int:
        bucket = (self.inos[nodeid] + self.devices[nodeid] * _SPREAD) & self.mask
        return bucket if bucket < self.buckets else bucket & self.mask >> 1

    def _unlink(self, nodeid: int) -> None:
        """Takes a node out of its bucket, where it is in one."""
        bucket = self._bucket(nodeid)
        at = self.heads[bucket]
        if at == nodeid:
            self.heads[bucket] = self.links[nodeid]
            return
        while at:
            after = self.links[at]
            if after == nodeid:
                self.links[at] = self.links[nodeid]
                return
            at = after

    def _split(self) -> None:
        """One more bucket: it takes its share of the nodes of the one that it comes from."""
        new = self.buckets
        self.buckets += 1
        if new > self.mask:
            self.mask = self.mask << 1 | 1
        self._reshape()
        old = new & self.mask >> 1
        at, self.heads[old], self.heads[new] = self.heads[old], 0, 0
        while at:
            after = self.links[at]
            bucket = self._bucket(at)
            self.links[at], self.heads[bucket] = self.heads[bucket], at
            at = after

    def _retire(self, nodeid: int) -> None:
        """The inode is gone, and its number another file's: the node stays known, but is found no more."""
        self._unlink(nodeid)
        self.inos[nodeid] = 0
        self.parents[nodeid] = NAMELESS
