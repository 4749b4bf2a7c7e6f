"""Whole frames of a host device, also of one that was read too slowly."""

from __future__ import annotations

from collections.abc import Iterator

from subos_protocol.input_codes import Ev, Syn
from subos_protocol.virtio_input import virtio_input_event

from ..evemu import MAX_FRAME, RecordedFrame
from .host import HostDevice
from .state import DeviceState


class FrameReader:
    """`known` is the state that the frames so far have led to."""

    def __init__(self, device: HostDevice) -> None:
        self._device = device
        self._frame: list[virtio_input_event] = []
        self._dropped = False
        self.known = DeviceState()

    def begin(self) -> DeviceState:
        """Where the device is now: frames say what changes from here. Raises OSError."""
        self.known = self._device.state()
        return self.known

    def read(self) -> Iterator[RecordedFrame]:
        """What waits to be read; times are the kernel's own. Raises OSError (ENODEV) where the device is gone."""
        for time, event in self._device.read():
            if event.type != Ev.EV_SYN:
                if len(self._frame) < MAX_FRAME:
                    self._frame.append(event)
                else:
                    self._dropped = True
            elif event.code == Syn.SYN_DROPPED:
                self._dropped = True
            elif event.code == Syn.SYN_REPORT:
                frame, self._frame = self._frame, []
                if self._dropped:  # what came meanwhile is not whole: the kernel says where things are
                    self._dropped = False
                    frame = self.known.difference(self._device.state())
                whole = self.known.completed(frame)
                self.known.note(whole)
                yield RecordedFrame(time, whole)
