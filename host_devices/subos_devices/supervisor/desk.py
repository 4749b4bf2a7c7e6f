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

log = logging.getLogger("subos")


class Desk:
    """The supervisor's end of one worker's questions. `theirs` is the worker's end; `channel` the one here, where a
    worker has the other one already.

    A question stays in the socket until there is an answer: another supervisor may have to begin with it anew. What
    may take long is answered on a thread, so that neither the supervisor waits, nor its end for a disk that is gone.
    The next question is read when the last one is answered.
    """

    def __init__(self, device: Callable[[], Device], channel: socket.socket | None = None) -> None:
        self._device = device
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
            self._loop.remove_reader(self._channel)
            self._channel.close()

    def _readable(self) -> None:
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
