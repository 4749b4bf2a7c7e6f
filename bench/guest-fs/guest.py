"""One booted guest with two shares plugged: ours and virtiofsd's, each on a folder of its own."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers import PROJECT, BenchError
from subos_devices.config import resolve
from subos_devices.launcher import devices, hotplug
from subos_devices.launcher.control import GuestControl, agent_command
from subos_devices.launcher.guest_run import Mode
from subos_devices.launcher.qemu import VhostUserDevice
from subos_devices.launcher.settings import SETTINGS
from subos_devices.launcher.vm import RunningVm, VmPlan, start
from subos_devices.supervisor.holder import Holder
from subos_devices.vhost_user.device import Option
from subos_protocol.fuse_opcodes import FuseOpcode

OURS, PEER = "subos", "virtiofsd"
WORK = Path(__file__).with_name("work.py")
TIMEOUT = 600  # seconds for one row's work under emulation


@dataclass(frozen=True)
class Side:
    """One of the two: its share's folder on the host, and the process that serves it (ours may be respawned)."""

    name: str
    folder: Path
    vm: RunningVm
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self.process is not None:
            return self.process.pid
        pid = self.vm.supervisor.devices[self.name].pid
        if not pid:
            raise BenchError("our share has no worker")
        return pid

    def cpu(self) -> float:
        """Seconds of processor time that all threads of the back end have had."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Guest:
    """Where the work is done."""

    def __init__(self, control: GuestControl, sides: dict[str, Side]) -> None:
        self._control = control
        self.sides = sides

    async def work(self, row: str, side: Side, fixtures: Path, count: bool) -> dict[str, Any]:
        """Runs work.py in the guest; what it answered, with "requests" if they are counted. Raises BenchError."""
        words = (row, side.name, f"/mnt/{side.name}", str(fixtures), "count" if count else "")
        answer = json.loads(await self._run(sys.executable, str(WORK), *words))
        hits = {opcode_name(int(opcode)): number for opcode, number in answer.get("requests", {}).items()}
        return {**answer, "requests": hits}

    async def _run(self, *argv: str) -> str:
        done = await self._control.run(argv, timeout=TIMEOUT)
        if done.status:
            raise BenchError(f"in the guest, status {done.status}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode()


def opcode_name(number: int) -> str:
    """The kernel's name without its prefix."""
    try:
        return FuseOpcode(number).name.removeprefix("FUSE_")
    except ValueError:
        return str(number)


@asynccontextmanager
async def booted(
    holder: Holder,
    store: Path,
    peer: Sequence[str],
    ours: dict[str, str],
    properties: dict[str, str],
    followed: bool,
) -> AsyncIterator[Guest]:
    """The default guest, with shares on new folders in `store`.

    `peer` is virtiofsd's command without socket and folder, `ours` are our device's options, `properties` QEMU's for
    both devices. `followed`: the guest's agent is told what the host changes in our share.
    """
    os.chdir(PROJECT)  # which the guest then sees even under /tmp
    plan = VmPlan.from_settings(resolve(argparse.Namespace(mouse=False, keyboard=False, rng=False), SETTINGS, None))
    agent, variables = agent_command()
    with tempfile.TemporaryDirectory(prefix="subos-bench-", dir=store) as folder:
        shares = {name: Path(folder, name) for name in (OURS, PEER)}
        for share in shares.values():
            share.mkdir()
        async with start(plan, holder, command=agent, mode=Mode.CONTROL, environment=variables) as vm:
            control = GuestControl(vm.machine)
            await control.wait_booted()
            socket = vm.folder / "peer.sock"
            with peer_running(
                [*peer, "--socket-path", str(socket), "--shared-dir", str(shares[PEER])], socket
            ) as process:
                common = {"queue-size": devices.FS_QUEUE_SIZE, **properties}
                options: dict[str, Option] = {"shared_dir": str(shares[OURS]), **ours}
                channel = devices.FILE_EVENTS if followed else ""
                planned = devices.PlannedDevice(OURS, "fs", options, {"tag": OURS, **common}, channel=channel)
                if followed:
                    await vm.agent.agent()
                await devices.serve(vm.supervisor, vm.folder, [planned], vm.channels)
                pair = [
                    devices.vhost_user_device(vm.folder, planned),
                    VhostUserDevice("bench-peer", "vhost-user-fs-pci", socket, {"tag": PEER, **common}),
                ]
                await hotplug.plug(await vm.machine.qmp(), pair)
                sides = {OURS: Side(OURS, shares[OURS], vm), PEER: Side(PEER, shares[PEER], vm, process)}
                yield Guest(control, sides)
                await control.close()


@contextmanager
def peer_running(command: Sequence[str], socket: Path) -> Iterator[subprocess.Popen[bytes]]:
    """virtiofsd, listening; it is ended at the end. Raises BenchError with its words where it does not listen."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 20
            while not socket.is_socket():
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise BenchError(f"virtiofsd does not listen: {log.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.02)
            yield process
        finally:
            process.terminate()
            process.wait()
