"""Any interleaving of drivers, kicks and slow guests: nothing that counts is lost, reordered or left held."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import tempfile
from collections import Counter
from collections.abc import Hashable, Iterable
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from subos_devices import runtime
from subos_devices.input.capabilities import MAX_EVENTS, Frame
from subos_devices.input.mouse import MouseDevice
from subos_devices.input.outbox import MAX_FRAMES
from subos_devices.vhost_user.device import DeviceSpec
from support.input_ring import EventRing, FakeWorker

event = st.one_of(
    st.tuples(st.just(3), st.sampled_from([0, 1]), st.integers(0, 32767)),
    st.tuples(st.just(1), st.sampled_from([0x110, 0x111]), st.sampled_from([0, 1])),
    st.tuples(st.just(2), st.sampled_from([8, 11]), st.integers(-3, 3)),
    st.just((0, 0, 0)),
)
which = st.integers(0, 2)  # of three drivers


class Pointer:
    """What events add up to: `changes` has each change of a key, with where everything stood when it happened."""

    def __init__(self) -> None:
        self.down: set[int] = set()
        self.axes: dict[int, int] = {}
        self.turned: Counter[int] = Counter()
        self.changes: list[object] = []

    def apply(self, type_: int, code: int, value: int) -> None:
        if type_ == 3:
            self.axes[code] = value
        elif type_ == 2:
            self.turned[code] += value
        elif type_ == 1 and (code in self.down) != bool(value):
            (self.down.add if value else self.down.discard)(code)
            self.changes.append((code, value, dict(self.axes), +self.turned, -self.turned))

    def forget(self) -> None:
        """Keeps the state, drops its history."""
        self.turned.clear()
        self.changes.clear()

    def state(self) -> object:
        return (self.down, self.axes, +self.turned, -self.turned, self.changes)


class Watched(MouseDevice):
    """Tells `expected` what is delivered: a key is down while any source holds it."""

    expected: Pointer

    def deliver(self, source: Hashable, frames: Iterable[Frame]) -> None:
        frames = list(frames)
        for frame in frames:
            for event in frame:
                self.expect(source, *event)
        super().deliver(source, frames)

    def withdraw(self, source: Hashable) -> None:
        for code in sorted(code for holder, code in self.held if holder is source):
            self.expect(source, 1, code, 0)
        super().withdraw(source)

    def expect(self, source: Hashable, type_: int, code: int, value: int) -> None:
        if type_ == 1:
            (self.held.add if value else self.held.discard)((source, code))
            value = int(any(held == code for _, held in self.held))
        self.expected.apply(type_, code, value)

    held: set[tuple[Hashable, int]]


class Interleavings(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "driver.sock")
        self.listener = runtime.listen(self.path, socket.SOCK_SEQPACKET)
        self.device = Watched(DeviceSpec("mouse", "pointer", fds={"driver": self.listener.fileno()}))
        self.device.held, self.device.expected = set(), Pointer()
        self.worker = FakeWorker()
        self.device.start(self.worker)
        self.drivers: dict[int, socket.socket] = {}
        self.ring = EventRing()
        self.guest = Pointer()
        self.last = (0, 0, 0)
        self.started = self.running = self.told_state = False

    @rule(which=which, events=st.lists(event, min_size=1, max_size=MAX_EVENTS), times=st.integers(1, 9))
    def report(self, which: int, events: list[tuple[int, int, int]], times: int) -> None:
        self.send(which, events, times)

    def send(self, which: int, events: list[tuple[int, int, int]], times: int) -> None:
        if which not in self.drivers:
            driver = self.drivers[which] = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            driver.setblocking(False)
            driver.connect(os.fspath(self.path))
        for _ in range(times):
            with contextlib.suppress(BlockingIOError):  # the device does not read: a real driver would wait
                self.drivers[which].send(b"".join(struct.pack("<HHi", *one) for one in events))
            self.worker.turn()

    @rule(which=which, clicks=st.integers(1, 100))
    def click(self, which: int, clicks: int) -> None:
        self.send(which, [(1, 0x110, 1), (0, 0, 0), (1, 0x110, 0)], clicks)

    @rule(which=which, last_words=st.sampled_from([b"", b"\xff" * 8, b"1"]))
    def leave(self, which: int, last_words: bytes) -> None:
        driver = self.drivers.pop(which, None)
        if driver is not None:
            with contextlib.suppress(BlockingIOError):
                driver.send(last_words)
            driver.close()
            self.worker.turn()

    @rule(buffers=st.integers(0, 4), kick=st.booleans())
    def read(self, buffers: int, kick: bool) -> None:
        self.take_and_offer(buffers, kick)

    def take_and_offer(self, buffers: int, kick: bool) -> int:
        """The guest takes what is there and makes up to `buffers` available. How much it took."""
        taken = self.ring.collect()
        for one in taken:
            self.last = one
            self.guest.apply(*one)
            if one == (0, 0, 0) and not self.told_state:  # the frame of state is whole: history begins here
                self.told_state = True
                self.guest.forget()
        self.ring.offer(buffers)
        if kick and self.running:
            self.device.process(self.ring.queue)
        self.worker.turn()
        return len(taken)

    @rule()
    def stop(self) -> None:
        if self.running:
            self.take_and_offer(0, False)
            self.device.queue_stopped(self.ring.queue)
            self.running = False
            self.worker.turn()

    @rule()
    def start(self) -> None:
        """From here on the guest misses nothing; what it missed shows in the state that it is told."""
        if not self.running:
            expected = self.device.expected
            self.told_state = not (self.started or expected.down or expected.axes)
            self.guest.forget()
            expected.forget()
            self.started = self.running = True
            self.device.queue_started(self.ring.set_up())
            self.device.process(self.ring.queue)

    @invariant()
    def bounded(self) -> None:
        assert len(self.device._outbox._waiting) <= MAX_FRAMES + MAX_EVENTS

    def teardown(self) -> None:
        self.start()
        for driver in self.drivers.values():
            driver.close()
        self.worker.turn()
        self.take_and_offer(4, True)
        while self.take_and_offer(4, True):
            pass
        assert self.guest.down == set()
        assert self.guest.state() == self.device.expected.state()
        assert self.last == (0, 0, 0)
        self.device.close()
        self.listener.close()
        self.ring.close()
        self.folder.cleanup()


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=60, stateful_step_count=40)
