"""Input devices of this host, by python-evdev: /dev/input/event*.

python-evdev and pyudev are optional: without them everything else works, and what needs them says so.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from subos_protocol.input_codes import Abs, Ev, Led
from subos_protocol.virtio_input import virtio_input_absinfo, virtio_input_devids, virtio_input_event

from ...errors import UserError
from ...text import printable
from ..capabilities import Capabilities
from .state import DeviceState

FOLDER = Path("/dev/input")
SYSFS = Path("/sys/class/input")
MAX_SLOTS = 64  # that we ask the kernel for; the most that any driver has is 20
HINT = f"{sys.executable} -m pip install evdev pyudev; that takes a C compiler and the headers of Python and of Linux"
PERMISSION_HINT = (
    "run it as root; or let your user read them: sudo usermod -aG input $USER (then log in again), after which every "
    'program of yours reads every key; or a udev rule that gives you this one device: TAG+="uaccess"'
)

_INT = struct.Struct("=i")


def evdev_module() -> ModuleType:
    """python-evdev. Raises UserError where it is not installed."""
    try:
        import evdev
    except ImportError as error:
        raise UserError("input devices of this host need the Python packages evdev and pyudev", HINT) from error
    module: ModuleType = evdev
    return module


class Identity(NamedTuple):
    """By what a device is known again: `uniq` is its serial number or Bluetooth address, `phys` where it is plugged."""

    name: str
    vendor: int
    product: int
    uniq: str
    phys: str

    def is_same(self, other: Identity) -> bool:
        """Whether it is that very device; without a serial number the plug decides."""
        mine, theirs = (self.uniq, other.uniq) if self.uniq or other.uniq else (self.phys, other.phys)
        return self.is_alike(other) and mine == theirs

    def belongs_with(self, other: Identity) -> bool:
        """Whether both are of one thing: a gamepad and its sensors are several event devices."""
        mine, theirs = (self.uniq, other.uniq) if self.uniq or other.uniq else (self.phys, other.phys)
        return (self.vendor, self.product, mine) == (other.vendor, other.product, theirs) and bool(mine)

    def is_alike(self, other: Identity) -> bool:
        """Whether it is one of the same make."""
        return self[:3] == other[:3]


class TimedEvent(NamedTuple):
    """`time` is in microseconds, on the kernel's clock of input events."""

    time: int
    event: virtio_input_event


class HostDevice:
    """An open input device of this host. Raises OSError as the kernel does, UserError without python-evdev."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._device = evdev_module().InputDevice(os.fspath(path))
        except UnicodeDecodeError as error:
            raise OSError(errno.EILSEQ, "its name is no UTF-8, and python-evdev takes no other", path) from error
        self.fd: int = self._device.fd
        self.capabilities = _capabilities(self._device)
        info = self._device.info
        self.identity = Identity(
            self._device.name, info.vendor, info.product, self._device.uniq or "", self._device.phys or ""
        )
        self.grabbed = False
        self._may_write = bool(fcntl.fcntl(self.fd, fcntl.F_GETFL) & os.O_RDWR)
        self._lights: set[int] = set()  # those that were on when it was grabbed

    def close(self) -> None:
        """Closing lets go of a grab, too; lights are put back first."""
        self.release()
        self._device.close()

    def read(self) -> Iterator[TimedEvent]:
        """What waits to be read. Raises OSError (ENODEV) where the device is gone."""
        with contextlib.suppress(BlockingIOError):
            for event in self._device.read():
                code = virtio_input_event(event.type, event.code, event.value)
                yield TimedEvent(event.sec * 1_000_000 + event.usec, code)

    def state(self) -> DeviceState:
        """What is down and where the axes are, by the kernel."""
        state = DeviceState(set(self._device.active_keys()))
        for code in self.capabilities.axes:
            if code < Abs.ABS_MT_SLOT:
                state.axes[code] = self._device.absinfo(code).value
        slots = self.capabilities.axes.get(Abs.ABS_MT_SLOT)
        if slots is not None:
            state.slot = self._device.absinfo(Abs.ABS_MT_SLOT).value
            for code in self.capabilities.axes:
                if code > Abs.ABS_MT_SLOT:
                    for number, value in enumerate(_slot_values(self.fd, code, min(MAX_SLOTS, slots.max + 1))):
                        state.slots.setdefault(number, {})[code] = value
        return state

    def grab(self) -> None:
        """Takes it for us alone. Raises OSError (EBUSY) where another program has it."""
        if not self.grabbed:
            self._device.grab()
            self.grabbed = True
            self._lights = set(self._device.leds())

    def release(self) -> None:
        """Gives it back to the host, with its lights as they were."""
        if self.grabbed:
            self.grabbed = False
            lights = {code: int(code in self._lights) for code in self.capabilities.of(Ev.EV_LED)}
            with contextlib.suppress(OSError):  # we may only read, or it is gone
                self.light(lights)
            with contextlib.suppress(OSError):
                self._device.ungrab()

    def light(self, lights: dict[int, int]) -> None:
        """Turns lights on and off. Raises OSError where we may only read."""
        known = {code: value for code, value in lights.items() if code in self.capabilities.of(Ev.EV_LED)}
        if known and not self._may_write:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        for code, value in known.items():
            self._device.set_led(code, value)

    def __str__(self) -> str:
        return f"{printable(self.identity.name)} ({self.path})"


def _capabilities(device: object) -> Capabilities:
    """Of an evdev.InputDevice."""
    found = device.capabilities(absinfo=True)  # type: ignore[attr-defined]
    axes = {
        code: virtio_input_absinfo(info.min, info.max, info.fuzz, info.flat, info.resolution)
        for code, info in found.pop(Ev.EV_ABS, [])
    }
    # A HID device with many axes has also those that are called so, and no touches: libevdev tells them so, too.
    if Abs.ABS_MT_SLOT - 1 in axes:
        axes = {code: axis for code, axis in axes.items() if code < Abs.ABS_MT_SLOT}
    found.pop(Ev.EV_SYN, None)
    info = device.info  # type: ignore[attr-defined]
    return Capabilities(
        name=device.name,  # type: ignore[attr-defined]
        ids=virtio_input_devids(info.bustype, info.vendor, info.product, info.version),
        codes={type_: frozenset(codes) for type_, codes in found.items()},
        axes=axes,
        props=frozenset(device.input_props()),  # type: ignore[attr-defined]
    )


def _slot_values(fd: int, code: int, slots: int) -> list[int]:
    """EVIOCGMTSLOTS (linux/input.h): the axis `code` of each slot; python-evdev has no call for it."""
    buffer = bytearray(_INT.pack(code) + bytes(_INT.size * slots))
    fcntl.ioctl(fd, 2 << 30 | len(buffer) << 16 | ord("E") << 8 | 0x0A, buffer)
    return [value for (value,) in _INT.iter_unpack(buffer[_INT.size :])]


def paths(folder: Path = FOLDER) -> list[Path]:
    """The event devices that there are, in the order of their numbers; whether we may open them or not."""
    numbers = [int(path.name[5:]) for path in folder.glob("event*") if path.name[5:].isdecimal()]
    return [folder / f"event{number}" for number in sorted(numbers)]


def identity_of(path: Path) -> Identity:
    """Who an event device is, by sysfs, which tells also those who may not open it. Raises OSError."""
    device = SYSFS / path.name / "device"
    words = {name: (device / name).read_text("utf-8", "replace").rstrip("\n") for name in ("name", "phys", "uniq")}
    vendor, product = (int((device / "id" / name).read_text(), 16) for name in ("vendor", "product"))
    return Identity(words["name"], vendor, product, words["uniq"], words["phys"])


def lights_of(names: dict[str, object]) -> dict[int, int]:
    """Codes and values of lights by name, as devices report them; what is none is left out."""
    return {Led[name]: int(bool(value)) for name, value in names.items() if name in Led.__members__}
