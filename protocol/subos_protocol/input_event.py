"""struct input_event, as event devices and uinput have it: the kernel's include/uapi/linux/input.h.

In the machine's own sizes, as both ends of it are one kernel's.
"""

from __future__ import annotations

import struct

INPUT_EVENT = struct.Struct("@llHHi")  # seconds, microseconds, type, code, value


def pack_event(type_: int, code: int, value: int) -> bytes:
    """An event to be written, which has no time."""
    return INPUT_EVENT.pack(0, 0, type_, code, value)
