"""What a supervisor's process and its holder say to each other: JSON objects with descriptors, over SOCK_SEQPACKET.

A message is as many packets as it takes: the kernel takes 253 descriptors with one (SCM_MAX_FD), and a packet must fit
into the socket's buffer. Each begins with MORE or LAST. So a message whose sender died in the middle was never sent.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..vhost_user.connection import receive_fds

PIECE = 64 << 10  # bytes of JSON in one packet
PIECE_FDS = 200  # descriptors with one packet
BUFFER = 1 << 20  # bytes that a socket may keep, where the kernel allows so many
MORE, LAST = b"+", b"."
SOON = 0.01  # seconds until the next try, where too many descriptors are on their way (ETOOMANYREFS)


class Message(NamedTuple):
    """`fds` are the receiver's. They are not `complete` where it had no room for all of them (RLIMIT_NOFILE)."""

    body: dict[str, Any]
    fds: list[int]
    complete: bool = True

    def close(self) -> None:
        while self.fds:
            os.close(self.fds.pop())


class Packet(NamedTuple):
    data: bytes
    fds: Sequence[int]


def packets(body: Mapping[str, Any], fds: Sequence[int] = ()) -> Iterator[Packet]:
    """Those of one message."""
    text = json.dumps([body, len(fds)]).encode()
    while True:
        is_last = len(text) <= PIECE and len(fds) <= PIECE_FDS
        yield Packet((LAST if is_last else MORE) + text[:PIECE], fds[:PIECE_FDS])
        if is_last:
            return
        text, fds = text[PIECE:], fds[PIECE_FDS:]


def widen(sock: socket.socket) -> None:
    """Room for what is said while the other side does something else."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)


def send(sock: socket.socket, packet: Packet, flags: int = 0) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", packet.fds).tobytes())] if packet.fds else []
    sock.sendmsg([packet.data], ancillary, flags)


def send_whole(sock: socket.socket, body: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    """Sends a message on a blocking socket; it waits for room. Raises OSError where nobody is there."""
    for packet in packets(body, fds):
        while True:
            try:
                send(sock, packet)
                break
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
            time.sleep(SOON)


class Inbox:
    """What comes out of a socket, without waiting. The socket stays its owner's."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._text = bytearray()
        self._fds: list[int] = []

    def receive(self) -> Message | None:
        """The next message, or None where there is no whole one yet. Raises EOFError where the other side is gone,
        ValueError for what is no message."""
        while True:
            try:
                data, ancillary, _flags, _peer = self._socket.recvmsg(
                    1 + PIECE, socket.CMSG_SPACE(4 * PIECE_FDS), socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                return None
            except ConnectionResetError:  # it has left something unread: what it said before comes next
                continue
            except ConnectionError as error:
                raise EOFError from error
            self._fds += receive_fds(ancillary)
            if not data:
                raise EOFError
            self._text += data[1:]
            if data[:1] == LAST:
                return self._take()

    def _take(self) -> Message:
        text, fds = bytes(self._text), self._fds
        self._text.clear()
        self._fds = []
        try:
            body, count = json.loads(text)
            if not isinstance(body, dict):
                raise ValueError("not an object")
        except (ValueError, TypeError, RecursionError) as error:
            Message({}, fds).close()
            raise ValueError("this is no message") from error
        return Message(body, fds, complete=len(fds) == count)

    def close(self) -> None:
        """What has come of a message that is not whole."""
        Message({}, self._fds).close()


class Backlog:
    """What goes into a socket that nobody waits for: what it has no room for goes `later`, when `flush` is called. Its
    own copies of the descriptors wait with it."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._waiting: deque[Packet] = deque()

    def put(self, body: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Raises OSError where there is no descriptor left for a copy."""
        for packet in packets(body, fds):
            if self._waiting or not self._sent(packet):
                with contextlib.ExitStack() as undo:
                    copies = []
                    for fd in packet.fds:
                        copies.append(os.dup(fd))
                        undo.callback(os.close, copies[-1])
                    undo.pop_all()
                self._waiting.append(Packet(packet.data, copies))

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def flush(self) -> None:
        """Sends what there is room for."""
        while self._waiting and self._sent(self._waiting[0]):
            Message({}, list(self._waiting.popleft().fds)).close()

    def close(self) -> None:
        while self._waiting:
            Message({}, list(self._waiting.popleft().fds)).close()

    def _sent(self, packet: Packet) -> bool:
        """False where there is no room now. To who is gone nothing can be said, which is heard as its end."""
        try:
            send(self._socket, packet, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            return error.errno != errno.ETOOMANYREFS
        return True
