"""A pad's way to the guest's agent, which makes it there so that it can rumble (subos_protocol.gamepad).

The agent is as hostile as its guest. What it says is bounded, and so is how often it is listened to.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Protocol

from subos_protocol.effects import Feedback
from subos_protocol.errors import Malformed
from subos_protocol.gamepad import (
    MAX_EVENTS,
    MAX_MESSAGE,
    WINDOW,
    Lost,
    Opened,
    Pad,
    Taken,
    pack_description,
    unpack_message,
)
from subos_protocol.hid_pad import Light
from subos_protocol.virtio_input import VIRTIO_INPUT_EVENT

from ...vhost_user.device import Worker
from ..capabilities import Frame
from ..outbox import Outbox

MESSAGES_AT_ONCE = 32
MOST_KEPT = 1024  # packets, more than a socket keeps
PAUSE = 0.01  # seconds without listening, after as many at once
RETRY = 0.05  # seconds until what nobody could take is said again


class Model(Protocol):
    """What the way needs of the pad."""

    def agent_has_it(self) -> None:
        """The guest's pad is new, and nothing of it is pressed."""

    def agent_lost_it(self) -> None: ...

    def agent_takes_more(self) -> None: ...

    def feel(self, message: Feedback) -> None:
        """A game did something with an effect."""

    def lit(self, light: Light) -> None:
        """So it is lit now."""


class AgentLink:
    """`channel`'s other end is the launcher's. The worker after this one goes on with it."""

    def __init__(self, channel: socket.socket, pad: Pad, model: Model, worker: Worker) -> None:
        self.has_pad = False
        self._channel = channel
        self._description = pack_description(pad)
        self._model = model
        self._worker = worker
        self._outbox = Outbox()
        self._on_its_way = 0  # packets of events
        self._unsaid: list[bytes] = []
        self._complained = False
        channel.setblocking(False)
        self._drain()
        self._listen()
        self.announce()

    def announce(self) -> None:
        """Has an agent take the pad, if there is one; it takes a pad that it has already anew."""
        if self._description not in self._unsaid:  # a guest can start its driver as often as it likes
            self._say(self._description)

    def put(self, frame: Frame) -> None:
        self._outbox.put(frame)

    def send(self) -> None:
        """What was put, as far as the agent keeps up; it goes on by itself."""
        while self._outbox and self._on_its_way < WINDOW and not self._unsaid:
            events: list[bytes] = []
            while self._outbox and len(events) < MAX_EVENTS:
                events.append(VIRTIO_INPUT_EVENT.pack(self._outbox.take()))
            self._on_its_way += 1
            self._say(b"".join(events))

    @property
    def full(self) -> bool:
        return self._outbox.full

    def close(self) -> None:
        if self._channel.fileno() >= 0:
            self._stop_listening()
            self._channel.close()

    # --- inside

    def _say(self, packet: bytes) -> None:
        """In order; what the launcher does not take at the moment is said later."""
        self._unsaid.append(packet)
        if len(self._unsaid) == 1 and not self._flush():
            self._worker.alarm(RETRY, self._say_more)

    def _say_more(self) -> None:
        if self._flush():
            self.send()
        else:
            self._worker.alarm(RETRY, self._say_more)

    def _flush(self) -> bool:
        """False where the launcher takes no more."""
        while self._unsaid and self._channel.fileno() >= 0:
            try:
                self._channel.send(self._unsaid[0], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            except OSError:  # it is gone, and so will we be
                break
            del self._unsaid[0]
        self._unsaid.clear()
        return True

    def _drain(self) -> None:
        """What was meant for the worker before; the agent may say more meanwhile, which means nothing either."""
        with contextlib.suppress(OSError):
            for _ in range(MOST_KEPT):
                if not self._channel.recv(MAX_MESSAGE + 1):
                    return

    def _listen(self) -> None:
        self._listening = True
        self._worker.watch(self._channel.fileno(), self._hear)

    def _stop_listening(self) -> None:
        if self._listening:
            self._listening = False
            self._worker.unwatch(self._channel.fileno())

    def _hear(self) -> None:
        for _ in range(MESSAGES_AT_ONCE):
            try:
                packet = self._channel.recv(MAX_MESSAGE + 1)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._is_lost()
                self.close()
                return
            try:
                self._take(packet)
            except Malformed as error:
                if not self._complained:
                    self._worker.log(f"the guest's agent says of the gamepad what means nothing: {error}")
                self._complained = True
        self._stop_listening()
        self._worker.alarm(PAUSE, self._listen_again)

    def _listen_again(self) -> None:
        if self._channel.fileno() >= 0 and not self._listening:
            self._listen()

    def _take(self, packet: bytes) -> None:
        message = unpack_message(packet)
        if isinstance(message, Opened):
            self._is_lost()
            self.has_pad = True
            self._model.agent_has_it()
        elif isinstance(message, Lost):
            self._is_lost()
        elif not self.has_pad:
            pass  # it speaks of one that it no longer has
        elif isinstance(message, Taken):
            self._on_its_way = max(0, self._on_its_way - message.packets)
            self.send()
            self._model.agent_takes_more()
        elif isinstance(message, Light):
            self._model.lit(message)
        else:
            self._model.feel(message)

    def _is_lost(self) -> None:
        self._outbox.clear()
        self._on_its_way = 0
        if self.has_pad:
            self.has_pad = False
            self._model.agent_lost_it()
