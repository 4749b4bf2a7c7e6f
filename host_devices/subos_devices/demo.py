"""The demo: boots the default guest, drives each device from the host, and looks from inside the guest.

A row is ok only if the guest itself saw the device work; `CHECKS` is the list of rows.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import SubosError
from .input import script
from .launcher import devices
from .launcher.control import Completed, GuestControl, agent_command
from .launcher.vm import RunningVm
from .text import printable

MIB = 1 << 20
WATCH = "/run/subos-demo"  # in the guest: what its event devices report, a file each


class CheckFailed(SubosError):
    """The guest did not see what the host did."""


@dataclass(frozen=True)
class Row:
    """One device, what was tried, and whether the guest saw it; `ms` is the time that it took."""

    device: str
    check: str
    ok: bool
    ms: int
    detail: str = ""


@dataclass(frozen=True)
class Scene:
    """What the checks work with: a booted VM, the way to run commands in it, and a folder both sides see."""

    vm: RunningVm
    guest: GuestControl
    folder: Path


Check = tuple[str, str, Callable[[Scene], Awaitable[str]]]
"""Device, what is tried, and how; it returns what was seen, or raises."""


async def run_check(scene: Scene, check: Check) -> Row:
    """Runs one check. Whatever goes wrong is the row's detail."""
    device, text, function = check
    began = time.monotonic()
    try:
        detail, ok = await function(scene), True
    except (SubosError, OSError, ValueError, TimeoutError) as error:
        detail, ok = str(error) or type(error).__name__, False
    return Row(device, text, ok, round((time.monotonic() - began) * 1000), printable(detail))


# --- fs


async def _root(scene: Scene) -> str:
    """The guest's userland is this machine's own."""
    program = os.path.realpath("/bin/sh")
    seen = (await _in_guest(scene, "sha256sum", program)).split()[0]
    _same(seen, hashlib.sha256(Path(program).read_bytes()).hexdigest(), f"the hash of {program}")
    return f"Linux {(await _in_guest(scene, 'uname', '-r')).strip()} on this machine's files"


async def _host_writes(scene: Scene) -> str:
    data = secrets.token_bytes(MIB)
    (scene.folder / "from-host").write_bytes(data)
    seen = (await _in_guest(scene, "sha256sum", str(scene.folder / "from-host"))).split()[0]
    _same(seen, hashlib.sha256(data).hexdigest(), "the hash in the guest")
    return "1 MiB, hashes equal"


async def _guest_writes(scene: Scene) -> str:
    path = scene.folder / "from-guest"
    shell = 'head -c 1048576 /dev/urandom >"$1" && sha256sum "$1"'
    seen = (await _in_guest(scene, "sh", "-c", shell, "sh", str(path))).split()[0]
    data = path.read_bytes()
    _same(len(data), MIB, "the size on the host")
    _same(hashlib.sha256(data).hexdigest(), seen, "the hash on the host")
    return "1 MiB, hashes equal"


# --- mouse


async def _mouse_moves(scene: Scene) -> str:
    x, y = 1 + secrets.randbelow(32766), 1 + secrets.randbelow(32766)
    await _play(scene, [script.move(x, y)])
    await _until_seen(scene, ["EV_ABS", "ABS_X", x], ["EV_ABS", "ABS_Y", y])
    return f"at {x}, {y}"


async def _mouse_clicks(scene: Scene) -> str:
    await _play(scene, script.parse(["click left, scroll -2"]))
    left, wheel = ["EV_KEY", "BTN_LEFT"], ["EV_REL", "REL_WHEEL", -2]
    await _until_seen(scene, [*left, 1], [*left, 0], wheel)
    return "pressed, released, two detents down"


async def _mouse_recovers(scene: Scene) -> str:
    """The worker is killed; QEMU and the guest go on."""
    server = scene.vm.supervisor.devices["mouse"]
    worker, restarts = server.worker, server.restarts
    if worker is None:
        raise CheckFailed("the mouse has no worker")
    worker.kill()
    await _play(scene, script.parse(["click right"]))
    await _until_seen(scene, ["EV_KEY", "BTN_RIGHT", 1], ["EV_KEY", "BTN_RIGHT", 0])
    _same(server.restarts, restarts + 1, "restarts of the worker")
    return f"process {worker.pid} killed, a new one clicked"


# --- keyboard


async def _keyboard_types(scene: Scene) -> str:
    await _play(scene, script.type_text("Hi!"), "keyboard")
    keys = ("LEFTSHIFT", "H", "I", "1")
    down: list[list[object]] = [["EV_KEY", f"KEY_{key}", 1] for key in keys]
    up: list[list[object]] = [["EV_KEY", f"KEY_{key}", 0] for key in keys]
    shift_h = [down[0], down[1], up[1], up[0]]
    await _until_seen(scene, *shift_h, down[2], up[2], down[0], down[3], up[3], up[0], device="keyboard")
    return "Hi! as Shift+h, i, Shift+1"


# --- what the guest's event devices report


async def _play(scene: Scene, actions: list[script.Action], device: str = "mouse") -> None:
    """Plays once the guest watches the device. A worker that has just been killed may refuse at first."""
    argv, variables = agent_command()
    reader = [*argv[:-2], "subos_agent.evdev", "read", f"SubOS {device.title()}"]
    watch = f"{WATCH}-{device}"
    shell = (
        f'[ -s {watch} ] || "$@" >{watch} 2>&1 </dev/null & '
        f"until [ -s {watch} ]; do sleep 0.05; done; head -n 1 {watch}"
    )
    await _in_guest(scene, "env", *(f"{k}={v}" for k, v in variables.items()), "sh", "-c", shell, "sh", *reader)
    path = devices.driver_path(scene.vm.folder, device)
    for attempt in range(20):
        try:
            return await asyncio.to_thread(script.play, path, actions)
        except SubosError:
            if attempt == 19:
                raise
            await asyncio.sleep(0.05)


async def _until_seen(scene: Scene, *events: list[object], device: str = "mouse") -> None:
    """Waits until the guest's event device has reported `events`, in this order."""
    deadline = time.monotonic() + 10
    reported: list[object] = []
    while time.monotonic() < deadline:
        lines = (await _in_guest(scene, "tail", "-n", "+2", f"{WATCH}-{device}")).splitlines()
        reported = [json.loads(line) for line in lines]
        rest = iter(reported)
        if all(event in rest for event in events):
            return
        await asyncio.sleep(0.05)
    raise CheckFailed(f"the guest saw {reported}, not {list(events)}")


# --- rng


async def _rng(scene: Scene) -> str:
    name = (await _in_guest(scene, "cat", "/sys/class/misc/hw_random/rng_current")).strip()
    if not name.startswith("virtio_rng"):
        raise CheckFailed(f"the guest's generator is {name}")
    before = scene.vm.supervisor.devices["rng"].counters.requests
    blocks = {(await _in_guest(scene, "sh", "-c", "head -c 64 /dev/hwrng | od -An -tx1")) for _ in range(2)}
    _same(len(blocks), 2, "different blocks")
    served = scene.vm.supervisor.devices["rng"].counters.requests - before
    if served < 1:
        raise CheckFailed("our device was not asked")
    return f"two blocks of 64 bytes, {served} requests"


CHECKS: tuple[Check, ...] = (
    ("fs", "this machine's root, read by the guest", _root),
    ("fs", "the host writes, the guest reads", _host_writes),
    ("fs", "the guest writes, the host reads", _guest_writes),
    ("mouse", "moves to a position", _mouse_moves),
    ("mouse", "clicks and scrolls", _mouse_clicks),
    ("mouse", "its process is killed, and it clicks on", _mouse_recovers),
    ("keyboard", "types a word", _keyboard_types),
    ("rng", "the guest draws random bytes", _rng),
)


async def _in_guest(scene: Scene, *argv: str) -> str:
    """What a command in the guest prints. Raises CheckFailed for a status other than 0."""
    done: Completed = await scene.guest.run(argv, timeout=30)
    if done.status:
        said = done.stderr.decode(errors="replace").strip() or f"exit status {done.status}"
        raise CheckFailed(f"{argv[0]} in the guest: {said}")
    return done.stdout.decode()


def _same(seen: object, wanted: object, what: str) -> None:
    if seen != wanted:
        raise CheckFailed(f"{what} is {seen}, not {wanted}")
