"""What the guest has open, by the numbers that it was given: `fh` of FUSE.

Handles index tables and are never descriptors: one that the guest invented answers EBADF. Several may share a
descriptor, with each other and with their node (see hot.py): it is closed when nobody has it any more.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator

from .journal import GIVEN_DIRECTORY, GIVEN_FILE
from .nodes import PRIVATE, bad_descriptor
from .statistics import DIRECTORIES, FILES, Statistics

MOST = 1 << 20  # files, and directories, that are open at once
DUMMY = 1 << 62  # a handle of no file, which is only ever released: see events/tokens.py


class Directory:
    """An open directory of the node `nodeid`, and what was read of it but not told yet: dirents (linux_dirent64) in
    `buffer` from `at` to `end`. `cookie` is the position (d_off) that the one at `at` begins from."""

    __slots__ = ("at", "buffer", "cookie", "end", "fd", "nodeid")

    def __init__(self, fd: int, nodeid: int) -> None:
        self.fd = fd
        self.nodeid = nodeid
        self.buffer = b""
        self.at = self.end = self.cookie = 0


class FileTable:
    """`fds` and `nodes` by handle, as columns that hot operations read directly: 0 where there is none."""

    def __init__(self, statistics: Statistics) -> None:
        self.counted = statistics.words
        self.fds = memoryview(mmap.mmap(-1, 4 * MOST, flags=PRIVATE)).cast("i")
        self.nodes = memoryview(mmap.mmap(-1, 4 * MOST, flags=PRIVATE)).cast("I")
        self.holders = memoryview(mmap.mmap(-1, 4 * MOST, flags=PRIVATE)).cast("I")
        """How many handles and nodes have a descriptor, by its number."""
        self.free: list[int] = []
        self.next = 1
        self.open = 0
        """Files that are open."""
        self.in_use = 0
        """Descriptors that the guest's doing costs: these, the directories', and those of the nodes that are open."""
        self.directories: dict[int, Directory] = {}
        self.given = memoryview(bytearray(16)).cast("Q")
        """The newest handles of a file and a directory, noted before there is anything behind them: see journal.py."""

    # --- descriptors

    def keep(self, fd: int) -> None:
        """One more has the descriptor."""
        holders = self.holders[fd]
        self.holders[fd] = holders + 1
        if not holders:
            self.in_use += 1

    def drop(self, fd: int) -> None:
        """One has it no longer: the last one closes it."""
        holders = self.holders[fd] - 1
        self.holders[fd] = holders
        if not holders:
            self.in_use -= 1
            os.close(fd)

    # --- files

    def add(self, fd: int, nodeid: int) -> int:
        """A handle for the descriptor, which it has from now on. `Descriptors.admit` has made room for a new one.
        Raises ENFILE after a million of them."""
        if self.free:
            handle = self.free.pop()
        elif self.next < MOST:
            handle, self.next = self.next, self.next + 1
        else:
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
        self.given[GIVEN_FILE] = handle
        self.keep(fd)
        self.fds[handle], self.nodes[handle] = fd, nodeid
        self.open += 1
        self.counted[FILES] = self.open
        return handle

    def get(self, handle: int) -> int:
        """The descriptor. Raises EBADF for a handle that is none."""
        fd: int = self.fds[handle] if handle < MOST else 0
        if not fd:
            raise bad_descriptor()
        return fd

    def remove(self, handle: int) -> None:
        """The handle has its descriptor no longer. Raises EBADF for a handle that is none."""
        if handle == DUMMY:
            return
        fd = self.get(handle)
        self.fds[handle] = self.nodes[handle] = 0
        self.free.append(handle)
        self.open -= 1
        self.counted[FILES] = self.open
        self.drop(fd)

    def of(self, nodeid: int) -> Iterator[int]:
        """The descriptors by which the node is open. It looks at all handles: for what is seldom."""
        return (
            fd for fd, node in zip(self.fds[1 : self.next], self.nodes[1 : self.next], strict=True) if node == nodeid
        )

    # --- directories

    def add_directory(self, directory: Directory) -> int:
        handle = self._next_directory
        self._next_directory += 1
        self.given[GIVEN_DIRECTORY] = handle
        self.directories[handle] = directory
        self.in_use += 1
        self.counted[DIRECTORIES] = len(self.directories)
        return handle

    _next_directory = 1

    def directory(self, handle: int) -> Directory:
        """Raises EBADF for a handle that is none."""
        directory = self.directories.get(handle)
        if directory is None:
            raise bad_descriptor()
        return directory

    def remove_directory(self, handle: int) -> None:
        os.close(self.directory(handle).fd)
        del self.directories[handle]
        self.in_use -= 1
        self.counted[DIRECTORIES] = len(self.directories)

    def close(self) -> None:
        """Nothing is open any more."""
        self.in_use -= len(self.directories)
        for handle in range(1, self.next):
            if self.fds[handle]:
                self.drop(self.fds[handle])
                self.fds[handle] = self.nodes[handle] = 0
        for directory in self.directories.values():
            os.close(directory.fd)
        self.directories.clear()
        self.free.clear()
        self.next, self.open = 1, 0
        self.counted[FILES] = self.counted[DIRECTORIES] = 0
