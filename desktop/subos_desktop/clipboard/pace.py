"""How often the other side may do what costs us something."""

from __future__ import annotations

from time import monotonic
from typing import Callable


class Pace:
    """`burst` at once, then `per_second` (a token bucket)."""

    def __init__(self, burst: int, per_second: float, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._burst, self._per_second = float(burst), per_second
        self._left = self._burst
        self._looked = clock()
        self.slow = False
        """Whether somebody had to wait since it was at rest."""

    def take(self) -> float:
        """0.0: it may go ahead, which is counted. Else how many seconds to wait before it asks again."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._looked) * self._per_second)
        self._looked = now
        if self._left == self._burst:
            self.slow = False
        if self._left >= 1.0:
            self._left -= 1.0
            return 0.0
        self.slow = True
        return (1.0 - self._left) / self._per_second
