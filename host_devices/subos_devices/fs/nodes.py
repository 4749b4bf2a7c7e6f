"""What the guest knows by number: nodes (inodes that it looked up) and handles (what it opened).

A node is an O_PATH descriptor, which keeps its inode alive: while a node is known, its (st_dev, st_ino) names
nothing else, also after its last name was removed. Node ids and handles index lists; an id
that the guest invented finds -1 or nothing, and answers EBADF.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Generic, TypeVar

from subos_protocol.fuse_opcodes import FUSE_ROOT_ID

T = TypeVar("T")

FOREVER = 1 << 62  # the root's lookup count


def bad_descriptor() -> OSError:
    return OSError(errno.EBADF, os.strerror(errno.EBADF))


class NodeTable:
    """Parallel lists by node id: hot operations read `fds`, `lookups`, `generations` and `ids` directly."""

    def __init__(self, root: int) -> None:
        """`root` is the O_PATH descriptor of the share's root; the table owns it."""
        status = os.fstat(root)
        self.fds = [-1, root]
        self.lookups = [0, FOREVER]
        self.generations = [0, 0]
        self.kinds = [0, stat.S_IFMT(status.st_mode)]
        self.keys = [(-1, -1), (status.st_dev, status.st_ino)]
        self.ids = {self.keys[FUSE_ROOT_ID]: FUSE_ROOT_ID}
        self.device = status.st_dev
        self._free: list[int] = []

    def fd(self, nodeid: int) -> int:
        """The node's O_PATH descriptor. Raises EBADF for a node that is none."""
        fd = self.fds[nodeid] if nodeid < len(self.fds) else -1
        if fd < 0:
            raise bad_descriptor()
        return fd

    def add(self, fd: int, status: os.stat_result) -> int:
        """The node id of the O_PATH descriptor `fd`, which the table takes; a known inode keeps its id."""
        key = (status.st_dev, status.st_ino)
        known = self.ids.get(key)
        if known is not None:
            os.close(fd)
            return known
        if self._free:
            nodeid = self._free.pop()
            self.fds[nodeid] = fd
            self.lookups[nodeid] = 0
            self.generations[nodeid] += 1  # so that (nodeid, generation) never comes twice
            self.kinds[nodeid] = stat.S_IFMT(status.st_mode)
            self.keys[nodeid] = key
        else:
            nodeid = len(self.fds)
            self.fds.append(fd)
            self.lookups.append(0)
            self.generations.append(0)
            self.kinds.append(stat.S_IFMT(status.st_mode))
            self.keys.append(key)
        self.ids[key] = nodeid
        return nodeid

    def forget(self, nodeid: int, count: int) -> None:
        """Takes back `count` lookups. Too many are as many as there are; an unknown node and the root do not care."""
        if nodeid <= FUSE_ROOT_ID or nodeid >= len(self.fds) or self.fds[nodeid] < 0:
            return
        self.lookups[nodeid] -= min(count, self.lookups[nodeid])
        if self.lookups[nodeid]:
            return
        os.close(self.fds[nodeid])
        self.fds[nodeid] = -1
        del self.ids[self.keys[nodeid]]
        self._free.append(nodeid)

    def forget_all(self) -> None:
        """Every node but the root, as after an unmount."""
        for nodeid in range(FUSE_ROOT_ID + 1, len(self.fds)):
            self.forget(nodeid, FOREVER)

    def close(self) -> None:
        self.forget_all()
        if self.fds[FUSE_ROOT_ID] >= 0:
            os.close(self.fds[FUSE_ROOT_ID])
            self.fds[FUSE_ROOT_ID] = -1


class HandleTable(Generic[T]):
    """Handle numbers, from 1. `items[handle]` is `empty` where there is none."""

    def __init__(self, empty: T) -> None:
        self._empty = empty
        self.items = [empty]
        self._free: list[int] = []

    def add(self, item: T) -> int:
        if self._free:
            handle = self._free.pop()
            self.items[handle] = item
        else:
            handle = len(self.items)
            self.items.append(item)
        return handle

    def get(self, handle: int) -> T:
        """Raises EBADF for a handle that is none."""
        item = self.items[handle] if handle < len(self.items) else self._empty
        if item == self._empty:
            raise bad_descriptor()
        return item

    def remove(self, handle: int) -> T:
        """What `handle` named, no longer. Raises EBADF for a handle that is none."""
        item = self.get(handle)
        self.items[handle] = self._empty
        self._free.append(handle)
        return item

    def remove_all(self) -> list[T]:
        """What is open; the table is empty after that."""
        items = [item for item in self.items if item != self._empty]
        self.items[:] = [self._empty]
        self._free.clear()
        return items
