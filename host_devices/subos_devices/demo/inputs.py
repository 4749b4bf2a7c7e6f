"""The demo's checks of input devices: the host plays, and the guest's event devices report."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from subos_protocol.input_codes import Ev, Key, code_name

from ..errors import SubosError
from ..input import actions, script
from ..input.client import DriverConnection
from ..input.gamepad import profiles
from ..launcher import devices
from ..launcher.control import agent_command
from .scene import CheckFailed, Scene, eventually, in_guest, same

NAMES = {
    "mouse": "SubOS Mouse",
    "pointer": "SubOS Pointer",
    "keyboard": "SubOS Keyboard",
    "touch": "SubOS Touchscreen",
    "gamepad1": "Microsoft X-Box 360 pad",
}
"""What the guest calls its devices."""

WATCH = "/run/subos-demo"  # in the guest: what its event devices report, a file each
TYPED = "/run/subos-demo-typed"  # in the guest: what the program at its console prints


async def mouse_moves(scene: Scene) -> str:
    x, y = 1 + secrets.randbelow(32766), 1 + secrets.randbelow(32766)
    await play(scene, [actions.move(x, y)])
    await until_seen(scene, ["EV_ABS", "ABS_X", x], ["EV_ABS", "ABS_Y", y])
    return f"at {x}, {y}"


async def mouse_clicks(scene: Scene) -> str:
    await play(scene, script.parse(["click left, scroll -2"]))
    left, wheel = ["EV_KEY", "BTN_LEFT"], ["EV_REL", "REL_WHEEL", -2]
    await until_seen(scene, [*left, 1], [*left, 0], wheel)
    return "pressed, released, two detents down"


async def keyboard_types(scene: Scene) -> str:
    """A program at the guest's first virtual console reads it: the kernel's own keyboard handler is between."""
    text = f"Hello, SubOS! {secrets.token_hex(2)} (100% <typed>)"
    program = 'exec </dev/tty1 && echo "reads $(tty)" && IFS= read -r line && printf "%s\\n" "$line"'
    start = f'setsid sh -c "$1" >{TYPED} 2>&1 </dev/null & until [ -s {TYPED} ]; do sleep 0.05; done'
    await in_guest(scene, "sh", "-c", start, "sh", program)
    path = devices.driver_path(scene.vm.folder, "keyboard")
    await asyncio.to_thread(script.play, path, actions.type_text(f"{text}\n"))
    printed: list[str] = []

    async def ended() -> bool:
        nonlocal printed
        printed = (await in_guest(scene, "cat", TYPED)).splitlines()
        return len(printed) > 1

    with contextlib.suppress(CheckFailed):
        await eventually(ended, "the line")
    same(printed, ["reads /dev/tty1", text], "what the program printed")
    return f"a program on tty1 read: {text}"


async def keyboard_lights(scene: Scene) -> str:
    path = devices.driver_path(scene.vm.folder, "keyboard")
    with DriverConnection(path) as driver:
        await in_guest(scene, *_evdev("light", NAMES["keyboard"], "LED_CAPSL", "on"))
        said: dict[str, Any] = {}
        while said.get("leds", {}).get("LED_CAPSL") != 1:  # what was lit before is told first
            said = await asyncio.to_thread(driver.hear)
    return "lit"


async def pointer_moves(scene: Scene) -> str:
    dx, dy = 1 + secrets.randbelow(500), -1 - secrets.randbelow(500)
    task: list[actions.Action] = [actions.button(Key.BTN_TASK, value) for value in (1, 0)]
    await play(scene, [actions.nudge(dx, dy), *task], "pointer")
    pressed, released = ["EV_KEY", "BTN_TASK", 1], ["EV_KEY", "BTN_TASK", 0]
    moved: list[list[object]] = [["EV_REL", "REL_X", dx], ["EV_REL", "REL_Y", dy]]
    await until_seen(scene, *moved, pressed, released, device="pointer")
    return f"by {dx}, {dy}"


async def touch(scene: Scene) -> str:
    words = "touch 40% 50%, touch 60% 50% --finger 2, touch 30% 50%, touch 70% 50% --finger 2, lift, lift --finger 2"
    await play(scene, script.parse([words]), "touch")

    def finger(slot: int, *places: int) -> list[list[object]]:
        return [["EV_ABS", "ABS_MT_SLOT", slot], *(["EV_ABS", "ABS_MT_POSITION_X", place] for place in places)]

    apart = [*finger(0, 9830), *finger(1, 22937)]
    gone: list[list[object]] = [["EV_ABS", "ABS_MT_TRACKING_ID", -1]] * 2
    await until_seen(scene, ["EV_KEY", "BTN_TOUCH", 1], *apart, *gone, ["EV_KEY", "BTN_TOUCH", 0], device="touch")
    return "from 40% and 60% to 30% and 70%"


async def gamepad(scene: Scene) -> str:
    """Axes wait to be seen: a position that another one follows at once may be skipped."""
    profile = profiles.load("xbox360")
    pad, rest = profile.capabilities, profile.rest
    keys = sorted(pad.of(Ev.EV_KEY))
    await until_agent_has(scene, "gamepad1")
    await play(scene, [actions.button(code, value) for code in keys for value in (1, 0)], "gamepad1")
    pressed: list[list[object]] = [["EV_KEY", code_name(Ev.EV_KEY, code), value] for code in keys for value in (1, 0)]
    await until_seen(scene, *pressed, device="gamepad1")
    with DriverConnection(devices.driver_path(scene.vm.folder, "gamepad1")) as driver:
        for end in ("max", "min"):
            places = {code: getattr(axis, end) for code, axis in pad.axes.items() if getattr(axis, end) != rest[code]}
            driver.send(actions.frame(*((Ev.EV_ABS, code, place) for code, place in places.items())))
            await until_seen(scene, *axes(places), device="gamepad1")
    await until_seen(scene, *axes(rest), device="gamepad1")  # nobody touches it any more
    return f"{pad.name}: {len(keys)} buttons, {len(pad.axes)} axes"


async def rumble(scene: Scene) -> str:
    """As a game has it by the kernel's interface for force feedback."""
    await until_agent_has(scene, "gamepad1")
    strong, weak, length = 1 + secrets.randbelow(65535), 1 + secrets.randbelow(65535), 100 + secrets.randbelow(200)
    with DriverConnection(devices.driver_path(scene.vm.folder, "gamepad1")) as driver:
        words = _evdev("rumble", NAMES["gamepad1"], *map(str, (strong, weak, length)))
        await in_guest(scene, *words)
        uploaded = (await asyncio.to_thread(driver.hear)).get("ff", {}).get("upload", {})
        same(tuple(uploaded.get(name) for name in ("strong", "weak", "length")), (strong, weak, length), "the effect")
        played = (await asyncio.to_thread(driver.hear)).get("ff")
        same(played, {"play": {"id": uploaded["id"], "times": 1}}, "what is done with it")
    return f"magnitudes {strong} and {weak}, for {length} ms"


async def until_agent_has(scene: Scene, device: str) -> None:
    """The agent comes a little later than the guest; until then the pad is one that cannot rumble."""
    server = scene.vm.supervisor.devices[device]

    async def has() -> bool:
        return bool(server.describe()["gamepad"]["agent"])

    await eventually(has, "the agent's gamepad", 60)


def axes(places: Mapping[int, int]) -> list[list[object]]:
    return [["EV_ABS", code_name(Ev.EV_ABS, code), place] for code, place in places.items()]


def _evdev(*words: str) -> list[str]:
    """The guest's command that reads and writes its event devices."""
    argv, variables = agent_command()
    return ["env", *(f"{name}={value}" for name, value in variables.items()), *argv[:-2], "subos_agent.evdev", *words]


async def play(scene: Scene, steps: list[actions.Action], device: str = "mouse") -> None:
    """Plays once the guest watches the device. A worker that has just been killed may refuse at first."""
    watch = f"{WATCH}-{device}"
    shell = (
        f'[ -s {watch} ] || "$@" >{watch} 2>&1 </dev/null & '
        f"until [ -s {watch} ]; do sleep 0.05; done; head -n 1 {watch}"
    )
    await in_guest(scene, "sh", "-c", shell, "sh", *_evdev("read", NAMES[device]))
    path = devices.driver_path(scene.vm.folder, device)
    for attempt in range(20):
        try:
            return await asyncio.to_thread(script.play, path, steps)
        except SubosError:
            if attempt == 19:
                raise
            await asyncio.sleep(0.05)


async def until_seen(scene: Scene, *events: list[object], device: str = "mouse") -> None:
    """Waits until the guest's event device has reported `events`, in this order."""
    deadline = time.monotonic() + 10
    reported: list[object] = []
    while time.monotonic() < deadline:
        lines = (await in_guest(scene, "tail", "-n", "+2", f"{WATCH}-{device}")).splitlines()
        reported = [json.loads(line) for line in lines]
        rest = iter(reported)
        if all(event in rest for event in events):
            return
        await asyncio.sleep(0.05)
    raise CheckFailed(f"the guest saw {reported}, not {list(events)}")
