"""What the guest is told of the keyboard, and what text becomes on it."""

from __future__ import annotations

import string

import pytest

from subos_devices.errors import UserError
from subos_devices.input import script
from subos_devices.input.actions import device_of
from subos_devices.input.keyboard import KEYBOARD, KeyboardDevice
from subos_devices.input.keymap import key_named, keys_for
from subos_devices.vhost_user.device import DeviceSpec
from subos_protocol.errors import Malformed
from subos_protocol.virtio_input import virtio_input_event


def test_every_key_and_no_button():
    bits = int.from_bytes(KEYBOARD.answer(0x11, 0x01), "little")
    assert bits >> 1 & (1 << 248) - 1 == (1 << 248) - 1 - sum(1 << n - 1 for n in range(1, 249) if not known(n))
    assert bits < 1 << 256
    assert not bits & 1


def known(code: int) -> bool:
    """linux/input-event-codes.h has no keys of these numbers."""
    return code not in (84, 195, 196, 197, 198, 199)


def test_leds_and_repeat():
    assert KEYBOARD.answer(0x11, 0x11) == b"\x07"  # NUML, CAPSL, SCROLLL
    assert KEYBOARD.answer(0x11, 0x14) == b"\x03"  # any answer makes Linux repeat keys by itself
    assert KEYBOARD.answer(0x01, 0) == b"SubOS Keyboard"
    assert KeyboardDevice(DeviceSpec("keyboard", "keyboard")).num_queues == 2


@pytest.mark.parametrize("event", [(1, 0x110, 1), (1, 0, 1), (1, 30, 2), (0x11, 0, 1), (2, 0, 1), (0x14, 0, 5)])
def test_what_a_driver_may_not_send(event):
    with pytest.raises(Malformed):
        KEYBOARD.check(virtio_input_event(*event))


def test_every_printable_letter_has_keys_of_this_keyboard():
    typed = {letter: tuple(keys_for(letter)) for letter in string.printable if letter not in "\r\x0b\x0c"}
    assert len(set(typed.values())) == len(typed)
    for keys in typed.values():
        for key in keys:
            KEYBOARD.check(virtio_input_event(1, key, 1))
    assert typed["a"] == (30,)
    assert typed["A"] == (42, 30)
    assert typed["?"] == (42, 53)
    assert typed["\n"] == (28,)


def test_names_of_keys():
    assert (key_named("ctrl"), key_named("F5"), key_named("KEY_VOLUMEUP"), key_named("enter")) == (29, 63, 115, 28)
    with pytest.raises(UserError):
        key_named("reserved")


def test_each_action_finds_its_device():
    actions = script.parse(["move 1 1, click, key a, wait 1, scroll 1, type b"])
    assert [device_of(action) for action in actions] == ["mouse", "mouse", "keyboard", None, "mouse", "keyboard"]
