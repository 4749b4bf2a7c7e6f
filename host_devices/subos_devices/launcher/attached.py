"""The devices of a QEMU that somebody else started: a supervisor in the background, and hot-plug over QMP."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import runtime
from ..errors import UserError
from ..supervisor import control
from ..supervisor.supervisor import Supervisor
from ..supervisor.zygote import Zygote
from ..vhost_user.device import Option
from . import hotplug, qmp
from .devices import PlannedDevice
from .hot_disks import HotDisks
from .hot_shares import HotShares
from .plugged import Plugged
from .shares import Share


@dataclass
class Attachment:
    """What is to be plugged where: `devices`, of which `shares` are some.

    `name` may be empty: the VM's own name is taken then. `common` are options of all shares, later ones
    too.
    """

    qmp: Path
    name: str
    devices: Sequence[PlannedDevice]
    shares: Sequence[Share] = ()
    common: Mapping[str, Option] = field(default_factory=dict)

    async def run(self, zygote: Zygote, ready: Callable[[str], None]) -> None:
        """Plugs the devices, calls `ready` with the VM's name, and serves until QEMU ends or they are detached.

        Raises UserError; nothing is left plugged, running or on disk then.
        """
        self._end = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._end.set)
        async with qmp.connected(self.qmp) as monitor:
            await hotplug.check_shared_memory(monitor)
            self._name = self.name or (await monitor.execute("query-name")).get("name") or "attached"
        with runtime.claim(self._name) as folder:
            async with Supervisor(zygote) as self._supervisor:
                self._supervisor.on_disconnect = self._disconnected
                self._plugged = Plugged(self._supervisor, folder, self.qmp)
                self._hot_shares = HotShares(self._plugged, self.shares, common=self.common)
                try:
                    await self._plugged.add(self.devices)
                    async with control.serve(folder, self._handlers()):
                        ready(self._name)
                        await self._end.wait()
                        async with self._plugged.lock:
                            pass  # a change that is under way is not cut off
                finally:
                    await self._plugged.take_back()

    def _disconnected(self) -> None:
        """QEMU has ended, unless we are unplugging ourselves."""
        if not self._plugged.lock.locked():
            self._end_without_devices()

    def _end_without_devices(self) -> None:
        if not self._plugged.connected():  # all are out, or QEMU has ended
            self._end.set()

    def _handlers(self) -> dict[str, control.Handler]:
        return {
            "status": self._status,
            "detach": self._last_change(self._detach),
            "share-list": self._hot_shares.list,
            "share-add": self._last_change(self._hot_shares.add),
            "share-remove": self._last_change(self._hot_shares.remove),
            **HotDisks(self.qmp, self._plugged.lock).handlers(),
        }

    def _last_change(self, change: control.Handler) -> control.Handler:
        """`change`, which may be the last: no disconnection counts while it is under way, QEMU's end neither."""

        async def handle(request: dict[str, Any]) -> Any:
            try:
                return await change(request)
            finally:
                self._end_without_devices()

        return handle

    async def _status(self, _request: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": self._name,
            "pid": os.getpid(),
            "how": f"attached to {self.qmp}",
            "devices": self._hot_shares.mark_mounted(self._supervisor.status()),
        }

    async def _detach(self, request: dict[str, Any]) -> list[str]:
        async with self._plugged.lock:
            there = self._plugged.devices
            names = list(dict.fromkeys(request.get("devices") or there))
            for name in names:
                if name not in there:
                    raise UserError(f"no device called {name!r} is attached", f"there are {', '.join(there)}")
            await self._plugged.remove(names)
        return names
