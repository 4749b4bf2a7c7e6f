"""Turns of those who do something with one thing: one after the other, and none is kept of what nobody waits for."""

from __future__ import annotations

import asyncio
import contextlib
from typing import AsyncIterator, Dict


class _Turn:
    """`wanted` counts those who wait, and who has it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0


class Turns:
    """Of things by name. False where nobody has or wants any."""

    def __init__(self) -> None:
        self._turns: Dict[str, _Turn] = {}

    def __bool__(self) -> bool:
        return bool(self._turns)

    @contextlib.asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        turn = self._turns.setdefault(name, _Turn())
        turn.wanted += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[name]
