"""The host's end of `exec`: this process's terminal or streams, and a command in the guest (subos_agent/execute.py)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

from subos_protocol.agent.errors import ChannelError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.stream import Stream

from .caller import connected, told

CHUNK = 1 << 15
STDOUT = 1
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


async def run(name: str, head: Head, *, stdin: bool, tty: bool = False, content: bytes | None = None) -> int:
    """Runs the request `head` in the VM `name`; the exit status. Raises UserError, AgentError, BrokenPipeError.

    `stdin`: this process's standard input is passed on, or `content` in its place.
    """
    with told():
        async with connected(name) as peer, peer.call(head) as stream:
            with _raw(tty and stdin), _signals(stream, tty):
                return await _follow(stream, tty, _feed(stream, content) if stdin else None)


async def _follow(stream: Stream, tty: bool, source: Coroutine[Any, Any, None] | None) -> int:
    feed = asyncio.ensure_future(source) if source else None
    if feed is None and not tty:
        stream.end()
    try:
        while (message := await stream.receive()) is not None:
            if isinstance(message.content, bytes):
                await asyncio.to_thread(_write, 1 if message.part == STDOUT else 2, message.content)
        result = await stream.result()
    finally:
        if feed is not None:
            feed.cancel()
    number, status = result.get("signal"), result.get("status")
    if isinstance(number, int) and 0 < number < 128:
        return 128 + number
    return status if isinstance(status, int) and 0 <= status < 256 else 1


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


async def _feed(stream: Stream, content: bytes | None) -> None:
    with contextlib.suppress(ChannelError):
        if content is not None:
            await stream.send(content)
        else:
            async for data in _standard_input():
                await stream.send(data)
        stream.end()


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
def _signals(stream: Stream, tty: bool) -> Iterator[None]:
    """With a terminal its window is followed. Without one, signals go to the command, and it decides."""
    loop = asyncio.get_running_loop()

    def window() -> None:
        with contextlib.suppress(OSError, ChannelError):
            size = os.get_terminal_size(sys.stdout.fileno())
            stream.post({"window": [size.lines, size.columns]})

    def pass_on(number: int) -> None:
        with contextlib.suppress(ChannelError):
            stream.post({"signal": int(number)})

    if tty:
        loop.add_signal_handler(signal.SIGWINCH, window)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)
        return
    for number in PASSED_ON:
        loop.add_signal_handler(number, pass_on, number)
    try:
        yield
    finally:
        for number in PASSED_ON:
            loop.remove_signal_handler(number)
