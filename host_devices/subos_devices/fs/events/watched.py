"""Which directories are watched, by node: all that the guest knows, as far as the system lets us."""

from __future__ import annotations

import os
from contextlib import suppress

from subos_protocol.fuse_opcodes import FUSE_ROOT_ID

from ..share import Share
from ..statistics import UNWATCHED, WATCHED
from .fanotify import Event, Fanotify

MOST = 1 << 16  # directories: a kernel inode each, which the mark holds
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KIND = 0o4  # S_IFDIR >> 12


class Watched:
    """Marks directories of `share` from now on. Raises OSError where the kernel or the file system cannot."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._nodes = share.nodes
        self._group = Fanotify()
        self.fd = self._group.fd
        self._known: dict[bytes, tuple[int, int]] = {}
        """Node and generation by the directory's key."""
        self._counted = share.statistics.words
        self._counted[WATCHED] = self._counted[UNWATCHED] = 0
        try:
            self._mark(FUSE_ROOT_ID, share.fd(FUSE_ROOT_ID))
        except OSError:
            self._group.close()
            raise
        self._nodes.on_directory = self.add
        for nodeid in range(FUSE_ROOT_ID + 1, self._nodes.end):
            if self._nodes.lookups[nodeid] and self._nodes.kinds[nodeid] == _KIND:
                self.add(nodeid)

    def __len__(self) -> int:
        return len(self._known)

    def add(self, nodeid: int) -> None:
        """Watches a directory that the guest knows. Those on other file systems below the share are not."""
        nodes = self._nodes
        if nodes.devices[nodeid]:
            return
        if len(self._known) >= MOST:
            self._counted[UNWATCHED] += 1
            return
        try:
            if nodes.fds[nodeid]:
                self._mark(nodeid, nodes.fds[nodeid])
                return
            directory = os.open(nodes.names[nodeid], _DIRECTORY, dir_fd=self._share.fd(nodes.parents[nodeid]))
            try:
                if nodes.is_same(nodeid, os.fstat(directory)):
                    self._mark(nodeid, directory)
            finally:
                os.close(directory)
        except OSError:
            self._counted[UNWATCHED] += 1

    def _mark(self, nodeid: int, directory: int) -> None:
        self._known[self._group.add(directory)] = nodeid, int(self._nodes.generations[nodeid])
        self._counted[WATCHED] = len(self._known)

    def node(self, key: bytes) -> int:
        """The directory's node, 0 where the guest has forgotten it."""
        nodeid, generation = self._known.get(key, (0, 0))
        if nodeid and self._nodes.known(nodeid) and self._nodes.generations[nodeid] == generation:
            return nodeid
        self._known.pop(key, None)
        return 0

    def read(self) -> tuple[int, list[Event]]:
        return self._group.read()

    def close(self) -> None:
        self._nodes.on_directory = None
        self._counted[WATCHED] = self._counted[UNWATCHED] = 0
        with suppress(OSError):
            self._group.close()
