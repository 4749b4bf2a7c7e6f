"""One device as QEMU meets it: the session that answers, and the worker that serves, which may die at any time.

QEMU reads its answers under its big lock, so nothing here waits for a worker, but for one thing: a ring that is
taken back must not be touched any more, which the worker confirms or is killed for.

The supervisor may die, too, between any two steps, and another one goes on. So a message stays in the socket until what
became of it is noted in the ledger, and of what it brings about is noted what is still to be done: that may be done
twice, to the same end. A reply is sent once (`Outbox`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from .. import registry
from ..errors import UserError
from ..vhost_user import snapshot
from ..vhost_user.connection import Message, MessageStream, Outbox
from ..vhost_user.counters import Counters
from ..vhost_user.device import Device, DeviceSpec
from ..vhost_user.effects import (
    CallChanged,
    Effect,
    MemoryChanged,
    RingEnabled,
    RingStarted,
    RingStopped,
    effect_name,
    effect_named,
)
from ..vhost_user.errors import BadMemory, BadMessage, TransportError
from ..vhost_user.session import Session, Vring
from .caretaker import Caretaker
from .entrance import Entrance
from .faults import Faults
from .ledger import Held, Ledger, Nobody
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
    """Serves `spec`'s device to the front end that comes in by `listener` (`Entrance`), for as long as it is connected.

    `on_disconnect` is called when a front end has gone; another one may then connect. `held` is what another supervisor
    has left of the device; its descriptors become this one's, as do those of `spec`. Raises UserError where the device
    cannot be built.
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
        ledger: Ledger | None = None,
        held: Held | None = None,
    ) -> None:
        self.spec = spec
        self._entrance = Entrance(listener)
        self._on_disconnect = on_disconnect
        self._ledger = ledger or Nobody()
        device = registry.build(spec)
        self._counters_fd = held.fds["counters"] if held else Counters.create()
        self.counters = Counters(self._counters_fd)
        self._outbox = Outbox(held.fds["outbox"] if held else -1)
        self._rings = Rings(Session(device), self.counters)
        self._faults = Faults(spec.name)
        self.caretaker = Caretaker(
            spec,
            self._rings,
            self._counters_fd,
            self._faults,
            zygote,
            model=model,
            nursery=nursery,
            on_change=self._note,
        )
        self._stream: MessageStream | None = None
        self._pending: dict[str, Any] | None = None
        """What is still to be done for the message that came last; None once everything is."""
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        if held is not None:
            self._restore(held)

    async def start(self) -> None:
        """Starts the worker and waits until its device is ready. Raises UserError where it cannot be."""
        await self.caretaker.start()
        self._begin(None)

    def _begin(self, stream: MessageStream | None) -> None:
        self._stream = stream
        self._task = self._loop.create_task(self._serve(stream))
        self._task.add_done_callback(self._served)
        self._note()

    def _restore(self, held: Held) -> None:
        record, fds = held
        stream = None
        if "connection" in fds:
            stream = MessageStream(socket.socket(fileno=fds["connection"]))
            self._entrance.noted(stream.socket)
            stream.received = record["received"]
            self._pending = record["pending"]
            try:
                self._rings.session = snapshot.restore(self.session.device, record["session"], fds)
            except BadMemory as error:
                log.error("%s: the front end's connection is unusable: %s", self.spec.name, error)
                stream.close()
                stream = self._pending = None
                record = {**record, "forsaken": True}  # what the worker still serves is that one's
        self.caretaker.restore(record, fds)
        self._begin(stream)

    def _note(self) -> None:
        """Tells the ledger how things stand."""
        if self._task is None:
            return
        session, stream, fds = self.session, self._stream, {"outbox": self._outbox.fd, "counters": self._counters_fd}
        fds |= session.descriptors | self.caretaker.household.descriptors
        if stream is not None:
            fds["connection"] = stream.socket.fileno()
        record = {
            "connected": stream is not None,
            "received": stream.received if stream else 0,
            "session": snapshot.describe(session),
            "pending": self._pending,
            **self.caretaker.record(),
        }
        self._ledger.note(self.spec.name, record, fds, session.renewed | self.caretaker.household.renewed())
        session.renewed.clear()

    async def close(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._ledger.forget(self.spec.name)
        self.caretaker.close()
        self._entrance.close()
        self.session.close()
        self._outbox.close()
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
                return await self._entrance.next()
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                if not told:
                    log.error("%s: no front end can be taken now: %s", self.spec.name, error.strerror)
                told = True
                await asyncio.sleep(ACCEPT_RETRY)

    async def _serve(self, stream: MessageStream | None) -> None:
        while True:
            if stream is None:
                self._stream = stream = MessageStream(await self._accept())
                self._note()
                self._entrance.noted(stream.socket)
            stream.socket.setblocking(False)
            try:
                await self._go_on(stream)
                await self._converse(stream)
            except EOFError:
                pass
            except (BadMessage, OSError) as error:
                log.error("%s: the front end's connection is unusable: %s", self.spec.name, str(error))
            finally:
                await self._hang_up(stream)
            if stream.received:  # one that said nothing only looked whether somebody serves here
                self._on_disconnect()
            stream = None

    async def _hang_up(self, stream: MessageStream) -> None:
        """The front end has gone, or has to: what it had set up ends with it."""
        self._stream = self._pending = None
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
        self._note()

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
            message = stream.peek()
            if message is None:
                await self._more(stream)
            else:
                await self._deal_with(stream, message)

    async def _deal_with(self, stream: MessageStream, message: Message, left: Sequence[Effect] | None = None) -> None:
        """`left` are the effects of one that another supervisor has begun with."""
        failed = False
        try:
            effects = self.session.receive(message) if left is None else left
            await self._perform_all(message, effects, begun=left is not None)
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

    async def _more(self, stream: MessageStream) -> None:
        """Waits for something to peek at. Only here is the socket looked at: a message stays in it until it is dealt
        with, which may take a while."""
        readable = asyncio.Event()
        self._loop.add_reader(stream.socket, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(stream.socket)

    async def _go_on(self, stream: MessageStream) -> None:
        """Finishes what another supervisor has begun to do for the last message."""
        match self._pending:
            case {"effects": said, "message": [request, flags, payload], "unread": unread}:
                message = Message(request, flags, bytes.fromhex(payload))
                message.unread = unread
                await self._deal_with(stream, message, [effect_named(*effect) for effect in said])
            case {"reply": [at, size], "unread": unread}:
                if size and self._outbox.holds(at):
                    if unread and _has_data(stream.socket):  # nothing else can be there before there is a reply
                        stream.take(unread)
                    self._outbox.send(stream.socket, size)
                self._pending = None

    def _reply(self, stream: MessageStream, message: Message, failed: bool) -> None:
        payload = self.session.answer(message, failed=failed)
        at, size = (0, 0) if payload is None else self._outbox.put(message.request, payload)
        self._pending = {"reply": [at, size], "unread": message.unread}
        self._note()
        if message.unread:
            stream.take(message.unread)
        self._outbox.send(stream.socket, size)
        self._pending = None

    async def _perform_all(self, message: Message, effects: Sequence[Effect], *, begun: bool = False) -> None:
        """`begun`: the first of them may have been performed already, in part or whole."""
        for position, effect in enumerate(effects):
            if isinstance(effect, RingStarted):
                vring = self.session.vrings[effect.index]
                if begun:  # the ring may be served already, and be further on
                    await self._stop_ring(vring)
                    vring.base = self._rings.base(vring)
                else:
                    self._rings.resume(vring)
            self._pending = {
                "effects": [effect_name(left) for left in effects[position:]],
                "message": [message.request, message.flags, message.payload.hex()],
                "unread": message.unread,
            }
            self._note()
            await self._perform(effect)
            begun = False

    async def _perform(self, effect: Effect) -> None:
        """Does it again to the same end, if it has been done."""
        worker, vrings = self.worker, self.session.vrings
        match effect:
            case MemoryChanged():
                if worker is not None:
                    worker.memory(self.session)
            case RingStarted(index):
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


def _has_data(sock: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        return bool(sock.recv(1, socket.MSG_PEEK))
    return False
