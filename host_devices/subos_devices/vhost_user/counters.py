"""What outlives the worker of a device, in memory that it shares with its supervisor: what was counted, and which
chains wait."""

from __future__ import annotations

import fcntl
import mmap
import os

from .deferred import TABLE_SIZE, Deferred
from .device import STATISTICS_SIZE

STATISTICS = mmap.PAGESIZE  # its byte at which the device's own statistics begin, of STATISTICS_SIZE bytes
COUNTERS_SIZE = STATISTICS + STATISTICS_SIZE  # of the memfd in which a worker counts: u64 requests, wake-ups, is busy
TABLES = 64  # its byte at which the tables of deferred chains begin, one a ring
DEFERRING_RINGS = 7  # so many have one; in the others nothing can wait


class Counters:
    """What a device has done, and which chains it keeps, in memory shared with the supervisor, so that it outlives
    the worker."""

    def __init__(self, fd: int) -> None:
        self._bytes = memoryview(mmap.mmap(fd, COUNTERS_SIZE))
        self._words = self._bytes.cast("Q")

    @staticmethod
    def create() -> int:
        """A memfd of zeros."""
        fd = os.memfd_create("subos-counters", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, COUNTERS_SIZE)
        # A worker that shortened it would end the supervisor with SIGBUS.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return fd

    @property
    def requests(self) -> int:
        """Chains given back to the driver."""
        return self._words[0]

    @property
    def wakeups(self) -> int:
        """Times the worker woke to look at its descriptors."""
        return self._words[1]

    @property
    def busy(self) -> int:
        """0 while the worker waits for something to happen."""
        return self._words[2]

    @busy.setter
    def busy(self, busy: int) -> None:
        self._words[2] = busy

    @property
    def statistics(self) -> memoryview:
        """The device's own: what is in there is the model's business."""
        return self._bytes[STATISTICS:COUNTERS_SIZE]

    def deferred(self, index: int) -> Deferred:
        """The table of ring `index`."""
        if index >= DEFERRING_RINGS:
            return Deferred(limit=0)
        start = TABLES + TABLE_SIZE * index
        return Deferred(self._bytes[start : start + TABLE_SIZE].cast("H"))

    def add(self, requests: int, wakeups: int) -> None:
        self._words[0] += requests
        self._words[1] += wakeups
