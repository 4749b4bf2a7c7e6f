"""A gamepad: what one of the `profiles` says, so that a game takes it for the real one.

It stays where it is when its driver goes (a pad out of reach of Bluetooth, say): nothing is pressed then, and its
sticks and triggers are where they are when nobody touches them. Force feedback is no business of virtio-input: while
the guest's agent has the pad, its events go there, and what games do with effects comes back (see `agent`).
"""

from __future__ import annotations

import os
import socket
from typing import Any

from subos_protocol.effects import Feedback
from subos_protocol.gamepad import Axis, Pad
from subos_protocol.virtio_input import EVENTQ

from ...vhost_user.device import DeviceSpec, Worker
from ...vhost_user.virtqueue import Virtqueue
from ..capabilities import Frame
from ..model import InputDevice
from ..state import State
from . import profiles
from .agent import AgentLink

DEFAULT = "generic"
EFFECTS = 16  # that a pad holds: the kernel's drivers of real ones have as many (ff-memless.c, FF_MEMLESS_EFFECTS)


class GamepadDevice(InputDevice):
    """`gamepad`: option `profile`, one of `names()`. `spec.fds["agent"]`, if there, is its channel to the
    guest's agent."""

    def __init__(self, spec: DeviceSpec) -> None:
        self.profile = profiles.load(str(spec.options.get("profile") or DEFAULT))
        self.capabilities = self.profile.capabilities
        super().__init__(spec)
        self._agent: AgentLink | None = None
        self._statistics = memoryview(bytearray(1))  # whether the agent has it

    @classmethod
    def prepare(cls, spec: DeviceSpec) -> None:
        profiles.load(str(spec.options.get("profile") or DEFAULT))

    def new_state(self) -> State:
        return State(self.capabilities, self.profile.rest)

    def pad(self) -> Pad:
        """What the agent is told of it."""
        can = self.capabilities
        return Pad(
            self.spec.name,
            can.name,
            can.ids,
            can.codes,
            {code: Axis(self.profile.rest[code], info) for code, info in can.axes.items()},
            can.props,
            self.profile.force_feedback,
            EFFECTS,
        )

    def describe(self, statistics: memoryview) -> dict[str, Any]:
        return {"gamepad": {"agent": bool(statistics[0])}}

    def start(self, worker: Worker) -> None:
        super().start(worker)
        self._statistics = worker.statistics
        self._statistics[0] = 0
        if "agent" in self.spec.fds and self.profile.force_feedback:
            self._agent = AgentLink(socket.socket(fileno=os.dup(self.spec.fds["agent"])), self.pad(), self, worker)

    def queue_started(self, queue: Virtqueue) -> None:
        super().queue_started(queue)
        if queue.index == EVENTQ and self._agent is not None and not self._agent.has_pad:
            self._agent.announce()  # the guest has a driver now, whose device can step aside

    def close(self) -> None:
        super().close()
        if self._agent is not None:
            self._agent.close()

    # --- the agent

    def agent_has_it(self) -> None:
        self._statistics[0] = 1
        self._outbox.clear()
        self._hand_over(guest_is_new=True)

    def agent_lost_it(self) -> None:
        self._statistics[0] = 0
        if self._drivers is not None:
            self._drivers.feel_nothing()
        self._hand_over(guest_is_new=False)

    def _hand_over(self, *, guest_is_new: bool) -> None:
        """Whose the pad is now is told its state, and drivers need not wait for whose it was."""
        if self._drivers is not None:
            self._drivers.resume()
        self._put(self._state.whole(guest_is_new=guest_is_new))
        self._send_to_running_guest()

    def agent_takes_more(self) -> None:
        self._send()

    def feel(self, message: Feedback) -> None:
        if self._drivers is not None:
            self._drivers.feel(message)

    # --- where events go

    def _put(self, frame: Frame) -> None:
        if self._agent is not None and self._agent.has_pad:
            self._agent.put(frame)
        else:
            super()._put(frame)

    def _send(self) -> None:
        if self._agent is None or not self._agent.has_pad:
            super()._send()
            return
        self._agent.send()
        if self._drivers is not None:
            if self._agent.full:
                self._drivers.pause()
            else:
                self._drivers.resume()
