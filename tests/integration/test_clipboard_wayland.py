"""The Wayland clipboard under a real compositor (sway, of wlroots), with wl-copy and wl-paste as the other programs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest

from subos_desktop.clipboard import (
    HTML,
    PNG,
    TEXT,
    Disconnected,
    Selection,
    Stalled,
    TooLarge,
    Unavailable,
    read_all,
)
from subos_desktop.clipboard.wayland import WaylandClipboard, pipes
from subos_desktop.clipboard.x11 import X11Clipboard
from support.clipboards import PATIENCE, Bridge, Endless, Offers, Waiting, given
from support.desktops import background, copy, equal, kill_all, run, wayland_compositor, x_server

CLIPBOARD, PRIMARY = Selection.CLIPBOARD, Selection.PRIMARY
Environment = dict[str, str]
Test = Callable[[WaylandClipboard, Offers, Environment], Awaitable[None]]
MIB = 1 << 20


def clipboard_in(environment: Environment, marker: str | None = None) -> WaylandClipboard:
    return WaylandClipboard(environment["WAYLAND_DISPLAY"], environment["XDG_RUNTIME_DIR"], marker)


def on_wayland(test: Test) -> None:
    """Runs it under a compositor of its own."""

    async def main(environment: Environment) -> None:
        async with clipboard_in(environment) as clipboard:
            await test(clipboard, Offers(clipboard), environment)

    with wayland_compositor() as (environment, _):
        asyncio.run(main(environment))


def test_text_html_and_a_type_of_its_own_are_read_as_copied() -> None:
    async def test(clipboard: WaylandClipboard, offers: Offers, environment: Environment) -> None:
        assert "data_control" in clipboard.detail
        for mime, data in (
            (TEXT, "grüße 🙂\r\nb\n".encode()),
            (HTML, b"<b>bold</b>"),
            ("application/x-of-its-own", bytes(range(256))),
        ):
            await copy(environment, "wl-copy", "--type", mime, stdin=data)
            offer = await offers.next()
            assert offer.selection is CLIPBOARD
            assert mime in offer.formats  # wl-copy adds plain text to every kind of text
            assert await read_all(clipboard, CLIPBOARD, mime, 1000) == data

    on_wayland(test)


def test_the_two_selections_are_apart() -> None:
    async def test(clipboard: WaylandClipboard, offers: Offers, environment: Environment) -> None:
        await copy(environment, "wl-copy", "--primary", stdin=b"marked")
        assert (await offers.next()).selection is PRIMARY
        await copy(environment, "wl-copy", stdin=b"copied")
        assert (await offers.next()).selection is CLIPBOARD
        assert await read_all(clipboard, PRIMARY, TEXT, 1000) == b"marked"
        assert await read_all(clipboard, CLIPBOARD, TEXT, 1000) == b"copied"
        await clipboard.offer(PRIMARY, [TEXT], given({TEXT: b"ours"}))
        assert await run(environment, "wl-paste", "--no-newline", "--primary") == b"ours"
        assert await run(environment, "wl-paste", "--no-newline") == b"copied"

    on_wayland(test)


def test_30_mib_both_ways() -> None:
    async def test(clipboard: WaylandClipboard, offers: Offers, environment: Environment) -> None:
        data = os.urandom(30 * MIB)
        await copy(environment, "wl-copy", "--type", PNG, stdin=data)
        await offers.next()
        assert await read_all(clipboard, CLIPBOARD, PNG, 30 * MIB) == data
        with pytest.raises(TooLarge):
            await read_all(clipboard, CLIPBOARD, PNG, 30 * MIB - 1)
        await clipboard.offer(CLIPBOARD, [PNG], given({PNG: data}))
        assert await run(environment, "wl-paste", "--type", PNG) == data

    on_wayland(test)


def test_programs_paste_what_we_offer_and_only_that_is_asked_for() -> None:
    async def test(clipboard: WaylandClipboard, offers: Offers, environment: Environment) -> None:
        asked: list[str] = []
        contents = {TEXT: "grüße\r\n".encode(), HTML: b"<i>hi</i>"}
        await clipboard.offer(CLIPBOARD, list(contents), given(contents, asked))
        listed = (await run(environment, "wl-paste", "--list-types")).decode().split()
        assert {TEXT, "text/plain", "UTF8_STRING", HTML} < set(listed)
        assert asked == []
        assert await run(environment, "wl-paste", "--no-newline") == contents[TEXT]
        assert await run(environment, "wl-paste", "--no-newline", "--type", HTML) == contents[HTML]
        assert asked == [TEXT, HTML]

    on_wayland(test)


def test_what_we_offer_and_release_is_no_news() -> None:
    async def test(clipboard: WaylandClipboard, offers: Offers, environment: Environment) -> None:
        await clipboard.offer(CLIPBOARD, [TEXT], given({TEXT: b"ours"}))
        await clipboard.offer(CLIPBOARD, [HTML], given({HTML: b"ours"}))
        await clipboard.release(CLIPBOARD)
        with pytest.raises(AssertionError, match=r"No selection|Nothing is copied"):
            await run(environment, "wl-paste")
        await copy(environment, "wl-copy", stdin=b"theirs")
        await clipboard.release(CLIPBOARD)
        assert (await offers.next()).serial == 1
        assert await read_all(clipboard, CLIPBOARD, TEXT, 1000) == b"theirs"
        await run(environment, "wl-copy", "--clear")
        assert (await offers.next()).formats == ()

    on_wayland(test)


@pytest.mark.parametrize("provider", [Endless, Waiting])
def test_a_program_that_is_killed_closes_its_provider(provider: type) -> None:
    async def test(clipboard: WaylandClipboard, offers: Offers, environment: Environment) -> None:
        giving = provider()
        await clipboard.offer(CLIPBOARD, [PNG], giving)
        async with background(environment, "wl-paste", "--type", PNG) as paste:
            await asyncio.wait_for((giving.middle if provider is Endless else giving.asked).wait(), PATIENCE)
            kill_all(paste)
        await asyncio.wait_for(giving.closed.wait(), PATIENCE)
        await clipboard.offer(CLIPBOARD, [TEXT], given({TEXT: b"next"}))
        assert await run(environment, "wl-paste", "--no-newline") == b"next"

    on_wayland(test)


def test_an_owner_that_never_answers_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "PATIENCE", 0.3)

    async def test(clipboard: WaylandClipboard, offers: Offers, environment: Environment) -> None:
        async with background(environment, "wl-copy", "--foreground", "text") as owner:
            await offers.next()
            os.kill(owner.pid, signal.SIGSTOP)
            with pytest.raises(Stalled):
                await read_all(clipboard, CLIPBOARD, TEXT, 1000)
        await copy(environment, "wl-copy", stdin=b"next")
        while await read_now(clipboard) != b"next":
            await offers.next()

    on_wayland(test)


async def read_now(clipboard: WaylandClipboard) -> bytes:
    offer = clipboard.current(CLIPBOARD)
    return await read_all(clipboard, CLIPBOARD, TEXT, 1000) if offer and offer.formats else b""


def test_a_compositor_that_goes_is_reported() -> None:
    async def test(environment: Environment, kill: Callable[[], None]) -> None:
        clipboard = clipboard_in(environment)
        await clipboard.connect()
        await copy(environment, "wl-copy", stdin=b"text")
        offers = Offers(clipboard)
        await offers.next()
        kill()
        with pytest.raises(Disconnected):
            await offers.next()
        with pytest.raises(Disconnected):
            await clipboard.offer(CLIPBOARD, [TEXT], given({TEXT: b""}))
        with pytest.raises(Disconnected):
            await read_all(clipboard, CLIPBOARD, TEXT, 1000)
        with pytest.raises(Unavailable):
            await clipboard.connect()

    with wayland_compositor() as (environment, compositor):
        asyncio.run(test(environment, compositor.kill))


def test_two_of_one_marker_do_not_report_each_other() -> None:
    async def test(environment: Environment) -> None:
        one, two, other = (clipboard_in(environment, marker) for marker in ("us", "us", None))
        async with one, two, other:
            await one.offer(CLIPBOARD, [TEXT], given({TEXT: b"one"}))
            assert (await Offers(other).next()).formats == (TEXT,)
            await copy(environment, "wl-copy", stdin=b"theirs")
            assert (await Offers(two).next()).serial == 1

    with wayland_compositor() as (environment, _):
        asyncio.run(test(environment))


def test_bridged_with_an_x_server_both_sides_change_at_once_and_end_equal() -> None:
    async def test(wayland: Environment, x: Environment) -> None:
        async with clipboard_in(wayland) as one, X11Clipboard(x["DISPLAY"]) as two:
            bridge = Bridge(one, two)
            copied: list[bytes] = []
            for number in range(8):
                await asyncio.gather(
                    copy(wayland, "wl-copy", stdin=b"left %d" % number),
                    copy(x, "xclip", "-selection", "clipboard", stdin=b"right %d" % number),
                )
                pastes = ((wayland, ("wl-paste", "--no-newline")), (x, ("xclip", "-o", "-selection", "clipboard")))
                # They may take the selection only after they have gone to the background, so even rounds later.
                copied += [b"left %d" % number, b"right %d" % number]
                await equal(*pastes, wanted=tuple(copied))
            assert bridge.passed <= 16, "each copy passes once at most"
            await bridge.stop()

    with wayland_compositor() as (wayland, _), x_server() as (x, _):
        asyncio.run(test(wayland, x))
