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
from collections.abc import Mapping
from functools import partial
from typing import Any

from .. import registry
from ..processes import die_with_parent, set_name
from ..vhost_user import worker
from ..vhost_user.connection import receive_fds
from ..vhost_user.device import Device, DeviceSpec
from .keeper_process import keep
from .parenting import attend, forget_children, heed_children, keep_only, live_and_end
from .sandbox.jail import OFF, Cell, born, close_jail
from .sandbox.policies import Choice
from .sandbox.privileges import die_with

MAX_PACKET = 65536
MAX_FDS = 64


def live() -> None:
    """The zygote's life: fork what is asked for, reap what has ended, end when the supervisor does.

    Its arguments are the number of its socket, its parent's pid, and the kinds of devices to load at once.
    """
    control, parent, kinds = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), sys.argv[3:]
    die_with_parent(parent)
    set_name("subos-zygote")
    _shed(control)
    for kind in kinds:
        _preload(kind)
    wake, _ = heed_children()
    workers: set[int] = set()
    myself = os.pidfd_open(os.getpid())
    attend(control, wake, lambda: _obey(control, workers, myself), lambda: _reap(control, workers))


def _shed(control: socket.socket) -> None:
    """What came from the launcher and is not ours: descriptors, terminal, ways to take signals."""
    keep_only({control.fileno()})
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)  # nothing that a worker prints may land in the launcher's output
    os.close(null)
    sys.stdout = sys.stderr
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to handle
    for number in (signal.SIGTERM, signal.SIGWINCH, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


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
    _preload(message["spec"]["kind"])
    spec, choice = _spec(message, fds), Choice(*message["sandbox"])
    pid: int | None
    cell: Cell | None = None
    try:
        pid, cell = born(spec, choice, keeper=message["keeper"])
    except OSError:
        pid = None  # out of processes or memory: the worker's socket closes, and the supervisor tries again later
    if pid == 0:
        live = keep if message["keeper"] else partial(_run_worker, message["respawned"])
        live_and_end(lambda: live(spec, fds, cell, myself))
    if pid is not None:
        workers.add(pid)
    for fd in fds:
        os.close(fd)
    with contextlib.suppress(OSError):  # a supervisor that has gone meanwhile: the next look at the socket says so
        control.send(json.dumps({"pid": pid or 0}).encode())
    return True


def _spec(message: dict[str, Any], fds: list[int]) -> DeviceSpec:
    said = message["spec"]
    named = dict(zip(said["fds"], fds[2:], strict=True))
    return DeviceSpec(said["kind"], said["name"], said["options"], named)


def _run_worker(respawned: bool, spec: DeviceSpec, fds: list[int], cell: Cell | None, zygote: int) -> None:
    """The life of the new process. `zygote` is the parent's pidfd."""
    die_with(zygote)
    set_name(f"subos-{spec.kind}")
    forget_children()
    keep_only({zygote, *fds})
    control = socket.socket(fileno=fds[0])
    counters = worker.Counters(fds[1])

    def build() -> tuple[Device, Mapping[str, object]]:
        registry.load(spec.kind).prepare(spec)  # what is to be loaded is loaded while there are files
        if cell is None:
            os.close(zygote)
            return registry.build(spec), OFF.describe()
        inside, sandbox = close_jail(spec, cell, zygote)
        return registry.build(inside), sandbox.describe()

    worker.main(build, control, counters, respawned)
