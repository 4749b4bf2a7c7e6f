"""The zygote: a warm, single-threaded interpreter from which workers are forked in milliseconds.

It is itself forked from the launcher before the launcher loads anything heavy, so a worker shares nearly all of its
memory with its siblings. It hears, over a SOCK_SEQPACKET socket, one JSON object a packet:

    {"spec": …, "respawned": bool}   a worker is wanted; descriptors: its control socket, its counters, the spec's own
    {"kill": pid}                    a worker is to end

and says {"pid": n} for each worker wanted, in order, and {"exited": pid, "status": n} when one has ended. Everybody
dies with their parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from .. import registry
from ..vhost_user import worker
from ..vhost_user.connection import receive_fds
from ..vhost_user.device import DeviceSpec

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_NAME = 15
PATIENCE = 1.0  # seconds that a zygote has to end once nobody wants it
MAX_PACKET = 65536
MAX_FDS = 64

log = logging.getLogger("subos")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Zygote:
    """The supervisor's end. `start` must be called in a process with one thread."""

    pid: int
    channel: socket.socket
    _unborn: list[Callable[[int], None]] = field(default_factory=list)

    @classmethod
    def start(cls) -> Zygote:
        """Forks the zygote."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _live(theirs, parent)
        theirs.close()
        ours.setblocking(False)
        return cls(pid, ours)

    def spawn(
        self,
        spec: DeviceSpec,
        control: socket.socket,
        counters: int,
        *,
        respawned: bool,
        on_pid: Callable[[int], None],
    ) -> None:
        """Asks for a worker; `hear` calls `on_pid` a little later. Raises OSError when the zygote is gone."""
        fields = asdict(spec)
        fields["fds"] = list(spec.fds)
        data = json.dumps({"spec": fields, "respawned": respawned}).encode()
        socket.send_fds(self.channel, [data], [control.fileno(), counters, *spec.fds.values()])
        self._unborn.append(on_pid)

    def kill(self, pid: int) -> None:
        """Kills a worker, if it still lives. Only its parent can tell that the pid is still the worker's."""
        with contextlib.suppress(OSError):
            self.channel.send(json.dumps({"kill": pid}).encode())

    def hear(self) -> bool:
        """Takes in what the zygote has said, without waiting. False once it is gone."""
        while True:
            try:
                data = self.channel.recv(MAX_PACKET)
            except BlockingIOError:
                return True
            except ConnectionError:
                data = b""
            if not data:
                return False
            message = json.loads(data)
            if "pid" in message:
                self._unborn.pop(0)(message["pid"])
            else:
                log.debug("worker %s ended with status %s", message["exited"], message["status"])

    def restart(self) -> None:
        """Another zygote in the place of one that has died. A new interpreter: the launcher has threads by now, and
        must not fork without exec."""
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            theirs.set_inheritable(True)
            command = [sys.executable, "-m", __name__, str(theirs.fileno()), str(os.getpid())]
            variables = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self.pid = os.posix_spawn(sys.executable, command, variables)
        ours.setblocking(False)
        self.channel = ours
        self._unborn.clear()

    def close(self) -> None:
        """Ends the zygote, and with it every worker. One that does not end by itself within PATIENCE is killed."""
        self.channel.close()
        deadline = time.monotonic() + PATIENCE
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > deadline:
                    os.kill(self.pid, signal.SIGKILL)
                    os.waitpid(self.pid, 0)
                    return
                time.sleep(0.001)


def die_with_parent(parent: int) -> None:
    """The kernel kills this process when its parent ends, however it ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it ended before we asked


def _become(keep: socket.socket, parent: int, name: str, *also: int) -> None:
    """What a new process sheds: its parent's descriptors, signal handlers and terminal."""
    die_with_parent(parent)
    _libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    # The parent's streams and log handlers may write to numbers that are closed now and guest memory's later
    # (pytest's do).
    sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")  # noqa: SIM115
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("subos: %(message)s"))
    logging.getLogger().handlers[:] = [handler]
    kept = sorted({0, 1, 2, keep.fileno(), *also})
    for low, high in zip(kept, [*kept[1:], 1 << 20], strict=True):
        if low + 1 < high:
            os.closerange(low + 1, high)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)  # nothing that a worker prints may land in the launcher's output
    os.close(null)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to handle
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGWINCH, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _live(control: socket.socket, parent: int) -> None:
    """In the new process: never returns."""
    status = 1
    try:
        # A group of its own: what a signal does to the launcher's whole group is the launcher's to decide.
        os.setpgid(0, 0)
        _become(control, parent, "subos-zygote")
        _serve(control)
        status = 0
    except BaseException:  # what called `start` must never run twice
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _serve(control: socket.socket) -> None:
    """The zygote's life: fork what is asked for, reap what has ended, end when the supervisor does."""
    for kind in registry.KINDS:
        with contextlib.suppress(Exception):  # whoever asks for such a kind hears why it cannot be loaded
            registry.load(kind)
    gc.collect()
    gc.freeze()
    wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake, select.POLLIN)
    workers: set[int] = set()
    while True:
        for fd, _events in poll.poll():
            if fd == wake:
                os.read(wake, 512)
                _reap(control, workers)
            elif not _obey(control, workers):
                return


def _reap(control: socket.socket, workers: set[int]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        workers.discard(pid)
        with contextlib.suppress(OSError):
            control.send(json.dumps({"exited": pid, "status": os.waitstatus_to_exitcode(status)}).encode())


def _obey(control: socket.socket, workers: set[int]) -> bool:
    """Does what the supervisor asks next. False once it is gone."""
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
    zygote = os.getpid()
    pid: int | None
    try:
        pid = os.fork()
    except OSError:
        pid = None  # out of processes or memory: the worker's socket closes, and the supervisor tries again later
    if pid == 0:
        _run_worker(message, fds, zygote)
    if pid is not None:
        workers.add(pid)
    for fd in fds:
        os.close(fd)
    with contextlib.suppress(OSError):  # a supervisor that has gone meanwhile: the next look at the socket says so
        control.send(json.dumps({"pid": pid or 0}).encode())
    return True


def _run_worker(message: dict[str, Any], fds: list[int], zygote: int) -> None:
    """In the new process: never returns."""
    status = 1
    try:
        said = message["spec"]
        control = socket.socket(fileno=fds[0])
        _become(control, zygote, f"subos-{said['kind']}", *fds[1:])
        counters = worker.Counters(fds[1])
        named = dict(zip(said["fds"], fds[2:], strict=True))
        spec = DeviceSpec(said["kind"], said["name"], said["options"], named)
        worker.main(lambda: registry.build(spec), control, counters, message["respawned"])
        status = 0
    except BaseException:  # the zygote's loop must never run twice
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    _live(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
