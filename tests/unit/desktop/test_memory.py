"""The clipboard in memory: what every backend does, without a desktop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_desktop.clipboard import (
    CHUNK,
    HTML,
    PNG,
    TEXT,
    Disconnected,
    NotOffered,
    Offer,
    Selection,
    TooLarge,
    Unavailable,
    choose,
    gather,
    read_all,
)
from subos_desktop.clipboard.memory import MemoryClipboard

CLIPBOARD, PRIMARY = Selection.CLIPBOARD, Selection.PRIMARY


async def given_bytes(mime: str) -> AsyncIterator[bytes]:
    yield mime.encode()


def in_a_loop(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 20))


def test_an_offer_of_another_program_is_reported_and_read() -> None:
    async def main() -> None:
        async with MemoryClipboard() as clipboard:
            clipboard.copy(CLIPBOARD, {TEXT: b"hello", HTML: b"<b>"})
            offers = clipboard.offers()
            assert await offers.__anext__() == Offer(CLIPBOARD, (TEXT, HTML), 1)
            assert await read_all(clipboard, CLIPBOARD, TEXT, 5) == b"hello"
            with pytest.raises(TooLarge):
                await read_all(clipboard, CLIPBOARD, TEXT, 4)
            with pytest.raises(NotOffered):
                await read_all(clipboard, CLIPBOARD, PNG, 5)
            with pytest.raises(NotOffered):
                await read_all(clipboard, PRIMARY, TEXT, 5)

    in_a_loop(main())


def test_who_is_slow_misses_all_but_the_newest_of_each_selection() -> None:
    async def main() -> None:
        async with MemoryClipboard() as clipboard:
            for number in range(100):
                clipboard.copy(CLIPBOARD, {f"x/{number}": b""})
                clipboard.copy(PRIMARY, {f"y/{number}": b""})
            offers = clipboard.offers()
            assert [(await offers.__anext__()).formats for _ in range(2)] == [("x/99",), ("y/99",)]
            waiting = asyncio.ensure_future(offers.__anext__())
            await asyncio.sleep(0)
            clipboard.copy(PRIMARY, {TEXT: b""})
            assert (await waiting).selection is PRIMARY

    in_a_loop(main())


def test_what_we_offer_is_pasted_and_never_reported() -> None:
    async def main() -> None:
        async with MemoryClipboard() as clipboard:
            clipboard.copy(CLIPBOARD, {TEXT: b"theirs"})
            await clipboard.offer(CLIPBOARD, [PNG, "no type"], given_bytes)
            assert clipboard.formats(CLIPBOARD) == (PNG,)
            assert clipboard.current(CLIPBOARD) is None
            assert [chunk async for chunk in clipboard.paste(CLIPBOARD, PNG)] == [PNG.encode()]
            with pytest.raises(NotOffered):
                await clipboard.paste(CLIPBOARD, TEXT).__anext__()
            clipboard.copy(PRIMARY, {})
            assert (await clipboard.offers().__anext__()).selection is PRIMARY
            await clipboard.release(CLIPBOARD)
            assert clipboard.formats(CLIPBOARD) == ()

    in_a_loop(main())


def test_closed_it_says_so() -> None:
    async def main() -> None:
        clipboard = MemoryClipboard()
        with pytest.raises(Disconnected):
            await clipboard.offers().__anext__()
        await clipboard.connect()
        waiting = asyncio.ensure_future(clipboard.offers().__anext__())
        await asyncio.sleep(0)
        await clipboard.close()
        with pytest.raises(Disconnected):
            await waiting
        with pytest.raises(Disconnected):
            await clipboard.offer(CLIPBOARD, [TEXT], given_bytes)

    in_a_loop(main())


def test_memory_is_chosen_by_name_only() -> None:
    async def main() -> None:
        choice = await choose("memory", environment={})
        assert choice.clipboard.name == "memory"
        await choice.clipboard.close()
        with pytest.raises(Unavailable, match="'memroy'"):
            await choose("memroy", environment={})

    in_a_loop(main())


@given(st.lists(st.binary(max_size=40)), st.integers(1, 50))
def test_gathered_chunks_are_the_same_bytes(parts: list[bytes], size: int) -> None:
    closed = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            for part in parts:
                yield part
        finally:
            closed.append(True)

    async def main() -> None:
        gathered = [chunk async for chunk in gather(chunks(), size)]
        assert b"".join(gathered) == b"".join(parts)
        assert {len(chunk) for chunk in gathered[:-1]} <= {size}
        assert all(0 < len(chunk) <= size for chunk in gathered)
        assert closed == [True]

    in_a_loop(main())


def test_large_data_comes_in_chunks() -> None:
    async def main() -> None:
        async with MemoryClipboard() as clipboard:
            clipboard.copy(CLIPBOARD, {PNG: bytes(3 * CHUNK + 1)})
            sizes = [len(chunk) async for chunk in clipboard.read(CLIPBOARD, PNG)]
            assert sizes == [CHUNK, CHUNK, CHUNK, 1]

    in_a_loop(main())
