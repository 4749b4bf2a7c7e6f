"""What was done with effects leads to the same, however much of it was left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_protocol.effects import Effect, Erase, Feedback, Gain, Play, Rumble, Stop, Upload
from subos_protocol.feedback import Effects, Pending

SHORT = Upload(Effect(1, 100, 100, 0, Rumble(1, 2)))
ENDLESS = Upload(Effect(2, 0, 0, 0, Rumble(3, 4)))

ids = st.integers(0, 2)
messages: st.SearchStrategy[Feedback] = (
    st.builds(lambda number, strong: Upload(Effect(number, 0, 0, 0, Rumble(strong, 0))), ids, st.integers(0, 2))
    | st.builds(Play, ids, st.integers(1, 2))
    | st.builds(Stop, ids)
    | st.builds(Erase, ids)
    | st.builds(Gain, st.integers(0, 2))
)


def state(said: list[Feedback]) -> list[Feedback]:
    effects = Effects()
    for message in said:
        effects.note(message, 0)
    return sorted(effects.all(0), key=repr)


@given(st.lists(st.tuples(messages, st.booleans()), max_size=30))
def test_what_is_left_out_leads_to_the_same(said: list[tuple[Feedback, bool]]) -> None:
    """`True`: what waits is said then. What is of no effect is left out before, as the agent does it."""
    pad, pending, heard = Effects(), Pending(), list[Feedback]()
    for message, is_heard in said:
        if pad.note(message, 0):
            pending.put(message)
        if is_heard:
            heard += pending.take()
            assert not pending
    heard += pending.take()
    assert state(heard) == sorted(pad.all(0), key=repr)


@given(st.lists(messages, max_size=200))
def test_what_waits_is_bounded(said: list[Feedback]) -> None:
    pending = Pending()
    for message in said:
        pending.put(message)
    assert len(pending.take()) <= 1 + 3 * 3


def test_effects_come_to_their_end() -> None:
    effects = Effects()
    for message in (SHORT, ENDLESS, Play(1, 2), Play(2, 1)):
        assert effects.note(message, 10.0)
    assert effects.playing(10.3) == [1, 2]
    assert Play(1, 1) in effects.all(10.3)
    assert effects.playing(10.4) == [2]
    assert effects.all(1e6) == [SHORT, ENDLESS, Play(2, 1)]


@pytest.mark.parametrize("message", [Play(1, 1), Stop(1), Erase(1)])
def test_what_is_done_with_no_effect_is_nothing(message: Feedback) -> None:
    effects = Effects()
    assert not effects.note(message, 0)
    assert effects.all(0) == []


def test_everything_is_taken_back() -> None:
    effects = Effects()
    for message in (SHORT, ENDLESS, Play(2, 1), Gain(5)):
        effects.note(message, 0)
    assert effects.clear() == [Stop(2), Erase(1), Erase(2), Gain(0xFFFF)]
    assert effects.all(0) == []
    assert effects.clear() == []
