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
from subos_devices.input.gamepad.device import GamepadDevice, TouchpadDevice
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


class RegisteredPart(NamedTuple):
    """`axes`: min, max, fuzz, flat, resolution. `timestamps`: EV_MSC, MSC_TIMESTAMP."""

    name: str
    ids: tuple[int, int, int, int]
    props: set[int]
    keys: set[int]
    axes: dict[int, tuple[int, int, int, int, int]]
    timestamps: bool


POINTER, BUTTONPAD, ACCELEROMETER = 0, 2, 6  # INPUT_PROP_*
LEFT, FINGER, TOUCH, DOUBLETAP = 0x110, 0x145, 0x14A, 0x14D  # BTN_LEFT, BTN_TOOL_FINGER, BTN_TOUCH, BTN_TOOL_DOUBLETAP


def sensors(name, ids, acceleration, turn):
    """ABS_X to ABS_Z, ABS_RX to ABS_RZ."""
    axes = dict.fromkeys(range(3), acceleration) | dict.fromkeys(range(3, 6), turn)
    return RegisteredPart(name, ids, {ACCELEROMETER}, set(), axes, timestamps=True)


def touchpad(name, ids, width, height):
    """ps_touchpad_create; input_mt_init_slots with two slots and INPUT_MT_POINTER."""
    x, y = (0, width - 1, 0, 0, 0), (0, height - 1, 0, 0, 0)
    # ABS_X, ABS_Y, ABS_MT_SLOT, ABS_MT_POSITION_X, ABS_MT_POSITION_Y, ABS_MT_TRACKING_ID
    axes = {0x00: x, 0x01: y, 0x2F: (0, 1, 0, 0, 0), 0x35: x, 0x36: y, 0x39: (0, 0xFFFF, 0, 0, 0)}
    return RegisteredPart(name, ids, {POINTER, BUTTONPAD}, {LEFT, FINGER, TOUCH, DOUBLETAP}, axes, timestamps=False)


# ps_sensors_create; DS_ACC_RANGE, DS_ACC_RES_PER_G, DS_GYRO_RANGE, DS_GYRO_RES_PER_DEG_S, and DS4_ likewise
PLAYSTATION_SENSORS = (-4 * 8192, 4 * 8192, 16, 0, 8192), (-2048 * 1024, 2048 * 1024, 16, 0, 1024)
# JC_IMU_MAX_ACCEL_MAG, JC_IMU_ACCEL_FUZZ, JC_IMU_ACCEL_FLAT, JC_IMU_ACCEL_RES_PER_G, and JC_IMU_ of GYRO likewise
IMU = (-32767, 32767, 10, 0, 4096), (-32767000, 32767000, 10, 0, 14247)
DUALSHOCK4, DUALSENSE, PROCON = REAL["dualshock4"], REAL["dualsense"], REAL["switchpro"]
REAL_PARTS = {
    ("dualshock4", "motion"): sensors(DUALSHOCK4.name + " Motion Sensors", DUALSHOCK4.ids, *PLAYSTATION_SENSORS),
    ("dualshock4", "touchpad"): touchpad(DUALSHOCK4.name + " Touchpad", DUALSHOCK4.ids, 1920, 942),
    ("dualsense", "motion"): sensors(DUALSENSE.name + " Motion Sensors", DUALSENSE.ids, *PLAYSTATION_SENSORS),
    ("dualsense", "touchpad"): touchpad(DUALSENSE.name + " Touchpad", DUALSENSE.ids, 1920, 1080),
    ("switchpro", "motion"): sensors(PROCON.name + " (IMU)", PROCON.ids, *IMU),
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


@pytest.mark.parametrize(("name", "part"), REAL_PARTS)
def test_a_further_device_is_what_the_kernel_registers(name, part):
    """By the answers that a guest gets, whose driver keeps less of the name than uinput does."""
    real, described = REAL_PARTS[name, part], profiles.load(name).part(part)
    answer = described.capabilities.answer
    assert described.capabilities.name == real.name
    assert answer(0x01, 0) == real.name.encode()[:63]
    assert struct.unpack("<4H", answer(0x03, 0)) == real.ids
    assert bits(answer(0x10, 0)) == real.props
    assert bits(answer(0x11, 1)) == real.keys
    assert bits(answer(0x11, 3)) == real.axes.keys()
    assert bits(answer(0x11, 4)) == ({5} if real.timestamps else set())
    assert {type_ for type_ in range(1, 0x20) if answer(0x11, type_)} <= {1, 3, 4}
    for axis, expected in real.axes.items():
        assert struct.unpack("<5i", answer(0x12, axis)) == expected
    assert described.rest.keys() == real.axes.keys()
    assert all(re.match(r"drivers/[\w/.-]+\.c", source) for source in described.source)


def test_all_further_devices_are_compared():
    assert {(name, part) for name in names() for part in profiles.load(name).parts} == REAL_PARTS.keys()


def test_a_pad_that_lies_still_feels_its_weight():
    for name, axis in (("dualshock4", 1), ("dualsense", 1), ("switchpro", 2)):
        part = profiles.load(name).part("motion")
        felt = {code: place for code, place in part.rest.items() if place}
        assert felt == {axis: part.capabilities.axes[axis].res}


def test_a_device_that_the_pad_does_not_have_is_refused():
    with pytest.raises(UserError, match="the gamepad switchpro has no touchpad") as caught:
        TouchpadDevice(DeviceSpec("touchpad", "t", {"profile": "switchpro"}))
    assert caught.value.hint == "dualsense, dualshock4 have one"


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


PART = """
[motion]
name = "Pad Sensors"
source = ["drivers/x.c: probe"]
properties = ["INPUT_PROP_ACCELEROMETER"]
buttons = []
misc = ["MSC_TIMESTAMP"]
[motion.axes]
ABS_X = { min = -9, max = 9, fuzz = 1, flat = 2, resolution = 3, rest = 4 }
"""


def test_a_good_file_with_a_further_device():
    part = profiles.parse("pad", GOOD + PART).part("motion")
    assert part.capabilities.name == "Pad Sensors"
    assert part.capabilities.ids == (3, 1, 2, 0xFFFF)
    assert (part.capabilities.codes, part.capabilities.axes) == ({4: {5}}, {0: (-9, 9, 1, 2, 3)})
    assert (part.capabilities.props, part.rest) == ({6}, {0: 4})


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("[motion]", "[motion]\nmotto = 1", "pad: motion: motto is no key of a profile"),
        ("misc = ", "music = ", "pad: motion: misc is missing"),
        ('["INPUT_PROP_ACCELEROMETER"]', '"six"', "pad: motion: properties must be of the kind list"),
        ("ACCELEROMETER", "ACCELERATOR", "pad: motion: INPUT_PROP_ACCELERATOR is no Prop"),
        ("MSC_TIMESTAMP", "MSC_TIME", "pad: motion: MSC_TIME is no Msc"),
        ('"Pad Sensors"', '""', "pad: motion: name has 1 to 79 bytes"),
        ('"drivers/x.c: probe"', "", "pad: motion: it has a source"),
        ("rest = 4", "rest = 10", "pad: motion: ABS_X: min < max"),
    ],
)
def test_a_bad_further_device_is_refused_with_what_is_wrong(good, bad, message):
    assert good in PART
    with pytest.raises(profiles.BadProfile, match=re.escape(message)):
        profiles.parse("pad", GOOD + PART.replace(good, bad, 1))


def test_a_further_device_is_a_table():
    with pytest.raises(profiles.BadProfile, match="pad: motion must be a table"):
        profiles.parse("pad", f"motion = 3\n{GOOD}")


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
        ('name = "Pad"', 'name = ""', "pad: name has 1 to 79 bytes"),
        ('name = "Pad"', f'name = "{"x" * 80}"', "pad: name has 1 to 79 bytes"),
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
