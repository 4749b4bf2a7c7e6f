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
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import SubosError, UserError
from ..processes import memory_file, pss
from ..vhost_user.device import DeviceSpec
from .held_zygote import HeldZygote
from .mirror import Mirror
from .packets import Message
from .process_models import Models
from .pulse import Pulse
from .reign import Reign, Succession
from .requests import Requests
from .sandbox.policies import AUTO, Choice
from .supervisor_link import Begun, begin
from .throttle import Throttle

CLOSE_PATIENCE = 20.0  # seconds until a supervisor has let go of all devices, when all ends
DESCRIPTORS = 1 << 20  # that the launcher may have open, if it may have any number

log = logging.getLogger("subos")
log.addFilter(Throttle())
said = logging.getLogger("subos.supervisor")  # which has been through a throttle already


class Holder:
    """Serves devices by a supervisor until it is closed. Everything runs on the event loop that it is entered on."""

    def __init__(self, zygote: HeldZygote, begun: Begun) -> None:
        self.sandbox: Choice = AUTO
        """How the workers are jailed. It and `models` are taken in when the holder is entered."""
        self.models = Models()
        self.devices: dict[str, Mirror] = {}
        self.on_disconnect: Callable[[], None] = lambda: None
        """Called whenever a device's front end has gone."""
        self._zygote = zygote
        self._requests = Requests(self.devices, lambda: self._reign.serving())
        self._reign = Reign(begun, self.devices, zygote, self._requests, self._terms, self._hear)
        self._pulse = Pulse(self._reign.serving)

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
        _make_room()
        self._reign.begin()
        self._pulse.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Has the supervisor let go of all devices, and ends it, and then the zygote."""
        try:
            await self._reign.end()
            link = self._reign.serving()
            if link is not None:
                link.send({"op": "close"})
                if not await link.ended(CLOSE_PATIENCE):
                    log.error("the supervisor does not end, and is killed")
        finally:
            self.close()

    def close(self) -> None:
        """Ends all at once, also where it was never entered."""
        self._pulse.close()
        self._reign.close()
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
        serving, link = self._reign.serving(), self._reign.link
        return {
            "pid": serving.pid if serving is not None else None,
            "version": link.version if link is not None else "",
            "restarts": self._reign.restarts,
        }

    async def restart(self) -> Succession:
        """As `Reign.succeed`."""
        return await self._reign.succeed()

    def _terms(self) -> Mapping[str, Any]:
        """By which each supervisor makes workers."""
        return {"sandbox": self.sandbox, "models": self.models.plain()}

    # --- what a supervisor says

    def _hear(self, message: Message) -> None:
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
                self._pulse.heard()

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


def _make_room() -> None:
    """A device takes some twenty descriptors here, and 1024, the usual limit, are few for fifty of them. And who may
    have fewer open than a worker may can be kept from passing any on: the kernel counts those on their way for a user.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _own_memory() -> int | None:
    """What this process costs, in bytes, if it can be seen."""
    with contextlib.suppress(OSError):
        fd = memory_file(os.getpid())
        try:
            return pss(fd)
        finally:
            os.close(fd)
    return None
