"""HID report descriptors from tables. Source: Device Class Definition for HID 1.11, 6.2.2 (items) and HID Usage Tables.

descriptor([(Item.USAGE_PAGE, GENERIC_DESKTOP), (Item.USAGE, GAME_PAD), (Item.COLLECTION, APPLICATION), …])
"""

from __future__ import annotations

from enum import IntEnum
from typing import Iterable, List, Tuple

GENERIC_DESKTOP, BUTTON, VENDOR = 0x01, 0x09, 0xFF00  # usage pages
GAME_PAD, X, Y, Z, RX, RY, RZ, HAT_SWITCH = 0x05, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x39  # of the generic desktop
APPLICATION = 0x01  # a collection
VARIABLE, NULL_STATE = 0x02, 0x40  # bits of INPUT, OUTPUT and FEATURE: a value of its own; it may be nowhere
DEGREES = 0x14  # a unit


class Item(IntEnum):
    """A short item's first byte, without its size."""

    INPUT = 0x80  # a field of what the device says
    OUTPUT = 0x90  # of what it is told
    FEATURE = 0xB0  # of what it is asked
    COLLECTION = 0xA0
    END_COLLECTION = 0xC0
    USAGE_PAGE = 0x04
    LOGICAL_MINIMUM = 0x14
    LOGICAL_MAXIMUM = 0x24
    PHYSICAL_MINIMUM = 0x34
    PHYSICAL_MAXIMUM = 0x44
    UNIT = 0x64
    REPORT_SIZE = 0x74  # bits of each field
    REPORT_ID = 0x84
    REPORT_COUNT = 0x94  # fields
    USAGE = 0x08
    USAGE_MINIMUM = 0x18
    USAGE_MAXIMUM = 0x28


_SIGNED = (Item.LOGICAL_MINIMUM, Item.LOGICAL_MAXIMUM, Item.PHYSICAL_MINIMUM, Item.PHYSICAL_MAXIMUM)
_SIZES = ((1, 1), (2, 2), (4, 3))  # bytes of a value, and how the first byte says it
Entry = Tuple[Item, int]


def descriptor(entries: Iterable[Entry]) -> bytes:
    return b"".join(_pack(item, value) for item, value in entries)


def _pack(item: Item, value: int) -> bytes:
    if item is Item.END_COLLECTION:
        return bytes([item])
    signed = item in _SIGNED
    for size, code in _SIZES:
        limit = 1 << 8 * size - signed
        if (-limit if signed else 0) <= value < limit:
            return bytes([item | code]) + value.to_bytes(size, "little", signed=signed)
    raise ValueError(f"{item.name}: {value}")


def numbers(count: int, usages: Iterable[int], page: int = GENERIC_DESKTOP) -> List[Entry]:
    """`count` bytes of the device's, from 0 to 255."""
    return [
        (Item.USAGE_PAGE, page),
        *((Item.USAGE, usage) for usage in usages),
        (Item.LOGICAL_MINIMUM, 0),
        (Item.LOGICAL_MAXIMUM, 255),
        (Item.REPORT_SIZE, 8),
        (Item.REPORT_COUNT, count),
        (Item.INPUT, VARIABLE),
    ]


def hat_and_buttons(buttons: int) -> List[Entry]:
    """A hat switch of eight directions, clockwise from the top, in four bits, and `buttons` bits."""
    return [
        (Item.USAGE_PAGE, GENERIC_DESKTOP),
        (Item.USAGE, HAT_SWITCH),
        (Item.LOGICAL_MINIMUM, 0),
        (Item.LOGICAL_MAXIMUM, 7),
        (Item.PHYSICAL_MINIMUM, 0),
        (Item.PHYSICAL_MAXIMUM, 315),
        (Item.UNIT, DEGREES),
        (Item.REPORT_SIZE, 4),
        (Item.REPORT_COUNT, 1),
        (Item.INPUT, VARIABLE | NULL_STATE),
        (Item.PHYSICAL_MAXIMUM, 0),
        (Item.UNIT, 0),
        (Item.USAGE_PAGE, BUTTON),
        (Item.USAGE_MINIMUM, 1),
        (Item.USAGE_MAXIMUM, buttons),
        (Item.LOGICAL_MINIMUM, 0),
        (Item.LOGICAL_MAXIMUM, 1),
        (Item.REPORT_SIZE, 1),
        (Item.REPORT_COUNT, buttons),
        (Item.INPUT, VARIABLE),
    ]


def bits(count: int, usage: int) -> List[Entry]:
    """`count` bits of the vendor's."""
    return [
        (Item.USAGE_PAGE, VENDOR),
        (Item.USAGE, usage),
        (Item.LOGICAL_MINIMUM, 0),
        (Item.LOGICAL_MAXIMUM, 1),
        (Item.REPORT_SIZE, 1),
        (Item.REPORT_COUNT, count),
        (Item.INPUT, VARIABLE),
    ]


def report(number: int, kind: Item, size: int, usage: int) -> List[Entry]:
    """A report of `size` bytes of the vendor's, its number not counted."""
    return [
        (Item.REPORT_ID, number),
        (Item.USAGE_PAGE, VENDOR),
        (Item.USAGE, usage),
        (Item.LOGICAL_MINIMUM, 0),
        (Item.LOGICAL_MAXIMUM, 255),
        (Item.REPORT_SIZE, 8),
        (Item.REPORT_COUNT, size),
        (kind, VARIABLE),
    ]
