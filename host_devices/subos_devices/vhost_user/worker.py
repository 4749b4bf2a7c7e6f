"""The worker: the process that moves one device's data. It serves rings and obeys its supervisor.

It is told what to do over a SOCK_SEQPACKET socket, one JSON object a packet, descriptors beside it:

    {"op": "memory", "regions": [[guest_addr, size, user_addr, mmap_offset], …]}     + an fd a region; none: let go
    {"op": "start", "index", "size", "desc", "avail", "used", "base", "event_idx", "enabled"}   + kick [+ call]
    {"op": "enable", "index", "on"}
    {"op": "call", "index"}                                                            [+ call]
    {"op": "ping"}                       answered by {"op": "pong"}
    {"op": "stop", "index", "id"}        answered by {"op": "stopped", "id"} once nothing touches the ring any more

and says {"op": "ready", "sandbox"}, {"op": "failed", "message", "hint"}, {"op": "fault", "index", "message"} and
{"op": "log", "message"}. It never speaks to QEMU, and ends when the socket does.

A ring is *active* while it is started and enabled. An active ring has a `Virtqueue`, made anew at each activation
from `used.idx` and the table of deferred chains: whatever else was taken and not given back is then available again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import heapq
import json
import mmap
import os
import select
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from types import MappingProxyType
from typing import Any

from subos_protocol.vhost_user import MAX_MEM_REGIONS, vhost_user_mem_region

from ..errors import SubosError, UserError
from .connection import receive_fds
from .deferred import TABLE_SIZE, Deferred
from .device import STATISTICS_SIZE, Device
from .errors import RingError
from .memory import GuestMemory
from .questions import Questions
from .ring import Virtqueue

MAX_PACKET = 16384  # bytes of one control packet
STATISTICS = mmap.PAGESIZE  # its byte at which the device's own statistics begin, of STATISTICS_SIZE bytes
COUNTERS_SIZE = STATISTICS + STATISTICS_SIZE  # of the memfd in which a worker counts: u64 requests, wake-ups, is busy
TABLES = 64  # its byte at which the tables of deferred chains begin, one a ring
QUESTIONS = "questions"  # of DeviceSpec.fds: where the worker asks
DEFERRING_RINGS = 7  # so many have one; in the others nothing can wait


class Counters:
    """What a device has done, and which chains it keeps, in memory shared with the supervisor, so that it outlives
    the worker."""

    def __init__(self, fd: int) -> None:
        self._bytes = memoryview(mmap.mmap(fd, COUNTERS_SIZE))
        self._words = self._bytes.cast("Q")

    @staticmethod
    def create() -> int:
        """A memfd of zeros."""
        fd = os.memfd_create("subos-counters", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, COUNTERS_SIZE)
        # A worker that shortened it would end the supervisor with SIGBUS.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return fd

    @property
    def requests(self) -> int:
        """Chains given back to the driver."""
        return self._words[0]

    @property
    def wakeups(self) -> int:
        """Times the worker woke to look at its descriptors."""
        return self._words[1]

    @property
    def busy(self) -> int:
        """0 while the worker waits for something to happen."""
        return self._words[2]

    @busy.setter
    def busy(self, busy: int) -> None:
        self._words[2] = busy

    @property
    def statistics(self) -> memoryview:
        """The device's own: what is in there is the model's business."""
        return self._bytes[STATISTICS:COUNTERS_SIZE]

    def deferred(self, index: int) -> Deferred:
        """The table of ring `index`."""
        if index >= DEFERRING_RINGS:
            return Deferred(limit=0)
        start = TABLES + TABLE_SIZE * index
        return Deferred(self._bytes[start : start + TABLE_SIZE].cast("H"))

    def add(self, requests: int, wakeups: int) -> None:
        self._words[0] += requests
        self._words[1] += wakeups


class Ring:
    """One ring as the supervisor described it, and its queue while it is active."""

    def __init__(self, description: dict[str, Any], kick: int, call: int) -> None:
        self.description = description
        self.kick = kick
        self.call = call
        self.enabled: bool = description["enabled"]
        self.queue: Virtqueue | None = None
        self.counted = 0
        self.resumed = False


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
        self.memory: GuestMemory | None = None
        self.rings: dict[int, Ring] = {}
        self.statistics = counters.statistics
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._alarms: list[tuple[float, int, Callable[[], None]]] = []  # a heap; the number keeps their order
        self._alarms_set = 0
        self.running = True
        self.watch(self.control.fileno(), self._obey)

    # --- what the device may use

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        self._callbacks[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        del self._callbacks[fd]
        self._epoll.unregister(fd)

    def alarm(self, seconds: float, callback: Callable[[], None]) -> None:
        self._alarms_set += 1
        heapq.heappush(self._alarms, (monotonic() + seconds, self._alarms_set, callback))

    def kick(self, queue: Virtqueue) -> None:
        for ring in self.rings.values():
            if ring.queue is queue:
                self._process(ring)
                return

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
        return self._epoll.fileno()

    @property
    def timeout(self) -> float:
        """Seconds after which `turn` is due, whatever happens; -1 for ever."""
        for ring in self.rings.values():
            if ring.queue and ring.queue.more:
                return 0.0
        return max(0.0, self._alarms[0][0] - monotonic()) if self._alarms else -1.0

    def turn(self, timeout: float) -> None:
        """Waits `timeout` seconds for something to do, and does it."""
        callbacks, alarms = self._callbacks, self._alarms
        unfinished = [ring for ring in self.rings.values() if ring.queue and ring.queue.more]
        events = self._epoll.poll(timeout)
        self.counters.busy = 1
        for fd, _events in events:
            callback = callbacks.get(fd)
            if callback is not None:
                callback()
        while alarms and alarms[0][0] <= monotonic():
            heapq.heappop(alarms)[2]()
        for ring in unfinished:
            self._process(ring)
        self._count(1)
        self.counters.busy = 0

    def end(self) -> None:
        """The device ends in good order."""
        self.device.close()
        if self._questions is not None:
            self._questions.close()

    def release(self) -> None:
        """Ends the device, and lets go of rings, memory and descriptors, where no end of a process does."""
        try:
            for index in list(self.rings):
                self._drop(index)
            self.end()
        finally:
            self.memory = None
            self._callbacks.clear()
            self._epoll.close()
            self.control.close()

    def _process(self, ring: Ring) -> None:
        """Lets the device serve the ring. A ring that its driver broke ends here, and nothing else does."""
        queue = ring.queue
        if queue is None:
            return
        try:
            self.device.process(queue)
        except RingError as error:
            self._deactivate(ring)
            ring.enabled = False
            self.tell(op="fault", index=queue.index, message=error.message)

    def _count(self, wakeups: int) -> None:
        requests = 0
        for ring in self.rings.values():
            if ring.queue is not None:
                requests += ring.queue.served - ring.counted
                ring.counted = ring.queue.served
        self.counters.add(requests, wakeups)

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
            "memory": self._memory,
            "start": self._start,
            "enable": self._enable,
            "call": self._call,
            "stop": self._stop,
            "ping": lambda _message, _fds: self.tell(op="pong"),
        }
        operations[message["op"]](message, fds)

    def _memory(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        running = [ring for ring in self.rings.values() if ring.queue is not None]
        for ring in running:
            self._deactivate(ring)
        regions = [vhost_user_mem_region(*region) for region in message["regions"]]
        self.memory = GuestMemory(regions, fds) if regions else None
        for fd in fds:
            os.close(fd)
        for ring in running:
            self._activate(ring)

    def _start(self, message: dict[str, Any], fds: list[int]) -> None:
        running = self._drop(message["index"])
        if running is not None:
            message["base"] = running.description["base"]  # it goes on where it is
        ring = Ring(message, fds[0], fds[1] if len(fds) > 1 else -1)
        self.rings[message["index"]] = ring
        self._callbacks[ring.kick] = partial(self._process, ring)
        # Edge-triggered, so that a kick need not be read: one system call less a wake-up.
        self._epoll.register(ring.kick, select.EPOLLIN | select.EPOLLET)
        if ring.enabled:
            self._activate(ring)

    def _enable(self, message: dict[str, Any], _fds: list[int]) -> None:
        ring = self.rings.get(message["index"])
        if ring is None:
            return
        ring.enabled = message["on"]
        if ring.enabled and ring.queue is None:
            self._activate(ring)
        elif not ring.enabled:
            self._deactivate(ring)

    def _call(self, message: dict[str, Any], fds: list[int]) -> None:
        ring = self.rings.get(message["index"])
        if ring is None:
            for fd in fds:
                os.close(fd)
            return
        if ring.call >= 0:
            os.close(ring.call)
        ring.call = fds[0] if fds else -1
        if ring.queue is not None:
            ring.queue.call = ring.call
            # What was signalled to the old eventfd in the meantime must not be lost.
            ring.queue.interrupt()

    def _stop(self, message: dict[str, Any], _fds: list[int]) -> None:
        self._drop(message["index"])
        self.tell(op="stopped", id=message["id"])

    def _drop(self, index: int) -> Ring | None:
        ring = self.rings.pop(index, None)
        if ring is not None:
            self._deactivate(ring)
            self.unwatch(ring.kick)
            os.close(ring.kick)
            if ring.call >= 0:
                os.close(ring.call)
        return ring

    def _activate(self, ring: Ring) -> None:
        said = ring.description
        assert self.memory is not None, "the supervisor sends memory before rings"
        try:
            queue = Virtqueue(
                said["index"],
                said["size"],
                self.memory,
                said["desc"],
                said["avail"],
                said["used"],
                base=said["base"],
                call=ring.call,
                event_idx=said["event_idx"],
                deferred=self.counters.deferred(said["index"]),
            )
        except RingError as error:
            self.tell(op="fault", index=said["index"], message=error.message)
            return
        ring.queue, ring.counted = queue, 0
        self.device.queue_started(queue)
        self._process(ring)
        if self.respawned or ring.resumed:
            queue.interrupt()  # nobody knows what the driver was told last

    def _deactivate(self, ring: Ring) -> None:
        if ring.queue is None:
            return
        self._count(0)
        queue, ring.queue, ring.resumed = ring.queue, None, True
        self.device.queue_stopped(queue)
        ring.description["base"] = queue.base


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
