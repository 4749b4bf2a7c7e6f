"""A holder on a thread of this process, whose supervisor is a process that tests may kill."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from subos_devices.runtime import listen
from subos_devices.supervisor.holder import Holder
from subos_devices.supervisor.mirror import Mirror
from subos_devices.supervisor.process_models import Models
from subos_devices.supervisor.reign import Succession
from subos_devices.testing.loop_thread import LoopThread
from subos_devices.testing.serving import kind_of
from subos_devices.vhost_user.device import Device, DeviceSpec

from .waiting import eventually

T = TypeVar("T")


class Held:
    """As `Supervised`, with a supervisor that may die."""

    def __init__(self, folder: Path, holder: Holder) -> None:
        self.folder = folder
        self.holder = holder
        self.disconnections = 0
        self._thread = LoopThread()
        self.loop, self.begin = self._thread.loop, self._thread.begin
        holder.on_disconnect = self._disconnected
        self.do(holder.__aenter__())

    def _disconnected(self) -> None:
        self.disconnections += 1

    def adding(
        self,
        device: str | type[Device],
        name: str = "device0",
        fds: Mapping[str, int] = MappingProxyType({}),
        **options: str | int | bool | None,
    ) -> Coroutine[Any, Any, Mirror]:
        """The device's socket is there at once."""
        spec = DeviceSpec(kind_of(device), name, options, fds)
        return self.holder.add(spec, listen(self.folder / f"{name}.sock"))

    def add(self, device: str | type[Device], name: str = "device0", **options: str | int | bool | None) -> Path:
        self.do(self.adding(device, name, **options))
        return self.folder / f"{name}.sock"

    def remove(self, name: str = "device0") -> None:
        self.do(self.holder.remove(name))

    def lines(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.do(self.holder.status_and_memory())[0]
        return found

    def status(self, name: str = "device0") -> dict[str, Any]:
        return next(line for line in self.lines() if line["name"] == name)

    def mirror(self, name: str = "device0") -> Mirror:
        return self.holder.devices[name]

    @property
    def supervisor(self) -> int:
        """The pid of the one that serves now; waits for one."""
        return eventually(lambda: int(self.holder.status()["pid"] or 0), timeout=30)

    def kill(self) -> int:
        """SIGKILL, and the next one serves: its pid."""
        pid = self.supervisor
        os.kill(pid, signal.SIGKILL)
        return eventually(lambda: int(self.holder.status()["pid"] or 0) not in (0, pid), timeout=30) and self.supervisor

    def restart(self) -> Succession:
        return self.do(self.holder.restart())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._thread.do(work, 60)

    def close(self) -> None:
        try:
            self.do(self.holder.__aexit__())
        finally:
            self._thread.close()


@contextlib.contextmanager
def hold(*, process: Sequence[str] = (), kinds: Sequence[str] = ()) -> Iterator[Held]:
    """with hold() as held, FrontEnd.connect(held.add("rng")) as vm: …"""
    holder = Holder.start(*kinds)
    holder.models = Models(process)
    with tempfile.TemporaryDirectory(prefix="subos-") as folder:
        held = Held(Path(folder), holder)
        try:
            yield held
        finally:
            held.close()
