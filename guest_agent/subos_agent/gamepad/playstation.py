"""The reports of Sony's pads at a cable, as the kernel's driver knows them: what they say, are told, and are asked.

Source: drivers/hid/hid-playstation.c, struct dualsense_input_report, dualsense_output_report_common,
dualshock4_input_report_usb, dualshock4_output_report_common, and the functions that read the feature reports.

Their sensors are calibrated so that a report has the event devices' own units: 1/8192 of a g, and 1/16 of a degree a
second, which the driver makes 64 of its 1/1024.
"""

from __future__ import annotations

import hashlib
import struct
from abc import ABC, abstractmethod
from typing import ClassVar, Dict, List, Mapping, NamedTuple, Optional, Tuple

from subos_protocol.hid_pad import BATTERY_REST, Battery, Charge
from subos_protocol.input_codes import Abs, Key

from .hid_descriptor import (
    APPLICATION,
    GAME_PAD,
    GENERIC_DESKTOP,
    RX,
    RY,
    RZ,
    VENDOR,
    Item,
    X,
    Y,
    Z,
    bits,
    descriptor,
    hat_and_buttons,
    numbers,
    report,
)

REPORT_SIZE = 64  # bytes of an input report
GYRO_STEP = 64  # of the event device's units, in one of a report's
SLOTS = 2
BUTTONS: Mapping[int, Tuple[int, int]] = {
    Key.BTN_WEST: (0, 4),  # square
    Key.BTN_SOUTH: (0, 5),  # cross
    Key.BTN_EAST: (0, 6),  # circle
    Key.BTN_NORTH: (0, 7),  # triangle
    Key.BTN_TL: (1, 0),
    Key.BTN_TR: (1, 1),
    Key.BTN_TL2: (1, 2),
    Key.BTN_TR2: (1, 3),
    Key.BTN_SELECT: (1, 4),
    Key.BTN_START: (1, 5),
    Key.BTN_THUMBL: (1, 6),
    Key.BTN_THUMBR: (1, 7),
    Key.BTN_MODE: (2, 0),
    Key.BTN_LEFT: (2, 1),  # the touch pad's
}
"""Byte and bit of each button."""
STICKS_AND_TRIGGERS = (Abs.ABS_X, Abs.ABS_Y, Abs.ABS_RX, Abs.ABS_RY, Abs.ABS_Z, Abs.ABS_RZ)
GYRO = (Abs.ABS_RX, Abs.ABS_RY, Abs.ABS_RZ)
ACCELEROMETER = (Abs.ABS_X, Abs.ABS_Y, Abs.ABS_Z)
_HAT = {(0, -1): 0, (1, -1): 1, (1, 0): 2, (1, 1): 3, (0, 1): 4, (-1, 1): 5, (-1, 0): 6, (-1, -1): 7}
_NOWHERE = 8
_UNTOUCHED = 0x80  # of a touch's number
_BIASES, _PLUS, _MINUS, _SPEED, _GRAVITY = (0, 0, 0), 8640, -8640, 540, 8192
"""Of the calibration: at 540 degrees a second the gyroscope says 8640, and what falls upward 8192."""


class Touch(NamedTuple):
    """A finger; `number` is that of its touch."""

    number: int
    x: int
    y: int


class Controls:
    """What the pad has to say: sticks and triggers 0 to 255, the cross -1 to 1 each way, the sensors in the event
    devices' units, `time` of the sensors in microseconds."""

    def __init__(self) -> None:
        self.axes: Dict[int, int] = dict.fromkeys(STICKS_AND_TRIGGERS[:4], 128)
        self.keys: Dict[int, bool] = {}
        self.gyro: Dict[int, int] = {}
        self.accelerometer: Dict[int, int] = {Abs.ABS_Y: _GRAVITY}
        self.time = 0
        self.touches: List[Optional[Touch]] = [None] * SLOTS
        self.battery: Dict[int, int] = {int(code): value for code, value in BATTERY_REST.items()}

    def buttons(self) -> List[int]:
        """The bytes of hat and buttons."""
        cross = self.axes.get(Abs.ABS_HAT0X, 0), self.axes.get(Abs.ABS_HAT0Y, 0)
        packed = [_HAT.get((_clamp(cross[0], -1, 1), _clamp(cross[1], -1, 1)), _NOWHERE), 0, 0]
        for key, (byte, bit) in BUTTONS.items():
            packed[byte] |= self.keys.get(key, False) << bit
        return packed

    def positions(self) -> List[int]:
        """Of the sticks and triggers, in the order of STICKS_AND_TRIGGERS."""
        return [_clamp(self.axes.get(code, 0), 0, 255) for code in STICKS_AND_TRIGGERS]

    def sensors(self) -> List[int]:
        gyro = (round(self.gyro.get(code, 0) / GYRO_STEP) for code in GYRO)
        gravity = (self.accelerometer.get(code, 0) for code in ACCELEROMETER)
        return [_clamp(value, -0x8000, 0x7FFF) for value in (*gyro, *gravity)]

    def points(self) -> bytes:
        return b"".join(map(_point, self.touches))


def _point(touch: Optional[Touch]) -> bytes:
    if touch is None:
        return bytes([_UNTOUCHED, 0, 0, 0])
    x, y = _clamp(touch.x, 0, 0xFFF), _clamp(touch.y, 0, 0xFFF)
    return bytes([touch.number % _UNTOUCHED, x & 0xFF, x >> 8 | (y & 0xF) << 4, y >> 4])


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


class Told(NamedTuple):
    """What an output report tells the pad; None for what it says nothing of. `motors` are the strong and the weak one,
    0 to 255 each."""

    motors: Optional[Tuple[int, int]] = None
    rgb: Optional[Tuple[int, int, int]] = None
    players: Optional[int] = None


class Model(ABC):
    """One kind of pad. `touch_button_waits`: the driver tells of the touch pad's button with the next report only."""

    descriptor: ClassVar[bytes]
    touch_button_waits: ClassVar[bool] = False

    @abstractmethod
    def pack(self, controls: Controls, count: int) -> bytes:
        """The input report number `count`."""

    @abstractmethod
    def told(self, output: bytes) -> Told:
        """What an output report says; nothing where it is none of this pad's."""

    @abstractmethod
    def feature(self, number: int, mac: bytes) -> bytes:
        """A feature report; empty where there is no such one. `mac` is the pad's address."""


class DualSense(Model):
    descriptor = descriptor(
        [
            (Item.USAGE_PAGE, GENERIC_DESKTOP),
            (Item.USAGE, GAME_PAD),
            (Item.COLLECTION, APPLICATION),
            (Item.REPORT_ID, 0x01),
            *numbers(6, (X, Y, Z, RZ, RX, RY)),
            *numbers(1, (0x20,), VENDOR),  # counts reports
            *hat_and_buttons(15),
            *bits(13, 0x21),
            *numbers(52, (0x22,), VENDOR),  # sensors, touch pad, battery
            *report(0x02, Item.OUTPUT, 47, 0x23),  # motors and lights
            *report(0x05, Item.FEATURE, 40, 0x33),  # calibration
            *report(0x09, Item.FEATURE, 19, 0x24),  # pairing
            *report(0x20, Item.FEATURE, 63, 0x26),  # firmware
            (Item.END_COLLECTION, 0),
        ]
    )
    _INPUT = struct.Struct("<B 6B B 4B 4x 6h I x 8s 12x B 10x")
    _COMMON = struct.Struct("<BB BB 34x B 2x B x B 3B")
    """Flags 0 and 1, the weak and the strong motor; flags 2, the lightbar's set-up, the players' lights, the colour."""
    _MOTORS, _MOTORS2 = 0x03, 0x04  # of flags 0 and 2
    _LIGHTBAR, _PLAYERS = 0x04, 0x10  # of flags 1
    _SETUP, _LIGHT_OUT = 0x02, 0x02  # of flags 2 and the set-up

    def pack(self, controls: Controls, count: int) -> bytes:
        level, state = controls.battery[Battery.LEVEL], controls.battery[Battery.STATE]
        return self._INPUT.pack(
            0x01,
            *controls.positions(),
            count & 0xFF,
            *controls.buttons(),
            0,
            *controls.sensors(),
            controls.time * 3 & 0xFFFF_FFFF,
            controls.points(),
            level // 10 | state << 4,  # Charge counts as the pad does
        )

    def told(self, output: bytes) -> Told:
        if output[:1] != b"\x02" or len(output) <= self._COMMON.size:
            return Told()
        flags0, flags1, weak, strong, flags2, setup, players, *rgb = self._COMMON.unpack_from(output, 1)
        motors = (strong, weak) if flags0 & self._MOTORS or flags2 & self._MOTORS2 else None
        if not (flags0 or flags1 or flags2):  # so SDL ends a rumble, and the pad ends it; the kernel's always have some
            motors = (0, 0)
        colour: Optional[Tuple[int, int, int]] = None
        if flags1 & self._LIGHTBAR:
            colour = (rgb[0], rgb[1], rgb[2])
        elif flags2 & self._SETUP and setup & self._LIGHT_OUT:
            colour = (0, 0, 0)
        return Told(motors, colour, players & 0x1F if flags1 & self._PLAYERS else None)

    def feature(self, number: int, mac: bytes) -> bytes:
        if number == 0x05:
            return _calibration(number, 41)
        if number == 0x09:
            return _pairing(number, mac, 20)
        if number == 0x20:
            hardware, firmware, update = 0x0100_0208, 0x0100_0000, 0x0224  # the update from which rumble is "v2"
            fields = struct.pack("<11s8s2x2xII12xH", b"Jan  1 2025", b"00:00:00", hardware, firmware, update)
            return (bytes([number]) + fields).ljust(64, b"\0")
        return b""


class DualShock4(Model):
    descriptor = descriptor(
        [
            (Item.USAGE_PAGE, GENERIC_DESKTOP),
            (Item.USAGE, GAME_PAD),
            (Item.COLLECTION, APPLICATION),
            (Item.REPORT_ID, 0x01),
            *numbers(4, (X, Y, Z, RZ)),
            *hat_and_buttons(14),
            *bits(6, 0x20),  # counts reports
            *numbers(2, (RX, RY)),
            *numbers(54, (0x21,), VENDOR),  # sensors, battery, touch pad
            *report(0x05, Item.OUTPUT, 31, 0x22),  # motors and lights
            *report(0x02, Item.FEATURE, 36, 0x24),  # calibration
            *report(0x12, Item.FEATURE, 15, 0x25),  # pairing
            *report(0xA3, Item.FEATURE, 48, 0x43),  # firmware
            (Item.END_COLLECTION, 0),
        ]
    )
    touch_button_waits = True
    _INPUT = struct.Struct("<B 4B 3B 2B H x 6h 5x B x x B x 8s 21x")
    _COMMON = struct.Struct("<B 2x BB 3B")
    """Flags, the weak and the strong motor, the colour."""
    _MOTORS, _LIGHTBAR = 0x01, 0x02  # of the flags
    _CABLE, _FULL = 0x10, 11  # of the battery's byte

    def pack(self, controls: Controls, count: int) -> bytes:
        hat, first, second = controls.buttons()
        positions = controls.positions()
        return self._INPUT.pack(
            0x01,
            *positions[:4],
            hat,
            first,
            second | (count & 0x3F) << 2,
            *positions[4:],
            controls.time * 3 // 16 & 0xFFFF,
            *controls.sensors(),
            self._battery(controls),
            1,  # reports of touches
            controls.points(),
        )

    def _battery(self, controls: Controls) -> int:
        level, state = controls.battery[Battery.LEVEL] // 10, controls.battery[Battery.STATE]
        if state == Charge.FULL:
            return self._CABLE | self._FULL
        return level | (self._CABLE if state == Charge.CHARGING else 0)

    def told(self, output: bytes) -> Told:
        if output[:1] != b"\x05" or len(output) <= self._COMMON.size:
            return Told()
        flags, weak, strong, red, green, blue = self._COMMON.unpack_from(output, 1)
        return Told(
            (strong, weak) if flags & self._MOTORS else None, (red, green, blue) if flags & self._LIGHTBAR else None
        )

    def feature(self, number: int, mac: bytes) -> bytes:
        if number == 0x02:
            return _calibration(number, 37)
        if number == 0x12:
            return _pairing(number, mac, 16)
        if number == 0xA3:
            fields = struct.pack("<16s16s2xH4xH", b"Jan  1 2025", b"00:00:00", 0x0100, 0x0100)
            return (bytes([number]) + fields).ljust(49, b"\0")
        return b""


def _calibration(number: int, size: int) -> bytes:
    gyro, gravity = [_PLUS, _MINUS] * 3, [_GRAVITY, -_GRAVITY] * 3
    return (bytes([number]) + struct.pack("<17h", *_BIASES, *gyro, _SPEED, _SPEED, *gravity)).ljust(size, b"\0")


def _pairing(number: int, mac: bytes, size: int) -> bytes:
    """The address, its last byte first; then that of a host, of which there is none."""
    return (bytes([number]) + mac[::-1]).ljust(size, b"\0")


def mac_of(serial: str) -> bytes:
    """An address for the pad: always the same, of nobody's, and another one for each serial."""
    return b"\x02" + hashlib.sha256(serial.encode()).digest()[:5]


MODELS: Dict[str, Model] = {"dualsense": DualSense(), "dualshock4": DualShock4()}
