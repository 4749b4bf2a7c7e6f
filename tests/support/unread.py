"""Processes whose standard output nobody reads, as with a pager, or Ctrl-S on a terminal."""

from __future__ import annotations

import array
import asyncio
import fcntl
import subprocess
import termios


async def blocked(process: subprocess.Popen[bytes]) -> None:
    """Waits until it has filled its standard output, a pipe, and writes no more."""
    assert process.stdout is not None
    before, now = -1, array.array("i", [0])
    while not now[0] or now[0] != before:
        before = now[0]
        await asyncio.sleep(0.3)
        fcntl.ioctl(process.stdout, termios.FIONREAD, now)


async def status(process: subprocess.Popen[bytes]) -> int:
    """Its exit status; it must end within ten seconds, with its output unread."""
    async with asyncio.timeout(10):
        while (found := process.poll()) is None:
            await asyncio.sleep(0.05)
    return found
