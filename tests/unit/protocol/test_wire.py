"""Layout: one declaration, both directions, and what it refuses."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_protocol.errors import ProtocolError, Truncated
from subos_protocol.wire import Layout


class pair(NamedTuple):
    first: int
    second: int


PAIR = Layout("<HI", pair)


def test_bytes_both_ways() -> None:
    assert PAIR.size == 6
    assert PAIR.pack(pair(0x0102, 0x03040506)) == bytes.fromhex("0201 06050403")
    assert PAIR.unpack(bytes.fromhex("0201 06050403")) == pair(0x0102, 0x03040506)


def test_big_endian_bytes() -> None:
    assert Layout(">HI", pair).pack(pair(0x0102, 0x03040506)) == bytes.fromhex("0102 03040506")


def test_unpack_at_an_offset_and_from_a_view() -> None:
    data = memoryview(bytearray(b"....") + bytes.fromhex("0201 06050403"))
    assert PAIR.unpack(data, 4) == pair(0x0102, 0x03040506)


@pytest.mark.parametrize(("length", "offset"), [(0, 0), (5, 0), (6, 1), (6, 7), (12, -6), (6, -1)])
def test_too_few_bytes(length: int, offset: int) -> None:
    with pytest.raises(Truncated, match="pair: 6 bytes wanted"):
        PAIR.unpack(bytes(length), offset)


def test_a_value_that_does_not_fit() -> None:
    with pytest.raises(struct.error):
        PAIR.pack(pair(1 << 16, 0))


@pytest.mark.parametrize("fmt", ["HI", "=HI", "@HI", ""])
def test_a_layout_names_its_endianness(fmt: str) -> None:
    with pytest.raises(TypeError):
        Layout(fmt, pair)


def test_a_layout_holds_what_its_tuple_declares() -> None:
    with pytest.raises(TypeError, match="pair has 2 fields, '<HIH' holds 3"):
        Layout("<HIH", pair)


@given(st.binary(max_size=16), st.integers(-20, 20))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes, offset: int) -> None:
    try:
        message = PAIR.unpack(data, offset)
    except ProtocolError:
        assert offset < 0 or len(data) - offset < PAIR.size
    else:
        assert PAIR.pack(message) == data[offset : offset + PAIR.size]
