"""Virtio's numbers and the split ring's layout: literal bytes, both ways (VIRTIO 1.3 §2.7, §5, §6)."""

from __future__ import annotations

from subos_protocol.virtio import (
    VIRTQ_DESC,
    VIRTQ_USED_ELEM,
    DescFlag,
    DeviceId,
    Feature,
    avail_ring_size,
    used_ring_size,
    virtq_desc,
    virtq_used_elem,
)


def test_a_descriptor() -> None:
    literal = bytes.fromhex("0010006001000000 40000000 0300 0700")
    fields = virtq_desc(0x1_6000_1000, 64, DescFlag.NEXT | DescFlag.WRITE, 7)
    assert VIRTQ_DESC.pack(fields) == literal
    assert VIRTQ_DESC.unpack(literal) == fields
    assert VIRTQ_DESC.size == 16


def test_a_used_element() -> None:
    literal = bytes.fromhex("05000000 00100000")
    assert VIRTQ_USED_ELEM.pack(virtq_used_elem(5, 4096)) == literal
    assert VIRTQ_USED_ELEM.unpack(literal) == virtq_used_elem(5, 4096)


def test_ring_sizes() -> None:
    """§2.7: 6 and 2 bytes an entry, 6 and 8 bytes an entry."""
    assert (avail_ring_size(256), used_ring_size(256)) == (518, 2054)


def test_numbers_of_the_specification() -> None:
    assert [Feature.RING_INDIRECT_DESC, Feature.RING_EVENT_IDX, Feature.VERSION_1] == [1 << 28, 1 << 29, 1 << 32]
    assert (Feature.RING_PACKED, Feature.VHOST_USER_F_PROTOCOL_FEATURES) == (1 << 34, 1 << 30)
    assert [DescFlag.NEXT, DescFlag.WRITE, DescFlag.INDIRECT] == [1, 2, 4]
    ids = [DeviceId.RNG, DeviceId.GPU, DeviceId.INPUT, DeviceId.VSOCK, DeviceId.SOUND, DeviceId.FS]
    assert ids == [4, 16, 18, 19, 25, 26]
