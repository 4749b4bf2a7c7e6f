"""Which class models which kind of device. `package.module:Class` names one of somebody else's."""

from __future__ import annotations

import importlib
from functools import cache

from .errors import UserError
from .vhost_user.device import Device, DeviceSpec

KINDS = {
    "fs": "subos_devices.fs.device:FsDevice",
    "mouse": "subos_devices.input.mouse:MouseDevice",
    "pointer": "subos_devices.input.pointer:PointerDevice",
    "keyboard": "subos_devices.input.keyboard:KeyboardDevice",
    "touch": "subos_devices.input.touch:TouchDevice",
    "pen": "subos_devices.input.pen:PenDevice",
    "gamepad": "subos_devices.input.gamepad.device:GamepadDevice",
    "motion": "subos_devices.input.gamepad.device:MotionDevice",
    "touchpad": "subos_devices.input.gamepad.device:TouchpadDevice",
    "rng": "subos_devices.rng:RngDevice",
    "vsock": "subos_devices.vsock.device:VsockDevice",
}


@cache
def load(kind: str) -> type[Device]:
    """The class of `kind`. Raises UserError for a kind that nobody models."""
    target = KINDS.get(kind, kind)
    module, colon, name = target.partition(":")
    if not colon:
        raise UserError(f"no device is called {kind!r}", f"there are {', '.join(KINDS)}, or package.module:Class")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # it is somebody else's code, or no module's name at all
        raise UserError(
            f"the device {kind!r} cannot be loaded: {error}", "package.module:Class, where PYTHONPATH leads to package"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Device)):
        raise UserError(f"{target} is not a Device", "derive it from subos_devices.vhost_user.device.Device")
    return found


def build(spec: DeviceSpec) -> Device:
    """The device that `spec` describes. Raises UserError for a kind or an option that is none."""
    return load(spec.kind)(spec)
