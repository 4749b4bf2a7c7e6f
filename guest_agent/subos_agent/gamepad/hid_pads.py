"""The HID devices of this guest: each stands for several of the host's devices, whose twins step aside together.

A device is there while anybody has one of its ports, and its twins stay aside as long: no game sees a pad twice.
"""

from __future__ import annotations

import contextlib
import logging
from time import monotonic
from typing import Awaitable, Callable, Dict

from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.pieces import in_thread
from subos_protocol.gamepad import Pad
from subos_protocol.hid_pad import Hid
from subos_protocol.virtio_input import virtio_input_devids

from .hid_pad import HidPad, load_modules
from .hid_port import Port
from .turns import Turns
from .twins import Twins

TWIN_SECONDS = 5.0
"""How long a twin may take to appear: the guest's driver has just been started."""
SIBLING_SECONDS = 2.0
"""How long the twins of a pad's parts may take to appear when its own is there, or the other way round."""
FORGET_SECONDS = 180.0
"""How long a pad that did not come up is not tried again: the guest may just have been busy."""

log = logging.getLogger("subos-agent")

FindTwin = Callable[[str, float], Awaitable[str]]
"""The virtio device of a serial, waited for so long. Raises RemoteError."""


class NoHid(Exception):
    """This guest cannot have it; by uinput it may."""


class _Made:
    """`twins` is serial → virtio device, of those that stepped aside."""

    def __init__(self, device: HidPad, hid: Hid) -> None:
        self.device = device
        self._kind = hid.model, hid.name
        self.twins: Dict[str, str] = {}

    def is_of(self, hid: Hid) -> bool:
        """Whether it is the device that is meant: another pad may have the serial by now."""
        return self._kind == (hid.model, hid.name)


class HidPads:
    def __init__(
        self,
        twins: Twins,
        find_twin: FindTwin,
        make: Callable[[Hid, virtio_input_devids], HidPad] = HidPad,
        load: Callable[[], None] = load_modules,
    ) -> None:
        self._twins = twins
        self._find_twin = find_twin
        self._make = make
        self._load = load
        self._made: Dict[str, _Made] = {}
        self._turns = Turns()
        self._failed: Dict[str, float] = {}
        """When those pads did not come up that are not to be tried again for a while."""

    async def take(self, pad: Pad, hid: Hid, otherwise: bool = False) -> Port:
        """The port for `pad`, which is a part of `hid`; `otherwise`, where parts of it are made by uinput: this one is
        not to fare better. Raises NoHid, and RemoteError where there is no twin.

        A twin that is given back has the host ask again. So where a device fails that has had twins step aside, it is
        not tried anew each time; nor is one that is made by uinput instead, whose other parts are about to ask."""
        async with self._turns.alone(hid.pad):
            made = self._made.get(hid.pad)
            if made is not None and not made.is_of(hid):
                del self._made[hid.pad]
                await self._end(made)
                made = None
            if made is None:
                self._check(hid, otherwise)
                try:
                    made = self._made[hid.pad] = await self._come_up(pad, hid)
                except OSError as error:
                    if not hid.only:
                        self._failed[hid.pad] = monotonic()
                    raise NoHid(error.strerror or str(error)) from error
            elif pad.serial not in made.twins:
                await self._part(made, pad.serial, SIBLING_SECONDS)
            return made.device.attach(hid.part)

    def _check(self, hid: Hid, otherwise: bool) -> None:
        """Raises NoHid where it is not to be tried."""
        if otherwise:
            raise NoHid("other parts of it are made by uinput")
        failed = self._failed.get(hid.pad)
        if failed is not None and monotonic() - failed < FORGET_SECONDS:
            raise NoHid("it did not come up before")
        self._failed.pop(hid.pad, None)

    async def release(self, hid: Hid, port: Port) -> None:
        """The last one who does ends the device, and its twins are back."""
        async with self._turns.alone(hid.pad):
            made = self._made.get(hid.pad)
            if made is None or not made.device.has(port):
                return
            if made.device.detach(port):
                del self._made[hid.pad]
                await self._end(made)
            else:
                await self._forget_if_gone(made, hid.serials[port.part])

    async def _forget_if_gone(self, made: _Made, serial: str) -> None:
        """A twin that is plugged again is another device, which has to step aside, too."""
        twin = made.twins.get(serial)
        if twin is not None and not await in_thread(self._twins.is_there, twin):
            del made.twins[serial]
            await in_thread(self._twins.give_back, twin)

    async def _come_up(self, pad: Pad, hid: Hid) -> _Made:
        """Raises OSError, RemoteError."""
        await in_thread(self._load)
        made = _Made(await in_thread(self._make, hid, pad.ids), hid)
        try:
            await self._part(made, pad.serial, TWIN_SECONDS)
            for serial in hid.serials.values():
                if serial != pad.serial:
                    with contextlib.suppress(RemoteError):  # it may come later, and does not hold up the others
                        await self._part(made, serial, SIBLING_SECONDS)
            await in_thread(made.device.create)
            made.device.listen()
            return made
        except BaseException as error:
            if isinstance(error, OSError):
                self._failed[hid.pad] = monotonic()
            await self._end(made)
            raise

    async def _part(self, made: _Made, serial: str, patience: float) -> None:
        twin = await self._find_twin(serial, patience)
        made.twins[serial] = twin
        await in_thread(self._twins.part, serial, twin)

    async def _end(self, made: _Made) -> None:
        made.device.deafen()
        await in_thread(made.device.close)
        for twin in made.twins.values():
            await in_thread(self._twins.give_back, twin)
