"""The further event devices of pads: what sensors measure, and fingers on a touch pad."""

from __future__ import annotations

import json
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subos_devices.input.gamepad.device import MotionDevice, TouchpadDevice
from subos_devices.input.outbox import MAX_FRAMES
from subos_devices.vhost_user.device import DeviceSpec
from subos_protocol.gamepad import MAX_PACKET, Opened, pack_message, unpack_pad
from support.input_bench import Bench

REPORT = (0, 0, 0)
X, Y, Z, RX = 0, 1, 2, 3
SLOT, MX, MY, ID = 0x2F, 0x35, 0x36, 0x39
LEFT, FINGER, TOUCH, DOUBLETAP = 0x110, 0x145, 0x14A, 0x14D
DUALSENSE = {"profile": "dualsense"}
STILL = [(3, X, 0), (3, Y, 8192), (3, Z, 0), (3, 3, 0), (3, 4, 0), (3, 5, 0)]


def timestamp(microseconds: int) -> tuple[int, int, int]:
    return (4, 5, microseconds)


def down(slot: int, id: int, x: int, y: int) -> list[tuple[int, int, int]]:
    return [(3, SLOT, slot), (3, ID, id), (3, MX, x), (3, MY, y)]


def up(slot: int) -> list[tuple[int, int, int]]:
    return [(3, SLOT, slot), (3, ID, -1)]


@pytest.fixture
def motion(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(MotionDevice, tmp_path, options=DUALSENSE)
    bench.start_queue()
    assert bench.guest_reads() == [*STILL, REPORT]
    yield bench
    bench.close()


@pytest.fixture
def touchpad(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(TouchpadDevice, tmp_path, options=DUALSENSE)
    bench.start_queue()
    assert bench.guest_reads() == []
    yield bench
    bench.close()


def test_a_serial_is_its_own_or_the_pad_s():
    assert MotionDevice(DeviceSpec("motion", "gamepad1-motion", DUALSENSE)).serial == "gamepad1-motion"
    spec = DeviceSpec("motion", "gamepad1-motion", {**DUALSENSE, "serial": "gamepad1"})
    device = MotionDevice(spec)
    device.set_config(0, b"\x02\x00")  # VIRTIO_INPUT_CFG_ID_SERIAL
    assert device.config()[2:16] == b"\x08\0\0\0\0\0gamepad1"


def test_measurements_arrive_with_their_times(motion):
    driver = motion.connect()
    measured = [(3, X, -8192), (3, RX, 2097152), timestamp(-1)]
    motion.send(driver, *measured)
    assert motion.guest_reads() == [*measured, REPORT]


def test_a_slow_guest_gets_the_newest_measurement(motion):
    driver = motion.connect()
    for time in range(4 * MAX_FRAMES):
        motion.send(driver, (3, X, time), timestamp(time), REPORT)
    assert not motion.device._drivers._paused
    events = motion.guest_reads()
    assert events[-3:] == [(3, X, 255), timestamp(255), REPORT]
    assert len(events) < 4 * MAX_FRAMES


def test_with_its_driver_the_pad_comes_to_lie_still(motion):
    driver = motion.connect()
    motion.send(driver, (3, X, 300), (3, Y, 0), (3, RX, 5), timestamp(1))
    motion.guest_reads()
    driver.close()
    motion.worker.turn()
    assert sorted(motion.guest_reads()) == sorted([(3, X, 0), (3, Y, 8192), (3, RX, 0), REPORT])


@pytest.mark.parametrize("event", [(3, X, 32769), (3, RX, -2097153), (4, 4, 1), (1, LEFT, 1), (3, SLOT, 0)])
def test_what_sensors_do_not_have_is_refused(motion, event):
    driver = motion.connect()
    motion.send(driver, event)
    assert b"refused" in driver.recv(4096)


def test_the_agent_makes_them_without_effects(tmp_path):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        bench = Bench(TouchpadDevice, tmp_path, options=DUALSENSE, fds={"agent": theirs.detach()})
        pad = unpack_pad(json.loads(ours.recv(MAX_PACKET))["pad"])
        assert pad == bench.device.pad()
        assert (pad.name[-9:], pad.ff, pad.effects, pad.props) == (" Touchpad", frozenset(), 0, {0, 2})
        driver = bench.connect()
        bench.send(driver, *down(1, 7, 10, 20), (1, LEFT, 1))
        ours.send(pack_message(Opened()))
        bench.worker.turn()
        events = list(struct.iter_unpack("<HHi", ours.recv(MAX_PACKET)))
        keys = [(1, TOUCH, 1), (1, FINGER, 1), (1, LEFT, 1)]
        assert sorted(events) == sorted([*down(0, 1, 10, 20), *keys, (3, X, 10), (3, Y, 20), REPORT])
        bench.close()


def test_fingers_are_counted_and_the_oldest_leads(touchpad):
    driver = touchpad.connect()
    touchpad.send(driver, *down(0, 3, 10, 20))
    assert touchpad.guest_reads() == [
        *down(0, 1, 10, 20),
        *((1, TOUCH, 1), (1, FINGER, 1), (3, X, 10), (3, Y, 20)),
        REPORT,
    ]
    touchpad.send(driver, *down(1, 4, 30, 40))
    assert touchpad.guest_reads() == [*down(1, 2, 30, 40), (1, FINGER, 0), (1, DOUBLETAP, 1), REPORT]
    touchpad.send(driver, *up(0))
    assert touchpad.guest_reads() == [
        *up(0),
        *((1, FINGER, 1), (1, DOUBLETAP, 0), (3, X, 30), (3, Y, 40)),
        REPORT,
    ]
    driver.close()
    touchpad.worker.turn()
    assert touchpad.guest_reads() == [*up(1), (1, TOUCH, 0), (1, FINGER, 0), REPORT]


def test_the_button_is_held_by_who_presses_it(touchpad):
    first, second = touchpad.connect(), touchpad.connect()
    touchpad.send(first, (1, LEFT, 1))
    assert touchpad.guest_reads() == [(1, LEFT, 1), REPORT]
    touchpad.send(second, (1, LEFT, 1))
    first.close()
    touchpad.worker.turn()
    assert touchpad.guest_reads() == []
    second.close()
    touchpad.worker.turn()
    assert touchpad.guest_reads() == [(1, LEFT, 0), REPORT]


def test_a_guest_that_may_hold_anything_is_told_all(tmp_path):
    bench = Bench(TouchpadDevice, tmp_path, options=DUALSENSE, respawned=True)
    bench.start_queue()
    released = [(1, code, 0) for code in (LEFT, FINGER, TOUCH, DOUBLETAP)]
    assert sorted(bench.guest_reads()) == sorted([*up(0), *up(1), *released, REPORT])
    bench.close()


class Pad:
    """What a guest's kernel makes of the events."""

    def __init__(self) -> None:
        self.slot = 0
        self.fingers: set[int] = set()
        self.keys: set[int] = set()

    def apply(self, type_: int, code: int, value: int) -> None:
        if type_ == 1:
            (self.keys.add if value else self.keys.discard)(code)
        elif (type_, code) == (3, SLOT):
            self.slot = value
        elif (type_, code) == (3, ID):
            (self.fingers.add if value >= 0 else self.fingers.discard)(self.slot)
        elif (type_, code) == (3, MX):
            assert self.slot in self.fingers, "who moves touches"
        elif type_ == 0:
            counted = self.keys - {LEFT}
            assert counted == {0: set(), 1: {TOUCH, FINGER}, 2: {TOUCH, DOUBLETAP}}[len(self.fingers)]


event = st.one_of(
    st.builds(lambda slot: (3, SLOT, slot), st.integers(0, 1)),
    st.builds(lambda id: (3, ID, id), st.integers(-1, 3)),
    st.builds(lambda x: (3, MX, x), st.integers(0, 1919)),
    st.builds(
        lambda code, value: (1, code, value), st.sampled_from([LEFT, FINGER, TOUCH, DOUBLETAP]), st.integers(0, 1)
    ),
    st.just(REPORT),
)
step = st.tuples(st.integers(0, 2), st.lists(event, max_size=12), st.booleans())


@settings(max_examples=60)
@given(st.lists(step, max_size=15))
def test_whatever_drivers_do_fingers_and_buttons_agree(steps):
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(TouchpadDevice, Path(folder), options=DUALSENSE)
        bench.start_queue()
        pad, drivers = Pad(), {}
        for which, events, leaves in steps:
            if which not in drivers:
                drivers[which] = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                drivers[which].connect(os.fspath(bench.path))
                bench.worker.turn()
            if events:
                bench.send(drivers[which], *events)
            if leaves:
                drivers.pop(which).close()
                bench.worker.turn()
            for said in bench.guest_reads():
                pad.apply(*said)
        for driver in drivers.values():
            driver.close()
        bench.worker.turn()
        for said in bench.guest_reads():
            pad.apply(*said)
        assert (pad.fingers, pad.keys) == (set(), set())
        bench.close()
