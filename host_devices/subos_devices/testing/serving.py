"""Devices to test: in a process of their own, as a person serves them, or under a supervisor in this one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..runtime import listen
from ..supervisor.keeper_process import NAME as KEEPER
from ..supervisor.process_models import Models
from ..supervisor.sandbox.policies import AUTO, Choice
from ..supervisor.supervisor import Supervisor
from ..supervisor.zygote import Zygote
from ..vhost_user.device import Device, DeviceSpec
from .errors import TestingError
from .loop_thread import LoopThread

END_TIMEOUT = 10.0  # seconds for a server to end when it was asked to


@dataclass
class Served:
    """A running `subos-devices serve`: `FrontEnd.connect(served.path)`."""

    path: Path
    process: subprocess.Popen[bytes]
    stderr: Path

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self.process.pid

    @property
    def log(self) -> str:
        """What it has said on its standard error."""
        return self.stderr.read_text()

    def zygotes(self) -> list[int]:
        return children(self.pid)

    def workers(self) -> list[int]:
        """Pids of the processes that move data; one, but for the moment in which one has died."""
        return [pid for zygote in self.zygotes() for child in children(zygote) for pid in _workers(child)]

    def worker(self) -> int:
        """The pid of the only worker. Raises TestingError where there is none, or another number."""
        pids = self.workers()
        if len(pids) != 1:
            raise TestingError(f"{len(pids)} workers run: {self.log}")
        return pids[0]


@contextlib.contextmanager
def serve(device: str | type[Device], *arguments: str, persistent: bool = True) -> Iterator[Served]:
    """Runs `subos-devices serve` for `device`: a kind (`"rng"`), `"package.module:Class"`, or the class itself,
    which must be importable by its name. `arguments` are the command's own (`"--shared-dir", "…"`).

    The socket is bound here, so a front end may connect at once. Whatever happens, nothing of it is left afterwards.
    What it says on its standard error is `Served.log`, and is shown here when an exception leaves the block.
    """
    with tempfile.TemporaryDirectory(prefix="subos-") as folder:
        path, stderr = Path(folder, "vhost.sock"), Path(folder, "stderr")
        command = [sys.executable, "-m", "subos_devices.cli", "serve", kind_of(device)]
        with listen(path) as listener, stderr.open("wb") as log:
            process = subprocess.Popen(
                [*command, "--fd", str(listener.fileno()), *(["--persistent"] if persistent else []), *arguments],
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env=importable(),
            )
        try:
            yield Served(path, process, stderr)
        except BaseException:
            end(process)
            sys.stderr.write(stderr.read_text())  # why the device died, if it did
            raise
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> int:
    """Asks a server to end, makes it end; its exit status."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(END_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


class Supervised:
    """A supervisor on a thread of this process, and what it says of itself."""

    def __init__(self, folder: Path, zygote: Zygote, models: Models | None = None) -> None:
        self.folder = folder
        self._models = models
        self._zygote = zygote
        self._thread = LoopThread()
        self._do = self._thread.do
        self._supervisor: Supervisor = self._do(self._enter())

    def add(
        self,
        device: str | type[Device],
        name: str = "device0",
        fds: Mapping[str, int] = MappingProxyType({}),
        **options: str | int | bool | None,
    ) -> Path:
        """Serves one more device, which is given `fds`; the path of its socket. Raises UserError."""
        path = self.folder / f"{name}.sock"
        self._do(self._supervisor.add(DeviceSpec(kind_of(device), name, options, fds), listen(path)))
        return path

    def status(self, name: str = "device0") -> dict[str, Any]:
        """`DeviceServer.status`: pid, restarts, faults, requests, …"""
        status: dict[str, Any] = self._do(self._status(name))
        return status

    def status_and_memory(self) -> tuple[list[dict[str, Any]], dict[str, int | None]]:
        """`Supervisor.status_and_memory`."""
        found: tuple[list[dict[str, Any]], dict[str, int | None]] = self._do(self._supervisor.status_and_memory())
        return found

    def remove(self, name: str) -> None:
        self._do(self._supervisor.remove(name))

    def close(self) -> None:
        try:
            self._do(self._supervisor.__aexit__())
        finally:
            self._thread.close()

    async def _enter(self) -> Supervisor:
        return await Supervisor(self._zygote, self._models).__aenter__()

    async def _status(self, name: str) -> dict[str, Any]:
        return self._supervisor.devices[name].status()


@contextlib.contextmanager
def supervise(
    sandbox: Choice = AUTO, *, process: Sequence[str] = (), kinds: Sequence[str] = ()
) -> Iterator[Supervised]:
    """A supervisor of this process's own, its sockets in a temporary folder, its workers jailed by `sandbox`, and as
    `--process` has it (`["rng=inline"]`). The zygote loads `kinds` at once, as a VM's does.

    with supervise() as supervised, FrontEnd.connect(supervised.add("rng")) as vm:
        ...
        supervised.status()["restarts"]
    """
    zygote = Zygote.start(*kinds)
    zygote.sandbox = sandbox
    with tempfile.TemporaryDirectory(prefix="subos-") as folder:
        supervised = Supervised(Path(folder), zygote, Models(process))
        try:
            yield supervised
        finally:
            supervised.close()


def kind_of(device: str | type[Device]) -> str:
    """What `--kind` or a DeviceSpec calls this device."""
    return device if isinstance(device, str) else f"{device.__module__}:{device.__qualname__}"


def importable() -> dict[str, str]:
    """An environment in which a child can import what this process can."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _workers(pid: int) -> list[int]:
    """A zygote's child is a worker, or the keeper of one."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:  # it has just ended
        return []
    return children(pid) if name == KEEPER else [pid]


def children(pid: int) -> list[int]:
    """Pids of a process's children; of a process that has ended, none."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # "pid (name) state ppid …", where the name may hold anything
                state, parent = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == pid and state != "Z":
                    found.append(int(entry.name))
    return sorted(found)
