"""What a person is asked: whether something may pass. One question is shown at a time, each has a number."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import shutil
from dataclasses import dataclass
from time import monotonic

from subos_desktop.clipboard.pace import Pace
from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.frames import Head

ANSWER_SECONDS = 60.0
"""How long a person may think about it. For so long after a question that nobody has answered, an answer without a
number might be meant for that one, and counts for none."""
SHOWN, SHOWN_A_SECOND = 5, 0.2
"""How often one is shown: a guest that copies again and again shall not cover the screen with them."""

log = logging.getLogger("subos.clipboard")


@dataclass(frozen=True)
class Question:
    """`copy` is the number of what was copied; None as the answer: nobody gave one, or it is not to be pasted now."""

    number: int
    direction: str
    mime: str
    copy: int
    answer: asyncio.Future[bool | None]


class Questions:
    """Those about the VM `vm`. There are as few as there are types of what is copied now: those of other copies end."""

    def __init__(self, vm: str) -> None:
        self._vm = vm
        self._numbers = itertools.count(1)
        self._waiting: list[Question] = []
        self._showing: asyncio.Future[None] | None = None
        self._unanswered_until = 0.0
        self._pace = Pace(SHOWN, SHOWN_A_SECOND)
        self.shown: Question | None = None

    def ask(self, direction: str, mime: str, copy: int) -> asyncio.Future[bool | None]:
        """The answer, when there is one."""
        answer: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(Question(next(self._numbers), direction, mime, copy, answer))
        if self._showing is None or self._showing.done():
            self._showing = asyncio.ensure_future(self._show())
        return answer

    def over(self, copy: int) -> None:
        """Something else was copied: no question of this copy is asked any more."""
        ended = [each for each in (self.shown, *self._waiting) if each is not None and each.copy == copy]
        self._waiting = [each for each in self._waiting if each.copy != copy]
        for each in ended:
            if not each.answer.done():
                each.answer.set_result(None)
        if self.shown in ended:
            self._end()

    def answer(self, yes: bool, number: int | None) -> None:
        """Without a number the one that is shown is meant. Raises RemoteError: where it is none that is shown, or where
        without a number it is not certain which one the person has seen."""
        if number is not None and (self.shown is None or self.shown.number != number):
            raise RemoteError("not-found", f"question {number} is not being asked")
        if self.shown is None or self.shown.answer.done():
            raise RemoteError("not-found", "nothing is being asked")
        if number is None and monotonic() < self._unanswered_until:
            hint = f"subos-devices clipboard {self._vm} yes {self.shown.number} (or no {self.shown.number})"
            raise RemoteError("refused", f"another question is being asked now: {self.text(self.shown)}", hint)
        self.shown.answer.set_result(yes)
        self.shown = None

    def table(self) -> Head | None:
        """What `formats` says of the one that is shown."""
        if self.shown is None:
            return None
        return {"number": self.shown.number, "direction": self.shown.direction, "type": self.shown.mime}

    def text(self, question: Question) -> str:
        return f"may {question.mime} pass {question.direction} in {self._vm}?"

    def _end(self) -> None:
        """The one that is shown, without an answer."""
        self.shown = None
        self._unanswered_until = monotonic() + ANSWER_SECONDS

    async def _show(self) -> None:
        while self._waiting:
            if wait := self._pace.take():
                await asyncio.sleep(wait)
                continue
            self.shown = question = self._waiting.pop(0)
            await self._tell(question)
            await asyncio.wait([question.answer], timeout=ANSWER_SECONDS)
            if not question.answer.done():
                question.answer.set_result(None)
                self._end()

    async def _tell(self, question: Question) -> None:
        number = question.number
        text = f"{self.text(question)} subos-devices clipboard {self._vm} yes {number} (or no {number})"
        log.warning("%s", text)
        notifier = shutil.which("notify-send")
        if notifier is not None:
            with contextlib.suppress(OSError):
                await asyncio.create_subprocess_exec(notifier, "--app-name=SubOS", "SubOS clipboard", text)
