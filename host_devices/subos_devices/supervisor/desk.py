"""Where a worker's questions are answered: by its device's half in the supervisor, which checks what is asked."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from ..vhost_user.device import Device
from ..vhost_user.questions import MAX_QUESTION, Answer, send_answer
from .allowance import Allowance

RATE, BURST = 1000, 2000  # questions a second, and at once: each is some 50 us of ours, and a connection of vsock's
SLOW_RATE, SLOW_BURST = 20, 40  # of those that are answered on a thread: a share looks four times a second
PAUSE = 0.02  # seconds until one that has asked too often is heard again

log = logging.getLogger("subos")


class Desk:
    """The supervisor's end of one worker's questions. `theirs` is the worker's end; `channel` the one here, where a
    worker has the other one already.

    A question stays in the socket until there is an answer: another supervisor may have to begin with it anew. What
    may take long is answered on a thread, so that neither the supervisor waits, nor its end for a disk that is gone.
    The next question is read when the last one is answered, and once `allowance` has one more.
    """

    def __init__(
        self, device: Callable[[], Device], allowance: Allowance, channel: socket.socket | None = None
    ) -> None:
        self._device = device
        self._allowance = allowance
        self._pause: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        if channel is None:
            self._channel, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        else:
            self._channel = channel
        self._channel.setblocking(False)
        self.closed = False
        self._loop.add_reader(self._channel, self._readable)

    def fileno(self) -> int:
        return self._channel.fileno()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            if self._pause is not None:
                self._pause.cancel()
            self._loop.remove_reader(self._channel)
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_RDWR)  # whoever else has a copy of it
            self._channel.close()

    def _readable(self) -> None:
        if not self._allowance.take(self._loop.time()):
            if self._pause is None:
                log.warning("%s: its worker asks more than it may, and waits", self._device().spec.name)
            self._loop.remove_reader(self._channel)
            self._pause = self._loop.call_later(PAUSE, self._loop.add_reader, self._channel, self._readable)
            return
        try:
            data = self._channel.recv(MAX_QUESTION, socket.MSG_PEEK)
            question = json.loads(data)
        except BlockingIOError:
            return
        except (OSError, ValueError, RecursionError):
            question = None
        if not isinstance(question, dict):  # it has ended, or is no longer ours
            self._take()
            self.close()
            return
        device = self._device()
        if device.answers_slowly:
            self._loop.remove_reader(self._channel)
            threading.Thread(target=self._answer_slowly, args=(device, question), daemon=True).start()
        else:
            self._send(_answer(device, question))

    def _answer_slowly(self, device: Device, question: dict[str, Any]) -> None:
        answer = _answer(device, question)
        try:
            self._loop.call_soon_threadsafe(self._answered, answer)
        except RuntimeError:  # the loop has ended meanwhile
            _drop(answer)

    def _answered(self, answer: Answer) -> None:
        if self.closed:
            _drop(answer)
            return
        self._loop.add_reader(self._channel, self._readable)
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        self._take()
        with contextlib.suppress(OSError):  # it has died, or does not listen
            send_answer(self._channel, answer)

    def _take(self) -> None:
        """The question is dealt with."""
        with contextlib.suppress(OSError):
            self._channel.recv(1)  # a whole packet goes with it


def allowance(device: Device) -> Allowance:
    """Of all workers of a device, one after the other."""
    return Allowance(SLOW_RATE, SLOW_BURST) if device.answers_slowly else Allowance(RATE, BURST)


def _answer(device: Device, question: dict[str, Any]) -> Answer:
    try:
        return device.answer(question)
    except OSError as error:
        return {"errno": error.errno or errno.EIO}, ()
    except Exception as error:  # whatever a worker in a guest's hands has made up
        log.warning("%s: a question that cannot be answered: %s", device.spec.name, type(error).__name__)
        return {"errno": errno.EINVAL}, ()


def _drop(answer: Answer) -> None:
    for fd in answer[1]:
        os.close(fd)
