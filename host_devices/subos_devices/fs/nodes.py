"""What the guest knows by number: its nodes, which are inodes that it looked up.

A node is a record, not a descriptor: which inode it is (`devices`, `inos`), and the name under which the guest last saw
it (`parents`, `names`). `descriptors.py` opens it when that is needed. The records are columns in memory that outlives
the worker (`lasting.py`), 50 bytes a node, and found by inode through a hash of 4 bytes a node that grows by one bucket
at a time (linear hashing), so no request ever waits for a table to be copied. With its name, a node costs about 70
bytes. The compiled twin reads and writes the same columns.

While the hash and the list of free nodes are being changed, a mark says so. A worker that finds it set, because the one
before died there, makes both anew from the columns.

Node ids index the columns; an id that the guest invented finds a record without lookups, and answers EBADF.
While a node's descriptor is open its inode number can name nothing else. Without one, the host may remove the inode and
give its number to another file: that one then goes on as the same node, as if the file had been written anew, unless
it is of another kind.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator

from subos_protocol.fuse_opcodes import FUSE_ROOT_ID

from .lasting import DEVICES, END, NODE_COLUMNS, Corrupt, Lasting
from .names import Names
from .statistics import NODES, Statistics

FOREVER = 1 << 62  # the root's lookup count
NAMELESS = 0  # as a parent: no name is known for the node
DEVICE, BUCKETS, MASK, NAMINGS = range(4)
COUNT, FREE, CHANGING, NUMBERED = range(END + 1, END + 5)
"""Words of `NodeTable.table`: the share's own st_dev; the hash; how often a node has got a name; from where on nothing
was ever used; nodes known, the root among them; the first free one; the mark; and how many device numbers there are."""

PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
"""Flags of memory of our own: the shared kind, which is Python's default, counts against no limit. What outlives the
worker has to be of that kind, and is bounded by its layout (lasting.py)."""
_DIRECTORY = 0o4  # S_IFDIR >> 12
LONGEST = 1 << 20  # nodes of a bucket: to have come to as many, each found through the others, would have taken days
_SPREAD = 0x9E37_79B1  # what an inode number moves by with its device


def bad_descriptor() -> OSError:
    return OSError(errno.EBADF, os.strerror(errno.EBADF))


class NodeTable:
    """Columns by node id, read and written by hot operations directly.

    `inos`, `devices` (see `device_index`): the inode. `lookups`: how often the guest was told of it; 0 for no node.
    `opened`: what the file was like when the guest last opened it (see hot.py). `generations`: so that (node id,
    generation) never comes twice. `parents`, `names`: its name. `heads`: the first node of a bucket; `links`: the next
    one of it, or the next free node. `fds`: its O_PATH descriptor, 0 for none. `kinds`: S_IFMT >> 12. `used`: 1 where
    the descriptor was since the clock's hand came by. `orphans`: 1 where the last name was removed; 2 for a moment, see
    descriptors.py. `readable`: 1 where the descriptor is not an O_PATH one, but open for reading.
    """

    def __init__(self, root: os.stat_result, statistics: Statistics, lasting: Lasting | None = None) -> None:
        """`root` is what the root is. Where `lasting` has a session, its nodes are known."""
        self._lasting = lasting = lasting or Lasting(shared=False)
        self.counted = statistics.words
        self.capacity = lasting.nodes
        self.inos, self.devices = lasting.column("inos"), lasting.column("devices")
        self.lookups, self.opened = lasting.column("lookups"), lasting.column("opened")
        self.generations, self.parents = lasting.column("generations"), lasting.column("parents")
        self.links, self.heads = lasting.column("links"), lasting.column("heads")
        self.fds, self.readable = lasting.column("fds"), lasting.column("readable")
        self.kinds, self.used, self.orphans = (lasting.column(name) for name in ("kinds", "used", "orphans"))
        self.names = Names(lasting)
        self.table = lasting.column("table")
        """Words, see above; the compiled twin reads the first four."""
        self.on_directory: Callable[[int], None] | None = None
        """Called with each directory that the guest has come to know."""
        self._device_numbers = lasting.column("device_numbers")
        self.device_indexes: dict[int, int] = {}
        self.device = 0
        """The share's own st_dev."""
        if lasting.begun:
            self._recover(root)
        else:
            self.start(root)

    def start(self, root: os.stat_result) -> None:
        """Only the root is known."""
        self._lasting.clear(*NODE_COLUMNS, "table", "names", "rooms", "device_numbers")
        table = self.table
        table[END], table[COUNT], table[BUCKETS] = FUSE_ROOT_ID + 1, 1, 1
        self.counted[NODES] = 1
        self.lookups[FUSE_ROOT_ID] = FOREVER
        self._set_root(root)

    def strand(self, root: os.stat_result) -> None:
        """The share's directory is another one from now on: what is known of the old one is found no more, but stays
        known until it is forgotten."""
        self.table[CHANGING] = 1
        self._lasting.clear("inos", "parents", "heads")
        self._set_root(root)
        self.table[CHANGING] = 0

    def _set_root(self, root: os.stat_result) -> None:
        self.table[NUMBERED] = 0
        self.device_indexes.clear()
        self.device = self.table[DEVICE] = root.st_dev
        self._describe(FUSE_ROOT_ID, self.device_index(root.st_dev), root.st_ino, root.st_mode)
        self._put_in_bucket(FUSE_ROOT_ID)

    def _recover(self, root: os.stat_result) -> None:
        """Goes on with what an earlier worker knew."""
        table, numbers = self.table, self._device_numbers
        self.device = table[DEVICE]
        self.device_indexes = {numbers[index]: index for index in range(table[NUMBERED])}
        if table[CHANGING]:
            self._rebuild()
        if (self.device, self.inos[FUSE_ROOT_ID]) != (root.st_dev, root.st_ino):
            self.strand(root)  # it died while the root was replaced
        self.counted[NODES] = table[COUNT]

    def _rebuild(self) -> None:
        """The hash and the list of free nodes, from the columns."""
        table, lookups, inos, links = self.table, self.lookups, self.inos, self.links
        known = [nodeid for nodeid, count in enumerate(lookups[: table[END]].tolist()) if count]
        self._lasting.clear("heads")
        table[COUNT] = table[BUCKETS] = len(known)
        table[MASK] = (1 << (len(known) - 1).bit_length()) - 1
        for nodeid in known:
            if inos[nodeid]:
                self._put_in_bucket(nodeid)
        table[FREE] = 0
        for nodeid in range(table[END] - 1, FUSE_ROOT_ID, -1):
            if not lookups[nodeid]:
                self.names[nodeid] = b""
                links[nodeid], table[FREE] = table[FREE], nodeid
        table[CHANGING] = 0

    # --- finding and knowing

    def device_index(self, device: int) -> int:
        """Small numbers for st_dev, the share's own being 0. Raises ENFILE after 65,536."""
        index = self.device_indexes.get(device)
        if index is None:
            index = int(self.table[NUMBERED])
            if index >= DEVICES:
                raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
            self._device_numbers[index] = device
            self.table[NUMBERED] = index + 1
            self.device_indexes[device] = index
        return index

    def find(self, device: int, ino: int) -> int:
        """The node of an inode, or 0. Raises Corrupt where there is no end of nodes to look at, as does all that
        changes the hash."""
        index = 0 if device == self.device else self.device_index(device)
        table = self.table
        bucket = (ino + index * _SPREAD) & table[MASK]
        if bucket >= table[BUCKETS]:
            bucket &= table[MASK] >> 1
        nodeid: int = self.heads[bucket]
        inos, devices, links = self.inos, self.devices, self.links
        steps = 0
        while nodeid and (inos[nodeid] != ino or devices[nodeid] != index):
            nodeid = links[nodeid]
            steps += 1
            if steps > LONGEST:
                raise Corrupt
        return nodeid

    def learn(self, parent: int, name: bytes, device: int, ino: int, mode: int) -> int:
        """The node of the inode that was just found as `name` in the node `parent`. It is counted as looked up."""
        nodeid = self.find(device, ino)
        if nodeid and self.kinds[nodeid] != mode >> 12:
            self._retire(nodeid)
            nodeid = 0
        if not nodeid:
            return self._add(parent, name, device, ino, mode)
        if nodeid != FUSE_ROOT_ID:
            self.rename(nodeid, parent, name)
        self.lookups[nodeid] += 1
        return nodeid

    def rename(self, nodeid: int, parent: int, name: bytes) -> None:
        """The node goes by this name from now on. Raises ENFILE where there is no room for more names."""
        if self.parents[nodeid] != parent or self.names[nodeid] != name:
            self.names[nodeid] = name
            self.parents[nodeid] = parent
            self.table[NAMINGS] += 1

    @property
    def namings(self) -> int:
        """How often a node has got a name, for who keeps what `children` found."""
        return int(self.table[NAMINGS])

    @property
    def end(self) -> int:
        """The first node id that was never used."""
        return int(self.table[END])

    @property
    def count(self) -> int:
        """Nodes known, the root among them."""
        return int(self.table[COUNT])

    def children(self, parent: int) -> Iterator[int]:
        """The nodes whose names are in the node `parent`, as the guest last saw them. It goes through the whole column,
        as fast as memory is."""
        return (nodeid for nodeid in self._lasting.find("parents", parent, self.end) if self.lookups[nodeid])

    def marked(self, column: str, mark: int) -> Iterator[int]:
        """The nodes with this value in a column."""
        return self._lasting.find(column, mark, self.end)

    def open_ones(self) -> Iterator[int]:
        """The nodes that have a descriptor."""
        return self._lasting.used("fds", self.end)

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
            and self._device_numbers[self.devices[nodeid]] == status.st_dev
            and self.kinds[nodeid] == status.st_mode >> 12
        )

    def forget(self, nodeid: int, count: int) -> bool:
        """Takes back `count` lookups. Too many are as many as there are; an unknown node and the root do not care.
        True where the node is not known any more; its descriptor is the caller's to close, before."""
        if nodeid <= FUSE_ROOT_ID or not self.known(nodeid):
            return False
        left = self.lookups[nodeid] - min(count, self.lookups[nodeid])
        if left:
            self.lookups[nodeid] = left
            return False
        table = self.table
        table[CHANGING] = 1
        self.lookups[nodeid] = 0
        self._unlink(nodeid)
        self.names[nodeid] = b""
        self.links[nodeid], table[FREE] = table[FREE], nodeid
        table[COUNT] -= 1
        table[CHANGING] = 0
        self.counted[NODES] = table[COUNT]
        return True

    # --- the records

    def _add(self, parent: int, name: bytes, device: int, ino: int, mode: int) -> int:
        table, index = self.table, self.device_index(device)
        nodeid = int(table[FREE] or table[END])
        if nodeid >= self.capacity:
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
        self.names[nodeid] = name
        table[CHANGING] = 1
        if nodeid == table[END]:
            table[END] = nodeid + 1
        else:
            table[FREE] = self.links[nodeid]
            self.generations[nodeid] = (self.generations[nodeid] + 1) & 0xFFFF_FFFF
        self._describe(nodeid, index, ino, mode)
        self.parents[nodeid] = parent
        table[NAMINGS] += 1
        self._put_in_bucket(nodeid)
        table[COUNT] += 1
        self.lookups[nodeid] = 1
        if table[COUNT] > table[BUCKETS]:
            self._split()
        table[CHANGING] = 0
        self.counted[NODES] = table[COUNT]
        if mode >> 12 == _DIRECTORY and self.on_directory is not None:
            self.on_directory(nodeid)
        return nodeid

    def _describe(self, nodeid: int, index: int, ino: int, mode: int) -> None:
        self.inos[nodeid] = ino
        self.devices[nodeid] = index
        self.kinds[nodeid] = mode >> 12
        self.used[nodeid] = self.orphans[nodeid] = self.readable[nodeid] = 0
        self.opened[nodeid] = 0
        self.parents[nodeid] = NAMELESS

    def _bucket(self, nodeid: int) -> int:
        mask = self.table[MASK]
        bucket = (self.inos[nodeid] + self.devices[nodeid] * _SPREAD) & mask
        return int(bucket if bucket < self.table[BUCKETS] else bucket & mask >> 1)

    def _put_in_bucket(self, nodeid: int) -> None:
        bucket = self._bucket(nodeid)
        self.links[nodeid], self.heads[bucket] = self.heads[bucket], nodeid

    def _unlink(self, nodeid: int) -> None:
        """Takes a node out of its bucket, where it is in one."""
        bucket = self._bucket(nodeid)
        at = self.heads[bucket]
        if at == nodeid:
            self.heads[bucket] = self.links[nodeid]
            return
        for _ in range(LONGEST):
            if not at:
                return
            after = self.links[at]
            if after == nodeid:
                self.links[at] = self.links[nodeid]
                return
            at = after
        raise Corrupt

    def _split(self) -> None:
        """One more bucket: it takes its share of the nodes of the one that it comes from."""
        table = self.table
        new = table[BUCKETS]
        table[BUCKETS] += 1
        if new > table[MASK]:
            table[MASK] = table[MASK] << 1 | 1
        old = new & table[MASK] >> 1
        at, self.heads[old], self.heads[new] = self.heads[old], 0, 0
        for _ in range(LONGEST):
            if not at:
                return
            after = self.links[at]
            self._put_in_bucket(at)
            at = after
        raise Corrupt

    def _retire(self, nodeid: int) -> None:
        """The inode is gone, and its number another file's: the node stays known, but is found no more."""
        self.table[CHANGING] = 1
        self._unlink(nodeid)
        self.inos[nodeid] = 0
        self.parents[nodeid] = NAMELESS
        self.table[CHANGING] = 0
