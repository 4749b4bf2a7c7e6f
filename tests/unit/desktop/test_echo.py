"""What a clipboard manager brings back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from subos_desktop.clipboard import HTML, PNG, TEXT
from subos_desktop.clipboard.echo import MAX_SIZE, Echo


async def provide(mime: str) -> AsyncIterator[bytes]:
    if mime == PNG:
        yield bytes(MAX_SIZE)
        yield b"1"
    else:
        yield b"one "
        yield b"two"


async def paste(echo: Echo, mime: str, chunks: int = 10) -> None:
    given = echo.record(provide)(mime)
    for _ in range(chunks):
        if await anext(given, None) is None:
            break


def test_what_was_pasted_whole_is_known_again() -> None:
    async def main() -> None:
        echo = Echo()
        assert echo.candidate([TEXT]) == (None, 0)
        await paste(echo, TEXT)
        assert echo.candidate([HTML]) == (None, 0)
        assert echo.candidate([HTML, TEXT]) == (TEXT, 7)
        assert echo.is_it(TEXT, b"one two")
        assert not echo.is_it(TEXT, b"one twO")
        assert not echo.is_it(HTML, b"one two")

    asyncio.run(main())


def test_a_part_or_what_is_too_large_is_not() -> None:
    async def main() -> None:
        echo = Echo()
        await paste(echo, TEXT, 2)
        await paste(echo, PNG)
        assert echo.candidate([TEXT, PNG]) == (None, 0)

    asyncio.run(main())
