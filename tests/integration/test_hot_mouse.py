"""The mouse that is changed for the other kind while a VM runs: QEMU is a fake."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from subos_devices import runtime
from subos_devices.errors import UserError
from subos_devices.launcher import devices, hotplug
from subos_devices.launcher.hot_mouse import HotMouse
from subos_devices.launcher.plugged import Plugged
from subos_devices.supervisor import control
from subos_devices.supervisor.holder import Holder
from support.command import family, status_of, subos, wait_ended
from support.fake_qemu import FakeQemu

pytestmark = pytest.mark.usefixtures("folder")


def run(folder: Path, during: Callable[[FakeQemu, Path], Awaitable[None]], *, mouse: bool = True) -> None:
    holder = Holder.start()

    async def main() -> None:
        with runtime.claim("fake") as place:
            async with holder as supervisor:
                plugged = Plugged(supervisor, place, qemu.path)
                await plugged.add(devices.plan([], mouse=mouse, keyboard=True))
                async with control.serve(place, HotMouse(plugged).handlers()):
                    await during(qemu, place)
                await plugged.take_back()

    with FakeQemu(folder / "qmp") as qemu:
        asyncio.run(main())
        assert (qemu.aborted, qemu.devices) == (False, {})


async def switch(mode: str) -> str:
    device: str = await asyncio.to_thread(control.ask, "fake", "mouse", mode=mode)
    return device


def drivers(place: Path) -> list[str]:
    return sorted(path.name for path in place.glob("*.driver.sock"))


def test_one_mouse_goes_when_the_other_is_there(folder: Path) -> None:
    async def during(qemu: FakeQemu, place: Path) -> None:
        gone = []
        qemu.before["device_del"] = lambda: gone.append(sorted(qemu.devices))
        assert await switch("relative") == "pointer"
        assert sorted(qemu.devices) == ["subos-keyboard", "subos-pointer"]
        assert gone == [["subos-keyboard", "subos-mouse", "subos-pointer"]]  # never without a mouse
        assert drivers(place) == ["keyboard.driver.sock", "pointer.driver.sock"]
        assert await switch("relative") == "pointer"  # it is that already
        assert await switch("absolute") == "mouse"
        assert sorted(qemu.devices) == ["subos-keyboard", "subos-mouse"]
        assert drivers(place) == ["keyboard.driver.sock", "mouse.driver.sock"]

    run(folder, during)


def test_a_vm_without_a_mouse_gets_one(folder: Path) -> None:
    async def during(qemu: FakeQemu, _: Path) -> None:
        assert await switch("relative") == "pointer"
        assert sorted(qemu.devices) == ["subos-keyboard", "subos-pointer"]

    run(folder, during, mouse=False)


def test_a_guest_that_does_not_let_go_keeps_both(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection goes before its device is out: QEMU would abort."""
    monkeypatch.setattr(hotplug, "UNPLUG_TIMEOUT", 0.2)

    async def during(qemu: FakeQemu, place: Path) -> None:
        qemu.stubborn = {"subos-mouse"}
        with pytest.raises(UserError, match="the new mouse is there, and the old one still is") as caught:
            await switch("relative")
        assert "try again" in caught.value.hint
        assert drivers(place) == ["keyboard.driver.sock", "mouse.driver.sock", "pointer.driver.sock"]
        qemu.stubborn = set()
        assert await switch("relative") == "pointer"
        assert sorted(qemu.devices) == ["subos-keyboard", "subos-pointer"]

    run(folder, during)


def test_another_word_changes_nothing(folder: Path) -> None:
    async def during(qemu: FakeQemu, _: Path) -> None:
        with pytest.raises(UserError, match="'round' is no mouse"):
            await switch("round")
        assert sorted(qemu.devices) == ["subos-keyboard", "subos-mouse"]

    run(folder, during)


def test_an_attached_vm_outlives_the_change_of_its_only_device(folder: Path) -> None:
    with FakeQemu(folder / "qmp") as qemu:
        subos("attach", "--qmp", qemu.path, "--mouse", check=0)
        everybody = family(status_of("fake")["pid"])
        said = subos("input", "fake", "mouse", "relative", check=0).stdout.decode()
        assert said == "the mouse of fake is relative now (fake/pointer)\n"
        assert list(qemu.devices) == ["subos-pointer"]
        assert [device["kind"] for device in status_of("fake")["devices"]] == ["pointer"]
        everybody |= family(status_of("fake")["pid"])
        subos("detach", "fake", check=0)
        wait_ended(everybody)
        assert (qemu.aborted, qemu.devices) == (False, {})


def test_gamepads_are_attached_and_shown(folder: Path) -> None:
    with FakeQemu(folder / "qmp") as qemu:
        parts = ("gamepad2-motion", "gamepad2-touchpad")
        said = subos("attach", "--qmp", qemu.path, "--gamepad", "xbox360", "--gamepad", "dualsense", "--touch", check=0)
        assert said.stdout.decode() == f"attached to fake: touch, gamepad1, gamepad2, {', '.join(parts)}\n"
        everybody = family(status_of("fake")["pid"])
        shown = {device["name"]: device["options"].get("profile") for device in status_of("fake")["devices"]}
        assert shown == {"touch": None, "gamepad1": "xbox360", **dict.fromkeys(("gamepad2", *parts), "dualsense")}
        shown = subos("status", "fake", check=0).stdout.decode()
        assert "dualsense" in shown
        assert "\nsandbox: on" in shown  # with all layers, or those that this host has
        subos("detach", "fake", check=0)
        wait_ended(everybody)
        assert not qemu.aborted
