"""Which chains of a ring are answered later, in memory that outlives the worker.

A chain that waits is nothing but its head: it is served again from scratch, its words read afresh from guest
memory, until it can be answered. Meanwhile others are, so chains complete out of order, and

    the next chain to take  =  used.idx + how many are deferred

since each of those taken was either given back or deferred, but for the last one, in whose handling a worker may have
died: that one is taken again. The next worker must get this right. Serving a head that was given back, or skipping
one that was not, breaks the guest's ring for good, while a waiter that is lost merely hangs one of its processes. A
worker can die between any two stores, and those before are then seen by all, those after by none (one thread wrote
them, in the order of the program). So:

- **Deferring** stores the head, and then the count. Without the count nothing has happened: the chain is taken again.
- **Giving back** moves one from one term of the sum to the other by two stores in two places, `used.idx` in guest
  memory and the count here. So what is about to happen is noted first (`settle`: which place, how many there were, and
  where `used.idx` stands), and the note is torn up last (`settled`). If a worker died in between, `used.idx` decides
  (`recover`): where it has moved on, the chain was given back and is struck off; where it has not, it still waits.
  Striking off fills the place with the last head and stores the count that the note implies, so it may be done twice.
- **A ring that is set up anew** without its waiters (a guest that was reset) shows in the same sum: the base that the
  front end asks for is not `used.idx` and the deferred ones. They are dropped then (`resume`).

All this can be forged by a worker that the guest has taken over, and `used.idx` by the guest: the count is bounded,
heads are checked against the ring's size, and a wrong base harms nobody but the guest's own ring.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .errors import RingError

MAX_DEFERRED = 255  # chains of one ring
_NOTED, _AT, _USED, _BEFORE, _COUNT, _HEADS = range(6)  # words of a table
TABLE_WORDS = _HEADS + MAX_DEFERRED  # of 16 bits
TABLE_SIZE = (2 * TABLE_WORDS + 7) & ~7  # bytes


class Deferred:
    """The heads that wait, oldest first until one is given back. `words` is TABLE_SIZE bytes as 16-bit words, zeros
    at first; without it the table is this process's own. With `limit` 0 nothing can wait."""

    def __init__(self, words: memoryview | None = None, *, limit: int = MAX_DEFERRED) -> None:
        self._words = memoryview(bytearray(TABLE_SIZE)).cast("H") if words is None else words
        self._limit = limit

    @classmethod
    def of(cls, heads: Sequence[int]) -> Deferred:
        """A table of one's own with these heads."""
        table = cls()
        for head in heads:
            table.append(head)
        return table

    def __len__(self) -> int:
        return min(self._words[_COUNT], self._limit)

    def __getitem__(self, at: int) -> int:
        return int(self._words[_HEADS + range(len(self))[at]])

    def __iter__(self) -> Iterator[int]:
        return iter([self[at] for at in range(len(self))])

    @property
    def room(self) -> int:
        """How many more may be appended."""
        return self._limit - len(self)

    def append(self, head: int) -> None:
        """The chain at `head` is taken, and is answered later. Raises RingError where there is no room."""
        count = len(self)
        if count >= self._limit:
            raise RingError(f"more than {self._limit} chains are kept waiting")
        self._words[_HEADS + count] = head
        self._words[_COUNT] = count + 1

    def settle(self, at: int, used_index: int) -> None:
        """The chain in place `at` is given back next: as the element of the used ring that `used.idx` is at now."""
        words = self._words
        words[_AT], words[_USED], words[_BEFORE] = at, used_index, len(self)
        words[_NOTED] = 1

    def settled(self) -> None:
        """It was, and `used.idx` says so: it is struck off, and the last one takes its place."""
        words = self._words
        last = min(words[_BEFORE], self._limit) - 1
        if 0 <= words[_AT] <= last:
            words[_HEADS + words[_AT]] = words[_HEADS + last]
            words[_COUNT] = last
        words[_NOTED] = 0

    def recover(self, used_index: int) -> None:
        """Finishes what a worker that has died left half done; `used_index` is where its guest's ring stands."""
        if not self._words[_NOTED]:
            return
        if used_index == (self._words[_USED] + 1) & 0xFFFF:
            self.settled()
        else:
            self._words[_NOTED] = 0

    def resume(self, base: int, used_index: int) -> None:
        """The ring begins at `base`, as a front end says. Deferred chains that are not its own are dropped."""
        self.recover(used_index)
        if (base - len(self)) & 0xFFFF != used_index:
            self.clear()

    def clear(self) -> None:
        self._words[_COUNT] = 0
        self._words[_NOTED] = 0
