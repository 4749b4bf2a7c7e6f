"""What comes faster than it is to be done: the newest, so often at most."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Paced(Generic[T]):
    """`do` is called with what is put, at once where `seconds` have passed since the last time, otherwise then and with
    the newest. On the running event loop."""

    def __init__(self, do: Callable[[T], None], seconds: float) -> None:
        self._do = do
        self._seconds = seconds
        self._newest: list[T] = []
        self._timer: asyncio.TimerHandle | None = None

    def put(self, what: T) -> None:
        self._newest = [what]
        if self._timer is None:
            self._next()

    def cancel(self) -> None:
        """What waits is not done."""
        self._newest = []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> None:
        self._timer = None
        if self._newest:
            what = self._newest.pop()
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._next)
            self._do(what)
