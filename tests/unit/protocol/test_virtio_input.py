"""virtio_input: literal bytes, both ways. Layouts are those of the kernel's virtio_input.h."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_protocol.errors import Malformed, ProtocolError, Truncated
from subos_protocol.virtio_input import (
    CONFIG_SIZE,
    VIRTIO_INPUT_ABSINFO,
    VIRTIO_INPUT_DEVIDS,
    VIRTIO_INPUT_EVENT,
    ConfigSelect,
    pack_bitmap,
    pack_config,
    unpack_bitmap,
    unpack_config,
    virtio_input_absinfo,
    virtio_input_devids,
    virtio_input_event,
)


@pytest.mark.parametrize(
    ("layout", "message", "literal"),
    [
        (VIRTIO_INPUT_EVENT, virtio_input_event(1, 0x110, 1), "0100 1001 01000000"),  # BTN_LEFT pressed
        (VIRTIO_INPUT_EVENT, virtio_input_event(2, 8, -1), "0200 0800 ffffffff"),  # REL_WHEEL down
        (VIRTIO_INPUT_EVENT, virtio_input_event(0, 0, 0), "0000 0000 00000000"),  # SYN_REPORT
        (
            VIRTIO_INPUT_ABSINFO,
            virtio_input_absinfo(-32768, 32767, 16, 128, 40),
            "0080ffff ff7f0000 10000000 80000000 28000000",
        ),
        (VIRTIO_INPUT_DEVIDS, virtio_input_devids(6, 0x0627, 3, 2), "0600 2706 0300 0200"),
    ],
)
def test_layouts(layout, message, literal):
    assert layout.pack(message) == bytes.fromhex(literal)
    assert layout.unpack(bytes.fromhex(literal)) == message


def test_config_space():
    literal = bytes.fromhex("01 00 05 0000000000") + b"Mouse" + bytes(123)
    assert len(literal) == CONFIG_SIZE == 136
    assert pack_config(ConfigSelect.VIRTIO_INPUT_CFG_ID_NAME, 0, b"Mouse") == literal
    assert unpack_config(literal) == (1, 0, b"Mouse")
    assert unpack_config(bytes.fromhex("11 02 02 0000000000 0019") + bytes(126)) == (0x11, 2, b"\x00\x19")


def test_select_values():
    assert [select.value for select in ConfigSelect] == [0, 1, 2, 3, 0x10, 0x11, 0x12]


def test_config_refuses_sizes_that_lie():
    with pytest.raises(Malformed):
        pack_config(1, 0, bytes(129))
    with pytest.raises(Malformed):
        unpack_config(bytes([1, 0, 129]) + bytes(133))
    with pytest.raises(Malformed):
        unpack_config(bytes([1, 0, 4, 0, 0, 0, 0, 0, 1, 2, 3]))
    with pytest.raises(Truncated):
        unpack_config(bytes(7))


def test_bitmaps():
    assert pack_bitmap([0x110, 0x111, 0x112]) == bytes(34) + b"\x07"
    assert unpack_bitmap(bytes(34) + b"\x07") == {0x110, 0x111, 0x112}
    assert pack_bitmap([]) == b""
    assert pack_bitmap([6, 8, 11, 12]) == b"\x40\x19"
    with pytest.raises(Malformed):
        pack_bitmap([1024])


@given(st.sets(st.integers(0, 1023)))
def test_any_bitmap_survives(codes):
    assert unpack_bitmap(pack_bitmap(codes)) == codes


@given(st.binary(max_size=200))
def test_any_bytes_are_a_config_space_or_an_error(data):
    try:
        select, subsel, answer = unpack_config(data)
    except ProtocolError:
        return
    assert data.startswith(bytes([select, subsel, len(answer)]))
    assert data[8 : 8 + len(answer)] == answer
