"""What a worker waits for: descriptors, and alarms."""

from __future__ import annotations

import heapq
import select
from collections.abc import Callable
from time import monotonic


class Loop:
    """Calls back when a descriptor can be read, or a time has come. It has an epoll of its own, which can itself be
    waited for."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._alarms: list[tuple[float, int, Callable[[], None]]] = []  # a heap; the number keeps their order
        self._alarms_set = 0

    def watch(self, fd: int, callback: Callable[[], None], *, edge: bool = False) -> None:
        """Until `unwatch`. With `edge`, only when there is more to be read than before."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, select.EPOLLIN | (select.EPOLLET if edge else 0))

    def unwatch(self, fd: int) -> None:
        del self._callbacks[fd]
        self._epoll.unregister(fd)

    def alarm(self, seconds: float, callback: Callable[[], None]) -> None:
        self._alarms_set += 1
        heapq.heappush(self._alarms, (monotonic() + seconds, self._alarms_set, callback))

    def fileno(self) -> int:
        return self._epoll.fileno()

    @property
    def timeout(self) -> float:
        """Seconds until the next alarm; -1 for ever."""
        return max(0.0, self._alarms[0][0] - monotonic()) if self._alarms else -1.0

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        """At most `timeout` seconds, for what `serve` is to be given."""
        return self._epoll.poll(timeout)

    def serve(self, events: list[tuple[int, int]]) -> None:
        """Calls back, for these events and for alarms."""
        callbacks, alarms = self._callbacks, self._alarms
        for fd, _events in events:
            callback = callbacks.get(fd)
            if callback is not None:
                callback()
        while alarms and alarms[0][0] <= monotonic():
            heapq.heappop(alarms)[2]()

    def close(self) -> None:
        self._callbacks.clear()
        self._epoll.close()
