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
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from subos_protocol.vhost_user import HeaderFlag

from .. import registry
from ..errors import UserError
from ..processes import waits_for_disk
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
from .keeper import Keeper
from .link import Parent, WorkerLink
from .nurseries import Nursery
from .process_models import Model
from .restarts import RETRY, Restarts
from .sandbox.report import warning
from .throttle import Throttle
from .watchdog import Verdict, Watch
from .zygote import Zygote

MESSAGES_AT_ONCE = 32  # of one front end, before the event loop looks at everything else
PROGRAM_PATIENCE, LAST_WORDS = 10.0, 1.0  # seconds that another program has to say that it is ready, and to end
SOON = 1.0  # seconds between two tries of a quiet device whose driver begins anew
QUIET_HINT = (
    f"its driver waits, and nothing else does; a worker is tried every {RETRY:.0f} s, and when the guest sets the "
    "device up again (a reboot, say)"
)

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
        self.model = model
        self.faults = 0
        self.worker: WorkerLink | None = None
        self.session = Session(registry.build(spec))
        self._listener = listener
        self._zygote = zygote
        self._nursery = nursery
        self._renewed = False
        self._on_disconnect = on_disconnect
        self._counters_fd = Counters.create()
        self.counters = Counters(self._counters_fd)
        self._stream: MessageStream | None = None
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._restarts = Restarts()
        self._keeper: Keeper | None = None
        self._watch = Watch(self.session.device.limit)
        self._failure = ""
        self._last_words = ""
        self._reason, self._end = "", "nobody knows of what"
        """Of the last death: what the worker said, or what was done to it; else how its process ended."""
        self._quiet_since = 0.0
        self.sandbox: dict[str, Any] | None = None
        """What holds the worker, as it said itself before the guest could reach it."""
        self._respawn: asyncio.TimerHandle | None = None
        self._readable = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._telling = threading.Thread()

    async def start(self) -> None:
        """Starts the worker and waits until its device is ready. Raises UserError where it cannot be."""
        self._nursery.join(self)
        self._spawn(respawned=False)
        if self.model.command:
            await asyncio.wait([self._ready], timeout=PROGRAM_PATIENCE)
            if not self._ready.done():
                self._ready.set_exception(self._no_worker(f"is not ready after {PROGRAM_PATIENCE:g} s"))
        await self._ready
        self._listener.setblocking(False)
        self._task = self._loop.create_task(self._serve())
        self._task.add_done_callback(self._served)

    def _no_worker(self, why: str) -> UserError:
        hint = "a worker in another language: host_devices/README.md has what it hears and says"
        return UserError(f"the worker of {self.spec.name} {why}", hint if self.model.command else "")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._respawn is not None:
            self._respawn.cancel()
        if self.worker is not None:
            self.worker.close()
            if self.model.command:  # which may not heed the end of its socket
                self._loop.call_later(LAST_WORDS, self.worker.kill)
            self.worker = None
        if self._keeper is not None:
            self._keeper.close()
        self._nursery.leave(self)
        self._listener.close()
        self.session.close()
        os.close(self._counters_fd)
        for fd in self.spec.fds.values():
            os.close(fd)

    @property
    def connected(self) -> bool:
        return self._stream is not None

    @property
    def restarts(self) -> int:
        """How many workers have died."""
        return self._restarts.count

    def status(self) -> dict[str, Any]:
        """What `subos-devices status` shows of this device."""
        quiet = {"since": self._quiet_since, "reason": self._reason or self._end}
        return {
            "name": self.spec.name,
            "kind": self.spec.kind,
            "options": dict(self.spec.options),
            "connected": self.connected,
            "driver": any(vring.started for vring in self.session.vrings),
            "pid": self.worker.pid if self.worker else None,
            "process": str(self.model),
            "keeper": self._keeper.pid if self._keeper and self._keeper.alive else None,
            "quiet": quiet if self._restarts.quiet else None,
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
        self._last_words = ""
        self._restarts.born(self._loop.time(), self.counters.requests)
        self._watch = Watch(self.session.device.limit)
        self.worker = WorkerLink(
            self._parent(),
            self.spec,
            self._counters_fd,
            respawned=respawned,
            on_message=self._hear,
            on_death=self._died,
            on_end=self._ended,
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

    def _parent(self) -> Parent:
        """Who makes its next worker."""
        if self.model != Model() or not self.session.device.keeps:
            return self._nursery
        if self._keeper is None or not self._keeper.hear():
            self._keeper = Keeper(
                self._zygote, self.spec, self._counters_fd, on_failure=self._hear, on_gone=self._lost_keeper
            )
        return self._keeper

    def _lost_keeper(self) -> None:
        if self.worker is not None:
            self.worker.let_go()

    def _hear(self, message: dict[str, Any]) -> None:
        said = printable(str(message.get("message")))  # it may be in a hostile guest's hands
        match message["op"]:
            case "jailed":  # from where another program is executed
                self._is_jailed(message)
            case "ready":
                self._restarts.ready()
                self._is_jailed(message)
                if not self._ready.done():
                    self._ready.set_result(None)
            case "failed":
                error = UserError(said, printable(str(message.get("hint", ""))))
                if not self._ready.done():
                    self._ready.set_exception(error)
                elif said != self._failure:
                    log.error("%s: the device cannot start again: %s", self.spec.name, said)
                    self._failure = said
                self._last_words = said
            case "fault":
                index = message.get("index")
                if isinstance(index, int) and 0 <= index < len(self.session.vrings):
                    self._fault(self.session.vrings[index], said)
            case "log":
                log.warning("%s: %s", self.spec.name, said)
                self._last_words = said
            case "pong":
                self._watch.answered()

    def _is_jailed(self, message: dict[str, Any]) -> None:
        if self.sandbox is None:  # what it says later may be the guest's words
            self.sandbox = _understood(message.get("sandbox"))
            self._zygote.tell_once(warning(self.sandbox))

    def _fault(self, vring: Vring, reason: str) -> None:
        self.faults += 1
        log.error("%s: the guest's driver broke its ring: %s", self.spec.name, reason)
        if vring.err >= 0 and not self._telling.is_alive():
            # On a thread: it is whatever descriptor the front end gave, and may fill up just before it is written to.
            self._telling = threading.Thread(target=_signal, args=(os.dup(vring.err),), daemon=True)
            self._telling.start()

    def _ended(self, status: int) -> None:
        """The last worker's exit status; its socket has closed already, or does next."""
        if status == -signal.SIGSYS:
            log.error(
                "%s: its worker was killed by its sandbox: it made a system call that a device of its kind does not "
                "need (--seccomp log lets it, and the kernel's log then has the number: dmesg | grep type=1326)",
                self.spec.name,
            )
        self._end = f"ended by signal {-status}" if status < 0 else f"ended with status {status}"

    def _died(self) -> None:
        if self._keeper is not None:
            self._keeper.hear()  # what it has said before its socket closed
        self.worker = None
        self._reason = self._last_words
        if self._renewed:
            self._renewed = False
            self._spawn(respawned=self._ready.done())
            return
        if not self._ready.done():
            self._ready.set_exception(self._no_worker("died while it started"))
        if self._ready.exception() is not None:
            return  # it never served; `start` says why
        was_quiet = self._restarts.quiet
        delay = self._restarts.died(self._loop.time(), self.counters.requests, owing=self._is_owing())
        if self._keeper is not None and self._restarts.poisoned:
            self._keeper.close()  # what it keeps may be what they die of
            self._keeper = None
        if not self._restarts.quiet:
            log.warning("%s: its worker died; the next one starts %s", self.spec.name, _when(delay))
        elif not was_quiet:
            self._quiet_since = time.time()
            why = (self._reason or self._end).partition(" (at ")[0]
            log.error("%s: its workers die again and again (%s): %s", self.spec.name, why, QUIET_HINT)
        if delay:
            self._respawn = self._loop.call_later(delay, lambda: self._spawn(respawned=True))
        else:
            self._spawn(respawned=True)

    def look(self) -> None:
        """To be called every watchdog.PERIOD: a worker that hangs is killed; a device with one that lives is quiet no
        longer."""
        worker, now = self.worker, self._loop.time()
        if worker is None:
            return
        owing = self._is_owing()
        if self._restarts.quiet and self._restarts.lives(now, self.counters.requests, owing=owing):
            self._restarts.recovered()
            log.warning("%s: its worker lives, and serves again", self.spec.name)
        counters = self.counters
        words = [counters.requests, counters.wakeups, *(word for ring in self._running() for word in ring)]
        match self._watch.look(now, words, busy=owing or bool(counters.busy)):
            case Verdict.PING:
                worker.ping()
            case Verdict.HANGS if not waits_for_disk(worker.pid):
                log.error("%s: its worker hangs, and is replaced", self.spec.name)
                self._last_words = "it hung"
                worker.kill()

    def _is_owing(self) -> bool:
        """Whether the driver waits for an answer that no chain of `vhost_user.deferred` stands for."""
        standing = self.session.device.standing
        return any(
            (available - used - deferred) & 0xFFFF
            for index, available, used, deferred in self._running()
            if index not in standing
        )

    def _running(self) -> Iterator[tuple[int, int, int, int]]:
        """Of each ring that can be served: its index, `avail.idx`, `used.idx`, and how many chains wait."""
        for vring in self.session.vrings:
            if not vring.started or not vring.enabled:
                continue
            try:
                available = self.session.ring_index(vring, "avail")
                used = self.session.ring_index(vring, "used")
            except TransportError:
                continue  # a newer memory table has left it outside
            yield vring.index, available, used, len(self.counters.deferred(vring.index))

    # --- what a group asks

    @property
    def is_served(self) -> bool:
        return self.worker is not None

    def renew(self) -> None:
        if self.worker is not None:
            self._renewed = True
            self.worker.kill()

    def hurry(self) -> None:
        if self._respawn is not None:
            self._respawn.cancel()
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
                self._try_soon()
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

    def _try_soon(self) -> None:
        """A driver begins anew: what the last workers have died of may be gone."""
        soon = self._loop.time() + SOON
        if self._restarts.quiet and self._respawn is not None and self._respawn.when() > soon:
            self._respawn.cancel()
            self._respawn = self._loop.call_at(soon, lambda: self._spawn(respawned=True))

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


def _when(delay: float) -> str:
    return f"in {delay} s" if delay else "now"


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
