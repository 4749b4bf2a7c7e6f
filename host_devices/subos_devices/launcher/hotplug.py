"""Plugs vhost-user devices into a QEMU that runs already, and takes them out again, over QMP.

What QEMU wants, found by trying (QEMU 10): guest memory must be shared, or the device appears and is dead; a q35
machine takes a device only on a free `pcie-root-port`, i440fx takes it on its bus; a device is gone when
DEVICE_DELETED names it, and its chardev says "busy" until then.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import UserError
from .qemu import INPUT_PORT, VhostUserDevice
from .qmp import Qmp, QmpError

UNPLUG_TIMEOUT = 20.0  # seconds; a guest under TCG acknowledges in less than one
GIB = 1 << 30

log = logging.getLogger("subos")


async def has_shared_memory(monitor: Qmp) -> bool:
    """Whether vhost-user devices can work in the VM."""
    backends = await monitor.execute("query-memdev")
    return bool(backends) and all(backend.get("share") for backend in backends)


async def check_shared_memory(monitor: Qmp) -> None:
    """Raises UserError, with the arguments to add, where the VM's memory is not shared with back ends."""
    if await has_shared_memory(monitor):
        return
    size = (await monitor.execute("query-memory-size-summary"))["base-memory"]
    text = f"{size // GIB}G" if size % GIB == 0 else f"{size >> 20}M"
    raise UserError(
        "the VM's memory is not shared, so no vhost-user device can work in it",
        f"stop the VM, add  -object memory-backend-memfd,id=mem,size={text},share=on -machine memory-backend=mem  "
        "and start it again",
    )


async def plug(monitor: Qmp, devices: list[VhostUserDevice]) -> None:
    """Plugs all, or none: what was plugged is taken out again when anything fails. Raises UserError.

    Room for all of them is looked for first: a guest that does not run lets go of nothing.
    """
    done: list[VhostUserDevice] = []
    try:
        for device in devices:
            await _clear_chardev(monitor, device)
            address = {"type": "unix", "data": {"path": str(device.socket)}}
            backend = {"type": "socket", "data": {"addr": address, "server": False}}
            await monitor.execute("chardev-add", id=device.chardev, backend=backend)
            done.append(device)
            options = {"driver": device.driver, "id": device.id, "chardev": device.chardev, **device.properties}
            await add_device(monitor, options, wanted=len(devices) - len(done) + 1)
    except BaseException:
        await unplug_all(monitor, reversed(done))
        raise


async def unplug_all(monitor: Qmp, devices: Iterable[VhostUserDevice]) -> None:
    """Takes out all that can be; what cannot is logged."""
    for device in devices:
        try:
            await unplug(monitor, device)
        except UserError as error:
            log.error("%s stays plugged: %s", device.id, error.message)


async def unplug(monitor: Qmp, device: VhostUserDevice) -> None:
    """Takes one device out and waits until the guest has let go of it, if it has not before. Raises UserError."""
    await delete_device(monitor, device.id, "is a guest running? Unmount the share in it, then detach again")
    await monitor.execute("chardev-remove", id=device.chardev)


async def delete_device(monitor: Qmp, name: str, hint: str) -> None:
    """`unplug` for a device of any kind, by its id."""
    try:
        await monitor.wait_for(
            lambda: monitor.execute("device_del", id=name),
            "DEVICE_DELETED",
            lambda data: data.get("device") == name,
            UNPLUG_TIMEOUT,
        )
    except TimeoutError:
        raise UserError(f"the guest did not let go of {name}", hint) from None
    except QmpError as error:
        if error.kind != "DeviceNotFound":  # that is: the guest let go late, or it was never plugged
            raise


async def _clear_chardev(monitor: Qmp, device: VhostUserDevice) -> None:
    """Removes the chardev of an earlier device that the guest let go of too late. Raises UserError if it is in use."""
    for chardev in await monitor.execute("query-chardev"):
        if chardev["label"] != device.chardev:
            continue
        in_use = UserError(
            f"the VM has a device {device.id} already",
            "detach that one first, if it still works (subos-devices status); a share may have another tag",
        )
        if not chardev["filename"].startswith("disconnected:"):
            raise in_use
        try:
            await monitor.execute("chardev-remove", id=device.chardev)
        except QmpError as error:
            raise in_use from error


async def add_device(monitor: Qmp, options: Mapping[str, object], wanted: int = 1) -> None:
    """device_add, where there is a place. `wanted` devices are still to be plugged, this one among them.

    Raises UserError.
    """
    try:
        await monitor.execute("device_add", **options)
        return
    except UserError as error:
        if "hotplug" not in error.message:  # "Bus 'pcie.0' does not support hotplugging"
            raise
    ports = _places(_free_ports(await monitor.execute("query-pci")), str(options["driver"]))
    if len(ports) < wanted:
        raise UserError(
            f"the VM has {len(ports)} free slots, and {wanted} devices are to be plugged",
            "start it with one for each device: -device pcie-root-port,id=subos0,chassis=100 (then 1 and 101, …)",
        )
    await monitor.execute("device_add", **options, bus=ports[0])


def _places(ports: Iterable[str], driver: str) -> list[str]:
    """Those that a device of this driver may take, the best first: what is kept for input devices is theirs alone."""
    kept = {port: port.startswith(INPUT_PORT) for port in ports}
    if driver.startswith("vhost-user-input"):
        return sorted(kept, key=lambda port: not kept[port])
    return [port for port in kept if not kept[port]]


def _free_ports(buses: list[dict[str, Any]]) -> Iterator[str]:
    """Ids of the bridges on a root bus with nothing behind them."""
    for bus in buses:
        for function in bus["devices"]:
            bridge = function.get("pci_bridge")
            if bridge is not None and function.get("qdev_id") and not bridge.get("devices"):
                yield function["qdev_id"]
