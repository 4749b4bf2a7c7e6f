"""The process that `measure.py` kills workers of: a supervisor with one device of each kind, and no QEMU.

    supervisor.py FOLDER    prints "ready"; then each line is a device's name, answered by its worker's pid

Every death counts as the first for a long time, so that none is followed by a pause.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import stages

from subos_devices.launcher import devices
from subos_devices.registry import KINDS
from subos_devices.supervisor import restarts, zygote
from subos_devices.supervisor.supervisor import Supervisor


def planned(folder: Path) -> list[devices.PlannedDevice]:
    share = devices.PlannedDevice("fs", "fs", {"shared_dir": str(folder / "share"), "readonly": False})
    inputs = [devices.input_device(kind) for kind in ("mouse", "keyboard")]
    return [*inputs, *devices.gamepads(["xbox360"]), *devices.plan([], rng=True, vsock=True), share]


async def live(folder: Path) -> None:
    async with Supervisor(zygote.Zygote.start(*KINDS)) as supervisor:
        await devices.serve(supervisor, folder, planned(folder))
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def answer() -> None:
            name = sys.stdin.readline().strip()
            if not name:
                ended.set()
                return
            worker = supervisor.devices[name].worker
            print(worker.pid if worker else 0, flush=True)

        loop.add_reader(sys.stdin, answer)
        print("ready", flush=True)
        await ended.wait()
        loop.remove_reader(sys.stdin)


restarts.BACKOFF = (0.0,) * 1_000_000
if stages.STAGES in os.environ:
    stages.watch_supervisor()
    zygote.PROGRAM = f"import stages; stages.watch_zygote(); {zygote.PROGRAM}"
asyncio.run(live(Path(sys.argv[1])))
