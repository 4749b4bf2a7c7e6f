"""The devices of a QEMU that somebody else started: a supervisor in the background, and hot-plug over QMP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import runtime
from ..errors import UserError
from ..supervisor import control
from ..supervisor.holder import Holder
from ..supervisor.process_models import Models
from ..vhost_user.device import Option
from . import hotplug, qmp, succession
from .agent_port import AgentPort
from .devices import PlannedDevice, plan
from .guest_side import guest_side
from .hot_disks import HotDisks
from .hot_mouse import HotMouse
from .hot_shares import HotShares
from .mounts import GuestMounts
from .plugged import Plugged
from .shares import Share

VSOCK, SERIAL, AUTO = "vsock", "serial", "auto"
AGENT = "agent"
"""What the agent's port is called among the devices."""


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
    clipboard: Sequence[str] = ()
    """Rules, as agent/clipboard/policy.py has them."""
    models: Models = field(default_factory=Models)
    """Which processes serve the devices."""
    agent: str = ""
    """The agent's channel: vsock, serial (which needs no shared memory), auto; or none."""

    async def run(self, holder: Holder, ready: Callable[[str], None]) -> None:
        """Plugs the devices, calls `ready` with the VM's name, and serves until QEMU ends or they are detached.

        Raises UserError; nothing is left plugged, running or on disk then.
        """
        self._end = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._end.set)
        async with qmp.connected(self.qmp) as monitor:
            if self.devices or self.agent == VSOCK:
                await hotplug.check_shared_memory(monitor)
            serial = self.agent == SERIAL or (self.agent == AUTO and not await hotplug.has_shared_memory(monitor))
            if self.agent and not serial and not any(device.kind == "vsock" for device in self.devices):
                self.devices = [*self.devices, *plan([], vsock=True)]
            self._name = self.name or (await monitor.execute("query-name")).get("name") or "attached"
        holder.models = self.models
        with runtime.claim(self._name) as folder:
            async with (
                holder as self._supervisor,
                guest_side(folder, self._name, self.clipboard) as guest,
                contextlib.aclosing(AgentPort(guest.hub, folder, self._disconnected)) as self._port,
            ):
                self._hub = guest.hub
                self._supervisor.on_disconnect = self._disconnected
                self._plugged = Plugged(self._supervisor, folder, self.qmp, guest.channels)
                mounts = GuestMounts(guest.hub, own_root=True)
                self._hot_shares = HotShares(self._plugged, self.shares, mounts, self.common)
                guest.serves(self._hot_shares)
                try:
                    await self._plugged.add(self.devices)
                    if serial:
                        async with qmp.connected(self.qmp) as monitor:
                            await self._port.plug(monitor)
                    async with control.serve(folder, self._handlers()):
                        ready(self._name)
                        await self._end.wait()
                        async with self._plugged.lock:
                            pass  # a change that is under way is not cut off
                finally:
                    await self._take_back()

    async def _take_back(self) -> None:
        try:
            await self._plugged.take_back()
        finally:
            if self._port.plugged:
                with contextlib.suppress(UserError):  # QEMU has ended, or its monitor is another's
                    async with qmp.connected(self.qmp) as monitor:
                        await self._port.unplug(monitor)

    def _disconnected(self) -> None:
        """QEMU has ended, unless we are unplugging ourselves."""
        if not self._plugged.lock.locked():
            self._end_without_devices()

    def _end_without_devices(self) -> None:
        if not self._plugged.connected() and not self._port.plugged:  # all are out, or QEMU has ended
            self._end.set()

    def _handlers(self) -> dict[str, control.Handler]:
        others = HotDisks(self.qmp, self._plugged.lock).handlers() | HotMouse(self._plugged).handlers()
        return {
            "status": self._status,
            "detach": self._last_change(self._detach),
            "share-list": self._hot_shares.list,
            "share-add": self._last_change(self._hot_shares.add),
            "share-remove": self._last_change(self._hot_shares.remove),
            **succession.handlers(self._supervisor),
            **{name: self._last_change(change) for name, change in others.items()},
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
        await self._hub.look()
        devices, memory = await self._supervisor.status_and_memory()
        return {
            "name": self._name,
            "pid": os.getpid(),
            "how": f"attached to {self.qmp}",
            "agent": self._hub.status(),
            "supervisor": self._supervisor.status(),
            "memory": memory,
            "devices": self._hot_shares.mark_mounted(devices),
        }

    async def _detach(self, request: dict[str, Any]) -> list[str]:
        async with self._plugged.lock:
            there = [*self._plugged.devices, *([AGENT] if self._port.plugged else [])]
            names = list(dict.fromkeys(request.get("devices") or there))
            for name in names:
                if name not in there:
                    raise UserError(f"no device called {name!r} is attached", f"there are {', '.join(there)}")
            if AGENT in names:
                async with qmp.connected(self.qmp) as monitor:
                    await self._port.unplug(monitor)
            await self._plugged.remove([name for name in names if name != AGENT])
        return names
