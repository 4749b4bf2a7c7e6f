"""Devices of a VM that can come and go while it runs: each is served here and plugged there, or neither."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..agent.worker_channels import WorkerChannels
from ..errors import UserError
from ..supervisor.holder import Holder
from . import devices as device_plan
from .devices import PlannedDevice
from .qemu import VhostUserDevice


class Plugged:
    """`devices` is what is plugged, by name. Whoever adds or removes holds `lock`.

    QEMU's monitor, the socket `qmp`, takes one client at a time and belongs to whoever started the VM, so it is held
    only while devices are plugged or unplugged.
    """

    def __init__(
        self,
        supervisor: Holder,
        folder: Path,
        qmp: Path,
        channels: Mapping[str, WorkerChannels] = device_plan.NO_CHANNELS,
    ) -> None:
        self.qmp = qmp
        self.lock = asyncio.Lock()
        self.devices: dict[str, VhostUserDevice] = {}
        self._supervisor = supervisor
        self._folder = folder
        self._channels = channels

    async def add(self, planned: Sequence[PlannedDevice]) -> None:
        """Serves and plugs all, or none. Raises UserError."""
        names = [device.name for device in planned]
        for name in names:
            if name in self._supervisor.devices:
                raise UserError(f"the VM has a device {name!r} already", "give the share another tag: PATH:TAG")
        plugs = {device.name: device_plan.vhost_user_device(self._folder, device) for device in planned}
        try:
            await device_plan.serve(self._supervisor, self._folder, planned, self._channels)
            await self.plug(planned)
        except BaseException:
            for name in names:
                if name not in self.devices and name in self._supervisor.devices:
                    await self._end(name, plugs[name])
            raise

    async def plug(self, planned: Sequence[PlannedDevice]) -> None:
        """Plugs what is served, all or none. Raises UserError."""
        # Loaded only when wanted: a command that just runs should not wait for QMP's library, nor need it.
        from . import hotplug, qmp

        plugs = {device.name: device_plan.vhost_user_device(self._folder, device) for device in planned}
        async with qmp.connected(self.qmp) as monitor:
            await hotplug.plug(monitor, list(plugs.values()))
            self.devices |= plugs

    async def unplug(self, name: str) -> None:
        """Unplugs a device, which goes on being served. Raises UserError."""
        from . import hotplug, qmp

        async with qmp.connected(self.qmp) as monitor:
            await hotplug.unplug(monitor, self.devices[name])
            del self.devices[name]

    async def remove(self, names: Iterable[str]) -> None:
        """Unplugs devices one after the other, and ends them. Raises UserError; those before are gone then."""
        from . import hotplug, qmp

        async with qmp.connected(self.qmp) as monitor:
            for name in names:
                await hotplug.unplug(monitor, self.devices[name])
                await self._end(name, self.devices.pop(name))

    async def _end(self, name: str, plug: VhostUserDevice) -> None:
        await self._supervisor.remove(name)
        for channels in self._channels.values():
            channels.close(name)
        for path in (plug.socket, device_plan.driver_path(self._folder, name)):
            path.unlink(missing_ok=True)

    async def take_back(self) -> None:
        """Leaves the VM as it was: QEMU may abort where a connection closes before its device is out.

        Raises UserError where QEMU lives and nobody may speak to it.
        """
        from . import hotplug, qmp

        if self.devices:
            try:
                async with qmp.connected(self.qmp) as monitor:
                    await hotplug.unplug_all(monitor, self.devices.values())
            except UserError:
                if self.connected():  # otherwise QEMU has ended
                    raise

    def connected(self) -> bool:
        """Whether QEMU holds any device."""
        return any(server.connected for server in self._supervisor.devices.values())
