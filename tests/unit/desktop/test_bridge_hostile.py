"""What the other side may try: what it costs is bounded, and it gets nothing that it may not have."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from subos_desktop.clipboard import bridge as module
from subos_desktop.clipboard import files
from subos_desktop.clipboard.formats import MAX_FORMATS, PNG, TEXT
from subos_desktop.clipboard.interface import MARKER, Selection, Stalled
from subos_desktop.clipboard.pace import Pace
from subos_desktop.clipboard.policy import AllowAll, Passed
from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.frames import Head
from support.clipboards import Endless

from .test_bridge import CLIPBOARD, joined, run, until

BURST = 50


def offer(serial: int, formats: list[str], seen: int = 0) -> Head:
    return {"op": "clipboard.offer", "selection": "clipboard", "serial": serial, "seen": seen, "formats": formats}


def read(serial: int, mime: str) -> Head:
    return {"op": "clipboard.read", "selection": "clipboard", "serial": serial, "type": mime}


def test_the_pace_of_taking_over() -> None:
    now = 0.0
    pace = Pace(BURST, 4.0, lambda: now)
    assert [pace.take() for _ in range(BURST)] == [0.0] * BURST
    assert not pace.slow
    assert pace.take() == pytest.approx(0.25)
    assert pace.slow
    now = 0.25
    assert pace.take() == 0.0
    assert pace.take() > 0
    now = 100.0
    assert pace.take() == 0.0
    assert not pace.slow
    assert [pace.take() for _ in range(BURST - 1)] == [0.0] * (BURST - 1)
    assert pace.take() > 0


@run
async def test_endless_offers_take_the_selection_seldom(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with joined() as (host, guest):
        taken = 0
        hold = host.clipboard.offer

        async def counted(*arguments: object) -> None:
            nonlocal taken
            taken += 1
            await hold(*arguments)  # type: ignore[arg-type]

        host.clipboard.offer = counted  # type: ignore[method-assign,assignment]
        for batch in range(20):
            asked = [guest.peer.ask(offer(1 + 50 * batch + each, [TEXT])) for each in range(50)]
            await asyncio.gather(*asked)
        assert taken <= BURST + 30
        assert caplog.text.count("copies without end") == 1
        assert host.bridge.remote[CLIPBOARD].serial == 1000
        assert not host.bridge._tasks
        await asyncio.sleep(0.3)
        host.clipboard.copy(CLIPBOARD, {TEXT: b"the host's next copy"})
        await until(lambda: guest.clipboard.formats(CLIPBOARD))
        assert await guest.paste() == b"the host's next copy"


@run
async def test_numbers_and_formats_that_are_none() -> None:
    async with joined() as (host, guest):
        for serial in (1 << 63, -1, True, 1.0):
            with pytest.raises(RemoteError):
                await guest.peer.ask(offer(serial, [TEXT]))  # type: ignore[arg-type]
            with pytest.raises(RemoteError):
                await guest.peer.ask(offer(1, [TEXT], seen=serial))  # type: ignore[arg-type]
        names = [f"image/{'x' * 240}{number}" for number in range(200)]
        await guest.peer.ask(offer(1, names))
        assert len(host.clipboard.formats(CLIPBOARD)) == MAX_FORMATS
        await guest.peer.ask(offer(2, [f"{MARKER};id=abc", *files.PATHS, "text/uri-list", "a\nb/c", "", TEXT]))
        assert host.clipboard.formats(CLIPBOARD) == (TEXT,)
        for mime in (None, 5, "", "image/none", "x" * 60000):
            with pytest.raises(RemoteError, match="since"):
                await guest.peer.ask(read(2, mime))  # type: ignore[arg-type]


@run
async def test_thousands_of_reads_at_once() -> None:
    async with joined() as (host, guest):
        host.bridge._policy = AllowAll(1 << 40)
        endless = Endless()
        host.clipboard.copy_from(CLIPBOARD, [PNG], endless)
        await until(lambda: guest.clipboard.formats(CLIPBOARD))
        serial = host.bridge.local[CLIPBOARD].serial
        streams = []
        for _ in range(20):  # at once they would be more than a connection takes: it would be hung up on
            streams += [guest.peer.call(read(serial, PNG)) for _ in range(100)]
            await asyncio.sleep(0.01)
        await until(lambda: sum(stream.is_over for stream in streams) == 2000 - 64)
        await asyncio.sleep(0.3)
        assert len(host.bridge.transfers) == 64
        assert all(transfer.done < 2 << 20 for transfer in host.bridge.transfers), "it runs ahead of who does not read"
        for stream in streams:
            stream.cancel()
        await until(lambda: not host.bridge.transfers)
        host.clipboard.copy(CLIPBOARD, {TEXT: b"next"})
        await until(lambda: TEXT in guest.clipboard.formats(CLIPBOARD))
        assert await guest.paste() == b"next"


@run
async def test_one_who_never_reads_is_given_up() -> None:
    before = module.GIVE_SECONDS
    module.GIVE_SECONDS = 0.2
    try:
        async with joined() as (host, guest):
            host.clipboard.copy_from(CLIPBOARD, [PNG], Endless())
            host.bridge._policy = AllowAll(1 << 40)
            await until(lambda: guest.clipboard.formats(CLIPBOARD))
            stream = guest.peer.call(read(host.bridge.local[CLIPBOARD].serial, PNG))
            await until(lambda: host.bridge.transfers)
            await until(lambda: not host.bridge.transfers)
            with pytest.raises(RemoteError, match="did nothing"):
                await stream.result()
    finally:
        module.GIVE_SECONDS = before


@run
async def test_one_who_never_gives_is_given_up() -> None:
    before = module.TAKE_SECONDS
    module.TAKE_SECONDS = 0.2
    try:
        async with joined() as (host, guest):

            async def never(mime: str) -> AsyncIterator[bytes]:
                yield b"some"
                await asyncio.sleep(1000)

            guest.clipboard.copy_from(CLIPBOARD, [PNG], never)
            await until(lambda: host.clipboard.formats(CLIPBOARD))
            with pytest.raises(Stalled):
                await host.paste(PNG)
            assert not host.bridge.transfers
    finally:
        module.TAKE_SECONDS = before


class Switch(AllowAll):
    """Lets everything pass, until it is off; notes what has passed."""

    def __init__(self) -> None:
        super().__init__(1 << 40)
        self.on = True
        self.passed: list[tuple[str, int, bool]] = []

    def allows(self, direction: str, selection: Selection, mime: str) -> bool:
        return self.on

    async def approve(self, direction: str, selection: Selection, mime: str, copy: int) -> bool:
        return self.on

    def record(self, passed: Passed) -> None:
        self.passed.append((passed.direction, passed.size, passed.complete))


@run
async def test_nothing_passes_after_the_policy_has_changed() -> None:
    policy = Switch()
    async with joined(policy) as (host, guest):
        endless = Endless()
        host.clipboard.copy_from(CLIPBOARD, [PNG], endless)
        await until(lambda: guest.clipboard.formats(CLIPBOARD))
        serial = host.bridge.local[CLIPBOARD].serial
        async with guest.peer.call(read(serial, PNG)) as stream:
            for _ in range(10):
                await stream.receive()
            policy.on = False
            with pytest.raises(RemoteError, match="any more"):
                await stream.result()
        assert [(way, complete) for way, _, complete in policy.passed] == [("out", False)], "what has passed is known"
        with pytest.raises(RemoteError):
            await guest.peer.ask(read(serial, PNG))
        await host.bridge.review()
        await until(lambda: not guest.clipboard.formats(CLIPBOARD))
        assert guest.bridge.remote[CLIPBOARD].offered == ()
        guest.clipboard.copy(CLIPBOARD, {TEXT: b"x"})
        await asyncio.sleep(0.1)
        assert host.clipboard.formats(CLIPBOARD) == ()
        policy.on = True
        await host.bridge.review()
        await until(lambda: host.clipboard.formats(CLIPBOARD) == (TEXT,))
        assert await host.paste() == b"x"


@run
async def test_endless_news_of_a_session() -> None:
    async with joined() as (host, guest):
        host.clipboard.copy(CLIPBOARD, {TEXT: b"the host's"})
        await until(lambda: guest.clipboard.formats(CLIPBOARD))
        for _ in range(20):
            await asyncio.gather(*(guest.peer.ask({"op": "clipboard.ready"}) for _ in range(50)))
            assert len(host.bridge._tasks) <= 1
        await until(lambda: not host.bridge._tasks)
        assert await guest.paste() == b"the host's"


@run
async def test_several_watch_and_none_misses_anything() -> None:
    async with joined() as (host, guest):
        seen: list[set[int]] = [set(), set(), set()]

        async def watch(which: int) -> None:
            async for _ in host.bridge.changes():
                seen[which].add(host.bridge.remote.get(CLIPBOARD, module.Remote()).serial)

        watching = [asyncio.ensure_future(watch(which)) for which in range(3)]
        for serial in range(1, 6):
            guest.clipboard.copy(CLIPBOARD, {TEXT: b"x"})
            await until(lambda s=serial: all(s in each for each in seen))
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await until(lambda: not host.bridge._watchers)


@run
async def test_many_pastes_of_files_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "file").write_bytes(os.urandom(300_000))
    async with joined() as (host, guest):
        guest.clipboard.copy(CLIPBOARD, {"text/uri-list": files.uri_list([tmp_path / "file"])})
        await until(lambda: host.clipboard.formats(CLIPBOARD))
        lists = await asyncio.gather(*(host.paste("text/uri-list") for _ in range(20)))
        pasted = [path for each in lists for path in files.local_paths(each)]
        assert len(set(pasted)) == 20
        assert {path.read_bytes() for path in pasted} == {(tmp_path / "file").read_bytes()}


@run
async def test_a_local_copy_while_the_others_is_taken_over() -> None:
    """The window in which both sides would end with the other's: our selection is being taken, and somebody copies."""
    async with joined() as (host, guest):
        hold, go = guest.clipboard.offer, asyncio.Event()

        async def slow(*arguments: object) -> None:
            await go.wait()
            await hold(*arguments)  # type: ignore[arg-type]

        guest.clipboard.offer = slow  # type: ignore[method-assign,assignment]
        host.clipboard.copy(CLIPBOARD, {TEXT: b"h"})
        await until(lambda: guest.bridge.remote.get(CLIPBOARD))
        guest.clipboard.copy(CLIPBOARD, {TEXT: b"g"})
        await asyncio.sleep(0.1)
        go.set()
        await until(lambda: guest.clipboard.formats(CLIPBOARD))
        await asyncio.sleep(0.1)
        assert host.clipboard.current(CLIPBOARD) is not None
        assert await guest.paste() == b"h"
        assert host.clipboard.formats(CLIPBOARD) == ()
