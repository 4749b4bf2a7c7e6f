"""One device as QEMU meets it: the session that answers, and the worker that serves, which may die at any time.

QEMU reads its answers under its big lock, so nothing here waits for a worker, but for one thing: a ring that is
taken back must not be touched any more, which the worker confirms or is killed for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from subos_protocol.vhost_user import HeaderFlag

from .. import registry
from ..errors import UserError
from ..text import printable
from ..vhost_user.connection import Message, MessageStream
from ..vhost_user.device import Device, DeviceSpec
from ..vhost_user.errors import BadMessage, TransportError
from ..vhost_user.session import (
    CallChanged,
    Effect,
    MemoryChanged,
    RingEnabled,
    RingStarted,
    RingStopped,
    Session,
    Vring,
)
from ..vhost_user.worker import Counters
from .desk import Desk
from .link import WorkerLink
from .sandbox.report import warning
from .throttle import Throttle
from .zygote import Zygote

BACKOFF = (0.0, 0.0, 0.05, 0.25, 1.0, 5.0)  # seconds before a respawn, by deaths in a row
STEADY = 10.0  # seconds of life after which a worker's death begins a new row
MESSAGES_AT_ONCE = 32  # of one front end, before the event loop looks at everything else

log = logging.getLogger("subos")
log.addFilter(Throttle())


class DeviceServer:
    """Serves `spec`'s device to the front end that connects to `listener`, for as long as it is connected.

    `on_disconnect` is called when a front end has gone; another one may then connect.
    """

    def __init__(
        self,
        spec: DeviceSpec,
        listener: socket.socket,
        zygote: Zygote,
        on_disconnect: Callable[[], None] = lambda: None,
    ) -> None:
        self.spec = spec
        self.restarts = 0
        self.faults = 0
        self.worker: WorkerLink | None = None
        self.session = Session(registry.build(spec))
        self._listener = listener
        self._zygote = zygote
        self._on_disconnect = on_disconnect
        self._counters_fd = Counters.create()
        self.counters = Counters(self._counters_fd)
        self._stream: MessageStream | None = None
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._deaths = 0
        self._failure = ""
        self.sandbox: dict[str, Any] | None = None
        """What holds the worker, as it said itself before the guest could reach it."""
        self._born = 0.0
        self._respawn: asyncio.TimerHandle | None = None
        self._readable = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._telling = threading.Thread()

    async def start(self) -> None:
        """Starts the worker and waits until its device is ready. Raises UserError where it cannot be."""
        self._spawn(respawned=False)
        await self._ready
        self._listener.setblocking(False)
        self._task = self._loop.create_task(self._serve())
        self._task.add_done_callback(self._served)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._respawn is not None:
            self._respawn.cancel()
        if self.worker is not None:
            self.worker.close()
            self.worker = None
        self._listener.close()
        self.session.close()
        os.close(self._counters_fd)
        for fd in self.spec.fds.values():
            os.close(fd)

    @property
    def connected(self) -> bool:
        return self._stream is not None

    def status(self) -> dict[str, Any]:
        """What `subos-devices status` shows of this device."""
        return {
            "name": self.spec.name,
            "kind": self.spec.kind,
            "options": dict(self.spec.options),
            "connected": self.connected,
            "driver": any(vring.started for vring in self.session.vrings),
            "pid": self.worker.pid if self.worker else None,
            "restarts": self.restarts,
            "faults": self.faults,
            "sandbox": self.sandbox,
            "requests": self.counters.requests,
            "wakeups": self.counters.wakeups,
            **self.session.device.describe(self.counters.statistics),
        }

    # --- the worker

    def _spawn(self, *, respawned: bool) -> None:
        self._respawn = None
        self.sandbox = None
        self._born = self._loop.time()
        self.worker = WorkerLink(
            self._zygote,
            self.spec,
            self._counters_fd,
            respawned=respawned,
            on_message=self._hear,
            on_death=self._died,
            desk=Desk(lambda: self.session.device) if self.session.device.asks else None,
        )
        if self.session.memory is not None:
            self.worker.memory(self.session)
        for vring in self.session.vrings:
            if vring.started:
                try:
                    self._start_ring(vring, base=self._base(vring))
                except TransportError as error:
                    self._fault(vring, error.message)  # a newer memory table has left it outside

    def _hear(self, message: dict[str, Any]) -> None:
        said = printable(str(message.get("message")))  # it may be in a hostile guest's hands
        match message["op"]:
            case "ready":
                if self.sandbox is None:  # what it says later may be the guest's words
                    self.sandbox = _understood(message.get("sandbox"))
                    self._zygote.tell_once(warning(self.sandbox))
                if not self._ready.done():
                    self._ready.set_result(None)
            case "failed":
                error = UserError(said, printable(str(message.get("hint", ""))))
                if not self._ready.done():
                    self._ready.set_exception(error)
                elif said != self._failure:
                    log.error("%s: the device cannot start again: %s", self.spec.name, said)
                    self._failure = said
            case "fault":
                index = message.get("index")
                if isinstance(index, int) and 0 <= index < len(self.session.vrings):
                    self._fault(self.session.vrings[index], said)
            case "log":
                log.warning("%s: %s", self.spec.name, said)

    def _fault(self, vring: Vring, reason: str) -> None:
        self.faults += 1
        log.error("%s: the guest's driver broke its ring: %s", self.spec.name, reason)
        if vring.err >= 0 and not self._telling.is_alive():
            # On a thread: it is whatever descriptor the front end gave, and may fill up just before it is written to.
            self._telling = threading.Thread(target=_signal, args=(os.dup(vring.err),), daemon=True)
            self._telling.start()

    def _died(self) -> None:
        self.worker = None
        if not self._ready.done():
            self._ready.set_exception(UserError(f"the worker of {self.spec.name} died while it started"))
        if self._ready.exception() is not None:
            return  # it never served; `start` says why
        now = self._loop.time()
        self._deaths = 0 if now - self._born > STEADY else self._deaths + 1
        delay = BACKOFF[min(self._deaths, len(BACKOFF) - 1)]
        self.restarts += 1
        log.warning("%s: its worker died; the next one starts %s", self.spec.name, f"in {delay} s" if delay else "now")
        if delay:
            self._respawn = self._loop.call_later(delay, lambda: self._spawn(respawned=True))
        else:
            self._spawn(respawned=True)

    # --- QEMU

    async def _serve(self) -> None:
        while True:
            connection, _ = await self._loop.sock_accept(self._listener)
            connection.setblocking(False)
            self._stream = stream = MessageStream(connection)
            self._readable.clear()
            self._loop.add_reader(connection, self._readable.set)
            try:
                await self._converse(stream)
            except EOFError:
                pass
            except (BadMessage, OSError) as error:
                log.error("%s: the front end's connection is unusable: %s", self.spec.name, str(error))
            finally:
                self._loop.remove_reader(connection)
                self._stream = None
                stream.close()
                running = [vring for vring in self.session.vrings if vring.started]
                for vring in running:
                    vring.started = False  # a worker that is respawned meanwhile must not begin them again
                for vring in running:
                    await self._stop_ring(vring)
                for vring in self.session.vrings:
                    self.counters.deferred(vring.index).clear()
                self.session.close()
                self.session = Session(self._fresh_device())
                if self.worker is not None:
                    self.worker.memory(self.session)  # none: the guest's is held no longer
            if stream.received:  # one that said nothing only looked whether somebody serves here
                self._on_disconnect()

    def _fresh_device(self) -> Device:
        """For the next front end; the last one's where what it needs is gone (a folder, say): it may come back."""
        try:
            return registry.build(self.spec)
        except UserError as error:
            log.warning("%s: %s", self.spec.name, error.message)
            return self.session.device

    def _served(self, task: asyncio.Task[None]) -> None:
        """`_serve` never ends by itself: a fault of ours must not pass for a quiet device."""
        if not task.cancelled() and task.exception() is not None:
            log.error("%s: a fault of ours ended it", self.spec.name, exc_info=task.exception())
            self._on_disconnect()

    async def _converse(self, stream: MessageStream) -> None:
        while True:
            if stream.received % MESSAGES_AT_ONCE == 0:
                await asyncio.sleep(0)
            message = stream.receive()
            if message is None:
                await self._readable.wait()
                self._readable.clear()
                continue
            failed = False
            try:
                for effect in self.session.receive(message):
                    await self._perform(effect)
            except TransportError as error:
                # The front end must never see a disconnect: some QEMU devices abort the whole VM.
                failed = True
                log.error("%s: refused: %s", self.spec.name, error.message)
            except Exception:
                failed = True
                log.exception("%s: a fault of ours at request %s", self.spec.name, message.request)
            finally:
                message.close()
            self._reply(stream, message, failed)

    def _reply(self, stream: MessageStream, message: Message, failed: bool) -> None:
        payload = self.session.answer(message, failed=failed)
        if payload is not None:
            stream.send(message.request, payload, HeaderFlag.REPLY)

    async def _perform(self, effect: Effect) -> None:
        worker, vrings = self.worker, self.session.vrings
        match effect:
            case MemoryChanged():
                if worker is not None:
                    worker.memory(self.session)
            case RingStarted(index):
                self._resume(vrings[index])
                self._start_ring(vrings[index], base=vrings[index].base)
            case RingStopped(index):
                await self._stop_ring(vrings[index])
                vrings[index].base = self._base(vrings[index])
            case RingEnabled(index):
                if worker is not None:
                    worker.enable(vrings[index])
            case CallChanged(index):
                if worker is not None:
                    worker.call(vrings[index])

    def _start_ring(self, vring: Vring, base: int) -> None:
        if self.worker is not None and self.session.memory is not None:
            self.worker.start(vring, self.session.memory, base=base, event_idx=self.session.event_idx)

    async def _stop_ring(self, vring: Vring) -> None:
        patience = self.session.device.patience
        if self.worker is not None and not await self.worker.stop(vring.index, patience):
            log.error("%s: its worker neither lets go of a ring nor dies", self.spec.name)

    def _resume(self, vring: Vring) -> None:
        """A ring that the front end starts at its `base`: goes on with the chains that wait, or is a new one."""
        if self.session.memory is not None:
            self.counters.deferred(vring.index).resume(vring.base, self.session.ring_index(vring, "used"))

    def _base(self, vring: Vring) -> int:
        """Where the next worker takes the ring up, once the last one touches it no more: see `vhost_user.deferred`."""
        if self.session.memory is None:
            return vring.base
        deferred, used_index = self.counters.deferred(vring.index), self.session.ring_index(vring, "used")
        deferred.recover(used_index)
        return (used_index + len(deferred)) & 0xFFFF


def _signal(fd: int) -> None:
    """Writes 1 to an eventfd, or to what somebody said was one, and closes it; one that is full has said enough."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    with contextlib.suppress(OSError):
        if poll.poll(0):
            os.write(fd, (1).to_bytes(8, sys.byteorder))
    os.close(fd)


def _understood(said: object) -> dict[str, Any]:
    """A worker's words on its sandbox: {"on": […], "missing": {layer: why}, "without": {layer: why}}."""
    said = said if isinstance(said, dict) else {}
    on = said.get("on")
    understood: dict[str, Any] = {"on": [printable(str(name)) for name in on] if isinstance(on, list) else []}
    for key in ("missing", "without"):
        found = said.get(key)
        reasons = found.items() if isinstance(found, dict) else ()
        understood[key] = {printable(str(name)): printable(str(why)) for name, why in reasons}
    return understood
