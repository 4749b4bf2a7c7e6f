"""virtio_vsock: literal bytes, both ways. Layouts are those of the kernel's virtio_vsock.h."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_protocol.errors import Truncated
from subos_protocol.vsock import (
    HDR_SIZE,
    VIRTIO_VSOCK_CONFIG,
    VIRTIO_VSOCK_HDR,
    Op,
    Shutdown,
    Type,
    VsockFeature,
    virtio_vsock_config,
    virtio_vsock_hdr,
)

# A guest's connect() to port 1234 of the host from its port 0x10000001, with Linux's buffer of 256 KiB.
REQUEST = (
    virtio_vsock_hdr(3, 2, 0x1000_0001, 1234, 0, Type.STREAM, Op.REQUEST, 0, 262144, 0),
    "0300000000000000 0200000000000000 01000010 d2040000 00000000 0100 0100 00000000 00000400 00000000",
)
# Five bytes from the host, after it has taken 4096 of the guest's.
RW = (
    virtio_vsock_hdr(2, 3, 1234, 0x1000_0001, 5, Type.STREAM, Op.RW, 0, 65536, 4096),
    "0200000000000000 0300000000000000 d2040000 01000010 05000000 0100 0500 00000000 00000100 00100000",
)
# The guest's close(): it neither sends nor receives any more. The counter has nearly wrapped.
SHUTDOWN = (
    virtio_vsock_hdr(3, 2, 22, 1 << 30, 0, Type.STREAM, Op.SHUTDOWN, Shutdown.RCV | Shutdown.SEND, 0, 0xFFFF_FFFF),
    "0300000000000000 0200000000000000 16000000 00000040 00000000 0100 0400 03000000 00000000 ffffffff",
)


@pytest.mark.parametrize(("message", "literal"), [REQUEST, RW, SHUTDOWN])
def test_headers(message, literal):
    assert HDR_SIZE == len(bytes.fromhex(literal)) == 44
    assert VIRTIO_VSOCK_HDR.pack(message) == bytes.fromhex(literal)
    assert VIRTIO_VSOCK_HDR.unpack(bytes.fromhex(literal)) == message


def test_the_configuration_space_is_the_guests_address():
    assert VIRTIO_VSOCK_CONFIG.pack(virtio_vsock_config(3)) == bytes.fromhex("03000000 00000000")
    assert VIRTIO_VSOCK_CONFIG.unpack(bytes.fromhex("2a000000 00000000")) == virtio_vsock_config(42)


def test_values():
    assert [op.value for op in Op] == list(range(8))
    assert [type_.value for type_ in Type] == [1, 2]
    assert [flag.value for flag in Shutdown] == [1, 2]
    assert [feature.value for feature in VsockFeature] == [1, 2, 4]


U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))


@given(st.builds(virtio_vsock_hdr, U64, U64, U32, U32, U32, U16, U16, U32, U32, U32))
def test_any_header_survives(message):
    assert VIRTIO_VSOCK_HDR.unpack(VIRTIO_VSOCK_HDR.pack(message)) == message


@given(st.binary(max_size=60))
def test_any_bytes_are_a_header_or_too_few(data):
    if len(data) < HDR_SIZE:
        with pytest.raises(Truncated):
            VIRTIO_VSOCK_HDR.unpack(data)
    else:
        assert VIRTIO_VSOCK_HDR.pack(VIRTIO_VSOCK_HDR.unpack(data)) == data[:HDR_SIZE]
