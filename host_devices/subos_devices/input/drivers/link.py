"""The line from a host driver to one device of the guest: never blocks, connects again, and says the state anew.

What cannot be sent is not kept: once there is room again, the device is told the state that it has missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from subos_protocol.virtio_input import VIRTIO_INPUT_EVENT, virtio_input_event

from ...text import printable
from ..capabilities import MAX_EVENTS, SYN_REPORT
from ..driver_socket import MAX_FEEDBACK, REFUSED
from .state import DeviceState

RETRIES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # seconds: a worker that died is replaced sooner than that


class Link:
    """To the driver socket `path`. `heard` gets what the device says; `broke` is called when it hangs up, and `lost`
    when it does not come back then.

    Lives on the running event loop, and sleeps while nothing happens.
    """

    def __init__(
        self,
        path: Path,
        heard: Callable[[dict[str, Any]], None],
        broke: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        self._path = path
        self._heard = heard
        self._broke = broke
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._wanted = DeviceState()
        self._sent = DeviceState()
        self._blocked = False
        self._later: asyncio.Handle | None = None
        self._refusal = ""
        self._connect(0)

    def send(self, frame: Sequence[virtio_input_event]) -> None:
        """One frame, without its SYN_REPORT."""
        self._wanted.note(frame)
        if self._socket is not None and not self._blocked:
            self._write(frame)

    def close(self) -> None:
        """The device releases what it was told is down, and centres its axes."""
        if self._later is not None:
            self._later.cancel()
        self._disconnect()

    # --- inside

    def _connect(self, attempt: int) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        try:
            connection.connect(os.fspath(self._path))
        except OSError as error:
            connection.close()
            if attempt < len(RETRIES) and not isinstance(error, FileNotFoundError):
                self._later = self._loop.call_later(RETRIES[attempt], self._connect, attempt + 1)
            else:  # not before whoever made this has it
                self._later = self._loop.call_soon(self._lost, f"no device listens on {self._path}: {error.strerror}")
            return
        self._socket, self._sent, self._blocked = connection, DeviceState(), False
        self._loop.add_reader(connection.fileno(), self._read)
        self._catch_up()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _catch_up(self) -> None:
        """Tells the device what it has missed. A state takes several packets, each of which may be one too many."""
        if self._socket is None:
            return
        self._loop.remove_writer(self._socket.fileno())
        self._blocked = False
        self._write(self._sent.difference(self._wanted))

    def _write(self, frame: Sequence[virtio_input_event]) -> None:
        for start in range(0, len(frame), MAX_EVENTS - 1):
            piece = frame[start : start + MAX_EVENTS - 1]
            if self._socket is None:
                return
            try:
                self._socket.send(b"".join(map(VIRTIO_INPUT_EVENT.pack, (*piece, SYN_REPORT))))
            except BlockingIOError:
                self._blocked = True
                self._loop.add_writer(self._socket.fileno(), self._catch_up)
                return
            except OSError:
                return  # it has gone: `_read` hears of that
            self._sent.note(piece)

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            packet = self._socket.recv(MAX_FEEDBACK)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if packet:
            self._hear(packet)
            return
        self._disconnect()
        self._broke()
        if self._refusal:
            self._lost(f"the device refused it: {self._refusal}")
        else:
            self._connect(0)

    def _hear(self, packet: bytes) -> None:
        with contextlib.suppress(ValueError, RecursionError):
            said = json.loads(packet)
            if isinstance(said, dict):
                self._refusal = printable(str(said.get(REFUSED, "")))
                self._heard(said)
