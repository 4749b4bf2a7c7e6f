"""Chunks of bytes on their way."""

from __future__ import annotations

import contextlib
from typing import AsyncIterator, TypeVar

from .formats import Recoder
from .interface import CHUNK, Clipboard, Selection, TooLarge

T = TypeVar("T")


@contextlib.asynccontextmanager
async def closing(chunks: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Closes them at the end, and with them the transfer behind (contextlib.aclosing came with Python 3.10)."""
    try:
        yield chunks
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


async def gather(chunks: AsyncIterator[bytes], size: int = CHUNK) -> AsyncIterator[bytes]:
    """The same bytes in chunks of `size`, the last one smaller; nothing of no bytes. Closes `chunks`."""
    collected = bytearray()
    async with closing(chunks):
        async for chunk in chunks:
            rest = memoryview(chunk)
            while len(collected) + len(rest) >= size:
                taken = size - len(collected)
                yield bytes(collected) + rest[:taken]
                collected.clear()
                rest = rest[taken:]
            collected += rest
    if collected:
        yield bytes(collected)


async def read_all(clipboard: Clipboard, selection: Selection, mime: str, limit: int) -> bytes:
    """All of it in memory. Raises TooLarge as soon as there are more than `limit` bytes, and what read() raises."""
    data = bytearray()
    async with closing(clipboard.read(selection, mime)) as chunks:
        async for chunk in chunks:
            if len(data) + len(chunk) > limit:
                raise TooLarge(f"the {selection.value} holds more than {limit} bytes as {mime}")
            data += chunk
    return bytes(data)


async def recode(chunks: AsyncIterator[bytes], recoder: Recoder) -> AsyncIterator[bytes]:
    """The bytes changed on their way; nothing of no bytes. Closes `chunks`."""
    async with closing(chunks):
        async for chunk in chunks:
            changed = recoder.feed(chunk)
            if changed:
                yield changed
    rest = recoder.feed(b"", last=True)
    if rest:
        yield rest
