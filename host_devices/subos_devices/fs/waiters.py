"""System calls that may block for long, each on a thread of its own, while the device goes on.

A thread spends its life inside one system call, with the interpreter's lock released, so it costs nothing but its
stack. It is entered by ctypes, since Python's own wrappers begin again after a signal, and a signal is how a wait is
broken off. One that comes just before the system call is lost, so it is sent again until the thread has ended.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import os
import signal
import time
from collections.abc import Callable, Iterable

MAX_WAITERS = 128
STACK = 256 << 10  # bytes of a thread's stack, of which it touches a few pages
WAKE = signal.SIGUSR1
RESEND = 0.005  # seconds

Blocking = Callable[[int], int]
"""A system call on the descriptor that it is given: 0, or -1 and ctypes' errno."""


class Waiter:
    """One wait, of the chain that asked for it. `error` is its errno once it is `ended`."""

    __slots__ = ("call", "cancelled", "ended", "error", "fd", "handle", "lock", "release", "thread")

    def __init__(self, fd: int, call: Blocking, handle: int, release: Callable[[], None]) -> None:
        self.fd, self.call, self.handle, self.release = fd, call, handle, release
        self.error, self.ended, self.cancelled, self.thread = 0, False, False, 0
        self.lock = _thread.allocate_lock()
        """Held to send the thread a signal, and by the thread to end: else the signal might go to another one's id."""

    @property
    def gone(self) -> bool:
        """True once its thread touches nothing of ours any more."""
        return self.ended and not self.lock.locked()


class Waiters:
    """The waits of one device, by the `unique` of their requests. `ended` is an eventfd, readable when some have."""

    def __init__(self, limit: int = MAX_WAITERS) -> None:
        self.limit = limit
        self.ended = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._waiters: dict[int, Waiter] = {}
        self._cancelled: list[Waiter] = []
        signal.signal(WAKE, _nothing)  # Python sets no SA_RESTART

    def __len__(self) -> int:
        """Threads that may still wait, and results that nobody has asked for yet."""
        self._cancelled = [waiter for waiter in self._cancelled if not waiter.gone]
        return len(self._waiters) + len(self._cancelled)

    def begin(self, unique: int, fd: int, call: Blocking, handle: int, release: Callable[[], None]) -> None:
        """Waits on a duplicate of `fd`, for a request on `handle`. `release` is called when the wait is forgotten.
        Raises ENOLCK where too many wait."""
        if len(self) >= self.limit:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        waiter = Waiter(os.dup(fd), call, handle, release)
        before = _thread.stack_size(STACK)
        try:
            waiter.thread = _thread.start_new_thread(self._wait, (waiter,))
        except RuntimeError as error:  # out of threads
            os.close(waiter.fd)
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK)) from error
        finally:
            _thread.stack_size(before)
        self._waiters[unique] = waiter

    def result(self, unique: int) -> int | None:
        """The errno that the wait of `unique` ended with, once; -1 while it lasts; None where there is none."""
        waiter = self._waiters.get(unique)
        if waiter is None:
            return None
        if not waiter.ended:
            return -1
        del self._waiters[unique]
        waiter.release()
        return waiter.error

    def interrupt(self, unique: int) -> bool:
        """Breaks a wait off: it soon ends with EINTR, or with success if that came first. False where there is none."""
        waiter = self._waiters.get(unique)
        if waiter is None:
            return False
        self._cancel([waiter])
        return True

    def forget(self, handle: int | None = None) -> None:
        """Breaks off the waits on `handle`, or all: nobody will ask for their results."""
        gone = [unique for unique, waiter in self._waiters.items() if handle is None or waiter.handle == handle]
        forgotten = [self._waiters.pop(unique) for unique in gone]
        for waiter in forgotten:
            waiter.release()
        self._cancelled += forgotten
        self._cancel(forgotten)

    def close(self) -> None:
        """Forgets all, and waits for their threads."""
        self.forget()
        while self:
            time.sleep(RESEND / 10)
        os.close(self.ended)

    def _cancel(self, waiters: Iterable[Waiter]) -> None:
        alive = [waiter for waiter in waiters if not waiter.cancelled]
        for waiter in alive:
            waiter.cancelled = True
        if not alive:
            return
        try:
            _thread.start_new_thread(_wake, (alive,))
        except RuntimeError:  # out of threads: the device stands still for once, some microseconds as a rule
            _wake(alive)

    def _wait(self, waiter: Waiter) -> None:
        number = errno.EINTR
        while not waiter.cancelled and number == errno.EINTR:
            number = 0 if waiter.call(waiter.fd) == 0 else ctypes.get_errno()
        os.close(waiter.fd)
        with waiter.lock:
            waiter.error, waiter.ended = number, True
            os.eventfd_write(self.ended, 1)


def _wake(waiters: list[Waiter]) -> None:
    while waiters:
        for waiter in waiters:
            with waiter.lock:
                if not waiter.ended:
                    signal.pthread_kill(waiter.thread, WAKE)
        time.sleep(RESEND)
        waiters = [waiter for waiter in waiters if not waiter.ended]


def _nothing(_number: int, _frame: object) -> None:
    """Lets a system call end with EINTR."""
