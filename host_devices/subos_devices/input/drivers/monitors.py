"""The guest's monitors, for rules that name one: as its agent tells them, now and after each change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from subos_protocol.monitors import Layout

from ...errors import SubosError

Layouts = Callable[[], AsyncGenerator[Layout, None]]
"""Tells them. It raises SubosError where nobody says so, or no longer."""

AGAIN = 5.0  # seconds until it is asked again, where nobody said: a desktop may begin
PAUSE = 1.0  # seconds between two layouts that are heeded, and spoken of: a guest may change them without end


class Monitors:
    """`layout` is the newest that was told. `changed` is called when it has changed, and `untold` with what is wrong
    when nobody says it."""

    def __init__(self, layouts: Layouts, changed: Callable[[], None], untold: Callable[[SubosError], None]) -> None:
        self._layouts = layouts
        self._changed = changed
        self._untold = untold
        self.layout: Layout | None = None

    async def follow(self) -> None:
        """Until it is cancelled. Who has told it and is gone may be back: what was told counts until then."""
        while True:
            try:
                async with contextlib.aclosing(self._layouts()) as told:
                    async for layout in told:
                        if layout != self.layout:
                            self.layout = layout
                            self._changed()
                        await asyncio.sleep(PAUSE)
            except SubosError as error:
                self._untold(error)
            await asyncio.sleep(AGAIN)
