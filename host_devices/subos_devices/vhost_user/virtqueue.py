"""The device's side of a split virtqueue (VIRTIO 1.3 §2.7), with indirect descriptors and EVENT_IDX.

Two ways to use one:

- `drain(handle)` for devices that finish each chain at once (fs, rng): the whole ring loop in one call;
- `pop`, `push` and `signal` for devices that keep chains until something happens (input).

A `handle` that cannot answer yet returns LATER: its chain is kept in `deferred`, the others go on, and `retry` calls
`handle` for it again, from scratch, when the device thinks that it can. `deferred.py` says what becomes of them.

Every index and address of the driver is checked: a chain that loops, is too long or leaves guest memory raises
BadChain, an index that jumps raises RingError, and the queue is over until the driver sets it up anew.

What is measured and must stay: shared words are read and written only through `memoryview.cast` items, each one
aligned access (`struct.pack_into` writes zeros first, and the driver would see them); a full fence stands
between publishing `used.idx` and reading `used_event`, and between writing `avail_event` and reading `avail.idx` again
(without either, wake-ups are lost).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from time import monotonic
from typing import NamedTuple

from subos_protocol.virtio import (
    AVAIL_NO_INTERRUPT,
    MAX_QUEUE_SIZE,
    USED_NO_NOTIFY,
    DescFlag,
    avail_ring_size,
    used_ring_size,
)

from .deferred import Deferred
from .errors import BadChain, RingError
from .fences import STRONG, fence
from .memory import GuestMemory

Words = tuple[int, ...]
"""A private copy of a descriptor table whose chain begins at 0: address, word, address, word…;
word = len | flags << 32 | next << 48. Nothing in it is checked: compare a word's upper half with what a known shape
has (`NEXT | WRITE`, `next` = its position + 1), and give everything else to `split`."""

LENGTH = 0xFFFF_FFFF
NEXT = DescFlag.NEXT << 32
WRITE = DescFlag.WRITE << 32
INDIRECT = DescFlag.INDIRECT << 32
LINEAR = LENGTH | NEXT | WRITE  # what is kept of a word when its chain is laid out in order

_DESC = struct.Struct("<QQ")
LONGEST_TABLE = 16 * 8  # bytes
_TABLES = {INDIRECT | size: struct.Struct(f"<{size // 8}Q").unpack_from for size in range(16, LONGEST_TABLE + 1, 16)}
"""Indirect tables short enough to be read by one precompiled unpack, by the word that names them."""

LONGEST_CHAIN = 1024  # descriptors; longer than a small queue is Linux's habit with indirect tables
DRAIN_SLICE = 8  # chains between two looks at the clock
DRAIN_TIME = 0.005  # seconds after which `drain` lets the worker look at its other descriptors


LATER = -2
"""What a handler returns for a chain that is to be handled again by `retry`."""


def _unheard(_call: int, _value: int) -> None:
    """Interrupts a driver that polls: it gave no eventfd."""


class Chain(NamedTuple):
    """One request: `head` names it to `push`; buffers in order, writable views into guest memory."""

    head: int
    readable: list[memoryview]
    writable: list[memoryview]


class Virtqueue:
    """`desc`, `avail` and `used` are guest-physical addresses; `base` is the next available index to take.

    `call` is the eventfd that interrupts the driver, or -1. `deferred` are chains that wait already: heads, or the
    table that keeps them, which is then used as it is. Raises RingError for a size that is no power of two or
    misaligned rings, BadChain for rings outside guest memory.
    """

    def __init__(
        self,
        index: int,
        size: int,
        memory: GuestMemory,
        desc: int,
        avail: int,
        used: int,
        *,
        base: int = 0,
        call: int = -1,
        event_idx: bool = True,
        deferred: Deferred | Sequence[int] = (),
    ) -> None:
        if not 0 < size <= MAX_QUEUE_SIZE or size & (size - 1):
            raise RingError(f"queue {index}: a size of {size} is no power of two up to {MAX_QUEUE_SIZE}")
        if desc % 16 or avail % 2 or used % 4:
            raise RingError(f"queue {index}: rings at {desc:#x}, {avail:#x}, {used:#x} are misaligned")
        self.index = index
        self.size = size
        self.memory = memory
        self.call = call
        self.event_idx = event_idx
        self.deferred = deferred if isinstance(deferred, Deferred) else Deferred.of(deferred)
        self.more = False
        """True where `drain` stopped at its budget with chains still available."""
        self.served = 0
        """Chains given back since the queue was set up."""
        self._table = memory.view(desc, 16 * size)
        self._avail = memory.view(avail, avail_ring_size(size)).cast("H")
        ring = memory.view(used, used_ring_size(size))
        self._used = ring.cast("H")
        self._used_elements = ring[4 : 4 + 8 * size].cast("Q")  # id | len << 32
        self._used_event = 2 + size  # as an index into _avail
        self._avail_event = 2 + 4 * size  # as an index into _used
        self.next_avail = base & 0xFFFF
        self._used_index: int = self._used[1]
        self._signalled = self._used_index

    @property
    def used_index(self) -> int:
        """`used.idx`: how many chains were given back."""
        return self._used_index

    @property
    def base(self) -> int:
        """Where a queue set up anew must begin to take chains: whatever was not given back is taken again, but for the
        deferred ones."""
        return (self._used_index + len(self.deferred)) & 0xFFFF

    @property
    def deferral_room(self) -> int:
        """How many more chains may be answered LATER."""
        return self.deferred.room

    # --- chains that are kept

    def pop(self) -> Chain | None:
        """The next available chain, or None, after which the driver will kick again."""
        head = self._take()
        if head < 0:
            return None
        return Chain(head, *self.split(self._words(head)))

    def push(self, head: int, written: int) -> None:
        """Gives a chain back, `written` bytes in its writable buffers filled. `signal` tells the driver."""
        self._used_elements[self._used_index & (self.size - 1)] = head | written << 32
        self._used_index = (self._used_index + 1) & 0xFFFF
        if not STRONG:
            with fence:
                pass
        self._used[1] = self._used_index
        self.served += 1

    def signal(self) -> None:
        """Interrupts the driver if it wants to hear of what was pushed since the last time."""
        used = self._used_index
        if used == self._signalled:
            return
        with fence:
            pass
        if self.event_idx:
            event = self._avail[self._used_event]
            wanted = (used - event - 1) & 0xFFFF < (used - self._signalled) & 0xFFFF
        else:
            wanted = not self._avail[0] & AVAIL_NO_INTERRUPT
        self._signalled = used
        if wanted:
            self.interrupt()

    def interrupt(self) -> None:
        """Interrupts the driver whatever it wants: after a respawn, nobody knows what it was told."""
        if self.call >= 0:
            os.eventfd_write(self.call, 1)

    def _take(self) -> int:
        """Head of the next available chain, or -1."""
        last = self.next_avail
        available = self._avail[1]
        if available == last:
            if self.event_idx:
                self._used[self._avail_event] = last
            else:
                self._used[0] = 0
            with fence:
                pass
            available = self._avail[1]
            if available == last:
                return -1
        if (available - last) & 0xFFFF > self.size:
            raise RingError(f"queue {self.index}: the available index jumped from {last} to {available}")
        if not STRONG:
            with fence:
                pass
        head = self._avail[2 + (last & (self.size - 1))]
        if head >= self.size:
            raise RingError(f"queue {self.index}: descriptor {head} of {self.size}")
        self.next_avail = (last + 1) & 0xFFFF
        return head

    # --- chains that are finished at once

    def drain(self, handle: Callable[[Words], int]) -> None:
        """Calls `handle(words)`, which returns the bytes written or LATER, for every available chain.

        Ends when the ring is empty and the driver will kick again, or after some DRAIN_TIME seconds
        (`more` is then True). Whatever `handle` raises leaves its chain taken and unanswered.
        """
        avail, used, elements, table = self._avail, self._used, self._used_elements, self._table
        memory, base, limit = self.memory.primary, self.memory.base, self.memory.size - LONGEST_TABLE
        size, mask, event_idx, call = self.size, self.size - 1, self.event_idx, self.call
        ring, used_event, avail_event = avail[2 : 2 + size], self._used_event, self._avail_event
        last, used_index, told = self.next_avail, self._used_index, self._signalled
        unpack_descriptor, tables, strong, lock = _DESC.unpack_from, _TABLES.get, STRONG, fence
        notify = os.eventfd_write if call >= 0 else _unheard
        first, deadline, deferred = used_index, 0.0, self.deferred
        self.more = False
        try:
            while True:
                available = avail[1]
                if available == last:
                    if event_idx:
                        used[avail_event] = last
                    else:
                        used[0] = 0
                    with lock:  # one fence for both: before reading what the driver wants, and what it has added
                        pass
                    if used_index != told:
                        if event_idx:
                            wanted = (used_index - avail[used_event] - 1) & 0xFFFF < (used_index - told) & 0xFFFF
                        else:
                            wanted = not avail[0] & AVAIL_NO_INTERRUPT
                        if wanted:
                            notify(call, 1)
                        told = used_index
                    if avail[1] == last:
                        break
                    continue
                if (available - last) & 0xFFFF > size:
                    raise RingError(f"queue {self.index}: the available index jumped from {last} to {available}")
                if used_index != first:  # not the first slice: is it somebody else's turn?
                    now = monotonic()
                    if deadline and now > deadline:
                        self.more = True
                        break
                    deadline = deadline or now + DRAIN_TIME
                if not event_idx:
                    used[0] = USED_NO_NOTIFY
                if not strong:
                    with lock:
                        pass
                until = available if (available - last) & 0xFFFF <= DRAIN_SLICE else (last + DRAIN_SLICE) & 0xFFFF
                while last != until:
                    head = ring[last & mask]
                    if head >= size:
                        raise RingError(f"queue {self.index}: descriptor {head} of {size}")
                    last = (last + 1) & 0xFFFF
                    address, word = unpack_descriptor(table, 16 * head)
                    unpack = tables(word & 0xFFFF_FFFF_FFFF)
                    offset = address - base
                    if unpack is not None and 0 <= offset <= limit:
                        written = handle(unpack(memory, offset))
                    else:
                        written = handle(self._words(head))
                    if written < 0:
                        deferred.append(head)
                        continue
                    elements[used_index & mask] = head | written << 32
                    previous, used_index = used_index, (used_index + 1) & 0xFFFF
                    if not strong:
                        with lock:
                            pass
                    used[1] = used_index
                    # Unfenced, so it may be missed; the fenced look at the end of the batch makes up for it.
                    if avail[used_event] == previous if event_idx else not avail[0] & AVAIL_NO_INTERRUPT:
                        notify(call, 1)
                        told = used_index
        finally:
            self.next_avail, self._used_index, self._signalled = last, used_index, told
            self.served += (used_index - first) & 0xFFFF

    def retry(self, handle: Callable[[Words], int]) -> None:
        """Calls `handle` again for each chain that was answered LATER; those that are answered now are given back."""
        deferred = self.deferred
        for at in reversed(range(len(deferred))):  # backwards, since the last takes the place of one that is done
            head = deferred[at]
            if head >= self.size:
                raise RingError(f"queue {self.index}: descriptor {head} of {self.size}")
            written = handle(self._words(head))
            if written < 0:
                continue
            deferred.settle(at, self._used_index)
            self.push(head, written)
            deferred.settled()
        self.signal()

    # --- descriptors

    def split(self, words: Words) -> tuple[list[memoryview], list[memoryview]]:
        """Readable and writable buffers of a chain, bounds-checked. Raises BadChain for anything irregular."""
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        view = self.memory.view
        count = len(words) // 2
        index = 0
        for _ in range(count):
            address, word = words[2 * index], words[2 * index + 1]
            if word & INDIRECT:
                raise BadChain(f"queue {self.index}: an indirect table inside a chain")
            if word & WRITE:
                writable.append(view(address, word & LENGTH))
            elif writable:
                raise BadChain(f"queue {self.index}: a readable buffer after a writable one")
            else:
                readable.append(view(address, word & LENGTH))
            if not word & NEXT:
                return readable, writable
            index = word >> 48
            if index >= count:
                raise BadChain(f"queue {self.index}: descriptor {index} of {count}")
        raise BadChain(f"queue {self.index}: a descriptor loop")

    def _words(self, head: int) -> Words:
        """The chain from `head`, through at most one indirect table, laid out in order."""
        address, word = _DESC.unpack_from(self._table, 16 * head)
        if not word & INDIRECT:
            return self._follow(self._table, self.size, head)
        length = word & LENGTH
        if word & NEXT or length % 16 or not 16 <= length <= 16 * MAX_QUEUE_SIZE:
            raise BadChain(f"queue {self.index}: an indirect table of {length} bytes, flags {word >> 32 & 0xFFFF:#x}")
        table = self.memory.view(address, length)
        if length <= 16 * LONGEST_CHAIN:
            return tuple(table.cast("Q"))  # unchecked, as short tables are; walking 256 pages here would cost 70 µs
        return self._follow(table, length // 16, 0)

    def _follow(self, table: memoryview, count: int, index: int) -> Words:
        words: list[int] = []
        limit = 2 * min(count, max(self.size, LONGEST_CHAIN))
        while True:
            if index >= count:
                raise BadChain(f"queue {self.index}: descriptor {index} of {count}")
            if len(words) >= limit:
                raise BadChain(f"queue {self.index}: a chain of more than {limit // 2} descriptors, or a loop")
            address, word = _DESC.unpack_from(table, 16 * index)
            if word & INDIRECT:
                raise BadChain(f"queue {self.index}: an indirect table inside a chain")
            words += (address, word & LINEAR | (len(words) // 2 + 1) << 48)
            if not word & NEXT:
                return tuple(words)
            index = word >> 48
