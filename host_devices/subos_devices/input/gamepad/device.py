"""A gamepad: what one of the `profiles` says, so that a game takes it for the real one.

It stays where it is when its driver goes (a pad out of reach of Bluetooth, say): nothing is pressed then, and its
sticks and triggers are where they are when nobody touches them. Force feedback is no business of virtio-input.
"""

from __future__ import annotations

from ...vhost_user.device import DeviceSpec
from ..model import InputDevice
from ..state import State
from . import profiles

DEFAULT = "generic"


class GamepadDevice(InputDevice):
    """`gamepad`: option `profile`, one of `names()`."""

    def __init__(self, spec: DeviceSpec) -> None:
        self.profile = profiles.load(str(spec.options.get("profile") or DEFAULT))
        self.capabilities = self.profile.capabilities
        super().__init__(spec)

    def new_state(self) -> State:
        return State(self.capabilities, self.profile.rest)
