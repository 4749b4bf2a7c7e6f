"""One copy on its way from side to side: how far it is, and what holds it up."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from typing import Iterator

from subos_protocol.agent.stream import Stream

from .interface import NotOffered, Selection, TooLarge
from .policy import Passed, Policy

TAKE_SECONDS = 60.0
"""Until the other side, which was asked for data and sends none, is given up: its programs have much less time."""
GIVE_SECONDS = 300.0
"""Until one who asked for data and takes none is given up: a program may read as slowly as somebody scrolls."""


class Transfer:
    """`done` bytes so far, in the direction OUT or IN. The policy is told at the end, also where it was broken off."""

    def __init__(self, policy: Policy, direction: str, selection: Selection, mime: str, copy: int) -> None:
        self.direction = direction
        self.selection = selection
        self.mime = mime
        self.copy = copy
        self.done = 0
        self.complete = False
        self._policy = policy
        self._digest = hashlib.sha256()

    def count(self, chunk: bytes) -> None:
        """Before it goes on. Raises TooLarge, or NotOffered where the policy has changed meanwhile."""
        if not self._policy.allows(self.direction, self.selection, self.mime):
            raise NotOffered(f"{self.mime} may not pass any more")
        limit = self._policy.limit(self.mime)
        if self.done + len(chunk) > limit:
            raise TooLarge(
                f"there are more than {_size(limit)} of {self.mime}", "the VM's clipboard policy says how much may pass"
            )
        self.done += len(chunk)
        if self._policy.logs:
            self._digest.update(chunk)

    def end(self) -> None:
        """Nothing more passes."""
        if self.done or self.complete:
            what = (self.direction, self.selection, self.mime, self.copy)
            self._policy.record(Passed(*what, self.done, self._digest.hexdigest(), self.complete))


def _size(size: int) -> str:
    return f"{size >> 20} MiB" if size and not size % (1 << 20) else f"{size} bytes"


@contextlib.contextmanager
def patience(stream: Stream, seconds: float) -> Iterator[None]:
    """Ends the stream where the block takes longer. asyncio.wait_for would cost a task each time, and lose a
    cancellation that comes together with the result (Python 3.11 and older)."""
    timer = asyncio.get_running_loop().call_later(
        seconds, stream.cancel, "stalled", f"the other side did nothing for {seconds:g} seconds"
    )
    try:
        yield
    finally:
        timer.cancel()
