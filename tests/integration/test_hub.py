"""A real hub, real agents, real sockets, and guests that mean ill. Whatever these do costs the host little memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from subos_agent.service import handlers
from subos_devices import runtime
from subos_devices.agent import hub as hubs
from subos_devices.agent.caller import connected
from subos_devices.agent.hub import CALLERS, VSOCK_PORT, Hub
from subos_devices.errors import UserError
from subos_devices.supervisor.throttle import Throttle
from subos_protocol.agent.connection import WINDOW
from subos_protocol.agent.errors import ChannelError, ChannelLost, RemoteError
from subos_protocol.agent.frames import (
    FLUSH,
    HEADER,
    ZEROS,
    Frame,
    FrameHeader,
    FrameType,
    Head,
    pack_head,
    unpack_head,
)
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Peer
from subos_protocol.agent.stream import Stream
from support.agents import ALL_ON, agent_peer, attach, on_a_loop

NAME = "vm"


@pytest.fixture(autouse=True)
def folder(nothing_is_left: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The VM's, in a runtime folder of the test's."""
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        path = runtime.vm_folder(NAME)
        path.mkdir(parents=True)
        yield path
        assert not list(path.iterdir())


class Lines(logging.Handler):
    """What the log would show of a VM: with the throttle that the supervisor puts there."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def lines() -> Iterator[list[str]]:
    handler, throttle, log = Lines(), Throttle(), logging.getLogger("subos")
    before = log.filters[:]
    log.filters[:] = [throttle]
    log.addHandler(handler)
    yield handler.lines
    log.removeHandler(handler)
    log.filters[:] = before


async def by_vsock(folder: Path, peer: Peer | None = None) -> Peer:
    """An agent as the vsock device connects one."""
    peer = peer or agent_peer(handlers(ALL_ON))
    path = os.fspath(folder / f"vsock.sock_{VSOCK_PORT}")
    await asyncio.get_running_loop().create_unix_connection(lambda: peer, path)
    return peer


async def raw(folder: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A program of the guest that speaks for itself."""
    return await asyncio.open_unix_connection(folder / f"vsock.sock_{VSOCK_PORT}")


async def echo_by_exec(peer: Peer, text: str = "hello") -> str:
    async with peer.call({"op": "exec", "argv": ["echo", text]}) as stream:
        stream.end()
        said = b""
        while (message := await stream.receive()) is not None:
            assert isinstance(message.content, bytes)
            said += message.content
        assert await stream.result() == {"status": 0}
        return said.decode().strip()


async def works(folder: Path) -> None:
    """The next agent is taken, and answers a command of the host."""
    agent = await by_vsock(folder)
    await agent.ready()
    async with connected(NAME) as caller:
        assert await echo_by_exec(caller) == "hello"
    agent.close()


async def until(look: Callable[[], object], timeout: float = 15.0) -> None:
    async with asyncio.timeout(timeout):
        while not look():
            await asyncio.sleep(0.01)


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- agents that mean well


@on_a_loop
async def test_an_agent_over_vsock_answers_commands(folder: Path) -> None:
    async with Hub(folder) as hub:
        assert hub.status() is None
        agent = await by_vsock(folder)
        await agent.ready()
        async with connected(NAME) as caller:
            assert await echo_by_exec(caller) == "hello"
            assert (await caller.ask({"op": "facts"}))["hostname"] == os.uname().nodename
            with pytest.raises(RemoteError, match="does not know how to 'dance'"):
                await caller.ask({"op": "dance"})
        status = hub.status()
        assert status is not None
        assert (status["way"], status["current"]) == ("vsock", True)
        assert {"exec", "facts", "get", "mount"} <= set(status["capabilities"])
        agent.close()
        await until(lambda: hub.peer is None)


@contextlib.asynccontextmanager
async def port(hub: Hub) -> AsyncIterator[socket.socket]:
    """The guest's end of a virtio-serial port."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        hub.follow_port(ours)
        yield theirs


@on_a_loop
async def test_an_agent_on_the_port_is_killed_in_mid_frame_and_comes_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "SERIAL_RETRY", 0.05)
    async with Hub(folder) as hub, port(hub) as guest:
        for size in (3, 11, 12, 500, 5000):
            agent = await attach(guest.dup(), agent_peer(handlers(ALL_ON), shared=True))
            await agent.ready()
            async with connected(NAME) as caller:
                assert await echo_by_exec(caller) == "hello"
                sleeping = caller.call({"op": "exec", "argv": ["sleep", "1000"]})
                await asyncio.sleep(0.1)
                transport = agent._transport
                assert transport is not None
                transport.write(Frame(FrameType.DATA, 2, bytes(6000)).pack()[:size])
                await asyncio.sleep(0.05)
                agent.close()  # the port stays
                again = await attach(guest.dup(), agent_peer(handlers(ALL_ON), shared=True))
                await again.ready()
                with pytest.raises(RemoteError) as lost:
                    await sleeping.result()
                assert lost.value.code == "lost"
                assert await echo_by_exec(caller) == "hello"
                again.close()
                await asyncio.gather(*agent._tasks, return_exceptions=True)


@on_a_loop
async def test_the_newest_agent_is_the_one(folder: Path) -> None:
    async with Hub(folder) as hub, port(hub) as guest:
        second = third = first = await attach(guest.dup(), agent_peer({"facts": named("first")}, shared=True))
        await until(lambda: hub.peer is not None)
        assert await hub.ask({"op": "facts"}) == {"name": "first"}
        for name in ("second", "third"):
            before = hub.peer
            second, third = third, await by_vsock(folder, agent_peer({"facts": named(name)}))
            await until(lambda before=before: hub.peer is not before)
            assert await hub.ask({"op": "facts"}) == {"name": name}
        await until(lambda: second.is_lost)
        third.close()
        await until(lambda: hub.peer is None)
        first.close()


def named(name: str) -> Callable[[Stream], Awaitable[Head]]:
    async def facts(stream: Stream) -> Head:
        return {"name": name}

    return facts


@on_a_loop
async def test_callers_wait_for_an_agent_that_is_on_its_way(folder: Path) -> None:
    async with Hub(folder, patience=10) as hub, connected(NAME) as caller:
        asked = asyncio.create_task(caller.ask({"op": "facts"}))
        await asyncio.sleep(0.1)
        assert not asked.done()
        agent = await by_vsock(folder)
        assert (await asked)["kernel"] == os.uname().release
        agent.close()
        await until(lambda: hub.peer is None)


@on_a_loop
async def test_there_is_no_agent(folder: Path) -> None:
    async with Hub(folder, patience=0.1), connected(NAME) as caller:
        with pytest.raises(RemoteError) as none:
            await caller.ask({"op": "facts"})
        assert none.value.code == "no-agent"
        assert "subos-agent doctor" in none.value.hint
    with pytest.raises(UserError, match="no VM called 'vm' answers"):
        async with connected(NAME):
            pass


@on_a_loop
async def test_a_vm_that_ends_tells_everybody(folder: Path) -> None:
    async with Hub(folder) as hub:
        agent = await by_vsock(folder, agent_peer({"wait": wait}))
        await agent.ready()
        async with connected(NAME) as caller:
            stream = caller.call({"op": "wait"})
            await asyncio.sleep(0.05)
            await hub.__aexit__(None, None, None)
            with pytest.raises(ChannelError):
                await stream.result()
        await until(lambda: agent.is_lost)


async def wait(stream: Stream) -> Head:
    await asyncio.sleep(1000)
    return {}


@on_a_loop
async def test_who_welcomes_is_told_of_each_agent_and_its_failures_are_one_line(folder: Path, lines: list[str]) -> None:
    seen = []

    async def welcome(peer: Peer) -> None:
        seen.append(peer)
        await peer.ask({"op": "refuse"})

    async def refuse(stream: Stream) -> Head:
        raise RemoteError("failed", "no\x1b[31m\nway")

    async with Hub(folder) as hub:
        hub.welcome.append(welcome)
        for count in (1, 2):
            agent = await by_vsock(folder, agent_peer({"refuse": refuse}))
            await until(lambda count=count: len(lines) == count)
            agent.close()
            await until(lambda: hub.peer is None)
    assert len(seen) == 2
    assert lines[0] == "the guest vm: no?[31m?way"


# --- guests that mean ill


@on_a_loop
async def test_who_says_nothing_is_hung_up_on(folder: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    monkeypatch.setattr(hubs, "HELLO_SECONDS", 0.2)
    async with Hub(folder):
        reader, writer = await raw(folder)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        assert lines == ["the guest vm: a program opened the agent channel and said nothing: it is closed"]
        await works(folder)


@on_a_loop
async def test_a_hundred_connections_at_once(folder: Path, lines: list[str]) -> None:
    async with Hub(folder) as hub:
        many = await asyncio.gather(*(raw(folder) for _ in range(100)))
        await until(lambda: sum(reader.at_eof() for reader, _ in many) >= 100 - hubs.MAX_AGENTS)
        assert len(hub._guests) == hubs.MAX_AGENTS
        assert 1 <= len(lines) <= 10  # the throttle's measure
        for _, writer in many:
            writer.close()
        await until(lambda: not hub._guests)
        await works(folder)


@on_a_loop
async def test_connections_without_end_leave_nothing(folder: Path, lines: list[str]) -> None:
    async with Hub(folder) as hub:
        await works(folder)
        before = resident()
        for _ in range(2000):
            _, writer = await raw(folder)
            writer.close()
        await until(lambda: not hub._guests)
        assert resident() - before < 8 << 20
        assert len(lines) <= 10


INSTANCE = "0123456789abcdef"


def hello(instance: str = INSTANCE, seen: str | None = None) -> bytes:
    return Frame(FrameType.HELLO, 0, pack_head(Hello("bad", "1", ["clock"], instance=instance).head(seen))).pack()


async def introduced(folder: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    """A program that has said HELLO and was heard; the host's instance."""
    reader, writer = await raw(folder)
    writer.write(hello())
    length = HEADER.unpack(await reader.readexactly(HEADER.size)).length
    host = unpack_head(await reader.readexactly(length))["instance"]
    writer.write(hello(seen=host))
    return reader, writer, host


Attack = Callable[[asyncio.StreamWriter, str], Awaitable[None]]


async def endless(writer: asyncio.StreamWriter, data: Callable[[int], bytes], size: int = 64 << 20) -> None:
    """Sends until the host hangs up, or some more than it could keep."""
    sent = number = 0
    with contextlib.suppress(ConnectionError):
        while sent < size and not writer.is_closing():
            piece = data(number)
            number, sent = number + 1, sent + len(piece)
            writer.write(piece)
            await asyncio.wait_for(writer.drain(), 5)


def header(kind: int, stream: int, length: int) -> bytes:
    return HEADER.pack(FrameHeader(kind, 0, 0, stream, length))


async def huge_lengths(writer: asyncio.StreamWriter, host: str) -> None:
    await endless(writer, lambda _: header(FrameType.DATA, 1, (1 << 32) - 1) + bytes([1]) * 65536)


async def hellos(writer: asyncio.StreamWriter, host: str) -> None:
    await endless(writer, lambda number: hello(f"{number:016x}", host), 8 << 20)


async def same_hellos(writer: asyncio.StreamWriter, host: str) -> None:
    await endless(writer, lambda _: hello() * 100, 8 << 20)


async def ten_thousand_streams(writer: asyncio.StreamWriter, host: str) -> None:
    await endless(writer, lambda n: Frame(FrameType.REQUEST, 2 * n + 1, b'{"op":"x"}' + b" " * 1000).pack(), 12 << 20)


async def streams_and_data(writer: asyncio.StreamWriter, host: str) -> None:
    def piece(number: int) -> bytes:
        stream = 2 * number + 1
        data = Frame(FrameType.DATA, stream, bytes(WINDOW // 4)).pack()
        return Frame(FrameType.REQUEST, stream, b'{"op":"keep"}').pack() + 4 * data

    await endless(writer, piece)


async def more_than_granted(writer: asyncio.StreamWriter, host: str) -> None:
    writer.write(Frame(FrameType.REQUEST, 1, b'{"op":"keep"}').pack())
    await endless(writer, lambda _: Frame(FrameType.DATA, 1, bytes(1 << 16)).pack())


async def empty_data(writer: asyncio.StreamWriter, host: str) -> None:
    writer.write(Frame(FrameType.REQUEST, 1, b'{"op":"keep"}').pack())
    await endless(writer, lambda _: Frame(FrameType.DATA, 1, b"").pack() * 1000, 8 << 20)


async def pings_unread(writer: asyncio.StreamWriter, host: str) -> None:
    await endless(writer, lambda _: Frame(FrameType.PING, 0, bytes(8)).pack() * 1000)


async def nested_json(writer: asyncio.StreamWriter, host: str) -> None:
    await endless(writer, lambda n: Frame(FrameType.REQUEST, 2 * n + 1, b'{"op":' + b"[" * 60_000).pack(), 1 << 20)


async def credit(writer: asyncio.StreamWriter, host: str) -> None:
    writer.write(Frame(FrameType.REQUEST, 1, b'{"op":"keep"}').pack())
    await endless(writer, lambda _: Frame(FrameType.WINDOW, 1, b"\xff\xff\xff\xff").pack(), 1 << 16)


async def noise(writer: asyncio.StreamWriter, host: str) -> None:
    chance = random.Random(4)

    def piece(_: int) -> bytes:
        kind, stream = chance.randrange(12), chance.randrange(6)
        payload = chance.choice([b"", b"{}", b"[]", b'{"op":"keep"}', chance.randbytes(8), b"\xff" * 70])
        frame = bytearray(Frame(kind, stream, payload).pack())
        if not chance.randrange(40):
            frame[chance.randrange(len(frame))] ^= 1 << chance.randrange(8)
        return bytes(frame)

    await endless(writer, piece, 1 << 20)


BREACHES = [
    huge_lengths,
    hellos,
    more_than_granted,
    empty_data,
    pings_unread,
    nested_json,
    credit,
    noise,
]
NUISANCES = [same_hellos, ten_thousand_streams, streams_and_data]


@pytest.mark.parametrize("attack", [*BREACHES, *NUISANCES])
@on_a_loop
async def test_a_malicious_agent(folder: Path, lines: list[str], attack: Attack) -> None:
    """Bounded memory; where it breaks the protocol one line and the end of it; and the next agent works."""

    async def keep(stream: Stream) -> Head:
        await asyncio.sleep(1000)  # it reads nothing of what comes
        return {}

    async with Hub(folder, {"keep": keep}) as hub:
        await works(folder)
        before = resident()
        reader, writer, host = await introduced(folder)
        await until(lambda: hub.peer is not None)
        await attack(writer, host)
        assert resident() - before < 64 << 20, f"{(resident() - before) >> 20} MiB more"
        if attack in BREACHES:
            await until(lambda: hub.peer is None)
            assert len(lines) == 1
            assert lines[0].startswith("the guest vm: its agent is hung up on: ")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 5)
        await until(lambda: hub.peer is None)
        await works(folder)
        assert len(lines) <= 1


@pytest.mark.parametrize("filling", [b"\0", b"\x01", ZEROS + b"\x01", bytes(17) + b"\x02" * 20])
@on_a_loop
async def test_nonsense_on_the_port(
    folder: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], filling: bytes
) -> None:
    """As another program of the guest's root could write it there; it costs time in proportion, and no memory."""
    monkeypatch.setattr(hubs, "SERIAL_RETRY", 0.05)
    async with Hub(folder) as hub, port(hub) as guest:
        loop, before = asyncio.get_running_loop(), resident()
        piece = filling * ((1 << 16) // len(filling))
        began = loop.time()
        for _ in range(256):
            await loop.sock_sendall(guest, piece)
        assert loop.time() - began < 20
        assert resident() - before < 16 << 20
        await loop.sock_sendall(guest, FLUSH + ZEROS + hello() + header(FrameType.HELLO, 0, 1 << 31))
        await until(lambda: lines)
        await asyncio.sleep(0.2)
        agent = await attach(guest.dup(), agent_peer(handlers(ALL_ON), shared=True))
        await asyncio.wait_for(agent.ready(), 10)
        async with connected(NAME) as caller:
            assert await echo_by_exec(caller) == "hello"
        agent.close()
        assert len(lines) <= 10  # the throttle's measure
        assert {line.rpartition(": ")[0] for line in lines} == {"the guest vm: its agent is hung up on"}


async def until_seen(reader: asyncio.StreamReader, instance: str) -> bytes:
    """What the host says, up to where it has seen `instance`."""
    said = b""
    while f'"seen":"{instance}"'.encode() not in said:
        if not (data := await reader.read(1 << 16)):
            raise ConnectionError
        said += data.strip(b"\0")
    return said


@on_a_loop
async def test_agents_that_follow_each_other_without_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr(hubs, "SERIAL_RETRY", 0.05)
    async with Hub(folder) as hub, port(hub) as guest:
        reader, writer = await asyncio.open_connection(sock=guest.dup())
        hosts = 0
        with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
            for number in range(100):
                instance = f"{number:016x}"
                writer.write(ZEROS + hello(instance))
                seen = await asyncio.wait_for(until_seen(reader, instance), 2)
                host = seen.rpartition(b'"instance":"')[2][:16].decode()
                writer.write(ZEROS + hello(instance, host))
                hosts += 1
        writer.close()
        await until(lambda: lines)
        assert lines[0] == "the guest vm: one agent follows another without end, and the last one is hung up on"
        assert len(lines) <= 10
        assert hosts >= hubs.RENEWALS


@on_a_loop
async def test_an_agent_that_never_reads_holds_up_nobody_but_itself(folder: Path) -> None:
    """What commands of the host send to it waits with them."""
    async with Hub(folder) as hub:
        before = resident()
        _, writer, _ = await introduced(folder)
        await until(lambda: hub.peer is not None)
        async with connected(NAME) as caller:
            stream = caller.call({"op": "put"})

            async def feed() -> None:
                for _ in range(1 << 12):
                    await stream.send(bytes(1 << 16))

            feeding = asyncio.create_task(feed())
            await asyncio.sleep(0.5)
            assert not feeding.done()
            assert resident() - before < 32 << 20
            agent = await by_vsock(folder)
            await agent.ready()
            with pytest.raises((RemoteError, ChannelLost)):
                await feeding
            assert await echo_by_exec(caller) == "hello"
            agent.close()
        writer.close()
        assert not (folder / "none").exists()
        await until(lambda: hub.peer is None)


def test_the_sockets_are_their_owners(folder: Path) -> None:
    async def main() -> None:
        async with Hub(folder):
            for name in (CALLERS, f"vsock.sock_{VSOCK_PORT}"):
                assert (folder / name).stat().st_mode & 0o777 == 0o600

    asyncio.run(main())
