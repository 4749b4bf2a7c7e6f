"""Gamepads that the guest sees only while something drives them (`:hotplug`): plugged and unplugged as drivers come
and go. With a pad come and go its sensors and its touch pad.

The pads' workers serve all the time, so that there is a socket for drivers; each says by an eventfd that something has
changed, and by its statistics what.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Sequence

from ..agent.gamepads import Gamepads
from ..errors import UserError
from ..supervisor.holder import Holder
from .devices import PlannedDevice
from .plugged import Plugged

GRACE = 1.0
"""Seconds without a driver until a pad goes: one that comes back at once, to another worker say, is no replug."""
RETRY = 5.0
"""Seconds until what could not be plugged or unplugged is tried again, or looked at."""

log = logging.getLogger("subos")


class _Pad:
    """One pad with what it has beside."""

    def __init__(self, devices: Sequence[PlannedDevice]) -> None:
        self.name = devices[0].name
        self.devices = devices
        self.changed = asyncio.Event()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def look(self) -> None:
        os.eventfd_read(self.fd)
        self.changed.set()


class HotPads:
    """Those of `devices` that are `hot`. A context manager; `open` is for who serves them, `plugging` for who has
    booted the VM."""

    def __init__(self, devices: Sequence[PlannedDevice]) -> None:
        hot = [device for device in devices if device.hot]
        self._pads = {
            pad.name: _Pad([pad, *(part for part in hot if part.beside == pad.name)]) for pad in hot if not pad.beside
        }

    def __enter__(self) -> HotPads:
        return self

    def __exit__(self, *_: object) -> None:
        for pad in self._pads.values():
            os.close(pad.fd)

    def open(self, name: str) -> int:
        """The worker's end of what tells of drivers: a descriptor that is the caller's."""
        return os.dup(self._pads[name].fd)

    @contextlib.asynccontextmanager
    async def plugging(self, plugged: Plugged, supervisor: Holder, agent: Gamepads) -> AsyncIterator[None]:
        """While the block lasts."""
        loop = asyncio.get_running_loop()
        tasks = []
        for pad in self._pads.values():
            loop.add_reader(pad.fd, pad.look)
            tasks.append(asyncio.ensure_future(_keep(pad, plugged, supervisor, agent)))
        try:
            yield
        finally:
            for pad in self._pads.values():
                loop.remove_reader(pad.fd)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _keep(pad: _Pad, plugged: Plugged, supervisor: Holder, agent: Gamepads) -> None:
    """Has `pad` plugged while it is driven, until it is cancelled."""

    def driven() -> bool:
        return bool(supervisor.devices[pad.name].describe()["gamepad"]["driven"])

    def there(device: PlannedDevice) -> bool:
        """What the guest lets go of late goes by itself."""
        return device.name in plugged.devices and supervisor.devices[device.name].connected

    unsettled = False
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(pad.changed.wait(), RETRY if unsettled else None)
        pad.changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                while not driven():  # whatever else there is news of, a second worker that dies, say
                    await pad.changed.wait()
                    pad.changed.clear()
        try:
            async with plugged.lock:
                missing = [device for device in pad.devices if not there(device)]
                if driven() and missing:
                    await plugged.plug(missing)
                    unsettled = False
                elif not driven():
                    await _unplug(pad, plugged, agent)
                    unsettled = False
        except UserError as error:
            log.error("%s: %s", pad.name, error.message)
            unsettled = True  # a guest that was to let go of it may do so at any time, wanted or not


async def _unplug(pad: _Pad, plugged: Plugged, agent: Gamepads) -> None:
    """First out of the VM, then out of the agent's hands: it would give the twin its driver back. Raises UserError."""
    for device in pad.devices:
        if device.name in plugged.devices:
            await plugged.unplug(device.name)
            agent.let_go(device.name)
