"""Disks that a VM gets while it runs, to be read only. These are disk-add and disk-remove of its control socket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..supervisor.control import Handler

if TYPE_CHECKING:
    from .qmp import Qmp

BUSY = "unmount it in the guest first"


class HotDisks:
    """`qmp` is QEMU's monitor, which takes one client at a time: `lock` is held by whoever speaks to it."""

    def __init__(self, qmp: Path, lock: asyncio.Lock) -> None:
        self._qmp = qmp
        self._lock = lock

    def handlers(self) -> dict[str, Handler]:
        return {"disk-add": self.add, "disk-remove": self.remove}

    async def add(self, request: dict[str, Any]) -> None:
        """`disk`: a name for it; `path`: of a raw image, which may go once QEMU has opened it. Raises UserError.

        A disk of that name that is there already is taken out first.
        """
        from . import hotplug, qmp

        name, path = str(request.get("disk", "")), str(request.get("path", ""))
        async with self._lock, qmp.connected(self._qmp) as monitor:
            await _take_out(monitor, name)
            file = {"driver": "file", "filename": path}
            node = {"driver": "raw", "node-name": name, "read-only": True, "file": file}
            await monitor.execute("blockdev-add", **node)
            try:
                await hotplug.add_device(monitor, {"driver": "virtio-blk-pci", "id": name, "drive": name})
            except BaseException:
                await monitor.execute("blockdev-del", **{"node-name": name})
                raise

    async def remove(self, request: dict[str, Any]) -> None:
        """`disk`, as it was added. Raises UserError: there is none, the guest does not let go."""
        from . import qmp

        name = str(request.get("disk", ""))
        async with self._lock, qmp.connected(self._qmp) as monitor:
            if not await _take_out(monitor, name):
                raise UserError(f"the VM has no disk {name}", "subos-devices agent install VM plugs one")


async def _take_out(monitor: Qmp, name: str) -> bool:
    """Whether there was one. Raises UserError."""
    from . import hotplug

    if all(node["node-name"] != name for node in await monitor.execute("query-named-block-nodes", flat=True)):
        return False
    await hotplug.delete_device(monitor, name, BUSY)
    await monitor.execute("blockdev-del", **{"node-name": name})
    return True
