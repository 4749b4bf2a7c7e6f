"""A keeper: the process that makes a device's workers, one after the other, and shares its descriptors with each.

The zygote forks it in a worker's place where the device's class says `keeps`. It closes the jail, and makes each worker
with one descriptor table for both (CLONE_FILES): what a worker has opened stays open when it dies, under the same
number, and so does the memory that `Device.keep` made before. The next worker goes on with both.

A worker may be in a guest's hands, and can put any descriptor of its own in the place of the socket by which the
supervisor commands. So there is little that can be asked for, and nothing is parsed:

    birth, rebirth    a worker is wanted, the first one or another; beside it its control socket, and the one for its
                      questions, if it has some
    kill              the worker is to end

Anything else ends the keeper, and a second worker beside the first does, too. It says {"op": "failed", "message",
"hint"} where there can be no worker, and {"op": "exited", "status": n} when one has ended. Then it closes that one's
control socket, by whose end the supervisor knows. A worker that ends in good order takes its keeper along: the next
jail is around the folder that is there then.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
from collections.abc import Mapping, Sequence

from .. import registry
from ..errors import SubosError
from ..processes import die_with_parent, set_name
from ..vhost_user import worker
from ..vhost_user.connection import receive_fds
from ..vhost_user.counters import Counters
from ..vhost_user.device import Device, DeviceSpec
from .births import jailed
from .parenting import attend, forget_children, heed_children, keep_only, live_and_end
from .sandbox.jail import Cell, narrow
from .sandbox.namespaces import fork_with
from .sandbox.privileges import die_with
from .sandbox.seccomp import CLONE_FILES

NAME = "subos-keeper"
BIRTH, REBIRTH, KILL = b"birth", b"rebirth", b"kill"
MAX_COMMAND = 16  # bytes
MAX_FDS = 2  # beside a command
PATIENCE = 1.0  # seconds that a worker has to end once nobody wants it


def keep(spec: DeviceSpec, fds: Sequence[int], cell: Cell | None, zygote: int) -> None:
    """The life of the new process. `fds` are the socket, the counters and the spec's own; `zygote` is the parent's
    pidfd."""
    die_with(zygote)
    set_name(NAME)
    keep_only({zygote, *fds})
    control = socket.socket(fileno=fds[0])
    try:
        keeper = Keeper(spec, control, fds[1], cell, zygote)
    except (SubosError, OSError) as error:
        control.send(worker.failed(error if isinstance(error, SubosError) else SubosError(str(error))))
    else:
        keeper.live()


class Keeper:
    """Closes the jail, and makes what outlives the workers. Raises OSError, SubosError."""

    def __init__(self, spec: DeviceSpec, control: socket.socket, counters: int, cell: Cell | None, zygote: int) -> None:
        self._wake, wake_write = heed_children()
        self._kind = registry.load(spec.kind)
        self._kind.prepare(spec)
        self._cell = cell
        self._spec, self._sandbox = jailed(spec, cell, zygote)
        self._kept = self._kind.keep(self._spec)
        self._control = control
        self._counters = counters
        self._own = {control.fileno(), counters, self._wake, wake_write, *spec.fds.values()}
        self._pid = os.getpid()
        self._worker, self._workers_control = 0, -1
        self._held: object = None
        gc.freeze()  # what all workers have in common

    def live(self) -> None:
        """Makes workers until nobody wants any more."""
        attend(self._control, self._wake, self._obey, self._reap)
        if self._worker:
            waiting = select.poll()
            waiting.register(self._wake, select.POLLIN)
            waiting.poll(PATIENCE * 1000)

    def _obey(self) -> bool:
        command, ancillary, _flags, _peer = self._control.recvmsg(
            MAX_COMMAND, socket.CMSG_SPACE(4 * MAX_FDS), socket.MSG_CMSG_CLOEXEC
        )
        fds = receive_fds(ancillary)
        if command == KILL:
            return self._end()
        if command in (BIRTH, REBIRTH) and fds and not self._worker:
            self._bear(fds, respawned=command == REBIRTH)
            return True
        return False

    def _bear(self, fds: list[int], *, respawned: bool) -> None:
        try:
            pid = fork_with(CLONE_FILES)
        except OSError:  # out of processes or memory: its socket closes, and the supervisor tries again later
            for fd in fds:
                os.close(fd)
            return
        if pid == 0:
            live_and_end(lambda: self._work(fds, respawned))
        self._worker, self._workers_control = pid, fds[0]

    def _end(self) -> bool:
        if not self._worker:
            return True
        os.kill(self._worker, signal.SIGKILL)  # not reaped yet, so the number is still its own
        return self._ended(os.waitpid(self._worker, 0)[1])

    def _reap(self) -> bool:
        if not self._worker:
            return True
        pid, status = os.waitpid(self._worker, os.WNOHANG)
        return self._ended(status) if pid else True

    def _ended(self, status: int) -> bool:
        """False for one that has ended in good order: its socket closes together with all others."""
        self._worker, code = 0, os.waitstatus_to_exitcode(status)
        with contextlib.suppress(OSError):
            self._control.send(json.dumps({"op": "exited", "status": code}).encode(), socket.MSG_DONTWAIT)
        if code == 0:
            return False
        with contextlib.suppress(OSError):
            os.close(self._workers_control)
        return True

    def _work(self, fds: list[int], respawned: bool) -> None:
        """The life of the new process."""
        forget_children()
        die_with_parent(self._pid)
        set_name(f"subos-{self._spec.kind}")
        if self._cell is not None:
            narrow(self._cell, self._sandbox)
        keep_only({*self._own, *fds, *self._kind.kept_descriptors(self._kept)})
        spec = self._spec
        if len(fds) > 1:
            spec = spec._replace(fds={**spec.fds, worker.QUESTIONS: fds[1]})

        def build() -> tuple[Device, Mapping[str, object]]:
            return registry.build(spec), self._sandbox.describe()

        # Held until the process has ended: freed before, they would close what the keeper still has.
        self._held = control, counters = socket.socket(fileno=fds[0]), Counters(self._counters)
        worker.main(build, control, counters, respawned, self._kept)
