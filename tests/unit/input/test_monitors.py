"""Places on a guest's monitors, on axes that reach over its whole desktop."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from subos_devices.errors import UserError
from subos_devices.input.actions import move, scroll, touch
from subos_devices.input.monitors import Span, describe, places, reach
from subos_protocol.monitors import Area, Layout, Monitor
from subos_protocol.virtio_input import virtio_input_event

BESIDE = Layout(
    Area(0, 0, 3000, 1000), (Monitor("left", Area(0, 0, 1000, 1000)), Monitor("right", Area(1000, 0, 2000, 800)))
)
LAST = 32767


def test_the_ends_of_each_monitor() -> None:
    """Unit u of an axis is what lies from u * 3000 / 32768 pixels on: pixel 1000 begins within unit 10922."""
    assert reach(BESIDE, 1) == (Span(0, 10922), Span(0, 32767))
    assert reach(BESIDE, 2) == (Span(10923, 32767), Span(0, 26214))


def test_one_monitor_that_is_the_desktop_changes_nothing() -> None:
    alone = reach(Layout(Area(5, 5, 640, 480), (Monitor("it", Area(5, 5, 640, 480)),)), 1)
    assert all(alone.across.place(value) == value for value in range(LAST + 1))


def test_a_desktop_that_does_not_begin_at_its_origin() -> None:
    beside = Layout(Area(-100, 0, 200, 50), (Monitor("a", Area(-100, 0, 100, 50)), Monitor("b", Area(0, 0, 100, 50))))
    assert reach(beside, 1).across == (0, 16383)
    assert reach(beside, 2).across == (16384, 32767)


def test_positions_alone_are_changed() -> None:
    right = reach(BESIDE, 2)
    assert right.place(move(0, LAST)) == move(10923, 26214)
    assert right.place(touch(3, LAST, 0)) == touch(3, LAST, 0)
    assert right.place(touch(3, 0, LAST)) == touch(3, 10923, 26214)
    assert right.place(scroll(2)) == scroll(2)
    others = [virtio_input_event(1, 0, 7), virtio_input_event(3, 0x39, 0), virtio_input_event(3, 0x18, 9)]
    assert right.place(others) == others


def test_what_says_a_place() -> None:
    assert places(move(1, 1))
    assert places(touch(0, 1, 1))
    assert not places(scroll(1))


@pytest.mark.parametrize("number", [0, 3, 99])
def test_a_monitor_that_is_not_there(number: int) -> None:
    with pytest.raises(UserError) as raised:
        reach(BESIDE, number)
    assert "1: left, 1000x1000 at 0,0; 2: right, 2000x800 at 1000,0" in raised.value.hint


def test_a_desktop_without_monitors() -> None:
    assert describe(Layout(Area(0, 0, 1, 1), ())) == "none that is on"


@st.composite
def desktops(draw: st.DrawFn) -> Layout:
    width, height = draw(st.integers(1, 65536)), draw(st.integers(1, 65536))
    x, y = draw(st.integers(-65536, 65535)), draw(st.integers(-65536, 65535))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    sides = draw(st.integers(1, width - left)), draw(st.integers(1, height - top))
    return Layout(Area(x, y, width, height), (Monitor("it", Area(x + left, y + top, *sides)),))


@given(desktops(), st.integers(0, LAST), st.integers(0, LAST))
def test_every_place_lies_on_its_monitor(layout: Layout, x: int, y: int) -> None:
    """As display servers reckon: unit u is u * width / 32768 pixels from the desktop's edge."""
    whole, area = layout.desktop, layout.monitors[0].area
    assume(area.width >= 2 and area.height >= 2)  # of 65536 pixels, not every one has a unit
    found = reach(layout, 1)
    for value, span, start, length, side in (
        (x, found.across, area.x - whole.x, area.width, whole.width),
        (y, found.down, area.y - whole.y, area.height, whole.height),
    ):
        place = span.place(value)
        assert 0 <= place <= LAST
        assert start <= place * side / (LAST + 1) < start + length


@given(desktops(), st.integers(0, LAST), st.integers(0, LAST))
def test_the_order_of_places_stays(layout: Layout, one: int, other: int) -> None:
    found = reach(layout, 1).across
    low, high = sorted((one, other))
    assert 0 <= found.first <= found.place(low) <= found.place(high) <= found.last <= LAST
