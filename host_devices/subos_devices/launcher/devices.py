"""Which devices a VM gets: from settings to what the supervisor serves and what QEMU plugs."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runtime import listen
from ..supervisor.supervisor import Supervisor
from ..vhost_user.device import DeviceSpec, Option
from .qemu import VhostUserDevice
from .shares import ROOT_TAG, Share

QEMU_DRIVERS = {
    "fs": "vhost-user-fs-pci",
    "mouse": "vhost-user-input-pci",
    "keyboard": "vhost-user-input-pci",
    "rng": "vhost-user-rng-pci",
}
FS_QUEUE_SIZE = 1024  # descriptors; Linux sizes its requests by it, so a small one means small reads


@dataclass(frozen=True)
class PlannedDevice:
    """One device of a VM, before anything of it exists. `driven` ones have a driver socket."""

    name: str
    kind: str
    options: dict[str, Option] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    driven: bool = False


def share_device(share: Share, cache: str | None = None, mapping: Mapping[str, str] | None = None) -> PlannedDevice:
    """The device that serves one share, named by its tag. `mapping` are more options of it: see fs/identity.py."""
    options: dict[str, Option] = {"shared_dir": str(share.path), "readonly": share.read_only}
    if cache is not None:
        options["cache"] = cache
    options |= mapping or {}
    return PlannedDevice(share.tag, "fs", options, {"tag": share.tag, "queue-size": FS_QUEUE_SIZE})


def root_device() -> PlannedDevice:
    """This machine's own root, as the default guest sees it: read-only, and programs are seldom replaced.

    Without "steady" the guest would read each program and library anew whenever it is started (under emulation, that
    also means to translate it anew: a second `python3 -c pass` took 1.25 s instead of 0.14).
    """
    return share_device(Share(Path("/"), ROOT_TAG, read_only=True), cache="steady")


def plan(
    shares: Sequence[Share],
    *,
    mouse: bool = False,
    keyboard: bool = False,
    rng: bool = False,
    cache: str | None = None,
    mapping: Mapping[str, str] | None = None,
) -> list[PlannedDevice]:
    """The devices that a person asked for. Raises UserError where two would have one name."""
    devices = [share_device(share, cache, mapping) for share in shares]
    if mouse:
        devices.append(PlannedDevice("mouse", "mouse", driven=True))
    if keyboard:
        devices.append(PlannedDevice("keyboard", "keyboard", driven=True))
    if rng:
        devices.append(PlannedDevice("rng", "rng"))
    names = [device.name for device in devices]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two devices would be called {name!r}", "give the share another tag: --share PATH:TAG")
    return devices


def socket_path(folder: Path, device: PlannedDevice) -> Path:
    """Where QEMU finds the device."""
    return folder / f"{device.name}.vhost.sock"  # a share's tag may be any word, "control" and "qmp" too


def vhost_user_device(folder: Path, device: PlannedDevice) -> VhostUserDevice:
    """How QEMU is told of a device that is served in `folder`."""
    driver = QEMU_DRIVERS[device.kind]
    return VhostUserDevice(f"subos-{device.name}", driver, socket_path(folder, device), device.properties)


def driver_path(folder: Path, name: str) -> Path:
    """Where host drivers find the device."""
    return folder / f"{name}.driver.sock"


def serve_command(folder: Path, device: PlannedDevice) -> list[str]:
    """The `subos-devices serve` that offers `device` on its socket in `folder`."""
    command = ["subos-devices", "serve", device.kind, "--socket-path", str(socket_path(folder, device))]
    if device.kind == "fs":
        command += ["--shared-dir", str(device.options["shared_dir"])]
        command += ["--readonly"] if device.options["readonly"] else []
    if device.driven:
        command += ["--driver-socket", str(driver_path(folder, device.name))]
    return command


async def serve(supervisor: Supervisor, folder: Path, devices: Sequence[PlannedDevice]) -> None:
    """Binds the devices' sockets in `folder` and serves them. Raises UserError."""
    for device in devices:
        with contextlib.ExitStack() as undo:
            fds: dict[str, int] = {}
            if device.driven:
                driver = undo.enter_context(listen(driver_path(folder, device.name), socket.SOCK_SEQPACKET))
                fds["driver"] = driver.detach()
            listener = undo.enter_context(listen(socket_path(folder, device)))
            undo.pop_all()
            await supervisor.add(DeviceSpec(device.kind, device.name, device.options, fds), listener)
