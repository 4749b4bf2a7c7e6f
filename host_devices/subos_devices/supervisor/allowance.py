"""How often somebody may have something: a token bucket."""

from __future__ import annotations


class Allowance:
    """`burst` at once, and `rate` a second in the long run. Times are a monotonic clock's, in seconds."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = self._left = float(burst)
        self._then = 0.0

    def take(self, now: float) -> bool:
        """Takes one, where one is left."""
        self._left = min(self._burst, self._left + (now - self._then) * self._rate)
        self._then = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
