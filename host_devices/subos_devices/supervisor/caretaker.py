"""The care of one device's workers: their births, their deaths, the watchdog, and the quiet that follows too many."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import UserError
from ..processes import waits_for_disk
from ..text import printable
from ..vhost_user.device import DeviceSpec
from ..vhost_user.errors import TransportError
from ..vhost_user.session import Vring
from .faults import Faults
from .household import Household
from .ledger import Record
from .link import WorkerLink
from .nurseries import Nursery
from .process_models import Model
from .restarts import RETRY, Restarts
from .rings import Rings
from .sandbox.report import understood, warning
from .watchdog import Verdict, Watch
from .zygote import Zygote

PROGRAM_PATIENCE = 10.0  # seconds that another program has to say that it is ready
LATER = 5.0  # seconds until the next worker is asked for where nobody could be asked
SOON = 1.0  # seconds between two tries of a quiet device whose driver begins anew
QUIET_HINT = (
    f"its driver waits, and nothing else does; a worker is tried every {RETRY:.0f} s, and when the guest sets the "
    "device up again (a reboot, say)"
)

log = logging.getLogger("subos")


class Caretaker:
    """Sees to it that the device of `spec` has a worker, which serves `rings`; one that dies or hangs is replaced.
    `counters` is the descriptor of its counters."""

    def __init__(
        self,
        spec: DeviceSpec,
        rings: Rings,
        counters: int,
        faults: Faults,
        zygote: Zygote,
        *,
        model: Model,
        nursery: Nursery,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_change` is called when `record` is another one."""
        self.spec = spec
        self.sandbox: dict[str, Any] | None = None
        """What holds the worker, as it said itself before the guest could reach it."""
        self._rings = rings
        self._faults = faults
        self._zygote = zygote
        self._model = model
        self._nursery = nursery
        self.on_change = on_change
        self.household = Household(spec, counters, zygote, model, nursery, lambda: rings.session.device, self)
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._restarts = Restarts()
        self._respawn: asyncio.TimerHandle | None = None
        self._renewed = self._forsaken = False
        self._watch = Watch(self._limit)
        self._failure = ""
        self._last_words = ""
        self._reason, self._end = "", "nobody knows of what"
        self._status: int | None = None
        """How the last worker has ended, once and if that is known; always in time for a keeper's."""
        """Of the last death: what the worker said, or what was done to it; else how its process ended."""
        self._quiet_since = 0.0

    async def start(self) -> None:
        """Starts a worker and waits until its device is ready. Raises UserError where it cannot be."""
        self._nursery.join(self)
        self._spawn(respawned=False)
        if self._model.command:
            await asyncio.wait([self._ready], timeout=PROGRAM_PATIENCE)
            if not self._ready.done():
                self._ready.set_exception(self._no_worker(f"is not ready after {PROGRAM_PATIENCE:g} s"))
        await self._ready

    def restore(self, record: Record, fds: Mapping[str, int]) -> None:
        """Goes on where another supervisor has left off: with the worker and the keeper that it noted, or another
        worker. `fds` are those that it noted, which become its own."""
        self._ready.set_result(None)
        self._restarts.count = record["restarts"]
        self._faults.count = record["faults"]
        self._nursery.join(self)
        if self.household.adopt(record, fds):
            self.sandbox = record["sandbox"]
            self._restarts.born(self._loop.time(), self._requests)
            self._restarts.ready()
            if record["forsaken"] and self.worker is not None:
                self._forsaken = True
                self.worker.kill()
        else:
            if record["forsaken"]:
                self.household.keepers.close()
            self._spawn(respawned=True)

    def record(self) -> Record:
        """What a successor needs; the household's `descriptors` go with it."""
        said = {"restarts": self.restarts, "faults": self._faults.count, "sandbox": self.sandbox}
        said["forsaken"] = self._forsaken
        return {**said, **self.household.record()}

    def close(self) -> None:
        """Lets go of worker and keeper, and makes no more."""
        if self._respawn is not None:
            self._respawn.cancel()
        self.household.close()
        self._nursery.leave(self)

    @property
    def worker(self) -> WorkerLink | None:
        return self.household.worker

    @property
    def restarts(self) -> int:
        """How many workers have died."""
        return self._restarts.count

    def status(self) -> dict[str, Any]:
        """Its part of what `DeviceServer.status` says."""
        quiet = {"since": self._quiet_since, "reason": self._reason or self._end}
        return {
            "pid": self.worker.pid if self.worker else None,
            "process": str(self._model),
            "keeper": self.household.keepers.pid,
            "quiet": quiet if self._restarts.quiet else None,
            "restarts": self.restarts,
            "faults": self._faults.count,
            "sandbox": self.sandbox,
        }

    async def front_end_gone(self) -> None:
        """What was kept for it goes, too: the worker says that it has dropped all, or the next one begins with nothing.
        That is waited for, so that the next front end finds none of it."""
        worker = self.worker
        if worker is None:
            self.household.keepers.close()
            return
        worker.memory(self._rings.session)  # none
        if not self.household.keeps:
            return
        self._forsaken = True  # should it die over it
        self.on_change()
        if not worker.told:
            worker.kill()  # it was made to go on with what there is
        elif await worker.stop(0, self._rings.session.device.patience):
            self._forsaken = False

    # --- births

    def _spawn(self, *, respawned: bool) -> None:
        self._respawn = None
        self.sandbox = None
        self._last_words, self._status = "", None
        self._restarts.born(self._loop.time(), self._requests)
        self._watch = Watch(self._limit)
        try:
            self.household.ask(respawned=respawned)
        except OSError as error:  # out of descriptors, say: nobody could be asked
            if not self._ready.done():
                self._ready.set_exception(self._no_worker(f"cannot be asked for: {error.strerror}"))
                return
            log.error("%s: no worker can be asked for now: %s", self.spec.name, error.strerror)
            self._respawn = self._loop.call_later(LATER, lambda: self._spawn(respawned=respawned))

    def on_birth(self) -> None:
        """The next worker goes on with what there is."""
        session = self._rings.session
        if self.worker is not None and session.memory is not None:
            self.worker.memory(session)
        for vring in session.vrings:
            if vring.started:
                try:
                    self.start_ring(vring, base=self._rings.base(vring))
                except TransportError as error:
                    self._faults.tell(vring, error.message)  # a newer memory table has left it outside
        if self.household.is_settled:
            self.on_change()

    def start_ring(self, vring: Vring, base: int) -> None:
        """Has the worker serve the ring from `base` on. Raises BadMemory where it lies outside guest memory."""
        session = self._rings.session
        if self.worker is not None and session.memory is not None:
            self.worker.start(vring, session.memory, base=base, event_idx=session.event_idx)

    def try_soon(self) -> None:
        """A driver begins anew: what the last workers have died of may be gone."""
        soon = self._loop.time() + SOON
        if self._restarts.quiet and self._respawn is not None and self._respawn.when() > soon:
            self._respawn.cancel()
            self._respawn = self._loop.call_at(soon, lambda: self._spawn(respawned=True))

    # --- what a worker says

    def on_message(self, message: dict[str, Any]) -> None:
        vrings = self._rings.session.vrings
        said = printable(str(message.get("message")))  # it may be in a hostile guest's hands
        match message["op"]:
            case "jailed":  # from where another program is executed
                self._is_jailed(message)
            case "ready":
                self._restarts.ready()
                self._is_jailed(message)
                self.household.ready()
                if not self._ready.done():
                    self._ready.set_result(None)
                elif self.household.is_settled:
                    self.on_change()
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
                if isinstance(index, int) and 0 <= index < len(vrings):
                    self._faults.tell(vrings[index], said)
            case "log":
                log.warning("%s: %s", self.spec.name, said)
                self._last_words = said
            case "pong":
                self._watch.answered()

    def _is_jailed(self, message: dict[str, Any]) -> None:
        if self.sandbox is None:  # what it says later may be the guest's words
            self.sandbox = understood(message.get("sandbox"))
            self._zygote.tell_once(warning(self.sandbox))

    def _no_worker(self, why: str) -> UserError:
        hint = "a worker in another language: host_devices/README.md has what it hears and says"
        return UserError(f"the worker of {self.spec.name} {why}", hint if self._model.command else "")

    # --- deaths

    def on_end(self, status: int) -> None:
        """The last worker's exit status; its socket has closed already, or does next."""
        if status == -signal.SIGSYS:
            log.error(
                "%s: its worker was killed by its sandbox: it made a system call that a device of its kind does not "
                "need (--seccomp log lets it, and the kernel's log then has the number: dmesg | grep type=1326)",
                self.spec.name,
            )
        self._status = status
        self._end = f"ended by signal {-status}" if status < 0 else f"ended with status {status}"

    def on_death(self) -> None:
        self.household.keepers.hear()  # what was said before its socket closed
        worker, self.household.worker = self.household.worker, None
        self._reason = self._last_words
        if self._forsaken:
            self._forsaken = False
            self.household.keepers.close()
        if self._renewed:
            self._renewed = False
            self._spawn(respawned=self._ready.done())
            return
        if not self._ready.done():
            self._ready.set_exception(self._no_worker("died while it started"))
        if self._ready.exception() is not None:
            return  # it never served; `start` says why
        was_quiet = self._restarts.quiet
        killed = self._status == -signal.SIGKILL and worker is not None and not worker.killed
        delay = self._restarts.died(self._loop.time(), self._requests, owing=self._rings.is_owing, killed=killed)
        if self._restarts.poisoned:
            self.household.keepers.close()  # what it keeps may be what they die of
        self.on_change()
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

    # --- the watchdog

    def look(self) -> None:
        """To be called every watchdog.PERIOD: a worker that hangs is killed; a device with one that lives is quiet no
        longer."""
        worker, now = self.worker, self._loop.time()
        if worker is None:
            return
        owing, counters = self._rings.is_owing, self._rings.counters
        if self._restarts.quiet and self._restarts.lives(now, self._requests, owing=owing):
            self._restarts.recovered()
            log.warning("%s: its worker lives, and serves again", self.spec.name)
        words = [counters.requests, counters.wakeups, *(word for ring in self._rings.running() for word in ring)]
        match self._watch.look(now, words, busy=owing or bool(counters.busy)):
            case Verdict.PING:
                worker.ping()
            case Verdict.HANGS if not waits_for_disk(worker.pid):
                log.error("%s: its worker hangs, and is replaced", self.spec.name)
                self._last_words = "it hung"
                worker.kill()

    @property
    def _limit(self) -> float:
        return self._rings.session.device.limit

    @property
    def _requests(self) -> int:
        return self._rings.counters.requests

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


def _when(delay: float) -> str:
    return f"in {delay} s" if delay else "now"
