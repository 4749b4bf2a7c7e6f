"""Frames of the agent channel: a header of 12 bytes, little-endian, then at most 64 KiB of payload.

    0        1        2        4        8        12
    | type   | part   | 0      | stream | length | payload …

A byte of 0 where a header should begin is padding and skipped. On a transport that outlives its users (a
virtio-serial port) a new one begins with FLUSH, which fills up whatever its predecessor left unfinished; each HELLO
has ZEROS before it; and what comes before the first such HELLO is skipped.

JSON payloads are one object in ASCII. Text that is not UTF-8 (a file name) travels in it as Python's lone
surrogates (`os.fsdecode`, `surrogateescape`).
"""

from __future__ import annotations

import json
import re
from enum import IntEnum
from typing import Any, Dict, NamedTuple, Optional, Tuple

from ..errors import Malformed
from ..wire import Layout

MAXIMUM_PAYLOAD = 1 << 16
FLUSH = bytes(MAXIMUM_PAYLOAD + 16)
"""More zeros than any frame lacks, header and payload."""
ZEROS = bytes(16)
"""What stands before a HELLO on such a transport, so that it is found amid what others left there."""

Head = Dict[str, Any]


class FrameType(IntEnum):
    """Types that a receiver does not know are skipped."""

    HELLO = 1  # JSON, stream 0: who I am; first, and again whenever the other side seems to be new
    REQUEST = 2  # JSON: opens a stream; "op" says what is wanted
    DATA = 3  # bytes on a stream; `part` tells apart what runs beside each other (stdin, stdout, stderr)
    EVENT = 4  # JSON on a stream, in order with its DATA
    END = 5  # the opener of the stream sends nothing more
    REPLY = 6  # JSON: the responder's last word on the stream, which is over for both
    CANCEL = 7  # JSON: the stream is over at once; queued data may be dropped
    WINDOW = 8  # u32: the receiver takes so many more bytes of DATA and EVENT on this stream
    PING = 9  # 8 bytes, stream 0
    PONG = 10  # the same 8 bytes


class FrameHeader(NamedTuple):
    type: int
    part: int
    reserved: int
    stream: int
    length: int


class Frame(NamedTuple):
    """`stream` is 0 for the connection itself."""

    type: int
    stream: int
    payload: bytes
    part: int = 0

    def pack(self) -> bytes:
        return HEADER.pack(FrameHeader(self.type, self.part, 0, self.stream, len(self.payload))) + self.payload


HEADER = Layout("<BBHII", FrameHeader)
WINDOW_SIZE = 4
PING_SIZE = 8


_SOME_ZEROS = re.compile(rb"\0*")


def _end_of_zeros(data: bytearray, start: int) -> int:
    """Without a copy of the rest, which could be asked for again and again."""
    match = _SOME_ZEROS.match(data, start)
    assert match is not None
    return match.end()


def parse(data: bytearray, start: int) -> Tuple[Optional[Frame], int]:
    """The frame at `start` and where the next one begins. None: more bytes are needed for it.

    Raises Malformed for a length beyond MAXIMUM_PAYLOAD, before anything of it is kept.
    """
    end = len(data)
    if start < end and not data[start]:
        start = _end_of_zeros(data, start)
    body = start + HEADER.size
    if body > end:
        return None, start
    kind, part, _reserved, stream, length = HEADER.unpack_from(data, start)
    if length > MAXIMUM_PAYLOAD:
        raise Malformed(f"a frame of {length} bytes")
    if body + length > end:
        return None, start
    return Frame(kind, stream, bytes(memoryview(data)[body : body + length]), part), body + length


def find_hello(data: bytearray) -> Tuple[int, bool]:
    """(where a HELLO begins that has ZEROS before it, True), or (what need not be looked at again, False)."""
    start = 0
    while (start := data.find(ZEROS, start)) >= 0:
        zeros, start = start, _end_of_zeros(data, start)
        if start + HEADER.size > len(data):
            return max(zeros, start - len(ZEROS)), False
        kind, _part, reserved, stream, length = HEADER.unpack_from(data, start)
        if (kind, reserved, stream) == (FrameType.HELLO, 0, 0) and length <= MAXIMUM_PAYLOAD:
            return start, True
    return max(0, len(data) - len(ZEROS)), False


def pack_head(head: Head) -> bytes:
    """Raises Malformed where `head` is too long for a frame."""
    payload = json.dumps(head, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    if len(payload) > MAXIMUM_PAYLOAD:
        raise Malformed(f"a head of {len(payload)} bytes: at most {MAXIMUM_PAYLOAD} fit into a frame")
    return payload


def unpack_head(payload: bytes) -> Head:
    """Raises Malformed where it is not a JSON object."""
    try:
        head = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise Malformed("a head that is not JSON") from error
    if not isinstance(head, dict):
        raise Malformed("a head that is not a JSON object")
    return head
