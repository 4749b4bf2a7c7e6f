"""What the tests of every clipboard backend share."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator

from subos_desktop.clipboard import Clipboard, Offer, Provider

PATIENCE = 60  # seconds for anything that must come


def given(contents: dict[str, bytes], asked: list[str] | None = None) -> Provider:
    """A provider of these; `asked` gets the formats that it was asked for."""

    async def provide(mime: str) -> AsyncIterator[bytes]:
        if asked is not None:
            asked.append(mime)
        data = contents[mime]
        for start in range(0, len(data), 65536):
            yield data[start : start + 65536]

    return provide


class Endless:
    """A provider without an end: `middle` is set when it has given some MiB, `closed` when it was closed."""

    def __init__(self) -> None:
        self.middle, self.closed = asyncio.Event(), asyncio.Event()

    async def __call__(self, mime: str) -> AsyncIterator[bytes]:
        given = 0
        try:
            while True:
                yield bytes(65536)
                given += 1
                if given == 100:
                    self.middle.set()
        finally:
            self.closed.set()


class Waiting:
    """A provider that never gives anything: `asked` is set when it was asked, `closed` when it was closed."""

    def __init__(self) -> None:
        self.asked, self.closed = asyncio.Event(), asyncio.Event()

    async def __call__(self, mime: str) -> AsyncIterator[bytes]:
        try:
            self.asked.set()
            await asyncio.Event().wait()
            yield b""
        finally:
            self.closed.set()


class Offers:
    """Those of a clipboard, one after the other."""

    def __init__(self, clipboard: Clipboard) -> None:
        self._offers = clipboard.offers()

    async def next(self) -> Offer:
        return await asyncio.wait_for(self._offers.__anext__(), PATIENCE)

    async def of(self, *formats: str) -> Offer:
        """The next one of these formats; others before it pass."""
        while (offer := await self.next()).formats != formats:
            pass
        return offer


class Bridge:
    """Keeps two clipboards equal: all that it takes."""

    def __init__(self, left: Clipboard, right: Clipboard) -> None:
        self.passed = 0
        self._turn = asyncio.Lock()
        self._tasks = [asyncio.ensure_future(self._pass(*way)) for way in ((left, right), (right, left))]

    async def _pass(self, source: Clipboard, target: Clipboard) -> None:
        async for offer in source.offers():
            async with self._turn:
                if source.current(offer.selection) is not offer:
                    continue
                provider = functools.partial(source.read, offer.selection, serial=offer.serial)
                await target.offer(offer.selection, offer.formats, provider)
                self.passed += 1

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
