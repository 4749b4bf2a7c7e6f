"""A share whose worker may die, and which the next one goes on with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from subos_devices.fs.device import FsDevice
from subos_devices.fs.lasting import Lasting
from subos_devices.vhost_user.device import DeviceSpec
from support import fuse_requests
from support.fuse_requests import BASE, QUEUE_SIZE, Guest

from .conftest import NoWorker

FEW = 1 << 16  # nodes


def open_fds() -> set[tuple[int, int, int]]:
    """The descriptors that are open, but for the one that looks, each with what it leads to (st_dev, st_ino): a number
    that is free later may be another one's then."""
    found = set()
    for fd in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):
            status = os.fstat(fd)
            found.add((fd, status.st_dev, status.st_ino))
    return found


class Killed(BaseException):
    """The worker's end: none of our code catches it, or is to run after it."""


class Mortal:
    """One guest of a share; `die` replaces its worker."""

    def __init__(self, root: Path, kept: Lasting, **options: str | bool) -> None:
        self.spec = DeviceSpec("fs", "share", {"shared_dir": str(root), **options})
        self.kept = kept
        self.guest = Guest()
        self.before = open_fds()
        self._start(respawned=False)
        self.guest.init()

    def _start(self, *, respawned: bool) -> None:
        self.device = FsDevice(self.spec)
        self.worker = self.guest.worker = NoWorker(self.kept, respawned=respawned)
        self.worker.device = self.device
        self.device.start(self.worker)
        self.device.queue_started(self.guest.queue)
        self.guest.drain = self.device.process

    def die(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Nobody calls the device any more. What it has open is closed by the next worker, but for what is on record.
        What it had taken from the ring and not given back is served again."""
        meanwhile()
        kept = set(FsDevice.kept_descriptors(self.kept))
        for fd, *_ in open_fds() - self.before:
            if fd not in kept:
                os.close(fd)
        guest = self.guest
        places = (BASE + place for place in (guest.desc, guest.avail, guest.used))
        used = int.from_bytes(guest.bytes[guest.used + 2 : guest.used + 4], "little")
        guest.queue = fuse_requests.Virtqueue(1, QUEUE_SIZE, guest.memory, *places, base=used, call=guest.call)
        self._start(respawned=True)
        self.device.process(guest.queue)

    @property
    def share(self) -> Any:
        return self.device.server.share

    def close(self) -> None:
        self.device.queue_stopped(self.guest.queue)
        self.device.close()
        self.guest.close()


@contextmanager
def mortal(root: Path, kept: Lasting | None = None, **options: str | bool) -> Iterator[Mortal]:
    running = Mortal(root, kept or Lasting(FEW), **options)
    try:
        yield running
    finally:
        running.close()
        left = open_fds() - running.before
        assert not left, f"left open: {[os.readlink(f'/proc/self/fd/{fd}') for fd, *_ in left]}"


class Trapped(Lasting):
    """Memory whose worker is killed by a store: the one after the next `left`; those after it are not made either."""

    left: int | None = None

    def column(self, name: str) -> memoryview:
        column: Any = Trap(self, super().column(name))
        return column  # type: ignore[no-any-return]

    def clear(self, *names: str) -> None:
        self.store()
        super().clear(*names)

    def store(self) -> None:
        if self.left is not None:
            if self.left <= 0:
                raise Killed
            self.left -= 1


class Trap:
    """A column of it, for plain Python."""

    def __init__(self, memory: Trapped, column: memoryview) -> None:
        self._memory, self._column = memory, column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, at: Any) -> Any:
        return Trap(self._memory, self._column[at]) if isinstance(at, slice) else self._column[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        self._memory.store()
        self._column[at] = value

    def __iter__(self) -> Iterator[int]:
        return iter(self._column)

    def __bytes__(self) -> bytes:
        return bytes(self._column)

    def cast(self, code: Any) -> Trap:
        return Trap(self._memory, self._column.cast(code))

    def tolist(self) -> list[int]:
        return self._column.tolist()
