"""What games that know pads by SDL make of ours: their names, every button and axis, and rumble."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_devices.input.gamepad import profiles
from subos_devices.input.gamepad.device import GamepadDevice
from subos_devices.vhost_user.device import DeviceSpec
from subos_protocol.gamepad import pack_pad
from subos_protocol.input_codes import Abs, Ev, Key
from support.guest import Guest
from support.waiting import eventually

from .test_gamepad import Driver, agent_has_it

pytestmark = pytest.mark.vm

UNKNOWN, XBOX360, XBOXONE, PS4, SWITCH_PRO, PS5 = 0, 1, 2, 4, 5, 7  # SDL_GameControllerType
KNOWN = {
    "dualsense": (PS5, ("PS5 Controller", "DualSense Wireless Controller")),
    "dualshock4": (PS4, ("PS4 Controller",)),
    "switchpro": (SWITCH_PRO, ("Nintendo Switch Pro Controller",)),
    "xbox360": (XBOX360, ("X360 Controller", "Xbox 360 Controller")),
    "xboxone": (XBOXONE, ("Xbox One Controller", "Microsoft X-Box One pad")),
    "xboxseries": (
        XBOXONE,
        ("Xbox Series X Controller", "Xbox Series Controller"),
    ),
}
"""What SDL takes each profile for; its releases call them by one of these names."""

BUTTONS = {
    Key.BTN_SOUTH: "a",
    Key.BTN_EAST: "b",
    Key.BTN_X: "x",
    Key.BTN_Y: "y",
    Key.BTN_TL: "leftshoulder",
    Key.BTN_TR: "rightshoulder",
    Key.BTN_SELECT: "back",
    Key.BTN_START: "start",
    Key.BTN_MODE: "guide",
    Key.BTN_THUMBL: "leftstick",
    Key.BTN_THUMBR: "rightstick",
}
STICKS = {Abs.ABS_X: "leftx", Abs.ABS_Y: "lefty", Abs.ABS_RX: "rightx", Abs.ABS_RY: "righty"}
TRIGGERS = {Abs.ABS_Z: "lefttrigger", Abs.ABS_RZ: "righttrigger"}
CROSS = {Abs.ABS_HAT0X: ("dpleft", "dpright"), Abs.ABS_HAT0Y: ("dpup", "dpdown")}
LOW, HIGH, MILLISECONDS = 49152, 4660, 300


def test_each_profile_has_its_name_and_its_mapping(guest: Guest) -> None:
    pads = {name: GamepadDevice(DeviceSpec("gamepad", name, {"profile": name})).pad() for name in profiles.names()}
    assert pads.keys() == {*KNOWN, "generic"}
    said = json.loads(
        guest.inside("sdl.py", "names", json.dumps([pack_pad(pad) for pad in pads.values()]), timeout=150)
    )
    found = dict(zip(pads, said, strict=True))
    for name, (type_, called) in KNOWN.items():
        assert found[name]["type"] == type_, found[name]
        assert found[name]["name"] in called, found[name]
        assert all(f"{button}:b" in found[name]["mapping"] for button in ("a", "start", "guide")), found[name]
    assert found["generic"]["type"] == UNKNOWN
    assert "a:b" in found["generic"]["mapping"]
    assert all(pad["rumbles"] for pad in found.values()), found


def strokes() -> Iterator[tuple[tuple[int, int, int], str]]:
    """Every button, every end of an axis and every direction of the cross of the Xbox 360 pad, and what SDL says."""
    for code, name in BUTTONS.items():
        for value in (1, 0):
            yield (Ev.EV_KEY, code, value), f"button {name} {value}"
    for axis, name in STICKS.items():
        for value in (-32768, 32767, 0):
            yield (Ev.EV_ABS, axis, value), f"axis {name} {value}"
    for axis, name in TRIGGERS.items():
        yield (Ev.EV_ABS, axis, 255), f"axis {name} 32767"
        yield (Ev.EV_ABS, axis, 0), f"axis {name} 0"
    for axis, names in CROSS.items():
        for value, name in zip((-1, 1), names, strict=True):
            yield (Ev.EV_ABS, axis, value), f"button {name} 1"
            yield (Ev.EV_ABS, axis, 0), f"button {name} 0"


def test_the_xbox_360_pad_is_read_and_rumbled(guest: Guest, folder: Path) -> None:
    """By a game in the guest; its rumble arrives at the host's driver, with its end or how long it lasts."""
    can = profiles.load("xbox360").capabilities
    assert can.of(Ev.EV_KEY) == set(BUTTONS)
    assert set(can.axes) == {*STICKS, *TRIGGERS, *CROSS}
    eventually(lambda: agent_has_it(guest), timeout=120)
    driver = Driver(guest)
    seen, go = folder / "seen", folder / "go"
    name, rumble = "X360 Controller", json.dumps([LOW, HIGH, MILLISECONDS])
    game = guest.begin(guest.inside_command("sdl.py", "play", name, str(seen), str(go), rumble), timeout=200)
    try:
        expected = ["open"]
        eventually(lambda: game.done() or lines(seen) == expected, timeout=60)
        for event, words in strokes():
            driver.send(event)
            expected.append(words)
            eventually(lambda: game.done() or len(lines(seen)) >= len(expected), timeout=60)
            assert lines(seen) == expected
        go.touch()
        felt = driver.feels(lambda felt: game.done() or any("erase" in each for each in felt))
    finally:
        go.touch()
        done = guest.finish(game)
        driver.close()
        assert done.status == 0, done.stderr.decode()
    begun, ended, lasting = (each["upload"] for each in felt if "upload" in each)
    assert (begun["type"], begun["strong"], begun["weak"]) == ("rumble", LOW, HIGH)
    assert (ended["id"], ended["strong"], ended["weak"]) == (begun["id"], 0, 0), "SDL ends it by itself"
    assert (lasting["strong"], lasting["weak"], lasting["length"]) == (LOW, HIGH, MILLISECONDS)
    for effect in (begun, lasting):
        assert {"play": {"id": effect["id"], "times": 1}} in felt


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
