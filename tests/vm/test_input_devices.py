"""Touch screen, pen, gamepads, lights and the relative mouse in a booted guest; nothing sticks, whatever dies."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from subos_devices.errors import UserError
from subos_devices.input import script
from subos_devices.input.actions import Events, button, frame, touch
from subos_devices.input.capabilities import Capabilities
from subos_devices.input.client import DriverConnection
from subos_devices.input.gamepad import profiles
from subos_devices.input.mouse import MOUSE
from subos_devices.input.pen import PEN
from subos_devices.input.pointer import POINTER
from subos_devices.input.touch import TOUCH
from subos_devices.launcher import devices, hotplug, qmp
from subos_devices.launcher.control import agent_command
from subos_protocol.input_codes import Abs, Ev, Key, code_name
from support.command import subos
from support.guest import Guest
from support.steps import step
from support.waiting import eventually

pytestmark = pytest.mark.vm

KEYBOARD = "SubOS Keyboard"
REPORT = ["EV_SYN", "SYN_REPORT", 0]


def evdev(*words: str) -> list[str]:
    argv, variables = agent_command()
    return ["env", *(f"{name}={value}" for name, value in variables.items()), *argv[:-2], "subos_agent.evdev", *words]


def described(guest: Guest) -> dict[str, dict[str, Any]]:
    """What the guest's kernel says of its input devices now, by name."""
    lines = map(json.loads, guest.check(*evdev("list")).splitlines())
    return {device["name"]: device for device in lines}


class Reader:
    """The guest reads a device, from now on until the test ends."""

    def __init__(self, guest: Guest, folder: Path, name: str) -> None:
        self._report = folder / f"{name}.events"
        shell = f"{shlex.join(evdev('read', name, '--timeout', '240'))} >{shlex.quote(str(self._report))} 2>&1 &"
        guest.check("sh", "-c", f"{shell} </dev/null")
        eventually(lambda: self._report.exists() and self._report.stat().st_size, timeout=60)

    def events(self) -> list[list[Any]]:
        """What it has read, but for what ends frames."""
        lines = self._report.read_text().splitlines(keepends=True)[1:]
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in events if event != REPORT]

    def wait_for(self, *wanted: list[Any]) -> None:
        """Until it has read `wanted`, in this order."""

        def seen() -> bool:
            rest = iter(self.events())
            return all(event in rest for event in wanted)

        eventually(seen, timeout=60)


@contextmanager
def driver(guest: Guest, name: str) -> Iterator[DriverConnection]:
    """A worker that is being replaced is waited for."""

    def connected() -> DriverConnection | None:
        try:
            return DriverConnection(devices.driver_path(guest.vm.folder, name))
        except UserError:
            return None

    found = eventually(connected)
    assert found
    with found:
        yield found


# --- what they are


@pytest.mark.parametrize(
    ("name", "capabilities"),
    [
        ("touch", lambda: TOUCH),
        ("pen", lambda: PEN),
        ("gamepad2", lambda: profiles.load("dualsense").capabilities),
    ],
)
def test_the_guest_s_kernel_has_what_the_model_says(
    guest: Guest, name: str, capabilities: Callable[[], Capabilities]
) -> None:
    model = capabilities()
    device = described(guest)[model.name]
    assert device["serial"] == name
    assert device["ids"] == list(model.ids)
    assert device["props"] == sorted(model.props)
    for type_ in (Ev.EV_KEY, Ev.EV_REL, Ev.EV_ABS):
        wanted = [code_name(type_, code) for code in sorted(model.of(type_))]
        assert device["codes"].get(type_.name, []) == wanted
    for code, axis in model.axes.items():
        found = device["axes"][code_name(Ev.EV_ABS, code)]
        assert found[1:] == [axis.min, axis.max, axis.fuzz, axis.flat, axis.res]


def test_the_kernel_takes_the_mouse_for_what_it_takes_qemu_s(guest: Guest) -> None:
    """And for no joystick, to which it would give a /dev/input/js0."""

    async def plug() -> None:
        async with qmp.connected(guest.vm.folder / "qmp.sock") as monitor:
            await hotplug.add_device(monitor, {"driver": "virtio-tablet-pci", "id": "tablet"})

    async def unplug() -> None:
        async with qmp.connected(guest.vm.folder / "qmp.sock") as monitor:
            await hotplug.delete_device(monitor, "tablet", "")

    def drivers(name: str) -> set[str]:
        """The kernel's that have the device: event, mouse, js."""
        for device in guest.check("cat", "/proc/bus/input/devices").split("\n\n"):
            if f'N: Name="{name}"' in device:
                (line,) = (line for line in device.splitlines() if line.startswith("H: Handlers="))
                return {handler.rstrip("0123456789") for handler in line.partition("=")[2].split()}
        return set()

    guest.call(plug)
    try:
        eventually(lambda: drivers("QEMU Virtio Tablet"), timeout=60)
        assert drivers(MOUSE.name) == drivers("QEMU Virtio Tablet") == {"event", "mouse"}
    finally:
        guest.call(unplug)


def test_a_pad_that_nobody_touches_is_in_the_middle(guest: Guest) -> None:
    profile = profiles.load("dualsense")
    axes = described(guest)[profile.capabilities.name]["axes"]
    assert {axis: state[0] for axis, state in axes.items()} == {
        code_name(Ev.EV_ABS, code): place for code, place in profile.rest.items()
    }


# --- what dies while something is held


def test_a_pad_is_the_same_device_when_its_driver_or_its_worker_dies(guest: Guest, folder: Path) -> None:
    profile = profiles.load("dualsense")
    name = profile.capabilities.name
    before = described(guest)[name]["path"]
    reader = Reader(guest, folder, name)
    held = [*frame((Ev.EV_ABS, Abs.ABS_X, 255), (Ev.EV_ABS, Abs.ABS_RZ, 200)), *button(Key.BTN_SOUTH, 1)]
    pressed, released = ["EV_KEY", "BTN_SOUTH", 1], ["EV_KEY", "BTN_SOUTH", 0]
    centred = [["EV_ABS", "ABS_X", 128], ["EV_ABS", "ABS_RZ", 0]]
    step("the driver goes")
    with driver(guest, "gamepad2") as pad:
        pad.send(held)
        reader.wait_for(["EV_ABS", "ABS_X", 255], pressed)
    reader.wait_for(["EV_ABS", "ABS_X", 255], *centred)
    reader.wait_for(pressed, released)
    step("the worker dies")
    with driver(guest, "gamepad2") as pad:
        pad.send(held)
        reader.wait_for(pressed, released, pressed)
        guest.kill_worker("gamepad2")
        reader.wait_for(pressed, released, pressed, released, *centred)
    step("another driver comes")
    with driver(guest, "gamepad2") as pad:
        pad.send(button(Key.BTN_EAST, 1))
        reader.wait_for(["EV_KEY", "BTN_EAST", 1])
    reader.wait_for(["EV_KEY", "BTN_EAST", 1], ["EV_KEY", "BTN_EAST", 0])
    device = described(guest)[name]
    assert (device["path"], device["pressed"]) == (before, [])


def test_fingers_end_with_their_driver_and_with_the_worker(guest: Guest, folder: Path) -> None:
    reader = Reader(guest, folder, TOUCH.name)
    down: list[list[Any]] = [["EV_KEY", "BTN_TOUCH", 1]]
    up: list[list[Any]] = [["EV_ABS", "ABS_MT_TRACKING_ID", -1]] * 2 + [["EV_KEY", "BTN_TOUCH", 0]]
    fingers = Events("touch", [*touch(0, 100, 200), *touch(1, 300, 400)])
    with driver(guest, "touch") as screen:
        screen.send(fingers)
        reader.wait_for(*down, ["EV_ABS", "ABS_MT_SLOT", 1], ["EV_ABS", "ABS_MT_POSITION_X", 300])
    reader.wait_for(*down, *up)
    step("and with the worker")
    with driver(guest, "touch") as screen:
        screen.send(fingers)
        reader.wait_for(*down, *up, *down)
        guest.kill_worker("touch")
        reader.wait_for(*down, *up, *down, *up)
    assert described(guest)[TOUCH.name]["pressed"] == []


def test_a_pen_comes_near_draws_and_is_gone(guest: Guest, folder: Path) -> None:
    reader = Reader(guest, folder, PEN.name)
    with driver(guest, "pen") as pen:
        near = (Ev.EV_ABS, Abs.ABS_X, 1000), (Ev.EV_ABS, Abs.ABS_TILT_X, -20)
        pen.send(frame((Ev.EV_KEY, Key.BTN_TOOL_PEN, 1), *near))
        pen.send(frame((Ev.EV_ABS, Abs.ABS_PRESSURE, 5000), (Ev.EV_KEY, Key.BTN_TOUCH, 1)))
        reader.wait_for(["EV_KEY", "BTN_TOOL_PEN", 1], ["EV_ABS", "ABS_TILT_X", -20], ["EV_ABS", "ABS_PRESSURE", 5000])
    reader.wait_for(["EV_ABS", "ABS_PRESSURE", 5000], ["EV_ABS", "ABS_PRESSURE", 0])
    reader.wait_for(["EV_KEY", "BTN_TOUCH", 1], ["EV_KEY", "BTN_TOOL_PEN", 0], ["EV_KEY", "BTN_TOUCH", 0])
    assert described(guest)[PEN.name]["pressed"] == []


def test_a_guest_that_rebinds_its_driver_is_told_what_is_held_and_when_it_is_released(guest: Guest) -> None:
    path = described(guest)[KEYBOARD]["path"]
    bus = guest.check("sh", "-c", f"basename $(readlink -f /sys/class/input/{Path(path).name}/device/device)").strip()

    def pressed() -> list[str]:
        found: list[str] = described(guest).get(KEYBOARD, {}).get("pressed", ["not there"])
        return found

    with driver(guest, "keyboard") as keyboard:
        keyboard.send([*button(Key.KEY_A, 1), *button(Key.KEY_B, 1)])
        eventually(lambda: pressed() == ["KEY_A", "KEY_B"], timeout=60)
        step(f"the driver lets go of {bus}, a key is released meanwhile, and it takes it again")
        guest.check("sh", "-c", f"echo {bus} >/sys/bus/virtio/drivers/virtio_input/unbind")
        keyboard.send(button(Key.KEY_B, 0))
        guest.check("sh", "-c", f"echo {bus} >/sys/bus/virtio/drivers/virtio_input/bind")
        eventually(lambda: pressed() == ["KEY_A"], timeout=60)
    eventually(lambda: pressed() == [], timeout=60)


def test_a_release_that_was_on_its_way_when_the_worker_died_is_not_lost(guest: Guest, folder: Path) -> None:
    reader = Reader(guest, folder, KEYBOARD)
    for round_ in range(3):
        with driver(guest, "keyboard") as keyboard:
            keyboard.send(button(Key.KEY_F1 + round_, 1))
            key = f"KEY_F{1 + round_}"
            reader.wait_for(["EV_KEY", key, 1])
            os.kill(guest.worker("keyboard"), signal.SIGKILL)
            with suppress(UserError):  # it was dead by then
                keyboard.send(button(Key.KEY_F1 + round_, 0))
            reader.wait_for(["EV_KEY", key, 1], ["EV_KEY", key, 0])
    assert described(guest)[KEYBOARD]["pressed"] == []


# --- what the guest says back


def test_lights_come_to_the_host_and_a_new_worker_invents_none(guest: Guest) -> None:
    with driver(guest, "keyboard") as keyboard:
        for state, value in (("on", 1), ("off", 0), ("on", 1)):
            guest.check(*evdev("light", KEYBOARD, "LED_CAPSL", state))
            assert keyboard.hear()["leds"]["LED_CAPSL"] == value
    with driver(guest, "keyboard") as keyboard:
        assert keyboard.hear()["leds"]["LED_CAPSL"] == 1  # at once
    guest.kill_worker("keyboard")
    with driver(guest, "keyboard") as keyboard:
        guest.check(*evdev("light", KEYBOARD, "LED_NUML", "on"))
        assert keyboard.hear() == {"leds": {"LED_NUML": 1}}
        for led in ("LED_NUML", "LED_CAPSL"):
            guest.check(*evdev("light", KEYBOARD, led, "off"))


def test_a_guest_that_floods_the_status_queue_holds_nothing_up(guest: Guest) -> None:
    status = guest.status("keyboard")
    before = (status["restarts"], status["faults"])
    path = described(guest)[KEYBOARD]["path"]
    with driver(guest, "keyboard") as deaf, driver(guest, "keyboard") as keyboard:
        deaf.send(button(Key.KEY_A, 1))
        begun = guest.begin(guest.inside_command("lights.py", path), timeout=120)
        while not begun.done():
            keyboard.send([*button(Key.KEY_B, 1), *button(Key.KEY_B, 0)])
        assert guest.finish(begun).status == 0
        out = {"LED_NUML": 0, "LED_CAPSL": 0, "LED_SCROLLL": 0}
        while keyboard.hear()["leds"] != out:
            pass
        status = guest.status("keyboard")
        assert (status["restarts"], status["faults"]) == before


# --- the mouse is changed


def test_the_mouse_becomes_a_relative_one_and_an_absolute_one_again(guest: Guest, folder: Path) -> None:
    name, boot = guest.vm.plan.name, guest.check("cat", "/proc/sys/kernel/random/boot_id")
    guest.play(script.parse(["move 10% 10%"]))
    said = subos("input", name, "mouse", "relative", check=0).stdout.decode()
    assert said == f"the mouse of {name} is relative now ({name}/pointer)\n"
    try:
        eventually(lambda: POINTER.name in described(guest), timeout=60)
        assert "SubOS Mouse" not in described(guest)
        reader = Reader(guest, folder, POINTER.name)
        subos("input", name, "nudge 40 -7, click right, scroll 2", check=0)
        moved = [["EV_REL", "REL_X", 40], ["EV_REL", "REL_Y", -7]]
        clicked = [["EV_KEY", "BTN_RIGHT", 1], ["EV_KEY", "BTN_RIGHT", 0]]
        reader.wait_for(*moved, *clicked, ["EV_REL", "REL_WHEEL", 2], ["EV_REL", "REL_WHEEL_HI_RES", 240])
        assert "no input device 'mouse'" not in subos("input", name, "click", check=0).stderr.decode()
    finally:
        subos("input", name, "mouse", "absolute", check=0)
    eventually(lambda: "SubOS Mouse" in described(guest), timeout=60)
    assert POINTER.name not in described(guest)
    guest.play(script.parse(["move 1234 4321"]))
    eventually(lambda: described(guest)["SubOS Mouse"]["axes"]["ABS_X"][0] == 1234, timeout=60)
    assert guest.check("cat", "/proc/sys/kernel/random/boot_id") == boot
