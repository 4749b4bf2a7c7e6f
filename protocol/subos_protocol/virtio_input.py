"""virtio-input: the event and the configuration space of an input device.

Source: VIRTIO 1.3 §5.8, https://docs.oasis-open.org/virtio/virtio/v1.3/virtio-v1.3.html#x1-3990008, and the kernel's
include/uapi/linux/virtio_input.h. Little-endian. The driver writes `select` and `subsel`, then reads `size` bytes of
the answer `u`; a size of 0 means that there is none. The meaning of types and codes is in `input_codes`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Iterable, NamedTuple

from .errors import Malformed
from .wire import Layout

EVENTQ = 0  # device → driver: an event a buffer
STATUSQ = 1  # driver → device: lights, sounds, autorepeat


class ConfigSelect(IntEnum):
    """`select`: what the driver asks, with what `subsel` says beside it."""

    VIRTIO_INPUT_CFG_UNSET = 0x00
    VIRTIO_INPUT_CFG_ID_NAME = 0x01  # string
    VIRTIO_INPUT_CFG_ID_SERIAL = 0x02  # string
    VIRTIO_INPUT_CFG_ID_DEVIDS = 0x03  # virtio_input_devids
    VIRTIO_INPUT_CFG_PROP_BITS = 0x10  # bitmap of INPUT_PROP_*
    VIRTIO_INPUT_CFG_EV_BITS = 0x11  # bitmap of the codes of event type `subsel`
    VIRTIO_INPUT_CFG_ABS_INFO = 0x12  # virtio_input_absinfo of axis `subsel`


class virtio_input_event(NamedTuple):
    """One event. `value` is signed, as in the kernel's input_event; the specification's le32 holds the same bits."""

    type: int
    code: int
    value: int


class virtio_input_absinfo(NamedTuple):
    """Range of an absolute axis; `res` in units a millimetre, 0 where unknown."""

    min: int
    max: int
    fuzz: int = 0
    flat: int = 0
    res: int = 0


class virtio_input_devids(NamedTuple):
    """What drivers and databases of devices recognise it by; `bustype` is an `input_codes.Bus`."""

    bustype: int
    vendor: int
    product: int
    version: int


class virtio_input_config_head(NamedTuple):
    """The head of the configuration space; `u`, 128 bytes of which `size` count, follows at CONFIG_U."""

    select: int
    subsel: int
    size: int


VIRTIO_INPUT_EVENT = Layout("<HHi", virtio_input_event)
VIRTIO_INPUT_ABSINFO = Layout("<iiiii", virtio_input_absinfo)
VIRTIO_INPUT_DEVIDS = Layout("<HHHH", virtio_input_devids)
VIRTIO_INPUT_CONFIG_HEAD = Layout("<BBB5x", virtio_input_config_head)

CONFIG_U = VIRTIO_INPUT_CONFIG_HEAD.size
MAX_U = 128
CONFIG_SIZE = CONFIG_U + MAX_U


def pack_config(select: int, subsel: int, answer: bytes) -> bytes:
    """The whole configuration space. Raises Malformed for an answer that does not fit."""
    if len(answer) > MAX_U:
        raise Malformed(f"an answer of {len(answer)} bytes to select {select:#x}, {MAX_U} at most")
    head = VIRTIO_INPUT_CONFIG_HEAD.pack(virtio_input_config_head(select, subsel, len(answer)))
    return head + answer.ljust(MAX_U, b"\0")


def unpack_config(data: bytes) -> tuple[int, int, bytes]:
    """`select`, `subsel` and the answer. Raises Truncated, or Malformed for a size that lies."""
    head = VIRTIO_INPUT_CONFIG_HEAD.unpack(data)
    if head.size > min(MAX_U, len(data) - CONFIG_U):
        raise Malformed(f"an answer of {head.size} bytes in {len(data) - CONFIG_U}")
    return head.select, head.subsel, bytes(data[CONFIG_U : CONFIG_U + head.size])


def pack_bitmap(codes: Iterable[int]) -> bytes:
    """Bit n of byte m set for code 8m + n, no longer than its last set bit. Raises Malformed past 128 bytes."""
    bits = 0
    for code in codes:
        if not 0 <= code < 8 * MAX_U:
            raise Malformed(f"code {code:#x} fits no bitmap of {MAX_U} bytes")
        bits |= 1 << code
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def unpack_bitmap(bitmap: bytes) -> set[int]:
    """The codes whose bits are set."""
    return {8 * index + bit for index, byte in enumerate(bitmap) for bit in range(8) if byte >> bit & 1}
