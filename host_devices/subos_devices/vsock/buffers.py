"""Packets in guest memory: a header is read from where the driver put it, or written to where it wants it.

Drivers may cut buffers as they like (VIRTIO 1.3 §2.7.4.1); Linux puts a header of 44 bytes before the payload, and
gives receive buffers of about 4 KiB, each one descriptor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from subos_protocol.vsock import HDR_SIZE, VIRTIO_VSOCK_HDR

from ..vhost_user.errors import BadChain
from ..vhost_user.virtqueue import Virtqueue

MOST_PARTS = 8  # of one receive buffer, so that system calls on several keep below IOV_MAX
HOLD = 0.005  # seconds that transmit buffers are held
MOST_HELD = 64 << 10  # bytes of them

Header = tuple[int, ...]
"""The fields of virtio_vsock_hdr."""


def read(buffers: list[memoryview]) -> tuple[Header, list[memoryview]] | None:
    """A packet's header, copied, and where its payload is. None where the buffers hold no header."""
    if not buffers or len(buffers[0]) < HDR_SIZE:
        head, payload = cut(buffers)
        data = b"".join(head)
        return (VIRTIO_VSOCK_HDR.unpack_from(data), payload) if len(data) == HDR_SIZE else None
    first = buffers[0]
    header = VIRTIO_VSOCK_HDR.unpack_from(first)
    return header, buffers[1:] if len(first) == HDR_SIZE else [first[HDR_SIZE:], *buffers[1:]]


def cut(buffers: list[memoryview]) -> tuple[list[memoryview], list[memoryview]]:
    """`buffers` as those of a header and those that follow."""
    head: list[memoryview] = []
    wanted = HDR_SIZE
    for index, buffer in enumerate(buffers):
        head.append(buffer[:wanted])
        wanted -= len(head[-1])
        if not wanted:
            rest = buffer[len(head[-1]) :]
            return head, [rest, *buffers[index + 1 :]] if rest else buffers[index + 1 :]
    return head, []


class TransmitBuffers:
    """The transmit queue as a supply of packets.

    The driver gets its buffers back a quarter of a queue or HOLD seconds at a time, so that it is interrupted once for
    many: it only frees them. But not for many bytes: Linux counts what it has not got back against the sender's
    SO_SNDBUF, and while half of that is used it wakes nobody who waits for credit.
    """

    def __init__(self, queue: Virtqueue, alarm: Callable[[float, Callable[[], None]], None]) -> None:
        self.queue = queue
        self._alarm = alarm
        self._heads: list[int] = []
        self._parts = self._bytes = 0
        self._due = False

    def take(self) -> list[memoryview] | None:
        """The buffers of the next packet, valid until `settle`; None where the driver will kick. Raises RingError."""
        chain = self.queue.pop()
        if chain is None:
            return None
        self._heads.append(chain.head)
        self._parts += len(chain.readable)
        self._bytes += sum(map(len, chain.readable))
        return chain.readable

    def settle(self) -> None:
        """What was taken is served: it is given back, now or in a moment."""
        if self._parts * 4 >= self.queue.size or self._bytes > MOST_HELD:
            self.give_back()
        elif self._heads and not self._due:
            self._due = True
            self._alarm(HOLD, self._give_back_late)

    def give_back(self) -> None:
        for head in self._heads:
            self.queue.push(head, 0)
        self._heads.clear()
        self._parts = self._bytes = 0
        self.queue.signal()

    def _give_back_late(self) -> None:
        self._due = False
        self.give_back()


class ReceiveBuffer(NamedTuple):
    """One packet's place: `room` bytes of payload in `payload`."""

    head: int
    header: list[memoryview]
    payload: list[memoryview]
    room: int


class ReceiveBuffers:
    """The receive queue as a supply of buffers, which are used in the order in which the driver gave them."""

    def __init__(self, queue: Virtqueue) -> None:
        self.queue = queue
        self._spare: deque[ReceiveBuffer] = deque()

    def take(self, count: int = 1) -> list[ReceiveBuffer]:
        """Up to `count` buffers; where there are none left, the driver will kick. Raises RingError, and BadChain for a
        buffer that cannot hold a byte."""
        spare = self._spare
        while len(spare) < count:
            chain = self.queue.pop()
            if chain is None:
                break
            spare.append(_prepared(chain.head, chain.writable))
        return [spare.popleft() for _ in range(min(count, len(spare)))]

    def give_back(self, buffers: list[ReceiveBuffer]) -> None:
        """Those that were taken last and not used."""
        self._spare.extendleft(reversed(buffers))

    def send(self, buffer: ReceiveBuffer, *header: int) -> None:
        """Writes the header before a payload of `header[4]` bytes that is in place. `queue.signal` tells the driver."""
        if len(buffer.header) == 1:
            VIRTIO_VSOCK_HDR.pack_into(buffer.header[0], 0, *header)
        else:
            data = VIRTIO_VSOCK_HDR.struct.pack(*header)
            for part in buffer.header:
                part[:], data = data[: len(part)], data[len(part) :]
        self.queue.push(buffer.head, HDR_SIZE + header[4])


def _prepared(head: int, writable: list[memoryview]) -> ReceiveBuffer:
    if len(writable) == 1 and len(writable[0]) > HDR_SIZE:
        buffer = writable[0]
        return ReceiveBuffer(head, writable, [buffer[HDR_SIZE:]], len(buffer) - HDR_SIZE)
    header, payload = cut(writable)
    payload = [part for part in payload if len(part)][:MOST_PARTS]
    if not payload:
        raise BadChain("a receive buffer has no room for a header and a byte")
    return ReceiveBuffer(head, header, payload, sum(map(len, payload)))
