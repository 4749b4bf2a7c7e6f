"""Two bridges over a socket pair, each with a clipboard in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from subos_desktop.clipboard import files
from subos_desktop.clipboard.bridge import Bridge
from subos_desktop.clipboard.formats import HTML, PNG, TEXT, URI_LIST
from subos_desktop.clipboard.interface import ClipboardError, NotOffered, Selection, TooLarge
from subos_desktop.clipboard.memory import MemoryClipboard
from subos_desktop.clipboard.policy import AllowAll, Passed
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Peer

BOTH = (Selection.CLIPBOARD, Selection.PRIMARY)
CLIPBOARD = Selection.CLIPBOARD


def run(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    def sync(**fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(test(**fixtures), 30))

    sync.__name__ = test.__name__
    sync.__signature__ = __import__("inspect").signature(test)  # type: ignore[attr-defined]
    return sync


class Side:
    def __init__(self, *, wins: bool, policy: Any = None) -> None:
        self.clipboard = MemoryClipboard()
        self.bridge = Bridge(self.clipboard, policy or AllowAll(1 << 20), wins=wins)
        self.peer: Peer

    async def start(self, sock: socket.socket, *, opener: bool) -> None:
        await self.clipboard.connect()
        self.peer = Peer(Hello("x", "1"), self.bridge.handlers(), opener=opener)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: self.peer, sock)

    async def paste(self, mime: str = TEXT, selection: Selection = CLIPBOARD) -> bytes:
        return b"".join([chunk async for chunk in self.clipboard.paste(selection, mime)])


@contextlib.asynccontextmanager
async def joined(host_policy: Any = None) -> AsyncIterator[tuple[Side, Side]]:
    """(host, guest)."""
    host, guest = Side(wins=True, policy=host_policy), Side(wins=False)
    ours, theirs = socket.socketpair()
    await host.start(ours, opener=False)
    await guest.start(theirs, opener=True)
    await asyncio.gather(host.peer.ready(), guest.peer.ready())
    tasks = [
        asyncio.create_task(host.bridge.run(host.peer)),
        asyncio.create_task(guest.bridge.run(guest.peer, announce=True)),
    ]
    try:
        yield host, guest
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        host.peer.close()
        guest.peer.close()


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that")


@run
async def test_both_ways_and_both_selections() -> None:
    async with joined() as (host, guest):
        for source, target in ((host, guest), (guest, host)):
            for selection in BOTH:
                text = os.urandom(8).hex().encode() + "ä\r\n\n".encode()
                source.clipboard.copy(selection, {TEXT: text, HTML: b"<b>x</b>", PNG: bytes(200_000)})
                await until(lambda t=target, s=selection: t.clipboard.formats(s) == (TEXT, HTML, PNG))
                assert await target.paste(TEXT, selection) == text
                assert await target.paste(PNG, selection) == bytes(200_000)
                assert source.clipboard.formats(selection) == ()


@run
async def test_what_was_copied_before_is_there_when_the_session_comes() -> None:
    host, guest = Side(wins=True), Side(wins=False)
    ours, theirs = socket.socketpair()
    await host.start(ours, opener=False)
    host.clipboard.copy(CLIPBOARD, {TEXT: b"early"})
    await guest.start(theirs, opener=True)
    await asyncio.gather(host.peer.ready(), guest.peer.ready())
    tasks = [asyncio.create_task(host.bridge.run(host.peer))]
    await asyncio.sleep(0.05)
    tasks.append(asyncio.create_task(guest.bridge.run(guest.peer, announce=True)))
    await until(lambda: guest.clipboard.formats(CLIPBOARD))
    assert await guest.paste() == b"early"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    host.peer.close()
    guest.peer.close()


@run
async def test_an_old_offer_cannot_be_read() -> None:
    async with joined() as (host, guest):
        host.clipboard.copy(CLIPBOARD, {TEXT: b"one"})
        await until(lambda: guest.clipboard.formats(CLIPBOARD))
        old = guest.clipboard._held[CLIPBOARD][1]
        host.clipboard.copy(CLIPBOARD, {TEXT: b"two"})
        await until(lambda: guest.bridge.remote[CLIPBOARD].serial == host.bridge.local[CLIPBOARD].serial == 2)
        with pytest.raises(NotOffered, match="since"):
            [chunk async for chunk in old(TEXT)]
        assert await guest.paste() == b"two"


@run
async def test_a_cleared_selection_is_cleared_there() -> None:
    async with joined() as (host, guest):
        host.clipboard.copy(CLIPBOARD, {TEXT: b"one"})
        await until(lambda: guest.clipboard.formats(CLIPBOARD))
        host.clipboard.copy(CLIPBOARD, {})
        await until(lambda: not guest.clipboard.formats(CLIPBOARD))


@run
async def test_both_copy_at_once_and_end_with_the_same() -> None:
    dice = random.Random(7)
    async with joined() as (host, guest):
        for turn in range(100):
            sides = [(host, b"h%d" % turn), (guest, b"g%d" % turn)]
            dice.shuffle(sides)
            for side, text in sides:
                side.clipboard.copy(CLIPBOARD, {TEXT: text})
                for _ in range(dice.randrange(4)):
                    await asyncio.sleep(0)
        before = -1
        while before != host.bridge._serial + guest.bridge._serial:  # until nobody says anything more: no loop
            before = host.bridge._serial + guest.bridge._serial
            await asyncio.sleep(0.6)
        assert before <= 200
        seen = []
        for side in (host, guest):
            own = side.clipboard.current(CLIPBOARD)
            if own is not None:
                seen.append(b"".join([chunk async for chunk in side.clipboard.read(CLIPBOARD, TEXT)]))
            else:
                seen.append(await side.paste())
        assert seen[0] == seen[1]


class Only:
    """A policy that lets text go out, up to ten bytes."""

    logs = True

    def __init__(self) -> None:
        self.passed: list[tuple[str, str, int]] = []
        self.yes = True
        self.ended: list[int] = []

    def allows(self, direction: str, selection: Selection, mime: str) -> bool:
        return mime == TEXT

    def limit(self, mime: str) -> int:
        return 10

    async def approve(self, direction: str, selection: Selection, mime: str, copy: int) -> bool:
        return self.yes

    def over(self, copy: int) -> None:
        self.ended.append(copy)

    def record(self, passed: Passed) -> None:
        self.passed.append((passed.direction, passed.mime, passed.size))


@run
async def test_the_policy_hides_limits_and_records() -> None:
    policy = Only()
    async with joined(policy) as (host, guest):
        host.clipboard.copy(CLIPBOARD, {TEXT: b"short", HTML: b"<b>"})
        await until(lambda: guest.clipboard.formats(CLIPBOARD) == (TEXT,))
        assert await guest.paste() == b"short"
        assert policy.passed == [("out", TEXT, 5)]
        guest.clipboard.copy(CLIPBOARD, {TEXT: b"much too long", HTML: b"<b>"})
        await until(lambda: host.clipboard.formats(CLIPBOARD) == (TEXT,))
        with pytest.raises(TooLarge):
            await host.paste()
        host.clipboard.copy(CLIPBOARD, {TEXT: b"x" * 11})
        await until(lambda: guest.clipboard.formats(CLIPBOARD))
        with pytest.raises(TooLarge):
            await guest.paste()
        policy.yes = False
        guest.clipboard.copy(CLIPBOARD, {TEXT: b"no"})
        await until(lambda: host.clipboard.formats(CLIPBOARD))
        with pytest.raises(NotOffered, match="may not"):
            await host.paste()
        assert len(policy.passed) == 1
        assert not host.bridge.transfers
        assert not guest.bridge.transfers


@run
async def test_the_policy_is_told_which_copies_are_over() -> None:
    policy = Only()
    async with joined(policy) as (host, guest):
        host.clipboard.copy(CLIPBOARD, {TEXT: b"one"})
        await until(lambda: guest.clipboard.formats(CLIPBOARD))
        first = host.bridge.local[CLIPBOARD].copy
        host.clipboard.copy(Selection.PRIMARY, {TEXT: b"marked"})
        await until(lambda: guest.clipboard.formats(Selection.PRIMARY))
        assert first not in policy.ended
        guest.clipboard.copy(CLIPBOARD, {TEXT: b"two"})
        await until(lambda: host.clipboard.formats(CLIPBOARD))
        assert first in policy.ended
        second, late = host.bridge.remote[CLIPBOARD].copy, host.clipboard._held[CLIPBOARD][1]
        assert second not in policy.ended
        host.clipboard.copy(CLIPBOARD, {TEXT: b"three"})
        await until(lambda: guest.clipboard.formats(CLIPBOARD))
        assert second in policy.ended
        assert host.bridge.local[CLIPBOARD].copy not in policy.ended
        with pytest.raises(NotOffered, match="since"):
            [chunk async for chunk in late(TEXT)]  # nobody is asked whether something may pass that is over


@run
async def test_a_paste_that_is_given_up_ends_the_transfer() -> None:
    async with joined() as (host, guest):
        ended = asyncio.Event()

        async def endless(mime: str) -> AsyncIterator[bytes]:
            try:
                while True:
                    yield bytes(1000)
                    await asyncio.sleep(0)
            finally:
                ended.set()

        host.bridge._policy = guest.bridge._policy = AllowAll(1 << 40)
        host.clipboard.copy_from(CLIPBOARD, [TEXT], endless)
        await until(lambda: guest.clipboard.formats(CLIPBOARD))
        paste = guest.clipboard.paste(CLIPBOARD, TEXT)
        await paste.__anext__()
        await paste.aclose()  # type: ignore[attr-defined]
        await asyncio.wait_for(ended.wait(), 5)
        await until(lambda: not host.bridge.transfers and not guest.bridge.transfers)


@run
async def test_the_other_side_goes_in_the_middle() -> None:
    async with joined() as (host, guest):

        async def stuck(mime: str) -> AsyncIterator[bytes]:
            yield b"some"
            await asyncio.sleep(1000)

        host.clipboard.copy_from(CLIPBOARD, [TEXT], stuck)
        await until(lambda: guest.clipboard.formats(CLIPBOARD))
        pasting = asyncio.create_task(guest.paste())
        await until(lambda: guest.bridge.transfers)
        host.peer.close()
        with pytest.raises(ClipboardError):
            await pasting


@run
async def test_files_arrive_as_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "ä dir"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "run").write_bytes(bytes(300_000))
    (source / "sub" / "run").chmod(0o700)
    (source / "link").symlink_to("/dev/zero")
    other = tmp_path / "note.txt"
    other.write_bytes(b"hello")
    async with joined() as (host, guest):
        guest.clipboard.copy(CLIPBOARD, {URI_LIST: files.uri_list([source, other])})
        await until(lambda: host.clipboard.formats(CLIPBOARD) == (URI_LIST,))
        pasted = files.local_paths(await host.paste(URI_LIST))
        assert [path.name for path in pasted] == ["note.txt", "ä dir"]
        assert all(tmp_path / "cache" in path.parents for path in pasted)
        assert pasted[0].read_bytes() == b"hello"
        copy = pasted[1] / "sub" / "run"
        assert copy.read_bytes() == bytes(300_000)
        assert copy.stat().st_mode & 0o777 == 0o755 & ~_umask()
        assert not (pasted[1] / "link").exists()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@run
async def test_nonsense_from_the_other_side_is_refused() -> None:
    async with joined() as (host, guest):
        from subos_protocol.agent.errors import RemoteError

        offer = {"op": "clipboard.offer", "selection": "clipboard", "serial": 1, "seen": 0, "formats": [TEXT]}
        for change in (
            {"selection": "x"},
            {"selection": None},
            {"serial": "1"},
            {"seen": None},
            {"formats": "text"},
            {"serial": 1 << 70, "formats": None},
        ):
            with pytest.raises(RemoteError):
                await guest.peer.ask({**offer, **change})
        with pytest.raises(RemoteError, match="since"):
            await guest.peer.ask({"op": "clipboard.read", "selection": "clipboard", "serial": 0, "type": TEXT})
        await guest.peer.ask({**offer, "formats": [TEXT, 5, "x" * 1000, "not a type", None]})
        assert host.clipboard.formats(CLIPBOARD) == (TEXT,)
