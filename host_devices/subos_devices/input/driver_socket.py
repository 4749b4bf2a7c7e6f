"""The driver socket: where host drivers (a script, a browser, evdev) hand their events to a device model.

SOCK_SEQPACKET, any number of drivers at once. A packet is up to 64 events of 8 bytes, little-endian:
`type` u16, `code` u16, `value` s32. Whatever the device cannot have refuses its packet whole: the driver is told
why, and is disconnected. What it is told is one JSON object a packet. See the README for an example client.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from collections import deque
from collections.abc import Hashable
from time import monotonic
from typing import Protocol

from subos_protocol.effects import Feedback, to_object
from subos_protocol.errors import ProtocolError
from subos_protocol.feedback import Effects, Pending

from ..vhost_user.device import Worker
from .capabilities import MAX_PACKET, Capabilities, Frame

MAX_DRIVERS = 16  # at once; more are turned away, so that descriptors last
MAX_FEEDBACK = 4096  # bytes of one packet to a driver
SEND_BUFFER = 16 << 10  # bytes, as the kernel counts them, that a driver may leave unread
REFUSED = "refused"
LEDS = "leds"
LED = "led"  # of gamepads: their colour, and the number of their player
FORCE = "ff"


class Model(Protocol):
    """What drivers need of a device model."""

    capabilities: Capabilities

    def deliver(self, source: Hashable, frames: list[Frame]) -> None:
        """What `source` did, in order."""

    def withdraw(self, source: Hashable) -> None:
        """`source` is gone: what it alone held is released."""

    def driven(self, by_anybody: bool) -> None:
        """The first driver has come, or the last one has gone."""


class _Untold:
    """What one driver has not been told: kinds of state, and what was done with effects."""

    def __init__(self, kinds: set[str], effects: list[Feedback]) -> None:
        self.kinds = kinds
        self.effects = Pending()
        for message in effects:
            self.effects.put(message)

    def __bool__(self) -> bool:
        return bool(self.kinds or self.effects)


class DriverSocket:
    """Accepts drivers on the listening socket `fd` (it stays the caller's) and delivers their events to `model`."""

    def __init__(self, fd: int, model: Model, worker: Worker) -> None:
        self._model = model
        self._worker = worker
        self._listener = socket.socket(fileno=os.dup(fd))
        self._listener.setblocking(False)
        self._drivers: dict[socket.socket, _Untold] = {}
        self._told: dict[str, bytes] = {}  # the newest packet of each kind
        self._effects = Effects()
        self._deaf = select.epoll()  # drivers that do not read, until they do
        self._paused = False
        worker.watch(self._listener.fileno(), self._accept)
        worker.watch(self._deaf.fileno(), self._tell_late)

    def tell(self, kind: str, value: object) -> None:
        """The state `kind` is now `value`, which JSON can say in MAX_FEEDBACK bytes: for every driver, and for those
        that come later. One that reads slowly misses what is replaced by then."""
        packet = json.dumps({kind: value}).encode()
        if len(packet) > MAX_FEEDBACK:
            raise ValueError(f"{kind}: a packet of {len(packet)} bytes to a driver, {MAX_FEEDBACK} at most")
        self._told[kind] = packet
        for driver, untold in self._drivers.items():
            reads = not untold
            untold.kinds.add(kind)
            if reads:
                self._send(driver)

    def feel(self, message: Feedback) -> None:
        """A game did something with an effect: every driver is to feel it, and those that come later what is left of
        it by then. One that reads slowly misses what does not count any more."""
        if self._effects.note(message, monotonic()):
            self._pass_on(message)

    def feel_nothing(self) -> None:
        """There are no effects any more."""
        for message in self._effects.clear():
            self._pass_on(message)

    def _pass_on(self, message: Feedback) -> None:
        for driver, untold in self._drivers.items():
            reads = not untold
            untold.effects.put(message)
            if reads:
                self._send(driver)

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
        self._worker.unwatch(self._deaf.fileno())
        self._deaf.close()

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
        driver.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._drivers[driver] = _Untold(set(self._told), self._effects.all(monotonic()))
        if len(self._drivers) == 1:
            self._model.driven(True)
        if not self._paused:
            self._watch(driver)
        self._send(driver)

    def _watch(self, driver: socket.socket) -> None:
        self._worker.watch(driver.fileno(), lambda: self._read(driver))

    def _send(self, driver: socket.socket) -> None:
        """Tells a driver what it has not been told; the rest once it reads."""
        untold = self._drivers[driver]
        effects = deque(untold.effects.take())
        try:
            for kind in sorted(untold.kinds):
                driver.send(self._told[kind], socket.MSG_NOSIGNAL)
                untold.kinds.discard(kind)
            while effects:
                driver.send(json.dumps({FORCE: to_object(effects[0])}).encode(), socket.MSG_NOSIGNAL)
                effects.popleft()
        except BlockingIOError:
            for message in effects:
                untold.effects.put(message)
            # Told of once: a driver that has gone would be told of without end while nobody reads from it.
            self._wait(driver)
        except OSError:  # it hears nothing any more, and may have more to say
            untold.kinds.clear()

    def _wait(self, driver: socket.socket) -> None:
        events = select.EPOLLOUT | select.EPOLLONESHOT
        try:
            self._deaf.register(driver, events)
        except FileExistsError:
            self._deaf.modify(driver, events)

    def _tell_late(self) -> None:
        ready = {fd for fd, _ in self._deaf.poll(0)}
        for driver in [driver for driver in self._drivers if driver.fileno() in ready]:
            self._send(driver)

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
        del self._drivers[driver]
        if not self._paused:
            self._worker.unwatch(driver.fileno())
        self._model.withdraw(driver)
        driver.close()
        if not self._drivers:
            self._model.driven(False)


def _refuse(driver: socket.socket, reason: str) -> None:
    """Tells a driver why it is disconnected, if it can hear."""
    with contextlib.suppress(OSError):
        driver.send(json.dumps({REFUSED: reason}).encode(), socket.MSG_NOSIGNAL)
