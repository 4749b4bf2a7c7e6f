"""The host's end of gamepads: a worker that wants an agent to have its pad, and agents that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from subos_devices.agent.file_events import FileEvents
from subos_devices.agent.gamepads import OPERATION, Gamepads
from subos_devices.agent.worker_channels import WorkerChannels
from subos_protocol.agent.errors import ChannelError, RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Peer
from subos_protocol.agent.stream import Stream
from subos_protocol.effects import Gain
from subos_protocol.file_events import STARTED
from subos_protocol.gamepad import MAX_MESSAGE, MAX_PACKET, Lost, Opened, pack_message
from support.agents import agent_peer, attach, on_a_loop

PAD = b'{"pad": {"serial": "pad1"}}'
EVENTS = bytes.fromhex("0100300101000000")


class Agent:
    """Hears what is sent on streams, which it numbers; `error` is what it answers, where it is set."""

    following: asyncio.Future[None]

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[int, object]] = asyncio.Queue()
        self.streams: list[Stream] = []
        self.error: RemoteError | None = None

    async def open(self, stream: Stream) -> Head:
        number = len(self.streams)
        self.streams.append(stream)
        await self.heard.put((number, stream.head.get("pad")))
        if self.error is not None:
            raise self.error
        await stream.send(pack_message(Opened()))
        try:
            while (message := await stream.receive()) is not None:
                await self.heard.put((number, message.content))
        except ChannelError:
            await self.heard.put((number, "lost"))
            raise
        except asyncio.CancelledError:
            await self.heard.put((number, "cancelled"))
            raise
        await self.heard.put((number, "end"))
        return {}

    async def hears(self) -> tuple[int, object]:
        return await asyncio.wait_for(self.heard.get(), 10)


@contextlib.asynccontextmanager
async def an_agent(pads: Gamepads, after: asyncio.Future[None] | None = None) -> AsyncIterator[Agent]:
    """Which takes the place of the one that is followed by `after`."""
    agent = Agent()
    ours, theirs = socket.socketpair()
    host = await attach(ours, Peer(Hello("host", "1"), {}, opener=False))
    guest = await attach(theirs, agent_peer({OPERATION: agent.open}))
    await asyncio.gather(host.ready(), guest.ready())
    if after is not None:
        after.cancel()
    agent.following = following = asyncio.ensure_future(pads.follow(host))
    try:
        yield agent
    finally:
        following.cancel()
        for peer in (host, guest):
            peer.close()
        await asyncio.gather(following, *guest._tasks, return_exceptions=True)
        await asyncio.sleep(0.05)


@contextlib.contextmanager
def a_worker(pads: Gamepads):
    worker = socket.socket(fileno=pads.open("pad1"))
    worker.setblocking(False)
    with worker:
        yield worker
    pads.close_all()


async def said(worker: socket.socket) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(worker, MAX_PACKET), 10)


@on_a_loop
async def test_a_pad_is_the_agent_s_from_when_its_worker_says_what_it_is() -> None:
    pads = Gamepads()
    with a_worker(pads) as worker:
        async with an_agent(pads) as agent:
            worker.send(PAD)
            assert await agent.hears() == (0, {"serial": "pad1"})
            assert await said(worker) == pack_message(Opened())
            worker.send(EVENTS)
            assert await agent.hears() == (0, EVENTS)
            await agent.streams[0].send(pack_message(Gain(5)))
            assert await said(worker) == pack_message(Gain(5))
        assert await said(worker) == pack_message(Lost())


@on_a_loop
async def test_the_next_agent_has_it_at_once_and_hears_nothing_old() -> None:
    pads = Gamepads()
    with a_worker(pads) as worker:
        worker.send(PAD)
        async with an_agent(pads) as agent:
            assert await agent.hears() == (0, {"serial": "pad1"})
        assert [await said(worker), await said(worker)] == [pack_message(Opened()), pack_message(Lost())]
        for _ in range(3):
            worker.send(EVENTS)
        async with an_agent(pads) as agent:
            assert await agent.hears() == (0, {"serial": "pad1"})
            assert await said(worker) == pack_message(Opened())
            worker.send(EVENTS[::-1])
            assert await agent.hears() == (0, EVENTS[::-1])


@on_a_loop
async def test_a_worker_that_says_it_again_gets_a_new_stream() -> None:
    pads = Gamepads()
    with a_worker(pads) as worker:
        async with an_agent(pads) as agent:
            worker.send(PAD)
            assert await agent.hears() == (0, {"serial": "pad1"})
            assert await said(worker) == pack_message(Opened())
            worker.send(b'{"pad": {"serial": "other"}}')
            assert [await agent.hears(), await agent.hears()] == [(0, "cancelled"), (1, {"serial": "other"})]
            assert [await said(worker), await said(worker)] == [pack_message(Lost()), pack_message(Opened())]


@on_a_loop
async def test_a_pad_that_is_taken_away_ends_in_order() -> None:
    pads = Gamepads()
    with a_worker(pads) as worker:
        async with an_agent(pads) as agent:
            worker.send(PAD)
            await agent.hears()
            assert await said(worker) == pack_message(Opened())
            pads.close("pad1")
            assert await agent.hears() == (0, "end")
            assert [await said(worker), await said(worker)] == [pack_message(Lost()), b""]
            assert agent.heard.empty()


@on_a_loop
async def test_a_pad_that_is_unplugged_ends_in_order_and_comes_back() -> None:
    pads = Gamepads()
    with a_worker(pads) as worker:
        async with an_agent(pads) as agent:
            pads.let_go("pad1")  # it has not begun
            pads.let_go("another")
            worker.send(PAD)
            assert await agent.hears() == (0, {"serial": "pad1"})
            assert await said(worker) == pack_message(Opened())
            pads.let_go("pad1")
            assert await agent.hears() == (0, "end")
            assert await said(worker) == pack_message(Lost())
            worker.send(EVENTS)  # for nobody
            worker.send(PAD)
            assert await agent.hears() == (1, {"serial": "pad1"})
            assert await said(worker) == pack_message(Opened())
            worker.send(EVENTS)
            assert await agent.hears() == (1, EVENTS)


@on_a_loop
async def test_a_twin_that_is_not_there_yet_is_no_refusal() -> None:
    pads = Gamepads()
    with a_worker(pads) as worker:
        async with an_agent(pads) as agent:
            agent.error = RemoteError("not-found", "no such twin")
            worker.send(PAD)
            assert await agent.hears() == (0, {"serial": "pad1"})
            assert await said(worker) == pack_message(Lost())
            agent.error = None
            worker.send(PAD)
            assert await agent.hears() == (1, {"serial": "pad1"})
            assert await said(worker) == pack_message(Opened())


@on_a_loop
async def test_an_agent_that_refuses_is_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    pads = Gamepads()
    with a_worker(pads) as worker:
        async with an_agent(pads) as agent:
            agent.error = RemoteError("unavailable", "no\x1b uinput", "load it")
            worker.send(PAD)
            await agent.hears()
            assert await said(worker) == pack_message(Lost())
            worker.send(PAD)
            await asyncio.sleep(0.1)
            assert agent.heard.empty()
        assert "games of the guest cannot have it rumble" in caplog.text
        assert "\x1b" not in caplog.text
        async with an_agent(pads) as another:
            await another.hears()


@on_a_loop
async def test_what_is_too_long_ends_the_stream() -> None:
    pads = Gamepads()
    with a_worker(pads) as worker:
        async with an_agent(pads) as agent:
            worker.send(PAD)
            await agent.hears()
            assert await said(worker) == pack_message(Opened())
            with contextlib.suppress(ChannelError):
                await agent.streams[0].send(bytes(MAX_MESSAGE + 1))
            assert await agent.hears() == (0, "cancelled")
            assert await said(worker) == pack_message(Lost())


@on_a_loop
async def test_a_worker_that_does_not_listen_hears_of_a_loss_before_the_next_agent() -> None:
    pads = Gamepads()
    with a_worker(pads) as worker:
        async with an_agent(pads) as agent:
            worker.send(PAD)
            await agent.hears()
            assert await said(worker) == pack_message(Opened())
            for number in range(1000):  # more than its socket takes
                await agent.streams[0].send(pack_message(Gain(number)))
            await asyncio.sleep(0.1)
        async with an_agent(pads):
            packets = [await said(worker)]
            while packets[-1] != pack_message(Opened()):
                packets.append(await said(worker))
            assert packets[-2] == pack_message(Lost())
            assert set(packets[:-2]) <= {pack_message(Gain(number)) for number in range(1000)}


@on_a_loop
async def test_what_a_broken_worker_says_harms_nobody() -> None:
    pads = Gamepads()
    with a_worker(pads) as worker:
        async with an_agent(pads) as agent:
            for packet in (b"{", b"{" * 9000, b'{"pad": ' + b"[" * 9000, EVENTS):
                worker.send(packet)
            worker.send(PAD)
            assert await agent.hears() == (0, {"serial": "pad1"})


@on_a_loop
async def test_two_agents_do_not_have_it_at_once() -> None:
    pads = Gamepads()
    with a_worker(pads) as worker:
        async with an_agent(pads) as first:
            worker.send(PAD)
            await first.hears()
            assert await said(worker) == pack_message(Opened())
            for number in range(1000):  # more than the worker's socket takes
                await first.streams[0].send(pack_message(Gain(number)))
            await asyncio.sleep(0.1)
            async with an_agent(pads, after=first.following) as second:
                await asyncio.sleep(0.1)  # in which the second one's answer would be there, too
                packets = [await said(worker)]
                while packets[-1] != pack_message(Opened()):
                    packets.append(await said(worker))
                assert packets[-2] == pack_message(Lost())
                assert await second.hears() == (0, {"serial": "pad1"})
                worker.send(PAD)
                assert [await second.hears(), await second.hears()] == [(0, "cancelled"), (1, {"serial": "pad1"})]


class Endless:
    """A worker's socket on which it says `packet` without end."""

    def __init__(self, packet: bytes) -> None:
        self.packet = packet
        self.read = 0

    def recv(self, size: int) -> bytes:
        self.read += 1
        return self.packet if self.read < 100_000 else b""  # the test's own end, where nobody else has a turn

    def send(self, data: bytes) -> int:
        return len(data)

    def gettimeout(self) -> float:
        return 0.0

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("kind", "packet"), [(Gamepads, EVENTS), (Gamepads, PAD), (FileEvents, STARTED)], ids=["events", "pads", "files"]
)
@on_a_loop
async def test_a_worker_that_speaks_without_end_holds_nobody_up(
    kind: type[WorkerChannels], packet: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = kind()
    with contextlib.closing(socket.socket(fileno=channels.open("pad1"))):
        channel = channels._channels["pad1"]
        real, endless = channel._socket, Endless(packet)
        monkeypatch.setattr(channel, "_socket", endless)
        ours, theirs = socket.socketpair()
        host = await attach(ours, Peer(Hello("host", "1"), {}, opener=False))
        guest = await attach(theirs, agent_peer({kind.channel.OPERATION: Agent().open}))
        await asyncio.gather(host.ready(), guest.ready())
        carrying = channel.carried_by(host)
        for _ in range(20):
            await asyncio.sleep(0)
        assert 0 < endless.read < 10_000
        carrying.cancel()
        await asyncio.gather(carrying, return_exceptions=True)
        for peer in (host, guest):
            peer.close()
        await asyncio.gather(*guest._tasks, return_exceptions=True)
        real.close()
        channels.close_all()
