"""The host's side of a soak: drivers of all input devices, streams both ways, and workers
and supervisors that are killed at random."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from subos_devices.errors import SubosError
from subos_devices.input.actions import button, frame
from subos_devices.input.client import DriverConnection
from subos_devices.launcher.devices import driver_path, vsock_path
from subos_devices.supervisor import control
from subos_devices.vsock import client
from subos_protocol.input_codes import Abs, Ev, Key
from subos_protocol.virtio_input import virtio_input_event

from .inside.busy import BLOCK, GUEST_PORT, HOST_PORT, receive

KEYS: Mapping[str, Sequence[int]] = {
    "mouse": (Key.BTN_LEFT, Key.BTN_RIGHT, Key.BTN_MIDDLE),
    "keyboard": (Key.KEY_A, Key.KEY_LEFTSHIFT, Key.KEY_F5),
    "pen": (Key.BTN_TOOL_PEN, Key.BTN_TOUCH, Key.BTN_STYLUS),
    "gamepad": (Key.BTN_SOUTH, Key.BTN_EAST, Key.BTN_START),
    "touchpad": (Key.BTN_LEFT,),
}
FINGERS = 10
ANSWER = 120.0  # seconds that `status` may take, which looks at the memory of forty processes, on a busy machine
SUPERVISORS = 0.05  # of those that are killed
PAUSE = 0.02  # seconds between a driver's events


class Soak:
    """Everything that the host does to the VM `name`, whose folder is `folder`, until it is left. `counts` says how
    often, `errors` what went wrong."""

    def __init__(self, name: str, folder: Path, devices: Mapping[str, str], mortal: Sequence[str], seed: int) -> None:
        self.name, self.folder = name, folder
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self._mortal = mortal
        self._chance = random.Random(seed)
        self._end = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{vsock_path(folder)}_{HOST_PORT}")
        self._listener.listen()
        self._listener.settimeout(0.2)
        work: dict[str, Callable[[], None]] = {"streams": self._call_guest, "server": self._serve_guest}
        work |= {device: self._driver(device, kind) for device, kind in devices.items() if kind in EVENTS}
        self._threads = [threading.Thread(target=self._live, args=item) for item in work.items()]

    def __enter__(self) -> Soak:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()
        os.unlink(f"{vsock_path(self.folder)}_{HOST_PORT}")

    def kill_for(self, seconds: float, every: float) -> None:
        """Kills a worker, one after the other, by chance; or the supervisor."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.errors:
            time.sleep(every * self._chance.uniform(0.5, 1.5))
            victim = self._chance.choice(self._mortal)
            status: dict[str, Any] = control.ask(self.name, "status", timeout=ANSWER)
            [pid] = [device["pid"] for device in status["devices"] if device["name"] == victim]
            if self._chance.random() < SUPERVISORS:
                victim, pid = "supervisor", status["supervisor"]["pid"]
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.counts["supervisors killed" if victim == "supervisor" else "kills"] += 1

    def _live(self, what: str, work: Callable[[], None]) -> None:
        try:
            while not self._end.is_set():
                work()
                self.counts[what] += 1
        except BaseException as error:
            self.errors.append(f"{what}: {error!r}")

    def _driver(self, device: str, kind: str) -> Callable[[], None]:
        """A driver that comes, presses, moves and releases, and goes with something held."""
        chance, event = random.Random(device), EVENTS[kind]
        path = driver_path(self.folder, device)

        def drive() -> None:
            try:
                with DriverConnection(path) as driver:
                    for _ in range(chance.randrange(1, 40)):
                        driver.send(event(chance, kind))
                        time.sleep(PAUSE)
            except SubosError:
                self.counts["drivers that lost their device"] += 1
                time.sleep(PAUSE)

        return drive

    def _call_guest(self) -> None:
        try:
            with client.connect(vsock_path(self.folder), GUEST_PORT) as sock:
                sock.settimeout(30)
                for _ in range(4):
                    sent = os.urandom(BLOCK)
                    sock.sendall(sent)
                    if (back := receive(sock, BLOCK)) != sent:
                        if not sent.startswith(back):
                            raise AssertionError("a stream has brought back other bytes")
                        raise ConnectionError
        except (SubosError, ConnectionError, TimeoutError):
            self.counts["streams that ended early"] += 1
            time.sleep(0.05)

    def _serve_guest(self) -> None:
        with suppress(TimeoutError, ConnectionError):
            guest = self._listener.accept()[0]
            with guest:
                guest.settimeout(30)
                while data := guest.recv(BLOCK):
                    guest.sendall(data)


Events = list[virtio_input_event]


def _press(chance: random.Random, kind: str) -> Events:
    if kind in ("mouse", "pen") and chance.random() < 0.5:
        return frame(*((Ev.EV_ABS, axis, chance.randrange(32768)) for axis in (Abs.ABS_X, Abs.ABS_Y)))
    return button(chance.choice(KEYS[kind]), chance.randrange(2))


def _touch(chance: random.Random, _kind: str) -> Events:
    finger = chance.randrange(FINGERS)
    place = ((Ev.EV_ABS, axis, chance.randrange(32768)) for axis in (Abs.ABS_MT_POSITION_X, Abs.ABS_MT_POSITION_Y))
    slot, tracking = (Ev.EV_ABS, Abs.ABS_MT_SLOT, finger), Abs.ABS_MT_TRACKING_ID
    if chance.random() < 0.4:
        return frame(slot, (Ev.EV_ABS, tracking, -1))
    return frame(slot, (Ev.EV_ABS, tracking, finger), *place)


def _turn(chance: random.Random, _kind: str) -> Events:
    return frame((Ev.EV_ABS, Abs.ABS_RX, chance.randrange(-1000, 1000)))


EVENTS: Mapping[str, Callable[[random.Random, str], Events]] = {
    **dict.fromkeys(KEYS, _press),
    "touch": _touch,
    "motion": _turn,
}
"""What the drivers of a kind of device send."""
