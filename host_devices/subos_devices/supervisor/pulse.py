"""Whether the supervisor lives: one that answers nothing for a while is ended, and another one comes after it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from .supervisor_link import SupervisorLink

PING = 5.0  # seconds between two looks
MISSES = 2  # looks after which one that has not answered hangs

log = logging.getLogger("subos")


class Pulse:
    """Looks at the one that is `serving` from `begin` on. `heard` is told of its answers."""

    def __init__(self, serving: Callable[[], SupervisorLink | None]) -> None:
        self._serving = serving
        self._seen: SupervisorLink | None = None
        self._misses = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PING, self._look)

    def heard(self) -> None:
        self._misses = 0

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self.begin()
        link, before = self._serving(), self._seen
        self._seen = link
        if link is None:
            return
        if link is not before:
            self._misses = 0
        link.look()  # what it says may have waited for us
        if not link.alive:
            return
        if self._misses >= MISSES:
            log.error("the supervisor hangs, and is ended")
            self._misses = 0
            link.kill()
            return
        if self._misses == 0:
            link.send({"op": "ping"})
        self._misses += 1
