"""The zygote: a warm, single-threaded interpreter from which workers are forked in milliseconds.

It is an interpreter of its own (`zygote_process.py`), small because it loads nothing of the launcher's, and a worker
shares most of its memory with it and with its siblings. It hears, over a SOCK_SEQPACKET socket, one JSON object a
packet:

    {"devices": [[spec, respawned], …], "group": …, "command": […], "sandbox": …}   a worker is wanted for these, in a
                                     jail of this `Choice`; descriptors: for each device its control socket, its
                                     counters, the spec's own
    {"kill": pid}                    a worker is to end

and says {"pid": n} for each worker wanted, in order, and {"exited": pid, "status": n} when one has ended. Everybody
dies with their parent.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..vhost_user.device import DeviceSpec
from .process_models import Model
from .sandbox.policies import AUTO, Choice

PROGRAM = f"from {__name__}_process import live; live()"  # -m would load runpy and all that it needs
MAX_PACKET = 65536
KEPT, KEPT_PREFIXES = ("PATH", "LANG", "TMPDIR"), ("PYTHON", "SUBOS_", "LD_", "LC_")  # of the environment
PATIENCE = 1.0  # seconds that a zygote has to end once nobody wants it

log = logging.getLogger("subos")


OnPid = Callable[[int], None]


class Wanted(NamedTuple):
    """A worker that one device wants."""

    spec: DeviceSpec
    control: socket.socket
    counters: int
    respawned: bool = False

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
    _unborn: list[tuple[str, OnPid]] = field(default_factory=list)
    _told: set[str] = field(default_factory=set)
    _names: dict[int, str] = field(default_factory=dict)

    @classmethod
    def start(cls, *kinds: str) -> Zygote:
        """Starts the zygote, and has it load these kinds of devices at once; others it loads when one is asked for."""
        return cls(*_start(kinds), kinds)

    def spawn(self, devices: Sequence[Wanted], model: Model, on_pid: OnPid) -> None:
        """Asks for one worker for all of them; `hear` calls `on_pid` a little later. What it is given stays the
        caller's. Raises OSError when the zygote is gone."""
        said = [
            [{**spec._asdict(), "options": dict(spec.options), "fds": list(spec.fds)}, respawned]
            for spec, _, _, respawned in devices
        ]
        message = {"devices": said, "group": model.group, "command": model.command, "sandbox": self.sandbox}
        fds = [fd for device in devices for fd in (device.control.fileno(), device.counters, *device.spec.fds.values())]
        socket.send_fds(self.channel, [json.dumps(message).encode()], fds)
        self._unborn.append((model.group or devices[0].spec.name, on_pid))

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
                data = self.channel.recv(MAX_PACKET)
            except BlockingIOError:
                return True
            except ConnectionError:
                data = b""
            if not data:
                return False
            message = json.loads(data)
            if "pid" in message:
                name, on_pid = self._unborn.pop(0)
                if message["pid"]:
                    self._names[message["pid"]] = name
                on_pid(message["pid"])
            else:
                self._ended(message["exited"], message["status"])

    def _ended(self, pid: int, status: int) -> None:
        name = self._names.pop(pid, "")
        log.debug("worker %s of %s ended with status %s", pid, name, status)
        if status == -signal.SIGSYS:
            log.error(
                "%s: its worker was killed by its sandbox: it made a system call that a device of its kind does not "
                "need (--seccomp log lets it, and the kernel's log then has the number: dmesg | grep type=1326)",
                name,
            )

    def restart(self) -> None:
        """Another zygote in the place of one that has died."""
        self.close()
        self.pid, self.channel = _start(self.kinds)
        self._unborn.clear()
        self._names.clear()

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


def _start(kinds: Sequence[str]) -> tuple[int, socket.socket]:
    """A new zygote's pid, and the socket to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        theirs.set_inheritable(True)
        # Without `site` (-S) and the folder that we are in (-P): where modules are is what our own path says.
        command = [sys.executable, "-P", "-S", "-c", PROGRAM, str(theirs.fileno()), str(os.getpid()), *kinds]
        # Not the whole environment: it may hold secrets, and a process can read what it was started with for ever.
        variables = {
            name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_PREFIXES)
        }
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        # A group of its own: what a signal does to the launcher's whole group is the launcher's to decide.
        pid = os.posix_spawn(sys.executable, command, variables, setpgroup=0)
    ours.setblocking(False)
    return pid, ours
