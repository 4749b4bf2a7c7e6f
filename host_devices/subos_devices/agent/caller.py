"""A command's end of the agent channel: `subos-devices exec` and its like, by way of the VM's hub."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator

from subos_protocol import __version__
from subos_protocol.agent.errors import ChannelError, ChannelLost, RemoteError
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Peer

from .. import runtime
from ..errors import UserError
from .hub import CALLERS, AgentError

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
