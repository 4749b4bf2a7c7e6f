"""The supervisor's end of one worker: tells it about memory and rings, hears what it says, and that it died."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..vhost_user.device import DeviceSpec
from ..vhost_user.memory import GuestMemory
from ..vhost_user.session import Session, Vring
from ..vhost_user.worker import MAX_PACKET, QUESTIONS
from .desk import Desk
from .zygote import OnEnd, Wanted

GRACE = 10.0  # seconds that a worker that is killed may take to die: one that waits for a disk does not at once
_CREDENTIALS = struct.Struct("=iII")  # struct ucred
PACKETS_AT_ONCE = 32  # of one worker, before the event loop looks at the others


class Parent(Protocol):
    """Who makes a worker and can kill it: a `Keeper`, a `Nursery`."""

    def spawn(self, wanted: Wanted) -> None:
        """Asks for a worker. What it is given stays the caller's. Raises OSError."""

    def kill(self, pid: int) -> None:
        """Ends the worker's process; its control socket closes then."""

    def kill_all(self) -> None:
        """What is left to do about a worker that `kill` has not ended."""


class WorkerLink:
    """One worker process of `parent`'s. `on_message` gets what it says; `on_end` its exit status, if that is known, and
    `on_death` is called once, when its socket closes; what it asks is answered at `desk`.

    There is none before `ask`. It is told nothing until `on_birth` says that there is a process: a ring that is taken
    back from one that is still to be made must not be found in its socket by it later. So `on_birth` is where it is
    told of all that there is.

    `adopted` are the pid and the control socket of a worker that another supervisor had made, and told of all there is.

    Sending never waits: a worker whose socket is full has not listened for thousands of messages, and is killed.
    """

    def __init__(
        self,
        parent: Parent,
        spec: DeviceSpec,
        counters: int,
        *,
        respawned: bool,
        on_birth: Callable[[], None],
        on_message: Callable[[dict[str, Any]], None],
        on_death: Callable[[], None],
        on_end: OnEnd = lambda _status: None,
        desk: Desk | None = None,
        adopted: tuple[int, socket.socket] | None = None,
    ) -> None:
        self.pid = 0
        """As this process sees it, told by the zygote or the first packet. A worker that root has started, in no pid
        namespace, could lie about it: nobody is killed by it but by the parent, who knows better."""
        self.alive = True
        self.killed = False
        """From here: it hung, or spoke nonsense."""
        self._made = self._told = False
        self._doomed: asyncio.TimerHandle | None = None
        self._parent = parent
        self._on_birth = on_birth
        self._on_message = on_message
        self._on_death = on_death
        self._stops: dict[int, asyncio.Future[None]] = {}
        self._next_stop = secrets.randbits(48)  # none that an adopted worker may still answer to somebody else
        self._desk = desk
        self._loop = asyncio.get_running_loop()
        self._wanted: Wanted | None = None
        if adopted:
            self.pid, self._socket = adopted
            self._made = self._told = True
        else:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._wanted = Wanted(spec, theirs, counters, respawned, self._born, on_end)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._loop.add_reader(self._socket, self._readable)

    def ask(self) -> None:
        """Asks its parent for it; once, and not for one that is adopted."""
        wanted, self._wanted = self._wanted, None
        assert wanted is not None, "there is one already"
        if self._desk is not None:
            spec = wanted.spec
            wanted = wanted._replace(spec=spec._replace(fds={**spec.fds, QUESTIONS: self._desk.theirs.fileno()}))
        with contextlib.suppress(OSError):  # a zygote that has died: the socket closes, which is a death too
            self._parent.spawn(wanted)
        wanted.control.close()
        if self._desk is not None:
            self._desk.theirs.close()

    @property
    def told(self) -> bool:
        """Whether it has been told of all that there was at its birth."""
        return self._told

    @property
    def descriptors(self) -> dict[str, int]:
        """The ends here of what leads to it."""
        questions = {} if self._desk is None or self._desk.closed else {"questions": self._desk.fileno()}
        return {"worker": self._socket.fileno(), **questions}

    def _born(self, pid: int) -> None:
        self.pid = pid
        self._made = True
        if self._doomed is not None:
            self._parent.kill(pid)
        else:
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        if self.alive:
            self._told = True
            self._on_birth()

    # --- commands

    def memory(self, session: Session) -> None:
        regions = session.memory.regions if session.memory else ()
        self._send({"op": "memory", "regions": [list(region) for region in regions]}, session.region_fds)

    def start(self, vring: Vring, memory: GuestMemory, *, base: int, event_idx: bool) -> None:
        """Raises BadMemory where the ring lies outside guest memory."""
        self._send(
            {"op": "start", "index": vring.index, "size": vring.size, **vring.addresses(memory)}
            | {"base": base, "event_idx": event_idx, "enabled": vring.enabled},
            [vring.kick] if vring.call < 0 else [vring.kick, vring.call],
        )

    def enable(self, vring: Vring) -> None:
        self._send({"op": "enable", "index": vring.index, "on": vring.enabled})

    def call(self, vring: Vring) -> None:
        self._send({"op": "call", "index": vring.index}, [] if vring.call < 0 else [vring.call])

    async def stop(self, index: int, timeout: float) -> bool:
        """True once nothing of the worker's touches the ring: it has never heard of it, or it said so, or `timeout`
        seconds passed and it was killed (QEMU is waiting, with its big lock held). False for a worker that does not
        even die."""
        if not self.alive or not self._told:
            return True
        self._next_stop += 1
        done = self._stops[self._next_stop] = self._loop.create_future()
        self._send({"op": "stop", "index": index, "id": self._next_stop})
        # Not wait_for: until Python 3.12 it loses a cancellation that comes together with the result.
        await asyncio.wait([done], timeout=timeout)
        if not done.done():
            self.kill()
            await asyncio.wait([done], timeout=timeout)  # its death resolves this
        return done.done()

    def kill(self) -> None:
        """SIGKILL; `on_death` follows when the kernel has taken the process apart."""
        self.killed = True
        self._finish()

    def _finish(self) -> None:
        if self._doomed is None:
            self._doomed = self._loop.call_later(GRACE, self._parent.kill_all)
        if self._made:
            self._parent.kill(self.pid)

    def ping(self) -> None:
        """Asks whether it lives: {"op": "pong"} is heard, if it does."""
        self._send({"op": "ping"})

    def let_go(self) -> None:
        """Lets the worker end by itself, as `close` does; `on_death` follows when it has."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Lets the worker end by itself: it leaves its loop when the socket closes. No `on_death` comes."""
        self.alive = False
        if self._wanted is not None:
            self._wanted.control.close()
        if self._doomed is not None:
            self._doomed.cancel()
        self._loop.remove_reader(self._socket)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # whoever else has a copy of it
        self._socket.close()
        if self._desk is not None:
            self._desk.close()
        self._resolve_stops()

    # --- what comes back

    def _send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        if not self.alive or not self._told:
            return
        try:
            socket.send_fds(self._socket, [json.dumps(message).encode()], list(fds))
        except BlockingIOError:
            self.kill()
        except OSError:
            pass  # it died; _readable says so next

    def _readable(self) -> None:
        for _ in range(PACKETS_AT_ONCE):
            if not self.alive:
                return
            try:
                data = self._receive()
            except BlockingIOError:
                return
            except ConnectionResetError:  # it has left something unread: what it said before comes next
                continue
            except ConnectionError:
                data = b""
            if not data:
                self._finish()  # it may have closed its socket and live on
                self.close()
                self._on_death()
                return
            try:
                message = json.loads(data)
                operation, stop = message["op"], int(message.get("id", 0))
            except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
                self.kill()  # a worker that speaks otherwise is no longer ours
                return
            if operation == "stopped":
                future = self._stops.pop(stop, None)
                if future is not None and not future.done():
                    future.set_result(None)
            else:
                self._on_message(message)

    def _receive(self) -> bytes:
        if self.pid:
            return self._socket.recv(MAX_PACKET)
        # No room for a descriptor: none is wanted.
        data, ancillary, _, _ = self._socket.recvmsg(MAX_PACKET, socket.CMSG_SPACE(_CREDENTIALS.size))
        for level, kind, body in ancillary:
            if (level, kind, len(body)) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, _CREDENTIALS.size) and data:
                self.pid = _CREDENTIALS.unpack(body)[0]
        return data

    def _resolve_stops(self) -> None:
        for future in self._stops.values():
            if not future.done():
                future.set_result(None)
        self._stops.clear()
