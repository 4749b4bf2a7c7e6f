"""Mappings: how they are read, and what they make of events."""

from __future__ import annotations

import contextlib
import itertools
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_devices.errors import UserError
from subos_devices.input.capabilities import Capabilities
from subos_devices.input.drivers.mapper import Mapper
from subos_devices.input.drivers.mapping import Mapping, parse_mapping
from subos_devices.input.drivers.pads import pad_routes
from subos_devices.input.drivers.translation import Translation
from subos_devices.input.gamepad import profiles
from subos_protocol.input_codes import Abs, Ev, Key
from subos_protocol.virtio_input import virtio_input_absinfo, virtio_input_devids, virtio_input_event

STICK, TRIGGER, HAT = virtio_input_absinfo(-100, 100), virtio_input_absinfo(0, 200), virtio_input_absinfo(-1, 1)
NOBODY = virtio_input_devids(0, 0, 0, 0)
PAD = Capabilities(
    "pad",
    NOBODY,
    {Ev.EV_KEY: frozenset({Key.BTN_SOUTH, Key.BTN_EAST, Key.BTN_TL2})},
    {Abs.ABS_X: STICK, Abs.ABS_Y: STICK, Abs.ABS_Z: TRIGGER, Abs.ABS_HAT0X: HAT},
)
KEYS = Capabilities("keys", NOBODY, {Ev.EV_KEY: frozenset(range(1, 128))})


def mapper(text: str, source: Capabilities = PAD) -> Mapper:
    return Mapper(source, parse_mapping(tomllib.loads(text), "input[1]"))


def events(mapper: Mapper, *changes: tuple[str, int], now: float = 0.0) -> list[tuple[str, int]]:
    """What each change, in a frame of its own, becomes."""
    became: list[tuple[str, int]] = []
    for name, value in changes:
        event = virtio_input_event(*code(name), value)
        became += named(mapper.frame([event], now))
    return became


def code(name: str) -> tuple[int, int]:
    return (Ev.EV_KEY, Key[name]) if name in Key.__members__ else (Ev.EV_ABS, Abs[name])


def named(frame: list[virtio_input_event]) -> list[tuple[str, int]]:
    return [((Key if type_ == Ev.EV_KEY else Abs)(code).name, value) for type_, code, value in frame]


def test_without_a_mapping_all_stays() -> None:
    changes = [("BTN_SOUTH", 1), ("ABS_X", 17), ("BTN_SOUTH", 0)]
    assert events(mapper(""), *changes) == changes
    assert mapper("").capabilities == PAD


def test_swapped_buttons_and_axes() -> None:
    swapped = mapper('swap = [["BTN_SOUTH", "BTN_EAST"], ["ABS_X", "ABS_Y"]]')
    assert events(swapped, ("BTN_SOUTH", 1), ("ABS_Y", 5)) == [("BTN_EAST", 1), ("ABS_X", 5)]
    assert swapped.capabilities == PAD


def test_swapped_axes_keep_their_own_range() -> None:
    axes = mapper('swap = [["ABS_X", "ABS_Z"]]').capabilities.axes
    assert (axes[Abs.ABS_Z], axes[Abs.ABS_X]) == (STICK, TRIGGER)


def test_inverted() -> None:
    assert events(mapper('invert = ["ABS_Y", "ABS_Z"]'), ("ABS_Y", -100), ("ABS_Y", 30), ("ABS_Z", 0)) == [
        ("ABS_Y", 100),
        ("ABS_Y", -30),
        ("ABS_Z", 200),
    ]


def test_a_dead_zone_swallows_the_middle_and_stretches_the_rest() -> None:
    stick = mapper("dead_zone = { ABS_X = 0.2, ABS_Z = 0.1 }")
    values = [-100, -60, -20, 0, 20, 21, 60, 100]
    assert [value for _, value in events(stick, *(("ABS_X", value) for value in values))] == [
        *(-100, -50, 0, 0, 0, 1, 50, 100)
    ]
    assert events(stick, ("ABS_Z", 20), ("ABS_Z", 200)) == [("ABS_Z", 0), ("ABS_Z", 200)]  # a trigger rests at its end


@given(st.integers(-100, 100), st.floats(0.01, 0.9))
def test_a_dead_zone_keeps_to_the_range(value: int, zone: float) -> None:
    ((_, became),) = events(mapper(f"dead_zone = {{ ABS_X = {zone} }}"), ("ABS_X", value))
    assert abs(became) <= abs(value)
    assert became * value >= 0


def test_a_trigger_presses_a_button_and_hesitates() -> None:
    trigger = mapper('map = { ABS_Z = "BTN_TL2" }')
    changes = [("ABS_Z", value) for value in (99, 100, 150, 81, 79, 99, 200, 0)]
    assert events(trigger, *changes) == [("BTN_TL2", value) for value in (1, 0, 1, 0)]
    assert Abs.ABS_Z not in trigger.capabilities.axes


def test_sides_of_a_hat_are_buttons() -> None:
    hat = mapper('map = { "ABS_HAT0X-" = "BTN_DPAD_LEFT", "ABS_HAT0X+" = "BTN_DPAD_RIGHT" }')
    assert events(hat, ("ABS_HAT0X", -1), ("ABS_HAT0X", 1), ("ABS_HAT0X", 0)) == [
        *(("BTN_DPAD_LEFT", 1), ("BTN_DPAD_LEFT", 0), ("BTN_DPAD_RIGHT", 1), ("BTN_DPAD_RIGHT", 0))
    ]


def test_keys_drive_a_pad() -> None:
    keys = mapper('map = { KEY_W = "ABS_Y-", KEY_S = "ABS_Y+", KEY_SPACE = "BTN_SOUTH", KEY_Q = "ABS_Z" }', KEYS)
    translation = Translation(keys.capabilities, PAD)
    seen = []
    for name, value in [
        *(("KEY_W", 1), ("KEY_S", 1), ("KEY_W", 0), ("KEY_S", 0)),
        *(("KEY_Q", 1), ("KEY_Q", 0), ("KEY_SPACE", 1), ("KEY_SPACE", 0), ("KEY_A", 1)),
    ]:
        frame = keys.frame([virtio_input_event(Ev.EV_KEY, Key[name], value)], 0)
        seen += named(translation.frame(frame))
    assert seen == [
        *(("ABS_Y", -100), ("ABS_Y", 0), ("ABS_Y", 100), ("ABS_Y", 0)),
        *(("ABS_Z", 200), ("ABS_Z", 0), ("BTN_SOUTH", 1), ("BTN_SOUTH", 0)),
    ]


def test_a_button_beside_a_stick_takes_it_to_its_end() -> None:
    pad = mapper('map = { BTN_EAST = "ABS_X+" }')
    assert events(pad, ("ABS_X", 40), ("BTN_EAST", 1), ("BTN_EAST", 0)) == [("ABS_X", 40), ("ABS_X", 100), ("ABS_X", 0)]


def test_two_buttons_that_became_one_are_one() -> None:
    both = mapper('map = { BTN_EAST = "BTN_SOUTH" }')
    changes = [("BTN_EAST", 1), ("BTN_SOUTH", 1), ("BTN_EAST", 0), ("BTN_SOUTH", 0)]
    assert events(both, *changes) == [("BTN_SOUTH", 1), ("BTN_SOUTH", 0)]


def test_turbo_presses_again_and_again_and_ends_released() -> None:
    turbo = mapper("turbo = { BTN_SOUTH = 10 }")
    assert turbo.next_tick is None
    seen = [(0.0, change) for change in events(turbo, ("BTN_SOUTH", 1), now=0.0)]
    while (when := turbo.next_tick) is not None and when < 0.24:
        seen += [(round(when, 3), change) for change in named(turbo.tick(when))]
    assert seen == [(round(0.05 * step, 3), ("BTN_SOUTH", 1 - step % 2)) for step in range(5)]
    assert events(turbo, ("BTN_SOUTH", 0), now=0.24) == [("BTN_SOUTH", 0)]
    assert turbo.next_tick is None
    assert turbo.tick(1.0) == []


def test_turbo_does_not_catch_up_with_what_was_slept_through() -> None:
    turbo = mapper("turbo = { BTN_SOUTH = 10 }")
    events(turbo, ("BTN_SOUTH", 1), now=0.0)
    assert named(turbo.tick(100.0)) == [("BTN_SOUTH", 0)]
    assert turbo.next_tick is not None
    assert turbo.next_tick >= 100.0


changes = st.lists(
    st.tuples(
        st.sampled_from(["BTN_SOUTH", "BTN_EAST", "ABS_X", "ABS_Z", "ABS_HAT0X"]), st.sampled_from([-100, -1, 0, 1, 90])
    )
)
TANGLED = """
swap = [["BTN_SOUTH", "BTN_EAST"]]
turbo = { BTN_EAST = 20 }
invert = ["ABS_X"]
map = { "ABS_X-" = "BTN_TL", "ABS_X+" = "BTN_SOUTH", ABS_Z = "BTN_EAST", "ABS_HAT0X+" = "KEY_A" }
"""


@given(changes)
def test_whatever_happens_presses_alternate_and_rest_is_rest(done: list[tuple[str, int]]) -> None:
    tangled = mapper(TANGLED)
    seen: list[tuple[str, int]] = []
    for step, change in enumerate(done):
        seen += events(tangled, change, now=step / 30)
        seen += named(tangled.tick(step / 30))
    rest = [(name, 0) for name in ("BTN_SOUTH", "BTN_EAST", "ABS_X", "ABS_Z", "ABS_HAT0X")]
    seen += events(tangled, *rest, now=len(done) / 30)
    for name in {name for name, _ in seen}:
        values = [value for other, value in seen if other == name]
        assert all(first != second for first, second in itertools.pairwise(values))
        assert values[-1] == 0


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("swop = []", "input[1]: there is no setting 'swop'", "did you mean swap?"),
        ('invert = ["ABS_Q"]', "input[1].invert: no control is called 'ABS_Q'", "did you mean ABS_"),
        ('invert = ["BTN_SOUTH"]', "input[1].invert: BTN_SOUTH is not an axis", "ABS_X, say"),
        ('invert = "ABS_X"', "input[1].invert must be a list of names, not 'ABS_X'", '["ABS_Y"]'),
        ("dead_zone = { ABS_X = 2 }", "input[1].dead_zone.ABS_X must be a number above 0 and up to 0.9, not 2", ""),
        (
            "turbo = { BTN_SOUTH = true }",
            "input[1].turbo.BTN_SOUTH must be a number above 0 and up to 50, not True",
            "",
        ),
        ("turbo = { ABS_X = 5 }", "input[1].turbo: ABS_X is not a button", "BTN_SOUTH, say"),
        ("map = { KEY_A = 5 }", "input[1].map.KEY_A must be a control's name, not 5", "BTN_SOUTH"),
        ('map = { "KEY_A-" = "BTN_SOUTH" }', "input[1].map: KEY_A is a button, which has no sides", "write KEY_A"),
        ('map = { "ABS_X-" = "ABS_Y" }', "one side of an axis can become a button only", "map the whole axis"),
        ('map = { ABS_X = "ABS_Y-" }', "ABS_X is a whole axis, and ABS_Y- one side of one", "leave out the sign"),
        ('map = { ABS_X = "KEY_A", "ABS_X+" = "KEY_B" }', "ABS_X is mapped as a whole and by its sides", "choose one"),
        ('map = { ABS_MT_SLOT = "ABS_X" }', "no control is called 'ABS_MT_SLOT'", ""),
        ('swap = [["BTN_SOUTH", "ABS_X"]]', "BTN_SOUTH and ABS_X are not two buttons or two axes", "use map"),
        ('swap = [["BTN_SOUTH"]]', "input[1].swap must be a list of pairs", "BTN_EAST"),
        (
            'swap = [["BTN_SOUTH", "BTN_EAST"]]\nmap = { BTN_SOUTH = "KEY_A" }',
            "input[1].map: BTN_SOUTH leads to two controls",
            "name it once",
        ),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        mapper(text)
    assert message in caught.value.message
    assert hint in caught.value.hint


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["map", "swap", "invert", "dead_zone", "turbo", "ABS_X", "KEY_A"]), inner)
        ),
    )
)
def test_no_table_is_answered_by_anything_but_a_user_error(table: object) -> None:
    with contextlib.suppress(UserError):
        parse_mapping(table, "input[1]")


@pytest.mark.parametrize(
    ("source", "target", "done", "seen"),
    [
        ("switchpro", "xbox360", ("BTN_TL2", 1), ("ABS_Z", 255)),
        ("switchpro", "xbox360", ("BTN_TL2", 0), None),
        ("xbox360", "switchpro", ("ABS_RZ", 255), ("BTN_TR2", 1)),
        ("dualsense", "xbox360", ("ABS_Z", 255), ("ABS_Z", 255)),
        ("dualsense", "xbox360", ("BTN_TL2", 1), None),
        ("xbox360", "dualsense", ("ABS_X", -32768), ("ABS_X", 0)),
        ("xbox360", "xbox360", ("ABS_HAT0X", -1), ("ABS_HAT0X", -1)),
    ],
)
def test_pads_that_have_triggers_in_another_form(
    source: str, target: str, done: tuple[str, int], seen: tuple[str, int] | None
) -> None:
    mine, theirs = profiles.load(source).capabilities, profiles.load(target).capabilities
    mapper = Mapper(mine, Mapping(pad_routes(mine, theirs)))
    frame = mapper.frame([virtio_input_event(*code(done[0]), done[1])], 0)
    assert named(Translation(mapper.capabilities, theirs).frame(frame)) == ([seen] if seen else [])
