"""Keeps the guest's clock with the host's: when its agent comes, and whenever the host's own clock jumps.

A suspended host is such a jump: the guest's clock stood still meanwhile. The kernel tells of it by a timer that is
cancelled when the clock is set (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET), so that nobody has to look.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import time
from collections.abc import Iterator

from subos_protocol.agent.peer import Peer

TOLERANCE = 0.1  # seconds
SETTLE = 0.5  # seconds after a jump: what caused it (resume, NTP) may not be over
_CLOCK_REALTIME = 0
_TFD_TIMER_ABSTIME, _TFD_TIMER_CANCEL_ON_SET = 1, 2  # linux/timerfd.h
_FAR = 1 << 40  # seconds

log = logging.getLogger("subos")


class _ItimerSpec(ctypes.Structure):
    """struct itimerspec: the interval and the time of a timer, each in seconds and nanoseconds."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


async def follow(peer: Peer) -> None:
    """Sets the clock of the guest behind `peer`, now and after each jump of ours. Raises ChannelError."""
    if peer.hello is None or "clock" not in peer.hello.capabilities:
        return
    await _tell(peer)
    with _jumps() as timer:
        while timer >= 0:
            await _jumped(timer)
            await asyncio.sleep(SETTLE)
            await _tell(peer)


async def _tell(peer: Peer) -> None:
    said = await peer.ask({"op": "clock", "time": time.time(), "tolerance": TOLERANCE})
    if said.get("set") is True:
        log.debug("the guest's clock was off, and is set")


@contextlib.contextmanager
def _jumps() -> Iterator[int]:
    """A timer that never ends, but is cancelled when the clock is set; -1 where the kernel has none."""
    timer = ctypes.CDLL(None).timerfd_create(_CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield timer if timer >= 0 and _arm(timer) else -1
    finally:
        if timer >= 0:
            os.close(timer)


def _arm(timer: int) -> bool:
    never = _ItimerSpec(0, 0, int(time.time()) + _FAR, 0)
    flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
    return bool(ctypes.CDLL(None).timerfd_settime(timer, flags, ctypes.byref(never), None) == 0)


async def _jumped(timer: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(timer, readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            try:
                os.read(timer, 8)
            except OSError as error:
                if error.errno == errno.ECANCELED:
                    return
    finally:
        loop.remove_reader(timer)
