"""Long streams of pieces that are made, or used up, by code that blocks: in a thread, a few at a time."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any, Callable, Iterator, List, TypeVar, Union

from .frames import Head
from .stream import Stream

BATCH = 8
"""Pieces that are made at a time: a thread costs more than a small piece."""
T = TypeVar("T")


def _nothing() -> None:
    """Most are quick."""


Piece = Union[Head, bytes]


async def send_pieces(
    stream: Stream,
    pieces: Iterator[Piece],
    sent: Callable[[Piece], None] = lambda piece: None,
    give_up: Callable[[], None] = _nothing,
) -> None:
    """Sends dicts as EVENTs, bytes as DATA; `sent` is told of each; `give_up` asks a slow source to end early.

    Raises ChannelError, and what `pieces` raises.
    """

    def some() -> List[Piece]:
        return list(islice(pieces, BATCH))

    while batch := await in_thread(some, give_up=give_up):
        for piece in batch:
            if isinstance(piece, bytes):
                await stream.send(piece)
            else:
                await stream.event(piece)
            sent(piece)


async def receive_pieces(stream: Stream, take: Callable[[Piece], None], give_up: Callable[[], None] = _nothing) -> None:
    """Gives all that comes to `take`, up to the end; `give_up` asks a `take` that may take long to end early.

    Raises ChannelError, and what `take` raises.
    """
    while (message := await stream.receive()) is not None:
        await in_thread(take, message.content, give_up=give_up)


async def in_thread(function: Callable[..., T], *arguments: Any, give_up: Callable[[], None] = _nothing) -> T:
    """Its result. Where the caller is cancelled, the thread is waited for: it may hold what the caller will close."""
    future = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
    try:
        await asyncio.wait({future})
    except asyncio.CancelledError:
        give_up()
        await asyncio.wait({future})
        future.exception()  # nobody else asks for it
        raise
    return future.result()
