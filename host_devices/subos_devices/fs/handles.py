"""What the guest has open, by the numbers that it was given: `fh` of FUSE.

Handles index tables and are never descriptors: one that the guest invented answers EBADF. Several may share a
descriptor, with each other and with their node (see hot.py): it is closed when nobody has it any more.

Which handle has which descriptor outlives the worker (lasting.py): it is stored once the descriptor is open, and taken
back before it is closed. The rest is counted anew.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress

from .journal import GIVEN_DIRECTORY, GIVEN_FILE
from .lasting import HANDLES, Lasting
from .nodes import PRIVATE, bad_descriptor
from .statistics import DIRECTORIES, FILES, Statistics

MOST = HANDLES
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


class Handles:
    """Numbers for descriptors, each with its node: `fds` and `nodes` by handle, as columns that hot operations read
    directly, 0 where there is none."""

    def __init__(self, lasting: Lasting, kind: str, which: int, given: memoryview) -> None:
        """`kind` names the columns, `which` is its word of "ends", and of Journal.given."""
        self.fds, self.nodes = lasting.column(f"{kind}_fds"), lasting.column(f"{kind}_nodes")
        self._ends, self._which = lasting.column("ends"), which
        self._given = given
        if not self.end:
            self._ends[which] = 1
        self._free = [handle for handle, fd in enumerate(self.fds[: self.end].tolist()) if not fd and handle]
        self.open = self.end - 1 - len(self._free)
        """How many there are."""

    @property
    def end(self) -> int:
        """The first handle that was never used."""
        return int(self._ends[self._which])

    def add(self, fd: int, nodeid: int) -> int:
        """Raises ENFILE after a million of them."""
        if self._free:
            handle = self._free.pop()
        elif self.end < HANDLES:
            handle = self.end
            self._ends[self._which] = handle + 1
        else:
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
        self._given[self._which] = handle
        self.nodes[handle] = nodeid
        self.fds[handle] = fd
        self.open += 1
        return handle

    def get(self, handle: int) -> int:
        """The descriptor. Raises EBADF for a handle that is none."""
        fd: int = self.fds[handle] if handle < HANDLES else 0
        if not fd:
            raise bad_descriptor()
        return fd

    def remove(self, handle: int) -> int:
        """Returns its descriptor, which is the caller's to close. Raises EBADF for a handle that is none."""
        fd = self.get(handle)
        self.fds[handle] = self.nodes[handle] = 0
        self._free.append(handle)
        self.open -= 1
        return fd

    def items(self) -> Iterator[tuple[int, int, int]]:
        """Handle, descriptor and node of each."""
        pairs = zip(self.fds[: self.end].tolist(), self.nodes[: self.end].tolist(), strict=True)
        return ((handle, fd, nodeid) for handle, (fd, nodeid) in enumerate(pairs) if fd)

    def clear(self) -> list[int]:
        """Removes all, and returns their descriptors."""
        fds = [self.remove(handle) for handle, _, _ in self.items()]
        self._free.clear()
        self._ends[self._which] = 1
        return fds


class FileTable:
    """What is open: files and directories."""

    def __init__(self, statistics: Statistics, lasting: Lasting, given: memoryview) -> None:
        self.counted = statistics.words
        self.handles = Handles(lasting, "file", GIVEN_FILE, given)
        self.fds = self.handles.fds
        self.holders = memoryview(mmap.mmap(-1, 4 * MOST, flags=PRIVATE)).cast("I")
        """How many handles and nodes have a descriptor, by its number."""
        self.in_use = 0
        """Descriptors that the guest's doing costs: these, the directories', and those of the nodes that are open."""
        self._directory_handles = Handles(lasting, "directory", GIVEN_DIRECTORY, given)
        self.directories: dict[int, Directory] = {}
        for _, fd, _ in self.handles.items():
            self.keep(fd)
        for handle, fd, nodeid in self._directory_handles.items():
            self._open_directory(handle, Directory(fd, nodeid))
        self.counted[FILES] = self.handles.open

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
        Raises ENFILE after a million of them; a descriptor that nobody has is closed then."""
        try:
            handle = self.handles.add(fd, nodeid)
        except OSError:
            if not self.holders[fd]:
                os.close(fd)
            raise
        self.keep(fd)
        self.counted[FILES] = self.handles.open
        return handle

    def get(self, handle: int) -> int:
        """The descriptor. Raises EBADF for a handle that is none."""
        return self.handles.get(handle)

    def remove(self, handle: int) -> None:
        """The handle has its descriptor no longer. Raises EBADF for a handle that is none."""
        if handle == DUMMY:
            return
        fd = self.handles.remove(handle)
        self.counted[FILES] = self.handles.open
        self.drop(fd)

    def of(self, nodeid: int) -> Iterator[int]:
        """The descriptors by which the node is open. It looks at all handles: for what is seldom."""
        return (fd for _, fd, node in self.handles.items() if node == nodeid)

    # --- directories

    def add_directory(self, fd: int, nodeid: int) -> int:
        """A handle for the descriptor, which it has from now on. Raises ENFILE as `add` does."""
        try:
            handle = self._directory_handles.add(fd, nodeid)
        except OSError:
            os.close(fd)
            raise
        self._open_directory(handle, Directory(fd, nodeid))
        return handle

    def _open_directory(self, handle: int, directory: Directory) -> None:
        self.directories[handle] = directory
        self.in_use += 1
        self.counted[DIRECTORIES] = len(self.directories)

    def directory(self, handle: int) -> Directory:
        """Raises EBADF for a handle that is none."""
        directory = self.directories.get(handle)
        if directory is None:
            raise bad_descriptor()
        return directory

    def remove_directory(self, handle: int) -> None:
        os.close(self._directory_handles.remove(handle))
        del self.directories[handle]
        self.in_use -= 1
        self.counted[DIRECTORIES] = len(self.directories)

    def close(self) -> None:
        """Nothing is open any more. There is nobody to tell what a host file system has kept for close()."""
        for fd in self.handles.clear():
            with suppress(OSError):
                self.drop(fd)
        for fd in self._directory_handles.clear():
            os.close(fd)
            self.in_use -= 1
        self.directories.clear()
        self.counted[FILES] = self.counted[DIRECTORIES] = 0
