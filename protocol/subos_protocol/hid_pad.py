"""A gamepad that the guest's agent makes as a HID device, whose driver in the guest makes everything else of it.

The description of such a pad (`gamepad.Pad`) and of each of its parts says so, all with the same words but for `part`:

    "hid": {"model": "dualsense", "name": "…", "pad": "gamepad3", "part": "motion", "parts": ["motion", "touchpad"],
            "only": false}

An agent that knows no such model, or a guest whose kernel cannot, makes them by uinput, unless `only` is true.

What the guest's programs light on the pad comes back as its whole state:

    {"led": {"rgb": [0, 0, 128], "players": 4}}

and its battery is told it by events of EV_PWR, for which the kernel has no codes of its own: those of `Battery`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Dict, NamedTuple, Optional, Tuple

from .errors import Malformed
from .input_codes import Ev

PAD = "pad"
PARTS = ("motion", "touchpad")
MAX_WORD = 32  # bytes of a model's name
MAX_PLAYERS = 0x1F  # five lights
MAX_LEVEL = 100


class Battery(IntEnum):
    """Codes of EV_PWR."""

    LEVEL = 0  # in percent
    STATE = 1  # one of `Charge`


class Charge(IntEnum):
    """What a battery does."""

    DISCHARGING = 0
    CHARGING = 1
    FULL = 2


BATTERY = {Battery.LEVEL: range(MAX_LEVEL + 1), Battery.STATE: range(len(Charge))}
"""The values of each code."""
BATTERY_REST = {Battery.LEVEL: MAX_LEVEL, Battery.STATE: int(Charge.FULL)}
"""Of a pad whose battery nobody has spoken of: it is at a cable."""


def is_battery(type_: int, code: int, value: int) -> bool:
    """Whether an event says something of a battery."""
    return type_ == Ev.EV_PWR and code in BATTERY and value in BATTERY[Battery(code)]


class Hid(NamedTuple):
    """`model` is the pad's kind, `name` its own, `pad` its serial; `part` is which of its event devices is described
    (PAD, or one of PARTS), and `parts` are those that come beside it. `only`: by uinput it is not wanted."""

    model: str
    name: str
    pad: str
    part: str
    parts: Tuple[str, ...]
    only: bool = False

    @property
    def serials(self) -> Dict[str, str]:
        """The serial of each of its virtio-input twins, by part."""
        return {PAD: self.pad, **{part: part_serial(self.pad, part) for part in self.parts}}


def part_serial(pad: str, part: str) -> str:
    """What a part is called, of the pad `pad`."""
    return f"{pad}-{part}"


class Light(NamedTuple):
    """What is lit on a pad: its colour, 0 to 255 each, and the lights that number its player, a bit each from the left.
    All 0 where it has none of the kind."""

    rgb: Tuple[int, int, int]
    players: int


def pack_hid(hid: Optional[Hid]) -> Dict[str, Any]:
    """For JSON: what a description has more."""
    return {} if hid is None else {"hid": {**hid._asdict(), "parts": list(hid.parts)}}


def unpack_hid(said: Any) -> Optional[Hid]:
    """None where there is nothing. Raises Malformed."""
    if said is None:
        return None
    if not isinstance(said, dict):
        raise Malformed("a HID device that is none")
    parts, only = said.get("parts"), said.get("only", False)
    if not isinstance(parts, list) or [part for part in PARTS if part in parts] != parts or type(only) is not bool:
        raise Malformed("a HID device of other parts")
    model, name, pad, part = (_text(said.get(key), most) for key, most in _TEXTS.items())
    if part != PAD and part not in parts:
        raise Malformed("a part that the HID device does not have")
    return Hid(model, name, pad, part, tuple(parts), only)


_TEXTS = {"model": MAX_WORD, "name": 79, "pad": 100, "part": MAX_WORD}  # bytes


def _text(said: Any, limit: int) -> str:
    if not isinstance(said, str) or not said or not said.isprintable() or len(said.encode()) > limit:
        raise Malformed("a HID device's name is none")
    return said


def light_to_object(light: Light) -> Dict[str, Any]:
    """What JSON has of it."""
    return {"led": {"rgb": list(light.rgb), "players": light.players}}


def light_from_object(said: Any) -> Light:
    """What `light_to_object` has inside; it may come from anybody. Raises Malformed."""
    if not isinstance(said, dict) or said.keys() != {"rgb", "players"}:
        raise Malformed("lights that are none")
    rgb, players = said["rgb"], said["players"]
    if not isinstance(rgb, list) or len(rgb) != 3:
        raise Malformed("a colour that is none")
    for number, most in (*((part, 0xFF) for part in rgb), (players, MAX_PLAYERS)):
        if type(number) is not int or not 0 <= number <= most:
            raise Malformed("lights out of their range")
    return Light((rgb[0], rgb[1], rgb[2]), players)
