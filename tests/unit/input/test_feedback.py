"""What a device tells its drivers, and what of it the guest has said."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_devices.input.driver_socket import MAX_FEEDBACK
from subos_devices.input.keyboard import KeyboardDevice
from subos_devices.input.lights import Lights
from subos_devices.input.mouse import MouseDevice
from subos_devices.vhost_user.errors import BadChain
from support.input_bench import Bench, heard

NUML, CAPSL = 0, 1


def led(code: int, value: int) -> bytes:
    return struct.pack("<HHi", 0x11, code, value)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(KeyboardDevice, tmp_path)
    bench.start_queue()
    bench.start_status()
    yield bench
    bench.close()


def test_lights_reach_every_driver_and_those_that_come_later(bench):
    first, second = bench.connect(), bench.connect()
    assert heard(first) == []  # the guest has said nothing yet
    bench.says(bytes.fromhex("1100 0100 01000000"))
    assert heard(first) == heard(second) == [{"leds": {"LED_CAPSL": 1}}]
    bench.says(led(NUML, 1))
    bench.says(led(CAPSL, 0))
    now = {"LED_CAPSL": 0, "LED_NUML": 1}
    assert heard(first) == [{"leds": {"LED_CAPSL": 1, "LED_NUML": 1}}, {"leds": now}]
    assert heard(bench.connect()) == [{"leds": now}]
    assert bench.status.answered == 3


def test_what_changes_nothing_is_not_told(bench):
    driver = bench.connect()
    bench.says(led(CAPSL, 1), led(CAPSL, 0), led(CAPSL, 1))
    bench.says(led(CAPSL, 77))
    assert heard(driver) == [{"leds": {"LED_CAPSL": 1}}]


@pytest.mark.parametrize(
    "event",
    [
        led(3, 1),  # LED_COMPOSE, which this keyboard does not have
        struct.pack("<HHi", 0x12, 2, 440),  # SND_TONE
        struct.pack("<HHi", 0x14, 0, 250),  # REP_DELAY
        struct.pack("<HHi", 4, 5, 1),  # MSC_TIMESTAMP
        struct.pack("<HHi", 0x15, 0x60, 1),  # FF_GAIN
        struct.pack("<HHi", 1, 30, 1),  # KEY_A
        led(CAPSL, 1)[:7],
        led(CAPSL, 1) + b"\0",
        b"",
    ],
)
def test_all_else_is_ignored_and_given_back(bench, event):
    driver = bench.connect()
    bench.says(event)
    assert heard(driver) == []
    assert bench.status.answered == 1


def test_a_buffer_that_the_guest_wants_to_read_is_given_back_unwritten(bench):
    driver = bench.connect()
    bench.status.say(led(CAPSL, 1), flags=2)
    bench.says()
    assert heard(driver) == []
    assert struct.unpack_from("<II", bench.status.guest, 0x204) == (0, 0)


def test_a_buffer_outside_memory_ends_the_queue_and_what_was_said_before_is_told(bench):
    driver = bench.connect()
    bench.status.say(led(CAPSL, 1))
    bench.status.say(led(NUML, 1))
    struct.pack_into("<Q", bench.status.guest, 16, 1 << 40)
    with pytest.raises(BadChain):
        bench.device.process(bench.status.queue)
    assert heard(driver) == [{"leds": {"LED_CAPSL": 1}}]


def test_a_device_without_lights_listens_to_nothing(tmp_path):
    bench = Bench(MouseDevice, tmp_path)
    bench.start_status()
    driver = bench.connect()
    bench.says(led(CAPSL, 1))
    assert heard(driver) == []
    bench.close()


def test_a_driver_that_begins_in_the_guest_finds_the_lights_out(bench):
    driver = bench.connect()
    bench.says(led(CAPSL, 1))
    bench.device.queue_stopped(bench.status.queue)
    bench.start_status()  # the VM was paused: the ring goes on
    assert heard(driver) == [{"leds": {"LED_CAPSL": 1}}]
    bench.device.queue_stopped(bench.status.queue)
    struct.pack_into("<H", bench.status.guest, 0x202, 0)  # the guest was reset
    bench.start_status()
    assert heard(driver) == [{"leds": {"LED_CAPSL": 0}}]


def test_after_a_respawn_nothing_is_known_until_the_guest_says_it(tmp_path):
    bench = Bench(KeyboardDevice, tmp_path, respawned=True)
    bench.start_status()
    driver = bench.connect()
    assert heard(driver) == []
    bench.says(led(NUML, 0))
    assert heard(driver) == [{"leds": {"LED_NUML": 0}}]
    bench.close()


# --- drivers that do not read


def deafen(bench: Bench) -> tuple[socket.socket, int]:
    """A driver that has been told as much as fits, and how often the guest has spoken."""
    driver = bench.connect()
    said = 0
    while not any(bench.device._drivers._drivers.values()):
        said += 1
        bench.says(led(CAPSL, said % 2))
    return driver, said


def test_a_driver_that_never_reads_holds_nothing_up_and_hears_the_newest_at_last(bench):
    deaf, said = deafen(bench)
    other = bench.connect()
    heard(other)
    for number in range(said + 1, said + 100):
        bench.says(led(CAPSL, number % 2), led(NUML, number % 2))
        assert heard(other)
    bench.says(led(CAPSL, 1), led(NUML, 0))
    told = heard(deaf)
    assert len(told) < said + 2
    bench.worker.turn()  # it takes data again
    assert heard(deaf) == [{"leds": {"LED_CAPSL": 1, "LED_NUML": 0}}]
    bench.worker.turn()
    assert heard(deaf) == []


def test_a_driver_that_never_reads_wakes_nobody(bench):
    deaf, _ = deafen(bench)
    bench.worker.turn()  # returns only when nothing is ready
    bench.send(deaf, (1, 30, 1))  # it is still listened to
    assert bench.guest_reads() == [(1, 30, 1), (0, 0, 0)]
    deaf.close()
    bench.worker.turn()
    assert bench.guest_reads() == [(1, 30, 0), (0, 0, 0)]
    bench.says(led(NUML, 1))
    assert heard(bench.connect())[-1]["leds"]["LED_NUML"] == 1


def test_a_driver_that_hangs_up_while_the_device_does_not_read_wakes_nobody(bench):
    deaf, _ = deafen(bench)
    bench.device._drivers.pause()
    deaf.close()
    bench.worker.turn()
    bench.says(led(NUML, 1))
    bench.device._drivers.resume()
    bench.worker.turn()
    assert bench.device._drivers._drivers == {}


def test_a_driver_that_does_not_want_to_hear_is_still_listened_to(bench):
    driver = bench.connect()
    driver.shutdown(socket.SHUT_RD)
    bench.says(led(NUML, 1))  # nobody hears it
    bench.send(driver, (1, 30, 1))
    assert bench.guest_reads() == [(1, 30, 1), (0, 0, 0)]


def test_a_state_that_fits_no_packet_is_a_fault_of_ours(bench):
    with pytest.raises(ValueError, match="at most"):
        bench.device._drivers.tell("x", "y" * MAX_FEEDBACK)


# --- whatever a guest sends

parts = st.lists(st.binary(max_size=12), max_size=4)
events = st.builds(lambda type_, code, value: struct.pack("<HHi", type_, code, value), *[st.integers(0, 0x20)] * 3)


@given(st.lists(st.one_of(parts, events.map(lambda event: [event[:3], event[3:]]))))
def test_any_buffers_leave_lights_that_the_device_has(chains):
    lights = Lights({NUML, CAPSL})
    for chain in chains:
        before = dict(lights.state)
        lights.hear(memoryview(part) for part in chain)
        data = b"".join(chain)
        if len(data) == 8 and data[:2] == b"\x11\0" and data[2:4] in (b"\0\0", b"\1\0"):
            assert lights.state["LED_CAPSL" if data[2] else "LED_NUML"] == int(any(data[4:]))
        else:
            assert lights.state == before
