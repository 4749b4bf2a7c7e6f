"""struct input_event, as this machine's kernel has it: two longs of time, then type, code and value."""

from __future__ import annotations

import struct
import sys

from subos_protocol.input_event import INPUT_EVENT, pack_event

TIME = 2 * struct.calcsize("l")


def test_an_event_of_no_time() -> None:
    ends = {"little": bytes.fromhex("0100 3001 01000000"), "big": bytes.fromhex("0001 0130 00000001")}
    assert pack_event(0x01, 0x130, 1) == bytes(TIME) + ends[sys.byteorder]


def test_values_have_a_sign() -> None:
    assert pack_event(0x03, 0x39, -1)[-4:] == b"\xff\xff\xff\xff"
    assert INPUT_EVENT.unpack(bytes(TIME) + bytes(4) + b"\xff\xff\xff\xff") == (0, 0, 0, 0, -1)
