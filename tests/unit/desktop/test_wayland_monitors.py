"""What a Wayland compositor says of its outputs, and what of it counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_desktop.monitors.wayland import OUTPUT, XDG_OUTPUT, Output
from subos_protocol.monitors import MAX_NAME, Area, Monitor

GEOMETRY = ("geometry", (100, 50, 300, 200, 0, "maker", "model", 0))
TURNED = ("geometry", (0, 0, 300, 200, 0, "maker", "model", 1))
MODE = ("mode", (1, 2560, 1440, 60000))
Event = tuple[str, tuple[Any, ...]]


def monitor(*events: Event) -> Monitor | None:
    output = Output(7, 4)
    for event in events:
        output.hear(*event)
    return output.monitor()


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], None),
        ([GEOMETRY], None),
        ([MODE], None),
        ([GEOMETRY, MODE], Monitor("output 7", Area(100, 50, 2560, 1440))),
        ([GEOMETRY, MODE, ("mode", (0, 640, 480, 60000))], Monitor("output 7", Area(100, 50, 2560, 1440))),
        ([GEOMETRY, MODE, ("scale", (2,)), ("name", ("DP-1",))], Monitor("DP-1", Area(100, 50, 1280, 720))),
        ([TURNED, MODE], Monitor("output 7", Area(0, 0, 1440, 2560))),
        (
            [GEOMETRY, MODE, ("logical_position", (-5, 6)), ("logical_size", (1707, 960))],
            Monitor("output 7", Area(-5, 6, 1707, 960)),
        ),
        ([("logical_size", (0, 0))], None),
        ([("logical_size", (-1, 10))], None),
        ([("name", ("x" * 100,)), ("logical_size", (1, 1))], Monitor("x" * MAX_NAME, Area(0, 0, 1, 1))),
    ],
)
def test_where_an_output_is(events: list[Event], expected: Monitor | None) -> None:
    assert monitor(*events) == expected


number, text = st.integers(-(1 << 31), (1 << 31) - 1), st.text(max_size=100)
events = st.one_of(
    st.tuples(st.just(name), st.tuples(*(text if letter == "s" else number for letter in signature)))
    for name, signature in (*OUTPUT.events, *XDG_OUTPUT.events)
)


@given(st.lists(events))
def test_whatever_is_said_is_a_place_or_none(said: list[Event]) -> None:
    found = monitor(*said)
    assert found is None or (found.area.width > 0 and found.area.height > 0 and len(found.name) <= MAX_NAME)
