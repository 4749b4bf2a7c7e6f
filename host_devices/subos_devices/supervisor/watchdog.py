"""Which worker hangs, found without waking those that do not.

Everything that a worker does shows in memory that the supervisor has mapped: the words of its rings, and its counters.
One that owes an answer, or has not come back to its loop, while none of these words moves, is asked over its control
socket whether it lives. If it says so, it is not asked again until something has moved. If it does not, and has stood
still for the device's `limit`, it hangs. So a worker that has nothing to do is left alone, whatever it waits for.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

PERIOD = 2.0  # seconds between two looks


class Verdict(Enum):
    """What is to be done about a worker."""

    NOTHING = auto()
    PING = auto()
    HANGS = auto()


class Watch:
    """One worker, looked at every PERIOD. `limit` is in seconds."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._seen: Sequence[int] = ()
        self._since = self._pinged = 0.0
        self._asked = self._answered = self._has_just_answered = False

    def look(self, now: float, words: Sequence[int], *, busy: bool) -> Verdict:
        """`words` are all that moves; `busy` says that it owes an answer, or is not in its loop."""
        if self._has_just_answered:
            self._seen, self._has_just_answered = words, False  # to answer was to move
        elif words != self._seen:
            self._seen, self._since = words, now
            self._asked = self._answered = False
        elif busy and not self._asked:
            self._asked, self._pinged = True, now
            return Verdict.PING
        elif busy and not self._answered and now - self._since >= self._limit and now - self._pinged >= PERIOD:
            return Verdict.HANGS
        return Verdict.NOTHING

    def answered(self) -> None:
        self._answered = self._has_just_answered = True
