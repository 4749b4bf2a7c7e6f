"""A gamepad on its ring: held neutral whenever nobody drives it, and never replugged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_devices.input.gamepad.device import GamepadDevice
from support.input_bench import Bench

REPORT = (0, 0, 0)
SOUTH = 0x130
X, Y, Z, HAT = 0, 1, 2, 0x10
CENTRED = [(3, X, 128), (3, Y, 128), (3, Z, 0), (3, 3, 128), (3, 4, 128), (3, 5, 0), (3, HAT, 0), (3, 0x11, 0)]


def pad(folder: Path, *, respawned: bool = False) -> Bench:
    return Bench(GamepadDevice, folder, respawned=respawned, options={"profile": "dualsense"})


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = pad(tmp_path)
    bench.start_queue()
    assert bench.guest_reads() == [*CENTRED, REPORT]  # a guest takes every axis for 0, which is the edge of these
    yield bench
    bench.close()


def test_a_driver_that_goes_leaves_the_pad_neutral(bench):
    driver = bench.connect()
    bench.send(driver, (3, X, 255), (3, Z, 200), (3, HAT, -1), (1, SOUTH, 1))
    bench.guest_reads()
    driver.close()
    bench.worker.turn()
    assert sorted(bench.guest_reads()[:-1]) == [(1, SOUTH, 0), (3, X, 128), (3, Z, 0), (3, HAT, 0)]
    again = bench.connect()
    bench.send(again, (3, X, 0))
    assert bench.guest_reads() == [(3, X, 0), REPORT]


def test_an_axis_that_another_driver_has_moved_since_stays(bench):
    first, second = bench.connect(), bench.connect()
    bench.send(first, (3, X, 255), (3, Y, 255))
    bench.send(second, (3, X, 10))
    bench.guest_reads()
    first.close()
    bench.worker.turn()
    assert bench.guest_reads() == [(3, Y, 128), REPORT]
    second.close()
    bench.worker.turn()
    assert bench.guest_reads() == [(3, X, 128), REPORT]


def test_garbage_leaves_the_pad_neutral_too(bench):
    driver = bench.connect()
    bench.send(driver, (3, X, 255))
    bench.send(driver, (3, X, 256))
    assert bench.guest_reads() == [(3, X, 255), REPORT, (3, X, 128), REPORT]


def test_after_a_respawn_everything_is_neutral(tmp_path):
    bench = pad(tmp_path, respawned=True)
    bench.start_queue()
    read = bench.guest_reads()
    up = [(1, code, 0) for code in (0x130, 0x131, 0x133, 0x134, *range(0x136, 0x13F))]
    assert read == [*up, *CENTRED, REPORT]
    bench.close()


def test_a_guest_that_starts_its_driver_anew_is_told_what_is_held(bench):
    driver = bench.connect()
    bench.send(driver, (3, X, 255), (1, SOUTH, 1))
    bench.guest_reads()
    bench.device.queue_stopped(bench.ring.queue)
    bench.start_queue()
    read = bench.guest_reads()
    assert (3, X, 255) in read
    assert (1, SOUTH, 1) in read
    assert (1, SOUTH, 0) not in read


def test_quick_steps_of_the_cross_all_arrive_while_the_guest_is_slow(bench):
    driver = bench.connect()
    for value in (-1, 0, 1, 0):
        bench.send(driver, (3, HAT, value))
    for value in range(100):
        bench.send(driver, (3, X, value))
    assert bench.guest_reads() == [event for value in (-1, 0, 1, 0) for event in ((3, HAT, value), REPORT)] + [
        (3, X, 99),
        REPORT,
    ]


def test_a_worker_tells_when_the_first_driver_comes_and_the_last_one_goes(tmp_path):
    news = os.eventfd(0, os.EFD_NONBLOCK)
    bench = Bench(GamepadDevice, tmp_path, respawned=True, fds={"presence": news})

    def told() -> bool | None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(news)
            return bench.device.describe(bench.worker.statistics)["gamepad"]["driven"]
        return None

    assert told() is False, "the worker before may have died with drivers"
    first = bench.connect()
    assert told() is True
    second = bench.connect()
    first.close()
    bench.worker.turn()
    assert told() is None
    bench.send(second, (3, 0x7F, 1))  # is refused, and hung up on
    assert told() is False
    bench.connect().close()
    bench.worker.turn()
    assert told() is False, "who comes and goes at once is news, too"
    bench.close()
    os.close(news)
