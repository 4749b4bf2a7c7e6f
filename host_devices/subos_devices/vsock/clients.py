"""Programs of the host that want to reach the guest: accepted, and asked which port they mean."""

from __future__ import annotations

import os
import select
import socket

from . import host
from .connection import Connection
from .known import REFUSED
from .stream import Stream, Waiting
from .table import Table

ACCEPTS = 64  # at once
FIRST_PORT = 1 << 30  # of theirs; Linux gives its own programs lower ones


class Clients:
    """`listener` is the listening socket's descriptor; it stays the caller's. While `table` is full, they wait."""

    def __init__(self, listener: int, table: Table) -> None:
        self._table = table
        self._listener = socket.socket(fileno=os.dup(listener))
        self._listener.setblocking(False)
        self._listener.listen(host.BACKLOG)
        self._listening = False
        self._next_port = FIRST_PORT | int.from_bytes(os.urandom(3), "little")
        self.listen()

    def close(self) -> None:
        self._listener.close()

    def fileno(self) -> int:
        return self._listener.fileno()

    def listen(self) -> None:
        """Accepts again, if there is room."""
        if not self._listening and not self._table.full:
            self._table.epoll.register(self._listener, select.EPOLLIN)
            self._listening = True

    def accept(self) -> None:
        for _ in range(ACCEPTS):
            if self._table.full:
                self._pause()
                return
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptors: a little later, perhaps
                self._pause()
                return
            sock.setblocking(False)
            self._table.add(sock, Waiting.FOR_LINE)

    def _pause(self) -> None:
        self._table.epoll.unregister(self._listener)
        self._listening = False

    def hear(self, stream: Stream) -> None:
        """What a client wants. One that does not say so in due form is turned away."""
        assert stream.sock is not None
        try:
            line = host.first_line(stream.sock)
            guest_port = None if line is None else host.parse_connect(line)
        except (OSError, ValueError):
            self._table.known.words[REFUSED] += 1
            self._table.drop(stream)
            return
        if guest_port is not None:
            connection = Connection.to_guest(self._free_port(guest_port), guest_port, self._table.room(stream))
            self._table.bind(stream, connection)
            self._table.wait(stream, Waiting.FOR_GUEST)

    def _free_port(self, guest_port: int) -> int:
        """A port of the host that has no connection to the guest's."""
        port = self._next_port
        while self._table.between(port, guest_port) is not None:
            port = _after(port)
        self._next_port = _after(port)
        return port


def _after(port: int) -> int:
    return port + 1 if port + 1 < 2 * FIRST_PORT else FIRST_PORT
