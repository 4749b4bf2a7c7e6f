"""Users' sessions at the service, over real Unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from subos_agent import sessions as module
from subos_agent.sessions import MAX_OF_USER, MAX_SESSIONS, Session, Sessions
from subos_protocol.agent.errors import ChannelLost, RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Peer
from subos_protocol.agent.stream import Stream
from subos_protocol.monitors import OPERATION
from support.agents import attach, on_a_loop

OFFER = {"op": "clipboard.offer"}


class End:
    """A host, or a user's session: says who it is to whatever it is asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[str] = []
        self.peer = Peer(Hello(name, "1"), dict.fromkeys((*module.CLIPBOARD, OPERATION), self._answer), opener=True)

    async def _answer(self, stream: Stream) -> Head:
        self.asked.append(str(stream.head["op"]))
        if stream.head["op"] == "clipboard.read":
            await stream.send(b"some")
            await asyncio.sleep(1000)
        return {"who": self.name}


@contextlib.asynccontextmanager
async def service(tmp_path: Path, *, clipboard: bool = True) -> AsyncIterator[tuple[Sessions, End, Peer, Path]]:
    """(the sessions, the host, what the service has of the host, the seat's file)."""
    host, seat = End("host"), tmp_path / "seats" / "seat0"
    ours, theirs = socket.socketpair()
    to_host: Any = None
    made = Sessions(lambda: to_host, tmp_path / "s" / "session.sock", seat, clipboard=clipboard)
    to_host = await attach(ours, Peer(Hello("service", "1"), made.handlers(), opener=False))
    await attach(theirs, host.peer)
    serving = asyncio.ensure_future(made.serve())
    await asyncio.gather(to_host.ready(), host.peer.ready())
    try:
        yield made, host, to_host, seat
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        host.peer.close()
        to_host.close()
        await asyncio.sleep(0)
        assert not (tmp_path / "s" / "session.sock").exists()


async def come(tmp_path: Path, name: str) -> End:
    end = End(name)
    await asyncio.get_running_loop().create_unix_connection(lambda: end.peer, str(tmp_path / "s" / "session.sock"))
    await asyncio.wait_for(end.peer.ready(), 5)
    return end


async def until(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that")


@on_a_loop
async def test_the_newest_is_the_active_one_and_all_passes_both_ways(tmp_path: Path) -> None:
    async with service(tmp_path) as (_, host, _peer, _seat):
        with pytest.raises(RemoteError, match="nobody's desktop session"):
            await host.peer.ask(OFFER)
        first = await come(tmp_path, "first")
        assert await host.peer.ask(OFFER) == {"who": "first"}
        assert await first.peer.ask(OFFER) == {"who": "host"}
        second = await come(tmp_path, "second")
        assert await host.peer.ask(OFFER) == {"who": "second"}
        with pytest.raises(RemoteError) as error:
            await first.peer.ask(OFFER)
        assert error.value.code == "inactive"
        await until(lambda: second.asked == ["clipboard.offer", "clipboard.ready"])
        second.peer.close()
        await until(lambda: "clipboard.ready" in first.asked)  # the next one is told, and the host too
        assert await host.peer.ask(OFFER) == {"who": "first"}
        assert host.asked.count("clipboard.ready") == 2
        first.peer.close()


@on_a_loop
async def test_the_host_asks_for_monitors_also_where_the_clipboard_is_off(tmp_path: Path) -> None:
    async with service(tmp_path, clipboard=False) as (_, host, _peer, _seat):
        first = await come(tmp_path, "first")
        assert await host.peer.ask({"op": OPERATION}) == {"who": "first"}
        for end in (host, first):
            with pytest.raises(RemoteError) as error:
                await end.peer.ask(OFFER)
            assert error.value.code == "unknown-op"
        with pytest.raises(RemoteError) as error:
            await first.peer.ask({"op": OPERATION})  # the host's are nothing to the guest
        assert error.value.code == "unknown-op"
        second = await come(tmp_path, "second")
        assert await host.peer.ask({"op": OPERATION}) == {"who": "second"}
        second.peer.close()
        first.peer.close()
        assert first.asked == [OPERATION]


@on_a_loop
async def test_who_says_nothing_is_not_the_active_one(tmp_path: Path) -> None:
    async with service(tmp_path) as (made, host, _peer, _seat):
        first = await come(tmp_path, "first")
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "s" / "session.sock"))
        await until(lambda: len(made._sessions) == 2)
        assert await host.peer.ask(OFFER) == {"who": "first"}
        writer.close()
        await until(lambda: len(made._sessions) == 1)
        first.peer.close()


@on_a_loop
async def test_who_sits_at_the_seat_has_the_clipboard(tmp_path: Path) -> None:
    async with service(tmp_path) as (made, host, _peer, seat):
        mine = await come(tmp_path, "mine")
        (session,) = made._sessions
        assert (session.uid, session.pid) == (os.geteuid(), os.getpid())
        other = await come(tmp_path, "other")
        made._sessions[1] = Session(made._sessions[1].peer, os.geteuid() + 1, 1)  # as if of another user
        seat.parent.mkdir()
        assert await host.peer.ask(OFFER) == {"who": "mine"}  # without logind: who came first
        seat.write_text("IS_SEAT0=1\n")
        with pytest.raises(RemoteError, match="nobody"):
            await host.peer.ask(OFFER)
        seat.write_text(f"ACTIVE_UID={os.geteuid() + 1}\n")
        assert await host.peer.ask(OFFER) == {"who": "other"}
        seat.write_text(f"# of logind\nACTIVE_UID={os.geteuid()}\n")
        assert await host.peer.ask(OFFER) == {"who": "mine"}
        with pytest.raises(RemoteError, match="another session"):
            await other.peer.ask(OFFER)
        seat.write_text("ACTIVE_UID=4000000\n")
        with pytest.raises(RemoteError, match="nobody"):
            await host.peer.ask(OFFER)
        seat.write_bytes(b"\xff\xfe nonsense")
        with pytest.raises(RemoteError, match="nobody"):
            await host.peer.ask(OFFER)
        mine.peer.close()
        other.peer.close()


@on_a_loop
async def test_a_session_that_goes_in_the_middle(tmp_path: Path) -> None:
    async with service(tmp_path) as (made, host, _peer, _seat):
        first, second = await come(tmp_path, "first"), await come(tmp_path, "second")
        async with host.peer.call({"op": "clipboard.read"}) as stream:
            assert (await stream.receive()).content == b"some"  # type: ignore[union-attr]
            second.peer.close()
            with pytest.raises(RemoteError) as error:
                await asyncio.wait_for(stream.result(), 5)
            assert error.value.code == "lost"
        assert await host.peer.ask(OFFER) == {"who": "first"}
        first.peer.close()
        await until(lambda: not made._sessions)


@on_a_loop
async def test_only_so_many_of_a_user_and_of_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with service(tmp_path) as (made, host, _peer, seat):
        ends = [await come(tmp_path, f"end {number}") for number in range(MAX_OF_USER)]
        with pytest.raises((ChannelLost, asyncio.TimeoutError, OSError)):
            await come(tmp_path, "one more")
        assert "too many sessions" in caplog.text
        other = made._sessions[0].peer
        made._sessions += [Session(other, 5000 + number, 1) for number in range(MAX_SESSIONS - MAX_OF_USER)]
        for end in ends[1:]:
            end.peer.close()
        await until(lambda: sum(session.uid == os.geteuid() for session in made._sessions) == 1)
        made._sessions += [Session(other, 6000 + number, 1) for number in range(MAX_OF_USER - 1)]
        seat.parent.mkdir()
        seat.write_text("ACTIVE_UID=5000\n")
        with pytest.raises((ChannelLost, asyncio.TimeoutError, OSError)):
            await come(tmp_path, "too many of all")
        seat.write_text(f"ACTIVE_UID={os.geteuid()}\n")
        ends[0].peer.close()
        await until(lambda: not made._sessions)
        last = await come(tmp_path, "there is room again")
        assert await host.peer.ask(OFFER) == {"who": "there is room again"}
        last.peer.close()


@on_a_loop
async def test_no_more_descriptors_do_not_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    accept, failed = loop.sock_accept, []

    async def failing(listener: socket.socket) -> Any:
        if not failed:
            failed.append(True)
            raise OSError(24, "Too many open files")
        return await accept(listener)

    monkeypatch.setattr(loop, "sock_accept", failing)
    monkeypatch.setattr(module, "ACCEPT_RETRY", 0.05)
    async with service(tmp_path) as (_, host, _peer, _seat):
        end = await come(tmp_path, "late")
        assert failed
        assert await host.peer.ask(OFFER) == {"who": "late"}
        end.peer.close()
