"""The model that every virtio-input device shares (VIRTIO 1.3 §5.8).

A subclass says what it is by `capabilities`; events come by `deliver` from host drivers. Chains are popped only when
there is an event to put into them, so none is ever kept, and a queue can be stopped or its worker replaced at any
moment.

What the guest has not heard while its queue was down is not played back: when the queue starts it is told the state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator

from subos_protocol.input_codes import Ev
from subos_protocol.virtio import DeviceId
from subos_protocol.virtio_input import EVENTQ, STATUSQ, VIRTIO_INPUT_EVENT, pack_config

from ..vhost_user.device import Device, DeviceSpec, Worker
from ..vhost_user.errors import BadChain, RingError
from ..vhost_user.virtqueue import Virtqueue, Words
from .capabilities import Capabilities, Frame
from .driver_socket import LEDS, DriverSocket
from .lights import Lights
from .outbox import Outbox
from .state import State


class InputDevice(Device):
    """A virtio-input device. `spec.fds["driver"]`, if there, is the listening driver socket."""

    device_id = DeviceId.INPUT
    num_queues = 2
    standing = frozenset({0})  # events
    has_config = True
    capabilities: Capabilities

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__(spec)
        self._selected = bytearray(2)  # select, subsel
        self._drivers: DriverSocket | None = None
        self._eventq: Virtqueue | None = None
        self._outbox = Outbox()
        self._state = self.new_state()
        self._lights = Lights(self.capabilities.of(Ev.EV_LED))
        self._guest_is_new = True
        self._log: Callable[[str], None] = lambda message: None

    def new_state(self) -> State:
        """Nothing pressed, nothing moved."""
        return State(self.capabilities)

    @property
    def serial(self) -> str:
        """What the guest knows it by (`uniq`)."""
        return self.spec.name

    # --- control plane

    def config(self) -> bytes:
        select, subsel = self._selected
        return pack_config(select, subsel, self.capabilities.answer(select, subsel, self.serial))

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
            self._outbox.put(self._state.whole(guest_is_new=self._guest_is_new))
            self._guest_is_new = False
        elif queue.index == STATUSQ and queue.used_index == 0:  # a ring that nobody has used is a new driver's
            with self._lights_told():
                self._lights.go_out()

    def process(self, queue: Virtqueue) -> None:
        if queue is self._eventq:
            self._send()
        elif queue.index == STATUSQ:
            with self._lights_told():  # once for all that is there
                queue.drain(lambda words: self._hear(queue, words))

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
            self._put(self._state.take(source, frame))
        self._send_to_running_guest()

    def withdraw(self, source: Hashable) -> None:
        """`source` is gone: what nobody else holds is released."""
        self._put(self._state.leave(source))
        self._send_to_running_guest()

    def driven(self, by_anybody: bool) -> None:
        """The first driver has come, or the last one has gone."""

    # --- inside

    def _hear(self, queue: Virtqueue, words: Words) -> int:
        readable, _ = queue.split(words)
        self._lights.hear(readable)
        return 0

    @contextlib.contextmanager
    def _lights_told(self) -> Iterator[None]:
        """Tells the drivers which lights are on, if that has changed in the block."""
        before = dict(self._lights.state)
        try:
            yield
        finally:
            if self._drivers is not None and self._lights.state != before:
                self._drivers.tell(LEDS, self._lights.state)

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
