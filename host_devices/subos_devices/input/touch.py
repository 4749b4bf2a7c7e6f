"""The touch screen: ten fingers, each in a slot (the kernel's multi-touch protocol B). Touch pads have the same state.

Host drivers number their fingers as they like; here each gets a slot and an id that no other driver's finger has.
BTN_TOUCH, BTN_TOOL_FINGER and its kin, ABS_X, ABS_Y and ABS_PRESSURE follow from the fingers, as the kernel's own
drivers have it (drivers/input/input-mt.c), for programs that know only one; what a driver sends of them is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from subos_protocol.input_codes import Abs, Bus, Ev, Key, Prop
from subos_protocol.virtio_input import virtio_input_absinfo, virtio_input_devids, virtio_input_event

from .capabilities import NO_TOUCH, PRESSED, RELEASED, Capabilities, Frame
from .model import InputDevice
from .mouse import AXIS_MAX
from .pen import RESOLUTION_X, RESOLUTION_Y
from .state import State

SLOTS = 10
MAX_ID = 65535
_X = virtio_input_absinfo(min=0, max=AXIS_MAX, res=RESOLUTION_X)
_Y = virtio_input_absinfo(min=0, max=AXIS_MAX, res=RESOLUTION_Y)
_PRESSURE = virtio_input_absinfo(min=0, max=255)
_SINGLE: dict[int, int] = {
    Abs.ABS_MT_POSITION_X: Abs.ABS_X,
    Abs.ABS_MT_POSITION_Y: Abs.ABS_Y,
    Abs.ABS_MT_PRESSURE: Abs.ABS_PRESSURE,
}
"""What is also reported of the oldest finger, and as what."""

TOUCH = Capabilities(
    name="SubOS Touchscreen",
    ids=virtio_input_devids(bustype=Bus.BUS_VIRTUAL, vendor=0x0627, product=0x0004, version=1),
    codes={Ev.EV_KEY: frozenset({Key.BTN_TOUCH})},
    axes={
        Abs.ABS_X: _X,
        Abs.ABS_Y: _Y,
        Abs.ABS_PRESSURE: _PRESSURE,
        Abs.ABS_MT_SLOT: virtio_input_absinfo(min=0, max=SLOTS - 1),
        Abs.ABS_MT_TOUCH_MAJOR: virtio_input_absinfo(min=0, max=AXIS_MAX, res=RESOLUTION_X),
        Abs.ABS_MT_POSITION_X: _X,
        Abs.ABS_MT_POSITION_Y: _Y,
        Abs.ABS_MT_TRACKING_ID: virtio_input_absinfo(min=0, max=MAX_ID),
        Abs.ABS_MT_PRESSURE: _PRESSURE,
    },
    props=frozenset({Prop.INPUT_PROP_DIRECT}),
)


class Finger:
    """One that touches; `number` counts all there ever were. `values` by code, but for slot and id."""

    def __init__(self, source: Hashable, slot: int, id: int, number: int) -> None:
        self.source = source
        self.source_slot = slot
        self.source_id = id
        self.number = number
        self.values: dict[int, int] = {}

    @property
    def id(self) -> int:
        return self.number & MAX_ID


_COUNTED: dict[int, Callable[[int], bool]] = {
    Key.BTN_TOUCH: lambda fingers: fingers > 0,
    Key.BTN_TOOL_FINGER: lambda fingers: fingers == 1,
    Key.BTN_TOOL_DOUBLETAP: lambda fingers: fingers == 2,
}
"""Buttons that say how many fingers there are."""


class TouchState(State):
    """The fingers on a device that can do `capabilities`, by slot, and who holds which of its buttons."""

    def __init__(self, capabilities: Capabilities) -> None:
        super().__init__(capabilities)
        self._slots_there = capabilities.axes[Abs.ABS_MT_SLOT].max + 1
        self._counted = {code: False for code in _COUNTED if code in self._keys}  # as the guest knows them
        self._buttons = self._keys - self._counted.keys()
        self._fingers: dict[int, Finger] = {}
        self._slots: dict[Hashable, int] = {}  # the slot of its own that each driver speaks of
        self._number = 0
        self._single: dict[int, int] = {}  # what the guest knows of the oldest finger
        self._guest_is_known = False

    def take(self, source: Hashable, frame: Frame) -> Frame:
        report = _Report()
        buttons = []
        for event in frame:
            type_, code, value = event
            if type_ == Ev.EV_KEY and code in self._buttons and self._note(source, event):
                buttons.append(event)
            if type_ != Ev.EV_ABS:
                continue
            if code == Abs.ABS_MT_SLOT:
                self._slots[source] = value
            elif code == Abs.ABS_MT_TRACKING_ID:
                self._begin_or_end(report, source, value)
            elif code > Abs.ABS_MT_SLOT and (slot := self._find(source)) is not None:
                self._fingers[slot].values[code] = value
                report.add(slot, code, value)
        return [*report.events, *self._oldest(), *buttons]

    def leave(self, source: Hashable) -> Frame:
        released = super().leave(source)
        report = _Report()
        for slot in [slot for slot, finger in sorted(self._fingers.items()) if finger.source == source]:
            self._end(report, slot)
        self._slots.pop(source, None)
        return [*report.events, *self._oldest(), *released]

    def whole(self, *, guest_is_new: bool) -> Frame:
        report = _Report()
        for slot in range(self._slots_there):
            finger = self._fingers.get(slot)
            # What an earlier worker has told the guest may have had the same number.
            if not guest_is_new and (finger is None or not self._guest_is_known):
                report.add(slot, Abs.ABS_MT_TRACKING_ID, NO_TOUCH)
            if finger is not None:
                report.add(slot, Abs.ABS_MT_TRACKING_ID, finger.id)
                for code, value in finger.values.items():
                    report.add(slot, code, value)
        self._guest_is_known = True
        down = {**self._counted, **{code: code in self._holders for code in self._buttons}}
        keys = [_button(code, value) for code, value in down.items() if value or not guest_is_new]
        single = [virtio_input_event(Ev.EV_ABS, code, value) for code, value in self._single.items()]
        return [*report.events, *keys, *single]

    # --- inside

    def _find(self, source: Hashable) -> int | None:
        """The slot of the finger that `source` speaks of."""
        own = self._slots.get(source, 0)
        for slot, finger in self._fingers.items():
            if finger.source == source and finger.source_slot == own:
                return slot
        return None

    def _begin_or_end(self, report: _Report, source: Hashable, id: int) -> None:
        slot = self._find(source)
        if slot is not None:
            if self._fingers[slot].source_id == id:
                return
            self._end(report, slot)
        if id == NO_TOUCH:
            return
        free = next((slot for slot in range(self._slots_there) if slot not in self._fingers), None)
        if free is None:  # drivers together have more fingers than the screen takes
            return
        self._number += 1
        finger = self._fingers[free] = Finger(source, self._slots.get(source, 0), id, self._number)
        report.add(free, Abs.ABS_MT_TRACKING_ID, finger.id)

    def _end(self, report: _Report, slot: int) -> None:
        del self._fingers[slot]
        report.add(slot, Abs.ABS_MT_TRACKING_ID, NO_TOUCH)

    def _oldest(self) -> Frame:
        """What has changed for programs that know one finger."""
        events = []
        for code, is_down in self._counted.items():
            if _COUNTED[code](len(self._fingers)) != is_down:
                self._counted[code] = not is_down
                events.append(_button(code, not is_down))
        if self._fingers:
            oldest = min(self._fingers.values(), key=lambda finger: finger.number)
            known = {_SINGLE[code]: value for code, value in oldest.values.items() if code in _SINGLE}
        else:
            known = {Abs.ABS_PRESSURE: 0} if self._single.get(Abs.ABS_PRESSURE) else {}
        for code, value in known.items():
            if self._single.get(code) != value:
                self._single[code] = value
                events.append(virtio_input_event(Ev.EV_ABS, code, value))
        return events


class _Report:
    """Events of touches, with the slot before whatever is of another one."""

    def __init__(self) -> None:
        self.events: list[virtio_input_event] = []
        self._slot: int | None = None

    def add(self, slot: int, code: int, value: int) -> None:
        if slot != self._slot:
            self.events.append(virtio_input_event(Ev.EV_ABS, Abs.ABS_MT_SLOT, slot))
            self._slot = slot
        self.events.append(virtio_input_event(Ev.EV_ABS, code, value))


def _button(code: int, is_down: bool) -> virtio_input_event:
    return virtio_input_event(Ev.EV_KEY, code, PRESSED if is_down else RELEASED)


class TouchDevice(InputDevice):
    """`touch`: see `TOUCH`."""

    capabilities = TOUCH

    def new_state(self) -> State:
        return TouchState(self.capabilities)
