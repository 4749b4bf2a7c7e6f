"""Wayland's messages: bytes as a compositor (sway 1.7) sent them, and as the protocol's chapter 4 lays them out."""

from __future__ import annotations

import sys
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_desktop.clipboard.wayland.protocol import DATA_CONTROLS, DISPLAY, REGISTRY
from subos_desktop.clipboard.wayland.wire import Argument, Decoder, Message, WireError, pack, unpack

pytestmark = pytest.mark.skipif(sys.byteorder == "big", reason="the bytes are a little-endian machine's")

SEAT = bytes.fromhex("02000000 00001c00 24000000 08000000 776c5f73 65617400 07000000")
CONTROL = bytes.fromhex(
    "02000000 00003400 18000000 1d000000 7a776c72 5f646174 615f636f 6e74726f 6c5f6d61 6e616765 725f7631 00000000"
    "02000000"
)
DONE = bytes.fromhex("03000000 00000c00 01000000")
DELETED = bytes.fromhex("01000000 01000c00 03000000")
GET_REGISTRY = bytes.fromhex("01000000 01000c00 02000000")

LAYOUTS: list[tuple[bytes, str, tuple[Argument, ...]]] = [
    (SEAT, "usu", (36, "wl_seat", 7)),
    (CONTROL, "usu", (24, "zwlr_data_control_manager_v1", 2)),
    (DONE, "u", (1,)),
    (DELETED, "u", (3,)),
    (GET_REGISTRY, "n", (2,)),
    (bytes.fromhex("05000000 00000c00 00000000"), "?o", (None,)),
    (bytes.fromhex("05000000 00000c00 00000000"), "?s", (None,)),
    (bytes.fromhex("05000000 00000c00 ffffffff"), "i", (-1,)),
    (bytes.fromhex("05000000 00001000 01000000 00000000"), "s", ("",)),
    (bytes.fromhex("05000000 00001000 03000000 01020300"), "a", (b"\x01\x02\x03",)),
    (bytes.fromhex("05000000 07000800"), "", ()),
]


@pytest.mark.parametrize(("data", "signature", "arguments"), LAYOUTS)
def test_bytes_and_arguments(data: bytes, signature: str, arguments: tuple[Argument, ...]) -> None:
    (message,) = Decoder().feed(data)
    assert unpack(signature, message.payload, deque()) == arguments
    assert pack(message.object, message.opcode, signature, arguments) == (data, [])


def test_a_descriptor_has_no_bytes() -> None:
    """`send` of a data source: what wl-paste asks for."""
    data = bytes.fromhex("09000000 00001800 0a000000 74657874 2f68746d 6c000000")
    assert pack(9, 0, "sh", ("text/html", 7)) == (data, [7])
    (message,) = Decoder().feed(data)
    fds = deque([7, 8])
    assert unpack("sh", message.payload, fds) == ("text/html", 7)
    assert fds == deque([8])
    with pytest.raises(WireError, match="descriptor"):
        unpack("sh", message.payload, deque())


@pytest.mark.parametrize(
    ("signature", "payload"),
    [
        ("u", ""),
        ("u", "00000000 00000000"),
        ("s", "00000000"),  # may not be none
        ("o", "00000000"),
        ("s", "05000000 61626364"),  # longer than the message
        ("s", "ffffffff 61626364"),
        ("s", "04000000 61626364"),  # no end
        ("a", "08000000 00000000"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(signature: str, payload: str) -> None:
    with pytest.raises(WireError):
        unpack(signature, bytes.fromhex(payload), deque())


@pytest.mark.parametrize("size", [0, 4, 7, 9, 13])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(WireError):
        list(Decoder().feed(bytes.fromhex("01000000 0000") + size.to_bytes(2, "little") + bytes(16)))


def test_a_message_has_an_end() -> None:
    with pytest.raises(WireError):
        pack(1, 0, "s", ("x" * 0xFFFF,))


def test_opcodes_are_places() -> None:
    """As in wayland.xml and the two data controls' files."""
    assert DISPLAY.opcode("get_registry") == 1
    assert REGISTRY.opcode("bind") == 0
    for name, version in (("ext_data_control_manager_v1", 1), ("zwlr_data_control_manager_v1", 2)):
        control = DATA_CONTROLS[name]
        assert control.version == control.primary_since == version
        assert [control.manager.opcode(name) for name in ("create_data_source", "get_data_device", "destroy")] == [
            0,
            1,
            2,
        ]
        assert [control.device.opcode(name) for name in ("set_selection", "set_primary_selection")] == [0, 2]
        assert [name for name, _ in control.device.events].index("primary_selection") == 3
        assert control.source.opcode("offer") == control.offer.opcode("receive") == 0


@given(st.lists(st.sampled_from([data for data, _, _ in LAYOUTS])), st.data())
def test_the_cuts_of_a_stream_do_not_matter(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    decoder = Decoder()
    found = [
        message
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for message in decoder.feed(stream[start:end])
    ]
    assert found == list(Decoder().feed(stream))
    assert len(found) == len(messages)


@given(st.binary(), st.sampled_from(["u", "s", "?s", "usu", "ous", "sh", "a", "n", "?o", "i"]))
def test_any_bytes_are_parsed_or_refused(data: bytes, signature: str) -> None:
    try:
        for message in Decoder().feed(data):
            unpack(signature, message.payload, deque([1]))
    except WireError:
        pass


@given(st.integers(1, 2**32 - 1), st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1), st.text(max_size=300))
def test_what_is_packed_is_unpacked(target: int, opcode: int, number: int, text: str) -> None:
    text = text.replace("\0", "").encode("utf-8", "replace").decode()
    data, fds = pack(target, opcode, "us?o", (number, text, None))
    (message,) = Decoder().feed(data)
    assert message == Message(target, opcode, data[8:])
    assert unpack("us?o", message.payload, deque(fds)) == (number, text, None)
