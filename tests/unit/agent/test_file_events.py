"""The host's end of file events: channels that come and go while an agent is there."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from subos_devices.agent.file_events import OPERATION, FileEvents
from subos_protocol.agent.frames import Head
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Peer
from subos_protocol.agent.stream import Stream
from subos_protocol.file_events import MAX_PACKET, Replay, pack_attached, pack_replays
from support.agents import agent_peer, attach, on_a_loop

[PACKET] = pack_replays([Replay(7, "create", b"", b"name", 0o100600)])


class Agent:
    """Hears packets."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    async def watch(self, stream: Stream) -> Head:
        while (message := await stream.receive()) is not None:
            await self.heard.put((stream.head["tag"], message.content))
        return {}


@contextlib.asynccontextmanager
async def followed() -> AsyncIterator[tuple[FileEvents, Agent]]:
    events, agent = FileEvents(), Agent()
    ours, theirs = socket.socketpair()
    host = await attach(ours, Peer(Hello("host", "1"), {}, opener=False))
    guest = await attach(theirs, agent_peer({OPERATION: agent.watch}))
    await asyncio.gather(host.ready(), guest.ready())
    following = asyncio.ensure_future(events.follow(host))
    try:
        yield events, agent
    finally:
        following.cancel()
        events.close_all()
        for peer in (host, guest):
            peer.close()
        await asyncio.gather(following, *guest._tasks, return_exceptions=True)
        await asyncio.sleep(0.05)


async def attached(events: FileEvents, tag: str) -> socket.socket:
    """The worker's end of a channel that is carried."""
    worker = socket.socket(fileno=events.open(tag))
    worker.setblocking(False)
    assert await said(worker) == pack_attached(True)
    return worker


async def said(worker: socket.socket) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(worker, MAX_PACKET), 2)


@on_a_loop
async def test_a_channel_in_the_place_of_another_is_heard() -> None:
    """Its descriptor would have the number that the event loop polled for the one before."""
    async with followed() as (events, agent):
        first = await attached(events, "work")
        first.send(PACKET)
        assert await asyncio.wait_for(agent.heard.get(), 2) == ("work", PACKET)
        for _ in range(3):
            second = await attached(events, "work")
            with first:
                assert await said(first) == pack_attached(False)
                assert await said(first) == b"", "it is closed"
            second.send(PACKET)
            assert await asyncio.wait_for(agent.heard.get(), 2) == ("work", PACKET)
            first = second
        events.close("work")
        with first:
            assert await said(first) == pack_attached(False)
            assert await said(first) == b""


@on_a_loop
async def test_a_descriptor_that_is_opened_right_after_is_polled() -> None:
    async with followed() as (events, _agent):
        with await attached(events, "work"):
            events.close("work")
            one, other = socket.socketpair()
            with one, other:
                one.setblocking(False)
                other.send(b"x")
                await asyncio.sleep(0.05)
                loop = asyncio.get_running_loop()
                readable = asyncio.Event()
                loop.add_reader(one, readable.set)
                await asyncio.wait_for(readable.wait(), 2)
                loop.remove_reader(one)


@on_a_loop
async def test_one_way_may_fail_while_the_other_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, so nobody is told of an exception that was never retrieved."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    failed = asyncio.Event()

    async def fail(_self: object, _stream: Stream) -> None:
        await asyncio.sleep(0)
        raise OSError("no more")

    async def fail_when_cancelled(_self: object, _stream: Stream) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError as error:
            failed.set()
            raise OSError("nor this") from error

    channel = "subos_devices.agent.file_events._Channel"
    monkeypatch.setattr(f"{channel}._from_agent", fail)
    monkeypatch.setattr(f"{channel}._from_worker", fail_when_cancelled)
    async with followed() as (events, _agent):
        with socket.socket(fileno=events.open("work")):
            await asyncio.wait_for(failed.wait(), 2)
            await asyncio.sleep(0.05)
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []
