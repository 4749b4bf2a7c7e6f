"""Where the stream for one event device meets the HID device that stands for it."""

from __future__ import annotations

from typing import Callable, Iterable, List, Optional, Union

from subos_protocol.effects import Feedback
from subos_protocol.hid_pad import Light
from subos_protocol.virtio_input import virtio_input_event

from .hid_reports import Reports

Said = Union[Feedback, Light]
"""What a host is told."""


class Port:
    """One event device of a `HidPad`, as a `HeldPad` has it."""

    suspicious = False

    def __init__(self, reports: Reports, part: str, said: List[Said]) -> None:
        self.part = part
        self._reports: Optional[Reports] = reports
        self._said = said
        self._heard: Optional[Callable[[], None]] = None

    def listen(self, heard: Callable[[], None]) -> None:
        """`heard` is called when there is something to say, on the running event loop."""
        self._heard = heard
        if self._said:
            heard()

    def deafen(self) -> None:
        self._heard = None

    def say(self, said: List[Said]) -> None:
        if self._heard is not None:
            self._said += said
            self._heard()

    def end(self) -> None:
        """The device is gone."""
        self._reports = None

    def feedback(self) -> List[Said]:
        """What is new."""
        said, self._said = self._said, []
        return said

    overlooked = feedback

    def write(self, events: Iterable[virtio_input_event]) -> None:
        if self._reports is not None:
            self._reports.write(self.part, events)
