"""A desktop's layout: literal JSON both ways, and whatever else a guest may say."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_protocol.errors import Malformed
from subos_protocol.monitors import (
    MAX_MONITORS,
    MAX_NAME,
    MAX_SIDE,
    Area,
    Layout,
    Monitor,
    bounding,
    pack_layout,
    unpack_layout,
)

LAYOUT = Layout(
    Area(-1920, 0, 3200, 1080),
    (Monitor("DP-1", Area(-1920, 0, 1920, 1080)), Monitor("eDP-1", Area(0, 360, 1280, 720))),
)
SAID = (
    '{"desktop": [-1920, 0, 3200, 1080], "monitors": [{"name": "DP-1", "area": [-1920, 0, 1920, 1080]}, '
    '{"name": "eDP-1", "area": [0, 360, 1280, 720]}]}'
)
ONE = {"name": "a", "area": [0, 0, 10, 10]}


def test_a_layout_s_bytes() -> None:
    assert json.dumps(pack_layout(LAYOUT)) == SAID
    assert unpack_layout(json.loads(SAID)) == LAYOUT


def test_a_desktop_whose_monitors_are_all_off() -> None:
    assert unpack_layout({"desktop": [0, 0, 10, 10], "monitors": []}).monitors == ()


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        {},
        {"desktop": [0, 0, 10, 10]},
        {"desktop": [0, 0, 10], "monitors": []},
        {"desktop": [0, 0, 10, 10.0], "monitors": []},
        {"desktop": [0, 0, True, 10], "monitors": []},
        {"desktop": [0, 0, 0, 10], "monitors": []},
        {"desktop": [0, 0, MAX_SIDE + 1, 10], "monitors": []},
        {"desktop": [-MAX_SIDE - 1, 0, 10, 10], "monitors": []},
        {"desktop": [0, MAX_SIDE, 10, 10], "monitors": []},
        {"desktop": [0, 0, 10, 10], "monitors": {}},
        {"desktop": [0, 0, 10, 10], "monitors": [ONE] * (MAX_MONITORS + 1)},
        {"desktop": [0, 0, 10, 10], "monitors": [None]},
        {"desktop": [0, 0, 10, 10], "monitors": [{**ONE, "name": 1}]},
        {"desktop": [0, 0, 10, 10], "monitors": [{**ONE, "name": "x" * (MAX_NAME + 1)}]},
        {"desktop": [0, 0, 10, 10], "monitors": [{**ONE, "area": [1, 0, 10, 10]}]},
        {"desktop": [0, 0, 10, 10], "monitors": [{**ONE, "area": [-1, 0, 5, 10]}]},
    ],
)
def test_what_is_no_layout(said: Any) -> None:
    with pytest.raises(Malformed):
        unpack_layout(said)


def test_a_layout_beyond_the_limits_is_not_packed() -> None:
    with pytest.raises(Malformed):
        pack_layout(Layout(Area(0, 0, MAX_SIDE + 1, 1), ()))


numbers = st.integers(-MAX_SIDE - 2, MAX_SIDE + 2)
areas = st.lists(numbers, min_size=4, max_size=4)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["name", "area", "x"]), inner),
)
monitors = st.lists(st.fixed_dictionaries({"name": st.text(max_size=70), "area": areas}) | anything, max_size=20)


@given(anything | st.fixed_dictionaries({"desktop": areas | anything, "monitors": monitors | anything}))
def test_whatever_is_said_is_a_layout_within_the_limits_or_none(said: Any) -> None:
    with contextlib.suppress(Malformed):
        layout = unpack_layout(said)
        assert unpack_layout(pack_layout(layout)) == layout
        assert len(layout.monitors) <= MAX_MONITORS
        for monitor in layout.monitors:
            assert layout.desktop.holds(monitor.area)
            assert len(monitor.name) <= MAX_NAME


@given(st.lists(st.builds(Area, numbers, numbers, *[st.integers(1, MAX_SIDE)] * 2), min_size=1))
def test_what_monitors_cover_together(each: list[Area]) -> None:
    whole = bounding(tuple(each))
    assert all(whole.holds(area) for area in each)
    assert {whole.x, whole.y} <= {area.x for area in each} | {area.y for area in each}
