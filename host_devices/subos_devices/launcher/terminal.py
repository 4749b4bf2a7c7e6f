"""Between this process's terminal or streams and a machine's ports."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import termios
import tty
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from ..streams import CHUNK, ready, unblocked
from .machine import Machine

STREAMS = {1: "standard output", 2: "standard error"}
ESCAPE = 0x1D
"""Ctrl-], as for telnet and virsh."""
ESCAPE_TIMES = 3
ESCAPE_SECONDS = 1.0
BACKLOG = 1024
"""Key presses, or pieces of pasted text, that wait for a guest that takes none."""


def is_interactive() -> bool:
    """Whether both standard input and output are a terminal."""
    return os.isatty(0) and os.isatty(1)


def window_size() -> tuple[int, int]:
    """Rows and columns of the terminal on standard output; 24 and 80 where there is none."""
    try:
        size = os.get_terminal_size(1)
    except OSError:
        return 24, 80
    return size.lines or 24, size.columns or 80


@contextmanager
def raw_terminal(fd: int = 0) -> Iterator[None]:
    """Passes every key through to the guest; restores the terminal at the end."""
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


async def run_on_streams(machine: Machine) -> int:
    """Connects standard input, output and error with the ports of the same names.

    Returns the command's exit status when all its output is written. Raises GuestLost, BrokenPipeError.
    """
    _read_in_background()
    return await _run(
        machine,
        machine.exit_status(),
        inputs=[send_input(0, machine.port("stdin"))],
        outputs=[copy_output(machine.port("stdout"), 1), copy_output(machine.port("stderr"), 2)],
    )


async def run_on_terminal(machine: Machine) -> int:
    """Connects the terminal with the machine's console; else as `run_on_streams`."""
    console = machine.port("console")
    with raw_terminal(), _following_window(machine.port("window")):
        return await _run(machine, machine.exit_status(), [send_keys(0, console)], [copy_output(console, 1)])


async def run_on_serial(machine: Machine, interactive: bool) -> int:
    """Connects the terminal, or standard input and output, with the first serial port until the machine ends.

    Returns 0 when all its output is written. Raises GuestLost, BrokenPipeError.
    """
    _read_in_background()
    serial = machine.port("serial")
    if interactive:
        print("subos: Ctrl-] three times within a second ends the VM", file=sys.stderr, flush=True)
    with raw_terminal() if interactive else nullcontext():
        keys = send_keys(0, serial) if interactive else send_input(0, serial, end=False)
        status = await _run(machine, machine.wait(), [keys], [copy_output(serial, 1)])
    if status:
        raise await machine.lost()
    return 0


def _read_in_background() -> None:
    """In the background of a shell, reading the terminal would stop this process, and the VM with it. With the
    signal ignored it is an error, which the guest sees as the end of its input.
    """
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)


_Pump = Coroutine[Any, Any, None]


async def _run(machine: Machine, end: Coroutine[Any, Any, int], inputs: list[_Pump], outputs: list[_Pump]) -> int:
    """What `end` returns, once all output is written. Output that cannot be written ends the machine, too."""
    sources = [asyncio.create_task(pump) for pump in inputs]
    sinks = asyncio.gather(*outputs)
    status = asyncio.create_task(end)
    try:
        both: list[asyncio.Future[Any]] = [status, sinks]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if sinks.done():
            sinks.result()  # Nobody reads the output: the command need not go on.
        await asyncio.wait({status})
        # The guest reports after QEMU has taken all output; QEMU's end is the end of the output.
        await machine.stop()
        await sinks
        return status.result()
    finally:
        tasks: list[asyncio.Future[Any]] = [*sources, sinks, status]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _following_window(port: socket.socket) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def tell() -> None:
        with suppress(OSError):  # A guest that does not listen is not told.
            port.send(b"%d %d\n" % window_size())

    loop.add_signal_handler(signal.SIGWINCH, tell)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


class Escape:
    """Hears the way out of a raw terminal: the escape key, several times in a row within a second."""

    def __init__(self) -> None:
        self._pressed: list[float] = []

    def typed(self, data: bytes, now: float) -> bool:
        """Whether these keys, typed at `now` (seconds), complete it."""
        for key in data:
            recent = [at for at in self._pressed if now - at < ESCAPE_SECONDS]
            self._pressed = [*recent, now] if key == ESCAPE else []
            if len(self._pressed) == ESCAPE_TIMES:
                return True
        return False


async def send_keys(fd: int, port: socket.socket) -> None:
    """Copies a raw terminal's keys to the port; the escape ends this command as Ctrl-C would.

    The keys are read even while the guest takes none: a guest that hangs is what the escape is for.
    """
    loop, escape = asyncio.get_running_loop(), Escape()
    keys: asyncio.Queue[bytes] = asyncio.Queue(BACKLOG)

    async def read() -> None:
        while data := await _read(fd):
            if escape.typed(data, loop.time()):
                signal.raise_signal(signal.SIGINT)
            with suppress(asyncio.QueueFull):
                keys.put_nowait(data)

    async def send() -> None:
        with suppress(ConnectionError):  # The machine is gone: its end tells.
            while True:
                await loop.sock_sendall(port, await keys.get())

    await asyncio.gather(read(), send())


async def send_input(fd: int, port: socket.socket, end: bool = True) -> None:
    """Copies a descriptor to the port until its end, which the guest sees too if `end`."""
    loop = asyncio.get_running_loop()
    with suppress(ConnectionError):  # The machine is gone: `exit_status` tells.
        while data := await _read(fd):
            await loop.sock_sendall(port, data)
        if end:
            # Not close(): QEMU would see a hang-up, and drop what it has not read.
            port.shutdown(socket.SHUT_WR)


async def _read(fd: int) -> bytes:
    """The next bytes; none at the end."""
    loop = asyncio.get_running_loop()
    while True:
        await ready(fd, loop.add_reader, loop.remove_reader)
        try:
            return os.read(fd, CHUNK)
        except BlockingIOError:
            continue
        except OSError:  # A terminal that hung up, a descriptor that was never open.
            return b""


async def copy_output(port: socket.socket, fd: int) -> None:
    """Copies the port to a descriptor until the machine ends. Raises OSError, of which BrokenPipeError is one."""
    loop = asyncio.get_running_loop()
    with unblocked(fd) as output:
        while True:
            try:
                data = await loop.sock_recv(port, CHUNK)
            except ConnectionError:
                return
            if not data:
                return
            try:
                await output.write(data)
            except OSError as error:
                raise OSError(error.errno, error.strerror, STREAMS.get(fd, fd)) from error
