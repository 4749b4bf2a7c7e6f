"""From a place on one of the guest's monitors to one on an absolute device, whose axes reach over the whole desktop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from subos_protocol.input_codes import Abs, Ev
from subos_protocol.monitors import Layout
from subos_protocol.virtio_input import virtio_input_event

from ..errors import UserError
from .mouse import AXIS_MAX

_UNITS = AXIS_MAX + 1
_ACROSS = (Abs.ABS_X, Abs.ABS_MT_POSITION_X)
_DOWN = (Abs.ABS_Y, Abs.ABS_MT_POSITION_Y)


def places(events: Iterable[virtio_input_event]) -> bool:
    """Whether one of them says where."""
    return any(event.type == Ev.EV_ABS and event.code in _ACROSS + _DOWN for event in events)


class Span(NamedTuple):
    """Of an axis: from its first unit to its last that lies on the monitor."""

    first: int
    last: int

    def place(self, value: int) -> int:
        """Of `value` from 0, the monitor's left or upper edge, to AXIS_MAX."""
        return self.first + (value * (self.last - self.first) + AXIS_MAX // 2) // AXIS_MAX


class Reach(NamedTuple):
    """Where a monitor lies on the axes."""

    across: Span
    down: Span

    def place(self, events: Iterable[virtio_input_event]) -> list[virtio_input_event]:
        """The same events, their positions on the monitor."""
        return [self._place(event) for event in events]

    def _place(self, event: virtio_input_event) -> virtio_input_event:
        if event.type != Ev.EV_ABS or event.code not in _ACROSS + _DOWN:
            return event
        span = self.across if event.code in _ACROSS else self.down
        return event._replace(value=span.place(event.value))


def reach(layout: Layout, number: int) -> Reach:
    """Of the monitor `number`, from 1. Raises UserError, which lists them."""
    if not 1 <= number <= len(layout.monitors):
        raise UserError(f"the guest has no monitor {number}", f"there is {describe(layout)}")
    whole, area = layout.desktop, layout.monitors[number - 1].area
    return Reach(_span(area.x - whole.x, area.width, whole.width), _span(area.y - whole.y, area.height, whole.height))


def _span(start: int, length: int, whole: int) -> Span:
    """Unit u of the axis is what lies from u * whole / _UNITS on, in pixels from the desktop's edge."""
    first = -(-start * _UNITS // whole)
    last = -(-(start + length) * _UNITS // whole) - 1
    return Span(min(first, AXIS_MAX), max(min(first, AXIS_MAX), last))


def describe(layout: Layout) -> str:
    """1: DP-1, 1920x1080 at 0,0; 2: …"""
    monitors = [
        f"{number}: {name}, {area.width}x{area.height} at {area.x},{area.y}"
        for number, (name, area) in enumerate(layout.monitors, 1)
    ]
    return "; ".join(monitors) if monitors else "none that is on"
