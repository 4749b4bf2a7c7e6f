"""Standard streams that nobody reads (a pager, Ctrl-S) or that come to nothing: they hold up nothing else."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

CHUNK = 1 << 16
SAFE_CHUNK = 4096
"""PIPE_BUF: a pipe that polls writable takes as much without blocking."""


class Output(NamedTuple):
    """Where to write, once it polls writable, and how much at once."""

    descriptor: int
    chunk: int

    async def write(self, data: bytes) -> None:
        """Raises OSError, of which BrokenPipeError is one."""
        loop, view = asyncio.get_running_loop(), memoryview(data)
        while view:
            await ready(self.descriptor, loop.add_writer, loop.remove_writer)
            view = view[self.write_some(view) :]

    def write_some(self, view: memoryview) -> int:
        """How many bytes it took, after a poll. Raises OSError."""
        try:
            return os.write(self.descriptor, view[: self.chunk])
        except BlockingIOError:
            return 0


@contextmanager
def unblocked(fd: int) -> Iterator[Output]:
    """The same file as `fd`, for writes that do not block.

    The flag O_NONBLOCK belongs to the open file, which others share, so pipes and terminals are opened
    anew. Where that is refused (sockets, another user's terminal), small writes after a poll must do.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        yield Output(fd, CHUNK)
        return
    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        yield Output(fd, SAFE_CHUNK)
        return
    try:
        yield Output(own, CHUNK)
    finally:
        os.close(own)


async def ready(fd: int, watch: Callable[..., object], unwatch: Callable[[int], object]) -> None:
    """Waits until `fd` can be read (or written). What cannot be polled, such as a file, always can."""
    event = asyncio.Event()
    try:
        watch(fd, event.set)
    except PermissionError:
        await asyncio.sleep(0)
        return
    try:
        await event.wait()
    finally:
        unwatch(fd)
