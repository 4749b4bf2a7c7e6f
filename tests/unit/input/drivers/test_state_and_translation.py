"""What was missed of a device, and its events as another device's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_devices.input.capabilities import Capabilities
from subos_devices.input.drivers.state import DeviceState
from subos_devices.input.drivers.translation import Translation, scale
from subos_devices.input.gamepad import profiles
from subos_devices.input.keyboard import KEYBOARD
from subos_devices.input.mouse import MOUSE
from subos_protocol.input_codes import Abs, Ev, Key, Rel
from subos_protocol.virtio_input import virtio_input_absinfo, virtio_input_devids, virtio_input_event

NOBODY = virtio_input_devids(0, 0, 0, 0)
SLOTS, CONTACTS = 4, (Abs.ABS_MT_TRACKING_ID, Abs.ABS_MT_POSITION_X, Abs.ABS_MT_PRESSURE)


def device(axes: dict[int, virtio_input_absinfo] | None = None, **codes: set[int]) -> Capabilities:
    by_type = {Ev[name]: frozenset(found) for name, found in codes.items()}
    return Capabilities("some device", NOBODY, by_type, axes or {})


def key(code: int, value: int) -> virtio_input_event:
    return virtio_input_event(Ev.EV_KEY, code, value)


def place(code: int, value: int) -> virtio_input_event:
    return virtio_input_event(Ev.EV_ABS, code, value)


events = st.lists(
    st.one_of(
        st.builds(key, st.integers(0, 20), st.integers(0, 1)),
        st.builds(place, st.sampled_from([Abs.ABS_X, Abs.ABS_Y]), st.integers(-9, 9)),
        st.builds(place, st.just(Abs.ABS_MT_SLOT), st.integers(0, SLOTS - 1)),
        st.builds(place, st.sampled_from(CONTACTS), st.integers(-1, 9)),
    )
)


def open_slots() -> DeviceState:
    """As the kernel has them: every slot is there, without a contact."""
    return DeviceState(slots={number: dict.fromkeys(CONTACTS, -1) for number in range(SLOTS)})


@given(events, events)
def test_the_difference_leads_to_the_state(before: list[virtio_input_event], after: list[virtio_input_event]) -> None:
    known, now = open_slots(), open_slots()
    known.note(before)
    now.note([*before, *after])
    known.note(known.difference(now))
    assert known == now
    assert known.difference(now) == []


@given(events, events, st.integers(0, SLOTS - 1), events)
def test_who_hears_of_a_touch_alone_knows_all_of_it(
    before: list[virtio_input_event], frame: list[virtio_input_event], slot: int, rest: list[virtio_input_event]
) -> None:
    """Of those that begin in the frame: a reader that has heard nothing before knows what the kernel knows."""
    known, now, reader = open_slots(), open_slots(), DeviceState()
    known.note(before)
    now.note(before)
    frame = [*frame, place(Abs.ABS_MT_SLOT, slot), place(Abs.ABS_MT_TRACKING_ID, 7), *rest]
    now.note(frame)
    reader.slot = known.slot
    reader.note(known.completed(frame))
    known.note(known.completed(frame))
    assert known == now, "and it is in the same slot"
    assert reader.slot == now.slot
    assert reader.slots[slot] == now.slots[slot]


def test_a_touch_where_the_one_before_it_was() -> None:
    known = DeviceState(slots={0: {Abs.ABS_MT_TRACKING_ID: -1, Abs.ABS_MT_POSITION_X: 7, Abs.ABS_MT_POSITION_Y: 8}})
    begins = [place(Abs.ABS_MT_TRACKING_ID, 2), place(Abs.ABS_MT_POSITION_Y, 9)]
    slot = place(Abs.ABS_MT_SLOT, 0)
    assert known.completed(begins) == [*begins, slot, place(Abs.ABS_MT_POSITION_X, 7), slot]
    assert known.completed([key(5, 1)]) == [key(5, 1)]
    assert known.completed([place(Abs.ABS_MT_POSITION_X, 1)]) == [place(Abs.ABS_MT_POSITION_X, 1)]
    assert known.completed([place(Abs.ABS_MT_TRACKING_ID, -1)]) == [place(Abs.ABS_MT_TRACKING_ID, -1)]


def test_releases_come_before_presses_and_a_contact_before_its_place() -> None:
    now = DeviceState({5}, {Abs.ABS_X: 3}, {1: {Abs.ABS_MT_POSITION_X: 7, Abs.ABS_MT_TRACKING_ID: 40}}, 1)
    assert DeviceState({4}).difference(now) == [
        key(4, 0),
        place(Abs.ABS_X, 3),
        place(Abs.ABS_MT_SLOT, 1),
        place(Abs.ABS_MT_TRACKING_ID, 40),
        place(Abs.ABS_MT_POSITION_X, 7),
        key(5, 1),
    ]


axis_ranges = st.tuples(st.integers(-40_000, 40_000), st.integers(1, 70_000)).map(
    lambda pair: virtio_input_absinfo(pair[0], pair[0] + pair[1])
)


@given(axis_ranges, axis_ranges, st.integers(-(1 << 31), (1 << 31) - 1), st.integers(0, 1000))
def test_scaling_keeps_ends_order_and_range(
    source: virtio_input_absinfo, target: virtio_input_absinfo, value: int, step: int
) -> None:
    scaled = scale(source, target)
    assert (scaled(source.min), scaled(source.max)) == (target.min, target.max)
    assert target.min <= scaled(value) <= scaled(value + step) <= target.max


@pytest.mark.parametrize(
    ("value", "expected"), [(-32768, 0), (-129, 127), (-128, 128), (0, 128), (128, 128), (129, 128), (32767, 255)]
)
def test_a_stick_at_rest_is_in_the_middle(value: int, expected: int) -> None:
    assert scale(virtio_input_absinfo(-32768, 32767, flat=128), virtio_input_absinfo(0, 255))(value) == expected


def test_a_trigger_without_flat_leaves_its_end_at_once() -> None:
    scaled = scale(virtio_input_absinfo(0, 1023), virtio_input_absinfo(0, 255))
    assert [scaled(value) for value in (0, 2, 512, 1023)] == [0, 0, 128, 255]


def test_what_the_target_lacks_is_left_out() -> None:
    translation = Translation(device(EV_KEY={Key.KEY_A, Key.BTN_LEFT}), KEYBOARD)
    frame = [key(Key.KEY_A, 1), key(Key.BTN_LEFT, 1), key(Key.KEY_A, 2), virtio_input_event(Ev.EV_MSC, 4, 30)]
    assert translation.frame(frame) == [key(Key.KEY_A, 1)]


def test_a_relative_mouse_for_an_absolute_one_stops_at_the_edges() -> None:
    translation = Translation(device(EV_REL={Rel.REL_X, Rel.REL_Y}), MOUSE)

    def moved(amount: int) -> list[virtio_input_event]:
        return translation.frame([virtio_input_event(Ev.EV_REL, Rel.REL_X, amount)])

    assert moved(-1) == [place(Abs.ABS_X, 16384 - 20)]
    assert moved(5000) == [place(Abs.ABS_X, 32767)]
    assert moved(-(1 << 31)) == [place(Abs.ABS_X, 0)]


def test_a_wheel_of_one_resolution_turns_in_both() -> None:
    down = virtio_input_event(Ev.EV_REL, Rel.REL_WHEEL, -2)
    fine = virtio_input_event(Ev.EV_REL, Rel.REL_WHEEL_HI_RES, -240)
    assert Translation(device(EV_REL={Rel.REL_WHEEL}), MOUSE).frame([down]) == [down, fine]
    both = Translation(device(EV_REL={Rel.REL_WHEEL, Rel.REL_WHEEL_HI_RES}), MOUSE)
    assert both.frame([down, fine]) == [down, fine]


def test_contacts_in_slots_that_the_target_lacks_are_left_out() -> None:
    span = virtio_input_absinfo(0, 100)

    def touch(slots: int) -> Capabilities:
        return device(
            {
                Abs.ABS_MT_SLOT: virtio_input_absinfo(0, slots - 1),
                Abs.ABS_MT_TRACKING_ID: virtio_input_absinfo(0, 65535),
                Abs.ABS_MT_POSITION_X: span,
            }
        )

    first = [place(Abs.ABS_MT_SLOT, 1), place(Abs.ABS_MT_TRACKING_ID, 7), place(Abs.ABS_MT_POSITION_X, 50)]
    other = [place(Abs.ABS_MT_SLOT, 2), place(Abs.ABS_MT_TRACKING_ID, 8), place(Abs.ABS_MT_POSITION_X, 60)]
    end = [place(Abs.ABS_MT_SLOT, 1), place(Abs.ABS_MT_TRACKING_ID, -1)]
    assert Translation(touch(10), touch(2)).frame([*first, *other, *end]) == [*first, *end]


def test_what_sensors_measure_stays_what_it_is() -> None:
    """A g of the Switch's is half as much of its axis as one of the DualSense's; a pad that cannot tell more says what
    it can."""
    procon, dualsense = (profiles.load(name).part("motion").capabilities for name in ("switchpro", "dualsense"))
    translation = Translation(procon, dualsense)
    events = [(3, 2, 4096), (3, 0, -32767), (3, 4, 14247 * 90), (4, 5, 1234)]
    said = translation.frame(virtio_input_event(*event) for event in events)
    assert said == [(3, 2, 8192), (3, 0, -32768), (3, 4, 1024 * 90), (4, 5, 1234)]


def test_two_fingers_of_one_touch_pad_on_another() -> None:
    dualshock, dualsense = (profiles.load(name).part("touchpad").capabilities for name in ("dualshock4", "dualsense"))
    translation = Translation(dualshock, dualsense)
    events = [(3, 0x2F, 1), (3, 0x39, 7), (3, 0x35, 1919), (3, 0x36, 941), (1, 0x110, 1), (1, 0x14A, 1)]
    said = translation.frame(virtio_input_event(*event) for event in events)
    assert said == [(3, 0x2F, 1), (3, 0x39, 7), (3, 0x35, 1919), (3, 0x36, 1079), (1, 0x110, 1), (1, 0x14A, 1)]
