"""The mouse on a ring of four descriptors, driven over its socket."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_devices.input.driver_socket import MAX_DRIVERS
from subos_devices.input.mouse import MouseDevice
from subos_devices.vhost_user.errors import BadChain
from support.input_bench import Bench
from support.input_ring import EventRing

REPORT = (0, 0, 0)
LEFT, RIGHT = 0x110, 0x111
ALL_UP = [(1, code, 0) for code in (*range(0x110, 0x115), 0x14A)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(MouseDevice, tmp_path)
    bench.start_queue()
    yield bench
    bench.close()


def test_a_click_somewhere(bench):
    driver = bench.connect()
    bench.ring.offer(4)
    bench.send(driver, (3, 0, 100), (3, 1, 200), REPORT, (1, LEFT, 1))
    assert bench.ring.interrupted()
    assert bench.ring.collect() == [(3, 0, 100), (3, 1, 200), REPORT, (1, LEFT, 1)]
    bench.ring.offer(1)
    bench.device.process(bench.ring.queue)
    assert bench.ring.collect() == [REPORT]  # added for the driver


def test_a_frame_longer_than_the_ring_is_split_over_kicks(bench):
    driver = bench.connect()
    frame = [(3, 0, 1), (3, 1, 2), (1, LEFT, 1), (1, RIGHT, 1), (2, 8, 1), (2, 11, 120)]
    bench.ring.offer(4)
    bench.send(driver, *frame)
    assert bench.ring.collect() == frame[:4]
    assert bench.guest_reads() == [*frame[4:], REPORT]


def test_motion_is_merged_while_the_guest_is_slow_and_clicks_are_not(bench):
    driver = bench.connect()
    for x in range(500):
        bench.send(driver, (3, 0, x))
    bench.send(driver, (1, LEFT, 1))
    bench.send(driver, (3, 0, 1000))
    bench.send(driver, (1, LEFT, 0))
    expected = [(3, 0, 499), REPORT, (1, LEFT, 1), REPORT, (3, 0, 1000), REPORT, (1, LEFT, 0), REPORT]
    assert bench.guest_reads() == expected


def test_a_guest_without_a_queue_is_told_the_state_and_no_history(tmp_path):
    bench = Bench(MouseDevice, tmp_path)
    driver = bench.connect()
    for value in (1, 0, 1, 0):
        bench.send(driver, (3, 0, value), (3, 1, 7), (1, LEFT, value), (2, 8, 1))
    bench.send(driver, (1, RIGHT, 1))
    bench.start_queue()
    assert bench.guest_reads() == [(3, 0, 0), (3, 1, 7), (1, RIGHT, 1), REPORT]
    bench.close()


def test_a_new_guest_hears_nothing_before_something_happens(bench):
    assert bench.guest_reads() == []
    assert not bench.ring.interrupted()


def test_after_a_respawn_everything_is_released(tmp_path):
    bench = Bench(MouseDevice, tmp_path, respawned=True)
    bench.start_queue()
    assert bench.guest_reads() == [*ALL_UP, REPORT]
    bench.close()


def test_a_release_while_the_guest_was_stopped_is_not_lost(bench):
    driver = bench.connect()
    bench.send(driver, (1, LEFT, 1))
    assert bench.guest_reads() == [(1, LEFT, 1), REPORT]
    bench.device.queue_stopped(bench.ring.queue)
    bench.send(driver, (1, LEFT, 0))
    assert bench.ring.collect() == []
    bench.start_queue()
    assert bench.guest_reads() == [*ALL_UP, REPORT]


def test_a_driver_that_goes_releases_what_it_held(bench):
    first, second = bench.connect(), bench.connect()
    bench.send(first, (1, LEFT, 1), (1, RIGHT, 1))
    bench.send(second, (1, RIGHT, 1))
    assert bench.guest_reads() == [(1, LEFT, 1), (1, RIGHT, 1), REPORT]
    first.close()
    bench.worker.turn()
    assert bench.guest_reads() == [(1, LEFT, 0), REPORT]  # RIGHT is still held by the other
    bench.send(second, (1, RIGHT, 0))
    assert bench.guest_reads() == [(1, RIGHT, 0), REPORT]


def test_a_driver_cannot_release_what_another_holds(bench):
    first, second = bench.connect(), bench.connect()
    bench.send(first, (1, LEFT, 1))
    bench.send(second, (1, LEFT, 0))
    assert bench.guest_reads() == [(1, LEFT, 1), REPORT]


@pytest.mark.parametrize("garbage", [b"x", b"\1\0\x15\1\1\0\0\0", bytes(8) * 65], ids=["part", "code", "flood"])
def test_garbage_disconnects_its_driver_and_releases_what_it_held(bench, garbage):
    driver, other = bench.connect(), bench.connect()
    bench.send(driver, (1, LEFT, 1))
    driver.send(struct.pack("<HHi", 3, 0, 5) + garbage)
    bench.worker.turn()
    assert bench.guest_reads() == [(1, LEFT, 1), REPORT, (1, LEFT, 0), REPORT]  # nothing of that packet
    assert json.loads(driver.recv(1000))["refused"]
    assert driver.recv(1000) == b""
    assert len(bench.worker.said) == 1
    bench.send(other, (3, 0, 6))
    assert bench.guest_reads() == [(3, 0, 6), REPORT]


def test_a_flood_of_clicks_is_held_back_and_none_is_lost(bench):
    driver = bench.connect()
    sent = 0
    with contextlib.suppress(BlockingIOError):  # the kernel holds what the device does not read
        while True:
            driver.send(struct.pack("<HHi", 1, LEFT, (sent + 1) % 2))
            sent += 1
            bench.worker.turn()
    assert bench.device._outbox.full
    waiting = bench.connect()  # others may still come
    expected = [event for n in range(sent) for event in ((1, LEFT, (n + 1) % 2), REPORT)]
    received: list[tuple[int, int, int]] = []
    while more := bench.guest_reads():
        received += more
        bench.worker.turn()
    assert received == expected
    bench.send(waiting, (3, 1, 9))
    assert bench.guest_reads() == [(3, 1, 9), REPORT]


def test_the_queue_s_end_ends_the_backlog(bench):
    driver = bench.connect()
    for n in range(200):
        bench.send(driver, (1, LEFT, (n + 1) % 2))
    bench.device.queue_stopped(bench.ring.queue)
    bench.worker.turn()
    bench.send(driver, (1, LEFT, 1))
    bench.start_queue()
    assert bench.guest_reads() == [*ALL_UP[1:], (1, LEFT, 1), REPORT]


def test_too_many_drivers_are_turned_away(bench):
    drivers = [bench.connect() for _ in range(MAX_DRIVERS)]
    late = bench.connect()
    assert json.loads(late.recv(1000)) == {"refused": "there are 16 drivers already"}
    assert late.recv(1000) == b""
    drivers[0].close()
    bench.worker.turn()
    bench.send(bench.connect(), (3, 0, 1))
    assert bench.guest_reads() == [(3, 0, 1), REPORT]


def test_an_event_may_lie_in_two_buffers(bench):
    guest = bench.ring.guest
    struct.pack_into("<QIHH", guest, 0, 0x300, 5, 3, 1)
    struct.pack_into("<QIHH", guest, 16, 0x310, 3, 2, 0)
    driver = bench.connect()
    bench.ring.offer(1)
    bench.send(driver, (3, 0, 0x1234))
    assert bytes(guest[0x300:0x305]) + bytes(guest[0x310:0x313]) == bytes.fromhex("0300000034120000")


def test_buffers_too_small_end_the_queue_but_not_the_device(bench):
    driver = bench.connect()
    bench.send(driver, (3, 0, 1))
    struct.pack_into("<I", bench.ring.guest, 8, 7)
    bench.ring.offer(1)
    with pytest.raises(BadChain):  # the worker ends the queue
        bench.device.process(bench.ring.queue)
    bench.send(driver, (3, 0, 2))
    fresh = bench.ring = EventRing()
    bench.start_queue()
    fresh.offer(4)
    assert bench.guest_reads() == [*ALL_UP, (3, 0, 2), REPORT]


def test_a_ring_that_breaks_while_a_driver_sends_is_over(bench):
    driver = bench.connect()
    struct.pack_into("<H", bench.ring.guest, 0x102, 9)  # the available index jumps
    bench.send(driver, (3, 0, 1))
    assert "jumped" in bench.worker.said[0]
    bench.send(driver, (3, 0, 2))
    bench.device.process(bench.ring.queue)
    assert len(bench.worker.said) == 1


def test_close_disconnects(bench):
    driver = bench.connect()
    bench.device.close()
    assert driver.recv(10) == b""
    assert bench.worker.watched == {}
