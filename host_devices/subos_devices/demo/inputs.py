"""The demo's checks of input devices: the host plays, and the guest's event devices report."""

from __future__ import annotations

import asyncio
import json
import secrets
import time

from ..errors import SubosError
from ..input import actions, script
from ..launcher import devices
from ..launcher.control import agent_command
from .scene import CheckFailed, Scene, in_guest, same

WATCH = "/run/subos-demo"  # in the guest: what its event devices report, a file each


async def mouse_moves(scene: Scene) -> str:
    x, y = 1 + secrets.randbelow(32766), 1 + secrets.randbelow(32766)
    await _play(scene, [actions.move(x, y)])
    await _until_seen(scene, ["EV_ABS", "ABS_X", x], ["EV_ABS", "ABS_Y", y])
    return f"at {x}, {y}"


async def mouse_clicks(scene: Scene) -> str:
    await _play(scene, script.parse(["click left, scroll -2"]))
    left, wheel = ["EV_KEY", "BTN_LEFT"], ["EV_REL", "REL_WHEEL", -2]
    await _until_seen(scene, [*left, 1], [*left, 0], wheel)
    return "pressed, released, two detents down"


async def mouse_recovers(scene: Scene) -> str:
    """The worker is killed; QEMU and the guest go on."""
    server = scene.vm.supervisor.devices["mouse"]
    worker, restarts = server.worker, server.restarts
    if worker is None:
        raise CheckFailed("the mouse has no worker")
    worker.kill()
    await _play(scene, script.parse(["click right"]))
    await _until_seen(scene, ["EV_KEY", "BTN_RIGHT", 1], ["EV_KEY", "BTN_RIGHT", 0])
    same(server.restarts, restarts + 1, "restarts of the worker")
    return f"process {worker.pid} killed, a new one clicked"


async def keyboard_types(scene: Scene) -> str:
    await _play(scene, actions.type_text("Hi!"), "keyboard")
    keys = ("LEFTSHIFT", "H", "I", "1")
    down: list[list[object]] = [["EV_KEY", f"KEY_{key}", 1] for key in keys]
    up: list[list[object]] = [["EV_KEY", f"KEY_{key}", 0] for key in keys]
    shift_h = [down[0], down[1], up[1], up[0]]
    await _until_seen(scene, *shift_h, down[2], up[2], down[0], down[3], up[3], up[0], device="keyboard")
    return "Hi! as Shift+h, i, Shift+1"


async def _play(scene: Scene, steps: list[actions.Action], device: str = "mouse") -> None:
    """Plays once the guest watches the device. A worker that has just been killed may refuse at first."""
    argv, variables = agent_command()
    reader = [*argv[:-2], "subos_agent.evdev", "read", f"SubOS {device.title()}"]
    watch = f"{WATCH}-{device}"
    shell = (
        f'[ -s {watch} ] || "$@" >{watch} 2>&1 </dev/null & '
        f"until [ -s {watch} ]; do sleep 0.05; done; head -n 1 {watch}"
    )
    await in_guest(scene, "env", *(f"{k}={v}" for k, v in variables.items()), "sh", "-c", shell, "sh", *reader)
    path = devices.driver_path(scene.vm.folder, device)
    for attempt in range(20):
        try:
            return await asyncio.to_thread(script.play, path, steps)
        except SubosError:
            if attempt == 19:
                raise
            await asyncio.sleep(0.05)


async def _until_seen(scene: Scene, *events: list[object], device: str = "mouse") -> None:
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
