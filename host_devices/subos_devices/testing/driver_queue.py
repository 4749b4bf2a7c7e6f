"""The driver's side of a split virtqueue (VIRTIO 1.3 §2.7), with indirect descriptors and EVENT_IDX.

    [answer] = queue.request([b"question"], [64])        # one at a time

    first = queue.add([b"header", b"data"], [16, 4096])  # or many in flight, buffers cut as you like
    second = queue.add(writable=[64])
    queue.kick()
    queue.wait(second).buffers

It believes nothing: a used element that names no request, or says more bytes than there was room for, raises
DeviceFault; a chain given back without the interrupt that was asked for raises LostInterrupt. To *be* the fault, use
`publish`, `write_descriptor`, `set_available_index` and the ring addresses.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from subos_protocol.vhost_user import vhost_vring_addr
from subos_protocol.virtio import (
    AVAIL_NO_INTERRUPT,
    USED_NO_NOTIFY,
    VIRTQ_DESC,
    DescFlag,
    avail_ring_size,
    used_ring_size,
    virtq_desc,
)

from ..vhost_user.fences import fence
from .errors import DeviceFault, LostInterrupt, NoAnswer, RingBroken, RingFull
from .ram import USER_OFFSET, GuestRam

PAGE = 4096


def _eventfd() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


@dataclass(eq=False)
class Pending:
    """One request. `done` once the device gave it back, having written `written` bytes into its writable buffers."""

    head: int
    readable: list[tuple[int, int]]
    writable: list[tuple[int, int]]
    """Guest-physical address and size of each buffer."""
    slots: list[int]
    table: tuple[int, int] | None = None
    """Guest-physical address and size of its indirect table."""
    done: bool = False
    written: int = 0
    buffers: list[bytes] = field(default_factory=list)
    """What the device wrote, by writable buffer, each as far as it was filled."""


class DriverQueue:
    """Queue `index` of `size` descriptors, laid out in `ram`'s region number `region`.

    `kick_fd`, `call_fd` and `err_fd` are its eventfds; `desc`, `avail` and `used` its rings' guest-physical addresses.
    `timeout` is in seconds, and every wait's default.
    """

    def __init__(
        self,
        ram: GuestRam,
        index: int,
        size: int = 128,
        *,
        indirect: bool = True,
        event_idx: bool = True,
        region: int = 0,
        timeout: float = 10.0,
    ) -> None:
        self.ram, self.index, self.size, self.region = ram, index, size, region
        self.indirect, self.event_idx, self.timeout = indirect, event_idx, timeout
        self.desc = ram.alloc(16 * size, align=PAGE, region=region)
        self.avail = ram.alloc(avail_ring_size(size), align=PAGE, region=region)
        self.used = ram.alloc(used_ring_size(size), align=PAGE, region=region)
        self._avail = ram.view(self.avail, avail_ring_size(size)).cast("H")
        ring = ram.view(self.used, used_ring_size(size))
        self._used, self._elements = ring.cast("H"), ring[4 : 4 + 8 * size].cast("I")
        self.kick_fd, self.call_fd, self.err_fd = _eventfd(), _eventfd(), _eventfd()
        self.running = False
        """Whether the back end has it; kept by the `FrontEnd`."""
        self.kicks = 0
        """Times that the device wanted to hear of new buffers, and did."""
        self.interrupts = 0
        """Times that `wait` was woken by the device."""
        self.in_flight: dict[int, Pending] = {}
        self._finished: list[Pending] = []
        self._free: list[int] = []
        self._last_used = self._kicked = 0
        self._forget()

    # --- requests

    def add(
        self, readable: Iterable[bytes] = (), writable: Iterable[int] = (), *, indirect: bool | None = None
    ) -> Pending:
        """Makes one request available: a buffer for the device to read from each of `readable`, then one to write
        for each size in bytes of `writable`. Call `kick` when all are added. Raises RingFull."""
        data, sizes = list(readable), list(writable)
        indirect = self.indirect if indirect is None else indirect
        if not data and not sizes:
            raise ValueError("a request has at least one buffer")
        if (needed := 1 if indirect else len(data) + len(sizes)) > len(self._free):
            raise RingFull(f"queue {self.index}: {needed} descriptors wanted, {len(self._free)} free")
        reads = [(self._alloc(len(part)), len(part)) for part in data]
        writes = [(self._alloc(size), size) for size in sizes]
        for (address, _), part in zip(reads, data, strict=True):
            self.ram.write(address, part)
        chain = [(*buffer, 0) for buffer in reads] + [(*buffer, int(DescFlag.WRITE)) for buffer in writes]
        table = None
        if indirect:
            table = (self._alloc(16 * len(chain)), 16 * len(chain))
            for position, (address, length, flags) in enumerate(chain):
                more = DescFlag.NEXT if position + 1 < len(chain) else 0
                descriptor = virtq_desc(address, length, flags | more, position + 1 if more else 0)
                self.ram.write(table[0] + 16 * position, VIRTQ_DESC.pack(descriptor))
            chain = [(*table, int(DescFlag.INDIRECT))]
        slots = [self._free.pop() for _ in chain]
        for slot, following, (address, length, flags) in zip(slots, [*slots[1:], -1], chain, strict=True):
            if following >= 0:
                self.write_descriptor(slot, address, length, flags | DescFlag.NEXT, following)
            else:
                self.write_descriptor(slot, address, length, flags)
        pending = self.in_flight[slots[0]] = Pending(slots[0], reads, writes, slots, table)
        self.publish(pending.head)
        return pending

    def request(
        self, readable: Iterable[bytes] = (), writable: Iterable[int] = (), *, timeout: float | None = None
    ) -> list[bytes]:
        """Adds one request, kicks, waits: what the device wrote, by writable buffer."""
        pending = self.add(readable, writable)
        self.kick()
        return self.wait(pending, timeout=timeout).buffers

    def kick(self, *, always: bool = False) -> bool:
        """Tells the device of what was added, if it wants to hear of it; says whether it did."""
        with fence:
            pass
        old, new = self._kicked, self.available_index
        self._kicked = new
        if self.event_idx:
            event = self._used[2 + 4 * self.size]
            wanted = (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
        else:
            wanted = not self._used[0] & USED_NO_NOTIFY
        if wanted or always:
            self.kicks += 1
            os.eventfd_write(self.kick_fd, 1)
        return wanted or always

    def wait(self, pending: Pending | None = None, *, timeout: float | None = None) -> Pending:
        """The request `pending` once it is done, or whichever is done first and was not collected yet.

        Raises NoAnswer at the deadline, LostInterrupt where only the interrupt is missing, RingBroken.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            self._collect()
            if pending is None and self._finished:
                return self._finished.pop(0)
            if pending is not None and pending.done:
                self._finished.remove(pending)
                return pending
            if self.want_interrupt():
                continue
            self._sleep(deadline)

    def collect(self) -> list[Pending]:
        """The requests that the device has given back since the last time, without waiting, in its order."""
        self._collect()
        finished, self._finished = self._finished, []
        return finished

    def want_interrupt(self, wanted: bool = True) -> bool:
        """Asks the device to interrupt at the next chain that it gives back, or not to; True where it gave one
        back meanwhile, of which it may say nothing."""
        if self.event_idx:
            self._avail[2 + self.size] = (self._last_used if wanted else self._last_used - 1) & 0xFFFF
        self._avail[0] = 0 if wanted else AVAIL_NO_INTERRUPT
        with fence:
            pass
        return self.used_index != self._last_used

    # --- the ring itself, for those who want to break it

    def write_descriptor(self, slot: int, address: int, length: int, flags: int = 0, next: int = 0) -> None:
        self.ram.write(self.desc + 16 * slot, VIRTQ_DESC.pack(virtq_desc(address, length, flags, next)))

    def publish(self, head: int) -> None:
        """Makes the chain at `head` available, whatever it is."""
        index = self.available_index
        self._avail[2 + index % self.size] = head
        with fence:
            pass
        self.set_available_index(index + 1)

    def set_available_index(self, index: int) -> None:
        self._avail[1] = index & 0xFFFF

    @property
    def available_index(self) -> int:
        """`avail.idx`: where the driver's next chain goes."""
        return int(self._avail[1])

    @property
    def used_index(self) -> int:
        """`used.idx`: how many chains the device has given back, modulo 65536."""
        return int(self._used[1])

    @property
    def address(self) -> vhost_vring_addr:
        """For SET_VRING_ADDR."""
        desc, used, avail = (USER_OFFSET + address for address in (self.desc, self.used, self.avail))
        return vhost_vring_addr(self.index, 0, desc, used, avail, 0)

    def replace_call(self) -> None:
        """A new call eventfd, as QEMU has one after unmasking an interrupt; the old one is gone."""
        os.close(self.call_fd)
        self.call_fd = _eventfd()

    def reset(self, index: int = 0) -> None:
        """As after a reset of the device: empty rings, nothing in flight. A guest begins at `index` 0; begin near
        65536, with `start(queue, base=index)`, to see indices wrap around."""
        self.ram.write(self.desc, bytes(16 * self.size))
        self.ram.write(self.avail, bytes(avail_ring_size(self.size)))
        self.ram.write(self.used, bytes(used_ring_size(self.size)))
        for pending in self.in_flight.values():
            self._release(pending)
        for fd in (self.kick_fd, self.call_fd, self.err_fd):
            _drain(fd)
        self._avail[1] = self._used[1] = index
        self._forget()

    def close(self) -> None:
        for fd in (self.kick_fd, self.call_fd, self.err_fd):
            os.close(fd)

    # --- helpers

    def _forget(self) -> None:
        self.in_flight, self._finished = {}, []
        self._free = list(range(self.size))[::-1]
        self._last_used = self._kicked = self.used_index

    def _alloc(self, size: int) -> int:
        return self.ram.alloc(size, region=self.region)

    def _collect(self) -> None:
        while self._last_used != self.used_index:
            with fence:
                pass
            slot = 2 * (self._last_used % self.size)
            head, written = self._elements[slot], self._elements[slot + 1]
            self._last_used = (self._last_used + 1) & 0xFFFF
            pending = self.in_flight.pop(head, None)
            if pending is None:
                raise DeviceFault(f"queue {self.index}: the device gave back {head}, which it did not have")
            room = sum(size for _, size in pending.writable)
            if written > room:
                raise DeviceFault(f"queue {self.index}: {written} bytes written where {room} had room")
            pending.done, pending.written = True, written
            for address, size in pending.writable:
                pending.buffers.append(self.ram.read(address, min(size, written)))
                written -= min(size, written)
            self._release(pending)
            self._free += reversed(pending.slots)
            self._finished.append(pending)

    def _release(self, pending: Pending) -> None:
        for address, size in (*pending.readable, *pending.writable, *([pending.table] if pending.table else [])):
            self.ram.free(address, size, region=self.region)

    def _sleep(self, deadline: float) -> None:
        """Until the device says something. What it says is consumed."""
        poll = select.poll()
        poll.register(self.call_fd, select.POLLIN)
        poll.register(self.err_fd, select.POLLIN)
        ready: Sequence[tuple[int, int]] = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        for fd, _ in ready:
            if fd == self.err_fd and _drain(fd):
                raise RingBroken(f"queue {self.index}: the device gave the ring up")
            self.interrupts += _drain(fd) > 0
        if ready:
            return
        if self.used_index != self._last_used:
            raise LostInterrupt(f"queue {self.index}: a chain was given back, and the driver was not told")
        raise NoAnswer(f"queue {self.index}: {len(self.in_flight)} requests are not answered")


def _drain(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0
