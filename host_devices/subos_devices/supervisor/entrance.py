"""Where the front ends of a device come in.

A supervisor that accepts a connection and dies before it has noted it takes it along. So where there is a holder, that
accepts, and passes each connection on in a socket of its own, the *corridor*: there it stays until it is noted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket

from ..vhost_user.connection import receive_with_fds

LATER = 1.0  # seconds until another connection is accepted, where there was no room for one


class Entrance:
    """`sock` listens, or is the end of a corridor. It is this one's."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._listens = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        sock.setblocking(False)

    async def next(self) -> socket.socket:
        """The next front end's connection. Raises OSError where there is no room for it."""
        loop = asyncio.get_running_loop()
        if self._listens:
            connection, _ = await loop.sock_accept(self._socket)
            return connection
        readable = asyncio.Event()
        loop.add_reader(self._socket, readable.set)
        try:
            while (passed_on := self._peek()) is None:
                readable.clear()
                await readable.wait()
        finally:
            loop.remove_reader(self._socket)
        return passed_on

    def noted(self, connection: socket.socket) -> None:
        """It is lost no more: out of the corridor with it, if this supervisor or the one before has not done so."""
        if self._listens:
            return
        with contextlib.suppress(OSError):
            first = self._peek()
            if first is not None:
                with first:
                    is_it = os.path.sameopenfile(first.fileno(), connection.fileno())
                if is_it:
                    for fd in receive_with_fds(self._socket, 1, 1)[1]:
                        os.close(fd)

    def close(self) -> None:
        self._socket.close()

    def _peek(self) -> socket.socket | None:
        try:
            data, fds = receive_with_fds(self._socket, 1, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        if not data:
            raise ConnectionAbortedError(errno.ECONNABORTED, "nobody lets front ends in any more")
        if not fds:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return socket.socket(fileno=fds[0])


class Corridor:
    """The holder's end: what comes to `listener` is passed on to whoever has `outlet`. Both are this one's."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._inlet, self.outlet = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._loop = asyncio.get_running_loop()
        for each in (self._listener, self._inlet):
            each.setblocking(False)
        self._loop.add_reader(self._listener, self._pass_on)

    def _pass_on(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # no descriptor is left: it waits until there is one
            self._loop.remove_reader(self._listener)
            self._loop.call_later(LATER, self._look_again)
            return
        with connection, contextlib.suppress(OSError):  # so many wait already that one more is not let in
            socket.send_fds(self._inlet, [b"."], [connection.fileno()])

    def _look_again(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._pass_on)

    def close(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
        for each in (self._listener, self._inlet, self.outlet):
            each.close()
