"""The processes of one device: its worker and, where it has one, its keeper; how they are come by, and how another
supervisor comes by those that live."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..vhost_user.device import Device, DeviceSpec
from .desk import Desk, allowance
from .keeper import Keepers
from .ledger import Record
from .link import Parent, WorkerLink
from .nurseries import Nursery
from .process_models import INLINE, Model
from .zygote import Wanted, Zygote

LAST_WORDS = 1.0  # seconds that another program has to end


class Carer(Protocol):
    """Who hears of a worker: see `WorkerLink`; and of a keeper: see `Keeper`."""

    def on_birth(self) -> None: ...

    def on_message(self, message: dict[str, Any]) -> None: ...

    def on_death(self) -> None: ...

    def on_end(self, status: int) -> None: ...

    def on_change(self) -> None:
        """`Household.record` is another one."""


class Household:
    """That of the device of `spec`; `device` is its half in this process. `counters` is the descriptor of its
    counters."""

    def __init__(
        self,
        spec: DeviceSpec,
        counters: int,
        zygote: Zygote,
        model: Model,
        nursery: Nursery,
        device: Callable[[], Device],
        carer: Carer,
    ) -> None:
        self.model = model
        self.worker: WorkerLink | None = None
        self._is_ready = False
        self._orphan: socket.socket | None = None
        self._spec = spec
        self._counters = counters
        self._zygote = zygote
        self._nursery = nursery
        self._device = device
        self._allowance = allowance(device())
        self._carer = carer
        self._shown: tuple[WorkerLink | None, int | None] = (None, None)
        self.keepers = Keepers(
            zygote,
            spec,
            counters,
            on_failure=carer.on_message,
            on_gone=self._lost_keeper,
            on_birth=lambda: carer.on_change(),
        )

    @property
    def keeps(self) -> bool:
        """Whether its workers are made by a keeper."""
        return self._device().keeps and self.model == Model()

    def ask(self, *, respawned: bool) -> None:
        """Asks for a worker. Raises OSError where nobody can be asked: out of descriptors, say."""
        self._is_ready = False
        with contextlib.ExitStack() as undo:
            desk = None
            if self._device().asks:
                desk = Desk(self._device, self._allowance)
                undo.callback(desk.theirs.close)
                undo.callback(desk.close)
            parent = self.keepers.next() if self.keeps else self._nursery
            self.worker = self._link(parent, respawned=respawned, desk=desk)
            undo.pop_all()
        if self.keeps:
            self._carer.on_change()  # before there is one: see `descriptors`
        self.worker.ask()

    def ready(self) -> None:
        """The worker has said that its device is."""
        self._is_ready = True
        self._forget_orphan()

    def _forget_orphan(self) -> None:
        if self._orphan is not None:
            self._orphan.close()
            self._orphan = None

    def _link(
        self, parent: Parent, *, respawned: bool, desk: Desk | None, adopted: tuple[int, socket.socket] | None = None
    ) -> WorkerLink:
        return WorkerLink(
            parent,
            self._spec,
            self._counters,
            respawned=respawned,
            on_birth=self._carer.on_birth,
            on_message=self._carer.on_message,
            on_death=self._carer.on_death,
            on_end=self._carer.on_end,
            desk=desk,
            adopted=adopted,
        )

    def _lost_keeper(self) -> None:
        if self.worker is not None:
            self.worker.let_go()

    def close(self) -> None:
        """Lets go of worker and keeper."""
        if self.worker is not None:
            self.worker.close()
            if self.model.command:  # which may not heed the end of its socket
                asyncio.get_running_loop().call_later(LAST_WORDS, self.worker.kill)
            self.worker = None
        self.keepers.close()
        self._forget_orphan()

    # --- what another supervisor needs

    @property
    def is_settled(self) -> bool:
        """Whether the worker is one that another supervisor could go on with. One that is served here is none."""
        return self.worker is not None and self.worker.told and self._is_ready and self.model.how != INLINE

    def record(self) -> Record:
        """As JSON has it; `descriptors` go with it."""
        pid = self.worker.pid if self.worker and self.is_settled else 0
        keeper = self.keepers.pid or 0
        children = [child for child in (keeper or pid,) if child]
        return {"pid": pid, "keeper": keeper, "children": children, "group": self.model.group}

    @property
    def descriptors(self) -> dict[str, int]:
        """By which worker and keeper are reached, and what memory they take is seen. Also "newborn", which a keeper's
        worker that nobody can go on with must not find closed: it would end in good order, and close what it shares
        with its keeper."""
        found = self.keepers.descriptors
        seen = {"keeper-memory": self._zygote.memory_of(self.keepers.pid or 0)}
        if self.worker and self.is_settled:
            found |= self.worker.descriptors
            seen["worker-memory"] = self._zygote.memory_of(self.worker.pid)
        elif self.worker and self.keeps:
            found["newborn"] = self.worker.descriptors["worker"]
        return found | {name: fd for name, fd in seen.items() if fd is not None}

    def renewed(self) -> set[str]:
        """Which of `descriptors` are others than when this was last asked."""
        before, self._shown = self._shown, (self.worker, self.keepers.pid)
        return {
            *(("worker", "questions", "worker-memory", "newborn") if before[0] is not self.worker else ()),
            *(("keeper", "keeper-memory") if before[1] != self.keepers.pid else ()),
        }

    def adopt(self, record: Record, fds: Mapping[str, int]) -> bool:
        """Takes on those that another supervisor has left, by its `record` and its `descriptors`, which become this
        one's. False where there is no worker among them."""
        if "keeper" in fds:
            keeper = self.keepers.adopt(record["keeper"], socket.socket(fileno=fds["keeper"]))
            if "worker" not in fds:
                keeper.kill(0)  # it may have one that is nobody's
        if "newborn" in fds:
            self._orphan = socket.socket(fileno=fds["newborn"])
        if "keeper-memory" in fds:
            self._zygote.remember(record["keeper"], fds["keeper-memory"])
        if "worker" not in fds:
            return False
        pid, control = record["pid"], socket.socket(fileno=fds["worker"])
        desk = None
        if "questions" in fds:
            desk = Desk(self._device, self._allowance, socket.socket(fileno=fds["questions"]))
        parent: Parent = self._nursery
        if self.keepers.pid:
            keeper = self.keepers.next()
            keeper.adopt(self._carer.on_end)
            parent = keeper
        else:
            self._zygote.adopt(pid, Wanted(self._spec, control, self._counters, on_end=self._carer.on_end))
        if "worker-memory" in fds:
            self._zygote.remember(pid, fds["worker-memory"])
        self._is_ready = True
        self.worker = self._link(parent, respawned=True, desk=desk, adopted=(pid, control))
        return True
