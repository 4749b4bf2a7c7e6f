"""What may be merged while the guest is slow, and what may not."""

from __future__ import annotations

import pytest

from subos_devices.input.outbox import MAX_FRAMES, Outbox
from subos_protocol.virtio_input import virtio_input_event as event

REPORT = (0, 0, 0)


def at(x: int, y: int) -> list[event]:
    return [event(3, 0, x), event(3, 1, y)]


def left(value: int) -> list[event]:
    return [event(1, 0x110, value)]


def wheel(value: int) -> list[event]:
    return [event(2, 8, value), event(2, 11, 120 * value)]


def contents(outbox: Outbox) -> list[event]:
    taken = []
    while outbox:
        taken.append(outbox.take())
    return taken


def after(*frames: list[event]) -> list[event]:
    outbox = Outbox()
    for frame in frames:
        outbox.put(frame)
    return contents(outbox)


def test_the_last_position_counts():
    assert after(at(1, 1), at(2, 2), [event(3, 0, 3)]) == [*at(3, 2), REPORT]


def test_wheels_add_up():
    assert after(wheel(1), wheel(-3), wheel(1)) == [*wheel(-1), REPORT]


def test_a_sum_stays_in_32_bits():
    top = (1 << 31) - 1
    assert after([event(2, 8, top)], [event(2, 8, top)]) == [event(2, 8, top), REPORT]
    assert after([event(2, 8, -top)], [event(2, 8, -top)]) == [event(2, 8, -top - 1), REPORT]


def test_motion_stays_on_its_side_of_a_button():
    frames = at(1, 1), left(1), at(2, 2), left(0), at(3, 3)
    assert after(*frames) == [e for frame in frames for e in (*frame, REPORT)]


def test_motion_stays_on_its_side_of_a_wheel():
    frames = at(1, 1), wheel(1), at(2, 2)
    assert after(*frames) == [e for frame in frames for e in (*frame, REPORT)]


@pytest.mark.parametrize("mixed", [at(1, 1) + left(1), at(1, 1) + wheel(1), left(0)])
def test_mixed_frames_stand_alone(mixed):
    assert after(mixed, mixed, at(2, 2)) == [*mixed, REPORT, *mixed, REPORT, *at(2, 2), REPORT]


def finger(slot: int, *axes: tuple[int, int]) -> list[event]:
    return [event(3, 0x2F, slot), *(event(3, code, value) for code, value in axes)]


X, Y, ID = 0x35, 0x36, 0x39  # ABS_MT_POSITION_X, ABS_MT_POSITION_Y, ABS_MT_TRACKING_ID


def test_moves_of_touches_are_merged_each_by_itself():
    first = [*finger(3, (X, 1), (Y, 2)), *finger(1, (X, 10)), event(3, 0, 1)]
    second = [*finger(1, (Y, 20)), *finger(3, (X, 3)), event(3, 0, 3), event(3, 1, 4)]
    merged = [*finger(1, (X, 10), (Y, 20)), *finger(3, (X, 3), (Y, 2)), event(3, 0, 3), event(3, 1, 4)]
    assert after(first, second) == [*merged, REPORT]


def test_touches_that_begin_or_end_stand_alone():
    begin, move, end = finger(0, (ID, 7), (X, 1)), finger(0, (X, 2)), finger(0, (ID, -1))
    assert after(begin, move, move, end, move) == [*begin, REPORT, *move, REPORT, *end, REPORT, *move, REPORT]


def test_a_touch_that_names_no_slot_is_merged_with_nothing():
    assert after(finger(1, (X, 1)), [event(3, X, 2)]) == [*finger(1, (X, 1)), REPORT, event(3, X, 2), REPORT]


def test_a_cross_of_keys_keeps_its_steps():
    left, middle = [event(3, 0x10, -1)], [event(3, 0x10, 0)]  # ABS_HAT0X
    assert after(left, middle) == [*left, REPORT, *middle, REPORT]


def test_relative_motion_adds_up_and_stays_on_its_side_of_a_wheel():
    motion = [event(2, 0, 3), event(2, 1, -1)]
    assert after(motion, motion) == [event(2, 0, 6), event(2, 1, -2), REPORT]
    assert after(motion, wheel(1), motion) == [*motion, REPORT, *wheel(1), REPORT, *motion, REPORT]


def test_a_frame_that_has_begun_is_closed():
    outbox = Outbox()
    outbox.put(at(1, 1))
    assert outbox.take() == event(3, 0, 1)
    outbox.put(at(2, 2))
    outbox.put(at(3, 3))
    assert contents(outbox) == [event(3, 1, 1), REPORT, *at(3, 3), REPORT]


def test_full():
    outbox = Outbox()
    for number in range(1000):
        outbox.put(at(number, number))
    assert not outbox.full
    for number in range(MAX_FRAMES - 1):
        assert not outbox.full
        outbox.put(left(number % 2))
    assert outbox.full
    outbox.take()
    assert not outbox.full
    outbox.clear()
    assert not outbox
