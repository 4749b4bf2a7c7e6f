"""virtio-vsock: streams between programs of the guest and of the host.

Source: VIRTIO 1.3 §5.10, https://docs.oasis-open.org/virtio/virtio/v1.3/virtio-v1.3.html#x1-4640010, and the kernel's
include/uapi/linux/virtio_vsock.h and vm_sockets.h. Little-endian. A packet is a header and `len` bytes of payload.

Each side says in every packet how much room it has for a stream (`buf_alloc`) and how much of the stream it has done
with (`fwd_cnt`); what the other side may send is the difference (§5.10.6.3). Counters of bytes wrap at 2^32.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

from .wire import Layout

RXQ = 0  # device → driver
TXQ = 1  # driver → device
EVENTQ = 2  # device → driver: virtio_vsock_event

VMADDR_CID_HOST = 2  # the host's end of every packet
VMADDR_PORT_ANY = 0xFFFF_FFFF
PRIVILEGED_PORTS = 1024  # Linux lets only CAP_NET_BIND_SERVICE bind a port below it (LAST_RESERVED_PORT)


class VsockFeature(IntFlag):
    """§5.10.3, as masks. None of them means streams alone."""

    VIRTIO_VSOCK_F_STREAM = 1 << 0
    VIRTIO_VSOCK_F_SEQPACKET = 1 << 1
    VIRTIO_VSOCK_F_NO_IMPLIED_STREAM = 1 << 2


class Type(IntEnum):
    """§5.10.6: the kind of socket that a packet belongs to."""

    STREAM = 1
    SEQPACKET = 2


class Op(IntEnum):
    """§5.10.6: what a packet says."""

    INVALID = 0
    REQUEST = 1  # open a connection
    RESPONSE = 2  # it is open
    RST = 3  # it is over, or there is none such
    SHUTDOWN = 4  # no more of what `flags` names
    RW = 5  # payload
    CREDIT_UPDATE = 6  # nothing but buf_alloc and fwd_cnt
    CREDIT_REQUEST = 7  # answer with a CREDIT_UPDATE


class Shutdown(IntFlag):
    """§5.10.6.5: `flags` of a SHUTDOWN."""

    RCV = 1  # the sender will receive no more
    SEND = 2  # the sender will send no more


class virtio_vsock_config(NamedTuple):
    """§5.10.4: the configuration space. The upper 32 bits of the guest's address are zero."""

    guest_cid: int


class virtio_vsock_hdr(NamedTuple):
    """§5.10.6: the header of a packet; `len` counts the payload only."""

    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    len: int
    type: int
    op: int
    flags: int
    buf_alloc: int
    fwd_cnt: int


VIRTIO_VSOCK_CONFIG = Layout("<Q", virtio_vsock_config)
VIRTIO_VSOCK_HDR = Layout("<QQIIIHHIII", virtio_vsock_hdr)
HDR_SIZE = VIRTIO_VSOCK_HDR.size

MAX_PAYLOAD = 64 << 10  # what Linux puts into one packet (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE)
