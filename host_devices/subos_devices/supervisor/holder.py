"""The launcher's end of the supervisor, which is a process of its own and may be killed and replaced at any time.

holder = Holder.start("rng")                 # early: the zygote and the supervisor load while we do
async with holder:
    await holder.add(DeviceSpec("rng", "rng0"), listener)
    await holder.restart()

The holder keeps what ledger.py says: a copy of each descriptor of each device, so that the death of a supervisor ends
no connection. The next one is handed all of it, and what had been asked of the last one is asked of it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import SubosError, UserError
from ..processes import memory_file, pss
from ..vhost_user.device import DeviceSpec
from .held_zygote import LONGEST, HeldZygote
from .ledger import FORMAT
from .mirror import Mirror
from .packets import Message
from .process_models import Models
from .requests import Requests
from .restarts import Restarts
from .sandbox.policies import AUTO, Choice
from .supervisor_link import Begun, SupervisorFailed, SupervisorLink, begin, bury
from .throttle import Throttle

READY_PATIENCE = 30.0  # seconds that a supervisor may take to load what it needs
TAKE_PATIENCE = 20.0  # seconds until it has taken over
SUCCESSION_PATIENCE = 60.0  # seconds that whoever wants another one waits for one that serves
CLOSE_PATIENCE = 20.0  # seconds until it has let go of all devices, when all ends
PING = 5.0  # seconds between two looks at whether it answers
MISSES = 2  # looks after which one that has not answered hangs
DESCRIPTORS = 1 << 20  # that the launcher may have open, if it may have any number
TRIES = 2  # take-overs that fail until the next one begins without the workers that there are
NEXT_HINT = "the one that serves goes on; once the new version is installed whole, try again"

log = logging.getLogger("subos")
log.addFilter(Throttle())
said = logging.getLogger("subos.supervisor")  # which has been through a throttle already


class Succession(NamedTuple):
    """One supervisor in the place of another: their pids and versions, and how long there was none."""

    old: int
    new: int
    milliseconds: float
    old_version: str
    new_version: str


class Holder:
    """Serves devices by a supervisor until it is closed. Everything runs on the event loop that it is entered on."""

    def __init__(self, zygote: HeldZygote, begun: Begun) -> None:
        self.sandbox: Choice = AUTO
        """How the workers are jailed. It and `models` are taken in when the holder is entered."""
        self.models = Models()
        self.devices: dict[str, Mirror] = {}
        self.on_disconnect: Callable[[], None] = lambda: None
        """Called whenever a device's front end has gone."""
        self.restarts = 0
        """How many supervisors another one has come after."""
        self._zygote = zygote
        self._begun: Begun | None = begun
        self._link: SupervisorLink | None = None
        self._has_order = False
        """It has been told to take over."""
        self._next: SupervisorLink | None = None
        """One that is ready to come after it."""
        self._serving: asyncio.Event
        self._reign: asyncio.Task[None] | None = None
        self._fault: SupervisorFailed | None = None
        self._requests = Requests(self.devices, self._asked)
        self._look: asyncio.TimerHandle | None = None
        self._misses = 0
        self._restarting: asyncio.Lock

    @classmethod
    def start(cls, *kinds: str) -> Holder:
        """Starts the zygote and the supervisor, which load these kinds of devices at once. Raises OSError."""
        zygote = HeldZygote(*kinds)
        try:
            return cls(zygote, begin(kinds))
        except OSError:
            zygote.close()
            raise

    async def __aenter__(self) -> Holder:
        self._serving, self._restarting = asyncio.Event(), asyncio.Lock()
        _make_room()
        self._zygote.watch(self._renewed_zygote)
        self._reign = asyncio.ensure_future(self._keep_one())
        self._reign.add_done_callback(_tell_fault)
        self._look_later()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Has the supervisor let go of all devices, and ends it, and then the zygote."""
        try:
            if self._reign is not None:
                self._reign.cancel()
                await asyncio.gather(self._reign, return_exceptions=True)
            if self._link is not None and self._serving.is_set():
                self._link.send({"op": "close"})
                if not await self._link.ended(CLOSE_PATIENCE):
                    log.error("the supervisor does not end, and is killed")
        finally:
            self.close()

    def close(self) -> None:
        """Ends all at once, also where it was never entered."""
        if self._look is not None:
            self._look.cancel()
        if self._begun is not None:
            bury(*self._begun)
            self._begun = None
        for link in (self._link, self._next):
            if link is not None:
                link.close()
        self._requests.fail(SubosError("the supervisor has ended"))
        for name in list(self.devices):
            self.devices.pop(name).close()
        self._zygote.close()

    # --- what the launcher wants

    async def add(self, spec: DeviceSpec, listener: socket.socket) -> Mirror:
        """Has one more device served on `listener`, which becomes the holder's, as do the spec's descriptors.

        Raises UserError for a name in use, a bad option, or a device that cannot start.
        """
        mirror = Mirror(spec, listener)
        if spec.name in self.devices:
            mirror.close()
            raise UserError(f"two devices are called {spec.name!r}")
        self.devices[spec.name] = mirror
        await self._requests.ask({"op": "add", "spec": mirror.plain()}, spec.name)
        return mirror

    async def remove(self, name: str) -> None:
        """Raises KeyError where there is no such device."""
        mirror = self.devices[name]
        under_way = self._requests.under_way(name)
        if under_way:
            await asyncio.wait(under_way)
        if self.devices.get(name) is mirror:  # otherwise it could not be added, or is removed already
            await self._requests.ask({"op": "remove", "name": name}, name)

    async def status_and_memory(self) -> tuple[list[dict[str, Any]], dict[str, int | None]]:
        """As `Supervisor.status_and_memory`, and what the `launcher` costs."""
        lines, memory = await self._requests.ask({"op": "status"})
        return lines, {**memory, "launcher": await asyncio.to_thread(_own_memory)}

    def status(self) -> dict[str, Any]:
        """Of the supervisor: its pid, version, and how many there were before it."""
        link = self._link
        return {
            "pid": link.pid if link is not None and self._serving.is_set() else None,
            "version": link.version if link is not None else "",
            "restarts": self.restarts,
        }

    async def restart(self) -> Succession:
        """Has another supervisor go on, of the version that is installed now. The one that serves is killed once that
        is ready. Raises UserError where it does not get ready, and then the old one serves on."""
        async with self._restarting:
            await self._until_serving()
            try:
                link = SupervisorLink(begin(self._kinds()), lambda message: self._hear(link, message))
            except OSError as error:
                raise UserError(f"no other supervisor can be started: {error.strerror}", NEXT_HINT) from error
            try:
                format_ = await link.ready(READY_PATIENCE)
                if format_ != FORMAT:
                    raise SupervisorFailed(
                        f"version {link.version} cannot go on with what version {self._version} has begun"
                    )
                await self._until_serving()  # one that has died meanwhile has a successor of its own
            except SupervisorFailed as error:
                link.close()
                hint = (
                    NEXT_HINT
                    if link.version == ""
                    else "the one that serves goes on; the VM gets that version when it is started anew"
                )
                raise UserError(f"the next supervisor does not serve: {error.message}", hint) from error
            except BaseException:
                link.close()
                raise
            return await self._succeed(link)

    async def _succeed(self, link: SupervisorLink) -> Succession:
        old = self._link
        assert old is not None
        loop = asyncio.get_running_loop()
        self._next = link
        self._serving.clear()
        began = loop.time()
        old.kill()
        try:
            async with asyncio.timeout(SUCCESSION_PATIENCE):
                await self._until_serving()
        except TimeoutError:
            said = f"no supervisor has come to serve in {SUCCESSION_PATIENCE:g} s"
            raise UserError(
                said, "the workers serve on, and another is tried again and again: see what run says"
            ) from None
        new = self._link
        assert new is not None
        return Succession(old.pid, new.pid, (loop.time() - began) * 1000, old.version, new.version)

    def _kinds(self) -> set[str]:
        """Of the devices that the next supervisor is going to have, and may have."""
        return {*self._zygote.kinds, *(mirror.spec.kind for mirror in self.devices.values())}

    @property
    def _version(self) -> str:
        return self._link.version if self._link is not None else ""

    # --- one supervisor after the other

    async def _keep_one(self) -> None:
        """Has a supervisor serve, always. Ends with `_fault` where not even the first one comes to serve."""
        restarts, loop = Restarts(), asyncio.get_running_loop()
        starts, failures, served = 0, 0, False
        while True:
            restarts.born(loop.time(), 0)
            try:
                link = self._link = self._successor()
                await self._hand_over(link)
            except (SupervisorFailed, OSError) as error:
                why = error.message if isinstance(error, SupervisorFailed) else f"it cannot be started: {error}"
                if self._link is not None:
                    self._link.close()
                starts += 1
                if not served and starts > TRIES:
                    self._give_up(SupervisorFailed(f"the supervisor does not serve: {why}", "subos-devices doctor"))
                    return
                log.error("a supervisor does not come to serve: %s", why)
                failures += self._has_order
                if self._has_order and failures % TRIES == 0:
                    self._zygote.renew()  # what its workers are, or say, may be why
            else:
                restarts.ready()
                failures, served, self._misses = 0, True, 0
                self._serving.set()
                self._requests.ask_again(link)
                await link.ended()
                self._serving.clear()
                if self._next is not None:
                    self.restarts += 1
                    continue
                log.warning("the supervisor %s; the next one goes on with its devices", link.end)
            self.restarts += 1
            delay = min(restarts.died(loop.time(), 0, owing=False), LONGEST)
            if delay:
                await asyncio.sleep(delay)

    def _successor(self) -> SupervisorLink:
        """One that is ready, or the one that was started first, or another. Raises OSError."""
        self._link, self._has_order = None, False
        if self._next is not None:
            link, self._next = self._next, None
            return link
        begun, self._begun = self._begun, None
        if begun is None:
            begun = begin(self._kinds())
        link = SupervisorLink(begun, lambda message: self._hear(link, message))
        return link

    async def _hand_over(self, link: SupervisorLink) -> None:
        """Raises SupervisorFailed, OSError."""
        if not link.version and await link.ready(READY_PATIENCE) != FORMAT:
            raise SupervisorFailed(f"version {link.version} cannot go on with what another one has begun")
        await self._zygote.living()
        handed = [(mirror, held) for mirror in self.devices.values() if (held := mirror.held) is not None]
        for mirror in self.devices.values():
            if mirror.held is None:
                mirror.forget()
                if mirror.served:
                    self._requests.note({"op": "add", "spec": mirror.plain()}, mirror.spec.name)
        order = {
            "op": "take over",
            "sandbox": self.sandbox,
            "models": self.models.plain(),
            "level": log.getEffectiveLevel(),
            "devices": len(handed),
            "zygote": {"pid": self._zygote.pid, "kinds": self._zygote.kinds, "used": self._zygote.used},
        }
        self._zygote.used = self._has_order = True
        link.send(order, [self._zygote.channel])
        for mirror, held in handed:
            body = {"op": "device", "spec": mirror.plain(), "record": held.record, "held": list(held.fds)}
            link.send(body, [*mirror.own_fds(), *held.fds.values()])
        await link.taken(TAKE_PATIENCE)

    def _renewed_zygote(self) -> None:
        if self._link is not None and self._has_order:
            self._zygote.used = True
            self._link.send({"op": "zygote", "pid": self._zygote.pid}, [self._zygote.channel])

    def _give_up(self, fault: SupervisorFailed) -> None:
        self._fault = fault
        self._serving.set()
        self._requests.fail(fault)

    def _asked(self) -> SupervisorLink | None:
        """Who serves, if anybody does."""
        return self._link if self._serving.is_set() else None

    async def _until_serving(self) -> None:
        """Raises SupervisorFailed where none ever does."""
        await self._serving.wait()
        if self._fault is not None:
            raise self._fault

    # --- what a supervisor says

    def _hear(self, link: SupervisorLink, message: Message) -> None:
        body = message.body
        match body["op"]:
            case "note":
                self._note(body["name"], message)
            case "forget":
                self._forget(body["name"])
            case "answer":
                error = body.get("error")
                self._requests.finish(body["id"], UserError(*error) if error is not None else body["result"])
            case "log":
                said.log(int(body["level"]), "%s", body["message"])
            case "pong":
                self._misses = 0

    def _note(self, name: str, message: Message) -> None:
        mirror = self.devices.get(name)
        if mirror is None:
            return
        connected = mirror.connected
        if message.complete:
            mirror.note(message)
        else:
            log.error("%s: no descriptors are left to hold it by: it ends with its supervisor (ulimit -n)", name)
            mirror.lose()
        if connected and not mirror.connected:
            self.on_disconnect()

    def _forget(self, name: str) -> None:
        mirror = self.devices.get(name)
        if mirror is None:
            return
        connected = mirror.connected
        if mirror.served:
            self.devices.pop(name).close()
            self._requests.removed(name)
        else:
            mirror.forget()  # it could not be added, which is said next
        if connected:
            self.on_disconnect()

    # --- whether it lives

    def _look_later(self) -> None:
        self._look = asyncio.get_running_loop().call_later(PING, self._look_now)

    def _look_now(self) -> None:
        self._look_later()
        link = self._link
        if link is None or not self._serving.is_set() or self._fault is not None:
            self._misses = 0
            return
        link.look()  # what it says may have waited for us
        if self._misses >= MISSES:
            log.error("the supervisor hangs, and is ended")
            self._misses = 0
            link.kill()
            return
        if self._misses == 0:
            link.send({"op": "ping"})
        self._misses += 1


def _make_room() -> None:
    """A device takes some twenty descriptors here, and 1024, the usual limit, are few for fifty of them. And who may
    have fewer open than a worker may can be kept from passing any on: the kernel counts those on their way for a user.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _tell_fault(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("a fault of ours: no supervisor is started any more", exc_info=task.exception())


def _own_memory() -> int | None:
    """What this process costs, in bytes, if it can be seen."""
    with contextlib.suppress(OSError):
        fd = memory_file(os.getpid())
        try:
            return pss(fd)
        finally:
            os.close(fd)
    return None
