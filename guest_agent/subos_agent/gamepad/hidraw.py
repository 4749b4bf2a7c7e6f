"""Programs that read a pad's reports themselves, from /dev/hidrawN: who has it open, and that they hear something.

A real pad reports some hundred times a second, whether anything happens or not. SDL's own driver waits 16 ms for a
report, and takes a DualSense that says nothing for one by Bluetooth, whose reports are others. The kernel's driver
needs none of that, and uhid does not say who listens beside it: the device is open as long as that driver has it. So
the node is watched by inotify, and reports are repeated only while some program has it open.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
from enum import IntFlag
from pathlib import Path
from typing import Callable, Optional

from subos_protocol.agent.pieces import in_thread

from .hid_reports import Reports

PERIOD = 0.008
"""Seconds between two reports while somebody reads them."""
LOOK_AFTER = 1.0
"""Seconds after which it is looked whether anybody still has it open: whoever opens it again is not to wait."""
_EVENT = struct.Struct("=iIII")  # struct inotify_event, less its name


class Inotify(IntFlag):
    """linux/inotify.h"""

    IN_CLOSE_WRITE = 0x08
    IN_CLOSE_NOWRITE = 0x10
    IN_OPEN = 0x20
    IN_Q_OVERFLOW = 0x4000


_WANTED = Inotify.IN_CLOSE_WRITE | Inotify.IN_CLOSE_NOWRITE | Inotify.IN_OPEN


def node_of(device: Path, dev: Path) -> Optional[Path]:
    """The hidraw node of the HID device `device` in sysfs."""
    return next((dev / raw.name for raw in device.glob("hidraw/hidraw*")), None)


def is_open(node: Path, proc: Path = Path("/proc")) -> bool:
    """Whether a process has it open, as far as we may see. Its name may be another one in a container's mounts, but for
    the last part."""
    for process in filter(str.isdigit, os.listdir(proc)):
        with contextlib.suppress(OSError):  # it has ended, or is none of ours
            folder = f"{proc}/{process}/fd"
            for descriptor in os.listdir(folder):
                with contextlib.suppress(OSError):
                    if os.readlink(f"{folder}/{descriptor}").endswith(f"/{node.name}"):
                        return True
    return False


class NodeWatch:
    """Hears when `node` is opened and closed. Raises OSError where the kernel does not tell."""

    def __init__(self, node: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if libc.inotify_add_watch(self.fd, os.fsencode(node), ctypes.c_uint32(_WANTED)) < 0:
            number = ctypes.get_errno()
            os.close(self.fd)
            raise OSError(number, os.strerror(number))

    def read(self) -> Inotify:
        """What has happened since the last time."""
        happened = Inotify(0)
        with contextlib.suppress(BlockingIOError):
            said = os.read(self.fd, 65536)
            at = 0
            while at < len(said):
                _, mask, _, length = _EVENT.unpack_from(said, at)
                happened |= Inotify(mask & (_WANTED | Inotify.IN_Q_OVERFLOW))
                at += _EVENT.size + length
        return happened

    def close(self) -> None:
        os.close(self.fd)


class Repeats:
    """Of `reports`, while a program has `node` open. On the running event loop; from the beginning it is taken for open
    until that has been looked at. Raises OSError."""

    def __init__(self, reports: Reports, node: Path, is_open: Callable[[Path], bool] = is_open) -> None:
        self._reports = reports
        self._node = node
        self._is_open = is_open
        self._watch = NodeWatch(node)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._watch.fd, self._hear)
        self._tick: Optional[asyncio.TimerHandle] = None
        self._look: Optional[asyncio.TimerHandle] = None
        self._looking: Optional[asyncio.Future[None]] = None
        self._opened = 0
        self._count = 0
        self._ended = False
        self._begin()
        self._look_later()

    @property
    def active(self) -> bool:
        return self._tick is not None

    def end(self) -> None:
        self._ended = True
        self._loop.remove_reader(self._watch.fd)
        self._watch.close()
        for timer in (self._tick, self._look):
            if timer is not None:
                timer.cancel()
        self._tick = None

    def _hear(self) -> None:
        happened = self._watch.read()
        if happened & (Inotify.IN_OPEN | Inotify.IN_Q_OVERFLOW):
            self._opened += 1
            self._begin()
        if happened & ~Inotify.IN_OPEN:
            self._look_later()

    def _begin(self) -> None:
        if self._tick is None:
            self._count = self._reports.count
            self._repeat()

    def _repeat(self) -> None:
        if self._reports.count == self._count:
            self._reports.repeat()
        self._count = self._reports.count
        self._tick = self._loop.call_later(PERIOD, self._repeat)

    def _look_later(self) -> None:
        if self._look is None and not self._ended:
            self._look = self._loop.call_later(LOOK_AFTER, self._look_now)

    def _look_now(self) -> None:
        self._looking = asyncio.ensure_future(self._stop_if_closed())

    async def _stop_if_closed(self) -> None:
        self._look = None
        opened = self._opened
        there = await in_thread(self._is_open, self._node)
        if not there and opened == self._opened and self._tick is not None:
            self._tick.cancel()
            self._tick = None
        elif not there:  # who opened it meanwhile may have closed it again before we heard of it
            self._look_later()
