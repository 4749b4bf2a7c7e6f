"""The devices of a QEMU that somebody else started: a supervisor in the background, and hot-plug over QMP.

QEMU's monitor takes one client at a time and belongs to whoever started the VM, so it is held only
while devices are plugged or unplugged.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import runtime
from ..errors import UserError
from ..supervisor import control
from ..supervisor.supervisor import Supervisor
from ..supervisor.zygote import Zygote
from . import devices as device_plan
from . import hotplug, qmp
from .devices import PlannedDevice


@dataclass
class Attachment:
    """What is to be plugged where. `name` may be empty: the VM's own name is taken then."""

    qmp: Path
    name: str
    devices: list[PlannedDevice]

    async def run(self, zygote: Zygote, ready: Callable[[str], None]) -> None:
        """Plugs the devices, calls `ready` with the VM's name, and serves until QEMU ends or they are detached.

        Raises UserError; nothing is left plugged, running or on disk then.
        """
        self._end = asyncio.Event()
        self._detaching = asyncio.Lock()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._end.set)
        async with qmp.connected(self.qmp) as monitor:
            await hotplug.check_shared_memory(monitor)
            name = self.name or (await monitor.execute("query-name")).get("name") or "attached"
        with runtime.claim(name) as folder:
            async with Supervisor(zygote) as self._supervisor:
                self._supervisor.on_disconnect = self._disconnected
                await device_plan.serve(self._supervisor, folder, self.devices)
                self._plugs = {device.name: device_plan.vhost_user_device(folder, device) for device in self.devices}
                async with qmp.connected(self.qmp) as monitor:
                    await hotplug.plug(monitor, list(self._plugs.values()))
                try:
                    handlers = {"status": self._status, "detach": self._detach}
                    self._name = name
                    async with control.serve(folder, handlers):
                        ready(name)
                        await self._end.wait()
                        async with self._detaching:
                            pass  # one that is under way is not cut off
                finally:
                    await self._take_back()

    async def _take_back(self) -> None:
        """Leaves the VM as it was: QEMU may abort where a connection closes before its device is out."""
        if self._plugs:
            try:
                async with qmp.connected(self.qmp) as monitor:
                    await hotplug.unplug_all(monitor, self._plugs.values())
            except UserError:
                if self._connected():  # otherwise QEMU has ended
                    raise

    def _connected(self) -> bool:
        return any(server.connected for server in self._supervisor.devices.values())

    def _disconnected(self) -> None:
        """QEMU has ended, unless we are unplugging ourselves."""
        if not self._detaching.locked() and not self._connected():
            self._end.set()

    async def _status(self, _request: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": self._name,
            "pid": os.getpid(),
            "how": f"attached to {self.qmp}",
            "devices": self._supervisor.status(),
        }

    async def _detach(self, request: dict[str, Any]) -> list[str]:
        async with self._detaching:
            names = list(dict.fromkeys(request.get("devices") or self._plugs))
            for name in names:
                if name not in self._plugs:
                    raise UserError(f"no device called {name!r} is attached", f"there are {', '.join(self._plugs)}")
            try:
                async with qmp.connected(self.qmp) as monitor:
                    for name in names:
                        await hotplug.unplug(monitor, self._plugs[name])
                        del self._plugs[name]
                        await self._supervisor.remove(name)
            finally:
                if not self._connected():  # all are out, or QEMU ended meanwhile
                    self._end.set()
        return names
