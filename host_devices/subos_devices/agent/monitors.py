"""Where a guest's desktop has its monitors, as its agent says: checked, and printable."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from subos_protocol.agent.stream import Message
from subos_protocol.errors import Malformed
from subos_protocol.monitors import OPERATION, Layout, unpack_layout

from ..errors import SubosError
from ..text import printable
from .caller import connected, told

SECONDS = 10.0


async def layouts(name: str) -> AsyncGenerator[Layout, None]:
    """Of the VM `name`: now, and after each change. Raises UserError, SubosError where nobody says so (any more)."""
    with told():
        async with connected(name) as peer, peer.call({"op": OPERATION}) as stream:
            while True:
                yield _checked(await stream.receive())


def _checked(message: Message | None) -> Layout:
    """Raises SubosError."""
    try:
        said = unpack_layout(message.content if message is not None else None)
    except Malformed as error:
        raise SubosError(f"the guest's agent says of its monitors what means nothing: {error}") from error
    return said._replace(monitors=tuple(monitor._replace(name=printable(monitor.name)) for monitor in said.monitors))


async def layout(name: str, seconds: float = SECONDS) -> Layout:
    """Of the VM `name`, now. Raises UserError, SubosError."""
    try:
        async with asyncio.timeout(seconds), contextlib.aclosing(layouts(name)) as said:
            return await anext(said)
    except TimeoutError:
        raise SubosError(f"the guest does not say within {seconds:g} s where its monitors are") from None


async def layout_if_told(name: str, seconds: float) -> Layout | None:
    """None where the guest does not say so, in that time."""
    with contextlib.suppress(SubosError):
        return await layout(name, seconds)
    return None
