"""The rings that a worker serves, as its supervisor has described them.

A ring is *active* while it is started and enabled. An active ring has a `Virtqueue`, made anew at each activation
from `used.idx` and the table of deferred chains: whatever else was taken and not given back is then available again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from subos_protocol.vhost_user import vhost_user_mem_region

from .counters import Counters
from .device import Device
from .errors import RingError
from .memory import GuestMemory
from .ring import Virtqueue
from .worker_loop import Loop


class Tell(Protocol):
    """Says one thing to the supervisor."""

    def __call__(self, **message: object) -> None: ...


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


class Rings:
    """Lets `device` serve them as `loop` says that they are kicked. The methods that take a `message` do what the
    supervisor orders by it; the descriptors beside it become the rings'."""

    def __init__(self, device: Device, counters: Counters, loop: Loop, tell: Tell, *, respawned: bool) -> None:
        self._device = device
        self._counters = counters
        self._loop = loop
        self._tell = tell
        self._respawned = respawned
        self._memory: GuestMemory | None = None
        self._rings: dict[int, Ring] = {}

    # --- serving

    @property
    def unfinished(self) -> list[Ring]:
        """Those in which more waits than was served at once."""
        return [ring for ring in self._rings.values() if ring.queue and ring.queue.more]

    def kick(self, queue: Virtqueue) -> None:
        """Serves it at once."""
        for ring in self._rings.values():
            if ring.queue is queue:
                self.process(ring)
                return

    def process(self, ring: Ring) -> None:
        """Lets the device serve the ring. A ring that its driver broke ends here, and nothing else does."""
        queue = ring.queue
        if queue is None:
            return
        try:
            self._device.process(queue)
        except RingError as error:
            self._deactivate(ring)
            ring.enabled = False
            self._tell(op="fault", index=queue.index, message=error.message)

    def count(self, wakeups: int) -> None:
        """What was served since the last time, and so many wake-ups."""
        requests = 0
        for ring in self._rings.values():
            if ring.queue is not None:
                requests += ring.queue.served - ring.counted
                ring.counted = ring.queue.served
        self._counters.add(requests, wakeups)

    def close(self) -> None:
        """Lets go of all, and of memory."""
        try:
            for index in list(self._rings):
                self.drop(index)
        finally:
            self._memory = None
            self._tell = _to_nobody  # it leads to the worker, which leads to us: nothing waits for a collector

    # --- what the supervisor orders

    def set_memory(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        running = [ring for ring in self._rings.values() if ring.queue is not None]
        for ring in running:
            self._deactivate(ring)
        regions = [vhost_user_mem_region(*region) for region in message["regions"]]
        self._memory = GuestMemory(regions, fds) if regions else None
        for fd in fds:
            os.close(fd)
        if self._memory is None:
            self._device.front_end_gone()
        for ring in running:
            self._activate(ring)

    def start(self, message: dict[str, Any], fds: list[int]) -> None:
        running = self.drop(message["index"])
        if running is not None:
            message["base"] = running.description["base"]  # it goes on where it is
        ring = Ring(message, fds[0], fds[1] if len(fds) > 1 else -1)
        self._rings[message["index"]] = ring
        # Edge-triggered, so that a kick need not be read: one system call less a wake-up.
        self._loop.watch(ring.kick, partial(self.process, ring), edge=True)
        if ring.enabled:
            self._activate(ring)

    def enable(self, message: dict[str, Any], _fds: list[int]) -> None:
        ring = self._rings.get(message["index"])
        if ring is None:
            return
        ring.enabled = message["on"]
        if ring.enabled and ring.queue is None:
            self._activate(ring)
        elif not ring.enabled:
            self._deactivate(ring)

    def call(self, message: dict[str, Any], fds: list[int]) -> None:
        ring = self._rings.get(message["index"])
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

    def drop(self, index: int) -> Ring | None:
        ring = self._rings.pop(index, None)
        if ring is not None:
            self._deactivate(ring)
            self._loop.unwatch(ring.kick)
            os.close(ring.kick)
            if ring.call >= 0:
                os.close(ring.call)
        return ring

    def _activate(self, ring: Ring) -> None:
        said = ring.description
        assert self._memory is not None, "the supervisor sends memory before rings"
        try:
            queue = Virtqueue(
                said["index"],
                said["size"],
                self._memory,
                said["desc"],
                said["avail"],
                said["used"],
                base=said["base"],
                call=ring.call,
                event_idx=said["event_idx"],
                deferred=self._counters.deferred(said["index"]),
            )
        except RingError as error:
            self._tell(op="fault", index=said["index"], message=error.message)
            return
        ring.queue, ring.counted = queue, 0
        self._device.queue_started(queue)
        self.process(ring)
        if self._respawned or ring.resumed:
            queue.interrupt()  # nobody knows what the driver was told last

    def _deactivate(self, ring: Ring) -> None:
        if ring.queue is None:
            return
        self.count(0)
        queue, ring.queue, ring.resumed = ring.queue, None, True
        self._device.queue_stopped(queue)
        ring.description["base"] = queue.base


def _to_nobody(**_message: object) -> None:
    """The supervisor has gone."""
