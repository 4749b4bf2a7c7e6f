"""A game that knows its pads by SDL alone (SDL_GameController, by ctypes).

sdl.py names PADS                 PADS is a JSON list of `subos_protocol.gamepad` pads, which are made by uinput. Prints
                                  JSON, a list of {"name", "type", "mapping", "rumbles"} as SDL has them.
sdl.py play NAME SEEN GO EFFECT   Opens the pad that SDL calls NAME, appends what it does to the file SEEN, a line each
                                  ("button a 1", "axis leftx -32768"), the first line being "open", and once there is a
                                  file GO rumbles as EFFECT says, [low, high, milliseconds], until SDL has ended that.
sdl.py feel NAMES SEEN GO         Opens the first pad that SDL calls one of NAMES (a JSON list), has its sensors speak,
                                  and appends what they say to the file SEEN, a line each ("gyro 0.00 1.50 0.00", rad/s,
                                  "accel 0.00 9.80 0.00", m/s²), the first line being "open" and the sensors that
                                  there are, until there is a file GO.

SDL_LIBRARY may name another SDL than the system's.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SDL_INIT_HAPTIC, SDL_INIT_GAMECONTROLLER = 0x1000, 0x2000
SDL_HAPTIC_LEFTRIGHT = 4
SDL_CONTROLLERAXISMOTION, SDL_CONTROLLERBUTTONDOWN, SDL_CONTROLLERBUTTONUP = 0x650, 0x651, 0x652
SDL_CONTROLLERSENSORUPDATE = 0x659
SENSORS = {1: "accel", 2: "gyro"}  # SDL_SensorType
UNION_SIZE = 128  # bytes; SDL_Event has 56, SDL_HapticEffect 72
PATIENCE = 150  # seconds
LOOK = 0.005

os.environ.update(SDL_VIDEODRIVER="dummy", SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS="1")
sdl = ctypes.CDLL(os.environ.get("SDL_LIBRARY", "libSDL2-2.0.so.0"))
for name in (
    "SDL_GetError",
    "SDL_GameControllerNameForIndex",
    "SDL_GameControllerGetStringForButton",
    "SDL_GameControllerGetStringForAxis",
    "SDL_GameControllerMappingForDeviceIndex",
    "SDL_JoystickPathForIndex",
):
    getattr(sdl, name).restype = ctypes.c_char_p
for name in ("SDL_GameControllerOpen", "SDL_GameControllerGetJoystick", "SDL_HapticOpenFromJoystick"):
    getattr(sdl, name).restype = ctypes.c_void_p
for name in (
    "SDL_GameControllerHasRumble",
    "SDL_GameControllerClose",
    "SDL_GameControllerGetJoystick",
    "SDL_HapticOpenFromJoystick",
    "SDL_HapticClose",
):
    getattr(sdl, name).argtypes = [ctypes.c_void_p]
sdl.SDL_GameControllerRumble.argtypes = [ctypes.c_void_p, ctypes.c_uint16, ctypes.c_uint16, ctypes.c_uint32]
sdl.SDL_GameControllerHasSensor.argtypes = [ctypes.c_void_p, ctypes.c_int]
sdl.SDL_GameControllerSetSensorEnabled.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
sdl.SDL_HapticNewEffect.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
sdl.SDL_HapticRunEffect.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]


class ControllerEvent(ctypes.Structure):
    """SDL_ControllerAxisEvent; of SDL_ControllerButtonEvent, `control` is the button and `state` what it is now."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("timestamp", ctypes.c_uint32),
        ("which", ctypes.c_int32),
        ("control", ctypes.c_uint8),
        ("state", ctypes.c_uint8),
        ("padding", ctypes.c_uint16),
        ("value", ctypes.c_int16),
    ]


class SensorEvent(ctypes.Structure):
    """SDL_ControllerSensorEvent, as far as all releases have it."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("timestamp", ctypes.c_uint32),
        ("which", ctypes.c_int32),
        ("sensor", ctypes.c_int32),
        ("data", ctypes.c_float * 3),
    ]


class LeftRight(ctypes.Structure):
    """SDL_HapticLeftRight."""

    _fields_ = [
        ("type", ctypes.c_uint16),
        ("length", ctypes.c_uint32),
        ("large_magnitude", ctypes.c_uint16),
        ("small_magnitude", ctypes.c_uint16),
    ]


def begin() -> None:
    if sdl.SDL_Init(SDL_INIT_GAMECONTROLLER | SDL_INIT_HAPTIC):
        sys.exit(f"SDL: {sdl.SDL_GetError().decode()}")


def events() -> Iterator[ControllerEvent]:
    """Those that wait."""
    buffer = ctypes.create_string_buffer(UNION_SIZE)
    while sdl.SDL_PollEvent(buffer):
        yield ControllerEvent.from_buffer_copy(buffer)


def controllers() -> dict[str, int]:
    """{name: index}"""
    indexes = filter(sdl.SDL_IsGameController, range(sdl.SDL_NumJoysticks()))
    return {sdl.SDL_GameControllerNameForIndex(index).decode(): index for index in indexes}


def until(what: str) -> Iterator[None]:
    """Turns of a loop that is left when `what` is so."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        yield
        time.sleep(LOOK)
    sys.exit(f"it did not come about: {what}")


def names(pads: list[dict[str, Any]]) -> None:
    """Made before SDL looks for them: without udevd in the guest, it is not told of those that come later."""
    from subos_agent.gamepad.uinput import UinputPad
    from subos_protocol.gamepad import unpack_pad

    made = [UinputPad(unpack_pad(said)) for said in pads]
    for pad in made:
        pad.create()
    begin()
    indexes = {sdl.SDL_JoystickPathForIndex(index).decode(): index for index in range(sdl.SDL_NumJoysticks())}
    print(json.dumps([named(indexes.get(node(said["serial"]), -1)) for said in pads]))
    for pad in made:
        pad.close()


def node(serial: str) -> str:
    """The event device of a pad of `subos_agent.gamepad.uinput`."""
    for phys in Path("/sys/class/input").glob("event*/device/phys"):
        if phys.read_text().strip() == f"subos/{serial}":
            return f"/dev/input/{phys.parts[-3]}"
    sys.exit(f"the kernel has no pad {serial}")


def named(index: int) -> dict[str, Any]:
    opened = sdl.SDL_GameControllerOpen(index)
    if not opened:
        sys.exit(f"SDL has no such gamepad: {sdl.SDL_GetError().decode()}")
    found = {
        "name": sdl.SDL_GameControllerNameForIndex(index).decode(),
        "type": sdl.SDL_GameControllerTypeForIndex(index),
        "mapping": sdl.SDL_GameControllerMappingForDeviceIndex(index).decode(),
        "rumbles": bool(sdl.SDL_GameControllerHasRumble(opened)),
    }
    sdl.SDL_GameControllerClose(opened)
    return found


def play(name: str, seen: Path, go: Path, effect: list[int]) -> None:
    begin()
    known = controllers()
    if name not in known:
        sys.exit(f"SDL has no {name}, but {known}")
    pad = sdl.SDL_GameControllerOpen(known[name])
    axes: dict[int, int] = {}  # SDL says where one rests when it moves for the first time
    with seen.open("w") as file:
        print("open", file=file, flush=True)
        for _ in until(f"{go} is there"):
            for event in events():
                if event.type == SDL_CONTROLLERAXISMOTION:
                    if axes.get(event.control, 0) == event.value:
                        continue
                    axes[event.control] = event.value
                if said := words(event):
                    print(said, file=file, flush=True)
            if go.exists():
                break
    if sdl.SDL_GameControllerRumble(pad, *effect):
        sys.exit(f"SDL: {sdl.SDL_GetError().decode()}")
    end = time.monotonic() + 2 * effect[2] / 1000
    while time.monotonic() < end:  # SDL ends it by itself, in the update after its time
        sdl.SDL_GameControllerUpdate()
        time.sleep(LOOK)
    feel(sdl.SDL_GameControllerGetJoystick(pad), effect)
    sdl.SDL_GameControllerClose(pad)


def feel(joystick: int, effect: list[int]) -> None:
    haptic = sdl.SDL_HapticOpenFromJoystick(joystick)
    low, high, milliseconds = effect
    # It doubles them: they end at 32767 here.
    said = bytes(LeftRight(SDL_HAPTIC_LEFTRIGHT, milliseconds, low // 2, high // 2)).ljust(UNION_SIZE, b"\0")
    number = sdl.SDL_HapticNewEffect(haptic, said) if haptic else -1
    if number < 0 or sdl.SDL_HapticRunEffect(haptic, number, 1):
        sys.exit(f"SDL: {sdl.SDL_GetError().decode()}")
    time.sleep(milliseconds / 1000)
    sdl.SDL_HapticClose(haptic)


def feel_sensors(names: list[str], seen: Path, go: Path) -> None:
    begin()
    known = controllers()
    index = next((known[name] for name in names if name in known), None)
    if index is None:
        sys.exit(f"SDL has none of {names}, but {known}")
    pad = sdl.SDL_GameControllerOpen(index)
    there = [sensor for sensor in SENSORS if sdl.SDL_GameControllerHasSensor(pad, sensor)]
    for sensor in there:
        sdl.SDL_GameControllerSetSensorEnabled(pad, sensor, 1)
    buffer = ctypes.create_string_buffer(UNION_SIZE)
    with seen.open("w") as file:
        print("open", *(SENSORS[sensor] for sensor in there), file=file, flush=True)
        for _ in until(f"{go} is there"):
            while sdl.SDL_PollEvent(buffer):
                event = SensorEvent.from_buffer_copy(buffer)
                if event.type == SDL_CONTROLLERSENSORUPDATE:
                    values = (f"{value:.2f}" for value in event.data)
                    print(SENSORS[event.sensor], *values, file=file, flush=True)
            if go.exists():
                break
    sdl.SDL_GameControllerClose(pad)


def words(event: ControllerEvent) -> str:
    """Nothing for what is of no controller."""
    if event.type == SDL_CONTROLLERAXISMOTION:
        return f"axis {sdl.SDL_GameControllerGetStringForAxis(event.control).decode()} {event.value}"
    if event.type in (SDL_CONTROLLERBUTTONDOWN, SDL_CONTROLLERBUTTONUP):
        return f"button {sdl.SDL_GameControllerGetStringForButton(event.control).decode()} {event.state}"
    return ""


if __name__ == "__main__":
    if sys.argv[1] == "names":
        names(json.loads(sys.argv[2]))
    elif sys.argv[1] == "feel":
        feel_sensors(json.loads(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        play(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), json.loads(sys.argv[5]))
    sdl.SDL_Quit()
