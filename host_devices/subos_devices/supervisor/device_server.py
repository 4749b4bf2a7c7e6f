"""One device as QEMU meets it: the session that answers, and the worker that serves, which may die at any time.

QEMU reads its answers under its big lock, so nothing here waits for a worker, but for one thing: a ring that is
taken back must not be touched any more, which the worker confirms or is killed for.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from subos_protocol.vhost_user import HeaderFlag

from .. import registry
from ..errors import UserError
from ..vhost_user.connection import Message, MessageStream
from ..vhost_user.counters import Counters
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
from .caretaker import Caretaker
from .faults import Faults
from .link import WorkerLink
from .nurseries import Nursery
from .process_models import Model
from .rings import Rings
from .throttle import Throttle
from .zygote import Zygote

MESSAGES_AT_ONCE = 32  # of one front end, before the event loop looks at everything else
ACCEPT_RETRY = 0.25  # seconds, where a front end cannot be taken
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

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
        *,
        model: Model,
        nursery: Nursery,
    ) -> None:
        self.spec = spec
        self._listener = listener
        self._on_disconnect = on_disconnect
        session = Session(registry.build(spec))
        self._counters_fd = Counters.create()
        self.counters = Counters(self._counters_fd)
        self._rings = Rings(session, self.counters)
        self._faults = Faults(spec.name)
        self.caretaker = Caretaker(
            spec, self._rings, self._counters_fd, self._faults, zygote, model=model, nursery=nursery
        )
        self._stream: MessageStream | None = None
        self._loop = asyncio.get_running_loop()
        self._readable = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts the worker and waits until its device is ready. Raises UserError where it cannot be."""
        await self.caretaker.start()
        self._listener.setblocking(False)
        self._task = self._loop.create_task(self._serve())
        self._task.add_done_callback(self._served)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.caretaker.close()
        self._listener.close()
        self.session.close()
        os.close(self._counters_fd)
        for fd in self.spec.fds.values():
            os.close(fd)

    @property
    def session(self) -> Session:
        """What the front end has set up."""
        return self._rings.session

    @property
    def worker(self) -> WorkerLink | None:
        return self.caretaker.worker

    @property
    def connected(self) -> bool:
        return self._stream is not None

    @property
    def restarts(self) -> int:
        """How many workers have died."""
        return self.caretaker.restarts

    @property
    def faults(self) -> int:
        """How many rings the guest's driver has broken."""
        return self._faults.count

    def status(self) -> dict[str, Any]:
        """What `subos-devices status` shows of this device."""
        return {
            "name": self.spec.name,
            "kind": self.spec.kind,
            "options": dict(self.spec.options),
            "connected": self.connected,
            "driver": any(vring.started for vring in self.session.vrings),
            **self.caretaker.status(),
            "requests": self.counters.requests,
            "wakeups": self.counters.wakeups,
            **self.session.device.describe(self.counters.statistics),
        }

    async def _accept(self) -> socket.socket:
        """The next front end, which waits while there is no room for one; that is said once."""
        told = False
        while True:
            try:
                return (await self._loop.sock_accept(self._listener))[0]
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                if not told:
                    log.error("%s: no front end can be taken now: %s", self.spec.name, error.strerror)
                told = True
                await asyncio.sleep(ACCEPT_RETRY)

    async def _serve(self) -> None:
        while True:
            connection = await self._accept()
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
                self._rings.forget()
                self.session.close()
                self._rings.session = Session(self._fresh_device())
                await self.caretaker.front_end_gone()
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
                self._rings.resume(vrings[index])
                self.caretaker.try_soon()
                self.caretaker.start_ring(vrings[index], base=vrings[index].base)
            case RingStopped(index):
                await self._stop_ring(vrings[index])
                vrings[index].base = self._rings.base(vrings[index])
            case RingEnabled(index):
                if worker is not None:
                    worker.enable(vrings[index])
            case CallChanged(index):
                if worker is not None:
                    worker.call(vrings[index])

    async def _stop_ring(self, vring: Vring) -> None:
        patience = self.session.device.patience
        if self.worker is not None and not await self.worker.stop(vring.index, patience):
            log.error("%s: its worker neither lets go of a ring nor dies", self.spec.name)
