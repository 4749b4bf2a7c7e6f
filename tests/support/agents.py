"""Both ends of the agent channel in one process: a hub and an agent, or the real handlers and who asks them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from subos_agent.configuration import Configuration
from subos_agent.service import handlers
from subos_devices.agent.hub import Hub
from subos_protocol import __version__
from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Handler, Peer
from subos_protocol.agent.stream import Stream

ALL_ON = Configuration(exec=True)


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test that is a coroutine function, for a minute at most."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **fixtures), 60))

    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run


async def attach(sock: socket.socket, peer: Peer) -> Peer:
    """Gives a connected socket to a peer."""
    await asyncio.get_running_loop().connect_accepted_socket(lambda: peer, sock)
    return peer


def agent_peer(table: Mapping[str, Handler], *, shared: bool = False, release: str = __version__) -> Peer:
    """An agent's end, as the service makes it."""
    return Peer(Hello("subos-agent", release, sorted(table)), table, opener=True, shared=shared)


@contextlib.asynccontextmanager
async def asking(table: Mapping[str, Handler] | None = None) -> AsyncIterator[Peer]:
    """Who asks an agent with these handlers (those of the service, with all switched on)."""
    ours, theirs = socket.socketpair()
    host = await attach(ours, Peer(Hello("host", "1"), {}, opener=False))
    agent = await attach(theirs, agent_peer(handlers(ALL_ON) if table is None else table))
    try:
        await asyncio.gather(host.ready(), agent.ready())
        yield host
    finally:
        host.close()
        agent.close()
        await asyncio.gather(*agent._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the transports close


class FakeAgent:
    """Says yes to whatever the host wants to have mounted, or what `answers` has for an operation; `asked` is what it
    was asked."""

    def __init__(self) -> None:
        self.asked: list[Head] = []
        self.answers: dict[str, RemoteError] = {}
        self.handlers: dict[str, Handler] = dict.fromkeys(("mount", "unmount", "clock"), self._answer)

    async def _answer(self, stream: Stream) -> Head:
        self.asked.append(stream.head)
        if stream.head["op"] in self.answers:
            raise self.answers[stream.head["op"]]
        return {}


@contextlib.asynccontextmanager
async def hub_with_agent(folder: Path, table: Mapping[str, Handler]) -> AsyncIterator[Hub]:
    """A hub in `folder`, and an agent with these handlers behind its virtio-serial port."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        async with Hub(folder) as hub:
            hub.follow_port(ours)
            agent = await attach(theirs, agent_peer(table, shared=True))
            try:
                await hub.agent()
                yield hub
            finally:
                agent.close()
                await asyncio.sleep(0)
