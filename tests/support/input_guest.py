"""Linux's driver of an input device, played by a test over `subos_devices.testing`."""

from __future__ import annotations

from collections.abc import Callable

from subos_devices.testing import DriverQueue
from subos_protocol.input_codes import Abs, Ev
from subos_protocol.virtio_input import VIRTIO_INPUT_EVENT, virtio_input_event


class Guest:
    """Linux's virtio_input: every buffer offered, each event collected and its buffer offered again."""

    def __init__(self, queue: DriverQueue) -> None:
        self.queue = queue
        self.events: list[virtio_input_event] = []
        for _ in range(queue.size):
            queue.add(writable=[VIRTIO_INPUT_EVENT.size])
        queue.kick()

    def listen(self, until: Callable[[], bool]) -> None:
        while not until():
            self.events.append(VIRTIO_INPUT_EVENT.unpack(self.queue.wait().buffers[0]))
            self.queue.add(writable=[VIRTIO_INPUT_EVENT.size])
            self.queue.kick()

    def last(self, type_: int, code: int) -> int | None:
        values = [event.value for event in self.events if (event.type, event.code) == (type_, code)]
        return values[-1] if values else None

    def is_at(self, x: int, y: int) -> bool:
        return (self.last(Ev.EV_ABS, Abs.ABS_X), self.last(Ev.EV_ABS, Abs.ABS_Y)) == (x, y)
