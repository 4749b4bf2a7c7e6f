"""The supervisor: owns every vhost-user connection of one VM, and the zygote that its workers are forked from.

zygote = Zygote.start("rng")                 # early, so that it has loaded the device when one is asked for
async with Supervisor(zygote) as supervisor:
    await supervisor.add(DeviceSpec("rng", "rng0"), listener)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..errors import SubosError, UserError
from ..processes import pss
from ..vhost_user.device import DeviceSpec
from . import watchdog
from .device_server import DeviceServer
from .ledger import Held, Ledger, Nobody
from .nurseries import Group, nursery
from .process_models import Models
from .zygote import Zygote

LATER = 1.0  # seconds until a device that cannot be gone on with is tried again

log = logging.getLogger("subos")


class Supervisor:
    """Serves devices until it is closed. Everything runs on the event loop that it is entered on."""

    def __init__(
        self,
        zygote: Zygote,
        models: Models | None = None,
        ledger: Ledger | None = None,
        *,
        own_zygote: bool = True,
    ) -> None:
        """`ledger` is where a successor finds what it needs. A zygote that is not its own is not ended, nor replaced
        when it dies, but by `Zygote.replace`."""
        self._zygote = zygote
        self._own_zygote = own_zygote
        self._models = models or Models()
        self._ledger = ledger or Nobody()
        self._unbuilt: dict[str, _Unbuilt] = {}
        self._groups: dict[str, Group] = {}
        self.devices: dict[str, DeviceServer] = {}
        self.on_disconnect: Callable[[], None] = lambda: None
        """Called whenever a device's front end has gone."""
        self._looking: asyncio.TimerHandle

    async def __aenter__(self) -> Supervisor:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._zygote.channel, self._zygote_says)
        self._looking = loop.call_later(watchdog.PERIOD, self._look)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._looking.cancel()
        for name in [*self.devices, *self._unbuilt]:
            await self.remove(name)
        asyncio.get_running_loop().remove_reader(self._zygote.channel)
        if self._own_zygote:
            self._zygote.close()
        else:
            self._zygote.release()

    async def add(self, spec: DeviceSpec, listener: socket.socket) -> DeviceServer:
        """Serves one more device on `listener`, which becomes the supervisor's, as do the spec's descriptors.

        Raises UserError for a name in use, a bad option, or a device that cannot start.
        """
        try:
            if spec.name in self.devices:
                raise UserError(f"two devices are called {spec.name!r}")
            server = self._served(spec, listener)
        except SubosError:
            listener.close()
            for fd in spec.fds.values():
                os.close(fd)
            raise
        self.devices[spec.name] = server
        try:
            await server.start()
        except SubosError:
            await self.remove(spec.name)
            raise
        return server

    def restore(self, spec: DeviceSpec, listener: socket.socket, held: Held) -> None:
        """Goes on serving a device where another supervisor has left off. All descriptors become this one's.

        One that cannot be built (its folder is gone, say) is tried again until it can: its front end waits.
        """
        try:
            self.devices[spec.name] = self._served(spec, listener, held)
        except SubosError as error:
            log.error("%s: it cannot be gone on with now: %s", spec.name, error.message)
            again = asyncio.get_running_loop().call_later(LATER, lambda: self._restore_again(spec.name))
            self._unbuilt[spec.name] = _Unbuilt(spec, listener, held, again)
        except Exception:  # the other devices are gone on with
            log.exception("%s: a fault of ours: it is served no more", spec.name)

    def _restore_again(self, name: str) -> None:
        spec, listener, held, _ = self._unbuilt.pop(name)
        self.restore(spec, listener, held)

    def _served(self, spec: DeviceSpec, listener: socket.socket, held: Held | None = None) -> DeviceServer:
        """Raises UserError."""
        model = self._models.of(spec)
        return DeviceServer(
            spec,
            listener,
            self._zygote,
            lambda: self.on_disconnect(),
            model=model,
            nursery=nursery(model, self._zygote, self._groups),
            ledger=self._ledger,
            held=held,
        )

    async def remove(self, name: str) -> None:
        if name in self._unbuilt:
            self._unbuilt.pop(name).close()
            self._ledger.forget(name)
        else:
            await self.devices.pop(name).close()

    def status(self) -> list[dict[str, Any]]:
        """A line for each device, as `DeviceServer.status` describes it."""
        return [server.status() for server in self.devices.values()]

    async def status_and_memory(self) -> tuple[list[dict[str, Any]], dict[str, int | None]]:
        """`status`, with "pss" in each line, and what the processes cost: `workers`, each counted once, `zygote`,
        `supervisor`, in bytes; `unseen` is how many workers' could not be seen, whose "pss" is None. It is found on a
        thread, as that of a large guest's takes a while."""
        lines, zygote = self.status(), self._zygote.pid
        pids = {zygote, os.getpid(), *(line[which] for line in lines for which in ("pid", "keeper") if line[which])}
        files = {pid: self._zygote.memory_files(pid) for pid in pids}
        found = await asyncio.to_thread(lambda: {pid: _seen(memory) for pid, memory in files.items()})
        for line in lines:
            line["pss"] = found.get(line["pid"])
        workers = [found[pid] for pid in pids - {zygote, os.getpid()}]
        seen = [cost for cost in workers if cost is not None]
        memory = {"workers": sum(seen), "unseen": len(workers) - len(seen)}
        return lines, {**memory, "zygote": found[zygote], "supervisor": found[os.getpid()]}

    def _look(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(watchdog.PERIOD, self._look)
        for server in self.devices.values():
            server.caretaker.look()

    def _zygote_says(self) -> None:
        if not self._zygote.hear():
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._zygote.channel)
            if self._own_zygote:
                log.error("the zygote died; another one is started")
                self._zygote.restart()
                loop.add_reader(self._zygote.channel, self._zygote_says)

    def replace_zygote(self, pid: int, channel: socket.socket) -> None:
        """Another one, in the place of one that is not this supervisor's own, and has died."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._zygote.channel)
        self._zygote.replace(pid, channel)
        loop.add_reader(self._zygote.channel, self._zygote_says)


class _Unbuilt(NamedTuple):
    """A device that waits until it can be built."""

    spec: DeviceSpec
    listener: socket.socket
    held: Held
    again: asyncio.TimerHandle

    def close(self) -> None:
        self.again.cancel()
        self.listener.close()
        for fd in (*self.spec.fds.values(), *self.held.fds.values()):
            os.close(fd)


def _seen(files: Sequence[int]) -> int | None:
    """`pss` by the first of the files that can be read; closes all."""
    cost = None
    for fd in files:
        if cost is None:
            with contextlib.suppress(OSError):
                cost = pss(fd)
        os.close(fd)
    return cost
