"""Virtio: device ids, feature bits and the split virtqueue's layout.

Source: Virtual I/O Device (VIRTIO) Version 1.3, https://docs.oasis-open.org/virtio/virtio/v1.3/virtio-v1.3.html
(§5 device ids, §6 reserved feature bits, §2.7 split virtqueues) and the kernel's
include/uapi/linux/virtio_ids.h, virtio_config.h, virtio_ring.h. Everything is little-endian.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

from .wire import Layout


class DeviceId(IntEnum):
    """§5: what kind of device this is."""

    NET = 1
    BLOCK = 2
    CONSOLE = 3
    RNG = 4
    BALLOON = 5
    SCSI = 8
    P9 = 9
    GPU = 16
    INPUT = 18
    VSOCK = 19
    CRYPTO = 20
    IOMMU = 23
    MEM = 24
    SOUND = 25
    FS = 26
    PMEM = 27
    I2C_ADAPTER = 34
    GPIO = 41


class Feature(IntFlag):
    """§6: feature bits of the transport and the ring, as masks. Bits 0 to 23 belong to the device type."""

    RING_INDIRECT_DESC = 1 << 28  # a descriptor may name a table of descriptors
    RING_EVENT_IDX = 1 << 29  # used_event and avail_event suppress notifications
    VHOST_USER_F_PROTOCOL_FEATURES = 1 << 30  # vhost-user only: GET_PROTOCOL_FEATURES may be asked
    VERSION_1 = 1 << 32  # compliant with virtio 1.0 or newer
    ACCESS_PLATFORM = 1 << 33
    RING_PACKED = 1 << 34
    IN_ORDER = 1 << 35
    ORDER_PLATFORM = 1 << 36
    SR_IOV = 1 << 37
    NOTIFICATION_DATA = 1 << 38
    NOTIF_CONFIG_DATA = 1 << 39
    RING_RESET = 1 << 40


class DescFlag(IntFlag):
    """§2.7.5: flags of one descriptor."""

    NEXT = 1  # `next` names another descriptor of this chain
    WRITE = 2  # the device writes this buffer; otherwise it only reads it
    INDIRECT = 4  # the buffer holds a table of descriptors


AVAIL_NO_INTERRUPT = 1  # §2.7.6, avail.flags: the driver wants no used buffer notification
USED_NO_NOTIFY = 1  # §2.7.8, used.flags: the device wants no available buffer notification

MAX_QUEUE_SIZE = 32768  # §2.7: also the longest chain, which also holds through an indirect table


class virtq_desc(NamedTuple):
    """§2.7.5: one buffer. `addr` is guest-physical, `len` in bytes."""

    addr: int
    len: int
    flags: int
    next: int


class virtq_used_elem(NamedTuple):
    """§2.7.8: head of a finished chain and the bytes that the device wrote into it."""

    id: int
    len: int


VIRTQ_DESC = Layout("<QIHH", virtq_desc)
VIRTQ_USED_ELEM = Layout("<II", virtq_used_elem)


def avail_ring_size(num: int) -> int:
    """Bytes of the available ring: flags, idx, ring[num], used_event."""
    return 6 + 2 * num


def used_ring_size(num: int) -> int:
    """Bytes of the used ring: flags, idx, ring[num] of 8 bytes, avail_event."""
    return 6 + 8 * num
