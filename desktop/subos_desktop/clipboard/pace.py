"""How often the other side may take our clipboard over: each time what lay there before is lost."""

from __future__ import annotations

from time import monotonic
from typing import Callable

BURST = 50
PER_SECOND = 4.0


class Pace:
    """BURST at once, then PER_SECOND (a token bucket)."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._left = float(BURST)
        self._looked = clock()
        self.slow = False
        """Whether somebody had to wait since it was at rest."""

    def take(self) -> float:
        """0.0: it may go ahead, which is counted. Else how many seconds to wait before it asks again."""
        now = self._clock()
        self._left = min(float(BURST), self._left + (now - self._looked) * PER_SECOND)
        self._looked = now
        if self._left == BURST:
            self.slow = False
        if self._left >= 1.0:
            self._left -= 1.0
            return 0.0
        self.slow = True
        return (1.0 - self._left) / PER_SECOND
