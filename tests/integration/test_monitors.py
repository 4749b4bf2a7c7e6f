"""Where the monitors are: as real display servers tell it, and as it reaches a command of the host."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from subos_agent.monitors import MAX_FOLLOWERS, Monitors
from subos_desktop.clipboard.interface import Disconnected, NoServer
from subos_desktop.clipboard.streams import closing
from subos_desktop.monitors import layouts
from subos_desktop.monitors.wayland import Outputs
from subos_devices import runtime
from subos_devices.agent import monitors
from subos_devices.errors import SubosError, UserError
from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.peer import Handler
from subos_protocol.agent.stream import Stream
from subos_protocol.monitors import OPERATION, Area, Layout, Monitor, pack_layout
from support.agents import asking, hub_with_agent, on_a_loop
from support.clipboards import PATIENCE
from support.desktops import run, wayland_compositor, x_server
from support.inside.x_monitors import set_monitors, switch_off

SCREEN = ("-screen", "0", "3000x1000x24", "-nolisten", "tcp")
LEFT, RIGHT = (0, 0, 1000, 1000), (1000, 0, 2000, 800)
BESIDE = Layout(Area(0, 0, 3000, 1000), (Monitor("left", Area(*LEFT)), Monitor("right", Area(*RIGHT))))


async def first(told: AsyncIterator[Layout]) -> Layout:
    return await asyncio.wait_for(told.__anext__(), PATIENCE)


@on_a_loop
async def test_the_monitors_of_an_x_server_and_their_change() -> None:
    with x_server(options=SCREEN) as (environment, _):
        async with closing(layouts(environment=environment)) as told:
            alone = await first(told)
            assert [alone.desktop] == [monitor.area for monitor in alone.monitors] == [Area(0, 0, 3000, 1000)]
            await set_monitors(environment["DISPLAY"], {"left": LEFT, "right": RIGHT})
            await switch_off(environment["DISPLAY"])  # the server tells of hardware that changes
            assert await first(told) == BESIDE
        async with closing(layouts("x11", environment)) as told:
            assert await first(told) == BESIDE


@on_a_loop
async def test_the_x_server_goes() -> None:
    with x_server(options=SCREEN) as (environment, server):
        async with closing(layouts(environment=environment)) as told:
            await first(told)
            server.kill()
            with pytest.raises(Disconnected):
                await first(told)


@on_a_loop
async def test_the_outputs_of_a_compositor_and_their_change() -> None:
    with wayland_compositor() as (environment, compositor):
        control = next(Path(environment["XDG_RUNTIME_DIR"]).glob("sway-ipc.*.sock"))

        async def sway(*words: str) -> None:
            await run(environment, "swaymsg", "-s", str(control), *words)

        async with closing(layouts(environment=environment)) as told:
            [only] = (await first(told)).monitors
            await sway("output", only.name, "position", "0", "0")  # else sway moves it when others are moved
            await sway("create_output")
            both = await first(told)
            assert [monitor.name for monitor in both.monitors] == ["HEADLESS-1", "HEADLESS-2"]
            assert both.desktop.width == sum(monitor.area.width for monitor in both.monitors)
            await sway("output", "HEADLESS-2", "resolution", "800x600", "position", "0", "2000", "scale", "2")
            while (scaled := await first(told)).monitors[-1].area != Area(0, 2000, 400, 300):
                pass
            assert scaled.desktop == Area(0, 0, only.area.width, 2300)
            compositor.send_signal(signal.SIGKILL)
            with pytest.raises(Disconnected):
                await first(told)


@on_a_loop
async def test_an_output_that_goes_is_given_up() -> None:
    """As the compositor says it; sway's headless ones cannot be unplugged."""
    with wayland_compositor() as (environment, _):
        outputs = Outputs()
        await outputs.open(f"{environment['XDG_RUNTIME_DIR']}/{environment['WAYLAND_DISPLAY']}")
        await outputs.connection.sync()
        [(number, output)] = outputs._outputs.items()
        assert outputs.layout() is not None
        outputs.changed.clear()
        outputs._registry_event("global_remove", (number,))
        assert outputs.changed.is_set()
        assert outputs.layout() is None
        await outputs.connection.sync()  # it takes what was said of it
        await outputs.connection.sync()
        assert output.proxy is not None
        assert outputs.connection.find(output.proxy.number) is None, "the compositor has released it"
        outputs.connection.close()


def test_no_desktop() -> None:
    with pytest.raises(NoServer):
        layouts(environment={})


# --- on its way to the host


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The VM's."""
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        path = runtime.vm_folder("vm")
        path.mkdir(parents=True)
        yield path


def saying(said: Any) -> dict[str, Handler]:
    async def say(stream: Stream) -> Head:
        await stream.event(said)
        await asyncio.sleep(1000)
        return {}

    return {OPERATION: say}


@on_a_loop
async def test_a_layout_reaches_a_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with x_server(options=SCREEN) as (environment, _):
        monkeypatch.setenv("DISPLAY", environment["DISPLAY"])
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        await set_monitors(environment["DISPLAY"], {"left": LEFT, "right": RIGHT})
        async with hub_with_agent(folder, Monitors("x11").handlers()):
            assert await monitors.layout("vm") == BESIDE
            for _ in range(2 * MAX_FOLLOWERS):  # none of them stays
                assert await monitors.layout_if_told("vm", 10) == BESIDE


@on_a_loop
async def test_a_command_hears_of_changes_and_of_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with x_server(options=SCREEN) as (environment, server):
        monkeypatch.setenv("DISPLAY", environment["DISPLAY"])
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        followed = contextlib.aclosing(monitors.layouts("vm"))
        async with hub_with_agent(folder, Monitors("x11").handlers()), followed as told:
            assert len((await first(told)).monitors) == 1
            await set_monitors(environment["DISPLAY"], {"left": LEFT, "right": RIGHT})
            await switch_off(environment["DISPLAY"])
            assert await first(told) == BESIDE
            server.kill()
            with pytest.raises(SubosError):
                await first(told)


@on_a_loop
async def test_so_many_follow_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with x_server(options=SCREEN) as (environment, _):
        monkeypatch.setenv("DISPLAY", environment["DISPLAY"])
        async with asking(Monitors("x11").handlers()) as host:
            streams = [host.call({"op": OPERATION}) for _ in range(MAX_FOLLOWERS)]
            for stream in streams:
                assert await stream.receive() is not None
            with pytest.raises(RemoteError, match="followed"):
                await host.ask({"op": OPERATION})
            for stream in streams:
                stream.cancel()


@on_a_loop
async def test_a_session_without_a_display_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    async with asking(Monitors().handlers()) as host:
        with pytest.raises(RemoteError, match="no display server"):
            await host.ask({"op": OPERATION})


@pytest.mark.parametrize("said", [{}, {"desktop": [0, 0, 1, 1], "monitors": [{"name": "x", "area": [5, 0, 1, 1]}]}])
def test_an_agent_that_means_ill(folder: Path, said: Any) -> None:
    @on_a_loop
    async def test() -> None:
        async with hub_with_agent(folder, saying(said)):
            with pytest.raises(SubosError, match="means nothing"):
                await monitors.layout("vm")

    test()


@on_a_loop
async def test_names_are_printable(folder: Path) -> None:
    evil = pack_layout(Layout(Area(0, 0, 1, 1), (Monitor("\x1b[2J", Area(0, 0, 1, 1)),)))
    async with hub_with_agent(folder, saying(evil)):
        assert (await monitors.layout("vm")).monitors[0].name == "?[2J"


@on_a_loop
async def test_an_agent_that_says_nothing_or_does_not_know(folder: Path) -> None:
    async def deaf(stream: Stream) -> Head:
        await asyncio.sleep(1000)
        return {}

    async def ended(stream: Stream) -> Head:
        return {}

    async with hub_with_agent(folder, {OPERATION: deaf}):
        with pytest.raises(SubosError, match="does not say"):
            await monitors.layout("vm", 0.3)
        assert await monitors.layout_if_told("vm", 0.3) is None
    async with hub_with_agent(folder, {OPERATION: ended}):
        with pytest.raises(SubosError, match="means nothing"):
            await monitors.layout("vm")
    async with hub_with_agent(folder, {}):
        with pytest.raises(UserError):
            await monitors.layout("vm")
