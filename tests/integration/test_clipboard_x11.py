"""The X11 clipboard on a real X server, with xclip and xsel as the other programs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from subos_desktop.clipboard import (
    CHUNK,
    HTML,
    PNG,
    TEXT,
    ClipboardError,
    Disconnected,
    Malformed,
    NotOffered,
    Offer,
    Selection,
    Stalled,
    TooLarge,
    Unavailable,
    closing,
    read_all,
)
from subos_desktop.clipboard.x11 import X11Clipboard, atoms, connection, reading, requests, serving
from support.clipboards import PATIENCE, Bridge, Endless, Offers, Waiting, given
from support.desktops import background, copy, equal, kill_all, run, x_server

CLIPBOARD, PRIMARY = Selection.CLIPBOARD, Selection.PRIMARY
Environment = dict[str, str]
Test = Callable[[X11Clipboard, Offers, Environment], Awaitable[None]]
MIB = 1 << 20
PASTE = ("xclip", "-o", "-selection", "clipboard")
SUPPORT = Path(__file__).resolve().parents[1] / "support"


def on_x(test: Test) -> None:
    """Runs it on an X server of its own."""

    async def main(environment: Environment) -> None:
        async with X11Clipboard(environment["DISPLAY"]) as clipboard:
            await test(clipboard, Offers(clipboard), environment)

    with x_server() as (environment, _):
        asyncio.run(main(environment))


@contextlib.asynccontextmanager
async def owner(environment: Environment, how: str) -> AsyncIterator[asyncio.subprocess.Process]:
    async with background(
        environment, sys.executable, str(SUPPORT / "x_owner.py"), how, stdout=subprocess.PIPE
    ) as process:
        assert await process.stdout.readline() == b"owned\n"  # type: ignore[union-attr]
        yield process


# --- from other programs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["plain", "grüße 🙂", "a\r\nb\nc\r", "line\n"])
def test_text_is_read_as_it_was_copied(text: str) -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        await copy(environment, "xclip", "-selection", "clipboard", stdin=text.encode())
        offer = await offers.next()
        assert offer == Offer(CLIPBOARD, (TEXT,), offer.serial)
        assert await read_all(clipboard, CLIPBOARD, TEXT, 1000) == text.encode()

    on_x(test)


def test_latin1_becomes_utf8() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        await copy(environment, "xclip", "-selection", "clipboard", "-t", "STRING", stdin="grüße".encode("latin-1"))
        assert (await offers.next()).formats == (TEXT,)
        assert await read_all(clipboard, CLIPBOARD, TEXT, 1000) == "grüße".encode()

    on_x(test)


def test_html_and_unknown_types_come_under_their_names() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        for mime in (HTML, "application/x-of-its-own"):
            await copy(environment, "xclip", "-selection", "clipboard", "-t", mime, stdin=b"<b>bold</b>")
            assert (await offers.next()).formats == (mime,)
            assert await read_all(clipboard, CLIPBOARD, mime, 1000) == b"<b>bold</b>"

    on_x(test)


def test_what_was_there_before_is_offered_first() -> None:
    async def test(environment: Environment) -> None:
        await copy(environment, "xclip", "-selection", "clipboard", stdin=b"early")
        async with X11Clipboard(environment["DISPLAY"]) as clipboard:
            await Offers(clipboard).next()
            assert await read_all(clipboard, CLIPBOARD, TEXT, 1000) == b"early"

    with x_server() as (environment, _):
        asyncio.run(test(environment))


def test_the_two_selections_are_apart() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        await copy(environment, "xsel", "--input", "--primary", stdin=b"marked")
        assert (await offers.next()).selection is PRIMARY
        await copy(environment, "xsel", "--input", "--clipboard", stdin=b"copied")
        assert (await offers.next()).selection is CLIPBOARD
        assert await read_all(clipboard, PRIMARY, TEXT, 1000) == b"marked"
        assert await read_all(clipboard, CLIPBOARD, TEXT, 1000) == b"copied"
        await clipboard.offer(PRIMARY, [TEXT], given({TEXT: b"ours"}))
        assert await run(environment, "xsel", "--output", "--primary") == b"ours"
        assert await run(environment, "xsel", "--output", "--clipboard") == b"copied"

    on_x(test)


def test_30_mib_are_read_through_incr(tmp_path: Path) -> None:
    data = os.urandom(30 * MIB)
    (tmp_path / "image").write_bytes(data)

    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        file = str(tmp_path / "image")
        await copy(environment, "xclip", "-selection", "clipboard", "-t", PNG, "-i", file, stdin=b"")
        await offers.next()
        assert await read_all(clipboard, CLIPBOARD, PNG, 30 * MIB) == data
        with pytest.raises(TooLarge):
            await read_all(clipboard, CLIPBOARD, PNG, 30 * MIB - 1)
        assert await read_all(clipboard, CLIPBOARD, PNG, 30 * MIB) == data

    on_x(test)


def test_who_is_read_in_part_goes_on_holding_it() -> None:
    """xclip, as many a program, ends at the first error of the X server, such as for a window that has gone."""

    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        await copy(environment, "xclip", "-selection", "clipboard", "-t", PNG, stdin=bytes(4 * MIB))
        offer = await offers.next()
        for limit in [0, 100_000, MIB] * 10:
            with pytest.raises(TooLarge):
                await read_all(clipboard, CLIPBOARD, PNG, limit)
        assert await read_all(clipboard, CLIPBOARD, PNG, 4 * MIB) == bytes(4 * MIB)
        assert clipboard.current(CLIPBOARD) is offer

    on_x(test)


def test_who_reads_slowly_holds_the_owner_up() -> None:
    """There are a part that is read, one asked for ahead, one on the server, one ready, and none beyond."""

    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        given = 0

        async def provide(mime: str) -> AsyncIterator[bytes]:
            nonlocal given
            while given < 40:
                given += 1
                yield bytes([given]) * CHUNK

        async with X11Clipboard(environment["DISPLAY"]) as other:
            await other.offer(CLIPBOARD, [PNG], provide)
            await offers.of(PNG)
            async with closing(clipboard.read(CLIPBOARD, PNG)) as chunks:
                for number in range(1, 41):
                    assert await chunks.__anext__() == bytes([number]) * CHUNK
                    if number in (1, 7):
                        await asyncio.sleep(0.5)  # the owner would have given all of it meanwhile
                        assert given <= number + 4
                assert [chunk async for chunk in chunks if chunk] == []

    on_x(test)


def test_what_is_not_offered_is_not_asked_for() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        with pytest.raises(NotOffered):
            await read_all(clipboard, CLIPBOARD, TEXT, 1000)
        await copy(environment, "xclip", "-selection", "clipboard", stdin=b"one")
        first = await offers.next()
        with pytest.raises(NotOffered):
            await read_all(clipboard, CLIPBOARD, PNG, 1000)
        await copy(environment, "xclip", "-selection", "clipboard", stdin=b"two")
        second = await offers.next()
        with pytest.raises(NotOffered):
            await clipboard.read(CLIPBOARD, TEXT, first.serial).__anext__()
        assert await clipboard.read(CLIPBOARD, TEXT, second.serial).__anext__() == b"two"

    on_x(test)


def test_an_owner_that_ends_leaves_nothing() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        async with owner(environment, "many"):
            await offers.next()
        assert (await offers.next()).formats == ()

    on_x(test)


def test_what_a_password_manager_holds_is_not_offered() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        await copy(environment, "xclip", "-selection", "clipboard", stdin=b"before")
        assert (await offers.next()).formats == (TEXT,)
        async with owner(environment, "secret"):
            assert await run(environment, *PASTE, "-t", "UTF8_STRING") == b"secret"
            assert (await offers.next()).formats == ()
            with pytest.raises(NotOffered):
                await read_all(clipboard, CLIPBOARD, TEXT, 1000)

    on_x(test)


def test_invented_names_do_not_use_up_those_that_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atoms, "MAX_MADE", len(atoms.USUAL) + 10)

    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        await clipboard.offer(CLIPBOARD, [f"image/x{number}" for number in range(100)], given({}))
        data = {TEXT: b"text", PNG: bytes(2 * MIB)}
        await clipboard.offer(CLIPBOARD, list(data), given(data))
        assert await run(environment, *PASTE, "-t", "UTF8_STRING") == b"text"
        assert await run(environment, *PASTE, "-t", PNG) == data[PNG]
        await copy(environment, "xclip", "-selection", "clipboard", "-t", HTML, stdin=b"<b>")
        await offers.of(HTML)
        assert await read_all(clipboard, CLIPBOARD, HTML, 1000) == b"<b>"

    on_x(test)


# --- to other programs -----------------------------------------------------------------------------------------


def test_programs_paste_what_we_offer_and_only_that_is_asked_for() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        asked: list[str] = []
        contents = {TEXT: "grüße\r\n".encode(), HTML: b"<i>hi</i>"}
        await clipboard.offer(CLIPBOARD, list(contents), given(contents, asked))
        paste = ("xclip", "-o", "-selection", "clipboard")
        targets = (await run(environment, *paste, "-t", "TARGETS")).decode().split()
        assert {"TARGETS", "TIMESTAMP", "MULTIPLE", "UTF8_STRING", "STRING", "text/html"} < set(targets)
        assert asked == []
        assert await run(environment, *paste) == contents[TEXT]
        assert await run(environment, *paste, "-t", "STRING") == "grüße\r\n".encode("latin-1")
        assert await run(environment, *paste, "-t", "text/plain") == contents[TEXT]
        assert await run(environment, *paste, "-t", HTML) == contents[HTML]
        assert asked == [TEXT, TEXT, TEXT, HTML]
        with pytest.raises(AssertionError, match="target image/png not available"):
            await run(environment, *paste, "-t", PNG)

    on_x(test)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 30 * MIB])
def test_any_size_is_pasted(size: int) -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        data = os.urandom(size)
        await clipboard.offer(CLIPBOARD, [PNG], given({PNG: data}))
        assert await run(environment, "xclip", "-o", "-selection", "clipboard", "-t", PNG) == data

    on_x(test)


@pytest.mark.parametrize("size", [262115, 262116, 262117, 2 * 262116])
def test_any_size_is_pasted_without_big_requests(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BIG_REQUESTS", "NO-SUCH-EXTENSION")

    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        assert clipboard._connection is not None
        assert clipboard._connection.max_property == 262116
        data = os.urandom(size)
        await clipboard.offer(CLIPBOARD, [PNG], given({PNG: data}))
        assert await run(environment, "xclip", "-o", "-selection", "clipboard", "-t", PNG) == data

    on_x(test)


def test_several_targets_are_pasted_at_once() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        await clipboard.offer(
            CLIPBOARD, [TEXT, PNG, HTML], given({TEXT: b"text", PNG: bytes(MIB), HTML: bytes(2 * MIB)})
        )
        targets = ("UTF8_STRING", PNG, "no/such", "TIMESTAMP", HTML, "MULTIPLE")
        said = await run(environment, sys.executable, str(SUPPORT / "x_multiple.py"), *targets)
        assert json.loads(said) == {
            "UTF8_STRING": 4,
            PNG: MIB,
            "no/such": None,
            "TIMESTAMP": 4,
            HTML: 2 * MIB,
            "MULTIPLE": None,
        }

    on_x(test)


def test_where_one_of_several_fails_the_others_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program takes the HTML, and waits for more of it; it never takes the image, which is given up."""
    monkeypatch.setattr(serving, "PATIENCE", 1.0)

    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        waits, closed = asyncio.Event(), asyncio.Event()

        async def provide(mime: str) -> AsyncIterator[bytes]:
            try:
                yield bytes(MIB)
                if mime == HTML:
                    waits.set()
                    await asyncio.Event().wait()
            finally:
                if mime == HTML:
                    closed.set()

        failed: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failed.append(context))
        await clipboard.offer(CLIPBOARD, [HTML, PNG], provide)
        async with background(environment, sys.executable, str(SUPPORT / "x_multiple.py"), HTML, PNG):
            await asyncio.wait_for(waits.wait(), PATIENCE)
            await asyncio.wait_for(closed.wait(), PATIENCE)
            await asyncio.sleep(0.1)
        assert not failed

    on_x(test)


def test_many_programs_paste_at_once() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        data = os.urandom(MIB)
        await clipboard.offer(CLIPBOARD, [PNG], given({PNG: data}))
        paste = ("xclip", "-o", "-selection", "clipboard", "-t", PNG)
        assert await asyncio.gather(*(run(environment, *paste) for _ in range(16))) == [data] * 16

    on_x(test)


def test_a_program_killed_in_mid_paste_ends_that_paste_only() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        endless = Endless()
        await clipboard.offer(CLIPBOARD, [PNG], endless)
        async with background(environment, "xclip", "-o", "-selection", "clipboard", "-t", PNG) as paste:
            await asyncio.wait_for(endless.middle.wait(), PATIENCE)
            kill_all(paste)
            await asyncio.wait_for(endless.closed.wait(), PATIENCE)
        await clipboard.offer(CLIPBOARD, [TEXT], given({TEXT: b"next"}))
        assert await run(environment, "xclip", "-o", "-selection", "clipboard") == b"next"

    on_x(test)


def test_a_program_killed_while_the_provider_waits_closes_the_provider() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        waiting = Waiting()
        await clipboard.offer(CLIPBOARD, [PNG], waiting)
        async with background(environment, "xclip", "-o", "-selection", "clipboard", "-t", PNG) as paste:
            await asyncio.wait_for(waiting.asked.wait(), PATIENCE)
            kill_all(paste)
            await asyncio.wait_for(waiting.closed.wait(), PATIENCE)

    on_x(test)


def test_a_provider_without_data_refuses_the_paste() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        async def nothing(mime: str) -> AsyncIterator[bytes]:
            raise ClipboardError("the other side has gone")
            yield b""

        await clipboard.offer(CLIPBOARD, [PNG], nothing)
        with pytest.raises(AssertionError, match="not available"):
            await run(environment, "xclip", "-o", "-selection", "clipboard", "-t", PNG)

    on_x(test)


def test_released_it_is_empty_and_that_is_no_news() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        await clipboard.offer(CLIPBOARD, [TEXT], given({TEXT: b"ours"}))
        await clipboard.release(CLIPBOARD)
        with pytest.raises(AssertionError):
            await run(environment, "xclip", "-o", "-selection", "clipboard")
        await copy(environment, "xclip", "-selection", "clipboard", stdin=b"theirs")
        await clipboard.release(CLIPBOARD)
        assert (await offers.next()).formats == (TEXT,)
        assert await read_all(clipboard, CLIPBOARD, TEXT, 1000) == b"theirs"

    on_x(test)


# --- those who do not keep to the rules ------------------------------------------------------------------------


def test_an_owner_that_never_answers_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 0.3)

    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        async with owner(environment, "mute"):
            assert (await offers.next()).formats == ()
        async with owner(environment, "silent"):
            await offers.of(TEXT)
            with pytest.raises(Stalled):
                await read_all(clipboard, CLIPBOARD, TEXT, 1000)
        await copy(environment, "xclip", "-selection", "clipboard", stdin=b"next")
        await offers.of(TEXT)
        assert await read_all(clipboard, CLIPBOARD, TEXT, 1000) == b"next"

    on_x(test)


def test_an_owner_that_dies_in_mid_transfer_is_noticed_at_once() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        async with owner(environment, "half"):
            await offers.next()
            with pytest.raises(Stalled, match="has ended"):
                await read_all(clipboard, CLIPBOARD, TEXT, 10 * MIB)

    on_x(test)


def test_an_endless_transfer_ends_at_the_callers_limit() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        async with owner(environment, "endless"):
            await offers.next()
            with pytest.raises(TooLarge):
                await read_all(clipboard, CLIPBOARD, TEXT, 5 * MIB)

    on_x(test)


def test_a_huge_property_is_read_piece_by_piece() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        async with owner(environment, "flood"):
            await offers.next()
            sizes = []
            async with closing(clipboard.read(CLIPBOARD, PNG)) as chunks:
                async for chunk in chunks:
                    sizes.append(len(chunk))
            assert sum(sizes) == 8 * MIB
            assert max(sizes) <= 256 * 1024

    on_x(test)


@pytest.mark.parametrize("how", ["numbers", "no_list"])
def test_wrong_types_are_refused(how: str) -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        async with owner(environment, how):
            if (await offers.next()).formats == (TEXT,):
                with pytest.raises(Malformed):
                    await read_all(clipboard, CLIPBOARD, TEXT, 1000)
            else:
                assert how == "no_list"

    on_x(test)


def test_of_too_many_formats_the_first_are_taken() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        async with owner(environment, "many"):
            assert (await offers.next()).formats[0] == TEXT
            assert await read_all(clipboard, CLIPBOARD, TEXT, 1000) == b"many"

    on_x(test)


def test_forged_events_change_nothing() -> None:
    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        await clipboard.offer(CLIPBOARD, [TEXT], given({TEXT: b"ours"}))
        async with owner(environment, "forger"):
            await offers.of(TEXT)
            assert await read_all(clipboard, CLIPBOARD, TEXT, 1000) == b"after the forgeries"
        await clipboard.offer(CLIPBOARD, [TEXT], given({TEXT: b"ours"}))
        assert await run(environment, "xclip", "-o", "-selection", "clipboard") == b"ours"

    on_x(test)


# --- the server ------------------------------------------------------------------------------------------------


def test_a_server_that_goes_is_reported_and_the_next_one_taken() -> None:
    async def test(display: str) -> None:
        clipboard = X11Clipboard(display)
        with x_server(int(display[1:])) as (environment, server):
            await clipboard.connect()
            offers = Offers(clipboard)
            async with owner(environment, "silent"):
                await offers.next()
                reading = asyncio.ensure_future(read_all(clipboard, CLIPBOARD, TEXT, 1000))
                await asyncio.sleep(0)
                server.kill()
                with pytest.raises(Disconnected):
                    await asyncio.wait_for(reading, PATIENCE)
                with pytest.raises(Disconnected):
                    await offers.next()
                with pytest.raises(Disconnected):
                    await clipboard.offer(CLIPBOARD, [TEXT], given({TEXT: b""}))
        with pytest.raises(Unavailable):
            await clipboard.connect()
        with x_server(int(display[1:])) as (environment, _):
            await clipboard.connect()
            offers = Offers(clipboard)
            await copy(environment, "xclip", "-selection", "clipboard", stdin=b"back")
            await offers.next()
            assert await read_all(clipboard, CLIPBOARD, TEXT, 1000) == b"back"
            await clipboard.close()
            with pytest.raises(Disconnected):
                await offers.next()

    with x_server() as (environment, _):
        pass
    asyncio.run(test(environment["DISPLAY"]))


def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 0.3)

    async def test(display: str) -> None:
        with pytest.raises(Unavailable, match="does not answer"):
            await X11Clipboard(display).connect()

    with x_server() as (environment, server):
        server.send_signal(signal.SIGSTOP)
        asyncio.run(test(environment["DISPLAY"]))


def test_a_process_may_have_many_descriptors() -> None:
    """More than select() takes."""

    async def test(clipboard: X11Clipboard, offers: Offers, environment: Environment) -> None:
        assert clipboard._connection is not None
        assert clipboard._connection._socket is not None
        assert clipboard._connection._socket.fileno() > 1023
        await copy(environment, "xclip", "-selection", "clipboard", stdin=b"text")
        await offers.next()
        assert await read_all(clipboard, CLIPBOARD, TEXT, 1000) == b"text"

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1024):
            stack.callback(os.close, os.dup(0))
        on_x(test)


def test_two_of_one_marker_do_not_report_each_other() -> None:
    async def test(environment: Environment) -> None:
        display = environment["DISPLAY"]
        async with (
            X11Clipboard(display, "us") as one,
            X11Clipboard(display, "us") as two,
            X11Clipboard(display) as else_,
        ):
            await one.offer(CLIPBOARD, [TEXT], given({TEXT: b"one"}))
            assert (await Offers(else_).next()).formats == (TEXT,)
            await copy(environment, "xclip", "-selection", "clipboard", stdin=b"theirs")
            assert (await Offers(two).next()).serial == 1

    with x_server() as (environment, _):
        asyncio.run(test(environment))


# --- two servers, bridged --------------------------------------------------------------------------------------


def test_both_sides_change_at_once_and_end_equal() -> None:
    async def test(left: Environment, right: Environment) -> None:
        one, two = X11Clipboard(left["DISPLAY"]), X11Clipboard(right["DISPLAY"])
        async with one, two:
            bridge = Bridge(one, two)
            copied: list[bytes] = []
            for number in range(12):
                await asyncio.gather(
                    copy(left, "xclip", "-selection", "clipboard", stdin=b"left %d" % number),
                    copy(right, "xclip", "-selection", "clipboard", stdin=b"right %d" % number),
                )
                # xclip may take the selection only after it has gone to the background, so even rounds later.
                copied += [b"left %d" % number, b"right %d" % number]
                await equal((left, PASTE), (right, PASTE), wanted=tuple(copied))
            assert bridge.passed <= 24, "each copy passes once at most"
            await bridge.stop()

    with x_server() as (left, _), x_server() as (right, _):
        asyncio.run(test(left, right))


def test_a_clipboard_manager_on_each_side_makes_no_loop() -> None:
    async def test(left: Environment, right: Environment) -> None:
        one, two = X11Clipboard(left["DISPLAY"]), X11Clipboard(right["DISPLAY"])
        async with one, two, owner(left, "manager"), owner(right, "manager"):
            bridge = Bridge(one, two)
            await copy(left, "xclip", "-selection", "clipboard", stdin=b"text")
            await equal((left, PASTE), (right, PASTE), wanted=(b"text",))
            for _ in range(20):  # a loop would pass many times meanwhile
                await equal((left, PASTE), (right, PASTE), wanted=(b"text",))
            # The copy of the program, that of the manager who takes it over, and of the other manager if it is slow.
            assert 1 <= bridge.passed <= 4
            await bridge.stop()

    with x_server() as (left, _), x_server() as (right, _):
        asyncio.run(test(left, right))
