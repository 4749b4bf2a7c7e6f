"""What outlives the worker of a share: its tables, in memory that the next worker finds as they were left.

The keeper makes it (`FsDevice.keep`), and each worker is a fork of the keeper, so all see the same. It is shared
anonymous memory, reserved whole and touched as the tables grow. No limit of a process counts that kind, and no worker
may have more of it, so the layout bounds it: nodes and their names are 3.7 GiB when all of it is in use, and everything
else 30 MiB. A share without a keeper has memory of its own, which the limits count.

A worker may die between any two stores. Those before are then seen by its successor, all of them, and those after are
not, since one thread wrote them in the order of the program, and was dead before the next one looked. So a record is
valid by the last word that is stored, and the first that is taken away. A descriptor is recorded once it is open, and
its record goes before it is closed.
"""

from __future__ import annotations

import fcntl
import mmap
import struct
from collections.abc import Iterator
from typing import Any

from subos_protocol.fuse_opcodes import FUSE_ROOT_ID

from . import journal

NODES = 1 << 25  # at most; fewer where the system reserves less
_FEWEST = 1 << 16
HANDLES = 1 << 20  # files, and directories, that are open at once
OWNERS = 1024  # of locks
DEVICES = 1 << 16  # file systems below the share
NAME_BYTES = 64  # a node's share of the memory for names

NODE_COLUMNS = {
    **{"inos": "Q", "lookups": "Q", "opened": "Q"},
    **{"generations": "I", "parents": "I", "links": "I", "heads": "I", "places": "I"},
    **{"fds": "i", "devices": "H", "kinds": "B", "used": "B", "orphans": "B", "readable": "B"},
}
_OTHER_COLUMNS = {
    "table": ("Q", 16),  # nodes.py: how far its columns are in use, and whether they are whole
    "rooms": ("I", 64),  # names.py
    "device_numbers": ("Q", DEVICES),
    **{"file_fds": ("i", HANDLES), "file_nodes": ("I", HANDLES)},
    **{"directory_fds": ("i", HANDLES), "directory_nodes": ("I", HANDLES)},
    "ends": ("Q", 2),  # handles.py: the first handle of each kind that was never used
    **{"owner_fds": ("i", OWNERS), "owner_nodes": ("Q", OWNERS), "owner_numbers": ("Q", OWNERS)},
    **{"owner_handles": ("Q", OWNERS), "owner_pids": ("I", OWNERS)},
    "session": ("Q", 8),
    "journal": ("Q", journal.SIZE // 8),
}
_FDS = ("fds", "file_fds", "directory_fds", "owner_fds")
END = 4  # of "table": the first node that was never used
BEGUN, FLAGS, ROOT_DEVICE, ROOT_INODE, ROOT_IS_MOUNT, CALM = range(6)
"""Of "session": whether there is one, so that all of this counts; the flags that FUSE_INIT agreed on; which directory
presence.py saw; and when the guest last knew of everything (events/replays.py), in nanoseconds."""
_AT_ONCE = 64  # records that `used` looks at together
_MAP_NORESERVE = 0x4000  # asm-generic/mman.h; Python names it since 3.13


class Corrupt(SystemExit):
    """Nobody can have left the tables like this but a worker in a guest's hands. This worker ends in good order, which
    takes its keeper along, and the tables with it."""


class Lasting:
    """Columns by name, zeros at first. `nodes` is how many nodes there is room for. Without `shared` it lasts as long
    as this process."""

    def __init__(self, nodes: int = NODES, *, shared: bool = True) -> None:
        self.nodes = nodes
        self._flags = (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE) | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._gives_back = mmap.MADV_REMOVE if shared else mmap.MADV_DONTNEED
        while not self._reserve():
            self.nodes >>= 1
        self.session = self.column("session")

    def _reserve(self) -> bool:
        """False where this is more than the system reserves. Raises OSError where it is little."""
        columns = {name: (code, self.nodes) for name, code in NODE_COLUMNS.items()} | _OTHER_COLUMNS
        columns["names"] = ("B", NAME_BYTES * self.nodes)
        self._places: dict[str, tuple[int, int]] = {}
        end = 0
        for name, (code, count) in columns.items():
            size = count * struct.calcsize(code)
            self._places[name] = end, size
            end += _whole_pages(size)
        self._codes: dict[str, Any] = {name: code for name, (code, _) in columns.items()}
        try:
            self._memory = mmap.mmap(-1, end, flags=self._flags)
        except OSError:
            if self.nodes <= _FEWEST:
                raise
            return False
        return True

    def column(self, name: str) -> memoryview:
        start, size = self._places[name]
        return memoryview(self._memory)[start : start + size].cast(self._codes[name])

    def clear(self, *names: str) -> None:
        """Zeros, and the memory is the system's again. All columns without names."""
        for name in names or self._places:
            start, size = self._places[name]
            self._memory.madvise(self._gives_back, start, _whole_pages(size))

    def find(self, name: str, wanted: int, end: int) -> Iterator[int]:
        """Where a column has a value, among its first `end` records: as fast as memory is."""
        start, _ = self._places[name]
        code = self._codes[name]
        size, pattern = struct.calcsize(code), struct.pack(f"={code}", wanted)
        at = start
        while (at := self._memory.find(pattern, at, start + end * size)) >= 0:
            index, rest = divmod(at - start, size)
            if rest:
                at += 1
                continue
            yield index
            at += size

    def used(self, name: str, end: int) -> Iterator[int]:
        """Where a column has anything but 0, among its first `end` records: few of them, so most of it is passed over
        as it lies."""
        column, (start, _) = self.column(name), self._places[name]
        size, end = struct.calcsize(self._codes[name]), min(end, len(column))
        for first in range(0, end, _AT_ONCE):
            last = min(first + _AT_ONCE, end)
            part = self._memory[start + first * size : start + last * size]
            if part.count(0) < len(part):
                yield from (index for index, value in enumerate(column[first:last].tolist(), first) if value)

    # --- between two workers

    @property
    def begun(self) -> bool:
        """Whether a session is under way. Without one, nothing that is kept counts."""
        return self.session[BEGUN] != 0

    @begun.setter
    def begun(self, begun: bool) -> None:
        self.session[BEGUN] = begun

    def descriptors(self) -> set[int]:
        """Those on record, of a session that is under way. Records of what is not open go, and where the root's is one
        of them, so does the session."""
        taken: set[int] = set()
        for name in _FDS if self.begun else ():
            column = self.column(name)
            for index in self._recorded(name, column):
                if _is_open(column[index]):
                    taken.add(column[index])
                else:
                    column[index] = 0
        if not self.column("fds")[FUSE_ROOT_ID]:
            self.begun = False
        return taken if self.begun else set()

    def _recorded(self, name: str, column: memoryview) -> list[int]:
        """Where a column has a descriptor. A node that is not known any more has none."""
        ends = self.column("ends")
        most = {"fds": self.column("table")[END], "file_fds": ends[0], "directory_fds": ends[1]}.get(name, OWNERS)
        found = list(self.used(name, most))
        if name == "fds":
            lookups = self.column("lookups")
            for nodeid in found:
                if not lookups[nodeid]:
                    column[nodeid] = 0
        return [index for index in found if column[index]]


def _is_open(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except (OSError, ValueError):
        return False
    return True


def _whole_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
