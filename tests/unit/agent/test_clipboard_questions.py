"""What a person is asked of the clipboard, and how often a guest may read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from subos_desktop.clipboard import PNG, TEXT, Selection
from subos_desktop.clipboard.policy import IN, OUT, Passed
from subos_devices.agent.clipboard import process, questions
from subos_devices.agent.clipboard.audit import path
from subos_devices.agent.clipboard.policy import Rules
from subos_devices.agent.clipboard.process import HostPolicy
from subos_devices.agent.clipboard.questions import Questions
from subos_protocol.agent.errors import RemoteError

CLIPBOARD = Selection.CLIPBOARD


@pytest.fixture(autouse=True)
def nobody_is_notified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path))


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def sync() -> None:
        asyncio.run(asyncio.wait_for(test(), 30))

    sync.__name__ = test.__name__
    return sync


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def shown(asked: Questions) -> int:
    table = asked.table()
    assert table is not None
    number = table["number"]
    assert isinstance(number, int)
    return number


@on_a_loop
async def test_one_is_shown_at_a_time() -> None:
    asked = Questions("vm")
    first, second = asked.ask("from-guest", TEXT, 1), asked.ask("from-guest", PNG, 1)
    await turns()
    assert asked.table() == {"number": 1, "direction": "from-guest", "type": TEXT}
    with pytest.raises(RemoteError, match="question 2 is not being asked"):
        asked.answer(True, 2)
    asked.answer(True, 1)
    await turns()
    assert await first is True
    assert shown(asked) == 2
    with pytest.raises(RemoteError, match="question 1 is not being asked"):
        asked.answer(True, 1)
    asked.answer(False, None)  # the one before was answered, so this can only be meant for the second
    assert await second is False
    await turns()
    assert asked.table() is None
    with pytest.raises(RemoteError, match="nothing is being asked"):
        asked.answer(True, None)


@on_a_loop
async def test_an_answer_without_a_number_hits_no_other_question_than_the_one_that_was_shown() -> None:
    asked = Questions("vm")
    harmless = asked.ask("from-guest", TEXT, 1)
    await turns()
    asked.over(1)
    other = asked.ask("from-guest", PNG, 2)
    await turns()
    assert await harmless is None
    with pytest.raises(RemoteError, match="another question is being asked now: may image/png") as error:
        asked.answer(True, None)
    assert "yes 2" in error.value.hint
    assert not other.done()
    asked.answer(True, 2)
    assert await other is True


def test_it_counts_again_when_nobody_can_mean_the_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        asked = Questions("vm")
        assert await asked.ask("from-guest", TEXT, 1) is None  # nobody answers
        later = asked.ask("from-guest", TEXT, 2)
        await turns()
        with pytest.raises(RemoteError, match="another question"):
            asked.answer(True, None)
        monkeypatch.setattr(questions, "monotonic", lambda: asked._unanswered_until)
        asked.answer(True, None)
        assert await later is True

    monkeypatch.setattr(questions, "ANSWER_SECONDS", 0.05)
    asyncio.run(test())


@on_a_loop
async def test_questions_of_what_is_over_do_not_queue_up() -> None:
    policy = HostPolicy("vm", Rules.parse(["both=ask"]))
    pastes = []
    for copy in range(500):
        pastes.append(asyncio.ensure_future(policy.approve(IN, CLIPBOARD, TEXT, copy)))
        await turns()
        if copy != 499:
            policy.over(copy)
    await turns()
    assert sum(paste.done() for paste in pastes) == 499
    assert not any(paste.result() for paste in pastes[:-1])
    assert len(policy.questions._waiting) + (policy.questions.shown is not None) == 1
    assert len(policy._answers) == len(policy._log._again) == 1
    policy.over(499)
    assert not await pastes[-1]


@on_a_loop
async def test_what_is_shown_comes_no_faster_than_a_person_reads() -> None:
    asked = Questions("vm")
    seen = set()
    for copy in range(200):
        asked.ask("from-guest", TEXT, copy)
        await turns()
        if asked.shown is not None:
            seen.add(asked.shown.number)
        asked.over(copy)
    assert len(seen) == questions.SHOWN


@on_a_loop
async def test_reads_of_the_guest_have_a_pace() -> None:
    policy = HostPolicy("vm", Rules())
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(process.READS):
        assert await policy.approve(OUT, CLIPBOARD, TEXT, 1)
    assert loop.time() - began < 0.2
    assert await policy.approve(OUT, CLIPBOARD, TEXT, 1)
    assert loop.time() - began > 0.2
    other = asyncio.wait_for(policy.approve(OUT, CLIPBOARD, PNG, 1), 0.1)
    assert await other  # each type has its own, and so has the next copy
    waiting = asyncio.ensure_future(policy.approve(OUT, CLIPBOARD, TEXT, 1))
    await turns()
    policy.over(1)
    assert await asyncio.wait_for(policy.approve(OUT, CLIPBOARD, TEXT, 2), 0.1)
    assert not await waiting
    assert set(policy._paces) == {2}
    for _ in range(3 * process.READS):  # what programs of the host paste has none
        assert await asyncio.wait_for(policy.approve(IN, CLIPBOARD, TEXT, 3), 0.1)


@on_a_loop
async def test_what_is_counted_is_in_the_log_at_the_end() -> None:
    policy = HostPolicy("vm", Rules())
    for _ in range(5):
        assert await policy.approve(OUT, CLIPBOARD, TEXT, 1)
        policy.record(Passed(OUT, CLIPBOARD, TEXT, 1, 3, "ab", True))
    assert path("vm").read_text().count("\n") == 1
    policy.close()
    assert '"count": 4' in path("vm").read_text().splitlines()[1]
