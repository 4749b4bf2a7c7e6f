"""The script's words for gamepads: pad, stick and trigger. What they are depends on the pad.

pad BUTTON [press|release]           a, b, x, y, lb, rb, start …, or up, down, left, right of the cross
stick left|right X Y                 from -100% to 100%; down and right are positive
trigger left|right N                 from 0% to 100%
"""

from __future__ import annotations

import re
from collections.abc import Callable

from subos_protocol.input_codes import Abs, Ev, Key
from subos_protocol.virtio_input import virtio_input_event

from ...errors import UserError
from ..actions import button, frame
from ..capabilities import PRESSED, RELEASED, Capabilities

BUTTONS = {
    **{name: Key[f"BTN_{name.upper()}"] for name in ("south", "east", "north", "west", "a", "b", "x", "y", "z")},
    **{name: Key[f"BTN_{name.upper()}"] for name in ("tl", "tr", "tl2", "tr2", "select", "start", "mode")},
    "thumbl": Key.BTN_THUMBL,
    "thumbr": Key.BTN_THUMBR,
    "lb": Key.BTN_TL,
    "rb": Key.BTN_TR,
    "back": Key.BTN_SELECT,
    "guide": Key.BTN_MODE,
    "ls": Key.BTN_THUMBL,
    "rs": Key.BTN_THUMBR,
    "record": Key.KEY_RECORD,
}
"""The kernel's names, and those on an Xbox pad. X and Y are what the kernel calls so: see gamepad/profiles."""

STICKS = {"left": (Abs.ABS_X, Abs.ABS_Y), "right": (Abs.ABS_RX, Abs.ABS_RY)}
TRIGGERS = {"left": Abs.ABS_Z, "right": Abs.ABS_RZ}
CROSS = {
    "left": (Abs.ABS_HAT0X, -1),
    "right": (Abs.ABS_HAT0X, 1),
    "up": (Abs.ABS_HAT0Y, -1),
    "down": (Abs.ABS_HAT0Y, 1),
}


def _pad(words: list[str], pad: Capabilities) -> list[virtio_input_event]:
    if len(words) not in (1, 2) or words[1:] not in ([], ["press"], ["release"]):
        raise UserError("pad takes a button", "pad a, or pad a press, wait 1, pad a release")
    down, up = _switch(words[0], pad)
    return {"": [*down, *up], "press": down, "release": up}["".join(words[1:])]


def _switch(name: str, pad: Capabilities) -> tuple[list[virtio_input_event], list[virtio_input_event]]:
    """What presses a button, or the cross, and what releases it."""
    if name in CROSS and CROSS[name][0] in pad.axes:
        axis, value = CROSS[name]
        return frame((Ev.EV_ABS, axis, value)), frame((Ev.EV_ABS, axis, 0))
    code = BUTTONS.get(name)
    if code is None or code not in pad.of(Ev.EV_KEY):
        there = [word for word, code in BUTTONS.items() if code in pad.of(Ev.EV_KEY)]
        raise UserError(f"{pad.name} has no button {name!r}", f"there are {', '.join([*there, *CROSS])}")
    return button(code, PRESSED), button(code, RELEASED)


def _stick(words: list[str], pad: Capabilities) -> list[virtio_input_event]:
    if len(words) != 3 or words[0] not in STICKS:
        raise UserError("stick takes left or right, X and Y", "stick left 100% 0%, wait 1")
    parts = [_part(word, -1) for word in words[1:]]
    return frame(*(_stick_event(pad, code, part) for code, part in zip(STICKS[words[0]], parts, strict=True)))


def _trigger(words: list[str], pad: Capabilities) -> list[virtio_input_event]:
    if len(words) != 2 or words[0] not in TRIGGERS:
        raise UserError("trigger takes left or right, and how far", "trigger right 100%, wait 1")
    if TRIGGERS[words[0]] not in pad.axes:
        raise UserError(f"the triggers of {pad.name} are buttons", "pad tl2, or pad tr2")
    return frame(_trigger_event(pad, TRIGGERS[words[0]], _part(words[1], 0)))


def _part(word: str, least: int) -> float:
    """A percentage, as a part of 1."""
    if not re.fullmatch(r"[+-]?[0-9]{1,3}(\.[0-9]+)?%", word) or not least <= float(word[:-1]) / 100 <= 1:
        raise UserError(f"{word!r} is not how far", f"a percentage from {100 * least}% to 100%")
    return float(word[:-1]) / 100


def _stick_event(pad: Capabilities, code: int, part: float) -> virtio_input_event:
    """The axis `code` of a pad from its one end, -1, over its middle, 0, to its other, 1."""
    axis = pad.axes[code]
    middle = (axis.min + axis.max + 1) // 2
    reach = axis.max - middle if part > 0 else middle - axis.min
    return virtio_input_event(Ev.EV_ABS, code, middle + round(part * reach))


def _trigger_event(pad: Capabilities, code: int, part: float) -> virtio_input_event:
    """The axis `code` of a pad from 0, nobody pulls it, to 1."""
    axis = pad.axes[code]
    return virtio_input_event(Ev.EV_ABS, code, axis.min + round(part * (axis.max - axis.min)))


VERBS: dict[str, Callable[[list[str], Capabilities], list[virtio_input_event]]] = {
    "pad": _pad,
    "stick": _stick,
    "trigger": _trigger,
}
