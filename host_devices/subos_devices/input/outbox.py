"""Events on their way to a guest that takes four at a time.

A frame goes out event by event as the guest makes buffers available. While it waits, a frame of nothing but motion
joins the one before it if that is nothing but motion too (the last position counts), and likewise for wheels (they add
up); so nothing ever moves across a button or from one side of a wheel's turn to the other. All else
keeps its place, and is bounded by whoever heeds `full`.
"""

from __future__ import annotations

from collections import deque

from subos_protocol.input_codes import Abs, Ev
from subos_protocol.virtio_input import virtio_input_event

from .capabilities import SYN_REPORT, Frame

MAX_FRAMES = 64
_INT32_MIN, _INT32_MAX = -(1 << 31), (1 << 31) - 1


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
    types = {event.type for event in first} | {event.type for event in second}
    if types not in ({Ev.EV_ABS}, {Ev.EV_REL}):
        return None
    values: dict[int, int] = {}
    for type_, code, value in (*first, *second):
        if type_ == Ev.EV_REL:
            value = max(_INT32_MIN, min(_INT32_MAX, value + values.get(code, 0)))
        elif code >= Abs.ABS_MT_SLOT:  # touches say which one they mean by their order
            return None
        values[code] = value
    (type_,) = types
    return [virtio_input_event(type_, code, value) for code, value in values.items()]
