"""What a holder has of one device that its supervisor serves, and that a successor is handed."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

from .. import registry
from ..vhost_user.counters import Counters
from ..vhost_user.device import Device, DeviceSpec
from .entrance import Corridor
from .ledger import Held, Record
from .packets import Message


class Mirror:
    """`spec`'s descriptors and `listener` are its own, and so is what is noted. Made where the event loop runs."""

    def __init__(self, spec: DeviceSpec, listener: socket.socket) -> None:
        self.spec = spec
        self._corridor = Corridor(listener)
        self.served = False
        """It has been served, so that a successor goes on with it."""
        self._record: Record | None = None
        self._is_lost = False
        self._fds: dict[str, int] = {}
        self._counters: Counters | None = None
        self._device: Device | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a front end."""
        return self._record is not None and bool(self._record["connected"])

    @property
    def restarts(self) -> int:
        """How many workers have died."""
        return int(self._record["restarts"]) if self._record is not None else 0

    @property
    def pid(self) -> int:
        """The worker's; 0 where there is none that is ready."""
        return int(self._record["pid"]) if self._record is not None else 0

    @property
    def counters(self) -> Counters:
        """What the device has counted. Whoever keeps it looks at a device that may be gone: ask again."""
        if self._counters is None:
            fd = os.dup(self._fds["counters"]) if "counters" in self._fds else Counters.create()
            try:
                self._counters = Counters(fd)
            finally:
                os.close(fd)
        return self._counters

    def describe(self) -> dict[str, Any]:
        """The model's own part of its status, as `Device.describe` has it."""
        if self._device is None:
            self._device = registry.build(self.spec)
        return self._device.describe(self.counters.statistics)

    @property
    def held(self) -> Held | None:
        """What a successor needs to go on with it; None where it must begin anew."""
        return Held(self._record, self._fds) if self.served and self._record is not None else None

    def plain(self) -> list[Any]:
        """The spec as JSON can have it; `own_fds` go with it."""
        return [self.spec.kind, self.spec.name, dict(self.spec.options), list(self.spec.fds)]

    def own_fds(self) -> list[int]:
        return [self._corridor.outlet.fileno(), *self.spec.fds.values()]

    def lose(self) -> None:
        """Not all of it could be held: what the supervisor that serves it says of it is no good any more. The next one
        begins anew."""
        self.forget()
        self._is_lost = True

    def note(self, message: Message) -> None:
        """Takes in a record, and the descriptors that are new in it; what is lost stays lost."""
        if self._is_lost:
            return
        names: Sequence[str] = message.body["sent"]
        if len(message.fds) != len(names):
            raise OSError(f"{len(message.fds)} descriptors came of {len(names)}")
        new = dict(zip(names, message.fds, strict=True))
        message.fds.clear()
        gone = [name for name in self._fds if name in new or name not in message.body["held"]]
        for name in gone:
            os.close(self._fds.pop(name))
        self._fds |= new
        if "counters" in (*new, *gone):
            self._counters = None
        self._record = message.body["record"]

    def forget(self) -> None:
        """What was noted: the next one begins anew."""
        self._is_lost = False
        self._record, self._counters = None, None
        while self._fds:
            os.close(self._fds.popitem()[1])

    def close(self) -> None:
        self.served = False
        self.forget()
        self._corridor.close()
        for fd in self.spec.fds.values():
            os.close(fd)
