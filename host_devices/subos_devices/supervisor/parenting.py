"""What zygote and keeper have in common, each a process of one thread that makes others and hears one socket; and how
a process of ours sheds what came from the launcher."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NoReturn

from ..vhost_user.worker import where

Pipe = tuple[int, int]


def heed_children() -> Pipe:
    """From now on the pipe can be read whenever a child has ended."""
    wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    return wake, wake_write


def forget_children() -> None:
    """In a child, which has none."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def attend(control: socket.socket, wake: int, obey: Callable[[], bool], reap: Callable[[], bool]) -> None:
    """Calls `obey` when the socket can be read and `reap` when a child has ended, until one of them says False.
    Raises OSError where one of the descriptors is no longer what it was."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake, select.POLLIN)
    while True:
        for fd, _events in poll.poll():
            if not (os.read(wake, 512) and reap() if fd == wake else obey()):
                return


def live_and_end(life: Callable[[], None]) -> NoReturn:
    """In a new process: its parent's loop must never run twice, whatever becomes of it."""
    status = 1
    try:
        life()
        status = 0
    except SystemExit:
        status = 0
    except BaseException as error:
        with suppress(OSError):
            os.write(2, f"subos: {where(error)}\n".encode())
    finally:
        os._exit(status)


def keep_only(fds: Collection[int]) -> None:
    """Closes every descriptor but the standard ones and `fds`."""
    kept = sorted({0, 1, 2, *fds})
    for low, high in zip(kept, [*kept[1:], 1 << 20], strict=True):
        if high - low > 1:
            os.closerange(low + 1, high)


def shed(control: socket.socket) -> None:
    """In the new process: what came from the launcher and is not ours: descriptors, terminal, ways to take signals."""
    keep_only({control.fileno()})
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)  # nothing that we print may land in the launcher's output
    os.close(null)
    sys.stdout = sys.stderr
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to handle
    for number in (signal.SIGTERM, signal.SIGWINCH, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
