"""One supervisor after the other: which one serves, and how the next one comes in its place.

There is one way, whether the last one was killed, hung or was replaced on purpose: the next process loads what it
needs, is told to take over, and is handed the record and the descriptors of each device.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..errors import UserError
from .held_zygote import LONGEST, HeldZygote
from .ledger import FORMAT
from .mirror import Mirror
from .packets import Message
from .requests import Requests
from .restarts import Restarts
from .supervisor_link import Begun, SupervisorFailed, SupervisorLink, begin, bury

READY_PATIENCE = 30.0  # seconds that a supervisor may take to load what it needs
TAKE_PATIENCE = 20.0  # seconds until it has taken over
SUCCESSION_PATIENCE = 60.0  # seconds that whoever wants another one waits for one that serves
TRIES = 2  # take-overs that fail until the next one begins without the workers that there are
NEXT_HINT = "the one that serves goes on; once the new version is installed whole, try again"
OTHER_HINT = "the one that serves goes on; the VM gets that version when it is started anew"
UNSERVED_HINT = "QEMU's connections stay, and another one is tried again and again: the VM's own messages say why"

log = logging.getLogger("subos")


class Succession(NamedTuple):
    """One supervisor in the place of another: their pids and versions, and how long there was none."""

    old: int
    new: int
    milliseconds: float
    old_version: str
    new_version: str


class Reign:
    """`begun` is the first one's process. Each gets the `devices` of the one before, and the `terms` by which it makes
    workers; `hear` is called with what it says, and `requests` with who is to be asked."""

    def __init__(
        self,
        begun: Begun,
        devices: Mapping[str, Mirror],
        zygote: HeldZygote,
        requests: Requests,
        terms: Callable[[], Mapping[str, Any]],
        hear: Callable[[Message], None],
    ) -> None:
        self.restarts = 0
        """How many supervisors another one has come after."""
        self.link: SupervisorLink | None = None
        """The one that serves, or is to serve next."""
        self._begun: Begun | None = begun
        self._devices = devices
        self._zygote = zygote
        self._requests = requests
        self._terms = terms
        self._hear = hear
        self._has_order = False
        """`link` has been told to take over."""
        self._next: SupervisorLink | None = None
        """One that is ready to come after it."""
        self._fault: SupervisorFailed | None = None
        self._task: asyncio.Task[None] | None = None
        self._serving: asyncio.Event
        self._restarting: asyncio.Lock

    def begin(self) -> None:
        """From now on there is one that serves, always."""
        self._serving, self._restarting = asyncio.Event(), asyncio.Lock()
        self._zygote.watch(self._renewed_zygote)
        self._task = asyncio.ensure_future(self._keep_one())
        self._task.add_done_callback(_tell_fault)

    async def end(self) -> None:
        """No other one comes after the one that there is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def close(self) -> None:
        """Ends what there is of processes."""
        if self._begun is not None:
            bury(*self._begun)
            self._begun = None
        for link in (self.link, self._next):
            if link is not None:
                link.close()

    def serving(self) -> SupervisorLink | None:
        """Who serves, if anybody does."""
        return self.link if self._task is not None and self._serving.is_set() and self._fault is None else None

    # --- another one, on purpose

    async def succeed(self) -> Succession:
        """Has another one go on, of the version that is installed now. The one that serves is killed once that is
        ready. Raises UserError where it does not get ready, and then the old one serves on; or where, for a minute,
        none serves at all."""
        async with self._restarting:
            await self._until_serving()
            if self._task is None or self._task.done():
                raise UserError("nobody starts supervisors any more, by a fault of ours", "please report it")
            try:
                link = SupervisorLink(begin(self._kinds()), self._hear)
            except OSError as error:
                raise UserError(f"no other supervisor can be started: {error.strerror}", NEXT_HINT) from error
            try:
                if await link.ready(READY_PATIENCE) != FORMAT:
                    raise SupervisorFailed(
                        f"version {link.version} cannot go on with what version {self._version} has begun"
                    )
                await self._until_serving()  # one that has died meanwhile has a successor of its own
            except SupervisorFailed as error:
                link.close()
                hint = OTHER_HINT if link.version else NEXT_HINT
                raise UserError(f"the next supervisor does not serve: {error.message}", hint) from error
            except BaseException:
                link.close()
                raise
            return await self._replace(link)

    async def _replace(self, link: SupervisorLink) -> Succession:
        old = self.link
        assert old is not None
        loop = asyncio.get_running_loop()
        self._next = link
        self._serving.clear()
        began = loop.time()
        old.kill()
        await self._until_serving()
        new = self.link
        assert new is not None
        return Succession(old.pid, new.pid, (loop.time() - began) * 1000, old.version, new.version)

    @property
    def _version(self) -> str:
        return self.link.version if self.link is not None else ""

    async def _until_serving(self) -> None:
        """Raises SupervisorFailed where none ever does, UserError where none does for too long."""
        try:
            async with asyncio.timeout(SUCCESSION_PATIENCE):
                await self._serving.wait()
        except TimeoutError:
            said = f"no supervisor has come to serve in {SUCCESSION_PATIENCE:g} s"
            raise UserError(said, UNSERVED_HINT) from None
        if self._fault is not None:
            raise self._fault

    # --- one after the other

    async def _keep_one(self) -> None:
        """Has a supervisor serve, always. Ends with a `_fault` where not even the first one comes to serve."""
        restarts, loop = Restarts(), asyncio.get_running_loop()
        starts, failures, served = 0, 0, False
        while True:
            restarts.born(loop.time(), 0)
            try:
                link = self.link = self._successor()
                await self._hand_over(link)
            except (SupervisorFailed, OSError) as error:
                why = error.message if isinstance(error, SupervisorFailed) else f"it cannot be started: {error}"
                if self.link is not None:
                    self.link.close()
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
                failures, served = 0, True
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
        self.link, self._has_order = None, False
        if self._next is not None:
            link, self._next = self._next, None
            return link
        begun, self._begun = self._begun, None
        if begun is None:
            begun = begin(self._kinds())
        return SupervisorLink(begun, self._hear)

    def _kinds(self) -> set[str]:
        """Of the devices that the next one is going to have, and may have."""
        return {*self._zygote.kinds, *(mirror.spec.kind for mirror in self._devices.values())}

    async def _hand_over(self, link: SupervisorLink) -> None:
        """Raises SupervisorFailed, OSError."""
        if not link.version and await link.ready(READY_PATIENCE) != FORMAT:
            raise SupervisorFailed(f"version {link.version} cannot go on with what another one has begun")
        await self._zygote.living()
        handed = [(mirror, held) for mirror in self._devices.values() if (held := mirror.held) is not None]
        for mirror in self._devices.values():
            if mirror.held is None:
                mirror.forget()
                if mirror.served:
                    self._requests.note({"op": "add", "spec": mirror.plain()}, mirror.spec.name)
        order = {
            "op": "take over",
            **self._terms(),
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
        if self.link is not None and self._has_order:
            self._zygote.used = True
            self.link.send({"op": "zygote", "pid": self._zygote.pid}, [self._zygote.channel])

    def _give_up(self, fault: SupervisorFailed) -> None:
        self._fault = fault
        self._serving.set()
        self._requests.fail(fault)


def _tell_fault(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("a fault of ours: no supervisor is started any more", exc_info=task.exception())
