"""Events on their way to a guest that takes four at a time.

A frame goes out event by event as the guest makes buffers available. While it waits, a frame of nothing but positions
joins the one before it if that is nothing but positions too (the last ones count, those of each touch apart), and
likewise for relative motion and for wheels (they add up); so nothing ever moves across a button or from one side of a
wheel's turn to the other. All else keeps its place, and is bounded by whoever heeds `full`.
"""

from __future__ import annotations

from collections import deque

from subos_protocol.input_codes import Abs, Ev, Msc, Rel
from subos_protocol.virtio_input import virtio_input_event

from .capabilities import SYN_REPORT, Frame

MAX_FRAMES = 64
NO_SLOT = 1 << 32  # greater than any: sorts behind them
_INT32_MIN, _INT32_MAX = -(1 << 31), (1 << 31) - 1
_WHEELS = frozenset({Rel.REL_WHEEL, Rel.REL_HWHEEL, Rel.REL_WHEEL_HI_RES, Rel.REL_HWHEEL_HI_RES})
_STEPS = frozenset({Abs.ABS_MT_TRACKING_ID, *range(Abs.ABS_HAT0X, Abs.ABS_HAT3Y + 1)})
"""Axes of which each value counts: where touches begin and end, and crosses of keys."""


class Outbox:
    """Frames in order. `take` empties it event by event, the SYN_REPORT of each frame included."""

    def __init__(self) -> None:
        self._sending: deque[virtio_input_event] = deque()  # the rest of a frame whose start the guest may have seen
        self._waiting: deque[Frame] = deque()

    def __bool__(self) -> bool:
        return bool(self._sending or self._waiting)

    @property
    def full(self) -> bool:
        """True where no more should be put in until some was taken out."""
        return len(self._waiting) >= MAX_FRAMES

    def put(self, frame: Frame) -> None:
        """Appends `frame`, or merges it into the last waiting one. An empty frame is nothing."""
        if not frame:
            return
        if self._waiting:
            merged = _merge(self._waiting[-1], frame)
            if merged is not None:
                self._waiting[-1] = merged
                return
        self._waiting.append(frame)

    def take(self) -> virtio_input_event:
        """The next event. Raises IndexError where there is none."""
        if not self._sending:
            self._sending.extend(self._waiting.popleft())
            self._sending.append(SYN_REPORT)
        return self._sending.popleft()

    def clear(self) -> None:
        self._sending.clear()
        self._waiting.clear()


def _merge(first: Frame, second: Frame) -> Frame | None:
    """One frame that leaves the guest where both would have, or None where it would miss something."""
    kinds = {_kind(event) for event in (*first, *second)}
    if len(kinds) != 1 or None in kinds:
        return None
    values: dict[tuple[int, int, int], int] = {}  # by slot, type and code
    for frame in (first, second):
        slot = NO_SLOT
        for type_, code, value in frame:
            if code == Abs.ABS_MT_SLOT and type_ == Ev.EV_ABS:
                slot = value
                continue
            of_touch = type_ == Ev.EV_ABS and code > Abs.ABS_MT_SLOT
            if of_touch and slot == NO_SLOT:  # of which touch, only the frames before can say
                return None
            key = (slot if of_touch else NO_SLOT, type_, code)
            if type_ == Ev.EV_REL:
                value = max(_INT32_MIN, min(_INT32_MAX, value + values.get(key, 0)))
            values[key] = value
    return _frame(values)


def _kind(event: virtio_input_event) -> str | None:
    """What `event` can be merged with; None: with nothing."""
    type_, code, _ = event
    if type_ == Ev.EV_REL:
        return "wheels" if code in _WHEELS else "motion"
    if (type_, code) == (Ev.EV_MSC, Msc.MSC_TIMESTAMP):  # of sensors: when it was measured
        return "position"
    if type_ != Ev.EV_ABS or code in _STEPS:
        return None
    return "position"


def _frame(values: dict[tuple[int, int, int], int]) -> Frame:
    """Touches in the order of their slots, then what is of no touch."""
    frame, last = [], NO_SLOT
    for slot, type_, code in sorted(values, key=lambda key: key[0]):
        if slot not in (last, NO_SLOT):
            frame.append(virtio_input_event(Ev.EV_ABS, Abs.ABS_MT_SLOT, slot))
        last = slot
        frame.append(virtio_input_event(type_, code, values[slot, type_, code]))
    return frame
