"""One pad that this guest has: what the host's stream says goes into it, and what games do with effects goes out."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Awaitable, Callable, Iterable, Optional, Protocol, Sequence, Union

from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.relay import both
from subos_protocol.agent.stream import Stream
from subos_protocol.effects import Feedback
from subos_protocol.errors import ProtocolError
from subos_protocol.feedback import Effects, Pending
from subos_protocol.gamepad import TAKE_AFTER, Opened, Pad, Taken, pack_message, unpack_events
from subos_protocol.hid_pad import Light
from subos_protocol.virtio_input import virtio_input_event

LOOK_AFTER = 0.5
"""Seconds of use after which requests that uinput has not told us of are looked for."""

log = logging.getLogger("subos-agent")


class Device(Protocol):
    """What the kernel has of a pad: see UinputPad and Port."""

    @property
    def suspicious(self) -> bool: ...

    def listen(self, heard: Callable[[], None]) -> None: ...

    def deafen(self) -> None: ...

    def write(self, events: Iterable[virtio_input_event]) -> None: ...

    def feedback(self) -> Sequence[Union[Feedback, Light]]: ...

    def overlooked(self) -> Sequence[Union[Feedback, Light]]: ...


class HeldPad:
    """`pad` as the input device `device`, which `release` ends. One stream at a time has it, and games are answered
    whether one does or not."""

    def __init__(self, pad: Pad, device: Device, release: Callable[[], Awaitable[None]]) -> None:
        self.pad = pad
        self.device = device
        self.release = release
        self._effects = Effects()
        self._pending = Pending()
        self._light: Optional[Light] = None
        self._light_is_said = True
        self._said = asyncio.Event()
        self._stream: Optional[Stream] = None
        self.expiry: Optional[asyncio.TimerHandle] = None
        self._look: Optional[asyncio.TimerHandle] = None
        self._loop = asyncio.get_running_loop()
        device.listen(self._read)

    # --- whose it is

    def expire_by(self, timer: Optional[asyncio.TimerHandle]) -> None:
        """`timer` is what ends it, instead of the one before."""
        if self.expiry is not None:
            self.expiry.cancel()
        self.expiry = timer

    @property
    def is_taken(self) -> bool:
        """Whether a stream has it."""
        return self._stream is not None

    def begin(self, stream: Stream) -> None:
        """It is `stream`'s from now on, and nobody else's."""
        self.expire_by(None)
        self._dismiss()
        self._stream = stream
        self._pending.clear()
        for message in self._effects.all(monotonic()):
            self._pending.put(message)
        self._light_is_said = self._light is None
        self._said.set()

    def end(self, stream: Stream) -> bool:
        """`stream` is over: nothing stays pressed. False where another one has the pad by now."""
        if self._stream is not stream:
            return False
        self._stream = None
        self.device.write(self.pad.neutral())
        return True

    def close(self) -> None:
        """Nobody has it, and games are answered no more: the device is to be released."""
        self.expire_by(None)
        self._dismiss()
        if self._look is not None:
            self._look.cancel()
        self.device.deafen()

    def _dismiss(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self.device.write(self.pad.neutral())
            stream.cancel("replaced", "another stream has the gamepad")

    # --- what passes

    async def carry(self, stream: Stream) -> None:
        """Until the host has no more to say. Raises ChannelError."""
        await stream.send(pack_message(Opened()))
        await both(self._hear(stream), self._say(stream))

    async def _hear(self, stream: Stream) -> None:
        taken = 0
        while (message := await stream.receive()) is not None:
            if not isinstance(message.content, bytes):
                continue
            try:
                events = unpack_events(message.content)
            except ProtocolError as error:
                raise RemoteError("malformed", str(error)) from error
            if self._stream is stream:
                self.device.write(events)
                self._look_later()
            taken += 1
            if taken == TAKE_AFTER:
                await stream.send(pack_message(Taken(taken)))
                taken = 0

    async def _say(self, stream: Stream) -> None:
        while True:
            await self._said.wait()
            self._said.clear()
            messages = self._pending.take()
            if self._light is not None and not self._light_is_said:
                self._light_is_said = True
                await stream.send(pack_message(self._light))
            for message in messages:
                await stream.send(pack_message(message))

    def _read(self) -> None:
        for message in self.device.feedback():
            self._note(message)
        self._look_later()

    def _look_later(self) -> None:
        if self._look is None:
            self._look = self._loop.call_later(LOOK_AFTER, self._look_again)

    def _look_again(self) -> None:
        self._look = None
        for message in self.device.overlooked():
            self._note(message)
        if self.device.suspicious:
            self._look_later()

    def _note(self, message: Union[Feedback, Light]) -> None:
        if isinstance(message, Light):
            self._light, self._light_is_said = message, False
            self._said.set()
        elif self._effects.note(message, monotonic()) and self._stream is not None:
            self._pending.put(message)
            self._said.set()
