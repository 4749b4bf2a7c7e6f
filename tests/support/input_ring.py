"""A guest for one input device, in this process: its event queue's driver, and the worker the device sees."""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Callable

from subos_devices.vhost_user.device import STATISTICS_SIZE
from subos_devices.vhost_user.memory import GuestMemory
from subos_devices.vhost_user.virtqueue import Virtqueue
from subos_protocol.vhost_user import vhost_user_mem_region

SIZE = 4  # descriptors, as QEMU gives vhost-user-input
DESC, AVAIL, USED, BUFFERS = 0x0, 0x100, 0x200, 0x300
PAGE = 0x1000
WRITE = 2


class EventRing:
    """The driver's side of queue `index`: `offer` gives buffers of `length` bytes, `collect` takes what came back."""

    def __init__(self, index: int = 0, *, length: int = 8) -> None:
        fd = os.memfd_create("guest")
        os.ftruncate(fd, PAGE)
        self.memory = GuestMemory([vhost_user_mem_region(0, PAGE, 0, 0)], [fd])
        os.close(fd)
        self.guest = self.memory.primary
        self.index = index
        self.length = length
        self.offered = 0
        self.collected = 0
        self.call = os.eventfd(0, os.EFD_NONBLOCK)
        for slot in range(SIZE):
            struct.pack_into("<QIHH", self.guest, DESC + 16 * slot, BUFFERS + 16 * slot, length, WRITE, 0)
        self.queue = self.set_up()

    def close(self) -> None:
        os.close(self.call)

    def set_up(self) -> Virtqueue:
        """The device's side, as a worker builds it from `used.idx`."""
        (base,) = struct.unpack_from("<H", self.guest, USED + 2)
        self.queue = Virtqueue(self.index, SIZE, self.memory, DESC, AVAIL, USED, base=base, call=self.call)
        return self.queue

    @property
    def free(self) -> int:
        """Buffers that the device does not have."""
        return SIZE - (self.offered - self.collected)

    def offer(self, count: int) -> None:
        """Makes `count` buffers available, in the order in which they came back."""
        for _ in range(min(count, self.free)):
            slot = self.offered % SIZE
            struct.pack_into("<H", self.guest, AVAIL + 4 + 2 * slot, slot)
            self.offered += 1
            struct.pack_into("<H", self.guest, AVAIL + 2, self.offered & 0xFFFF)

    def collect(self) -> list[tuple[int, int, int]]:
        """(type, code, value) of each event since the last time."""
        (used,) = struct.unpack_from("<H", self.guest, USED + 2)
        events = []
        while self.collected & 0xFFFF != used:
            head, written = struct.unpack_from("<II", self.guest, USED + 4 + 8 * (self.collected % SIZE))
            assert (head, written) == (self.collected % SIZE, self.length)
            events.append(struct.unpack_from("<HHi", self.guest, BUFFERS + 16 * head))
            self.collected += 1
        return events

    def interrupted(self) -> bool:
        """Whether the device has signalled since the last time."""
        try:
            return os.eventfd_read(self.call) > 0
        except BlockingIOError:
            return False


class StatusRing(EventRing):
    """The driver's side of the status queue: `say` makes one buffer available, with `data` in it."""

    def __init__(self) -> None:
        super().__init__(1)

    def say(self, data: bytes, flags: int = 0) -> None:
        slot = self.offered % SIZE
        struct.pack_into("<QIHH", self.guest, DESC + 16 * slot, BUFFERS + 64 * slot, len(data), flags, 0)
        self.guest[BUFFERS + 64 * slot : BUFFERS + 64 * slot + len(data)] = data
        struct.pack_into("<H", self.guest, AVAIL + 4 + 2 * slot, slot)
        self.offered += 1
        struct.pack_into("<H", self.guest, AVAIL + 2, self.offered & 0xFFFF)

    @property
    def answered(self) -> int:
        """`used.idx`: how many were given back."""
        (used,) = struct.unpack_from("<H", self.guest, USED + 2)
        return int(used)


class FakeWorker:
    """The `Worker` of a device, turned by hand: `turn` runs the callbacks of what is readable, until nothing is."""

    def __init__(self, *, respawned: bool = False) -> None:
        self.respawned = respawned
        self.watched: dict[int, Callable[[], None]] = {}
        self.alarms: list[Callable[[], None]] = []
        self.statistics = memoryview(bytearray(STATISTICS_SIZE))
        self.said: list[str] = []

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        assert fd not in self.watched
        self.watched[fd] = callback

    def unwatch(self, fd: int) -> None:
        del self.watched[fd]

    def alarm(self, _seconds: float, callback: Callable[[], None]) -> None:
        self.alarms.append(callback)

    def ring(self) -> None:
        """All alarms, whatever the time is."""
        alarms, self.alarms = self.alarms, []
        for alarm in alarms:
            alarm()

    def log(self, message: str) -> None:
        self.said.append(message)

    def turn(self) -> None:
        while True:
            poll = select.poll()
            for fd in self.watched:
                poll.register(fd, select.POLLIN)
            ready = poll.poll(0)
            if not ready:
                return
            for fd, _ in ready:
                if fd in self.watched:
                    self.watched[fd]()
