"""The script's words for gamepads: pad, stick and trigger, and those for what else a pad has. What they are depends on
the pad.

pad BUTTON [press|release]           a, b, x, y, lb, rb, start …, or up, down, left, right of the cross
stick left|right X Y                 from -100% to 100%; down and right are positive
trigger left|right N                 from 0% to 100%
battery N% [charging|full]           of a pad with one, in tens of percent; at a cable, and full, unless said

gyro X Y Z                           how fast it turns, in degrees a second: ABS_RX, ABS_RY, ABS_RZ of its sensors
accel X Y Z                          what it feels, in g: ABS_X, ABS_Y, ABS_Z; one that lies still feels its weight
touchpad X Y [--finger N]            puts finger 1 (unless said) there, or moves it; from 0% to 100%
touchpad lift [--finger N]
touchpad press|release|click         the button under the fingers
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from subos_protocol.hid_pad import Battery, Charge
from subos_protocol.input_codes import Abs, Ev, Key
from subos_protocol.virtio_input import virtio_input_event

from ...errors import UserError
from ..actions import button, frame
from ..capabilities import NO_TOUCH, PRESSED, RELEASED, Capabilities

Frame = list[virtio_input_event]

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
    return frame(_from_its_end(pad, TRIGGERS[words[0]], _part(words[1], 0)))


def _battery(words: list[str], pad: Capabilities) -> list[virtio_input_event]:
    if not pad.battery:
        raise UserError(f"the battery of {pad.name} is none that a guest can read", "dualsense and dualshock4 have one")
    states = {"": Charge.DISCHARGING, "charging": Charge.CHARGING, "full": Charge.FULL}
    if len(words) not in (1, 2) or "".join(words[1:]) not in states:
        raise UserError("battery takes a percentage, and perhaps charging or full", "battery 40% charging, wait 1")
    level = round(100 * _part(words[0], 0))
    state = states["".join(words[1:])]
    return frame((Ev.EV_PWR, Battery.LEVEL, level), (Ev.EV_PWR, Battery.STATE, state))


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


def _from_its_end(pad: Capabilities, code: int, part: float) -> virtio_input_event:
    """The axis `code` of a pad from its lower end, 0, to its upper one, 1."""
    axis = pad.axes[code]
    return virtio_input_event(Ev.EV_ABS, code, axis.min + round(part * (axis.max - axis.min)))


def _sensors(words: list[str], can: Capabilities, verb: str, axes: Sequence[int], hint: str) -> Frame:
    if len(words) != len(axes) or not all(re.fullmatch(r"[+-]?[0-9]{1,6}(\.[0-9]{1,6})?", word) for word in words):
        raise UserError(f"{verb} takes X, Y and Z, not {' '.join(words) or 'nothing'!r}", hint)
    events = []
    for code, word in zip(axes, words, strict=True):
        axis = can.axes[code]
        value = round(float(word) * axis.res)
        if not axis.min <= value <= axis.max:
            raise UserError(f"{verb}: {word} is more than {can.name} can tell", f"{axis.max / axis.res:g} at most")
        events.append((Ev.EV_ABS, code, value))
    return frame(*events)


def _gyro(words: list[str], can: Capabilities) -> Frame:
    return _sensors(words, can, "gyro", (Abs.ABS_RX, Abs.ABS_RY, Abs.ABS_RZ), "degrees a second: gyro 0 90 0, wait 1")


def _accel(words: list[str], can: Capabilities) -> Frame:
    return _sensors(words, can, "accel", (Abs.ABS_X, Abs.ABS_Y, Abs.ABS_Z), "in g: accel 0 1 0")


def _touchpad(words: list[str], can: Capabilities) -> Frame:
    if words in (["press"], ["release"], ["click"]):
        down, up = button(Key.BTN_LEFT, PRESSED), button(Key.BTN_LEFT, RELEASED)
        return {"press": down, "release": up, "click": [*down, *up]}[words[0]]
    slot = 0
    if "--finger" in words:
        at = words.index("--finger")
        number, last = "".join(words[at + 1 : at + 2]), can.axes[Abs.ABS_MT_SLOT].max + 1
        if not re.fullmatch(r"[0-9]{1,2}", number) or not 1 <= int(number) <= last:
            raise UserError(f"--finger takes a number from 1 to {last}", "touchpad 50% 50% --finger 2")
        slot, words = int(number) - 1, words[:at] + words[at + 2 :]
    select = (Ev.EV_ABS, Abs.ABS_MT_SLOT, slot)
    if words == ["lift"]:
        return frame(select, (Ev.EV_ABS, Abs.ABS_MT_TRACKING_ID, NO_TOUCH))
    if len(words) != 2:
        raise UserError("touchpad takes X and Y, lift, press, release or click", "touchpad 50% 50%, touchpad click")
    x, y = (
        _from_its_end(can, code, _part(word, 0))
        for code, word in zip((Abs.ABS_MT_POSITION_X, Abs.ABS_MT_POSITION_Y), words, strict=True)
    )
    return frame(select, (Ev.EV_ABS, Abs.ABS_MT_TRACKING_ID, slot), x, y)


VERBS: dict[str, Callable[[list[str], Capabilities], list[virtio_input_event]]] = {
    "pad": _pad,
    "stick": _stick,
    "trigger": _trigger,
    "battery": _battery,
}
PART_VERBS: dict[str, tuple[str, Callable[[list[str], Capabilities], Frame]]] = {
    "gyro": ("motion", _gyro),
    "accel": ("motion", _accel),
    "touchpad": ("touchpad", _touchpad),
}
"""Of the further event devices: which, and what the words are."""
