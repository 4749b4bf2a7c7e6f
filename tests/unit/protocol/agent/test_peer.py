"""Peers over a socket pair."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from subos_protocol.agent.connection import WINDOW
from subos_protocol.agent.errors import ChannelLost, RemoteError
from subos_protocol.agent.frames import Frame, FrameType, Head
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Handler, Peer
from subos_protocol.agent.relay import relay
from subos_protocol.agent.stream import Stream


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def sync() -> None:
        asyncio.run(asyncio.wait_for(test(), 30))

    sync.__name__ = test.__name__
    return sync


async def attach(sock: socket.socket, peer: Peer) -> Peer:
    await asyncio.get_running_loop().connect_accepted_socket(lambda: peer, sock)
    return peer


@contextlib.asynccontextmanager
async def pair(**handlers: Handler) -> AsyncIterator[tuple[Peer, Peer]]:
    """(who asks, who answers with `handlers`)."""
    ours, theirs = socket.socketpair()
    one = await attach(ours, Peer(Hello("one", "1"), {}, opener=True))
    two = await attach(theirs, Peer(Hello("two", "1", sorted(handlers)), handlers, opener=False))
    await asyncio.gather(one.ready(), two.ready())
    try:
        yield one, two
    finally:
        one.close()
        two.close()


async def echo(stream: Stream) -> Head:
    size = 0
    while (message := await stream.receive()) is not None:
        if isinstance(message.content, bytes):
            size += len(message.content)
            await stream.send(message.content, message.part)
        else:
            await stream.event(message.content)
    return {"size": size}


async def never(stream: Stream) -> Head:
    await asyncio.sleep(1000)
    return {}


async def refuse(stream: Stream) -> Head:
    raise RemoteError("refused", "no", "ask later")


async def broken(stream: Stream) -> Head:
    raise OSError("the disk is on fire")


@run
async def test_an_echo_with_more_than_a_window() -> None:
    async with pair(echo=echo) as (one, _), one.call({"op": "echo"}) as stream:
        data = bytes(range(256)) * 8192

        async def feed() -> None:
            await stream.send(data, 3)
            await stream.event({"a": 1})
            stream.end()

        feeding = asyncio.create_task(feed())
        got, events = bytearray(), []
        while (message := await stream.receive()) is not None:
            if isinstance(message.content, bytes):
                got += message.content
                assert message.part == 3
            else:
                events.append(message.content)
        await feeding
        assert got == data
        assert events == [{"a": 1}]
        assert await stream.result() == {"size": len(data)}


@run
async def test_errors_arrive_as_they_were_said() -> None:
    logging.getLogger("subos_protocol.agent.peer").setLevel(logging.ERROR)
    async with pair(refuse=refuse, broken=broken) as (one, _):
        with pytest.raises(RemoteError) as refused:
            await one.ask({"op": "refuse"})
        assert (refused.value.code, refused.value.message, refused.value.hint) == ("refused", "no", "ask later")
        with pytest.raises(RemoteError, match="on fire"):
            await one.ask({"op": "broken"})
        with pytest.raises(RemoteError) as unknown:
            await one.ask({"op": "dance"})
        assert unknown.value.code == "unknown-op"
        with pytest.raises(RemoteError, match="at most"):
            await one.ask({"op": "x" * 100_000})


@run
async def test_leaving_the_block_cancels_the_handler() -> None:
    ended = asyncio.Event()

    async def wait(stream: Stream) -> Head:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.set()
        return {}

    async with pair(wait=wait) as (one, two):
        async with one.call({"op": "wait"}):
            await asyncio.sleep(0.05)
        await asyncio.wait_for(ended.wait(), 5)
        assert not two._streams
        assert not one._streams


@run
async def test_who_waits_for_a_peer_that_goes_is_told() -> None:
    async with pair(never=never) as (one, two):
        asking = asyncio.create_task(one.ask({"op": "never"}))
        await asyncio.sleep(0.05)
        two.close()
        with pytest.raises(ChannelLost):
            await asking
        with pytest.raises(ChannelLost):
            one.call({"op": "never"})
        with pytest.raises(ChannelLost):
            await one.ready()


@run
async def test_a_sender_waits_for_a_slow_receiver() -> None:
    gate = asyncio.Event()

    async def slow(stream: Stream) -> Head:
        await gate.wait()
        size = 0
        while (message := await stream.receive()) is not None:
            size += len(message.content)
        return {"size": size}

    async with pair(slow=slow, echo=echo) as (one, _), one.call({"op": "slow"}) as stream:
        sent = 0

        async def feed() -> None:
            nonlocal sent
            for _ in range(64):
                await stream.send(bytes(1 << 16))
                sent += 1 << 16
            stream.end()

        feeding = asyncio.create_task(feed())
        await asyncio.sleep(0.1)
        assert sent <= WINDOW + (1 << 18)
        async with one.call({"op": "echo"}) as other:  # nobody else waits
            other.end()
            assert await other.result() == {"size": 0}
        gate.set()
        assert await stream.result() == {"size": 64 << 16}
        await feeding


@run
async def test_nonsense_ends_the_connection_with_a_log_line() -> None:
    ours, theirs = socket.socketpair()
    lost = asyncio.Event()
    peer = await attach(theirs, Peer(Hello("two", "1"), {}, opener=False, on_lost=lambda *_: lost.set()))
    logging.getLogger("subos_protocol.agent.peer").setLevel(logging.ERROR)
    ours.sendall(Frame(FrameType.HELLO, 0, b"[]").pack())
    await asyncio.wait_for(lost.wait(), 5)
    assert peer.is_lost
    ours.close()


@run
async def test_a_relay_passes_everything_on() -> None:
    async with pair(echo=echo, refuse=refuse) as (to_agent, _):

        async def passes(stream: Stream) -> Head | None:
            return await relay(stream, to_agent)

        async with pair(echo=passes, refuse=passes) as (caller, _):
            async with caller.call({"op": "echo"}) as stream:
                await stream.send(b"hello", 2)
                stream.end()
                message = await stream.receive()
                assert message is not None
                assert message.content == b"hello"
                assert message.part == 2
                assert await stream.result() == {"size": 5}
            with pytest.raises(RemoteError, match="no"):
                await caller.ask({"op": "refuse"})


@run
async def test_a_relay_cancels_what_its_caller_cancels_and_tells_of_a_loss() -> None:
    ended = asyncio.Event()

    async def wait(stream: Stream) -> Head:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.set()
        return {}

    async with pair(wait=wait) as (to_agent, agent):

        async def passes(stream: Stream) -> Head | None:
            return await relay(stream, to_agent)

        async with pair(wait=passes) as (caller, _):
            async with caller.call({"op": "wait"}):
                await asyncio.sleep(0.05)
            await asyncio.wait_for(ended.wait(), 5)
            async with caller.call({"op": "wait"}) as stream:
                await asyncio.sleep(0.05)
                agent.close()
                with pytest.raises(RemoteError) as lost:
                    await stream.result()
                assert lost.value.code == "lost"


@run
async def test_a_port_that_outlives_its_users() -> None:
    """As with virtio-serial: the socket stays, the processes at its ends do not."""
    ours, theirs = socket.socketpair()
    first = await attach(ours.dup(), Peer(Hello("first", "1"), {}, opener=True, shared=True))
    host = await attach(theirs, Peer(Hello("host", "1", ["echo"]), {"echo": echo}, opener=False, shared=True))
    await asyncio.gather(first.ready(), host.ready())
    stream = first.call({"op": "echo"})
    await stream.send(bytes(1000))
    assert first._transport is not None
    first._transport.write(Frame(FrameType.DATA, stream.number, bytes(5000)).pack()[:2000])  # killed while it wrote
    await asyncio.sleep(0.05)
    first.close()  # its descriptor; the port stays
    second = await attach(ours, Peer(Hello("second", "1"), {}, opener=True, shared=True))
    await second.ready()
    assert (await host.ready()).software == "second"
    async with second.call({"op": "echo"}) as again:
        await again.send(b"x" * 100)
        again.end()
        assert await again.result() == {"size": 100}
    second.close()
    host.close()


@run
async def test_a_sign_of_life() -> None:
    ours, theirs = socket.socketpair()
    one = await attach(ours, Peer(Hello("one", "1"), {}, opener=True))
    two = await attach(theirs, Peer(Hello("two", "1"), {}, opener=False))
    await asyncio.gather(one.ready(), two.ready())
    assert await one.answers(5)
    assert two._transport is not None
    two._transport.pause_reading()  # as a process that hangs
    assert not await one.answers(0.1)
    two._transport.resume_reading()
    assert await one.answers(5)
    one.close()
    assert not await one.answers(0.1)
    two.close()


@run
async def test_a_sender_that_waits_hears_of_the_end() -> None:
    async with pair(never=never) as (one, two), one.call({"op": "never"}) as stream:
        sending = asyncio.create_task(stream.send(bytes(4 << 20)))
        await asyncio.sleep(0.05)
        assert not sending.done()
        two.close()
        with pytest.raises(ChannelLost):
            await asyncio.wait_for(sending, 5)


@run
async def test_an_event_that_is_none_ends_its_stream_alone() -> None:
    async with pair(echo=echo) as (one, two):
        stream = one.call({"op": "echo"})
        one._core._queue(stream.number, Frame(FrameType.EVENT, stream.number, b"{"))
        one.flush()
        with pytest.raises(RemoteError):
            await stream.result()
        async with one.call({"op": "echo"}) as other:
            other.end()
            assert await other.result() == {"size": 0}
        assert not two.is_lost
