"""What happens on the event devices of a pad, as input reports of the HID device that stands for all of them."""

from __future__ import annotations

from time import monotonic
from typing import Callable, Iterable, Optional

from subos_protocol.hid_pad import PAD, is_battery
from subos_protocol.input_codes import Abs, Ev, Msc
from subos_protocol.virtio_input import virtio_input_event

from .playstation import GYRO, SLOTS, STICKS_AND_TRIGGERS, Controls, Model, Touch

_WRAP = 1 << 32  # of the host's time
_UNRELATED = 1_000_000
"""Microseconds by which our clock may be ahead of the host's; what is more is another one."""
_CROSS = (Abs.ABS_HAT0X, Abs.ABS_HAT0Y)


class Reports:
    """`send` gets each report of `model`: one for each frame, whichever event device it is of. What the pad does not
    have is ignored.

    The sensors' time goes on as the host's does, and by our own clock until it says one and while it says nothing. It
    never goes back, which the driver would take for a wrap."""

    def __init__(self, model: Model, send: Callable[[bytes], None], clock: Callable[[], float] = monotonic) -> None:
        self._model = model
        self._send = send
        self._controls = Controls()
        self._slot = 0
        self._count = 0
        self._clock = clock
        self._looked = clock()
        self._host_time: Optional[int] = None
        self._ahead = 0
        """Microseconds that our clock has added since the host said its time."""
        self._button_moved = False
        self._note = {PAD: self._note_pad, "motion": self._note_motion, "touchpad": self._note_touchpad}

    def write(self, part: str, events: Iterable[virtio_input_event]) -> None:
        """What happened on the event device `part`."""
        note = self._note[part]
        for event in events:
            if event.type == Ev.EV_SYN:
                self.report()
            else:
                note(event)

    def report(self) -> None:
        """Says it all."""
        if self._host_time is None:
            self._go_on()
        again = self._button_moved and self._model.touch_button_waits
        self._button_moved = False
        for _ in range(1 + again):
            self._send(self._model.pack(self._controls, self._count))
            self._count += 1

    def repeat(self) -> None:
        """Says it again, some time later."""
        self._go_on()
        self.report()

    @property
    def count(self) -> int:
        """How many have been said."""
        return self._count

    # --- the sensors' time

    def _go_on(self) -> None:
        """By our clock."""
        now = self._clock()
        passed = round((now - self._looked) * 1e6)
        self._looked = now
        self._controls.time += passed
        self._ahead += passed

    def _follow(self, time: int) -> None:
        """By the host's, in microseconds of 32 bits."""
        if self._host_time is None:
            self._go_on()
            self._ahead = 0
        else:
            passed = (time - self._host_time) % _WRAP
            if passed <= _WRAP // 2:
                self._controls.time += max(0, passed - self._ahead)
                self._ahead = max(0, self._ahead - passed)
            if passed > _WRAP // 2 or self._ahead > _UNRELATED:
                self._ahead = 0
            self._looked = self._clock()
        self._host_time = time

    # --- one event

    def _note_pad(self, event: virtio_input_event) -> None:
        type_, code, value = event
        if type_ == Ev.EV_KEY:
            self._controls.keys[code] = bool(value)
        elif type_ == Ev.EV_ABS and code in (*STICKS_AND_TRIGGERS, *_CROSS):
            self._controls.axes[code] = value
        elif is_battery(*event):
            self._controls.battery[code] = value

    def _note_motion(self, event: virtio_input_event) -> None:
        type_, code, value = event
        if type_ == Ev.EV_ABS:
            (self._controls.gyro if code in GYRO else self._controls.accelerometer)[code] = value
        elif type_ == Ev.EV_MSC and code == Msc.MSC_TIMESTAMP:
            self._follow(value)

    def _note_touchpad(self, event: virtio_input_event) -> None:
        type_, code, value = event
        if type_ == Ev.EV_KEY:
            self._button_moved = self._button_moved or self._controls.keys.get(code, False) != bool(value)
            self._controls.keys[code] = bool(value)
        elif type_ == Ev.EV_ABS and code == Abs.ABS_MT_SLOT:
            self._slot = value
        elif type_ == Ev.EV_ABS and 0 <= self._slot < SLOTS:
            self._note_finger(code, value)

    def _note_finger(self, code: int, value: int) -> None:
        touches, slot = self._controls.touches, self._slot
        touch = touches[slot]
        if code == Abs.ABS_MT_TRACKING_ID and value < 0:
            touches[slot] = None
        elif code == Abs.ABS_MT_TRACKING_ID:
            if touch is not None and touch.number != value:
                touches[slot] = None
                self.report()  # the driver heeds no numbers: one finger goes before another one comes
            touches[slot] = Touch(value, touch.x if touch else 0, touch.y if touch else 0)
        elif touch is not None and code == Abs.ABS_MT_POSITION_X:
            touches[slot] = touch._replace(x=value)
        elif touch is not None and code == Abs.ABS_MT_POSITION_Y:
            touches[slot] = touch._replace(y=value)
