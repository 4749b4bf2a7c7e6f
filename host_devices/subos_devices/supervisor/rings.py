"""Where each ring of a device stands while no worker says so: in guest memory, and in the table of deferred chains."""

from __future__ import annotations

from collections.abc import Iterator

from ..vhost_user.counters import Counters
from ..vhost_user.errors import TransportError
from ..vhost_user.session import Session, Vring


class Rings:
    """Those of `session`, which is another one for each front end; `counters` outlive worker and front end."""

    def __init__(self, session: Session, counters: Counters) -> None:
        self.session = session
        self.counters = counters

    @property
    def is_owing(self) -> bool:
        """Whether the driver waits for an answer that no chain of `vhost_user.deferred` stands for."""
        standing = self.session.device.standing
        return any(
            (available - used - deferred) & 0xFFFF
            for index, available, used, deferred in self.running()
            if index not in standing
        )

    def running(self) -> Iterator[tuple[int, int, int, int]]:
        """Of each ring that can be served: its index, `avail.idx`, `used.idx`, and how many chains wait."""
        for vring in self.session.vrings:
            if not vring.started or not vring.enabled:
                continue
            try:
                available = self.session.ring_index(vring, "avail")
                used = self.session.ring_index(vring, "used")
            except TransportError:
                continue  # a newer memory table has left it outside
            yield vring.index, available, used, len(self.counters.deferred(vring.index))

    def resume(self, vring: Vring) -> None:
        """A ring that the front end starts at its `base`: goes on with the chains that wait, or is a new one."""
        if self.session.memory is not None:
            self.counters.deferred(vring.index).resume(vring.base, self.session.ring_index(vring, "used"))

    def base(self, vring: Vring) -> int:
        """Where the next worker takes the ring up, once the last one touches it no more: see `vhost_user.deferred`."""
        if self.session.memory is None:
            return vring.base
        deferred, used_index = self.counters.deferred(vring.index), self.session.ring_index(vring, "used")
        deferred.recover(used_index)
        return (used_index + len(deferred)) & 0xFFFF

    def forget(self) -> None:
        """Nothing waits any more: the front end is gone."""
        for vring in self.session.vrings:
            self.counters.deferred(vring.index).clear()
