"""The zygote's own program: see zygote.py. It imports as little as it can, since every worker is a copy of it.

Above all no `logging` (with `threading`) and no `dataclasses` (with `inspect`): between them they cost each worker
half a megabyte of its own, for what they do after a fork, and two megabytes of shared memory.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import time
from typing import Any

from .. import registry
from ..processes import die_with_parent, memory_file, set_name, take_short_turns
from ..vhost_user.connection import receive_fds
from ..vhost_user.device import DeviceSpec
from . import births
from .births import Newborn
from .keeper_process import keep
from .parenting import attend, forget_children, heed_children, keep_only, live_and_end, shed
from .sandbox.jail import Cell, born
from .sandbox.policies import Choice, joint_policy
from .sandbox.privileges import die_with

MAX_PACKET = 65536
MAX_FDS = 253  # SCM_MAX_FD
PATIENCE = 2.0  # seconds that workers have to end which nobody wants any more


def live() -> None:
    """The zygote's life: fork what is asked for, reap what has ended, end when the supervisor does.

    Its arguments are the number of its socket, its parent's pid, and the kinds of devices to load at once.
    """
    control, parent, kinds = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), sys.argv[3:]
    die_with_parent(parent)
    set_name("subos-zygote")
    take_short_turns()
    shed(control)
    for kind in kinds:
        _preload(kind)
    wake, _ = heed_children()
    workers: set[int] = set()
    myself = os.pidfd_open(os.getpid())
    attend(control, wake, lambda: _obey(control, workers, myself), lambda: _reap(control, workers))


def _preload(kind: str) -> None:
    """Loads a kind of ours before the fork, so that its workers share it. Somebody else's is loaded by its worker:
    what it does then is its own affair."""
    if kind in registry.KINDS:
        with contextlib.suppress(Exception):  # whoever asks for such a kind hears why it cannot be loaded
            registry.load(kind)
        gc.collect()
        gc.freeze()


def _reap(control: socket.socket, workers: set[int]) -> bool:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            return True
        workers.discard(pid)
        with contextlib.suppress(OSError):
            control.send(json.dumps({"exited": pid, "status": os.waitstatus_to_exitcode(status)}).encode())


def _obey(control: socket.socket, workers: set[int], myself: int) -> bool:
    """Does what the supervisor asks next. False once it is gone. `myself` is this process's pidfd."""
    try:
        data, ancillary, _flags, _peer = control.recvmsg(
            MAX_PACKET, socket.CMSG_SPACE(4 * MAX_FDS), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionError:
        return False
    if not data:
        return False
    message = json.loads(data)
    fds = receive_fds(ancillary)
    if "kill" in message:
        if message["kill"] in workers:  # not reaped yet, so the number is still its own
            os.kill(message["kill"], signal.SIGKILL)
        return True
    if "keep" in message:
        _keep(workers, set(message["keep"]))
        control.send(json.dumps({"kept": sorted(workers)}).encode())
        return True
    newborns, choice, command = _newborns(message, fds), Choice(*message["sandbox"]), tuple(message["command"])
    specs = [newborn.spec for newborn in newborns]
    for spec in specs:
        _preload(spec.kind)
    pid: int | None
    cell: Cell | None = None
    try:
        pid, cell = born(specs[0], choice, joint_policy(specs, choice), keeper=message["keeper"])
    except OSError:
        pid = None  # out of processes or memory: the worker's socket closes, and the supervisor tries again later
    if pid == 0:
        if message["keeper"]:
            live_and_end(lambda: keep(specs[0], fds, cell, myself))
        live_and_end(lambda: _run_worker(newborns, message["group"], command, cell, myself))
    if pid is not None:
        workers.add(pid)
    for fd in fds:
        os.close(fd)
    with contextlib.suppress(OSError):  # a supervisor that has gone meanwhile: the next look at the socket says so
        _tell_pid(control, pid or 0)
    return True


def _keep(workers: set[int], wanted: set[int]) -> None:
    """Ends all other workers. One that SIGKILL does not end in time waits in the kernel, and stays among them."""
    for pid in workers - wanted:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    for pid in workers - wanted:
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)
        else:
            workers.discard(pid)


def _tell_pid(control: socket.socket, pid: int) -> None:
    """And its `memory_file`: soon nobody but root may look into it."""
    memory = []
    with contextlib.suppress(OSError):
        memory = [memory_file(pid)] if pid else []
    socket.send_fds(control, [json.dumps({"pid": pid}).encode()], memory)
    for fd in memory:
        os.close(fd)


def _newborns(message: dict[str, Any], fds: list[int]) -> list[Newborn]:
    """The devices of the worker that is wanted."""
    found, rest = [], iter(fds)
    for said, respawned in message["devices"]:
        control, counters = next(rest), next(rest)
        named = dict(zip(said["fds"], rest, strict=False))
        spec = DeviceSpec(said["kind"], said["name"], said["options"], named)
        found.append(Newborn(spec, control, counters, respawned))
    return found


def _run_worker(newborns: list[Newborn], group: str, command: tuple[str, ...], cell: Cell | None, zygote: int) -> None:
    """The life of the new process. `zygote` is the parent's pidfd."""
    die_with(zygote)
    set_name(f"subos-{group or newborns[0].spec.kind}")
    forget_children()
    keep_only({zygote, *(fd for newborn in newborns for fd in newborn.fds)})
    if command:
        births.execute(newborns[0], command, cell, zygote)
    elif group:
        births.run_group(newborns, cell, zygote)
    else:
        births.run_alone(newborns[0], cell, zygote)
