"""The touch screen: fingers of several drivers in slots of one, as the kernel's protocol B has them."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from subos_devices.input.touch import SLOTS, TOUCH, TouchDevice
from subos_protocol.errors import Malformed
from subos_protocol.virtio_input import virtio_input_event
from support.input_bench import Bench

REPORT = (0, 0, 0)
SLOT, MAJOR, MX, MY, ID, PRESSURE = 0x2F, 0x30, 0x35, 0x36, 0x39, 0x3A
BTN_TOUCH = 0x14A


def down(slot: int, id: int, x: int, y: int) -> list[tuple[int, int, int]]:
    return [(3, SLOT, slot), (3, ID, id), (3, MX, x), (3, MY, y)]


def up(slot: int) -> list[tuple[int, int, int]]:
    return [(3, SLOT, slot), (3, ID, -1)]


class Screen:
    """What a guest's kernel makes of the events: `fingers` by slot, each with its id and its axes."""

    def __init__(self) -> None:
        self.slot = 0
        self.fingers: dict[int, dict[int, int]] = {}
        self.touching = False
        self.axes: dict[int, int] = {}
        self.begun = 0

    def apply(self, type_: int, code: int, value: int) -> None:
        if type_ == 1:
            assert code == BTN_TOUCH
            self.touching = bool(value)
        elif (type_, code) == (3, SLOT):
            self.slot = value
        elif (type_, code) == (3, ID):
            if value < 0:
                self.fingers.pop(self.slot, None)
            elif self.fingers.get(self.slot, {}).get(ID) != value:
                self.begun += 1
                self.fingers[self.slot] = {ID: value}
        elif type_ == 3 and code > SLOT:
            self.fingers[self.slot][code] = value
        elif type_ == 3:
            self.axes[code] = value

    def places(self) -> list[tuple[int | None, int | None]]:
        return sorted((finger.get(MX, -1), finger.get(MY, -1)) for finger in self.fingers.values())


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(TouchDevice, tmp_path)
    bench.start_queue()
    yield bench
    bench.close()


def test_what_a_guest_takes_for_a_touch_screen():
    answer = TOUCH.answer
    assert answer(0x01, 0) == b"SubOS Touchscreen"
    assert answer(0x10, 0) == b"\x02"  # INPUT_PROP_DIRECT
    assert answer(0x11, 1) == bytes(41) + b"\x04"  # BTN_TOUCH, 0x14a
    assert int.from_bytes(answer(0x11, 3), "little") == sum(
        1 << code for code in (0, 1, 0x18, SLOT, MAJOR, MX, MY, ID, PRESSURE)
    )
    assert struct.unpack("<5i", answer(0x12, SLOT)) == (0, 9, 0, 0, 0)
    assert struct.unpack("<5i", answer(0x12, ID)) == (0, 65535, 0, 0, 0)
    assert struct.unpack("<5i", answer(0x12, MX)) == (0, 32767, 0, 0, 100)


def test_a_finger_comes_moves_and_goes(bench):
    driver = bench.connect()
    bench.send(driver, *down(0, 500, 10, 20))
    assert bench.guest_reads() == [*down(0, 1, 10, 20), (1, BTN_TOUCH, 1), (3, 0, 10), (3, 1, 20), REPORT]
    bench.send(driver, (3, MX, 11))
    assert bench.guest_reads() == [(3, SLOT, 0), (3, MX, 11), (3, 0, 11), REPORT]
    bench.send(driver, (3, ID, -1))
    assert bench.guest_reads() == [*up(0), (1, BTN_TOUCH, 0), REPORT]


def test_what_only_one_finger_knows_follows_the_oldest(bench):
    driver = bench.connect()
    bench.send(driver, *down(4, 1, 10, 20), (3, PRESSURE, 9), REPORT, *down(2, 2, 30, 40))
    bench.guest_reads()
    bench.send(driver, (3, SLOT, 2), (3, MX, 31))
    assert (3, 0, 31) not in bench.guest_reads()
    bench.send(driver, *up(4))
    assert bench.guest_reads() == [*up(0), (3, 0, 31), (3, 1, 40), REPORT]
    bench.send(driver, *up(2))
    assert bench.guest_reads() == [*up(1), (1, BTN_TOUCH, 0), (3, 0x18, 0), REPORT]


def test_what_a_driver_says_of_one_finger_is_ignored(bench):
    bench.send(bench.connect(), (1, BTN_TOUCH, 1), (3, 0, 5), (3, 1, 5), (3, 0x18, 5))
    assert bench.guest_reads() == []


def test_drivers_have_fingers_of_their_own(bench):
    first, second = bench.connect(), bench.connect()
    bench.send(first, *down(0, 7, 1, 1))
    bench.send(second, *down(0, 7, 2, 2))
    screen = Screen()
    for event in bench.guest_reads():
        screen.apply(*event)
    assert screen.places() == [(1, 1), (2, 2)]
    assert screen.begun == 2
    first.close()
    bench.worker.turn()
    for event in bench.guest_reads():
        screen.apply(*event)
    assert screen.places() == [(2, 2)]
    assert screen.touching
    second.close()
    bench.worker.turn()
    for event in bench.guest_reads():
        screen.apply(*event)
    assert (screen.fingers, screen.touching) == ({}, False)


def test_a_tap_within_one_frame_is_seen(bench):
    bench.send(bench.connect(), *down(0, 1, 5, 5), *up(0))
    assert [e for e in bench.guest_reads() if e[1] == ID] == [(3, ID, 1), (3, ID, -1)]


def test_another_number_in_a_slot_is_another_finger(bench):
    driver = bench.connect()
    bench.send(driver, *down(0, 1, 5, 5))
    bench.send(driver, *down(0, 1, 6, 6))  # the same
    bench.send(driver, *down(0, 2, 7, 7))
    assert [e for e in bench.guest_reads() if e[1] == ID] == [(3, ID, 1), (3, ID, -1), (3, ID, 2)]


def test_an_eleventh_finger_is_not_seen(bench):
    first, second = bench.connect(), bench.connect()
    bench.send(first, *(event for slot in range(SLOTS) for event in down(slot, slot, slot, 0)))
    bench.guest_reads()
    bench.send(second, *down(0, 0, 9, 9))
    bench.send(second, *up(0))
    assert bench.guest_reads() == []


def test_after_a_respawn_every_slot_is_empty_in_order_and_a_new_finger_is_new(tmp_path):
    bench = Bench(TouchDevice, tmp_path, respawned=True)
    bench.send(bench.connect(), *down(0, 1, 5, 6))
    bench.start_queue()
    first = [(3, SLOT, 0), (3, ID, -1), (3, ID, 1), (3, MX, 5), (3, MY, 6)]
    rest = [event for slot in range(1, SLOTS) for event in up(slot)]
    assert bench.guest_reads() == [*first, *rest, (1, BTN_TOUCH, 1), (3, 0, 5), (3, 1, 6), REPORT]
    bench.close()


def test_a_finger_that_goes_while_the_vm_stands_still_is_gone_when_it_runs_again(bench):
    driver = bench.connect()
    bench.send(driver, *down(0, 1, 5, 6), REPORT, *down(1, 2, 7, 8))
    screen = Screen()
    for event in bench.guest_reads():
        screen.apply(*event)
    bench.device.queue_stopped(bench.ring.queue)
    bench.send(driver, *up(0), REPORT, (3, SLOT, 1), (3, MX, 9))
    bench.start_queue()
    for event in bench.guest_reads():
        screen.apply(*event)
    assert screen.places() == [(9, 8)]
    assert screen.begun == 2  # the other one was there all the time


@pytest.mark.parametrize(
    "event", [(3, ID, -2), (3, ID, 65536), (3, SLOT, -1), (3, SLOT, 10), (3, MX, -1), (3, 0x34, 0)]
)
def test_what_a_driver_may_not_send(event):
    with pytest.raises(Malformed):
        TOUCH.check(virtio_input_event(*event))


# --- whatever drivers do, at whatever pace the guest reads

which = st.integers(0, 1)
slot = st.integers(0, 7)


class Fingers(RuleBasedStateMachine):
    """Two drivers of eight fingers each; what they mean is kept in `meant`, what the guest sees in `screen`."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.bench = Bench(TouchDevice, Path(self.folder.name))
        self.bench.start_queue()
        self.drivers: dict[int, socket.socket] = {}
        self.meant: dict[tuple[int, int], tuple[int, int]] = {}
        self.screen = Screen()
        self.began = self.number = 0

    def send(self, which: int, *events: tuple[int, int, int]) -> bool:
        """False where the device reads no more."""
        if which not in self.drivers:
            driver = self.drivers[which] = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            driver.setblocking(False)
            driver.connect(os.fspath(self.bench.path))
            self.bench.worker.turn()
        if self.bench.device._drivers._paused:
            return False
        self.bench.send(self.drivers[which], *events)
        return True

    @rule(which=which, slot=slot, x=st.integers(0, 32767), y=st.integers(0, 32767))
    def begin(self, which: int, slot: int, x: int, y: int) -> None:
        if (which, slot) not in self.meant and len(self.meant) < SLOTS:
            self.number += 1
            if self.send(which, *down(slot, self.number, x, y)):
                self.meant[which, slot] = (x, y)
                self.began += 1

    @rule(which=which, slot=slot, x=st.integers(0, 32767), times=st.integers(1, 20))
    def move(self, which: int, slot: int, x: int, times: int) -> None:
        for step in range(times):
            place = (x + step) % 32768
            if (which, slot) in self.meant and self.send(which, (3, SLOT, slot), (3, MX, place)):
                self.meant[which, slot] = (place, self.meant[which, slot][1])

    @rule(which=which, slot=slot)
    def end(self, which: int, slot: int) -> None:
        if (which, slot) in self.meant and self.send(which, *up(slot)):
            del self.meant[which, slot]

    @rule(which=which)
    def leave(self, which: int) -> None:
        if which in self.drivers:
            while self.bench.device._drivers._paused:
                self.take_and_offer(4)
            self.drivers.pop(which).close()
            self.bench.worker.turn()
            self.meant = {key: place for key, place in self.meant.items() if key[0] != which}

    @rule(buffers=st.integers(0, 4))
    def read(self, buffers: int) -> None:
        self.take_and_offer(buffers)

    def take_and_offer(self, buffers: int) -> int:
        events = self.bench.ring.collect()
        for event in events:
            self.screen.apply(*event)
        self.bench.ring.offer(buffers)
        self.bench.device.process(self.bench.ring.queue)
        self.bench.worker.turn()
        return len(events)

    @invariant()
    def a_slot_has_one_finger(self) -> None:
        assert len(self.screen.fingers) <= SLOTS

    def teardown(self) -> None:
        self.take_and_offer(4)
        while self.take_and_offer(4):
            pass
        assert self.screen.places() == sorted(self.meant.values())
        assert self.screen.begun == self.began
        assert self.screen.touching == bool(self.meant)
        for driver in self.drivers.values():
            driver.close()
        self.bench.close()
        self.folder.cleanup()


TestFingers = Fingers.TestCase
TestFingers.settings = settings(max_examples=60, stateful_step_count=40)
