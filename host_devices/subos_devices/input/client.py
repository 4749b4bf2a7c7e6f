"""The other end of a driver socket: what a host driver of ours sends its events by."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from subos_protocol.virtio_input import VIRTIO_INPUT_EVENT, virtio_input_event

from ..errors import UserError
from .driver_socket import MAX_FEEDBACK, REFUSED

TIMEOUT = 10.0  # seconds in which a device takes a packet


class DriverConnection:
    """A connected driver; the device releases what it held when it goes. Raises UserError where nobody listens."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(TIMEOUT)
        try:
            self._socket.connect(os.fspath(path))
        except OSError as error:
            self._socket.close()
            raise UserError(
                f"no device listens on {path}: {error.strerror or error}", "subos-devices status lists what runs"
            ) from error

    def __enter__(self) -> DriverConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, events: Iterable[virtio_input_event]) -> None:
        """At most 64 events, as one packet. Waits while the device's queue is full; raises UserError if it stays so,
        and where the device has refused something."""
        try:
            self._socket.send(b"".join(map(VIRTIO_INPUT_EVENT.pack, events)))
        except TimeoutError as error:
            raise UserError("the guest takes no input", "is it paused, or has it hung?") from error
        except OSError as error:
            self.finish()
            raise UserError(f"the device went away: {error.strerror}", "try again") from error

    def finish(self) -> None:
        """Returns once the device has taken everything. Raises UserError where it has refused something."""
        with contextlib.suppress(OSError):  # it has closed already, and said why
            self._socket.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + TIMEOUT
        try:
            while self._hear():
                if time.monotonic() > deadline:  # a guest that only talks
                    raise TimeoutError
        except TimeoutError as error:
            raise UserError("the guest takes no input", "is it paused, or has it hung?") from error

    def hear(self) -> dict[str, Any]:
        """What the device says next: one packet, as the README has them. Raises UserError where it says nothing for a
        while, has gone, or has refused something."""
        try:
            said = self._hear()
        except TimeoutError as error:
            raise UserError("the device says nothing", "has anything changed in the guest?") from error
        if not said:
            raise UserError("the device went away", "try again")
        return said

    def _hear(self) -> dict[str, Any]:
        """Empty where the device has hung up. Raises TimeoutError, and UserError for a refusal."""
        try:
            packet = self._receive()
            said: dict[str, Any] = json.loads(packet) if packet else {}
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:
            raise UserError(f"the device went away: {getattr(error, 'strerror', error)}", "try again") from error
        if REFUSED in said:
            raise UserError(f"the device refused it: {said[REFUSED]}")
        return said

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(MAX_FEEDBACK)
        except ConnectionResetError:  # it closed with packets of ours unread; its last words are still here
            return self._socket.recv(MAX_FEEDBACK)
