"""The worker: the process that moves one device's data. It serves rings and obeys its supervisor.

It is told what to do over a SOCK_SEQPACKET socket, one JSON object a packet, descriptors beside it:

    {"op": "memory", "regions": [[guest_addr, size, user_addr, mmap_offset], …]}     + an fd a region; none: it ended
    {"op": "start", "index", "size", "desc", "avail", "used", "base", "event_idx", "enabled"}   + kick [+ call]
    {"op": "enable", "index", "on"}
    {"op": "call", "index"}                                                            [+ call]
    {"op": "ping"}                       answered by {"op": "pong"}
    {"op": "stop", "index", "id"}        answered by {"op": "stopped", "id"} once nothing touches the ring any more

and says {"op": "ready", "sandbox"}, {"op": "failed", "message", "hint"}, {"op": "fault", "index", "message"} and
{"op": "log", "message"}. It never speaks to QEMU, and ends when the socket does.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from subos_protocol.vhost_user import MAX_MEM_REGIONS

from ..errors import SubosError, UserError
from .connection import receive_fds
from .counters import Counters
from .device import Device
from .questions import Questions
from .virtqueue import Virtqueue
from .worker_loop import Loop
from .worker_rings import Rings

MAX_PACKET = 16384  # bytes of one control packet
QUESTIONS = "questions"  # of DeviceSpec.fds: where the worker asks


class DeviceWorker:
    """Serves `device` until `control` is closed. Implements the `Worker` that the device sees."""

    def __init__(
        self,
        device: Device,
        control: socket.socket,
        counters: Counters,
        respawned: bool = False,
        sandbox: Mapping[str, object] = MappingProxyType({}),
        kept: object = None,
    ) -> None:
        self.device = device
        self.sandbox = sandbox
        on = sandbox.get("on")
        self.sees_host = not (isinstance(on, list) and "root" in on)
        questions = device.spec.fds.get(QUESTIONS)
        self._questions = None if questions is None else Questions(questions)
        self.control = control
        self.counters = counters
        self.respawned = respawned
        self.kept = kept
        self.statistics = counters.statistics
        self._loop = Loop()
        self._rings = Rings(device, counters, self._loop, self.tell, respawned=respawned)
        self.running = True
        self.watch(self.control.fileno(), self._obey)

    # --- what the device may use

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        self._loop.watch(fd, callback)

    def unwatch(self, fd: int) -> None:
        self._loop.unwatch(fd)

    def alarm(self, seconds: float, callback: Callable[[], None]) -> None:
        self._loop.alarm(seconds, callback)

    def kick(self, queue: Virtqueue) -> None:
        self._rings.kick(queue)

    def log(self, message: str) -> None:
        self.tell(op="log", message=message[:1000])

    def ask(self, **question: object) -> tuple[dict[str, Any], list[int]]:
        if self._questions is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        said, fds = self._questions.ask(**question)
        if "errno" in said:
            raise OSError(said["errno"], os.strerror(said["errno"]))
        return said, fds

    # --- the loop

    def run(self) -> None:
        """Starts the device, says so, and serves. Returns when the supervisor is gone."""
        if self.begin():
            while self.running:
                self.turn(self.timeout)
            self.end()

    def begin(self) -> bool:
        """Starts the device and says so; False where it cannot start, which is said, too."""
        try:
            self.device.start(self)
        except UserError as error:
            self.tell(op="failed", message=error.message, hint=error.hint)
            return False
        except OSError as error:
            self.tell(op="failed", message=f"{self.device.spec.name}: {error}", hint="")
            return False
        self.counters.busy = 0
        self.tell(op="ready", sandbox=dict(self.sandbox))
        return True

    def fileno(self) -> int:
        """A descriptor that is readable while there is something to do, but for what `timeout` is for."""
        return self._loop.fileno()

    @property
    def timeout(self) -> float:
        """Seconds after which `turn` is due, whatever happens; -1 for ever."""
        return 0.0 if self._rings.unfinished else self._loop.timeout

    def turn(self, timeout: float) -> None:
        """Waits `timeout` seconds for something to do, and does it."""
        unfinished = self._rings.unfinished
        events = self._loop.wait(timeout)
        self.counters.busy = 1
        self._loop.serve(events)
        for ring in unfinished:
            self._rings.process(ring)
        self._rings.count(1)
        self.counters.busy = 0

    def end(self) -> None:
        """The device ends in good order."""
        self.device.close()
        if self._questions is not None:
            self._questions.close()

    def release(self) -> None:
        """Ends the device, and lets go of rings, memory and descriptors, where no end of a process does."""
        try:
            self._rings.close()
            self.end()
        finally:
            self._loop.close()
            self.control.close()

    # --- what the supervisor says

    def tell(self, **message: object) -> None:
        """Says one thing to the supervisor; one that is gone, or does not listen, loses it."""
        with contextlib.suppress(OSError):
            self.control.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)

    def _obey(self) -> None:
        """Does all that was said so far, so that a kick that came later finds it done."""
        while self.running:
            try:
                data, ancillary, _flags, _peer = self.control.recvmsg(
                    MAX_PACKET, socket.CMSG_SPACE(4 * MAX_MEM_REGIONS), socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                return
            except ConnectionError:
                data, ancillary = b"", []
            if data:
                self._perform(json.loads(data), receive_fds(ancillary))
            else:
                self.running = False

    def _perform(self, message: dict[str, Any], fds: list[int]) -> None:
        operations: dict[str, Callable[[dict[str, Any], list[int]], None]] = {
            "memory": self._rings.set_memory,
            "start": self._rings.start,
            "enable": self._rings.enable,
            "call": self._rings.call,
            "stop": self._stop,
            "ping": lambda _message, _fds: self.tell(op="pong"),
        }
        operations[message["op"]](message, fds)

    def _stop(self, message: dict[str, Any], _fds: list[int]) -> None:
        self._rings.drop(message["index"])
        self.tell(op="stopped", id=message["id"])


def main(
    device: Callable[[], tuple[Device, Mapping[str, object]]],
    control: socket.socket,
    counters: Counters,
    respawned: bool,
    kept: object = None,
) -> None:
    """Runs the worker of the device that `device` builds, and tells of its sandbox. A device that cannot be built
    is reported as failed, an error that ends it with where it happened."""
    try:
        built, sandbox = device()
    except SubosError as error:
        control.send(failed(error))
        return
    worker = DeviceWorker(built, control, counters, respawned, sandbox, kept)
    try:
        worker.run()
    except Exception as error:
        worker.log(where(error))
        raise


def failed(error: SubosError) -> bytes:
    """What a worker says whose device cannot be."""
    return json.dumps({"op": "failed", "message": error.message, "hint": error.hint}).encode()


def where(error: BaseException) -> str:
    """An error and where it came from, the innermost place first, on one line: a jail has no files to quote."""
    places, trace = [], error.__traceback__
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__}: {error} (at {', from '.join(reversed(places))})"
