"""A timer in a worker's loop."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress

from ...vhost_user.device import Worker

_CLOCK_MONOTONIC, _NONBLOCK, _CLOEXEC = 1, os.O_NONBLOCK, os.O_CLOEXEC  # sys/timerfd.h
_libc = ctypes.CDLL(None, use_errno=True)
_Times = ctypes.c_long * 4  # struct itimerspec: interval and value, each seconds and nanoseconds


class Timer:
    """Calls `callback` once, some time after `start`."""

    def __init__(self, worker: Worker, callback: Callable[[], None]) -> None:
        self._worker = worker
        self._callback = callback
        self._fd = _libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK | _CLOEXEC)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        worker.watch(self._fd, self._expired)

    def start(self, seconds: float) -> None:
        whole, part = divmod(seconds, 1)
        _libc.timerfd_settime(self._fd, 0, _Times(0, 0, int(whole), max(1, int(part * 1e9))), None)

    def stop(self) -> None:
        _libc.timerfd_settime(self._fd, 0, _Times(0, 0, 0, 0), None)

    def close(self) -> None:
        self._worker.unwatch(self._fd)
        os.close(self._fd)

    def _expired(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._fd, 8)
            self._callback()
