"""All streams of a VM: how many there may be, whose turn it is, how long each may wait, and how each ends."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable

from subos_protocol.vsock import Type

from .connection import Connection
from .known import MAX_CONNECTIONS, NOWHERE, OPEN, Known
from .stream import Stream, Waiting

WIDE, NARROW = 256 << 10, 16 << 10  # bytes of room of a connection; Linux has 256 KiB in the other direction
WIDE_CONNECTIONS = 256  # so many have the wide one: 124 MiB for all of them are the most that a guest can fill
LIMITS = {Waiting.FOR_LINE: 10.0, Waiting.FOR_GUEST: 10.0, Waiting.FOR_CREDIT: 1.0, Waiting.FOR_END: 10.0}  # seconds

READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
READ_AND_WRITE = READ | select.EPOLLOUT
STREAM = int(Type.STREAM)

Reset = tuple[int, int, int, int]
"""Host port, guest port, type, and the place in `Known` that is free when the guest has heard of it."""


class Table:
    """`limit` is how many streams there may be; `timed` is called when one has begun to wait for something."""

    def __init__(self, known: Known, limit: int, timed: Callable[[], None]) -> None:
        self.known = known
        self.epoll = select.epoll()
        """Of the host's sockets, edge-triggered."""
        self.turns: deque[Stream] = deque()
        """Those that may have something for the guest, in the order in which they are served."""
        self.resets: deque[Reset] = deque((host, guest, STREAM, place) for place, host, guest in known.start())
        """They go before everything else."""
        self._limit = min(limit, MAX_CONNECTIONS)
        self._began_to_wait = timed
        self._connections: dict[int, Stream] = {}  # by host port << 32 | guest port
        self._sockets: dict[int, Stream] = {}  # by descriptor
        self._all: set[Stream] = set()
        self._timed: set[Stream] = set()
        self._wide = 0

    def __contains__(self, stream: object) -> bool:
        return stream in self._all

    def __len__(self) -> int:
        return len(self._all)

    @property
    def full(self) -> bool:
        return len(self._all) >= self._limit

    def between(self, host_port: int, guest_port: int) -> Stream | None:
        """The stream between two ports. It has a connection."""
        return self._connections.get(host_port << 32 | guest_port)

    def of_socket(self, fd: int) -> Stream | None:
        """The stream of a host socket."""
        return self._sockets.get(fd)

    # --- beginnings

    def add(self, sock: socket.socket, waiting: Waiting) -> Stream:
        """A host socket, non-blocking, which is the table's from now on."""
        stream = Stream(sock)
        self._all.add(stream)
        self._sockets[sock.fileno()] = stream
        self.epoll.register(sock, READ)
        self.wait(stream, waiting)
        return stream

    def room(self, stream: Stream) -> int:
        """How much is kept of what the guest sends for this one."""
        stream.wide = self._wide < WIDE_CONNECTIONS
        self._wide += stream.wide
        return WIDE if stream.wide else NARROW

    def bind(self, stream: Stream, connection: Connection) -> None:
        """The guest is about to hear of it."""
        stream.connection = connection
        stream.place = self.known.note(connection.host_port, connection.guest_port)
        self._connections[connection.host_port << 32 | connection.guest_port] = stream
        self.known.words[OPEN] = len(self._connections)
        self.queue(stream)

    def queue(self, stream: Stream) -> None:
        """It gets a turn."""
        if not stream.queued and stream in self._all:
            stream.queued = True
            self.turns.append(stream)
        if stream.waiting is Waiting.FOR_CREDIT:
            self.wait(stream, Waiting.FOR_NOTHING)

    # --- ends

    def leave(self, stream: Stream) -> None:
        """The guest has reset the connection. The host still gets what was sent before."""
        if not stream.backlog or stream.sock is None:
            self.drop(stream)
            return
        self._unbind(stream)
        self.known.forget(stream.place)
        stream.place, stream.connection = NOWHERE, None
        stream.shut_down(socket.SHUT_RD)

    def reset(self, stream: Stream) -> None:
        """The guest is told that the connection is over, if it has heard of it, and the host's socket is closed."""
        connection = stream.connection
        if connection is not None and connection.is_known and stream in self._all:
            self.resets.append((connection.host_port, connection.guest_port, STREAM, stream.place))
            stream.place = NOWHERE
        self.drop(stream)

    def reset_all(self) -> None:
        for stream in [stream for stream in self._all if stream.connection is not None]:
            self.reset(stream)

    def forget_guest(self) -> None:
        """It is another one, which knows of no connection."""
        for stream in [stream for stream in self._all if stream.connection is not None]:
            self.drop(stream)
        for *_, place in self.resets:
            self.known.forget(place)
        self.resets.clear()

    def drop(self, stream: Stream) -> None:
        """Nothing is left of it here."""
        if stream not in self._all:
            return
        self._all.discard(stream)
        self._timed.discard(stream)
        self._unbind(stream)
        self.known.forget(stream.place)
        self._wide -= stream.wide
        if stream.queued:
            self.turns.remove(stream)
        stream.backlog.clear()
        self.close_socket(stream)

    def close_socket(self, stream: Stream) -> None:
        """The host's program is gone."""
        if stream.sock is not None:
            del self._sockets[stream.sock.fileno()]
            stream.sock.close()  # which takes it out of the epoll, too
            stream.sock = None
        stream.readable = False

    def close(self) -> None:
        for stream in list(self._all):
            self.drop(stream)
        self.epoll.close()

    def _unbind(self, stream: Stream) -> None:
        connection = stream.connection
        if connection is not None:
            del self._connections[connection.host_port << 32 | connection.guest_port]
            self.known.words[OPEN] = len(self._connections)

    # --- time

    def wait(self, stream: Stream, waiting: Waiting) -> None:
        """It waits for something else from now on."""
        stream.waiting = waiting
        limit = LIMITS.get(waiting)
        if limit is None:
            self._timed.discard(stream)
            return
        stream.deadline = time.monotonic() + limit
        self._timed.add(stream)
        self._began_to_wait()

    @property
    def timed(self) -> bool:
        """Whether any is waiting."""
        return bool(self._timed)

    def expire(self, now: float) -> None:
        """Ends those that have waited too long; a guest that has had no room for long is asked."""
        for stream in [stream for stream in self._timed if now > stream.deadline]:
            if stream.waiting is Waiting.FOR_CREDIT and stream.connection is not None:
                stream.connection.ask_for_credit()
                self.queue(stream)
            else:
                self.reset(stream)
