"""Where workers come from, by process model: the zygote, a program, a group's process, or the supervisor itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Protocol

from ..vhost_user.device import DeviceSpec
from .inline import InlineWorker
from .link import Parent
from .process_models import GROUP, INLINE, Model, check_size
from .zygote import Wanted, Zygote


class Nursery(Parent, Protocol):
    """What a device needs to have workers."""

    def join(self, device: Sharing) -> None:
        """`device` is going to ask for workers. Raises UserError where it cannot have any."""

    def leave(self, device: Sharing) -> None:
        """It does so no more, and has let go of its last one."""


class Sharing(Protocol):
    """What a group needs of its devices."""

    spec: DeviceSpec

    @property
    def is_served(self) -> bool:
        """A process serves it."""

    def renew(self) -> None:
        """Ends the process, and asks for another one at once."""

    def hurry(self) -> None:
        """Asks for a worker now, if it was going to do so later."""


class OfZygote:
    """What all have in common whose workers the zygote makes."""

    def __init__(self, zygote: Zygote, model: Model) -> None:
        self._zygote = zygote
        self._model = model

    def kill(self, pid: int) -> None:
        self._zygote.kill(pid)

    def kill_all(self) -> None:
        """Nothing: what SIGKILL does not end waits in the kernel."""


class Alone(OfZygote):
    """One process for each device: of our own program, or another one."""

    def spawn(self, wanted: Wanted) -> None:
        self._zygote.spawn([wanted], self._model)

    def join(self, device: Sharing) -> None:
        pass

    def leave(self, device: Sharing) -> None:
        pass


class Group(OfZygote):
    """One process for all its devices: it is started once each of them has asked for a worker.

    One that joins a group that is served already has the process started anew, as does one whose worker died.
    """

    def __init__(self, zygote: Zygote, model: Model) -> None:
        super().__init__(zygote, model)
        self._devices: list[Sharing] = []
        self._asked: dict[str, Wanted] = {}
        self._look: asyncio.Handle | None = None

    def join(self, device: Sharing) -> None:
        """Raises UserError where it is one too many."""
        check_size(self._model.group, [len(each.spec.fds) for each in (*self._devices, device)])
        self._devices.append(device)

    def leave(self, device: Sharing) -> None:
        if device in self._devices:
            self._devices.remove(device)
        asked = self._asked.pop(device.spec.name, None)
        if asked is not None:
            asked.close()
        self._look_soon()

    def spawn(self, wanted: Wanted) -> None:
        self._asked[wanted.spec.name] = wanted.dup()
        self._look_soon()

    def _look_soon(self) -> None:
        """Once for all that ask at the same time."""
        if self._look is None:
            self._look = asyncio.get_running_loop().call_soon(self._gather)

    def _gather(self) -> None:
        self._look = None
        if not self._asked:
            return
        others = [device for device in self._devices if device.spec.name not in self._asked]
        if not others:
            self._bear()
            return
        died = any(wanted.respawned for wanted in self._asked.values())
        for device in others:
            if not device.is_served:
                device.hurry()
            elif not died:  # otherwise it is about to notice
                device.renew()

    def _bear(self) -> None:
        asked = list(self._asked.values())
        self._asked.clear()
        with contextlib.suppress(OSError):  # a zygote that has died: the sockets close, which is a death too
            self._zygote.spawn(asked, self._model)
        for wanted in asked:
            wanted.close()


class Inline:
    """The supervisor serves one device itself, between its other tasks."""

    def __init__(self) -> None:
        self._worker: InlineWorker | None = None

    def spawn(self, wanted: Wanted) -> None:
        self._worker = InlineWorker(wanted.dup())
        wanted.on_pid(os.getpid())

    def kill(self, pid: int) -> None:
        if self._worker is not None:
            self._worker.close()

    def kill_all(self) -> None:
        """Nothing: it is gone."""

    def join(self, device: Sharing) -> None:
        pass

    def leave(self, device: Sharing) -> None:
        if self._worker is not None:
            self._worker.close()


def nursery(model: Model, zygote: Zygote, groups: dict[str, Group]) -> Nursery:
    """That of a device of this model; `groups` are those that there are, by name."""
    if model.how == INLINE:
        return Inline()
    if model.how == GROUP:
        return groups.setdefault(model.group, Group(zygote, model))
    return Alone(zygote, model)
