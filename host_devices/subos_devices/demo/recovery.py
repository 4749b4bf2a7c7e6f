"""The demo's checks of what a device is after its process was killed: QEMU and the guest go on.

The milliseconds are the host's: from the kill to the first request that the next process has answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator

from subos_protocol.input_codes import Abs, Ev, Key

from ..input import actions, script
from ..input.client import DriverConnection
from ..launcher.devices import driver_path
from . import echo, inputs
from .scene import CheckFailed, Scene, begin, eventually, in_guest, same

PORT, ANOTHER_PORT = 5001, 5002


class Killed:
    """A device's process, killed when this is made, and the one that comes after it."""

    def __init__(self, scene: Scene, name: str) -> None:
        self._device = scene.vm.supervisor.devices[name]
        self._restarts = self._device.restarts
        self._pid = self._device.pid
        if not self._pid:
            raise CheckFailed(f"{name} has no process")
        self._began = time.monotonic()
        os.kill(self._pid, signal.SIGKILL)

    async def gone(self) -> None:
        """Until it is known that the process is dead."""
        while self._device.restarts == self._restarts:
            await self._wait()

    async def answered(self) -> float:
        """Milliseconds until the next process has answered something."""
        await self.gone()
        requests = self._device.counters.requests
        while self._device.counters.requests == requests:
            await self._wait()
        return self.elapsed()

    async def _wait(self) -> None:
        if self.elapsed() > 20_000:
            raise CheckFailed("no process took its place within 20 s")
        await asyncio.sleep(0.0005)

    def elapsed(self) -> float:
        return (time.monotonic() - self._began) * 1000

    def came_back(self, after: float) -> str:
        """What the row says."""
        same(self._device.restarts, self._restarts + 1, "the number of restarts")
        return f"process {self._pid} killed, back after {after:.0f} ms"


OPEN = """
import hashlib, os, sys, time
file = open(sys.argv[1], "r+b", buffering=0)
os.unlink(sys.argv[1])
print("open", flush=True)
number = 0
while not os.path.exists(sys.argv[2]):
    number += 1
    os.path.lexists(os.path.join(os.path.dirname(sys.argv[1]), f"no {number}"))
data = b""
while part := file.read(1 << 16):
    data += part
file.write(b"written by the guest")
file.flush()
print(hashlib.sha256(data).hexdigest(), os.fstat(file.fileno()).st_size, flush=True)
"""


async def share(scene: Scene) -> str:
    """The guest has a file open that has no name any more, and looks for others all the while."""
    path, seen, enough = scene.folder / "held", "/run/subos-demo-open", "/run/subos-demo-enough"
    data = secrets.token_bytes(1 << 20)
    path.write_bytes(data)
    name = next(
        device.name for device in scene.vm.plan.devices if device.options.get("shared_dir") == str(scene.folder)
    )
    await begin(scene, seen, OPEN, str(path), enough)
    killed = Killed(scene, name)
    back = killed.came_back(await killed.answered())
    until = f"touch {enough}; until [ $(wc -l <{seen}) -gt 1 ]; do sleep 0.05; done; tail -n 1 {seen}"
    digest, size = (await in_guest(scene, "sh", "-c", until)).split()
    same(digest, hashlib.sha256(data).hexdigest(), "the hash of the open file")
    same(int(size), len(data) + len(b"written by the guest"), "its size")
    return f"{back}; a file that was open and removed is read and written on"


async def mouse(scene: Scene) -> str:
    return await _input(
        scene, "mouse", script.parse(["click right"]), ["EV_KEY", "BTN_RIGHT", 1], ["EV_KEY", "BTN_RIGHT", 0]
    )


async def pointer(scene: Scene) -> str:
    step = 1 + secrets.randbelow(500)
    return await _input(scene, "pointer", [actions.nudge(step, 0)], ["EV_REL", "REL_X", step])


async def keyboard(scene: Scene) -> str:
    """A driver of the host holds a key at the time: it comes up, and can be pressed again."""
    down: list[object] = ["EV_KEY", "KEY_K", 1]
    up: list[object] = ["EV_KEY", "KEY_K", 0]
    await inputs.play(scene, [], "keyboard")  # the guest watches from here on
    with DriverConnection(driver_path(scene.vm.folder, "keyboard")) as driver:
        driver.send(actions.button(Key.KEY_K, 1))
        await inputs.until_seen(scene, down, device="keyboard")
        return await _input(scene, "keyboard", actions.type_text("k"), down, up, down, up)


async def touch(scene: Scene) -> str:
    x = 1 + secrets.randbelow(32766)
    steps: list[actions.Action] = [actions.touch(0, x, x), actions.lift(0)]
    return await _input(scene, "touch", steps, ["EV_ABS", "ABS_MT_POSITION_X", x], ["EV_ABS", "ABS_MT_TRACKING_ID", -1])


async def gamepad(scene: Scene) -> str:
    """The guest's agent has the pad, past our rings, so the time is until a game sees its stick move."""
    place = 1 + secrets.randbelow(32766)
    await inputs.until_agent_has(scene, "gamepad1")
    killed = Killed(scene, "gamepad1")
    await killed.gone()
    with DriverConnection(driver_path(scene.vm.folder, "gamepad1")) as driver:
        driver.send(actions.frame((Ev.EV_ABS, Abs.ABS_X, place)))
        await inputs.until_seen(scene, *inputs.axes({Abs.ABS_X: place}), device="gamepad1")
        return killed.came_back(killed.elapsed())


async def generator(scene: Scene) -> str:
    """The guest draws all the while."""
    async with _meanwhile(scene, "head -c 64 /dev/hwrng >/dev/null"):
        killed = Killed(scene, "rng")
        return killed.came_back(await killed.answered())


async def streams(scene: Scene) -> str:
    """A stream that was open ends at once, and the next one can be opened."""
    await echo.listen(scene, PORT)
    async with _echoing(scene, PORT) as before:
        killed = Killed(scene, "vsock")
        with contextlib.suppress(ConnectionError):
            same(await before.rest(), b"", "what came at the end")
        ended = killed.elapsed()
        async with _echoing(scene, PORT):
            back = killed.came_back(killed.elapsed())
    return f"{back}; the stream of before ended after {ended:.0f} ms"


async def supervisor(scene: Scene) -> str:
    """The process that speaks with QEMU. No worker dies of it, and a stream that is open stays so."""
    holder = scene.vm.supervisor
    await echo.listen(scene, ANOTHER_PORT)
    async with _echoing(scene, ANOTHER_PORT) as stream:
        workers = {name: (device.pid, device.restarts) for name, device in holder.devices.items()}
        old, began = holder.status()["pid"], time.monotonic()
        if not old:
            raise CheckFailed("there is none")
        os.kill(old, signal.SIGKILL)

        async def is_back() -> bool:
            return holder.status()["pid"] not in (None, old)

        await _echoes(stream)
        await eventually(is_back, "the next one", step=0.001)
        back = (time.monotonic() - began) * 1000
        await _echoes(stream)
        same({name: (device.pid, device.restarts) for name, device in holder.devices.items()}, workers, "who serves")
    await _input_goes_on(scene)
    return f"process {old} killed, the next one serves after {back:.0f} ms; {len(workers)} workers and a stream went on"


async def _input_goes_on(scene: Scene) -> None:
    step = 1 + secrets.randbelow(500)
    await inputs.play(scene, [actions.nudge(0, step)], "pointer")
    await inputs.until_seen(scene, ["EV_REL", "REL_Y", step], device="pointer")


async def _input(scene: Scene, name: str, steps: list[actions.Action], *seen: list[object]) -> str:
    """The device's process is killed, `steps` are played on it, and the guest has seen `seen`."""
    killed = Killed(scene, name)
    answered = asyncio.ensure_future(killed.answered())
    try:
        await inputs.play(scene, steps, name)
        await inputs.until_seen(scene, *seen, device=name)
        return killed.came_back(await answered)
    finally:
        answered.cancel()


@contextlib.asynccontextmanager
async def _meanwhile(scene: Scene, command: str) -> AsyncIterator[None]:
    """The guest does `command` again and again while the block runs."""
    shell = f"while :; do {command}; done >/dev/null 2>&1 </dev/null & echo $!"
    pid = (await in_guest(scene, "sh", "-c", shell)).strip()
    try:
        yield
    finally:
        await in_guest(scene, "kill", pid)


@contextlib.asynccontextmanager
async def _echoing(scene: Scene, port: int) -> AsyncIterator[echo.Stream]:
    """A stream to the guest's program, which has sent back what it got."""
    async with echo.stream(scene, port) as stream:
        await _echoes(stream)
        yield stream


async def _echoes(stream: echo.Stream) -> None:
    word = secrets.token_bytes(16)
    same(await stream.echoed(word), word, "what came back")
