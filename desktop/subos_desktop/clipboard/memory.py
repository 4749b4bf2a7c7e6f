"""A clipboard of its own in memory: for tests, and for a host without a desktop."""

from __future__ import annotations

from typing import AsyncIterator, Dict, Optional, Sequence, Tuple

from .formats import MAX_FORMATS, is_mime
from .interface import Clipboard, ClipboardError, Disconnected, NotOffered, Provider, Selection
from .streams import gather


class MemoryClipboard(Clipboard):
    """copy() and paste() stand for the other programs of a desktop."""

    name = "memory"

    def __init__(self, marker: Optional[str] = None) -> None:
        super().__init__(marker)
        self._lost = Disconnected("the clipboard is closed")
        self._others: Dict[Selection, Provider] = {}
        self._held: Dict[Selection, Tuple[Tuple[str, ...], Provider]] = {}

    async def connect(self) -> None:
        self._lost = None

    async def close(self) -> None:
        self._held.clear()
        self._others.clear()
        self._lose(Disconnected("the clipboard is closed"))

    async def read(self, selection: Selection, mime: str, serial: Optional[int] = None) -> AsyncIterator[bytes]:
        self._offered(selection, mime, serial)
        async for chunk in gather(self._others[selection](mime)):
            yield chunk

    async def offer(self, selection: Selection, formats: Sequence[str], provider: Provider) -> None:
        if self._lost:
            raise self._lost
        self._forget(selection)
        self._others.pop(selection, None)
        self._held[selection] = (tuple(filter(is_mime, formats))[:MAX_FORMATS], provider)

    async def release(self, selection: Selection) -> None:
        self._held.pop(selection, None)

    # --- the other programs ------------------------------------------------------------------------------------

    def copy(self, selection: Selection, contents: Dict[str, bytes]) -> None:
        """Another program copies this: {format: data}."""

        async def provide(mime: str) -> AsyncIterator[bytes]:
            yield contents[mime]

        self.copy_from(selection, tuple(contents), provide)

    def copy_from(self, selection: Selection, formats: Sequence[str], provider: Provider) -> None:
        """Another program copies what it gives on demand."""
        self._held.pop(selection, None)
        self._others[selection] = provider
        self._announce(selection, formats)

    def formats(self, selection: Selection) -> Tuple[str, ...]:
        """What a program can paste; nothing where another program than we has copied."""
        return self._held[selection][0] if selection in self._held else ()

    async def paste(self, selection: Selection, mime: str) -> AsyncIterator[bytes]:
        """Another program pastes what we offer. Raises NotOffered, and what the provider raises."""
        formats, provider = self._held.get(selection, ((), _nothing))
        if mime not in formats:
            raise NotOffered(f"the {selection.value} holds nothing of the type {mime}")
        async for chunk in gather(provider(mime)):
            yield chunk


async def _nothing(mime: str) -> AsyncIterator[bytes]:
    raise ClipboardError(f"there is no {mime}")
    yield b""
