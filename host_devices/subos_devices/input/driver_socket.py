"""The driver socket: where host drivers (a script, a browser, evdev) hand their events to a device model.

SOCK_SEQPACKET, any number of drivers at once. A packet is up to 64 events of 8 bytes, little-endian:
`type` u16, `code` u16, `value` s32. Whatever the device cannot have refuses its packet whole: the driver gets one
packet of text that says why, and is disconnected. See the README for an example client.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Hashable
from typing import Protocol

from subos_protocol.errors import ProtocolError

from ..vhost_user.device import Worker
from .capabilities import MAX_PACKET, Capabilities, Frame

MAX_DRIVERS = 16  # at once; more are turned away, so that descriptors last


class Model(Protocol):
    """What drivers need of a device model."""

    capabilities: Capabilities

    def deliver(self, source: Hashable, frames: list[Frame]) -> None:
        """What `source` did, in order."""

    def withdraw(self, source: Hashable) -> None:
        """`source` is gone: what it alone held is released."""


class DriverSocket:
    """Accepts drivers on the listening socket `fd` (it stays the caller's) and delivers their events to `model`."""

    def __init__(self, fd: int, model: Model, worker: Worker) -> None:
        self._model = model
        self._worker = worker
        self._listener = socket.socket(fileno=os.dup(fd))
        self._listener.setblocking(False)
        self._drivers: set[socket.socket] = set()
        self._paused = False
        worker.watch(self._listener.fileno(), self._accept)

    def pause(self) -> None:
        """Reads no more: drivers wait in their own `send` until `resume`."""
        if not self._paused:
            self._paused = True
            for driver in self._drivers:
                self._worker.unwatch(driver.fileno())

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            for driver in self._drivers:
                self._watch(driver)

    def close(self) -> None:
        """Disconnects everybody."""
        for driver in list(self._drivers):
            self._drop(driver)
        self._worker.unwatch(self._listener.fileno())
        self._listener.close()

    def _accept(self) -> None:
        try:
            driver, _ = self._listener.accept()
        except OSError:  # gone again, or another worker of this device was faster
            return
        driver.setblocking(False)
        if len(self._drivers) >= MAX_DRIVERS:
            _refuse(driver, f"there are {MAX_DRIVERS} drivers already")
            driver.close()
            return
        self._drivers.add(driver)
        if not self._paused:
            self._watch(driver)

    def _watch(self, driver: socket.socket) -> None:
        self._worker.watch(driver.fileno(), lambda: self._read(driver))

    def _read(self, driver: socket.socket) -> None:
        if driver not in self._drivers or self._paused:  # an event of the round in which that changed
            return
        try:
            packet = driver.recv(MAX_PACKET + 1)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._drop(driver)
            return
        try:
            frames = self._model.capabilities.parse(packet)
        except ProtocolError as error:
            self._worker.log(f"driver disconnected: {error}")
            _refuse(driver, str(error))
            self._drop(driver)
        else:
            self._model.deliver(driver, frames)

    def _drop(self, driver: socket.socket) -> None:
        self._drivers.discard(driver)
        if not self._paused:
            self._worker.unwatch(driver.fileno())
        self._model.withdraw(driver)
        driver.close()


def _refuse(driver: socket.socket, reason: str) -> None:
    """Tells a driver why it is disconnected, if it can hear."""
    with contextlib.suppress(OSError):
        driver.send(reason.encode(), socket.MSG_NOSIGNAL)
