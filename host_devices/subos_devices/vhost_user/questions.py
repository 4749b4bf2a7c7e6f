"""What a worker may ask of its device's other half, in the supervisor, which is not jailed: see `Device.answer`.

One question at a time, each a JSON object in a SOCK_SEQPACKET packet; the answer likewise, with descriptors beside it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from .connection import receive_fds

MAX_QUESTION = 4096  # bytes
MAX_FDS = 4

Answer = tuple[Mapping[str, object], Sequence[int]]
"""What is said, and descriptors that are closed once they were sent."""


class Questions:
    """The worker's end. `ask` waits."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(True)

    def ask(self, **question: object) -> tuple[dict[str, Any], list[int]]:
        """The answer, and its descriptors, which are the caller's. Raises OSError where nobody answers."""
        self._socket.send(json.dumps(question).encode())
        data, ancillary, _flags, _peer = self._socket.recvmsg(
            MAX_QUESTION, socket.CMSG_SPACE(4 * MAX_FDS), socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            raise ConnectionResetError("the supervisor is gone")
        return json.loads(data), receive_fds(ancillary)

    def close(self) -> None:
        self._socket.close()


def send_answer(channel: socket.socket, answer: Answer) -> None:
    """Sends it without waiting, and closes its descriptors. Raises OSError."""
    said, fds = answer
    try:
        socket.send_fds(channel, [json.dumps(said).encode()], list(fds), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    finally:
        for fd in fds:
            os.close(fd)
