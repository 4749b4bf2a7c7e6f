"""An input device in this process: its guest's rings, its drivers, and a worker that is turned by hand."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subos_devices import runtime
from subos_devices.input.driver_socket import MAX_FEEDBACK
from subos_devices.input.model import InputDevice
from subos_devices.vhost_user.device import DeviceSpec, Option

from .input_ring import EventRing, FakeWorker, StatusRing

NONE: Mapping[str, Option] = {}
NO_FDS: Mapping[str, int] = {}


class Bench:
    """An input device, its worker, its guest and its driver socket."""

    def __init__(
        self,
        kind: type[InputDevice],
        folder: Path,
        *,
        respawned: bool = False,
        options: Mapping[str, Option] = NONE,
        fds: Mapping[str, int] = NO_FDS,
    ) -> None:
        self.path = folder / "driver.sock"
        self.listener = runtime.listen(self.path, socket.SOCK_SEQPACKET)
        self.device = kind(DeviceSpec("input", "pointer", options, {"driver": self.listener.fileno(), **fds}))
        self.worker = FakeWorker(respawned=respawned)
        self.ring = EventRing()
        self.status = StatusRing()
        self.device.start(self.worker)

    def start_queue(self) -> None:
        queue = self.ring.set_up()
        self.device.queue_started(queue)
        self.device.process(queue)

    def start_status(self) -> None:
        self.device.queue_started(self.status.set_up())

    def says(self, *events: bytes) -> None:
        """The guest sends status events, up to four before the device looks."""
        for event in events:
            self.status.say(event)
        self.device.process(self.status.queue)
        self.worker.turn()

    def connect(self) -> socket.socket:
        driver = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        driver.connect(os.fspath(self.path))
        driver.setblocking(False)
        self.worker.turn()
        return driver

    def send(self, driver: socket.socket, *events: tuple[int, int, int]) -> None:
        driver.send(b"".join(struct.pack("<HHi", *event) for event in events))
        self.worker.turn()

    def guest_reads(self) -> list[tuple[int, int, int]]:
        """The guest takes all there is, four buffers at a time."""
        events = self.ring.collect()
        while True:
            self.ring.offer(4)
            self.device.process(self.ring.queue)
            more = self.ring.collect()
            if not more:
                return events
            events += more

    def close(self) -> None:
        self.device.close()
        self.listener.close()
        self.ring.close()
        self.status.close()


def heard(driver: socket.socket) -> list[Any]:
    """What the device has told `driver` since the last time; None where it has hung up."""
    said: list[Any] = []
    with contextlib.suppress(BlockingIOError):
        while packet := driver.recv(MAX_FEEDBACK):
            said.append(json.loads(packet))
        said.append(None)
    return said
