"""The guest's end of the channel: one descriptor of a device both ways, and reaching the host again and again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import socket
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_agent import channel
from subos_agent.channel import DeviceTransport, stay_connected
from subos_protocol.agent.frames import Frame, FrameType, Head
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Peer
from subos_protocol.agent.stream import Stream
from support.agents import agent_peer, on_a_loop


@pytest.fixture
def port() -> Iterator[tuple[int, str]]:
    """A character device, as a virtio-serial port is one: (the host's descriptor, the guest's path)."""
    host, guest = pty.openpty()
    tty.setraw(guest, termios.TCSANOW)
    os.set_blocking(host, False)
    yield host, os.ttyname(guest)
    for descriptor in (host, guest):
        with contextlib.suppress(OSError):
            os.close(descriptor)


class Host:
    """A peer at the host's end of the device."""

    def __init__(self, descriptor: int) -> None:
        self.peer = Peer(Hello("host", "1"), {}, opener=False, shared=True)
        self._transport = DeviceTransport(asyncio.get_running_loop(), os.dup(descriptor), self.peer)
        self.peer.connection_made(self._transport)

    async def close(self) -> None:
        self.peer.close()
        await asyncio.sleep(0.01)


async def echo(stream: Stream) -> Head:
    size = 0
    while (message := await stream.receive()) is not None:
        assert isinstance(message.content, bytes)
        size += len(message.content)
        await stream.send(message.content)
    return {"size": size}


@contextlib.asynccontextmanager
async def agent(path: str):  # type: ignore[no-untyped-def]
    """Stays connected by the device, for as long as the block runs; yields the peers that it has made."""
    peers: list[Peer] = []

    def make(shared: bool) -> Peer:
        assert shared
        peers.append(agent_peer({"echo": echo}, shared=True))
        return peers[-1]

    life = asyncio.create_task(stay_connected(make, path))
    try:
        yield peers
    finally:
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        await asyncio.sleep(0.01)


async def sends(host: Host, size: int) -> None:
    async with host.peer.call({"op": "echo"}) as stream:
        data = os.urandom(size)

        async def feed() -> None:
            await stream.send(data)
            stream.end()

        feeding, got = asyncio.create_task(feed()), bytearray()
        while (message := await stream.receive()) is not None:
            assert isinstance(message.content, bytes)
            got += message.content
        await feeding
        assert got == data
        assert await stream.result() == {"size": size}


@on_a_loop
async def test_much_goes_both_ways_through_a_device(port: tuple[int, str]) -> None:
    """Its buffer is small (4 KiB): both sides wait for each other a thousand times."""
    host = Host(port[0])
    async with agent(port[1]):
        await host.peer.ready()
        await sends(host, 1 << 20)
    await host.close()


@on_a_loop
async def test_a_host_that_starts_anew(port: tuple[int, str]) -> None:
    """The port stays; what the old one left in it is skipped."""
    async with agent(port[1]) as peers:
        for _ in range(3):
            host = Host(port[0])
            await host.peer.ready()
            await sends(host, 10_000)
            host.peer.call({"op": "echo"}).post({"left": "over"})
            await host.close()
            with contextlib.suppress(BlockingIOError):
                os.write(port[0], Frame(FrameType.DATA, 2, bytes(3000)).pack()[:1000])
        assert len(peers) == 1


@on_a_loop
async def test_a_device_that_goes_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "FIRST_RETRY", 0.02)
    monkeypatch.setattr(channel, "LAST_RETRY", 0.05)
    path = tmp_path / "port"
    async with agent(str(path)) as peers:
        for count in (1, 2):
            master, slave = pty.openpty()
            tty.setraw(slave, termios.TCSANOW)
            os.set_blocking(master, False)
            path.unlink(missing_ok=True)
            path.symlink_to(os.ttyname(slave))
            host = Host(master)
            await host.peer.ready()
            os.close(slave)
            await sends(host, 1000)
            assert len(peers) == count
            await host.close()
            os.close(master)  # hung up
            await asyncio.wait_for(peers[-1].lost(), 5)
            path.unlink()


@on_a_loop
async def test_attempts_become_rarer(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """And what is wrong is said once, not at each of them."""
    caplog.set_level("INFO", "subos-agent")
    waits: list[float] = []
    sleep = asyncio.sleep

    async def count(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0 if len(waits) < 7 else 1000)

    monkeypatch.setattr(channel.asyncio, "sleep", count)
    life = asyncio.create_task(stay_connected(lambda shared: agent_peer({}), "/no/such/device"))
    while len(waits) < 7:
        await sleep(0.01)
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)
    assert waits == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert [record.getMessage() for record in caplog.records] == [
        "the host cannot be reached: [Errno 2] No such file or directory: '/no/such/device'"
    ]


@on_a_loop
async def test_a_file_is_no_port(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "subos-agent")
    (tmp_path / "file").touch()
    life = asyncio.create_task(stay_connected(lambda shared: agent_peer({}), str(tmp_path / "file")))
    await asyncio.sleep(0.1)
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)
    assert "it is no character device" in caplog.records[0].getMessage()
    assert (tmp_path / "file").stat().st_size == 0


class Counting(asyncio.Protocol):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, error: Exception | None) -> None:
        self.calls.append("lost" if error is None else type(error).__name__)


@on_a_loop
async def test_a_reader_that_does_not_read_is_waited_for() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    protocol = Counting()
    transport = DeviceTransport(asyncio.get_running_loop(), ours.detach(), protocol)
    transport.set_write_buffer_limits(1 << 16)
    data = os.urandom(3 << 20)
    transport.write(data[: 1 << 20])
    transport.writelines([data[1 << 20 : 2 << 20], data[2 << 20 :]])
    assert protocol.calls == ["pause"]
    assert transport.get_write_buffer_size() > 1 << 20
    loop, got = asyncio.get_running_loop(), bytearray()
    while len(got) < len(data):
        got += await loop.sock_recv(theirs, 1 << 16)
    await asyncio.sleep(0.01)
    assert got == data
    assert protocol.calls == ["pause", "resume"]
    theirs.close()
    transport.write(b"nobody is there")
    await asyncio.sleep(0.05)
    assert protocol.calls[2:] in (["lost"], ["BrokenPipeError"], ["ConnectionResetError"])
    transport.write(b"nor is the transport")
    transport.abort()
    assert transport.is_closing()
    await asyncio.sleep(0.01)
    assert len(protocol.calls) == 3
