"""The vhost-user protocol: every front-end and back-end request, and the messages that SubOS serves.

Source: https://qemu-project.gitlab.io/qemu/interop/vhost-user.html. One message is a 12-byte header, `size` bytes
of payload, and file descriptors beside it (SCM_RIGHTS). Fields are in the byte order of the machine, which
is little-endian on every host that SubOS runs on.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple, Sequence

from .errors import Malformed, Truncated
from .wire import Buffer, Layout


class FrontendRequest(IntEnum):
    """What the front end (QEMU) asks of the back end (us)."""

    GET_FEATURES = 1  # → u64: virtio feature bits on offer
    SET_FEATURES = 2  # u64: the driver's choice
    SET_OWNER = 3  # the session begins
    RESET_OWNER = 4  # deprecated
    SET_MEM_TABLE = 5  # memory regions, an fd each
    SET_LOG_BASE = 6  # dirty page log for migration
    SET_LOG_FD = 7  # an eventfd that tells of log writes
    SET_VRING_NUM = 8  # vring state: queue size
    SET_VRING_ADDR = 9  # vring address: where the rings are
    SET_VRING_BASE = 10  # vring state: next available index
    GET_VRING_BASE = 11  # stops the ring → vring state: next available index
    SET_VRING_KICK = 12  # u64 index and flag, eventfd: starts the ring
    SET_VRING_CALL = 13  # u64 index and flag, eventfd
    SET_VRING_ERR = 14  # u64 index and flag, eventfd
    GET_PROTOCOL_FEATURES = 15  # → u64
    SET_PROTOCOL_FEATURES = 16  # u64
    GET_QUEUE_NUM = 17  # → u64: queues that the device has at most
    SET_VRING_ENABLE = 18  # vring state: 0 or 1
    SEND_RARP = 19  # net: u64 MAC address to announce after migration
    NET_SET_MTU = 20  # net: u64
    SET_BACKEND_REQ_FD = 21  # a socket on which the back end may ask the front end
    IOTLB_MSG = 22  # IOMMU translations
    SET_VRING_ENDIAN = 23  # vring state: cross-endian legacy guests
    GET_CONFIG = 24  # device config → device config
    SET_CONFIG = 25  # device config
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31  # a memfd that tracks requests in flight
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33  # gpu: the socket of the display protocol
    RESET_DEVICE = 34  # all rings disabled, device state reset
    VRING_KICK = 35  # in-band kick
    GET_MAX_MEM_SLOTS = 36  # → u64
    ADD_MEM_REG = 37  # one memory region, an fd
    REM_MEM_REG = 38  # one memory region
    SET_STATUS = 39  # u64: the driver's device status
    GET_STATUS = 40  # → u64
    GET_SHARED_OBJECT = 41  # a dma-buf by UUID
    SET_DEVICE_STATE_FD = 42  # migration of the device's own state
    CHECK_DEVICE_STATE = 43  # → u64
    GET_SHMEM_CONFIG = 44  # → shared memory regions of the device


class BackendRequest(IntEnum):
    """What the back end may ask of the front end over SET_BACKEND_REQ_FD's socket."""

    IOTLB_MSG = 1
    CONFIG_CHANGE_MSG = 2
    VRING_HOST_NOTIFIER_MSG = 3
    VRING_CALL = 4
    VRING_ERR = 5
    SHARED_OBJECT_ADD = 6
    SHARED_OBJECT_REMOVE = 7
    SHARED_OBJECT_LOOKUP = 8
    SHMEM_MAP = 9
    SHMEM_UNMAP = 10


class ProtocolFeature(IntFlag):
    """GET_PROTOCOL_FEATURES, as masks."""

    MQ = 1 << 0  # GET_QUEUE_NUM, more than one queue
    LOG_SHMFD = 1 << 1
    RARP = 1 << 2
    REPLY_ACK = 1 << 3  # a message with NEED_REPLY gets a u64, 0 for success
    MTU = 1 << 4
    BACKEND_REQ = 1 << 5
    CROSS_ENDIAN = 1 << 6
    CRYPTO_SESSION = 1 << 7
    PAGEFAULT = 1 << 8
    CONFIG = 1 << 9  # GET_CONFIG and SET_CONFIG are the back end's
    BACKEND_SEND_FD = 1 << 10
    HOST_NOTIFIER = 1 << 11
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    INBAND_NOTIFICATIONS = 1 << 14
    CONFIGURE_MEM_SLOTS = 1 << 15  # ADD_MEM_REG and REM_MEM_REG take SET_MEM_TABLE's place
    STATUS = 1 << 16
    XEN_MMAP = 1 << 17
    SHARED_OBJECT = 1 << 18
    DEVICE_STATE = 1 << 19


class HeaderFlag(IntFlag):
    """`flags` of a header. The two lowest bits are the version."""

    VERSION = 1
    VERSION_MASK = 3
    REPLY = 1 << 2
    NEED_REPLY = 1 << 3


VRING_INDEX_MASK = 0xFF  # of SET_VRING_KICK, CALL and ERR's u64
VRING_NOFD_MASK = 0x100  # no descriptor comes with it
MAX_MEM_REGIONS = 8  # of one SET_MEM_TABLE
MAX_CONFIG_SIZE = 256  # bytes of a device's configuration space
MAX_PAYLOAD = 4096  # the longest served payload is SET_MEM_TABLE's 264 bytes; more is not vhost-user


class vhost_user_header(NamedTuple):
    """`request` is a FrontendRequest, `size` the payload's bytes."""

    request: int
    flags: int
    size: int


class vhost_user_u64(NamedTuple):
    value: int


class vhost_vring_state(NamedTuple):
    vring_index: int
    num: int


class vhost_vring_addr(NamedTuple):
    """Addresses are the front end's own virtual ones; `log` is guest-physical."""

    vring_index: int
    flags: int
    desc: int
    used: int
    avail: int
    log: int


class vhost_user_mem_region(NamedTuple):
    """`mmap_offset` is where the region begins in the fd that comes with it. All in bytes."""

    guest_addr: int
    size: int
    user_addr: int
    mmap_offset: int


class vhost_user_config(NamedTuple):
    """The head of GET_CONFIG and SET_CONFIG; `size` bytes follow."""

    offset: int
    size: int
    flags: int


class vhost_user_mem_header(NamedTuple):
    """The head of SET_MEM_TABLE; `nregions` regions follow."""

    nregions: int
    padding: int


HEADER = Layout("<III", vhost_user_header)
U64 = Layout("<Q", vhost_user_u64)
VRING_STATE = Layout("<II", vhost_vring_state)
VRING_ADDR = Layout("<IIQQQQ", vhost_vring_addr)
MEM_HEADER = Layout("<II", vhost_user_mem_header)
MEM_REGION = Layout("<QQQQ", vhost_user_mem_region)
CONFIG = Layout("<III", vhost_user_config)


def pack_message(request: int, payload: bytes = b"", flags: int = HeaderFlag.VERSION) -> bytes:
    """Header and payload."""
    return HEADER.pack(vhost_user_header(request, flags, len(payload))) + payload


def pack_mem_table(regions: Sequence[vhost_user_mem_region]) -> bytes:
    """The payload of SET_MEM_TABLE."""
    head = MEM_HEADER.pack(vhost_user_mem_header(len(regions), 0))
    return head + b"".join(MEM_REGION.pack(region) for region in regions)


def unpack_mem_table(payload: Buffer) -> list[vhost_user_mem_region]:
    """The regions of SET_MEM_TABLE. Raises Malformed for more than MAX_MEM_REGIONS, Truncated for fewer bytes."""
    count = MEM_HEADER.unpack(payload).nregions
    if count > MAX_MEM_REGIONS:
        raise Malformed(f"{count} memory regions, {MAX_MEM_REGIONS} at most")
    return [MEM_REGION.unpack(payload, MEM_HEADER.size + i * MEM_REGION.size) for i in range(count)]


def pack_config(offset: int, data: bytes, flags: int = 0) -> bytes:
    """The payload of GET_CONFIG's reply, or of SET_CONFIG."""
    return CONFIG.pack(vhost_user_config(offset, len(data), flags)) + data


def unpack_config(payload: Buffer) -> tuple[vhost_user_config, bytes]:
    """Head and data. Raises Malformed where they reach past the configuration space, Truncated where data lacks."""
    head = CONFIG.unpack(payload)
    if head.offset + head.size > MAX_CONFIG_SIZE:
        raise Malformed(f"config {head.offset}+{head.size} reaches past {MAX_CONFIG_SIZE} bytes")
    data = bytes(payload[CONFIG.size : CONFIG.size + head.size])
    if len(data) < head.size:
        raise Truncated(f"config: {head.size} bytes announced, {len(data)} there")
    return head, data
