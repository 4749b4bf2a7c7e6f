"""vhost-user messages: literal bytes both ways, recorded from QEMU 10.0.2 unless a line says otherwise."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_protocol.errors import Malformed, ProtocolError, Truncated
from subos_protocol.vhost_user import (
    CONFIG,
    HEADER,
    MAX_PAYLOAD,
    MEM_HEADER,
    MEM_REGION,
    U64,
    VRING_ADDR,
    VRING_STATE,
    BackendRequest,
    FrontendRequest,
    HeaderFlag,
    ProtocolFeature,
    pack_config,
    pack_mem_table,
    pack_message,
    unpack_config,
    unpack_mem_table,
    vhost_user_config,
    vhost_user_header,
    vhost_user_mem_header,
    vhost_user_mem_region,
    vhost_user_u64,
    vhost_vring_addr,
    vhost_vring_state,
)
from subos_protocol.wire import Layout
from support.captured import conversation

REPLY = HeaderFlag.VERSION | HeaderFlag.REPLY
NEED_REPLY = HeaderFlag.VERSION | HeaderFlag.NEED_REPLY


@pytest.mark.parametrize(
    ("layout", "literal", "fields"),
    [
        (HEADER, "01000000 01000000 00000000", vhost_user_header(FrontendRequest.GET_FEATURES, 1, 0)),
        (HEADER, "05000000 09000000 28000000", vhost_user_header(FrontendRequest.SET_MEM_TABLE, NEED_REPLY, 40)),
        (HEADER, "01000000 05000000 08000000", vhost_user_header(FrontendRequest.GET_FEATURES, REPLY, 8)),
        (U64, "0000007001000000", vhost_user_u64(0x1_7000_0000)),
        (VRING_STATE, "01000000 04000000", vhost_vring_state(1, 4)),
        (
            VRING_ADDR,
            "00000000 00000000 0040c7c9ac7f0000 8040c7c9ac7f0000 4040c7c9ac7f0000 8050c70100000000",
            vhost_vring_addr(0, 0, 0x7FAC_C9C7_4000, 0x7FAC_C9C7_4080, 0x7FAC_C9C7_4040, 0x1C7_5080),
        ),
        (MEM_HEADER, "01000000 00000000", vhost_user_mem_header(1, 0)),
        (
            MEM_REGION,
            "0000000000000000 0000001000000000 00f0ffc7ac7f0000 0000000000000000",
            vhost_user_mem_region(0, 256 << 20, 0x7FAC_C7FF_F000, 0),
        ),
        (CONFIG, "00000000 88000000 00000000", vhost_user_config(0, 136, 0)),
    ],
)
def test_literal_bytes(layout: Layout[tuple[int, ...]], literal: str, fields: tuple[int, ...]) -> None:
    assert layout.pack(fields) == bytes.fromhex(literal)
    assert layout.unpack(bytes.fromhex(literal)) == fields


@pytest.mark.parametrize("name", ["vhost-user-rng.txt", "vhost-user-input.txt"])
def test_recorded_conversations_are_read_and_written_alike(name: str) -> None:
    request = FrontendRequest
    layouts: dict[FrontendRequest, Layout[tuple[int, ...]]] = {  # type: ignore[dict-item]
        request.SET_FEATURES: U64,
        request.SET_PROTOCOL_FEATURES: U64,
        request.SET_VRING_NUM: VRING_STATE,
        request.SET_VRING_BASE: VRING_STATE,
        request.SET_VRING_ADDR: VRING_ADDR,
        request.GET_VRING_BASE: VRING_STATE,
        request.SET_VRING_KICK: U64,
        request.SET_VRING_CALL: U64,
        request.SET_VRING_ERR: U64,
        request.SET_VRING_ENABLE: VRING_STATE,
    }
    for line in conversation(name):
        header = HEADER.unpack(line.data)
        kind = FrontendRequest(header.request)
        payload = line.data[HEADER.size :]
        assert header.size == len(payload)
        if kind == request.SET_MEM_TABLE and line.from_qemu:
            assert line.descriptors == len(unpack_mem_table(payload))
            again = pack_mem_table(unpack_mem_table(payload))
        elif kind in (request.GET_CONFIG, request.SET_CONFIG) and len(payload) > U64.size:
            head, data = unpack_config(payload)
            again = pack_config(head.offset, data, head.flags)
        elif not payload:
            again = b""
        else:
            layout = layouts.get(kind, U64) if line.from_qemu or kind == request.GET_VRING_BASE else U64
            again = layout.pack(layout.unpack(payload))
        assert pack_message(kind, again, header.flags) == line.data


def test_a_whole_memory_table() -> None:
    """A machine with memory on both sides of its PCI hole, laid out by hand from the specification."""
    literal = bytes.fromhex(
        "02000000 00000000"
        "0000000000000000 0000008000000000 0000000000 7f0000 0000000000000000"
        "0000000001000000 0000004000000000 0000008000 7f0000 0000008000000000"
    )
    regions = [
        vhost_user_mem_region(0, 2 << 30, 0x7F00_0000_0000, 0),
        vhost_user_mem_region(1 << 32, 1 << 30, 0x7F00_8000_0000, 2 << 30),
    ]
    assert pack_mem_table(regions) == literal
    assert unpack_mem_table(literal) == regions


def test_a_configuration_request() -> None:
    literal = bytes.fromhex("04000000 03000000 01000000 616263")
    assert pack_config(4, b"abc", 1) == literal
    assert unpack_config(literal) == (vhost_user_config(4, 3, 1), b"abc")
    assert unpack_config(literal + b"more") == (vhost_user_config(4, 3, 1), b"abc")


@pytest.mark.parametrize(
    ("literal", "error"),
    [("", Truncated), ("000000", Truncated), ("09000000 00000000", Malformed), ("01000000 00000000 00", Truncated)],
)
def test_bad_memory_tables(literal: str, error: type[ProtocolError]) -> None:
    with pytest.raises(error):
        unpack_mem_table(bytes.fromhex(literal))


@pytest.mark.parametrize(
    ("literal", "error"),
    [
        ("00000000 00000000", Truncated),
        ("00000000 01000000 00000000", Truncated),
        ("00000000 01010000 00000000", Malformed),
        ("ff000000 02000000 00000000 0000", Malformed),
        ("ffffffff ffffffff 00000000", Malformed),
    ],
)
def test_bad_configuration_requests(literal: str, error: type[ProtocolError]) -> None:
    with pytest.raises(error):
        unpack_config(bytes.fromhex(literal))


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert len(unpack_mem_table(data)) <= 8
    with contextlib.suppress(ProtocolError):
        head, content = unpack_config(data)
        assert len(content) == head.size <= 256


def test_every_request_of_the_specification_has_its_number() -> None:
    assert sorted(FrontendRequest) == list(range(1, 45))
    assert sorted(BackendRequest) == list(range(1, 11))
    assert FrontendRequest.GET_CONFIG == 24
    assert FrontendRequest.SET_STATUS == 39
    assert (ProtocolFeature.REPLY_ACK, ProtocolFeature.CONFIG) == (1 << 3, 1 << 9)
    assert MEM_HEADER.size + 8 * MEM_REGION.size <= MAX_PAYLOAD
