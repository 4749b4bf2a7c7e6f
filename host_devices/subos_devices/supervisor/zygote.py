"""The zygote: a warm, single-threaded interpreter from which workers are forked in milliseconds.

It is an interpreter of its own (`zygote_process.py`), small because it loads nothing of the launcher's, and a worker
shares most of its memory with it and with its siblings. It hears, over a SOCK_SEQPACKET socket, one JSON object a
packet:

    {"spec": …, "respawned": bool, "sandbox": …, "keeper": bool}   a worker is wanted, in a jail of this `Choice`, or
                                     a keeper; descriptors: its control socket, its counters, the spec's own
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
from .sandbox.policies import AUTO, Choice

PROGRAM = f"from {__name__}_process import live; live()"  # -m would load runpy and all that it needs
MAX_PACKET = 65536
KEPT, KEPT_PREFIXES = ("PATH", "LANG", "TMPDIR"), ("PYTHON", "SUBOS_", "LD_", "LC_")  # of the environment
PATIENCE = 1.0  # seconds that a zygote has to end once nobody wants it

log = logging.getLogger("subos")


class Wanted(NamedTuple):
    """A worker that was asked for: whose, and who hears its pid and its status."""

    name: str
    on_pid: Callable[[int], None]
    on_end: Callable[[int], None]


@dataclass
class Zygote:
    """The supervisor's end."""

    pid: int
    channel: socket.socket
    kinds: tuple[str, ...] = ()
    sandbox: Choice = AUTO
    """How the workers are jailed that are asked for from now on."""
    _unborn: list[Wanted] = field(default_factory=list)
    _told: set[str] = field(default_factory=set)
    _children: dict[int, Wanted] = field(default_factory=dict)

    @classmethod
    def start(cls, *kinds: str) -> Zygote:
        """Starts the zygote, and has it load these kinds of devices at once; others it loads when one is asked for."""
        return cls(*_start(kinds), kinds)

    def spawn(
        self,
        spec: DeviceSpec,
        control: socket.socket,
        counters: int,
        *,
        respawned: bool,
        on_pid: Callable[[int], None],
        on_end: Callable[[int], None] = lambda _status: None,
        keeper: bool = False,
    ) -> None:
        """Asks for a worker, or for the `keeper` of some; `hear` calls `on_pid` a little later (0: there is none), and
        `on_end` with its exit status (-n: signal n). Raises OSError when the zygote is gone."""
        fields = {**spec._asdict(), "options": dict(spec.options), "fds": list(spec.fds)}
        wanted = {"spec": fields, "respawned": respawned, "sandbox": self.sandbox, "keeper": keeper}
        data = json.dumps(wanted).encode()
        socket.send_fds(self.channel, [data], [control.fileno(), counters, *spec.fds.values()])
        self._unborn.append(Wanted(spec.name, on_pid, on_end))

    def tell_once(self, warning: str) -> None:
        """Logs what is the same for each worker, once."""
        if warning and warning not in self._told:
            self._told.add(warning)
            log.warning("%s", warning)

    def kill(self, pid: int) -> None:
        """Kills a worker, if it still lives. Only its parent can tell that the pid is still the worker's."""
        with contextlib.suppress(OSError):
            self.channel.send(json.dumps({"kill": pid}).encode())

    def kill_all(self) -> None:
        """Its workers have nothing in common: one that SIGKILL does not end waits in the kernel."""

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
                wanted = self._unborn.pop(0)
                if message["pid"]:
                    self._children[message["pid"]] = wanted
                wanted.on_pid(message["pid"])
            else:
                self._ended(message["exited"], message["status"])

    def _ended(self, pid: int, status: int) -> None:
        wanted = self._children.pop(pid, None)
        if wanted is not None:
            log.debug("process %s of %s ended with status %s", pid, wanted.name, status)
            wanted.on_end(status)

    def restart(self) -> None:
        """Another zygote in the place of one that has died."""
        self.close()
        self.pid, self.channel = _start(self.kinds)
        self._unborn.clear()
        self._children.clear()

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
