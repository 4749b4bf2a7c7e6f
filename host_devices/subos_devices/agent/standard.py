"""Standard input and output, read and written in another thread that can be told to give up.

A thread that waits in read() or write() would hold up the command's end: asyncio waits for its threads.
"""

from __future__ import annotations

import os
import select

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
    def __init__(self) -> None:
        self._given_up = False

    def write(self, data: bytes) -> None:
        """All of it. Raises GivenUp, OSError."""
        view = memoryview(data)
        while view:
            if select.select([], [1], [], LOOK_SECONDS)[1]:
                view = view[os.write(1, view[: select.PIPE_BUF]) :]  # a pipe that has room takes so much at once
            elif self._given_up:
                raise GivenUp("interrupted")

    def give_up(self) -> None:
        """From another thread."""
        self._given_up = True
