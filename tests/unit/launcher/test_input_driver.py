"""Rules of input devices, checked before a VM is booted."""

from __future__ import annotations

import pytest

from subos_devices.errors import UserError
from subos_devices.launcher import input_driver
from subos_devices.launcher.devices import PlannedDevice

DEVICES = [
    PlannedDevice("mouse", "mouse", driven=True),
    PlannedDevice("gamepad1", "gamepad", driven=True),
    PlannedDevice("rng", "rng"),
]


@pytest.mark.parametrize("to", ["mouse", "gamepad", "gamepad1"])
def test_devices_that_are_there(to: str) -> None:
    input_driver.check([{"device": "*", "to": to}, {"device": "next-pad"}], DEVICES)


@pytest.mark.parametrize("to", ["keyboard", "gamepad2", "rng"])
def test_devices_that_are_not(to: str) -> None:
    with pytest.raises(UserError) as caught:
        input_driver.check([{"device": "*"}, {"device": "*", "to": to}], DEVICES)
    assert caught.value.message == f"input[2]: the guest has no input device {to!r}"
    assert caught.value.hint == "there is gamepad, gamepad1, mouse"
