"""Which backend is taken on which desktop, and the command that shows it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest

from subos_desktop.clipboard import TEXT, Disconnected, Selection, Unavailable, choose, probe, read_all
from subos_desktop.clipboard.wayland.wire import Argument, Decoder, pack, unpack
from support.clipboards import PATIENCE, Offers, given
from support.desktops import background, copy, run, wayland_compositor, x_server

CLIPBOARD = Selection.CLIPBOARD
COMMAND = (sys.executable, "-m", "subos_desktop.clipboard")


class Compositor:
    """Offers these globals, {interface: version}, and notes what is bound."""

    def __init__(self, folder: Path, offered: dict[str, int]) -> None:
        self.environment = {"WAYLAND_DISPLAY": "wayland-9", "XDG_RUNTIME_DIR": str(folder)}
        self.bound: list[tuple[Argument, ...]] = []
        self._path = folder / "wayland-9"
        self._serving: list[asyncio.Task[None] | None] = []
        self._offered = offered

    async def __aenter__(self) -> Compositor:
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Once the clients have gone."""
        self._server.close()
        await asyncio.gather(*filter(None, self._serving))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.append(asyncio.current_task())
        decoder = Decoder()
        registry = -1
        while data := await reader.read(4096):
            for message in decoder.feed(data):
                if (message.object, message.opcode) == (1, 1):
                    (registry,) = unpack("n", message.payload, deque())
                    for number, (interface, version) in enumerate(self._offered.items()):
                        writer.write(pack(registry, 0, "usu", (number, interface, version))[0])
                elif (message.object, message.opcode) == (1, 0):
                    (callback,) = unpack("n", message.payload, deque())
                    writer.write(pack(callback, 0, "u", (1,))[0] + pack(1, 1, "u", (callback,))[0])
                elif message.object == registry:
                    self.bound.append(unpack("usun", message.payload, deque())[1:3])
        writer.close()
        await writer.wait_closed()


SEAT = {"wl_seat": 7}
WLR, EXT = "zwlr_data_control_manager_v1", "ext_data_control_manager_v1"


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        ({WLR: 1}, f"{WLR} version 1, without the primary selection"),
        ({WLR: 2}, f"{WLR} version 2"),
        ({WLR: 2, EXT: 1}, f"{EXT} version 1"),
        ({EXT: 7}, f"{EXT} version 1"),
    ],
)
def test_the_best_data_control_is_taken(offered: dict[str, int], taken: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with Compositor(tmp_path, SEAT | offered) as compositor:
            choice = await choose(environment=compositor.environment)
            assert choice.clipboard.detail == taken
            name, _, version = taken.partition(",")[0].partition(" version ")
            assert compositor.bound == [("wl_seat", 1), (name, int(version))]
            await choice.clipboard.offer(Selection.PRIMARY, [TEXT], given({}))
            await choice.clipboard.close()

    asyncio.run(test())


def test_wayland_comes_first() -> None:
    async def test(environment: dict[str, str]) -> None:
        choice = await choose(environment=environment)
        assert (choice.clipboard.name, choice.reason) == ("wayland", "wayland works")
        await choice.clipboard.close()
        choice = await choose("x11", environment=environment)
        assert choice.clipboard.name == "x11"
        await choice.clipboard.close()

    with wayland_compositor() as (wayland, _), x_server() as (x, _):
        asyncio.run(test(x | wayland))


def test_a_compositor_without_data_control_leads_to_x11(tmp_path: Path) -> None:
    """As GNOME's is."""

    async def test(x: dict[str, str]) -> None:
        async with Compositor(tmp_path, SEAT) as compositor:
            wayland = compositor.environment
            choice = await choose(environment=x | wayland)
            assert choice.clipboard.name == "x11"
            assert choice.reason == "wayland: the Wayland compositor offers no data-control; x11 works"
            await copy(x, "xclip", "-selection", "clipboard", stdin=b"text")
            await Offers(choice.clipboard).next()
            assert await read_all(choice.clipboard, CLIPBOARD, TEXT, 1000) == b"text"
            await choice.clipboard.close()
            findings = {finding.name: finding for finding in await probe(x | wayland)}
            assert not findings["wayland"].works
            assert "XWayland" in findings["wayland"].hint
            assert findings["x11"].works

    with x_server() as (x, _):
        asyncio.run(test(x))


def test_without_a_desktop_every_obstacle_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)

    async def test() -> None:
        with pytest.raises(Unavailable) as refused:
            await choose()
        assert "WAYLAND_DISPLAY is not set" in refused.value.message
        assert "DISPLAY is not set" in refused.value.message
        assert "pyperclip" in refused.value.message
        with pytest.raises(Unavailable, match="no connection to the X server"):
            await choose("x11", environment={"DISPLAY": ":999"})
        with pytest.raises(Unavailable, match="no connection to the Wayland compositor"):
            await choose("wayland", environment={"WAYLAND_DISPLAY": "none", "XDG_RUNTIME_DIR": "/nowhere"})

    asyncio.run(test())


def test_pyperclip_shares_text(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(environment: dict[str, str]) -> None:
        choice = await choose("pyperclip", environment=environment)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(choice.clipboard.close)
            offers = Offers(choice.clipboard)
            await copy(environment, "xclip", "-selection", "clipboard", stdin="grüße\n".encode())
            assert (await offers.next()).formats == (TEXT,)
            assert await read_all(choice.clipboard, CLIPBOARD, TEXT, 1000) == "grüße\n".encode()
            await choice.clipboard.offer(CLIPBOARD, [TEXT], given({TEXT: b"ours"}))
            async with asyncio.timeout(PATIENCE):  # its xclip ends before the server has heard of it
                while await run(environment, "xclip", "-o", "-selection", "clipboard") != b"ours":
                    await asyncio.sleep(0.05)
            await copy(environment, "xclip", "-selection", "clipboard", stdin=b"theirs")
            await offers.next()
            assert await read_all(choice.clipboard, CLIPBOARD, TEXT, 1000) == b"theirs"
        with pytest.raises(Disconnected):
            await offers.next()

    with x_server() as (environment, _):
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        monkeypatch.setenv("DISPLAY", environment["DISPLAY"])
        asyncio.run(test(environment))


def test_the_command_sets_watches_and_gets() -> None:
    async def test(environment: dict[str, str]) -> None:
        async with background(environment, *COMMAND, "watch", stdout=subprocess.PIPE) as watching:
            assert watching.stdout is not None
            assert b"x11" in await asyncio.wait_for(watching.stdout.readline(), PATIENCE)
            setting = await asyncio.create_subprocess_exec(
                *COMMAND, "set", "text/html", env=environment, stdin=subprocess.PIPE
            )
            assert setting.stdin is not None
            setting.stdin.write(b"<b>")
            setting.stdin.close()
            assert b"clipboard: text/html" in await asyncio.wait_for(watching.stdout.readline(), PATIENCE)
            assert await run(environment, *COMMAND, "formats") == b"text/html\n"
            assert await run(environment, *COMMAND, "get", "text/html") == b"<b>"
            await copy(environment, "xclip", "-selection", "clipboard", stdin=b"next")
            assert await asyncio.wait_for(setting.wait(), PATIENCE) == 0
        assert await run(environment, *COMMAND, "get") == b"next"
        with pytest.raises(AssertionError, match="clipboard: the clipboard holds nothing of the type image/png"):
            await run(environment, *COMMAND, "get", "image/png")
        assert b"x11: works" in await run(environment, *COMMAND, "probe")

    with x_server() as (environment, _):
        asyncio.run(test(environment))
