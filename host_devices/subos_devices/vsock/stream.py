"""One host socket and the connection that it belongs to, if it has come to that."""

from __future__ import annotations

import contextlib
import socket
from enum import Enum, auto

from .connection import Connection
from .known import NOWHERE


class Waiting(Enum):
    """What a stream is waiting for; all but one have a time limit."""

    FOR_NOTHING = auto()
    FOR_LINE = auto()  # CONNECT, from the client
    FOR_GUEST = auto()  # its RESPONSE
    FOR_CREDIT = auto()  # room in the guest's socket
    FOR_END = auto()  # all is said, and the guest has not yet reset the connection


class Stream:
    """What the muxer keeps of it. Without a `connection` it is a client that has not said what it wants, or what is
    left of a connection that the guest has reset; without a `sock` the host's program has gone."""

    __slots__ = (
        "backlog",
        "burst",
        "connection",
        "deadline",
        "ending",
        "hung",
        "place",
        "queued",
        "readable",
        "sock",
        "waiting",
        "wide",
    )

    def __init__(self, sock: socket.socket) -> None:
        self.sock: socket.socket | None = sock
        self.connection: Connection | None = None
        self.backlog = bytearray()
        """What the guest has sent and the host has not taken: at most the connection's room."""
        self.readable = False
        """There may be data to be read, or their end."""
        self.ending = False
        """The end is there, behind what data there are."""
        self.hung = False
        """It is the end of both directions."""
        self.burst = 1
        """Receive buffers to fill by one system call."""
        self.queued = False
        """It stands in line for a turn."""
        self.wide = False
        """Its room is one of the large ones."""
        self.place = NOWHERE
        """Where it is noted for the next worker."""
        self.waiting = Waiting.FOR_NOTHING
        self.deadline = 0.0

    def shut_down(self, how: int) -> None:
        """Ends a direction of the host's socket."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(how)
