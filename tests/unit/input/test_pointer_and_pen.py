"""The relative mouse and the pen: what a guest takes them for, and how they are left."""

from __future__ import annotations

import struct

import pytest

from subos_devices.input.pen import PEN, PenDevice
from subos_devices.input.pointer import POINTER, PointerDevice
from subos_protocol.errors import Malformed
from subos_protocol.virtio_input import virtio_input_event
from support.input_bench import Bench

REPORT = (0, 0, 0)
TOOL_PEN, TOUCH, STYLUS, PRESSURE, TILT_X = 0x140, 0x14A, 0x14B, 0x18, 0x1A


def test_what_a_guest_takes_for_a_relative_mouse():
    assert POINTER.answer(0x01, 0) == b"SubOS Pointer"
    assert POINTER.answer(0x11, 1) == bytes(34) + b"\xff"  # BTN_LEFT to BTN_TASK
    assert POINTER.answer(0x11, 2) == b"\x43\x19"  # REL_X, REL_Y, and both wheels in both resolutions
    assert POINTER.answer(0x11, 3) == b""
    with pytest.raises(Malformed):
        POINTER.check(virtio_input_event(3, 0, 1))


def test_a_flood_of_motion_arrives_whole_with_every_click_in_its_place(tmp_path):
    bench = Bench(PointerDevice, tmp_path)
    bench.start_queue()
    driver = bench.connect()
    for _ in range(10):
        for _ in range(1000):
            bench.send(driver, (2, 0, 3), (2, 1, -1))
        bench.send(driver, (1, 0x117, 1), REPORT, (1, 0x117, 0))
    click = [(1, 0x117, 1), REPORT, (1, 0x117, 0), REPORT]
    assert bench.guest_reads() == [(2, 0, 3000), (2, 1, -1000), REPORT, *click] * 10
    bench.close()


def test_what_a_guest_takes_for_a_pen():
    assert PEN.answer(0x10, 0) == b"\x01"  # INPUT_PROP_POINTER
    keys = int.from_bytes(PEN.answer(0x11, 1), "little")
    assert keys == sum(1 << code for code in (TOOL_PEN, 0x141, TOUCH, STYLUS, 0x14C))
    assert PEN.answer(0x11, 3) == bytes([0x03, 0, 0, 0x0F])  # ABS_X, ABS_Y, pressure, distance, tilt both ways
    assert struct.unpack("<5i", PEN.answer(0x12, 0)) == (0, 32767, 0, 0, 100)  # libinput wants a resolution
    assert struct.unpack("<5i", PEN.answer(0x12, PRESSURE)) == (0, 8191, 0, 0, 0)
    assert struct.unpack("<5i", PEN.answer(0x12, TILT_X)) == (-64, 63, 0, 0, 57)


def test_a_pen_whose_driver_goes_is_lifted_and_away(tmp_path):
    bench = Bench(PenDevice, tmp_path)
    bench.start_queue()
    bench.guest_reads()
    driver = bench.connect()
    bench.send(driver, (1, TOOL_PEN, 1), (3, 0, 100), (3, 1, 200), REPORT, (3, PRESSURE, 4000), (1, TOUCH, 1))
    bench.send(driver, (3, TILT_X, -30), (1, STYLUS, 1))
    bench.guest_reads()
    driver.close()
    bench.worker.turn()
    *left, last = bench.guest_reads()
    assert sorted(left) == [(1, TOOL_PEN, 0), (1, TOUCH, 0), (1, STYLUS, 0), (3, PRESSURE, 0), (3, TILT_X, 0)]
    assert last == REPORT  # in one frame
    bench.close()
