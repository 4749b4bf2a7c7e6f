"""Waiting for news of a callback, with a deadline."""

from __future__ import annotations

import asyncio
from typing import Callable, Optional


class Bell:
    """What one task waits at and callbacks ring."""

    def __init__(self) -> None:
        self._waiter: Optional[asyncio.Future[None]] = None
        self._expired = False

    def ring(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def until(self, condition: Callable[[], object], patience: float) -> bool:
        """Whether it became true (looked at whenever it rings) within that many seconds.

        asyncio.wait_for would lose a cancellation that comes together with the news (Python 3.11 and older).
        """
        loop = asyncio.get_running_loop()
        timer = loop.call_later(patience, self._expire)
        self._expired = False
        try:
            while not condition():
                if self._expired:
                    return False
                self._waiter = loop.create_future()
                await self._waiter
        finally:
            timer.cancel()
        return True

    def _expire(self) -> None:
        self._expired = True
        self.ring()
