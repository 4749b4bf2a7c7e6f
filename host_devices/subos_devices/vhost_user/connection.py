"""Messages and their file descriptors over a vhost-user socket.

`MessageStream` frames; it serves a blocking socket (a front end in a test) and a non-blocking one (the supervisor).

A back end that may die at any time, and be succeeded by another process, must neither lose a message nor answer one
twice. So it leaves each in the socket while it deals with it (`peek`, `take`), and has an `Outbox` for the reply.
"""

from __future__ import annotations

import array
import contextlib
import mmap
import os
import socket
from collections.abc import Iterable, Sequence

from subos_protocol.vhost_user import HEADER, MAX_MEM_REGIONS, MAX_PAYLOAD, HeaderFlag, pack_message, vhost_user_header

from .errors import BadMessage

PAGE = mmap.PAGESIZE
MAX_FDS = 2 * MAX_MEM_REGIONS  # of one message; the specification needs one for each memory region


class Message:
    """One message and the descriptors that came with it, which are the receiver's to keep or close."""

    def __init__(self, request: int, flags: int, payload: bytes, fds: Iterable[int] = ()) -> None:
        self.request = request
        self.flags = flags
        self.payload = payload
        self.fds = list(fds)
        self.unread = 0
        """Bytes of it that are in the socket still."""

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


def receive_with_fds(sock: socket.socket, size: int, count: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """At most `size` bytes and `count` descriptors. Not socket.recv_fds: it drops its flags (Python 3.11), so that
    whatever program is started next would inherit the descriptors."""
    data, ancillary, _, _ = sock.recvmsg(size, socket.CMSG_SPACE(4 * count), flags | socket.MSG_CMSG_CLOEXEC)
    return data, receive_fds(ancillary)


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

    def peek(self) -> Message | None:
        """As `receive`, but the message stays in the socket until `take`, so that another process can begin with it
        anew. One that comes in pieces is taken at once: QEMU sends none."""
        if self._buffer:
            return self.receive()
        try:
            head = self.socket.recv(HEADER.size, socket.MSG_PEEK)
            if len(head) < HEADER.size:
                return self.receive()
            header = HEADER.unpack(head)
            size = HEADER.size + header.size
            if header.size > MAX_PAYLOAD:
                return self.receive()
            # No more than this: it would bring the next message's descriptors along.
            data, ancillary, _flags, _peer = self.socket.recvmsg(
                size, socket.CMSG_SPACE(4 * MAX_FDS), socket.MSG_CMSG_CLOEXEC | socket.MSG_PEEK
            )
        except (BlockingIOError, InterruptedError):
            return None
        except ConnectionError as error:
            raise EOFError("the vhost-user connection broke") from error
        self._fds = receive_fds(ancillary)
        if len(data) < size or header.flags & HeaderFlag.VERSION_MASK != HeaderFlag.VERSION:
            self._close_fds()
            return self.receive()
        self._buffer += data
        message = self._finish(header)
        message.unread = size
        return message

    def take(self, size: int) -> None:
        """The first `size` bytes in the socket, a message that was peeked at, have been dealt with."""
        self.socket.recv(size)  # the descriptors that came with it are dropped: there is no room for them

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
        self._close_fds()
        self.socket.close()

    def _close_fds(self) -> None:
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds = []


class Outbox:
    """Where a reply lies until it is in the peer's socket, which one system call brings about: sendfile, from a file
    whose position, which all processes that have it share, the kernel moves on with it. So whoever has the file can
    tell whether a reply has been sent.

    outbox.put(reply); …note where…; outbox.send(sock)
    """

    LIMIT = 1 << 20  # bytes, after which it begins anew

    def __init__(self, fd: int = -1) -> None:
        """`fd` is another process's, which becomes this one's."""
        self.fd = os.memfd_create("subos-outbox", os.MFD_CLOEXEC) if fd < 0 else fd

    def put(self, request: int, payload: bytes) -> tuple[int, int]:
        """Makes a reply the next to be sent: where it begins, and how many bytes it has."""
        at = os.lseek(self.fd, 0, os.SEEK_CUR)
        data = pack_message(request, payload, HeaderFlag.VERSION | HeaderFlag.REPLY)
        if at > self.LIMIT:
            at = os.lseek(self.fd, 0, os.SEEK_SET)
        elif at % PAGE + len(data) > PAGE:  # Linux before 6.5 sends page by page, and one who is killed half of it
            at = os.lseek(self.fd, at + PAGE - at % PAGE, os.SEEK_SET)
        os.pwrite(self.fd, data, at)
        return at, len(data)

    def holds(self, at: int) -> bool:
        """Whether the reply that begins there is still to be sent."""
        return os.lseek(self.fd, 0, os.SEEK_CUR) == at

    def send(self, sock: socket.socket, size: int) -> None:
        """Sends the next `size` bytes. Raises OSError; a peer that does not read small messages is as good as gone."""
        while size > 0:
            sent = os.sendfile(sock.fileno(), self.fd, None, size)
            if sent == 0:
                raise OSError("the outbox is empty")
            size -= sent

    def close(self) -> None:
        os.close(self.fd)
