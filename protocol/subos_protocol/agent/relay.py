"""Two streams joined: what a hub does between its callers and an agent, and an agent between the host and a session."""

from __future__ import annotations

import asyncio
from typing import Coroutine, Optional

from .errors import ChannelError, ChannelLost, RemoteError
from .frames import Head
from .peer import Peer
from .stream import Stream


async def relay(asked: Stream, to: Peer, head: Optional[Head] = None) -> Optional[Head]:
    """Passes a request on, in place of a handler: its DATA, EVENTs, end, cancellation, and the reply.

    `head` replaces the request's own. Raises RemoteError as the other side said, or "lost" where it is gone.
    """
    try:
        async with to.call(asked.head if head is None else head) as passed:
            onward = asyncio.ensure_future(_pump(asked, passed, end=True))
            try:
                await _pump(passed, asked)
                return await passed.result()
            finally:
                onward.cancel()
                await asyncio.gather(onward, return_exceptions=True)
    except ChannelLost as error:
        raise RemoteError("lost", str(error)) from error


async def both(one: Coroutine[object, object, None], other: Coroutine[object, object, None]) -> None:
    """Until one of them ends, and with it the other. Raises what it raises."""
    tasks = [asyncio.ensure_future(one), asyncio.ensure_future(other)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(source: Stream, target: Stream, *, end: bool = False) -> None:
    try:
        while True:
            message = await source.receive()
            if message is None:
                break
            if isinstance(message.content, bytes):
                await target.send(message.content, message.part)
            else:
                await target.event(message.content)
    except ChannelError:
        if not end:
            raise
        target.cancel()
        return
    if end:
        target.end()
