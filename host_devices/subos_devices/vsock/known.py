"""What outlives a worker: which connections the guest believes in, and what was counted.

In memory that the worker writes, and the supervisor and the next worker read, as u64: COUNTERS first, then a pair of
ports in each place that is taken (host port in the upper half; 0 is a free place). A pair is noted before the
guest can hear of the connection, and struck off when the guest knows that it is over; so the next worker can tell the
guest of every one that has died with its predecessor, and at worst of some more, which harms nobody.
"""

from __future__ import annotations

from typing import Any

from ..vhost_user.device import STATISTICS_SIZE

MAX_CONNECTIONS = 4000  # for so many there is room
OPEN, OPENED, REFUSED, TO_GUEST, TO_HOST = range(5)
PAIRS = 16  # its word at which the pairs begin
NOWHERE = -1  # the place of a pair that is not noted

assert 8 * (PAIRS + MAX_CONNECTIONS) <= STATISTICS_SIZE


class Known:
    """`memory` is STATISTICS_SIZE bytes, zeros at first. `words` begins with the counters, which anybody may add to."""

    def __init__(self, memory: memoryview) -> None:
        self.words = memory[: 8 * (PAIRS + MAX_CONNECTIONS)].cast("Q")
        self.words[OPEN] = 0  # an earlier worker's
        self._free: list[int] = []

    def start(self) -> list[tuple[int, int, int]]:
        """What an earlier worker has left: place, host port and guest port of each."""
        left = []
        for place in range(PAIRS + MAX_CONNECTIONS - 1, PAIRS - 1, -1):
            pair = self.words[place]
            if pair:
                left.append((place, pair >> 32, pair & 0xFFFF_FFFF))
            else:
                self._free.append(place)
        return left

    def note(self, host_port: int, guest_port: int) -> int:
        """Notes a connection; its place. Whoever keeps fewer than MAX_CONNECTIONS finds one, unless many have died with
        the last worker and the guest has not heard of it yet."""
        if not self._free:
            return NOWHERE
        place = self._free.pop()
        self.words[place] = host_port << 32 | guest_port
        return place

    def forget(self, place: int) -> None:
        """The guest knows that it is over."""
        if place != NOWHERE:
            self.words[place] = 0
            self._free.append(place)


def describe(memory: memoryview) -> dict[str, Any]:
    """What `status` shows."""
    words = memory[: 8 * PAIRS].cast("Q")
    return {
        "connections": words[OPEN],
        "opened": words[OPENED],
        "refused": words[REFUSED],
        "bytes_to_guest": words[TO_GUEST],
        "bytes_to_host": words[TO_HOST],
    }
