"""The battery of a pad, as host drivers say it is: kept, and told to whoever has the pad next."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from subos_protocol.hid_pad import BATTERY_REST
from subos_protocol.input_codes import Ev
from subos_protocol.virtio_input import virtio_input_event

from ..capabilities import Capabilities, Frame
from ..state import State


class PadState(State):
    """The state of a pad with a battery. It is full, and at a cable, unless the driver that spoke of it last says
    otherwise."""

    def __init__(self, capabilities: Capabilities, rest: Mapping[int, int]) -> None:
        super().__init__(capabilities, rest)
        self._battery = {int(code): value for code, value in BATTERY_REST.items()}
        self._speaker: Hashable = None

    def take(self, source: Hashable, frame: Frame) -> Frame:
        for type_, code, value in frame:
            if type_ == Ev.EV_PWR:
                self._battery[code] = value
                self._speaker = source
        return super().take(source, frame)

    def leave(self, source: Hashable) -> Frame:
        back: list[virtio_input_event] = []
        if self._speaker == source:
            self._speaker = None
            self._battery.update({int(code): value for code, value in BATTERY_REST.items()})
            back = self.battery()
        return [*super().leave(source), *back]

    def battery(self) -> list[virtio_input_event]:
        """What brings an agent that knows nothing to where it is."""
        return [virtio_input_event(Ev.EV_PWR, code, value) for code, value in self._battery.items()]


def without_battery(frame: Frame) -> Frame:
    """For virtio-input, which has no such thing."""
    return [event for event in frame if event.type != Ev.EV_PWR]
