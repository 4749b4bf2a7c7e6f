"""When the next worker is made, and when a device is held quiet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_devices.supervisor.restarts import BACKOFF, BRIEF, POISONED, RETRY, STEADY, Restarts


def die(
    restarts: Restarts,
    life: float = 0.0,
    *,
    served: int = 0,
    owing: bool = True,
    ready: bool = True,
    killed: bool = False,
) -> float:
    restarts.born(100.0, 7)
    if ready:
        restarts.ready()
    return restarts.died(100.0 + life, 7 + served, owing=owing, killed=killed)


def test_the_first_two_cost_no_time_and_the_others_ever_more() -> None:
    restarts = Restarts()
    delays = [die(restarts) for _ in range(len(BACKOFF) + 2)]
    assert delays == [*BACKOFF[1:], RETRY, RETRY, RETRY]
    assert delays == sorted(delays)
    assert (restarts.quiet, restarts.count) == (True, len(BACKOFF) + 2)


def test_a_device_is_quiet_after_a_row_of_deaths_and_not_before() -> None:
    restarts = Restarts()
    for _ in range(len(BACKOFF) - 1):
        die(restarts)
        assert not restarts.quiet
    die(restarts)
    assert restarts.quiet


@pytest.mark.parametrize(
    ("life", "served", "owing", "alive"),
    [
        (STEADY + 1, 0, True, True),
        (BRIEF + 0.1, 1, True, True),
        (BRIEF + 0.1, 0, False, True),
        (BRIEF + 0.1, 0, True, False),  # it took its time over one request, and died of it
        (BRIEF - 0.1, 1, False, False),
    ],
)
def test_what_is_a_life(life: float, served: int, owing: bool, alive: bool) -> None:
    restarts = Restarts()
    for _ in range(3):
        die(restarts)
    restarts.born(0.0, 7)
    assert not restarts.lives(life, 7 + served, owing=owing)
    restarts.ready()
    assert restarts.lives(life, 7 + served, owing=owing) == alive
    die(restarts, life, served=served, owing=owing)
    assert restarts.row == (0 if alive else 4)


def test_one_that_is_killed_each_second_while_it_serves_is_always_back_at_once() -> None:
    restarts = Restarts()
    assert {die(restarts, 0.95, served=1) for _ in range(300)} == {0.0}
    assert {die(restarts, 0.95, owing=False) for _ in range(300)} == {0.0}


def test_one_that_lives_ends_the_row() -> None:
    restarts = Restarts()
    while not restarts.quiet:
        die(restarts)
    restarts.recovered()
    assert not restarts.quiet
    assert die(restarts) == 0.0


def test_one_that_is_never_ready_has_not_lived_however_long_it_tried() -> None:
    restarts = Restarts()
    while not restarts.quiet:
        die(restarts, 3 * STEADY, owing=False, ready=False)
    assert restarts.count == len(BACKOFF)


@pytest.mark.parametrize(("owing", "ready"), [(True, True), (False, False)])
def test_what_is_kept_is_suspected_after_some_that_have_done_nothing(owing: bool, ready: bool) -> None:
    restarts = Restarts()
    for _ in range(POISONED):
        assert not restarts.poisoned
        die(restarts, owing=owing, ready=ready)
    assert restarts.poisoned
    die(restarts, served=1)
    assert not restarts.poisoned


@pytest.mark.parametrize(("served", "owing"), [(1, True), (0, False)])
def test_what_is_kept_is_not_suspected_where_somebody_kills_them(served: int, owing: bool) -> None:
    restarts = Restarts()
    while not restarts.quiet:
        assert not restarts.poisoned
        die(restarts, served=served, owing=owing)
    assert restarts.poisoned  # now it is worth a try


def test_one_that_is_killed_before_it_could_do_anything_says_nothing_of_what_is_kept() -> None:
    """Where a machine is busy, a second may not be enough for one request."""
    restarts = Restarts()
    assert {die(restarts, BRIEF + 0.1, killed=True) for _ in range(300)} == {0.0}
    assert not restarts.poisoned
    for _ in range(POISONED - 1):
        die(restarts)
        die(restarts, killed=True)
    assert not restarts.poisoned
    die(restarts)
    assert restarts.poisoned


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 2), st.booleans())))
def test_it_waits_never_longer_than_a_minute_and_counts_every_death(
    deaths: list[tuple[float, int, bool]],
) -> None:
    restarts = Restarts()
    for life, served, owing in deaths:
        assert 0.0 <= die(restarts, life, served=served, owing=owing) <= RETRY
    assert restarts.count == len(deaths)
