"""Each gamepad against what the kernel's driver registers for the real one, in the kernel's numbers.

The tables here were written down from the drivers, not from our profiles: drivers/input/joystick/xpad.c (Linux 6.12 and
later), drivers/hid/hid-playstation.c (6.12), drivers/hid/hid-nintendo.c (6.8 and later), drivers/input/ff-memless.c.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

import pytest

from subos_devices.errors import UserError
from subos_devices.input.gamepad import names, profiles
from subos_devices.input.gamepad.device import GamepadDevice
from subos_devices.vhost_user.device import DeviceSpec

A, B, X, Y = 0x130, 0x131, 0x133, 0x134  # BTN_A, BTN_B, BTN_X, BTN_Y
SOUTH, EAST, NORTH, WEST, Z = 0x130, 0x131, 0x133, 0x134, 0x135
TL, TR, TL2, TR2, SELECT, START, MODE, THUMBL, THUMBR = range(0x136, 0x13F)
KEY_RECORD = 0xA7
# input_ff_create_memless adds these to FF_RUMBLE: FF_PERIODIC, FF_SQUARE, FF_TRIANGLE, FF_SINE, FF_GAIN
MEMLESS = {0x50, 0x51, 0x58, 0x59, 0x5A, 0x60}


class Registered(NamedTuple):
    """`ids`: bus, vendor, product, version. `axes`: min, max, fuzz, flat, as input_set_abs_params has them."""

    name: str
    ids: tuple[int, int, int, int]
    keys: set[int]
    axes: dict[int, tuple[int, int, int, int]]
    effects: set[int]


# xpad_common_btn, xpad360_btn; xpad_set_up_abs
XPAD_KEYS = {A, B, X, Y, START, SELECT, THUMBL, THUMBR, TL, TR, MODE}


def xpad_axes(trigger: int) -> dict[int, tuple[int, int, int, int]]:
    sticks = dict.fromkeys((0x00, 0x01, 0x03, 0x04), (-32768, 32767, 16, 128))  # ABS_X, ABS_Y, ABS_RX, ABS_RY
    triggers = dict.fromkeys((0x02, 0x05), (0, trigger, 0, 0))  # ABS_Z, ABS_RZ
    return sticks | triggers | dict.fromkeys((0x10, 0x11), (-1, 1, 0, 0))  # ABS_HAT0X, ABS_HAT0Y


# ps_gamepad_buttons, ps_gamepad_create
PLAYSTATION_KEYS = {WEST, NORTH, EAST, SOUTH, TL, TR, TL2, TR2, SELECT, START, THUMBL, THUMBR, MODE}
PLAYSTATION_AXES = dict.fromkeys(range(6), (0, 255, 0, 0)) | dict.fromkeys((0x10, 0x11), (-1, 1, 0, 0))

# procon_button_mappings; JC_MAX_STICK_MAG, JC_STICK_FUZZ, JC_STICK_FLAT
PROCON_KEYS = {EAST, SOUTH, NORTH, WEST, TL, TR, TL2, TR2, SELECT, START, THUMBL, THUMBR, MODE, Z}
PROCON_AXES = dict.fromkeys((0, 1, 3, 4), (-32767, 32767, 250, 500)) | dict.fromkeys((0x10, 0x11), (-1, 1, 0, 0))

REAL = {
    "xbox360": Registered("Microsoft X-Box 360 pad", (3, 0x45E, 0x28E, 0x110), XPAD_KEYS, xpad_axes(255), MEMLESS),
    "xboxone": Registered("Microsoft X-Box One pad", (3, 0x45E, 0x2D1, 0x101), XPAD_KEYS, xpad_axes(1023), MEMLESS),
    "xboxseries": Registered(
        "Microsoft Xbox Series S|X Controller",
        (3, 0x45E, 0xB12, 0x501),
        XPAD_KEYS | {KEY_RECORD},  # MAP_SHARE_BUTTON
        xpad_axes(1023),
        MEMLESS,
    ),
    # Version: the HID descriptor's 0x0111, and HID_PLAYSTATION_VERSION_PATCH.
    "dualshock4": Registered(
        "Sony Interactive Entertainment Wireless Controller",
        (3, 0x54C, 0x9CC, 0x8111),
        PLAYSTATION_KEYS,
        PLAYSTATION_AXES,
        MEMLESS,
    ),
    "dualsense": Registered(
        "Sony Interactive Entertainment DualSense Wireless Controller",
        (3, 0x54C, 0xCE6, 0x8111),
        PLAYSTATION_KEYS,
        PLAYSTATION_AXES,
        MEMLESS,
    ),
    "switchpro": Registered(
        "Nintendo Co., Ltd. Pro Controller", (3, 0x57E, 0x2009, 0x8111), PROCON_KEYS, PROCON_AXES, MEMLESS
    ),
}


def bits(bitmap: bytes) -> set[int]:
    return {n for n in range(8 * len(bitmap)) if bitmap[n // 8] >> n % 8 & 1}


@pytest.mark.parametrize("name", REAL)
def test_a_profile_is_what_the_kernel_registers(name):
    """By the answers that a guest gets."""
    real, answer = REAL[name], profiles.load(name).capabilities.answer
    assert answer(0x01, 0) == real.name.encode()
    assert struct.unpack("<4H", answer(0x03, 0)) == real.ids
    assert bits(answer(0x10, 0)) == set()  # no INPUT_PROP_*
    assert {type_ for type_ in range(1, 0x20) if answer(0x11, type_)} == {1, 3}
    assert bits(answer(0x11, 1)) == real.keys
    assert bits(answer(0x11, 3)) == real.axes.keys()
    for axis, (low, high, fuzz, flat) in real.axes.items():
        assert struct.unpack("<5i", answer(0x12, axis)) == (low, high, fuzz, flat, 0)
    assert profiles.load(name).force_feedback == real.effects


def test_all_profiles_are_compared_but_the_one_that_is_no_real_pad():
    assert set(names()) == {*REAL, "generic"}


@pytest.mark.parametrize("name", names())
def test_every_profile_says_where_it_comes_from_and_is_known_by_its_whole_name(name):
    profile = profiles.load(name)
    assert all(re.match(r"(drivers|Documentation)/[\w/.-]+\.(c|rst)", source) for source in profile.source)
    assert len(profile.capabilities.name) < 64  # Linux' virtio_input keeps no more
    assert profile.rest.keys() == profile.capabilities.axes.keys()
    assert 0x130 in profile.capabilities.of(1)  # BTN_GAMEPAD: by this a guest knows that it is one


def test_sticks_rest_in_the_middle_and_triggers_at_the_start():
    for name in names():
        profile = profiles.load(name)
        for code, axis in profile.capabilities.axes.items():
            trigger = code in (2, 5)
            assert profile.rest[code] == (axis.min if trigger else (axis.min + axis.max + 1) // 2)


def test_an_unknown_gamepad_is_refused_with_those_that_there_are():
    with pytest.raises(UserError, match="no gamepad is called 'atari'") as caught:
        GamepadDevice(DeviceSpec("gamepad", "gamepad1", {"profile": "atari"}))
    assert "xbox360" in caught.value.hint
    with pytest.raises(UserError):
        profiles.load("../profiles/xbox360")
    assert GamepadDevice(DeviceSpec("gamepad", "gamepad1")).profile.name == "generic"


GOOD = """\
name = "Pad"
source = ["drivers/x.c: probe"]
bus = "BUS_USB"
vendor = 1
product = 2
version = 0xffff
buttons = ["BTN_SOUTH", "BTN_EAST"]
force_feedback = []
[axes]
ABS_X = { min = -1, max = 1, fuzz = 0, flat = 0, resolution = 0, rest = 0 }
"""


def test_a_good_file():
    profile = profiles.parse("pad", GOOD)
    assert profile.capabilities.ids == (3, 1, 2, 0xFFFF)
    assert profile.capabilities.axes == {0: (-1, 1, 0, 0, 0)}
    assert profile.force_feedback == frozenset()


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("[axes]", "[axes", "pad: it is not TOML"),
        ("vendor = 1\n", "", "pad: vendor is missing"),
        ("vendor = 1", "vendor = 1\ncolour = 1", "pad: colour is no key of a profile"),
        ("vendor = 1", 'vendor = "1"', "pad: vendor must be of the kind int"),
        ("vendor = 1", "vendor = true", "pad: vendor must be of the kind int"),
        ("vendor = 1", "vendor = 65536", "pad: vendor is 65536, which is not within 0 to 65535"),
        ('name = "Pad"', 'name = ""', "pad: name has 1 to 128 bytes"),
        ('name = "Pad"', f'name = "{"x" * 129}"', "pad: name has 1 to 128 bytes"),
        ("BUS_USB", "USB", "pad: USB is no Bus"),
        ("BTN_EAST", "BTN_WETS", "pad: BTN_WETS is no Key"),
        ("BTN_EAST", "BTN_A", "pad: two names of one Key"),
        ("BTN_EAST", "BTN_SOUTH", "pad: buttons must be a list of texts, each of them once"),
        ('"BTN_EAST"', "2", "pad: buttons must be a list of texts"),
        ('"BTN_SOUTH", "BTN_EAST"', "", "pad: a gamepad has buttons, and a source"),
        ('"drivers/x.c: probe"', "", "pad: a gamepad has buttons, and a source"),
        ("feedback = []", 'feedback = ["FF_RUMBEL"]', "pad: FF_RUMBEL is no Ff"),
        ("ABS_X", "ABS_QX", "pad: ABS_QX is no Abs"),
        (", rest = 0", "", "pad: ABS_X: rest is missing"),
        ("rest = 0", "rest = 0, dead = 1", "pad: ABS_X: dead is no key of a profile"),
        ("rest = 0", "rest = 2", "pad: ABS_X: min < max"),
        ("rest = 0", "rest = 0.5", "pad: ABS_X: rest must be of the kind int"),
        ("max = 1", "max = -1", "pad: ABS_X: min < max"),
        ("fuzz = 0", "fuzz = -1", "pad: ABS_X: min < max"),
        ("max = 1", "max = 2147483648", "pad: ABS_X: max is 2147483648"),
        ("{ min = -1, max = 1, fuzz = 0, flat = 0, resolution = 0, rest = 0 }", "3", "pad: ABS_X must be a table"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong(good, bad, message):
    assert good in GOOD
    with pytest.raises(profiles.BadProfile, match=re.escape(message)):
        profiles.parse("pad", GOOD.replace(good, bad, 1))
