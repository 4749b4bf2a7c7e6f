"""The supervisor's end of one worker: tells it about memory and rings, hears what it says, and that it died."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Sequence
from typing import Any

from ..vhost_user.device import DeviceSpec
from ..vhost_user.memory import GuestMemory
from ..vhost_user.session import Session, Vring
from ..vhost_user.worker import MAX_PACKET, QUESTIONS
from .desk import Desk
from .nurseries import Nursery
from .zygote import Wanted

PACKETS_AT_ONCE = 32  # of one worker, before the event loop looks at the others


class WorkerLink:
    """One worker process. `on_message` gets what it says; `on_death` is called once, when its socket closes; what
    it asks is answered at `desk`.

    Sending never waits: a worker whose socket is full has not listened for thousands of messages, and is killed.
    """

    def __init__(
        self,
        nursery: Nursery,
        spec: DeviceSpec,
        counters: int,
        *,
        respawned: bool,
        on_message: Callable[[dict[str, Any]], None],
        on_death: Callable[[], None],
        desk: Desk | None = None,
    ) -> None:
        self.pid = 0  # told a little later
        self.alive = True
        self._doomed = False
        self._nursery = nursery
        self._on_message = on_message
        self._on_death = on_death
        self._stops: dict[int, asyncio.Future[None]] = {}
        self._next_stop = 0
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._readable)
        self._desk = desk
        if desk is not None:
            spec = spec._replace(fds={**spec.fds, QUESTIONS: desk.theirs.fileno()})
        with theirs, contextlib.suppress(OSError):  # a zygote that has died: the socket closes, which is a death too
            nursery.spawn(Wanted(spec, theirs, counters, respawned), self._born)
        if desk is not None:
            desk.theirs.close()

    def _born(self, pid: int) -> None:
        self.pid = pid
        if self._doomed:
            self.kill()

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
        """True once nothing of the worker's touches the ring: it said so, or `timeout` seconds passed and
        it was killed (QEMU is waiting, with its big lock held). False for a worker that does not even die."""
        if not self.alive:
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
        self._doomed = True
        if self.pid:
            self._nursery.kill(self.pid)

    def close(self) -> None:
        """Lets the worker end by itself: it leaves its loop when the socket closes. No `on_death` comes."""
        self.alive = False
        self._loop.remove_reader(self._socket)
        self._socket.close()
        if self._desk is not None:
            self._desk.close()
        self._resolve_stops()

    # --- what comes back

    def _send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        if not self.alive:
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
                data = self._socket.recv(MAX_PACKET)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self.kill()  # it may have closed its socket and live on
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

    def _resolve_stops(self) -> None:
        for future in self._stops.values():
            if not future.done():
                future.set_result(None)
        self._stops.clear()
