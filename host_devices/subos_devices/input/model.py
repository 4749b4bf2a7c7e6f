"""The model that every virtio-input device shares (VIRTIO 1.3 §5.8).

A subclass says what it is by `capabilities`; events come by `deliver` from host drivers, each of which has keys of
its own: a key is down for the guest while anybody holds it. Chains are popped only when there is an event to
put into them, so none is ever kept, and a queue can be stopped or its worker replaced at any moment.

What the guest has not heard while its queue was down is not played back: when the queue starts it is told the state.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

from subos_protocol.input_codes import Ev
from subos_protocol.virtio import DeviceId
from subos_protocol.virtio_input import (
    EVENTQ,
    VIRTIO_INPUT_EVENT,
    pack_config,
    virtio_input_event,
)

from ..vhost_user.device import Device, DeviceSpec, Worker
from ..vhost_user.errors import BadChain, RingError
from ..vhost_user.virtqueue import Virtqueue
from .capabilities import PRESSED, RELEASED, Capabilities, Frame
from .driver_socket import DriverSocket
from .outbox import Outbox


class InputDevice(Device):
    """A virtio-input device. `spec.fds["driver"]`, if there, is the listening driver socket."""

    device_id = DeviceId.INPUT
    num_queues = 2
    has_config = True
    capabilities: Capabilities

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__(spec)
        self._selected = bytearray(2)  # select, subsel
        self._drivers: DriverSocket | None = None
        self._eventq: Virtqueue | None = None
        self._outbox = Outbox()
        self._holders: dict[int, set[Hashable]] = {}  # of each key that is down
        self._axes: dict[int, int] = {}  # the last value of each axis that ever moved
        self._guest_is_new = True
        self._log: Callable[[str], None] = lambda message: None

    # --- control plane

    def config(self) -> bytes:
        select, subsel = self._selected
        return pack_config(select, subsel, self.capabilities.answer(select, subsel, self.spec.name))

    def set_config(self, offset: int, data: bytes) -> None:
        """Keeps `select` and `subsel`; the rest is read-only, and QEMU writes it back as it was."""
        for position, value in enumerate(data[: max(0, 2 - offset)], offset):
            self._selected[position] = value

    # --- data plane

    def start(self, worker: Worker) -> None:
        self._log = worker.log
        self._guest_is_new = not worker.respawned
        if "driver" in self.spec.fds:
            self._drivers = DriverSocket(self.spec.fds["driver"], self, worker)

    def queue_started(self, queue: Virtqueue) -> None:
        if queue.index == EVENTQ:
            self._eventq = queue
            self._outbox.put(self._state())
            self._guest_is_new = False

    def process(self, queue: Virtqueue) -> None:
        if queue.index != EVENTQ:
            queue.drain(lambda words: 0)  # what the guest says goes to nobody yet: its buffers go back unread
        elif queue is self._eventq:
            self._send()

    def queue_stopped(self, queue: Virtqueue) -> None:
        if queue is self._eventq:
            self._end_queue()

    def close(self) -> None:
        if self._drivers is not None:
            self._drivers.close()
            self._drivers = None

    # --- host drivers

    def deliver(self, source: Hashable, frames: Iterable[Frame]) -> None:
        """`source` reports `frames`, each of which `capabilities.check` would pass."""
        for frame in frames:
            self._put([event for event in frame if self._note(source, event)])
        self._send_to_running_guest()

    def withdraw(self, source: Hashable) -> None:
        """`source` is gone: what nobody else holds is released."""
        held = [code for code, holders in self._holders.items() if source in holders]
        self.deliver(source, [[virtio_input_event(Ev.EV_KEY, code, RELEASED) for code in held]])

    # --- inside

    def _note(self, source: Hashable, event: virtio_input_event) -> bool:
        """Keeps the state that `event` leads to. False where it makes no difference to the guest."""
        if event.type == Ev.EV_ABS:
            self._axes[event.code] = event.value
        if event.type != Ev.EV_KEY:
            return True
        holders = self._holders.setdefault(event.code, set())
        before = bool(holders)
        if event.value == PRESSED:
            holders.add(source)
        else:
            holders.discard(source)
        after = bool(holders)
        if not holders:
            del self._holders[event.code]
        return before != after

    def _state(self) -> Frame:
        """What brings any guest to where the device is now; Linux ignores what changes nothing.

        A guest that was stopped, or saw another worker before this one, may hold keys that are up by now.
        """
        keys = self.capabilities.of(Ev.EV_KEY)
        up = () if self._guest_is_new else sorted(keys - self._holders.keys())
        return [
            *(virtio_input_event(Ev.EV_KEY, code, RELEASED) for code in up),
            *(virtio_input_event(Ev.EV_ABS, code, value) for code, value in self._axes.items()),
            *(virtio_input_event(Ev.EV_KEY, code, PRESSED) for code in sorted(self._holders)),
        ]

    def _put(self, frame: Frame) -> None:
        if self._eventq is not None:
            self._outbox.put(frame)

    def _send_to_running_guest(self) -> None:
        """`_send` outside `process`, where a broken ring must end here."""
        try:
            self._send()
        except RingError as error:
            self._log(f"the event queue is over: {error}")

    def _send(self) -> None:
        """Fills the buffers that the guest has made available; it kicks when there are more."""
        queue, outbox = self._eventq, self._outbox
        if queue is None:
            return
        try:
            while outbox and (chain := queue.pop()) is not None:
                _fill(chain.writable, VIRTIO_INPUT_EVENT.pack(outbox.take()))
                queue.push(chain.head, VIRTIO_INPUT_EVENT.size)
            queue.signal()
        except RingError:
            self._end_queue()
            raise
        if self._drivers is not None:
            if outbox.full:
                self._drivers.pause()
            else:
                self._drivers.resume()

    def _end_queue(self) -> None:
        self._eventq = None
        self._outbox.clear()
        if self._drivers is not None:
            self._drivers.resume()


def _fill(buffers: list[memoryview], data: bytes) -> None:
    """Lays `data` out over `buffers`. Raises BadChain where it does not fit."""
    for buffer in buffers:
        part, data = data[: len(buffer)], data[len(buffer) :]
        buffer[: len(part)] = part
    if data:
        raise BadChain(f"an event buffer is {len(data)} bytes too short")
