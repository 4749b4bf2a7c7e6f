"""The gamepads that there are: files in `profiles/`, each with what the real pad is under Linux.

    name = "Microsoft X-Box 360 pad"
    source = ["drivers/input/joystick/xpad.c: xpad_init_input"]     where in the kernel the values come from
    bus = "BUS_USB"
    vendor = 0x045e                                                 product and version likewise, 16 bits each
    buttons = ["BTN_SOUTH"]
    force_feedback = ["FF_RUMBLE"]

    [axes]
    ABS_X = { min = -32768, max = 32767, fuzz = 16, flat = 128, resolution = 0, rest = 0 }

`rest` is where an axis stands that nobody touches. All keys are needed, and there are no others, but for the further
event devices that a pad has, with its ids, and for

    hid = "dualsense"               the agent can make it as a HID device of that kind, of which the guest's kernel
                                    makes all of its event devices, its lights and its battery

    [motion]                                                        or [touchpad]: see PARTS
    name = "… Motion Sensors"
    source = ["drivers/hid/hid-playstation.c: ps_sensors_create"]
    properties = ["INPUT_PROP_ACCELEROMETER"]
    buttons = []
    misc = ["MSC_TIMESTAMP"]

    [motion.axes]
    ABS_X = { … }
"""

from __future__ import annotations

import os
import tomllib  # here, so that pads' workers share it
from collections.abc import Iterable, Mapping
from enum import IntEnum
from functools import cache
from typing import Any, NamedTuple, TypeVar

from subos_protocol.gamepad import MAX_NAME
from subos_protocol.input_codes import Abs, Bus, Ev, Ff, Key, Msc, Prop
from subos_protocol.virtio_input import virtio_input_absinfo, virtio_input_devids

from ...errors import SubosError, UserError
from ..capabilities import Capabilities
from . import ENDING, FOLDER, names

Code = TypeVar("Code", bound=IntEnum)
Rest = Mapping[int, int]

_KINDS: Mapping[str, type] = {
    "name": str,
    "source": list,
    "bus": str,
    "vendor": int,
    "product": int,
    "version": int,
    "buttons": list,
    "force_feedback": list,
    "axes": dict,
}
_PART_KINDS: Mapping[str, type] = {
    "name": str,
    "source": list,
    "properties": list,
    "buttons": list,
    "misc": list,
    "axes": dict,
}
_AXIS: Mapping[str, type] = dict.fromkeys(("min", "max", "fuzz", "flat", "resolution", "rest"), int)
_INT32 = range(-(1 << 31), 1 << 31)


class BadProfile(SubosError):
    """A file that describes no gamepad."""


PARTS = ("motion", "touchpad")
"""The further event devices that a pad may have: gyroscope and accelerometer, and what fingers move on."""


class Part(NamedTuple):
    """A further event device of a pad."""

    capabilities: Capabilities
    rest: Rest
    source: tuple[str, ...]


class Profile(NamedTuple):
    """`name` is the file's; `rest` says where the axes stand that nobody touches, `source` where it all comes from.
    `parts` are the pad's further event devices, by their names in PARTS; `hid` is the kind of HID device that it may
    be, empty for none."""

    name: str
    capabilities: Capabilities
    force_feedback: frozenset[int]
    rest: Rest
    source: tuple[str, ...]
    parts: Mapping[str, Part]
    hid: str = ""

    def part(self, name: str) -> Part:
        """Raises UserError where the pad has no such device."""
        if name not in self.parts:
            having = ", ".join(each for each in names() if name in load(each).parts)
            raise UserError(f"the gamepad {self.name} has no {name}", f"{having} have one")
        return self.parts[name]


@cache
def load(name: str) -> Profile:
    """The profile called `name`. Raises UserError."""
    if name not in names():
        raise UserError(f"no gamepad is called {name!r}", f"there are {', '.join(names())}")
    with open(os.path.join(FOLDER, name + ENDING), encoding="utf-8") as file:
        return parse(name, file.read())


def parse(name: str, text: str) -> Profile:
    """The profile that a file describes. Raises BadProfile, which says what is wrong where."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadProfile(f"{name}: it is not TOML: {error}") from error
    parts = {key: table.pop(key) for key in PARTS if key in table}
    hid = table.pop("hid", "")
    if not isinstance(hid, str):
        raise BadProfile(f"{name}: hid must be of the kind str, not {hid!r}")
    _check_keys(name, table, _KINDS)
    _check_texts(name, table)
    if not table["source"] or not table["buttons"]:
        raise BadProfile(f"{name}: a gamepad has buttons, and a source")
    numbers = [_number(name, key, table[key], range(1 << 16)) for key in ("vendor", "product", "version")]
    axes, rest = _axes(name, table["axes"])
    capabilities = Capabilities(
        name=table["name"],
        ids=virtio_input_devids(*_codes(name, Bus, [table["bus"]]), *numbers),
        codes={Ev.EV_KEY: frozenset(_codes(name, Key, table["buttons"]))},
        axes=axes,
        battery=bool(hid),
    )
    effects = frozenset[int](_codes(name, Ff, table["force_feedback"]))
    made = {key: _part(f"{name}: {key}", part, capabilities.ids) for key, part in parts.items()}
    return Profile(name, capabilities, effects, rest, tuple(table["source"]), made, hid)


def _part(where: str, table: Any, ids: virtio_input_devids) -> Part:
    if not isinstance(table, dict):
        raise BadProfile(f"{where} must be a table")
    _check_keys(where, table, _PART_KINDS)
    _check_texts(where, table)
    if not table["source"]:
        raise BadProfile(f"{where}: it has a source")
    axes, rest = _axes(where, table["axes"])
    codes: dict[int, frozenset[int]] = {
        Ev.EV_KEY: frozenset(_codes(where, Key, table["buttons"])),
        Ev.EV_MSC: frozenset(_codes(where, Msc, table["misc"])),
    }
    capabilities = Capabilities(
        name=table["name"],
        ids=ids,
        codes={type_: listed for type_, listed in codes.items() if listed},
        axes=axes,
        props=frozenset(_codes(where, Prop, table["properties"])),
    )
    return Part(capabilities, rest, tuple(table["source"]))


def _check_texts(where: str, table: Mapping[str, Any]) -> None:
    """The name, and lists."""
    for key, value in table.items():
        if type(value) is not list:
            continue
        if not all(isinstance(item, str) for item in value) or len(set(value)) != len(value):
            raise BadProfile(f"{where}: {key} must be a list of texts, each of them once")
    if not 0 < len(table["name"].encode()) <= MAX_NAME:
        raise BadProfile(f"{where}: name has 1 to {MAX_NAME} bytes")


def _axes(name: str, table: dict[str, Any]) -> tuple[dict[int, virtio_input_absinfo], dict[int, int]]:
    """Each axis, and where it rests."""
    axes, rest = {}, {}
    for axis, code in zip(table, _codes(name, Abs, table), strict=True):
        where = f"{name}: {axis}"
        if not isinstance(table[axis], dict):
            raise BadProfile(f"{where} must be a table")
        _check_keys(where, table[axis], _AXIS)
        low, high, fuzz, flat, resolution, place = (_number(where, key, table[axis][key], _INT32) for key in _AXIS)
        if not (low <= place <= high and low < high) or min(fuzz, flat, resolution) < 0:
            raise BadProfile(f"{where}: min < max, rest within them, and nothing else below 0")
        axes[int(code)] = virtio_input_absinfo(low, high, fuzz, flat, resolution)
        rest[int(code)] = place
    return axes, rest


def _check_keys(where: str, table: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    for key in sorted(table.keys() ^ kinds.keys()):
        raise BadProfile(f"{where}: {key} is {'missing' if key in kinds else 'no key of a profile'}")
    for key, kind in kinds.items():
        if type(table[key]) is not kind:
            raise BadProfile(f"{where}: {key} must be of the kind {kind.__name__}, not {table[key]!r}")


def _number(where: str, key: str, value: int, allowed: range) -> int:
    if value not in allowed:
        raise BadProfile(f"{where}: {key} is {value}, which is not within {allowed.start} to {allowed.stop - 1}")
    return value


def _codes(name: str, kind: type[Code], members: Iterable[str]) -> list[Code]:
    """The kernel's numbers, of which some have several names."""
    found = []
    for member in members:
        if member not in kind.__members__:
            raise BadProfile(f"{name}: {member} is no {kind.__name__} that the kernel knows")
        found.append(kind[member])
    if len(set(found)) != len(found):
        raise BadProfile(f"{name}: two names of one {kind.__name__}")
    return found
