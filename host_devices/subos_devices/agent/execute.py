"""The host's end of `exec`: this process's terminal or streams, and a command in the guest (subos_agent/execute.py).

Keys and signals are the command's. The way out of one that hangs, or of a guest that does: Ctrl-] three times within a
second on a terminal, else a signal three times.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

from subos_protocol.agent.errors import ChannelError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.stream import Stream

from ..streams import unblocked
from .caller import connected, told

CHUNK = 1 << 15
BACKLOG = 1024  # key presses
STDOUT = 1
INPUT_ENDS = {"input_ends": True}
"""Not the stream's own end: signals may follow."""
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
ESCAPE = 0x1D
"""Ctrl-], as for `subos-devices run`."""
TIMES, SECONDS = 3, 1.0


async def run(name: str, head: Head, *, stdin: bool, tty: bool = False, content: bytes | None = None) -> int:
    """Runs the request `head` in the VM `name`; the exit status. Raises UserError, AgentError, BrokenPipeError.

    `stdin`: this process's standard input is passed on, or `content` in its place.
    """
    with told():
        async with connected(name) as peer, peer.call(head) as stream:
            with _raw(tty and stdin), _signals(stream, tty) as given_up:
                try:
                    return await _follow(stream, tty, _feed(stream, tty, content) if stdin else None)
                except asyncio.CancelledError:
                    if not given_up:
                        raise
                    return 128 + given_up[0]


async def _follow(stream: Stream, tty: bool, source: Coroutine[Any, Any, None] | None) -> int:
    feed = asyncio.ensure_future(source) if source else None
    if feed is None and not tty:
        stream.post(INPUT_ENDS)
    try:
        with unblocked(1) as output, unblocked(2) as errors:
            while (message := await stream.receive()) is not None:
                if isinstance(message.content, bytes):
                    await (output if message.part == STDOUT else errors).write(message.content)
        result = await stream.result()
    finally:
        if feed is not None:
            feed.cancel()
    number, status = result.get("signal"), result.get("status")
    if isinstance(number, int) and 0 < number < 128:
        return 128 + number
    return status if isinstance(status, int) and 0 <= status < 256 else 1


async def _feed(stream: Stream, tty: bool, content: bytes | None) -> None:
    with contextlib.suppress(ChannelError):
        if tty:
            await _feed_keys(stream)
        elif content is not None:
            await stream.send(content)
        else:
            async for data in _standard_input():
                await stream.send(data)
        stream.post(INPUT_ENDS)


async def _feed_keys(stream: Stream) -> None:
    """Keys are read even while the guest takes none: one that hangs is what the escape is for."""
    escape, keys = _Repeated(), asyncio.Queue[bytes](BACKLOG)
    sending = asyncio.ensure_future(_send_keys(stream, keys))
    try:
        async for data in _standard_input():
            if any(escape.again(key == ESCAPE) for key in data):
                signal.raise_signal(signal.SIGTERM)
            with contextlib.suppress(asyncio.QueueFull):
                keys.put_nowait(data)
    finally:
        sending.cancel()


async def _send_keys(stream: Stream, keys: asyncio.Queue[bytes]) -> None:
    with contextlib.suppress(ChannelError):
        while True:
            await stream.send(await keys.get())


class _Repeated:
    """Notices what comes TIMES in a row within SECONDS."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def again(self, same: bool = True) -> bool:
        now = time.monotonic()
        self._times = [*(at for at in self._times if now - at < SECONDS), now] if same else []
        return len(self._times) >= TIMES


async def _standard_input() -> AsyncIterator[bytes]:
    """What comes on standard input, in pieces. A file cannot be waited for, but it need not be."""
    loop = asyncio.get_running_loop()
    while True:
        readable = asyncio.Event()
        try:
            loop.add_reader(0, readable.set)
        except PermissionError:
            await asyncio.sleep(0)
        else:
            try:
                await readable.wait()
            finally:
                loop.remove_reader(0)
        try:
            data = os.read(0, CHUNK)
        except BlockingIOError:
            continue
        except OSError:
            return
        if not data:
            return
        yield data


@contextlib.contextmanager
def _raw(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _signals(stream: Stream, tty: bool) -> Iterator[list[int]]:
    """With a terminal its window is followed. Without one, signals go to the command, and it decides.

    The list gets the signal with which the waiting was given up.
    """
    loop = asyncio.get_running_loop()

    def window() -> None:
        with contextlib.suppress(OSError, ChannelError):
            size = os.get_terminal_size(sys.stdout.fileno())
            stream.post({"window": [size.lines, size.columns]})

    task, repeated, given_up = asyncio.current_task(), _Repeated(), list[int]()

    def pass_on(number: int) -> None:
        if repeated.again() and task is not None and not given_up:
            given_up.append(int(number))
            task.cancel()
        with contextlib.suppress(ChannelError):
            stream.post({"signal": int(number)})

    if tty:
        loop.add_signal_handler(signal.SIGWINCH, window)
        try:
            yield given_up
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)
        return
    for number in PASSED_ON:
        loop.add_signal_handler(number, pass_on, number)
    try:
        yield given_up
    finally:
        for number in PASSED_ON:
            loop.remove_signal_handler(number)
