"""Which worker hangs: by words that move or stand still, and by whether it answers when it is asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from subos_devices.supervisor.watchdog import PERIOD, Verdict, Watch

NOTHING, PING, HANGS = Verdict.NOTHING, Verdict.PING, Verdict.HANGS
LIMIT = 5.0


def looks(watch: Watch, count: int, *, busy: bool = True, start: float = 0.0) -> list[Verdict]:
    return [watch.look(start + number * PERIOD, [1, 2], busy=busy) for number in range(count)]


def test_one_that_owes_nothing_is_never_asked() -> None:
    assert set(looks(Watch(LIMIT), 1000, busy=False)) == {NOTHING}


def test_one_that_stands_still_is_asked_once_and_then_hangs() -> None:
    assert looks(Watch(LIMIT), 5) == [NOTHING, PING, NOTHING, HANGS, HANGS]


def test_one_that_answers_is_left_alone_until_something_has_moved() -> None:
    watch = Watch(LIMIT)
    assert looks(watch, 2) == [NOTHING, PING]
    watch.answered()
    assert {watch.look(4.0 + number * PERIOD, [1, 3], busy=True) for number in range(100)} == {NOTHING}
    assert watch.look(1000.0, [1, 4], busy=True) == NOTHING
    assert watch.look(1002.0, [1, 4], busy=True) == PING


def test_one_that_moves_does_not_hang() -> None:
    watch = Watch(LIMIT)
    assert {watch.look(number * PERIOD, [number], busy=True) for number in range(100)} == {NOTHING}


def test_a_long_limit_is_waited_for() -> None:
    verdicts = looks(Watch(30.0), 16)
    assert verdicts[1] == PING
    assert verdicts.index(HANGS) * PERIOD == 30.0


def test_a_supervisor_that_slept_gives_it_time_to_answer() -> None:
    """Both were stopped, say: nobody hangs who was not asked a while ago."""
    watch = Watch(LIMIT)
    watch.look(0.0, [1], busy=True)
    assert watch.look(1000.0, [1], busy=True) == PING
    assert watch.look(1000.1, [1], busy=True) == NOTHING
    assert watch.look(1000.0 + PERIOD, [1], busy=True) == HANGS


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), max_size=60))
def test_nobody_hangs_who_was_not_asked_or_has_answered(steps: list[tuple[int, bool, bool]]) -> None:
    watch, now, asked, last = Watch(LIMIT), 0.0, False, -1
    for word, busy, answers in steps:
        now += PERIOD
        verdict = watch.look(now, [word], busy=busy)
        if word != last:
            last, asked = word, False
            assert verdict == NOTHING
        if verdict == HANGS:
            assert asked
        if verdict == PING:
            asked = True
        if answers and asked:
            watch.answered()
            asked = False
