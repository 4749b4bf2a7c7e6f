"""A program of the host that wants to talk to one of the guest: it asks the VM's vsock socket for a port."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from pathlib import Path

from ..errors import UserError

TIMEOUT = 12.0  # seconds for the guest to answer; the device gives it ten
CHUNK = 64 << 10  # bytes read at once


def connect(path: Path, port: int, timeout: float = TIMEOUT) -> socket.socket:
    """A stream to `port` of the guest whose vsock socket is at `path`. Raises UserError where nobody listens."""
    client = socket.socket(socket.AF_UNIX)
    try:
        client.settimeout(timeout)
        client.connect(os.fspath(path))
        client.sendall(b"CONNECT %d\n" % port)
        answer = b""
        while not answer.endswith(b"\n") and (byte := client.recv(1)):  # what follows is the stream's
            answer += byte
        if not answer.startswith(b"OK "):
            raise UserError(
                f"nobody in the guest listens on vsock port {port}", "start what should, or see `ss --vsock -l` there"
            )
        client.settimeout(None)
    except OSError as error:
        client.close()
        raise UserError(
            f"the guest does not answer on vsock port {port}: {error.strerror or error}",
            "does the VM run, and has its system started? subos-devices status says so",
        ) from error
    except BaseException:
        client.close()
        raise
    return client


def join(stream: socket.socket, reader: int, writer: int) -> None:
    """Copies what `reader` gives to `stream`, and what comes from there to `writer`; each direction ends by itself.

    Returns when both have ended, or the guest has closed. Raises BrokenPipeError where `writer` takes no more.
    """

    def send() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(reader, CHUNK):
                stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)

    threading.Thread(target=send, daemon=True).start()  # it may stand in `read` for good
    with contextlib.suppress(ConnectionError):
        while data := stream.recv(CHUNK):
            _write(writer, data)
    hung = select.poll()
    hung.register(stream, 0)  # POLLHUP, for when neither direction is left, comes unasked
    hung.poll()


def _write(writer: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(writer, view) :]
