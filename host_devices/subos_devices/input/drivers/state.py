"""What is down and where the axes are, of one device: to know what was missed, and to say it again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from subos_protocol.input_codes import Abs, Ev
from subos_protocol.virtio_input import virtio_input_event

from ..capabilities import NO_TOUCH, PRESSED, RELEASED


@dataclass
class DeviceState:
    """`axes` are those that have one value; `slots` the axes of each multi-touch slot, ABS_MT_TRACKING_ID included."""

    keys: set[int] = field(default_factory=set)
    axes: dict[int, int] = field(default_factory=dict)
    slots: dict[int, dict[int, int]] = field(default_factory=dict)
    slot: int = 0
    """The slot that the next multi-touch event is about."""

    def note(self, events: Iterable[virtio_input_event]) -> None:
        """What `events` have led to."""
        for type_, code, value in events:
            if type_ == Ev.EV_KEY:
                (self.keys.add if value else self.keys.discard)(code)
            elif type_ == Ev.EV_ABS and code == Abs.ABS_MT_SLOT:
                self.slot = value
            elif type_ == Ev.EV_ABS and code > Abs.ABS_MT_SLOT:
                self.slots.setdefault(self.slot, {})[code] = value
            elif type_ == Ev.EV_ABS:
                self.axes[code] = value

    def difference(self, now: DeviceState) -> list[virtio_input_event]:
        """What leads from here to `now`. Releases come first, so that no key seems to be held with a new one."""
        events = [virtio_input_event(Ev.EV_KEY, code, RELEASED) for code in sorted(self.keys - now.keys)]
        events += [
            virtio_input_event(Ev.EV_ABS, code, value)
            for code, value in sorted(now.axes.items())
            if self.axes.get(code) != value
        ]
        events += self._touches(now)
        return events + [virtio_input_event(Ev.EV_KEY, code, PRESSED) for code in sorted(now.keys - self.keys)]

    def completed(self, frame: Sequence[virtio_input_event]) -> list[virtio_input_event]:
        """`frame`, which follows this state, with all that is known of touches that begin in it.

        The kernel leaves out what a touch has in common with the one before it in its slot, of which the guest may
        have heard nothing.
        """
        slot, began = self.slot, set[int]()
        told: dict[int, set[int]] = {}
        for type_, code, value in frame:
            if type_ != Ev.EV_ABS:
                continue
            if code == Abs.ABS_MT_SLOT:
                slot = value
            elif code > Abs.ABS_MT_SLOT:
                told.setdefault(slot, set()).add(code)
            if code == Abs.ABS_MT_TRACKING_ID and value != NO_TOUCH:
                began.add(slot)
        more: list[virtio_input_event] = []
        for number in sorted(began):
            kept = {code: value for code, value in self.slots.get(number, {}).items() if code not in told[number]}
            if kept:
                more.append(virtio_input_event(Ev.EV_ABS, Abs.ABS_MT_SLOT, number))
                more += [virtio_input_event(Ev.EV_ABS, code, value) for code, value in kept.items()]
        if more:
            more.append(virtio_input_event(Ev.EV_ABS, Abs.ABS_MT_SLOT, slot))
        return [*frame, *more]

    def _touches(self, now: DeviceState) -> list[virtio_input_event]:
        events: list[virtio_input_event] = []
        slot = self.slot
        for number, axes in sorted(now.slots.items()):
            before = self.slots.get(number, {Abs.ABS_MT_TRACKING_ID: NO_TOUCH})
            # The contact first: what follows is said of it.
            changed = sorted(
                (code for code, value in axes.items() if before.get(code) != value),
                key=lambda code: (code != Abs.ABS_MT_TRACKING_ID, code),
            )
            if changed:
                events.append(virtio_input_event(Ev.EV_ABS, Abs.ABS_MT_SLOT, number))
                events += [virtio_input_event(Ev.EV_ABS, code, axes[code]) for code in changed]
                slot = number
        if slot != now.slot:
            events.append(virtio_input_event(Ev.EV_ABS, Abs.ABS_MT_SLOT, now.slot))
        return events
