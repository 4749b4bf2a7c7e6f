"""Standard input and output, read and written in another thread that can be told to give up.

A thread that waits in read() or write() would hold up the command's end: asyncio waits for its threads.
"""

from __future__ import annotations

import os
import select

from ..streams import Output

LOOK_SECONDS = 0.2


class GivenUp(Exception):
    """Nobody waits for it any more."""


class StandardInput:
    """As a file object, also for tarfile."""

    def __init__(self) -> None:
        self._given_up = False

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b"" at the end. Raises GivenUp, OSError."""
        while not select.select([0], [], [], LOOK_SECONDS)[0]:
            if self._given_up:
                raise GivenUp("interrupted")
        return os.read(0, size)

    def give_up(self) -> None:
        """From another thread."""
        self._given_up = True


class StandardOutput:
    """Where `output` goes, as a file object: nobody may read what it writes, and what a hostile guest calls a file may
    take years to fill up."""

    def __init__(self, output: Output) -> None:
        self._given_up = False
        self._output = output
        self._poll = select.poll()
        self._poll.register(output.descriptor, select.POLLOUT)

    def write(self, data: bytes) -> int:
        """All of it. Raises GivenUp, OSError."""
        view = memoryview(data)
        while view:
            if self._given_up:
                raise GivenUp("interrupted")
            if self._poll.poll(LOOK_SECONDS * 1000):
                view = view[self._output.write_some(view) :]
        return len(data)

    def give_up(self) -> None:
        """From another thread."""
        self._given_up = True
