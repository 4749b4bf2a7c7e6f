"""When a device gets its next worker, and when it is held quiet: decided from how its workers have lived and died."""

from __future__ import annotations

BACKOFF = (0.0, 0.0, 0.05, 0.25, 1.0, 5.0)  # seconds before a respawn, by deaths in a row
RETRY = 60.0  # seconds before one of a device that is quiet
STEADY = 10.0  # seconds of life after which a worker's death begins a new row
BRIEF = 0.5  # seconds after which it does so, too, where the worker had served its guest, had nothing to serve, or was
# killed by somebody else
POISONED = 3  # deaths in a row, of workers that had done nothing at all, after which what they had kept is suspected


class Restarts:
    """A worker's life begins with `born`, and is one once it is `ready`. `requests` are all that the device has served
    so far; `owing` says that its driver waits for an answer. Times are a monotonic clock's, in seconds."""

    def __init__(self) -> None:
        self.count = 0
        self.row = 0
        """Deaths in a row, none of which came after a life worth the name."""
        self._vain = 0
        """Those in a row that came before anything was done, but for those that somebody else has killed."""
        self._born, self._requests, self._ready = 0.0, 0, False

    def born(self, now: float, requests: int) -> None:
        self._born, self._requests, self._ready = now, requests, False

    def ready(self) -> None:
        self._ready = True

    def lives(self, now: float, requests: int, *, owing: bool, killed: bool = False) -> bool:
        """Whether the worker is no part of the row; as `died`."""
        life = now - self._born
        return self._ready and (life > STEADY or (life > BRIEF and (killed or self._is_of_use(requests, owing))))

    def died(self, now: float, requests: int, *, owing: bool, killed: bool = False) -> float:
        """Seconds until the next one is to be born. `killed`: by somebody else, which says nothing of what it kept."""
        self.count += 1
        self.row = 0 if self.lives(now, requests, owing=owing, killed=killed) else self.row + 1
        self._vain = 0 if self._is_of_use(requests, owing) else self._vain + (not killed)
        return BACKOFF[self.row] if self.row < len(BACKOFF) else RETRY

    def recovered(self) -> None:
        """The worker lives."""
        self.row = 0

    @property
    def quiet(self) -> bool:
        """Whether the device is held quiet: its driver waits, the control plane answers, a worker is tried rarely."""
        return self.row >= len(BACKOFF)

    @property
    def poisoned(self) -> bool:
        """Whether the workers may die of what the ones before have kept."""
        return self._vain >= POISONED or self.quiet

    def _is_of_use(self, requests: int, owing: bool) -> bool:
        return self._ready and (requests != self._requests or not owing)
