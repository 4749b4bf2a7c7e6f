"""The host's side: Unix sockets that speak what Firecracker's and vhost-device-vsock's do.

- `PATH` is a listening socket. A client writes `CONNECT <port>\\n`, and reads `OK <host port>\\n` once a program of the
  guest listens there and has accepted; where none does, the connection is closed.
- `PATH_<port>` is where a guest's connection to that port of the host leads to, if somebody listens.
"""

from __future__ import annotations

import os
import socket

from ..errors import UserError
from ..unix import MAX_PATH

MAX_LINE = 32  # bytes of the client's first line
BACKLOG = 1024  # clients that may wait to be accepted
LONGEST_PORT = 11  # bytes that a port adds to a path


def first_line(sock: socket.socket) -> bytes | None:
    """A client's first line, taken from the socket and nothing behind it; None while it is not complete.

    Raises ValueError where it never will be, OSError.
    """
    try:
        seen = sock.recv(MAX_LINE, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    line, newline, _ = seen.partition(b"\n")
    if not newline:
        if not seen or len(seen) == MAX_LINE:
            raise ValueError("no line")
        return None
    return sock.recv(len(line) + 1)


def parse_connect(line: bytes) -> int:
    """The guest's port in `CONNECT <port>`. Raises ValueError."""
    words = line.split()
    if len(words) != 2 or words[0].upper() != b"CONNECT" or not words[1].isdigit():
        raise ValueError("not CONNECT <port>")
    port = int(words[1])
    if port >= 1 << 32:
        raise ValueError("no such port")
    return port


def port_path(path: str, port: int) -> str:
    """Where a guest's connection to `port` leads to."""
    return f"{path}_{port}"


def check_path(path: str) -> None:
    """Raises UserError for a path that no port fits behind."""
    if len(os.fsencode(path)) + LONGEST_PORT > MAX_PATH:
        raise UserError(
            f"the socket {path} cannot be used for vsock: with a port behind it, it has more than {MAX_PATH} bytes",
            "choose a shorter name or folder",
        )


def connect(path: str, port: int) -> socket.socket:
    """A connection to the program that listens at `path`_`port`. Never waits. Raises OSError where none does, or where
    it accepts too slowly."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        sock.connect(port_path(path, port))
    except BaseException:
        sock.close()
        raise
    return sock
