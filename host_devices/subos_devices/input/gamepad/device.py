"""A gamepad: what one of the `profiles` says, so that a game takes it for the real one; and what else the real one has.

It stays where it is when its driver goes (a pad out of reach of Bluetooth, say): nothing is pressed then, and its
sticks and triggers are where they are when nobody touches them. Force feedback is no business of virtio-input: while
the guest's agent has the pad, its events go there, and what games do with effects comes back (see `agent`).

The further event devices of a pad, its PARTS, are devices of their own, as they are for the kernel.
"""

from __future__ import annotations

import os
import socket
from abc import abstractmethod
from typing import Any, ClassVar

from subos_protocol.effects import Feedback
from subos_protocol.gamepad import Axis, Pad
from subos_protocol.hid_pad import PAD, Hid, Light
from subos_protocol.virtio_input import EVENTQ

from ...vhost_user.device import DeviceSpec, Worker
from ...vhost_user.virtqueue import Virtqueue
from ..capabilities import Capabilities, Frame
from ..driver_socket import LED
from ..model import InputDevice
from ..state import State
from ..touch import TouchState
from . import profiles
from .agent import AgentLink
from .battery import PadState, without_battery
from .profiles import Rest

DEFAULT = "generic"
_LIT, _STATISTICS = 2, 7
"""Of a worker's statistics: whether the agent has it, whether anything drives it, whether the guest has lit it; from
then on the colour and the lights for players, and how many bytes there are."""
EFFECTS = 16  # that a pad holds: the kernel's drivers of real ones have as many (ff-memless.c, FF_MEMLESS_EFFECTS)


class AgentDevice(InputDevice):
    """An event device of the gamepad that option `profile` names, which the guest's agent may make.

    `spec.fds["agent"]`, if there, is its channel to the guest's agent. Option `hid` is the name of the pad that it is,
    or is part of, where the agent may make all of them as one HID device; with `hid_only` it makes nothing else.
    """

    PART: ClassVar[str] = PAD
    force_feedback: frozenset[int] = frozenset()

    def __init__(self, spec: DeviceSpec) -> None:
        self.profile = profiles.load(_profile(spec))
        self.capabilities, self.rest = self.described()
        super().__init__(spec)
        self._agent: AgentLink | None = None
        self._statistics = memoryview(bytearray(_STATISTICS))

    @abstractmethod
    def described(self) -> tuple[Capabilities, Rest]:
        """What the profile says of it. Raises UserError where it has no such device."""

    @classmethod
    def prepare(cls, spec: DeviceSpec) -> None:
        profiles.load(_profile(spec))

    def pad(self) -> Pad:
        """What the agent is told of it."""
        can = self.capabilities
        return Pad(
            self.serial,
            can.name,
            can.ids,
            can.codes,
            {code: Axis(self.rest[code], info) for code, info in can.axes.items()},
            can.props,
            self.force_feedback,
            EFFECTS if self.force_feedback else 0,
            self._hid(),
        )

    def _hid(self) -> Hid | None:
        name, options = self.profile.capabilities.name, self.spec.options
        if not self.profile.hid or not options.get("hid"):
            return None
        parts, only = tuple(self.profile.parts), bool(options.get("hid_only"))
        return Hid(self.profile.hid, name, str(options["hid"]), self.PART, parts, only)

    def describe(self, statistics: memoryview) -> dict[str, Any]:
        return {"gamepad": {"agent": bool(statistics[0])}}

    def start(self, worker: Worker) -> None:
        super().start(worker)
        self._statistics = worker.statistics
        self._statistics[0] = 0
        self._statistics[_LIT] = 0
        if "agent" in self.spec.fds:
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
        if self._statistics[_LIT]:
            self.lit(Light((0, 0, 0), 0))
        self._hand_over(guest_is_new=False)

    def _hand_over(self, *, guest_is_new: bool) -> None:
        """Whose the pad is now is told its state, and drivers need not wait for whose it was."""
        if self._drivers is not None:
            self._drivers.resume()
        self._put([*self._state.whole(guest_is_new=guest_is_new), *self.more_state()])
        self._send_to_running_guest()

    def more_state(self) -> Frame:
        """What the agent is to know besides."""
        return []

    def agent_takes_more(self) -> None:
        self._send()

    def feel(self, message: Feedback) -> None:
        if self._drivers is not None:
            self._drivers.feel(message)

    def lit(self, light: Light) -> None:
        self._statistics[_LIT] = 1
        self._statistics[_LIT + 1 : _STATISTICS] = bytes([*light.rgb, light.players])
        if self._drivers is not None:
            self._drivers.tell(LED, {"rgb": list(light.rgb), "players": light.players})

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


class GamepadDevice(AgentDevice):
    """`gamepad`: option `profile`, one of `names()`. `spec.fds["presence"]`, if there, is an eventfd: there is news of
    whether anything drives it."""

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__(spec)
        self.force_feedback = self.profile.force_feedback

    def describe(self, statistics: memoryview) -> dict[str, Any]:
        said: dict[str, Any] = {"agent": bool(statistics[0]), "driven": bool(statistics[1])}
        if statistics[_LIT]:
            *rgb, players = statistics[_LIT + 1 : _STATISTICS]
            said["led"] = {"rgb": rgb, "players": players}
        return {"gamepad": said}

    def start(self, worker: Worker) -> None:
        super().start(worker)
        self.driven(False)  # a worker before may have died with drivers

    def driven(self, by_anybody: bool) -> None:
        self._statistics[1] = by_anybody
        if "presence" in self.spec.fds:
            os.eventfd_write(self.spec.fds["presence"], 1)

    def described(self) -> tuple[Capabilities, Rest]:
        return self.profile.capabilities, self.profile.rest

    def new_state(self) -> State:
        kind = PadState if self.capabilities.battery else State
        return kind(self.capabilities, self.rest)

    def more_state(self) -> Frame:
        return self._state.battery() if isinstance(self._state, PadState) else []

    def _put(self, frame: Frame) -> None:
        """Of its battery nobody hears who could do nothing with it."""
        agent_makes_it = self._agent is not None and self._agent.has_pad and self._hid() is not None
        super()._put(frame if agent_makes_it else without_battery(frame))


class PartDevice(AgentDevice):
    """A further event device of a pad: options `profile`, and `serial` where it is to have the pad's own: by that SDL
    knows which sensors are which pad's."""

    def described(self) -> tuple[Capabilities, Rest]:
        part = self.profile.part(self.PART)
        return part.capabilities, part.rest

    @property
    def serial(self) -> str:
        return str(self.spec.options.get("serial") or self.spec.name)


class MotionDevice(PartDevice):
    """`motion`: gyroscope and accelerometer. With no driver the pad lies still."""

    PART = "motion"

    def new_state(self) -> State:
        return State(self.capabilities, self.rest)


class TouchpadDevice(PartDevice):
    """`touchpad`: fingers, and a button under them."""

    PART = "touchpad"

    def new_state(self) -> State:
        return TouchState(self.capabilities)


def _profile(spec: DeviceSpec) -> str:
    return str(spec.options.get("profile") or DEFAULT)
