"""Reading /dev/input with the standard library alone: what devices there are, what they can do, what they report.

    for device in devices():
        with device:
            print(device.name, device.ids, device.codes(Ev.EV_REL))
            for event in device.read(timeout=1.0):
                print(code_name(event.type, event.code), event.value)

or `python3 -m subos_agent.evdev list`, `… read NAME` for a line of JSON an event, and `… light NAME LED_CAPSL on`.
Source: the kernel's include/uapi/linux/input.h.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import select
import struct
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Iterator, List, NamedTuple, Optional, Sequence, Set, Type

from subos_protocol.effects import Effect, Rumble
from subos_protocol.ff_effect import EVIOCSFF, to_kernel
from subos_protocol.input_codes import (
    ABS_MAX,
    EV_MAX,
    FF_MAX,
    INPUT_PROP_MAX,
    KEY_MAX,
    LED_MAX,
    MSC_MAX,
    REL_MAX,
    SND_MAX,
    SW_MAX,
    Ev,
    Led,
    Syn,
    code_name,
)
from subos_protocol.input_event import INPUT_EVENT, pack_event
from subos_protocol.virtio_input import unpack_bitmap

INPUT_FOLDER = Path("/dev/input")

_ID = struct.Struct("=HHHH")  # struct input_id
_ABSINFO = struct.Struct("=6i")  # struct input_absinfo
_STRING = 256  # bytes, more than any name
_BATCH = 64  # events a read
_MAX = {  # of each type that EVIOCGBIT answers for; it has nothing to say of EV_REP
    0: EV_MAX,  # asked with type 0, the bitmap is that of the event types
    Ev.EV_KEY: KEY_MAX,
    Ev.EV_REL: REL_MAX,
    Ev.EV_ABS: ABS_MAX,
    Ev.EV_MSC: MSC_MAX,
    Ev.EV_SW: SW_MAX,
    Ev.EV_LED: LED_MAX,
    Ev.EV_SND: SND_MAX,
    Ev.EV_FF: FF_MAX,
}


def _read_ioctl(number: int, size: int) -> int:
    """_IOC(_IOC_READ, 'E', number, size)."""
    return 2 << 30 | size << 16 | ord("E") << 8 | number


def eviocgname(size: int) -> int:
    return _read_ioctl(0x06, size)


def eviocguniq(size: int) -> int:
    return _read_ioctl(0x08, size)


def eviocgprop(size: int) -> int:
    return _read_ioctl(0x09, size)


def eviocgkey(size: int) -> int:
    return _read_ioctl(0x18, size)


def eviocgbit(type_: int, size: int) -> int:
    return _read_ioctl(0x20 + type_, size)


def eviocgabs(axis: int) -> int:
    return _read_ioctl(0x40 + axis, _ABSINFO.size)


EVIOCGID = _read_ioctl(0x02, _ID.size)


class input_event(NamedTuple):
    """One event as the kernel reports it."""

    sec: int
    usec: int
    type: int
    code: int
    value: int


class input_id(NamedTuple):
    bustype: int
    vendor: int
    product: int
    version: int


class input_absinfo(NamedTuple):
    value: int
    minimum: int
    maximum: int
    fuzz: int
    flat: int
    resolution: int


class EventDevice:
    """An open /dev/input/eventN; a context manager. `writable` is for `write` and `play`. Raises OSError as the kernel
    does."""

    def __init__(self, path: Path, writable: bool = False) -> None:
        self.path = path
        self.fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> EventDevice:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def name(self) -> str:
        return _string(fcntl.ioctl(self.fd, eviocgname(_STRING), bytes(_STRING)))

    @property
    def serial(self) -> str:
        """What the kernel calls `uniq`; empty where there is none."""
        try:
            return _string(fcntl.ioctl(self.fd, eviocguniq(_STRING), bytes(_STRING)))
        except FileNotFoundError:
            return ""

    @property
    def ids(self) -> input_id:
        return input_id(*_ID.unpack(fcntl.ioctl(self.fd, EVIOCGID, bytes(_ID.size))))

    @property
    def props(self) -> Set[int]:
        """INPUT_PROP_* numbers."""
        size = INPUT_PROP_MAX // 8 + 1
        return unpack_bitmap(fcntl.ioctl(self.fd, eviocgprop(size), bytes(size)))

    @property
    def types(self) -> Set[int]:
        """Event types that the device has."""
        return self.codes(0)

    def codes(self, type_: int) -> Set[int]:
        """Codes of `type_` that the device has."""
        size = _MAX[type_] // 8 + 1
        return unpack_bitmap(fcntl.ioctl(self.fd, eviocgbit(type_, size), bytes(size)))

    @property
    def pressed(self) -> Set[int]:
        """Keys and buttons that are down now."""
        size = KEY_MAX // 8 + 1
        return unpack_bitmap(fcntl.ioctl(self.fd, eviocgkey(size), bytes(size)))

    def axis(self, code: int) -> input_absinfo:
        """Range and present value of an absolute axis."""
        return input_absinfo(*_ABSINFO.unpack(fcntl.ioctl(self.fd, eviocgabs(code), bytes(_ABSINFO.size))))

    def write(self, type_: int, code: int, value: int) -> None:
        """One event for the device (a light), and the end of its frame."""
        os.write(self.fd, pack_event(type_, code, value) + pack_event(Ev.EV_SYN, Syn.SYN_REPORT, 0))

    def play(self, effect: Effect) -> None:
        """Has it rumble: until the effect has come to its end, another one is played, or the device is closed."""
        said = to_kernel(effect, number=-1)
        fcntl.ioctl(self.fd, EVIOCSFF, said)
        self.write(Ev.EV_FF, said.id, 1)

    def read(self, timeout: Optional[float] = None) -> Iterator[input_event]:
        """Events as they come; ends after `timeout` seconds in all, never if None. Raises OSError (ENODEV) when
        the device is unplugged."""
        deadline = None if timeout is None else time.monotonic() + timeout
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while True:
            left = None if deadline is None else max(0, deadline - time.monotonic()) * 1000
            if not poll.poll(left):
                return
            try:
                data = os.read(self.fd, _BATCH * INPUT_EVENT.size)
            except BlockingIOError:
                continue
            if not data:
                return
            for fields in INPUT_EVENT.iter_unpack(data):
                yield input_event(*fields)


def devices(folder: Optional[Path] = None) -> List[EventDevice]:
    """All event devices that may be opened, in the order of their numbers. The caller closes them."""
    found = []
    for path in sorted((folder or INPUT_FOLDER).glob("event*"), key=lambda path: int(path.name[5:])):
        try:
            found.append(EventDevice(path))
        except OSError:  # gone, or not ours to read
            continue
    return found


def find(name: str, folder: Optional[Path] = None) -> Optional[EventDevice]:
    """The first device called `name`, open."""
    found = None
    for device in devices(folder):
        with contextlib.suppress(OSError):  # it is gone already
            if found is None and device.name == name:
                found = device
                continue
        device.close()
    return found


def _string(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode(errors="replace")


def _describe(device: EventDevice) -> dict[str, object]:
    return {
        "path": str(device.path),
        "name": device.name,
        "serial": device.serial,
        "ids": device.ids,
        "props": sorted(device.props),
        "codes": {
            Ev(type_).name: [code_name(type_, code) for code in sorted(device.codes(type_))]
            for type_ in sorted(device.types & _MAX.keys() - {0})
        },
        "axes": {code_name(Ev.EV_ABS, code): device.axis(code) for code in sorted(device.codes(Ev.EV_ABS))},
        "pressed": [code_name(Ev.EV_KEY, code) for code in sorted(device.pressed)],
    }


def main(argv: Optional[Sequence[str]] = None) -> int:
    """`list`: the devices, a line of JSON each. `read NAME`: first such a line, then one an event: [type, code, value],
    with the kernel's names. `light NAME LED on|off`: switches a light. `rumble NAME STRONG WEAK LENGTH`: has a gamepad
    rumble for LENGTH ms, with magnitudes of 0 to 65535. Exit 1 where there is no such device."""
    parser = argparse.ArgumentParser(prog="python3 -m subos_agent.evdev", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    read = commands.add_parser("read")
    read.add_argument("name")
    read.add_argument("--timeout", type=float, help="seconds in all")
    light = commands.add_parser("light")
    light.add_argument("name")
    light.add_argument("led", choices=Led.__members__)
    light.add_argument("state", choices=("off", "on"))
    rumble = commands.add_parser("rumble")
    rumble.add_argument("name")
    for number in ("strong", "weak", "length"):
        rumble.add_argument(number, type=int, choices=range(1 << 16), metavar=number.upper())
    args = parser.parse_args(argv)
    if args.command == "list":
        for device in devices():
            with device, contextlib.suppress(OSError):  # it is gone already
                print(json.dumps(_describe(device)))
        return 0
    chosen = find(args.name)
    if chosen is None:
        print(f"no input device is called {args.name!r}", file=sys.stderr)
        return 1
    with chosen:
        if args.command in ("light", "rumble"):
            with EventDevice(chosen.path, writable=True) as device:
                if args.command == "light":
                    device.write(Ev.EV_LED, Led[args.led], int(args.state == "on"))
                else:
                    device.play(Effect(0, args.length, 0, 0, Rumble(args.strong, args.weak)))
                    time.sleep(args.length / 1000)
            return 0
        print(json.dumps(_describe(chosen)), flush=True)
        for event in chosen.read(args.timeout):
            type_ = Ev(event.type).name if event.type in Ev.__members__.values() else event.type
            print(json.dumps([type_, code_name(event.type, event.code), event.value]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
