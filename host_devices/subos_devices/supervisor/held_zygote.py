"""The zygote as its holder has it: it outlives the supervisors that ask it for workers."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from .restarts import Restarts
from .zygote import Zygote

LONGEST = 5.0  # seconds until another one is started

log = logging.getLogger("subos")


class HeldZygote:
    """Started at once; from `watch` on it is replaced when it dies, and `on_renewed` is called."""

    def __init__(self, *kinds: str) -> None:
        self.used = False
        """A supervisor may have asked it for workers."""
        self._zygote = Zygote.start(*kinds)
        self._on_renewed: Callable[[], None] = lambda: None
        self._pidfd = -1
        self._restarts = Restarts()
        self._lives = asyncio.Event()
        self._again: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int:
        return self._zygote.pid

    @property
    def kinds(self) -> tuple[str, ...]:
        return self._zygote.kinds

    @property
    def channel(self) -> int:
        return self._zygote.channel.fileno()

    def watch(self, on_renewed: Callable[[], None]) -> None:
        self._on_renewed = on_renewed
        self._loop = asyncio.get_running_loop()
        self._attend()

    async def living(self) -> None:
        """Waits until there is one, if it has just died."""
        await self._lives.wait()

    def renew(self) -> None:
        """Ends it, and all its children with it; another one takes its place at once."""
        if self._pidfd >= 0:
            self._leave()
            self._start()

    def close(self) -> None:
        """Ends it, and with it every worker."""
        if self._again is not None:
            self._again.cancel()
        if self._pidfd >= 0:
            self._leave()
        self._zygote.close()

    def _attend(self) -> None:
        self._pidfd = os.pidfd_open(self._zygote.pid)
        self._loop.add_reader(self._pidfd, self._died)
        self._restarts.born(self._loop.time(), 0)
        self._restarts.ready()
        self._lives.set()

    def _leave(self) -> None:
        self._lives.clear()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1

    def _died(self) -> None:
        self._leave()
        delay = min(self._restarts.died(self._loop.time(), 0, owing=False), LONGEST)
        log.error("the zygote died; another one is started %s", f"in {delay:g} s" if delay else "now")
        if delay:
            self._again = self._loop.call_later(delay, self._start)
        else:
            self._start()

    def _start(self) -> None:
        self._again = None
        kinds = self._zygote.kinds
        self._zygote.close()
        try:
            self._zygote = Zygote.start(*kinds)
        except OSError as error:
            log.error("no zygote can be started now: %s", error.strerror)
            self._again = self._loop.call_later(LONGEST, self._start)
            return
        self.used = False
        self._attend()
        self._on_renewed()
