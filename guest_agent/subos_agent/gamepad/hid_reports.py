"""What happens on the event devices of a pad, as input reports of the HID device that stands for all of them."""

from __future__ import annotations

from time import monotonic
from typing import Callable, Iterable

from subos_protocol.hid_pad import PAD, is_battery
from subos_protocol.input_codes import Abs, Ev, Msc
from subos_protocol.virtio_input import virtio_input_event

from .playstation import GYRO, SLOTS, STICKS_AND_TRIGGERS, Controls, Model, Touch

_CROSS = (Abs.ABS_HAT0X, Abs.ABS_HAT0Y)


class Reports:
    """`send` gets each report of `model`: one for each frame, whichever event device it is of. What the pad does not
    have is ignored. The sensors' time is what the host says; until it says one, our own clock's."""

    def __init__(self, model: Model, send: Callable[[bytes], None]) -> None:
        self._model = model
        self._send = send
        self._controls = Controls()
        self._slot = 0
        self._count = 0
        self._begun = monotonic()
        self._time_is_said = False
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
        if not self._time_is_said:
            self._controls.time = int((monotonic() - self._begun) * 1e6)
        again = self._button_moved and self._model.touch_button_waits
        self._button_moved = False
        for _ in range(1 + again):
            self._send(self._model.pack(self._controls, self._count))
            self._count += 1

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
            self._controls.time = value
            self._time_is_said = True

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
