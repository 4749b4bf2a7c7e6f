"""`gamepad.open`: a pad of the host's as an input device of this guest's own (subos_protocol.gamepad).

A pad outlives its stream for a little: a worker or a channel that comes back finds the device that games have open,
held neutral meanwhile. An agent that is killed takes its devices along; the next one gives back what it left unbound.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from time import monotonic
from typing import Any, Callable, Coroutine, Dict, Optional, Set

from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.peer import Handler
from subos_protocol.agent.pieces import in_thread
from subos_protocol.agent.stream import Stream
from subos_protocol.errors import Malformed
from subos_protocol.gamepad import OPERATION, Pad, unpack_pad
from subos_protocol.hid_pad import Hid

from .held import HeldPad
from .hid_pads import TWIN_SECONDS, HidPads, NoHid
from .hid_port import Port
from .turns import Turns
from .twins import Twins
from .uinput import DEVICE, UinputPad

GRACE = 6.0
"""Seconds that a pad is kept for a stream that goes on with it: a worker in trouble starts again after five."""
MAX_PADS = 32
"""Event devices: a pad may have three."""

log = logging.getLogger("subos-agent")


class Gamepads:
    """All pads of this guest. `start` and `close` are for the service's begin and end."""

    def __init__(
        self,
        twins: Optional[Twins] = None,
        make: Callable[[Pad], UinputPad] = UinputPad,
        grace: float = GRACE,
        hids: Callable[..., HidPads] = HidPads,
    ) -> None:
        self._twins = twins or Twins()
        self._make = make
        self._grace = grace
        self._hids = hids(self._twins, self._find_twin)
        self._pads: Dict[str, HeldPad] = {}
        self._turns = Turns()
        self._orphans: Dict[str, str] = {}
        """Serial → virtio device, of an agent that was killed."""
        self._tasks: Set[asyncio.Future[Any]] = set()

    def handlers(self) -> Dict[str, Handler]:
        return {OPERATION: self.open}

    def start(self) -> None:
        """What an agent before has left without a driver gets it again, unless the host asks for it meanwhile."""
        self._orphans = self._twins.recorded()
        if self._orphans:
            asyncio.get_running_loop().call_later(self._grace, lambda: self._spawn(self._adopt()))

    async def _adopt(self) -> None:
        for serial in list(self._orphans):
            async with self._turns.alone(serial):
                twin = self._orphans.pop(serial, None)
                if twin is not None:
                    await in_thread(self._twins.give_back, twin)

    async def close(self) -> None:
        """Gives every pad back."""
        for held in list(self._pads.values()):
            async with self._turns.alone(held.pad.serial):
                await self._drop(held)
        await self._adopt()

    async def open(self, stream: Stream) -> Head:
        """Handles `gamepad.open`. Raises RemoteError."""
        try:
            pad = unpack_pad(stream.head.get("pad"))
        except Malformed as error:
            raise RemoteError("malformed", str(error)) from error
        # Shielded: what has begun in the kernel is finished, and kept for whoever asks next.
        held = await asyncio.shield(self._spawn(self._hold(pad)))
        held.begin(stream)
        try:
            await held.carry(stream)
        except BaseException:
            if held.end(stream):
                self._expire(held)
            raise
        if held.end(stream):
            await asyncio.shield(self._spawn(self._give_up(held, None)))
        return {}

    async def _hold(self, pad: Pad) -> HeldPad:
        """The pad, made unless it is there already. It goes by itself unless a stream begins with it."""
        async with self._turns.alone(pad.serial):
            held = self._pads.get(pad.serial)
            if held is not None and held.pad != pad:
                await self._drop(held)
                held = None
            if held is None:
                if len(self._pads) >= MAX_PADS:
                    raise RemoteError("busy", f"this guest takes {MAX_PADS} gamepads")
                held = self._pads[pad.serial] = await self._take(pad)
            self._expire(held)
            return held

    async def _take(self, pad: Pad) -> HeldPad:
        """Raises RemoteError."""
        hid = pad.hid
        if hid is not None:
            try:
                port = await self._hids.take(pad, hid, self._is_made_by_uinput(hid))
            except NoHid as error:
                if hid.only:
                    raise RemoteError(
                        "unavailable",
                        f"the gamepad cannot be a HID device: {error}",
                        "the guest's kernel needs the modules uhid and hid-playstation",
                    ) from error
                log.info("%s is made by uinput: %s", pad.serial, error)
            else:
                return HeldPad(pad, port, partial(self._hids.release, hid, port))
        return await self._take_by_uinput(pad)

    def _is_made_by_uinput(self, hid: Hid) -> bool:
        """Whether a part of it is."""
        return any(
            held.pad.hid is not None and held.pad.hid.pad == hid.pad and not isinstance(held.device, Port)
            for held in self._pads.values()
        )

    async def _take_by_uinput(self, pad: Pad) -> HeldPad:
        """Raises RemoteError."""
        try:
            uinput = await in_thread(self._make, pad)
        except OSError as error:
            raise RemoteError(
                "unavailable", f"{DEVICE}: {error.strerror or error}", "the guest's kernel needs the module uinput"
            ) from error
        twin = None
        try:
            twin = await self._find_twin(pad.serial)
            await in_thread(self._twins.part, pad.serial, twin)
            await in_thread(uinput.create)
            return HeldPad(pad, uinput, partial(self._release, uinput, twin))
        except BaseException as error:
            uinput.close()
            if twin is not None:
                await in_thread(self._twins.give_back, twin)
            if isinstance(error, OSError):
                raise RemoteError("failed", f"the gamepad cannot be made: {error.strerror or error}") from error
            raise

    async def _release(self, uinput: UinputPad, twin: str) -> None:
        await in_thread(uinput.close)
        await in_thread(self._twins.give_back, twin)

    async def _find_twin(self, serial: str, patience: float = TWIN_SECONDS) -> str:
        """Raises RemoteError where there is none after `patience` seconds."""
        deadline = monotonic() + patience
        while True:
            orphan = self._orphans.pop(serial, None)
            twin = await in_thread(self._twins.find, serial) or orphan
            if twin is not None:
                return twin
            if monotonic() > deadline:
                raise RemoteError("not-found", f"no virtio-input device of this guest is called {serial!r}")
            await asyncio.sleep(0.05)

    def _expire(self, held: HeldPad) -> None:
        """It goes by itself after a while."""
        timer: asyncio.TimerHandle = asyncio.get_running_loop().call_later(
            self._grace, lambda: self._spawn(self._give_up(held, timer))
        )
        held.expire_by(timer)

    async def _give_up(self, held: HeldPad, timer: Optional[asyncio.TimerHandle]) -> None:
        """The pad goes, unless somebody has asked for it since `timer` was what ends it."""
        async with self._turns.alone(held.pad.serial):
            if held.expiry is timer and not held.is_taken:
                await self._drop(held)

    async def _drop(self, held: HeldPad) -> None:
        """The pad goes, and its twin is back. For whoever is alone with it."""
        if self._pads.get(held.pad.serial) is held:
            del self._pads[held.pad.serial]
            held.close()
            await held.release()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it hears of it
