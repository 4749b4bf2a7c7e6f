"""The zygote: a warm, single-threaded interpreter from which workers are forked in milliseconds.

It is an interpreter of its own (`zygote_process.py`), small because it loads nothing of the launcher's, and a worker
shares most of its memory with it and with its siblings. It hears, over a SOCK_SEQPACKET socket, one JSON object a
packet:

    {"devices": [[spec, respawned], …], "group": …, "command": […], "keeper": bool, "sandbox": …}
                                     a worker is wanted for these, or a keeper, in a jail of this `Choice`; descriptors:
                                     for each device its control socket, its counters, the spec's own
    {"kill": pid}                    a worker is to end
    {"keep": [pid, …]}               all others are to end: another supervisor has come

and says {"pid": n} for each worker wanted, in order, its `memory_file` beside it, {"exited": pid, "status": n}
when one has ended, and {"kept": [pid, …]} when all others have. Everybody dies with their parent.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..processes import memory_file
from ..vhost_user.connection import receive_with_fds
from ..vhost_user.device import DeviceSpec
from .process_models import Model
from .sandbox.policies import AUTO, Choice
from .starting import start

PROGRAM = f"from {__name__}_process import live; live()"  # -m would load runpy and all that it needs
MAX_PACKET = 65536
PATIENCE = 1.0  # seconds that a zygote has to end once nobody wants it
SUCCESSION = 5.0  # seconds that it has to tell which of its children live

log = logging.getLogger("subos")


OnPid = Callable[[int], None]
OnEnd = Callable[[int], None]


class Wanted(NamedTuple):
    """A worker, or a part of one, that a device wants; and who hears its pid (0: there is none), and its exit status
    (-n: signal n)."""

    spec: DeviceSpec
    control: socket.socket
    counters: int
    respawned: bool = False
    on_pid: OnPid = lambda _pid: None
    on_end: OnEnd = lambda _status: None

    def dup(self) -> Wanted:
        """Another, with descriptors of its own."""
        fds = {name: os.dup(fd) for name, fd in self.spec.fds.items()}
        return self._replace(
            spec=self.spec._replace(fds=fds), control=self.control.dup(), counters=os.dup(self.counters)
        )

    def close(self) -> None:
        """Its descriptors; once."""
        self.control.close()
        for fd in (self.counters, *self.spec.fds.values()):
            os.close(fd)


@dataclass
class Zygote:
    """The supervisor's end."""

    pid: int
    channel: socket.socket
    kinds: tuple[str, ...] = ()
    sandbox: Choice = AUTO
    """How the workers are jailed that are asked for from now on."""
    _unborn: list[Sequence[Wanted]] = field(default_factory=list)
    _told: set[str] = field(default_factory=set)
    _children: dict[int, Sequence[Wanted]] = field(default_factory=dict)
    _memory: dict[int, int] = field(default_factory=dict)
    _kept: set[int] = field(default_factory=set)
    awaits_another: bool = False
    """Somebody else starts the next one where this one dies: what is wanted until then is asked of that one."""
    _put_off: list[tuple[Sequence[Wanted], Model, bool]] = field(default_factory=list)

    @classmethod
    def start(cls, *kinds: str) -> Zygote:
        """Starts the zygote, and has it load these kinds of devices at once; others it loads when one is asked for."""
        return cls(*start(PROGRAM, *kinds), kinds)

    def spawn(self, wanted: Sequence[Wanted], model: Model, *, keeper: bool = False) -> None:
        """Asks for one worker for all of them, or for the `keeper` of one; `hear` calls `on_pid` a little later, and
        `on_end`. What it is given stays the caller's. Raises OSError when the zygote is gone."""
        said = [
            [{**each.spec._asdict(), "options": dict(each.spec.options), "fds": list(each.spec.fds)}, each.respawned]
            for each in wanted
        ]
        message = {"devices": said, "group": model.group, "command": model.command, "keeper": keeper}
        fds = [fd for each in wanted for fd in (each.control.fileno(), each.counters, *each.spec.fds.values())]
        try:
            socket.send_fds(self.channel, [json.dumps({**message, "sandbox": self.sandbox}).encode()], fds)
        except ConnectionError:
            if not self.awaits_another:
                raise
            self._put_off.append(([each.dup() for each in wanted], model, keeper))
        else:
            self._unborn.append(wanted)

    def adopt(self, pid: int, wanted: Wanted) -> bool:
        """The process `pid`, if it is one that `succeed` has found alive, was made for another supervisor, which wanted
        it so. False where it is none, of whose end nobody hears any more."""
        if pid not in self._kept:
            return False
        self._children[pid] = [*self._children.get(pid, ()), wanted]
        return True

    def remember(self, pid: int, memory: int) -> None:
        """`memory`, which becomes the zygote's, is an adopted process's `memory_file`."""
        if pid not in self._children or self._memory.setdefault(pid, memory) != memory:
            os.close(memory)

    def succeed(self, pids: Collection[int]) -> None:
        """Another supervisor goes on with these children: all others end. Waits. Raises OSError where the zygote does
        not answer."""
        self.channel.settimeout(SUCCESSION)
        try:
            self.channel.send(json.dumps({"keep": list(pids)}).encode())
            message: dict[str, Any] = {}
            while "kept" not in message:  # what comes before was said to somebody else
                data, fds = receive_with_fds(self.channel, MAX_PACKET, 1)
                for fd in fds:
                    os.close(fd)
                if not data:
                    raise BrokenPipeError(errno.EPIPE, "the zygote is gone")
                message = json.loads(data)
            self._kept = set(message["kept"])
        finally:
            self.channel.setblocking(False)

    def memory_of(self, pid: int) -> int | None:
        """The descriptor by which that process's memory can be seen, if there is one. It stays the zygote's."""
        return self._memory.get(pid)

    def tell_once(self, warning: str) -> None:
        """Logs what is the same for each worker, once."""
        if warning and warning not in self._told:
            self._told.add(warning)
            log.warning("%s", warning)

    def kill(self, pid: int) -> None:
        """Kills a worker, if it still lives. Only its parent can tell that the pid is still the worker's."""
        with contextlib.suppress(OSError):
            self.channel.send(json.dumps({"kill": pid}).encode())

    def hear(self) -> bool:
        """Takes in what the zygote has said, without waiting. False once it is gone."""
        while True:
            try:
                data, fds = receive_with_fds(self.channel, MAX_PACKET, 1)
            except BlockingIOError:
                return True
            except ConnectionResetError:  # it has left something unread: what it said before comes next
                continue
            except ConnectionError:
                data, fds = b"", []
            if not data:
                return False
            message = json.loads(data)
            if "pid" in message:
                wanted = self._unborn.pop(0)
                if message["pid"]:
                    self._children[message["pid"]] = wanted
                    for fd in fds:
                        self._memory[message["pid"]] = fd
                for each in wanted:
                    each.on_pid(message["pid"])
            elif "exited" in message:  # and not what a supervisor that died as it came was told
                self._ended(message["exited"], message["status"])

    def replace(self, pid: int, channel: socket.socket) -> None:
        """Another zygote in the place of one that has died, and all that it had made with it."""
        unborn, children, put_off = self._unborn[:], list(self._children.values()), self._put_off[:]
        self._put_off.clear()
        self.release()
        self.pid, self.channel = pid, channel
        channel.setblocking(False)
        for each in (each for together in unborn for each in together):
            each.on_pid(0)
        for each in (each for together in children for each in together):
            each.on_end(-signal.SIGKILL)
        for wanted, model, is_keeper in put_off:
            with contextlib.suppress(OSError):  # it has died as well: the sockets close, which is a death too
                self.spawn(wanted, model, keeper=is_keeper)
            _close_all(wanted)

    def _ended(self, pid: int, status: int) -> None:
        self._kept.discard(pid)
        if pid in self._memory:
            os.close(self._memory.pop(pid))
        for wanted in self._children.pop(pid, ()):
            log.debug("process %s of %s ended with status %s", pid, wanted.spec.name, status)
            wanted.on_end(status)

    def memory_files(self, pid: int) -> list[int]:
        """By which a process's memory can be seen, the first one by which it can; they are the caller's."""
        found = [os.dup(self._memory[pid])] if pid in self._memory else []
        with contextlib.suppress(OSError):  # the process has ended, or may not be looked at
            found.append(memory_file(pid))  # one that has become another program is another one's to the first
        return found

    def restart(self) -> None:
        """`replace`, by a new one."""
        self._end()
        self.replace(*start(PROGRAM, *self.kinds))

    def release(self) -> None:
        """Lets go of the zygote, which is somebody else's to end."""
        self.channel.close()
        for fd in self._memory.values():
            os.close(fd)
        self._memory.clear()
        self._kept.clear()
        self._unborn.clear()  # whose callbacks would keep their devices' counters open
        self._children.clear()
        for wanted, _, _ in self._put_off:
            _close_all(wanted)
        self._put_off.clear()

    def close(self) -> None:
        """Ends the zygote, and with it every worker. One that does not end by itself within PATIENCE is killed."""
        self.release()
        self._end()

    def _end(self) -> None:
        self.channel.close()
        deadline = time.monotonic() + PATIENCE
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > deadline:
                    os.kill(self.pid, signal.SIGKILL)
                    os.waitpid(self.pid, 0)
                    return
                time.sleep(0.001)


def _close_all(wanted: Sequence[Wanted]) -> None:
    for each in wanted:
        each.close()
