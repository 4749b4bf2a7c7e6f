"""The first steps of a new worker, in the process that the zygote forked: it closes the jail, and becomes what it is to
be. It imports as little as zygote_process.py, whose part it is."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .. import registry
from ..errors import SubosError
from ..vhost_user import worker
from ..vhost_user.counters import Counters
from ..vhost_user.device import Device, DeviceSpec
from ..vhost_user.together import serve_together
from ..vhost_user.worker import DeviceWorker
from .sandbox.jail import OFF, Cell, Sandbox, close_jail
from .sandbox.program import Program, find

CONTRACT = "1"
"""Of workers that are other programs: see host_devices/README.md."""
FIRST = 3
"""The first descriptor that is handed to one."""


class Newborn(NamedTuple):
    """One device of this process."""

    spec: DeviceSpec
    control: int
    counters: int
    respawned: bool

    @property
    def fds(self) -> tuple[int, ...]:
        return (self.control, self.counters, *self.spec.fds.values())


def run_alone(newborn: Newborn, cell: Cell | None, zygote: int) -> None:
    """Serves one device until the supervisor lets go of it. `zygote` is the parent's pidfd."""
    control, counters = socket.socket(fileno=newborn.control), Counters(newborn.counters)

    def build() -> tuple[Device, Mapping[str, object]]:
        registry.load(newborn.spec.kind).prepare(newborn.spec)  # what is to be loaded is loaded while there are files
        inside, sandbox = jailed(newborn.spec, cell, zygote)
        return registry.build(inside), sandbox.describe()

    worker.main(build, control, counters, newborn.respawned)


def run_group(newborns: Sequence[Newborn], cell: Cell | None, zygote: int) -> None:
    """Serves several, likewise."""
    controls = [socket.socket(fileno=newborn.control) for newborn in newborns]
    try:
        for newborn in newborns:
            registry.load(newborn.spec.kind).prepare(newborn.spec)
        _, sandbox = jailed(newborns[0].spec, cell, zygote)
        workers = []
        for newborn, control in zip(newborns, controls, strict=True):
            device, counters = registry.build(newborn.spec), Counters(newborn.counters)
            workers.append(DeviceWorker(device, control, counters, newborn.respawned, sandbox.describe()))
    except SubosError as error:
        for control in controls:
            control.send(worker.failed(error))
        return
    serve_together(workers)


def execute(newborn: Newborn, command: Sequence[str], cell: Cell | None, zygote: int) -> None:
    """Becomes another program, which finds its descriptors from FIRST on."""
    control = socket.socket(fileno=newborn.control)
    try:
        program = find(command)
        file = os.open(program.file, os.O_RDONLY | os.O_CLOEXEC)
        file, zygote = _arrange(newborn.fds, file, zygote)
        control.detach()
        control = socket.socket(fileno=FIRST)
        _, sandbox = jailed(newborn.spec, cell, zygote, program, file)
        control.send(json.dumps({"op": "jailed", "sandbox": sandbox.describe()}).encode())
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
            signal.signal(number, signal.SIG_DFL)
        os.execve(file, program.arguments, _environment(newborn))
    except SubosError as error:
        control.send(worker.failed(error))
    except OSError as error:
        said = f"{newborn.spec.name}: {command[0]} cannot be executed: {error.strerror}"
        hint = "started by root, a worker is nobody: the file, and what it loads, must be nobody's to read and execute"
        control.send(worker.failed(SubosError(said, hint)))


def jailed(
    spec: DeviceSpec, cell: Cell | None, zygote: int, program: Program | None = None, file: int = -1
) -> tuple[DeviceSpec, Sandbox]:
    """`close_jail`, where there is to be one."""
    if cell is None:
        os.close(zygote)
        return spec, OFF
    return close_jail(spec, cell, zygote, program, file)


def _arrange(fds: Sequence[int], file: int, zygote: int) -> tuple[int, int]:
    """Makes `fds` FIRST and so on, for the program; behind them the two others, which it does not get. Their new
    numbers."""
    end = FIRST + len(fds) + 2
    away = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, end) for fd in (*fds, file, zygote)]
    os.closerange(FIRST, end)
    for number, fd in enumerate(away, FIRST):
        os.dup2(fd, number, inheritable=number < FIRST + len(fds))
    os.closerange(end, max(*away, *fds, file, zygote) + 1)
    return end - 2, end - 1


def _environment(newborn: Newborn) -> dict[str, str]:
    spec = newborn.spec
    return {
        "SUBOS_CONTRACT": CONTRACT,
        "SUBOS_KIND": spec.kind,
        "SUBOS_NAME": spec.name,
        "SUBOS_OPTIONS": json.dumps(dict(spec.options)),
        "SUBOS_FDS": ":".join(("control", "counters", *spec.fds)),
        "SUBOS_RESPAWNED": str(int(newborn.respawned)),
    }
