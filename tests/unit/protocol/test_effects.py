"""Messages about effects: literal bytes both ways, the kernel's own layout, and whatever else may come."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_protocol.effects import (
    MAX_EFFECTS,
    MAX_TIMES,
    WAVEFORMS,
    Constant,
    Effect,
    Envelope,
    Erase,
    Feedback,
    Gain,
    Periodic,
    Play,
    Rumble,
    Stop,
    Upload,
    from_object,
    to_object,
)
from subos_protocol.errors import Malformed
from subos_protocol.ff_effect import ff_effect, from_kernel, to_kernel
from subos_protocol.input_codes import Ff

u16, s16 = st.integers(0, 0xFFFF), st.integers(-0x8000, 0x7FFF)
numbers = st.integers(0, MAX_EFFECTS - 1)
envelopes = st.builds(Envelope, u16, u16, u16, u16)
forces = (
    st.builds(Rumble, u16, u16)
    | st.builds(Constant, s16, envelopes)
    | st.builds(Periodic, st.sampled_from(list(WAVEFORMS.values())), u16, s16, s16, u16, envelopes)
)
effects = st.builds(Effect, numbers, u16, u16, u16, forces)
messages: st.SearchStrategy[Feedback] = (
    st.builds(Upload, effects)
    | st.builds(Play, numbers, st.integers(1, MAX_TIMES))
    | st.builds(Stop, numbers)
    | st.builds(Erase, numbers)
    | st.builds(Gain, u16)
)

RUMBLE = Upload(Effect(0, 500, 10, 16384, Rumble(65535, 7)))
SINE = Upload(Effect(95, 0, 0, 0, Periodic(Ff.FF_SINE, 100, -5, 6, 7, Envelope(1, 2, 3, 4))))
LITERAL = [
    (
        RUMBLE,
        '{"upload": {"id": 0, "length": 500, "delay": 10, "direction": 16384, "strong": 65535, "weak": 7, '
        '"type": "rumble"}}',
    ),
    (
        SINE,
        '{"upload": {"id": 95, "length": 0, "delay": 0, "direction": 0, "waveform": "sine", "period": 100, '
        '"magnitude": -5, "offset": 6, "phase": 7, "envelope": [1, 2, 3, 4], "type": "periodic"}}',
    ),
    (
        Upload(Effect(1, 9, 0, 0, Constant(-32768, Envelope(4, 3, 2, 1)))),
        '{"upload": {"id": 1, "length": 9, "delay": 0, "direction": 0, "level": -32768, "envelope": [4, 3, 2, 1], '
        '"type": "constant"}}',
    ),
    (Play(3, 2), '{"play": {"id": 3, "times": 2}}'),
    (Stop(3), '{"stop": 3}'),
    (Erase(3), '{"erase": 3}'),
    (Gain(49152), '{"gain": 49152}'),
]


@pytest.mark.parametrize(("message", "text"), LITERAL)
def test_literal_messages(message: Feedback, text: str) -> None:
    assert json.dumps(to_object(message)) == text
    assert from_object(json.loads(text)) == message


@given(messages)
def test_messages_survive_the_way(message: Feedback) -> None:
    assert from_object(json.loads(json.dumps(to_object(message)))) == message


def upload(**changed: Any) -> dict[str, Any]:
    return {"upload": {**to_object(RUMBLE)["upload"], **changed}}


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        {},
        {"stop": 1, "erase": 1},
        {"stop": 96},
        {"stop": -1},
        {"stop": True},
        {"stop": 1.0},
        {"stop": [1]},
        {"gain": 65536},
        {"shake": 1},
        {"play": 1},
        {"play": {"id": 1}},
        {"play": {"id": 1, "times": 0}},
        {"play": {"id": 1, "times": MAX_TIMES + 1}},
        {"upload": 1},
        {"upload": {}},
        upload(type="spring"),
        upload(type=["rumble"]),
        upload(type=None),
        upload(id=96),
        upload(strong=-1),
        upload(length=65536),
        upload(type="constant", level=0),
        upload(type="constant", level=40000, envelope=[0, 0, 0, 0]),
        upload(type="constant", level=0, envelope=[0, 0, 0]),
        upload(type="constant", level=0, envelope=[0, 0, 0, 65536]),
        upload(type="periodic", period=1, magnitude=1, offset=1, phase=1, envelope=[0, 0, 0, 0]),
        upload(type="periodic", waveform="custom", period=1, magnitude=1, offset=1, phase=1, envelope=[0, 0, 0, 0]),
        upload(type="periodic", waveform={}, period=1, magnitude=1, offset=1, phase=1, envelope=[0, 0, 0, 0]),
    ],
)
def test_what_is_no_message_is_refused(said: Any) -> None:
    with pytest.raises(Malformed):
        from_object(said)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=12,
)
near_misses = st.builds(
    lambda message, key, value: {
        name: {**content, key: value} if isinstance(content, dict) else value
        for name, content in to_object(message).items()
    },
    messages,
    st.sampled_from(["id", "type", "times", "waveform", "envelope", "length", "strong", "level", "magnitude"]),
    json_values,
)


@given(json_values | near_misses)
def test_whatever_comes_is_a_message_or_malformed(said: Any) -> None:
    try:
        message = from_object(said)
    except Malformed:
        return
    assert from_object(to_object(message)) == message


@given(effects)
def test_the_kernel_s_layout_holds_every_effect(effect: Effect) -> None:
    assert from_kernel(to_kernel(effect, number=effect.id)) == effect


def test_the_kernel_s_layout_by_its_bytes() -> None:
    """As offsetof() has them on a 64-bit machine, linux/input.h."""
    said = bytes(to_kernel(SINE.effect, number=-1))
    assert said[:14].hex() == "5100ffff00000000000000000000"
    assert said[16:34].hex() == "5a006400fbff060007000100020003000400"
    assert bytes(to_kernel(RUMBLE.effect, number=0)).hex().startswith("50000000004000000000f4010a000000ffff0700")
    assert len(said) == 48


@pytest.mark.parametrize(
    "said",
    [
        ff_effect(type=Ff.FF_SPRING, id=1),
        ff_effect(type=Ff.FF_PERIODIC, id=1),
        ff_effect(type=Ff.FF_RUMBLE, id=-1),
        ff_effect(type=Ff.FF_RUMBLE, id=96),
    ],
)
def test_effects_that_a_gamepad_does_not_have(said: ff_effect) -> None:
    assert from_kernel(said) is None
