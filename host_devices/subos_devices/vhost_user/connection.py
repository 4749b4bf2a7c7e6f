"""Messages and their file descriptors over a vhost-user socket.

`MessageStream` frames; it serves a blocking socket (a front end in a test) and a non-blocking one (the supervisor).
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections.abc import Iterable, Sequence

from subos_protocol.vhost_user import HEADER, MAX_MEM_REGIONS, MAX_PAYLOAD, HeaderFlag, pack_message, vhost_user_header

from .errors import BadMessage

MAX_FDS = 2 * MAX_MEM_REGIONS  # of one message; the specification needs one for each memory region


class Message:
    """One message and the descriptors that came with it, which are the receiver's to keep or close."""

    def __init__(self, request: int, flags: int, payload: bytes, fds: Iterable[int] = ()) -> None:
        self.request = request
        self.flags = flags
        self.payload = payload
        self.fds = list(fds)

    @property
    def needs_reply(self) -> bool:
        return bool(self.flags & HeaderFlag.NEED_REPLY)

    def take_fd(self) -> int:
        """The next descriptor, now the caller's. Raises BadMessage where none is left."""
        if not self.fds:
            raise BadMessage(f"request {self.request} came without its file descriptor")
        return self.fds.pop(0)

    def close(self) -> None:
        """Closes the descriptors that nobody took."""
        while self.fds:
            os.close(self.fds.pop())


def receive_fds(data: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors in recvmsg's ancillary data."""
    fds = array.array("i")
    for level, kind, payload in data:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return list(fds)


class MessageStream:
    """Frames the messages of one connected stream socket, which it owns."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.received = 0
        """Messages so far."""
        self._buffer = bytearray()
        self._fds: list[int] = []

    def receive(self) -> Message | None:
        """The next message, or None where a non-blocking socket has no whole one yet.

        Raises EOFError when the peer is gone, BadMessage for a header that is not vhost-user's (the stream
        cannot be used any more).
        """
        while True:
            wanted = HEADER.size
            if len(self._buffer) >= HEADER.size:
                header = HEADER.unpack(self._buffer)
                if header.size > MAX_PAYLOAD or header.flags & HeaderFlag.VERSION_MASK != HeaderFlag.VERSION:
                    raise BadMessage(f"not a vhost-user header: {bytes(self._buffer[: HEADER.size]).hex()}")
                wanted += header.size
                if len(self._buffer) == wanted:
                    return self._finish(header)
            try:
                data, ancillary, _flags, _peer = self.socket.recvmsg(
                    wanted - len(self._buffer), socket.CMSG_SPACE(4 * MAX_FDS), socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return None
            except ConnectionError as error:
                raise EOFError("the vhost-user connection broke") from error
            self._fds += receive_fds(ancillary)
            if len(self._fds) > MAX_FDS:
                raise BadMessage(f"{len(self._fds)} descriptors with one message")
            if not data:
                raise EOFError("the vhost-user connection was closed")
            self._buffer += data

    def _finish(self, header: vhost_user_header) -> Message:
        message = Message(header.request, header.flags, bytes(self._buffer[HEADER.size :]), self._fds)
        self._buffer.clear()
        self._fds = []
        self.received += 1
        return message

    def send(self, request: int, payload: bytes = b"", flags: int = 0, fds: Sequence[int] = ()) -> None:
        """Sends one message whole. Raises OSError; a peer that does not read small messages is as good as gone."""
        data = memoryview(pack_message(request, payload, HeaderFlag.VERSION | flags))
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
        sent = self.socket.sendmsg([data], ancillary)
        while sent < len(data):
            sent += self.socket.send(data[sent:])

    def close(self) -> None:
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds = []
        self.socket.close()
