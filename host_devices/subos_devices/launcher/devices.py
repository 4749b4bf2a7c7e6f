"""Which devices a VM gets: from settings to what the supervisor serves and what QEMU plugs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from ..agent.worker_channels import WorkerChannels
from ..errors import UserError
from ..runtime import listen
from ..supervisor.process_models import Model
from ..vhost_user.device import DeviceSpec, Option
from .qemu import VhostUserDevice
from .settings import GAMEPAD_OPTIONS, HOTPLUG, MAX_GAMEPADS, NO_RUMBLE, NO_SENSORS, UHID, UINPUT
from .shares import ROOT_TAG, Share

INPUT_KINDS = ("mouse", "pointer", "keyboard", "touch", "pen", "gamepad", "motion", "touchpad")
QEMU_DRIVERS = {
    "fs": "vhost-user-fs-pci",
    **dict.fromkeys(INPUT_KINDS, "vhost-user-input-pci"),
    "rng": "vhost-user-rng-pci",
    "vsock": "vhost-user-vsock-pci",
}
MICE = ("mouse", "pointer")  # absolute and relative: while the VM runs, either can be had instead of the other
FILE_EVENTS, GAMEPAD = "events", "agent"  # channels of workers: their names in a device's descriptors
PRESENCE = "presence"  # an eventfd: a gamepad's worker has news of its drivers
FS_QUEUE_SIZE = 1024  # descriptors; Linux sizes its requests by it, so a small one means small reads
OWN_PROCESS = Model()
NO_CHANNELS: Mapping[str, WorkerChannels] = MappingProxyType({})


@dataclass(frozen=True)
class PlannedDevice:
    """One device of a VM, before anything of it exists. `driven` ones have a driver socket; `removable` ones can be
    taken out while the VM runs; `channel` is the name of the worker's channel to the guest's agent, if it has one.
    `beside` is the device whose PCI slot it shares where nothing is plugged while the VM runs. A `hot` one is not there
    before something drives it, or the gamepad that it is beside."""

    name: str
    kind: str
    options: dict[str, Option] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    driven: bool = False
    removable: bool = False
    channel: str = ""
    beside: str = ""
    hot: bool = False


def share_device(share: Share, common: Mapping[str, Option] | None = None) -> PlannedDevice:
    """The device that serves one share; it is named by its tag. `common` are options of all shares."""
    folder = share.path.parent if share.single else share.path
    options: dict[str, Option] = {"shared_dir": str(folder), "readonly": share.read_only, **(common or {})}
    if share.single:
        options["only"] = share.path.name
    properties = {"tag": share.tag, "queue-size": FS_QUEUE_SIZE}
    return PlannedDevice(share.tag, "fs", options, properties, removable=True, channel=FILE_EVENTS)


def shared_path(options: Mapping[str, Any]) -> str:
    """What a file system device shares: its folder, or the one file in it."""
    folder = str(options.get("shared_dir", ""))
    return os.path.join(folder, str(options["only"])) if "only" in options else folder


def root_device() -> PlannedDevice:
    """This machine's own root, as the default guest sees it: read-only, and programs are seldom replaced.

    Without "steady" the guest would read each program and library anew whenever it is started (under emulation, that
    also means to translate it anew: a second `python3 -c pass` took 1.25 s instead of 0.14).
    """
    device = share_device(Share(Path("/"), ROOT_TAG, read_only=True), {"cache": "steady"})
    options = {**device.options, "submounts": False}  # overlayfs refuses them in a lower layer
    return replace(device, options=options, removable=False, channel="")  # below an overlay nothing can be told


def input_device(kind: str) -> PlannedDevice:
    """An input device that the VM has at most one of."""
    return PlannedDevice(kind, kind, driven=True, removable=kind in MICE)


def gamepads(wanted: Sequence[str]) -> list[PlannedDevice]:
    """`gamepad1` and so on, each by its profile and GAMEPAD_OPTIONS, with `gamepad1-motion` and `gamepad1-touchpad`
    where the real one has such. Raises UserError for what is no profile or option, or too many."""
    if len(wanted) > MAX_GAMEPADS:
        raise UserError(f"{len(wanted)} gamepads are too many", f"a VM has at most {MAX_GAMEPADS}")
    return [device for number, text in enumerate(wanted, 1) for device in _gamepad(f"gamepad{number}", text)]


def _gamepad(name: str, text: str) -> list[PlannedDevice]:
    from ..input.gamepad.profiles import load  # which takes the time that loading the kernel's codes takes

    profile, *options = text.split(":")
    loaded = load(profile)
    parts = {} if NO_SENSORS in options else loaded.parts
    for option in options:
        if option not in GAMEPAD_OPTIONS:
            raise UserError(f"{text}: {option!r} is no option of a gamepad", f"there are {', '.join(GAMEPAD_OPTIONS)}")
    pad = PlannedDevice(
        name,
        "gamepad",
        {"profile": profile, **_hid_options(text, name, bool(loaded.hid and parts), options)},
        driven=True,
        channel="" if NO_RUMBLE in options else GAMEPAD,
        hot=HOTPLUG in options,
    )
    # uinput knows no serials: where the agent makes them, its twins need ones that differ.
    serial: dict[str, Option] = {} if pad.channel else {"serial": name}
    return [pad] + [
        replace(pad, name=f"{name}-{part}", kind=part, options={**pad.options, **serial}, beside=name) for part in parts
    ]


def _hid_options(text: str, name: str, possible: bool, options: Sequence[str]) -> dict[str, Option]:
    """Of a pad that the agent may make as a HID device, which has sensors in any case. Raises UserError."""
    others = [option for option in options if option in (UINPUT, NO_RUMBLE, NO_SENSORS)]
    if UHID in options and (others or not possible):
        hint = f"leave out :{others[0]}" if others else "dualsense and dualshock4 can be one"
        raise UserError(f"{text}: this gamepad is no HID device", hint)
    if others or not possible:
        return {}
    return {"hid": name, **({"hid_only": True} if UHID in options else {})}


def plan(
    shares: Sequence[Share],
    *,
    mouse: bool = False,
    pointer: bool = False,
    keyboard: bool = False,
    touch: bool = False,
    pen: bool = False,
    gamepad: Sequence[str] = (),
    rng: bool = False,
    vsock: bool = False,
    common: Mapping[str, Option] | None = None,
) -> list[PlannedDevice]:
    """The devices that a person asked for; `gamepad` has a profile for each. `common` are options of all shares.

    Raises UserError where two devices would have one name, and as `gamepads` does.
    """
    devices = [share_device(share, common) for share in shares]
    inputs = {"mouse": mouse, "pointer": pointer, "keyboard": keyboard, "touch": touch, "pen": pen}
    devices += [input_device(kind) for kind, wanted in inputs.items() if wanted]
    devices += gamepads(gamepad)
    if rng:
        devices.append(PlannedDevice("rng", "rng"))
    if vsock:
        # One vector a queue (the event queue and the configuration have theirs, too); QEMU's default is one too few.
        devices.append(PlannedDevice("vsock", "vsock", properties={"vectors": 4}))
    names = [device.name for device in devices]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two devices would be called {name!r}", "give the share another tag: --share PATH:TAG")
    return devices


def refuse_hot(planned: Sequence[PlannedDevice]) -> None:
    """For a VM that somebody else starts. Raises UserError for devices that come and go by themselves."""
    for device in planned:
        if device.hot:
            raise UserError(
                f"{device.name}: :{HOTPLUG} is for subos-devices run, which plugs and unplugs",
                f"leave :{HOTPLUG} out: the guest keeps a gamepad that nothing drives, with nothing pressed",
            )


def socket_path(folder: Path, device: PlannedDevice) -> Path:
    """Where QEMU finds the device."""
    return folder / f"{device.name}.vhost.sock"  # a share's tag may be any word, "control" and "qmp" too


def vhost_user_device(folder: Path, device: PlannedDevice) -> VhostUserDevice:
    """How QEMU is told of a device that is served in `folder`."""
    driver = QEMU_DRIVERS[device.kind]
    path = socket_path(folder, device)
    beside = f"subos-{device.beside}" if device.beside else ""
    return VhostUserDevice(f"subos-{device.name}", driver, path, device.properties, device.removable, beside)


def driver_path(folder: Path, name: str) -> Path:
    """Where host drivers find the device."""
    return folder / f"{name}.driver.sock"


def vsock_path(folder: Path) -> Path:
    """Where the host's programs reach the guest's ports; the guest reaches theirs at this path, `_` and the port."""
    return folder / "vsock.sock"


def serve_command(folder: Path, device: PlannedDevice, model: Model = OWN_PROCESS) -> list[str]:
    """The `subos-devices serve` that offers `device` on its socket in `folder`. Raises UserError for a group's: each
    such command serves one device."""
    if model.group:
        raise UserError(
            f"{device.name} cannot be {model} here: each command serves one device, in a process of its own",
            "own, own:COMMAND or inline; subos-devices run and attach have groups",
        )
    command = ["subos-devices", "serve", device.kind, "--socket-path", str(socket_path(folder, device))]
    if device.kind == "fs":
        command += ["--shared-dir", shared_path(device.options)]
        command += ["--readonly"] if device.options["readonly"] else []
    if device.driven:
        command += ["--driver-socket", str(driver_path(folder, device.name))]
    if "profile" in device.options:
        command += [word for key, value in device.options.items() for word in ("--option", f"{key}={value}")]
    if device.kind == "vsock":
        command += ["--uds-path", str(vsock_path(folder))]
    if model != OWN_PROCESS:
        command += ["--process", str(model)]
    return command


class Serves(Protocol):
    """A `Holder`, or a `Supervisor`."""

    async def add(self, spec: DeviceSpec, listener: socket.socket) -> object: ...


async def serve(
    supervisor: Serves,
    folder: Path,
    devices: Sequence[PlannedDevice],
    channels: Mapping[str, WorkerChannels] = NO_CHANNELS,
    presence: Callable[[str], int] | None = None,
) -> None:
    """Binds the devices' sockets in `folder` and serves them; `channels` to the guest's agent are there by what devices
    call them, `presence` makes what a hot gamepad tells of its drivers by. Raises UserError; the others are served
    then."""
    starting: list[asyncio.Future[object]] = []
    try:
        for device in devices:
            starting.append(asyncio.ensure_future(supervisor.add(*_bound(folder, device, channels, presence))))
    finally:  # all at once, so that the process of a group is started once
        results = await asyncio.gather(*starting, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _bound(
    folder: Path,
    device: PlannedDevice,
    channels: Mapping[str, WorkerChannels],
    presence: Callable[[str], int] | None,
) -> tuple[DeviceSpec, socket.socket]:
    """What `Supervisor.add` takes. Raises UserError."""
    with contextlib.ExitStack() as undo:
        fds: dict[str, int] = {}
        sockets: dict[str, socket.socket] = {}
        options = dict(device.options)
        if device.driven:
            path = driver_path(folder, device.name)
            sockets["driver"] = undo.enter_context(listen(path, socket.SOCK_SEQPACKET))
        if device.kind == "vsock":
            sockets["listener"] = undo.enter_context(listen(vsock_path(folder)))
            options["uds_path"] = str(vsock_path(folder))
        if device.channel in channels:
            fds[device.channel] = channels[device.channel].open(device.name)
            undo.callback(os.close, fds[device.channel])
        if device.hot and device.kind == "gamepad" and presence is not None:
            fds[PRESENCE] = presence(device.name)
            undo.callback(os.close, fds[PRESENCE])
        listener = undo.enter_context(listen(socket_path(folder, device)))
        undo.pop_all()
    fds |= {name: made.detach() for name, made in sockets.items()}
    return DeviceSpec(device.kind, device.name, options, fds), listener
