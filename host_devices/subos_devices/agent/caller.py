"""A command's end of the agent channel: `subos-devices exec` and its like, by way of the VM's hub."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

from subos_protocol import __version__
from subos_protocol.agent.errors import ChannelError, ChannelLost, RemoteError
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Peer

from .. import runtime
from ..errors import UserError
from ..text import printable
from .hub import CALLERS, AgentError

MAX_FACTS = 64
REFUSALS = ("not-started", "not-found", "refused", "no-agent", "malformed", "unknown-op", "too-large")
"""Codes of what cannot be done as it was asked for."""


@contextlib.asynccontextmanager
async def connected(name: str) -> AsyncIterator[Peer]:
    """A peer that passes requests to the agent in the VM `name`. Raises UserError where the VM does not run."""
    path = runtime.vm_folder(name) / CALLERS
    peer = Peer(Hello("subos-devices", __version__), {}, opener=True)
    try:
        await asyncio.get_running_loop().create_unix_connection(lambda: peer, os.fspath(path))
        await asyncio.wait_for(peer.ready(), 10)
    except (OSError, ChannelLost, TimeoutError) as error:
        peer.close()
        raise UserError(f"no VM called {name!r} answers", "subos-devices status lists the VMs that run") from error
    try:
        yield peer
    finally:
        peer.close()


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What goes wrong with a request in the block becomes a line for people. Raises UserError, AgentError."""
    try:
        yield
    except RemoteError as error:
        known = AgentError.of(error)
        if error.code in REFUSALS:
            raise UserError(known.message, known.hint) from error
        raise known from error
    except ChannelError as error:
        raise AgentError.of(error) from error


async def facts(name: str, seconds: float) -> dict[str, Any] | None:
    """What the agent in the VM `name` says of its guest, in printable texts; None where it does not, in that time."""
    with contextlib.suppress(ChannelError, UserError, TimeoutError):
        async with asyncio.timeout(seconds), connected(name) as peer:
            return _texts(await peer.ask({"op": "facts"}))
    return None


def _texts(said: dict[str, Any]) -> dict[str, Any]:
    """The guest may say anything: texts and lists of texts are kept, not too many."""
    kept: dict[str, Any] = {}
    for name, value in list(said.items())[:MAX_FACTS]:
        if isinstance(value, str):
            kept[printable(name)] = printable(value)
        elif isinstance(value, list):
            kept[printable(name)] = [printable(text) for text in value[:MAX_FACTS] if isinstance(text, str)]
    return kept
