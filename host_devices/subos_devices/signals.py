"""Signals that ask a command to end: it ends in order, and cleans up after itself."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any


def run(main: Coroutine[Any, Any, int]) -> int:
    """Runs `main` on an event loop of its own; its result is the exit status.

    The first SIGINT, SIGTERM or SIGHUP cancels it, and the status is 128 + its number unless `main` catches the
    cancellation; those that follow do not interrupt the cleaning up.
    """
    return asyncio.run(_cancelled_by_signals(main))


async def _cancelled_by_signals(main: Coroutine[Any, Any, int]) -> int:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    ended_by = 0

    def end(number: int) -> None:
        nonlocal ended_by
        if not ended_by:
            ended_by = number
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, number)
    try:
        return await main
    except asyncio.CancelledError:
        if not ended_by:
            raise
        return 128 + ended_by
