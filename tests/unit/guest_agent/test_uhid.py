"""/dev/uhid: the kernel's structures, in literal bytes, and HID descriptors."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_agent.gamepad import hid_descriptor
from subos_agent.gamepad.hid_descriptor import Item, descriptor
from subos_agent.gamepad.playstation import MODELS
from subos_agent.gamepad.uhid import (
    DATA_MAX,
    GetReport,
    HidIds,
    Output,
    SetReport,
    Uhid,
    UhidEvent,
    pack_create2,
    pack_get_report_reply,
    pack_input2,
    pack_set_report_reply,
    unpack,
)


def test_create2() -> None:
    packed = pack_create2("Pad", "here", "02:00", HidIds(3, 0x54C, 0xCE6, 0x111), b"\x05\x01")
    assert packed[:4] == b"\x0b\0\0\0"
    assert packed[4:132] == b"Pad".ljust(128, b"\0")
    assert packed[132:196] == b"here".ljust(64, b"\0")
    assert packed[196:260] == b"02:00".ljust(64, b"\0")
    assert packed[260:].hex() == "0200" + "0300" + "4c050000" + "e60c0000" + "11010000" + "00000000" + "0501"
    for name, phys, uniq, data in [("n" * 128, "", "", b""), ("", "p" * 64, "", b""), ("", "", "", bytes(4097))]:
        with pytest.raises(ValueError, match="beyond the limits"):
            pack_create2(name, phys, uniq, HidIds(3, 1, 2, 3), data)


def test_what_we_say() -> None:
    assert pack_input2(b"\x01ab").hex() == "0c000000" + "0300" + "016162"
    assert pack_get_report_reply(7, 0, b"\x09x").hex() == "0a000000" + "07000000" + "0000" + "0200" + "0978"
    assert pack_get_report_reply(7, 5).hex() == "0a000000" + "07000000" + "0500" + "0000"
    assert pack_set_report_reply(9, 5).hex() == "0e000000" + "09000000" + "0500"


def test_what_the_kernel_says() -> None:
    assert unpack(bytes.fromhex("09000000" + "07000000" + "20" + "00")) == GetReport(7, 0x20, 0)
    assert unpack(bytes.fromhex("0d000000" + "08000000" + "05" + "01" + "0100" + "aa")) == SetReport(8, 5, 1)
    output = b"\x06\0\0\0" + b"\x02abc".ljust(DATA_MAX, b"\0") + b"\x03\0" + b"\x01"
    assert unpack(output) == Output(b"\x02ab")
    assert unpack(b"\x06\0\0\0" + bytes(DATA_MAX) + b"\xff\xff\x01") == Output(bytes(DATA_MAX))
    assert unpack(b"\x02\0\0\0") == UhidEvent.UHID_START
    assert unpack(b"\x63\0\0\0") is None


@given(st.binary(min_size=4, max_size=5000))
def test_whatever_the_kernel_says_is_read(event: bytes) -> None:
    unpack(event)


def test_all_that_waits_is_read_and_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    monkeypatch.setattr(os, "open", lambda *_: ours.detach())
    uhid = Uhid()
    assert uhid.read() == []
    kernel.send(bytes.fromhex("09000000" + "07000000" + "2000"))
    kernel.send(bytes.fromhex("63000000"))
    kernel.send(bytes.fromhex("0d000000" + "08000000" + "0500" + "0000"))
    get, put = uhid.read()
    assert isinstance(get, GetReport)
    assert isinstance(put, SetReport)
    uhid.reply(get, b"\x20a")
    uhid.reply(get, b"")
    uhid.refuse(put)
    uhid.input(b"\x01")
    sizes = [kernel.recv(5000) for _ in range(4)]
    assert [each.hex() for each in sizes] == [
        "0a000000" + "07000000" + "0000" + "0200" + "2061",
        "0a000000" + "07000000" + "0500" + "0000",
        "0e000000" + "08000000" + "0500",
        "0c000000" + "0100" + "01",
    ]
    uhid.close()
    uhid.close()
    kernel.close()


def test_items() -> None:
    entries = [
        (Item.USAGE_PAGE, 0xFF00),
        (Item.USAGE, 0x20),
        (Item.COLLECTION, 1),
        (Item.LOGICAL_MINIMUM, -1),
        (Item.LOGICAL_MAXIMUM, 255),
        (Item.REPORT_ID, 0xA3),
        (Item.REPORT_COUNT, 70000),
        (Item.END_COLLECTION, 0),
    ]
    assert descriptor(entries).hex() == "0600ff" + "0920" + "a101" + "15ff" + "26ff00" + "85a3" + "9770110100" + "c0"
    with pytest.raises(ValueError, match="USAGE: -1"):
        descriptor([(Item.USAGE, -1)])


def sizes(data: bytes) -> dict[tuple[int, str], int]:
    """Bits of each report of a descriptor, by number and kind (HID 1.11, 6.2.2.2)."""
    found: dict[tuple[int, str], int] = {}
    at = size = count = number = 0
    while at < len(data):
        prefix = data[at]
        length = (0, 1, 2, 4)[prefix & 3]
        value = int.from_bytes(data[at + 1 : at + 1 + length], "little")
        at += 1 + length
        item = prefix & 0xFC
        if item == 0x74:
            size = value
        elif item == 0x94:
            count = value
        elif item == 0x84:
            number = value
        elif kind := {0x80: "input", 0x90: "output", 0xB0: "feature"}.get(item):
            found[number, kind] = found.get((number, kind), 0) + size * count
    assert at == len(data)
    return found


def test_reports_are_as_long_as_their_descriptor_says() -> None:
    for name, numbers in (("dualsense", (0x05, 0x09, 0x20)), ("dualshock4", (0x02, 0x12, 0xA3))):
        model = MODELS[name]
        found = sizes(model.descriptor)
        assert found[1, "input"] == 63 * 8
        assert {number for number, kind in found if kind == "feature"} == set(numbers)
        for number in numbers:
            assert found[number, "feature"] == 8 * (len(model.feature(number, bytes(6))) - 1)
    assert hid_descriptor.VENDOR == 0xFF00
