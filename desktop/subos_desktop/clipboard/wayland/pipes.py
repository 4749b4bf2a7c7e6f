"""Pipes to and from other programs, in the loop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
from typing import AsyncIterator, Callable, Iterator, Tuple

from ..interface import CHUNK, PATIENCE, ClipboardError, Stalled
from ..streams import closing

F_SETPIPE_SZ = 1031  # linux/fcntl.h; in Python's fcntl since 3.10
# A program may take its time to paste, and a transfer that waits costs one chunk. But not for ever.
WRITE_PATIENCE = 300.0


def pipe() -> Tuple[int, int]:
    """(our end, which does not block; the end for another program, which does). Both are closed at exec."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reader, False)
    with contextlib.suppress(OSError):  # beyond what this user may have
        fcntl.fcntl(reader, F_SETPIPE_SZ, 4 * CHUNK)
    return reader, writer


async def read(fd: int) -> AsyncIterator[bytes]:
    """What another program writes, until it closes its end. Closes ours. Raises Stalled."""
    loop = asyncio.get_running_loop()
    try:
        while True:
            try:
                data = os.read(fd, CHUNK)
            except BlockingIOError:
                if not await _ready(loop.add_reader, loop.remove_reader, fd, PATIENCE):
                    raise Stalled(f"the program that holds it has not answered for {PATIENCE:g} seconds") from None
                continue
            if not data:
                return
            yield data
    finally:
        os.close(fd)


async def write(fd: int, chunks: AsyncIterator[bytes]) -> None:
    """Writes it all, or until the reader has gone; closes both. Raises ClipboardError, and what `chunks` raises."""
    loop = asyncio.get_running_loop()
    try:
        os.set_blocking(fd, False)
        with _vanishing(fd):
            async with closing(chunks):
                async for chunk in chunks:
                    rest = memoryview(chunk)
                    while rest:
                        try:
                            rest = rest[os.write(fd, rest) :]
                        except BlockingIOError:
                            if not await _ready(loop.add_writer, loop.remove_writer, fd, WRITE_PATIENCE):
                                raise ClipboardError("the program that pastes has stopped") from None
    except BrokenPipeError:
        pass
    finally:
        os.close(fd)


@contextlib.contextmanager
def _vanishing(fd: int) -> Iterator[None]:
    """Cancels the present task when nobody reads any more, also while there is nothing to write."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    poll = select.poll()
    poll.register(fd, 0)  # errors and hang-ups are always told

    def look() -> None:
        loop.remove_reader(fd)
        if poll.poll(0) and task is not None:
            task.cancel()

    with contextlib.suppress(PermissionError):  # no pipe but a file, of which nobody vanishes
        loop.add_reader(fd, look)  # a pipe's writing end is never readable, but for an error
    try:
        yield
    finally:
        loop.remove_reader(fd)


async def _ready(add: Callable[..., None], remove: Callable[[int], object], fd: int, patience: float) -> bool:
    """Whether the descriptor became ready in that many seconds."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bool] = loop.create_future()

    def settle(ready: bool) -> None:
        if not future.done():
            future.set_result(ready)

    timer = loop.call_later(patience, settle, False)
    add(fd, settle, True)
    try:
        return await future
    finally:
        remove(fd)
        timer.cancel()
