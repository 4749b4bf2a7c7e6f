"""Plugs vhost-user devices into a QEMU that runs already, and takes them out again, over QMP.

What QEMU wants, found by trying (QEMU 10): guest memory must be shared, or the device appears and is dead; a q35
machine takes a device only on a free `pcie-root-port`, i440fx takes it on its bus; a device is gone when
DEVICE_DELETED names it, and its chardev says "busy" until then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import UserError
from .qemu import VhostUserDevice
from .qmp import Qmp

UNPLUG_TIMEOUT = 20.0  # seconds; a guest under TCG acknowledges in less than one
GIB = 1 << 30


async def check_shared_memory(monitor: Qmp) -> None:
    """Raises UserError, with the arguments to add, where the VM's memory is not shared with back ends."""
    backends = await monitor.execute("query-memdev")
    if backends and all(backend.get("share") for backend in backends):
        return
    size = (await monitor.execute("query-memory-size-summary"))["base-memory"]
    text = f"{size // GIB}G" if size % GIB == 0 else f"{size >> 20}M"
    raise UserError(
        "the VM's memory is not shared, so no vhost-user device can work in it",
        f"stop the VM, add  -object memory-backend-memfd,id=mem,size={text},share=on -machine memory-backend=mem  "
        "and start it again",
    )


async def plug(monitor: Qmp, devices: list[VhostUserDevice]) -> None:
    """Plugs all, or none: what was plugged is taken out again when a later one fails. Raises UserError.

    Room for all of them is looked for first: a guest that does not run lets go of nothing.
    """
    done: list[VhostUserDevice] = []
    try:
        for device in devices:
            address = {"type": "unix", "data": {"path": str(device.socket)}}
            backend = {"type": "socket", "data": {"addr": address, "server": False}}
            await monitor.execute("chardev-add", id=device.chardev, backend=backend)
            try:
                await _add_device(monitor, device, wanted=len(devices) - len(done))
            except UserError:
                await monitor.execute("chardev-remove", id=device.chardev)
                raise
            done.append(device)
    except UserError:
        for device in reversed(done):
            await unplug(monitor, device)
        raise


async def unplug(monitor: Qmp, device: VhostUserDevice) -> None:
    """Takes one device out and waits until the guest has let go of it. Raises UserError."""
    try:
        await monitor.wait_for(
            lambda: monitor.execute("device_del", id=device.id),
            "DEVICE_DELETED",
            lambda data: data.get("device") == device.id,
            UNPLUG_TIMEOUT,
        )
    except TimeoutError:
        raise UserError(
            f"the guest did not let go of {device.id}", "unmount the share in the guest, then detach again"
        ) from None
    await monitor.execute("chardev-remove", id=device.chardev)


async def _add_device(monitor: Qmp, device: VhostUserDevice, wanted: int) -> None:
    """`wanted` devices are still to be plugged, this one among them."""
    arguments = {"driver": device.driver, "id": device.id, "chardev": device.chardev, **device.properties}
    try:
        await monitor.execute("device_add", **arguments)
        return
    except UserError as error:
        if "hotplug" not in error.message:  # "Bus 'pcie.0' does not support hotplugging"
            raise
    ports = list(_free_ports(await monitor.execute("query-pci")))
    if len(ports) < wanted:
        raise UserError(
            f"the VM has {len(ports)} free slots, and {wanted} devices are to be plugged",
            "start it with one for each device: -device pcie-root-port,id=subos0,chassis=100 (then 1 and 101, …)",
        )
    await monitor.execute("device_add", **arguments, bus=ports[0])


def _free_ports(buses: list[dict[str, Any]]) -> Iterator[str]:
    """Ids of the bridges on a root bus with nothing behind them."""
    for bus in buses:
        for function in bus["devices"]:
            bridge = function.get("pci_bridge")
            if bridge is not None and function.get("qdev_id") and not bridge.get("devices"):
                yield function["qdev_id"]
