"""What a script driver can do to each device, as the events of one packet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from subos_protocol.input_codes import Abs, Ev, Key, Rel
from subos_protocol.virtio_input import virtio_input_event

from .capabilities import NO_TOUCH, PRESSED, RELEASED, SYN_REPORT
from .keymap import keys_for

HI_RES = 120  # REL_WHEEL_HI_RES units of one detent


class Events(list[virtio_input_event]):
    """Events that only `device` understands."""

    def __init__(self, device: str, events: Iterable[virtio_input_event]) -> None:
        super().__init__(events)
        self.device = device


Action = list[virtio_input_event] | float
"""Events to send as one packet, or seconds to wait."""


def device_of(action: Action) -> str | None:
    """Which device the action is for: "keyboard", "mouse", one that it names, or None for a pause."""
    if isinstance(action, float):
        return None
    if isinstance(action, Events):
        return action.device
    keys = (event.code for event in action if event.type == Ev.EV_KEY)
    return "keyboard" if any(code < Key.BTN_MISC for code in keys) else "mouse"


def frame(*events: tuple[int, int, int]) -> list[virtio_input_event]:
    """(type, code, value) of what happens at one moment, and its end."""
    return [*(virtio_input_event(*event) for event in events), SYN_REPORT]


def move(x: int, y: int) -> list[virtio_input_event]:
    """To (x, y), each from 0 to AXIS_MAX."""
    return frame((Ev.EV_ABS, Abs.ABS_X, x), (Ev.EV_ABS, Abs.ABS_Y, y))


def nudge(dx: int, dy: int) -> Events:
    """By so much, of a relative mouse."""
    return Events("pointer", frame((Ev.EV_REL, Rel.REL_X, dx), (Ev.EV_REL, Rel.REL_Y, dy)))


def button(code: int, value: int) -> list[virtio_input_event]:
    """PRESSED or RELEASED."""
    return frame((Ev.EV_KEY, code, value))


def scroll(detents: int, *, horizontal: bool = False) -> list[virtio_input_event]:
    """Up, or right, by `detents`; in both resolutions, as the kernel's own mouse drivers report it."""
    coarse, fine = (Rel.REL_HWHEEL, Rel.REL_HWHEEL_HI_RES) if horizontal else (Rel.REL_WHEEL, Rel.REL_WHEEL_HI_RES)
    return frame((Ev.EV_REL, coarse, detents), (Ev.EV_REL, fine, detents * HI_RES))


def chord(codes: Sequence[int]) -> list[virtio_input_event]:
    """Presses the keys in order and releases them in reverse."""
    events = [button(code, PRESSED) for code in codes] + [button(code, RELEASED) for code in reversed(codes)]
    return [event for step in events for event in step]


def type_text(text: str) -> list[Action]:
    """A chord for each letter. Raises UserError for a letter that a US keyboard does not have."""
    return [chord(keys_for(letter)) for letter in text]


def touch(finger: int, x: int, y: int) -> Events:
    """Puts a finger (a slot, from 0) to (x, y), each from 0 to AXIS_MAX, or moves it there."""
    place = ((Ev.EV_ABS, Abs.ABS_MT_POSITION_X, x), (Ev.EV_ABS, Abs.ABS_MT_POSITION_Y, y))
    slot = (Ev.EV_ABS, Abs.ABS_MT_SLOT, finger)
    return Events("touch", frame(slot, (Ev.EV_ABS, Abs.ABS_MT_TRACKING_ID, finger), *place))


def lift(finger: int) -> Events:
    slot = (Ev.EV_ABS, Abs.ABS_MT_SLOT, finger)
    return Events("touch", frame(slot, (Ev.EV_ABS, Abs.ABS_MT_TRACKING_ID, NO_TOUCH)))
