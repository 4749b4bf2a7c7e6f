"""Gamepads that are plugged while something drives them: QEMU is a fake."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from subos_devices import runtime
from subos_devices.agent.gamepads import Gamepads
from subos_devices.launcher import devices, hot_pads, hotplug
from subos_devices.launcher.hot_pads import HotPads
from subos_devices.launcher.plugged import Plugged
from subos_devices.supervisor.holder import Holder
from support.fake_qemu import FakeQemu

MINE = ["subos-gamepad1", "subos-gamepad1-motion"]


pytestmark = pytest.mark.usefixtures("folder")


class Scene:
    """A VM of two gamepads, the first of which comes and goes, with its sensors."""

    def __init__(self, qemu: FakeQemu, place: Path, supervisor: Holder) -> None:
        self.qemu = qemu
        self.place = place
        self.supervisor = supervisor

    def connect(self, name: str = "gamepad1") -> socket.socket:
        driver = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        driver.connect(os.fspath(devices.driver_path(self.place, name)))
        return driver

    async def has(self, *plugged: str) -> None:
        """Waits until QEMU has these devices and no others."""
        await until(lambda: sorted(self.qemu.devices) == sorted(plugged))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


class Agent(Gamepads):
    """Which pads it was to let go of."""

    def __init__(self) -> None:
        super().__init__()
        self.gone: list[str] = []

    def let_go(self, name: str) -> None:
        super().let_go(name)
        self.gone.append(name)


def run(folder: Path, during: Callable[[Scene], Awaitable[None]]) -> list[str]:
    """What the agent was to let go of."""
    holder = Holder.start()
    planned = devices.plan([], gamepad=["switchpro:hotplug", "xbox360"])
    agent = Agent()

    async def main() -> None:
        with contextlib.ExitStack() as stack:
            place = stack.enter_context(runtime.claim("fake"))
            pads = stack.enter_context(HotPads(planned))
            stack.callback(agent.close_all)
            async with holder as supervisor:
                plugged = Plugged(supervisor, place, qemu.path, {devices.GAMEPAD: agent})
                await devices.serve(supervisor, place, planned, {devices.GAMEPAD: agent}, pads.open)
                async with pads.plugging(plugged, supervisor, agent):
                    await during(Scene(qemu, place, supervisor))
                    async with plugged.lock:
                        pass  # what is under way comes to its end
                await plugged.take_back()

    with FakeQemu(folder / "qmp") as qemu:
        asyncio.run(main())
        assert (qemu.aborted, qemu.devices) == (False, {})
    return agent.gone


def test_a_pad_and_its_sensors_are_there_while_something_drives_the_pad(folder: Path) -> None:
    async def during(scene: Scene) -> None:
        with scene.connect("gamepad2"), scene.connect("gamepad1-motion"):
            await asyncio.sleep(0.2)
            assert not scene.qemu.devices, "neither is it the other pad's driver, nor its sensors' alone"
            with scene.connect(), scene.connect():
                await scene.has(*MINE)
            await scene.has()
            with scene.connect():
                await scene.has(*MINE)
            await scene.has()

    assert run(folder, during) == ["gamepad1", "gamepad1-motion"] * 2


def test_a_driver_that_is_back_at_once_is_no_replug(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_pads, "GRACE", 600.0)

    async def during(scene: Scene) -> None:
        with scene.connect():
            await scene.has(*MINE)
        unplugged: list[str] = []
        scene.qemu.before["device_del"] = lambda: unplugged.append("a device")
        with scene.connect():
            await asyncio.sleep(0.2)
            assert not unplugged
            await scene.has(*MINE)

    assert run(folder, during) == []


def test_workers_that_die_are_no_replug(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two, one after the other: what the second one tells does not end the time that the first one's drivers have."""
    monkeypatch.setattr(hot_pads, "GRACE", 600.0)
    look, heard = hot_pads._Pad.look, list[str]()

    def noted(pad: hot_pads._Pad) -> None:
        look(pad)
        heard.append(pad.name)

    monkeypatch.setattr(hot_pads._Pad, "look", noted)

    async def during(scene: Scene) -> None:
        server = scene.supervisor.devices["gamepad1"]

        async def die() -> None:
            deaths, said = server.restarts, len(heard)
            os.kill(server.pid, signal.SIGKILL)
            await until(lambda: server.restarts > deaths and server.pid)
            await until(lambda: len(heard) > said and not server.describe()["gamepad"]["driven"])

        with scene.connect():
            await scene.has(*MINE)
            await die()
            await die()
            await asyncio.sleep(0.2)
        with scene.connect():
            await until(lambda: server.describe()["gamepad"]["driven"])
            await scene.has(*MINE)

    assert run(folder, during) == []


def test_a_worker_that_dies_with_its_last_driver_takes_the_pad_along(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_pads, "GRACE", 0.01)

    async def during(scene: Scene) -> None:
        worker = scene.supervisor.devices["gamepad1"].pid
        with scene.connect():
            await scene.has(*MINE)
            os.kill(worker, signal.SIGKILL)
            await scene.has()

    assert run(folder, during) == ["gamepad1", "gamepad1-motion"]


def test_a_guest_that_does_not_let_go_is_asked_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hot_pads, "GRACE", 0.01)
    monkeypatch.setattr(hot_pads, "RETRY", 0.05)
    monkeypatch.setattr(hotplug, "UNPLUG_TIMEOUT", 0.2)

    async def during(scene: Scene) -> None:
        scene.qemu.stubborn = {"subos-gamepad1"}
        with scene.connect():
            await scene.has(*MINE)
        await until(lambda: "did not let go of subos-gamepad1" in caplog.text)
        with scene.connect():
            await scene.has(*MINE)
            await asyncio.sleep(0.2)
        scene.qemu.stubborn = set()
        await scene.has()

    run(folder, during)


def test_a_guest_that_lets_go_late_gets_the_pad_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_pads, "GRACE", 0.01)
    monkeypatch.setattr(hot_pads, "RETRY", 0.05)
    monkeypatch.setattr(hotplug, "UNPLUG_TIMEOUT", 0.2)

    async def during(scene: Scene) -> None:
        tried: list[str] = []
        scene.qemu.before["device_del"] = lambda: tried.append("once")
        scene.qemu.stubborn = {"subos-gamepad1"}
        with scene.connect():
            await scene.has(*MINE)
        await until(lambda: tried)
        with scene.connect():
            await until(lambda: scene.supervisor.devices["gamepad1"].describe()["gamepad"]["driven"])
            await until(lambda: len(scene.qemu.devices) == 2)
            scene.qemu.let_go("subos-gamepad1")
            await scene.has(*MINE)
        scene.qemu.stubborn = set()
        await scene.has()

    run(folder, during)


def test_a_qemu_without_a_free_place_is_asked_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hot_pads, "RETRY", 0.05)
    plug, failures = hotplug.plug, [1, 2]

    async def failing(*arguments: object) -> None:
        if failures.pop() == 1:
            monkeypatch.setattr(hotplug, "plug", plug)
        raise hot_pads.UserError("the VM has 0 free slots")

    async def during(scene: Scene) -> None:
        monkeypatch.setattr(hotplug, "plug", failing)
        with scene.connect():
            await scene.has(*MINE)
        await scene.has()

    run(folder, during)
    assert caplog.text.count("the VM has 0 free slots") >= 1
