"""What an X server sends, as far as a clipboard needs it, without I/O: replies, events and errors.

Sources as of requests.py.
"""

from __future__ import annotations

import enum
import struct
from typing import Dict, Iterator, NamedTuple, Tuple, Type, Union

from ..interface import CHUNK

SMALL = 32  # bytes of an error, of an event, and of a reply at least
MAX_MESSAGE = SMALL + CHUNK  # bytes; no more of a property are asked for, and a name is shorter
SPARE = 64 * 1024  # bytes that there is room for beyond a message


class WireError(ValueError):
    """Bytes that no X server sends, or a refusal."""


class XError(Exception):
    """A request that the server does not do."""

    def __init__(self, code: int, sequence: int, resource: int, minor: int, major: int) -> None:
        super().__init__(f"X error {code} of request {major}.{minor}, for {resource:#x}")
        self.code, self.sequence, self.resource = code, sequence, resource


class Code(enum.IntEnum):
    """The first byte of what a server sends; extensions' events have others."""

    Error = 0
    Reply = 1
    DestroyNotify = 17
    PropertyNotify = 28
    SelectionRequest = 30
    SelectionNotify = 31
    GenericEvent = 35  # longer than others


SENT = 0x80  # in the code of an event that another client has made


class PropertyState(enum.IntEnum):
    NewValue = 0
    Deleted = 1


class SelectionChange(enum.IntEnum):
    """Why XFIXES tells of a selection."""

    SetSelectionOwner = 0
    SelectionWindowDestroy = 1
    SelectionClientClose = 2


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) & 3)


# --- replies ---------------------------------------------------------------------------------------------------

_NUMBER = struct.Struct("=8xI")
_NAME = struct.Struct("=8xH")
_PROPERTY = struct.Struct("=xB6xIII")  # width, type, bytes left, units here
_EXTENSION = struct.Struct("=8xBBB")


class Reply(NamedTuple):
    sequence: int  # of the request, its lower 16 bits
    head: bytes  # the first 32 bytes
    body: bytes


class Property(NamedTuple):
    kind: int  # 0 where it is not set
    bits: int  # of a unit: 8, 16 or 32; 0 where it is not set
    left: int  # bytes that follow these
    data: bytes


class Extension(NamedTuple):
    present: int
    major: int  # opcode of its requests
    first_event: int


def unpack_number(reply: Reply) -> int:
    """An atom, a window, a length, a version's major number."""
    return int(_NUMBER.unpack_from(reply.head)[0])


def unpack_name(reply: Reply) -> str:
    """Of GetAtomName. Raises WireError."""
    size = _NAME.unpack_from(reply.head)[0]
    if size > len(reply.body):
        raise WireError("a name goes beyond its reply")
    return reply.body[:size].decode("latin-1")


def unpack_property(reply: Reply) -> Property:
    """Of GetProperty. Raises WireError."""
    bits, kind, left, count = _PROPERTY.unpack_from(reply.head)
    if bits not in (0, 8, 16, 32) or (bits == 0) != (kind == 0):
        raise WireError(f"a property of the type {kind} in units of {bits} bits")
    size = count * bits // 8
    if size > len(reply.body):
        raise WireError("a property goes beyond its reply")
    return Property(kind, bits, left, reply.body[:size])


def unpack_extension(reply: Reply) -> Extension:
    """Of QueryExtension."""
    return Extension(*_EXTENSION.unpack_from(reply.head))


# --- events ----------------------------------------------------------------------------------------------------


class DestroyNotify(NamedTuple):
    window: int


class PropertyNotify(NamedTuple):
    window: int
    atom: int
    state: int


class SelectionRequest(NamedTuple):
    time: int
    owner: int
    requestor: int
    selection: int
    target: int
    property: int


class SelectionNotify(NamedTuple):
    time: int
    requestor: int
    selection: int
    target: int
    property: int


class XFixesSelectionNotify(NamedTuple):
    change: int
    window: int
    owner: int
    selection: int
    time: int
    since: int  # time from which on it has this owner


class Notice(NamedTuple):
    """An event of which no more counts than that it comes."""

    code: int


Event = Union[DestroyNotify, PropertyNotify, SelectionRequest, SelectionNotify, XFixesSelectionNotify, Notice]
Message = Union[Reply, Event, XError]
_Layout = Tuple[struct.Struct, Type[Event]]

_XFIXES_SELECTION_NOTIFY: _Layout = struct.Struct("=xB2xIIIII"), XFixesSelectionNotify
_NOTICE: _Layout = struct.Struct("=B"), Notice
_SELECTION_REQUEST: _Layout = struct.Struct("=4xIIIIII"), SelectionRequest
_SELECTION_NOTIFY: _Layout = struct.Struct("=4xIIIII"), SelectionNotify
_EVENTS: Dict[int, _Layout] = {
    Code.DestroyNotify: (struct.Struct("=8xI"), DestroyNotify),
    Code.PropertyNotify: (struct.Struct("=4xII4xB"), PropertyNotify),
    Code.SelectionRequest: _SELECTION_REQUEST,
    Code.SelectionNotify: _SELECTION_NOTIFY,
    # Other clients are to send these two alone; what they make of others is no news.
    Code.SelectionRequest | SENT: _SELECTION_REQUEST,
    Code.SelectionNotify | SENT: _SELECTION_NOTIFY,
}

# --- the stream ------------------------------------------------------------------------------------------------

_HEADER = struct.Struct("=BxHI")  # code, sequence number, words beyond the first 32 bytes
_ERROR = struct.Struct("=xBHIHB")


class Decoder:
    """From a stream of bytes to messages; events that nobody needs are left out. Keeps less than one message.

    Bytes are received into room(), and then taken().
    """

    def __init__(self) -> None:
        self._events = dict(_EVENTS)
        self._buffer = bytearray(MAX_MESSAGE + SPARE)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    def expect_xfixes(self, first_event: int) -> None:
        self._events[first_event] = _XFIXES_SELECTION_NOTIFY

    def expect_notice(self, code: int) -> None:
        self._events[code] = _NOTICE

    def room(self) -> memoryview:
        """Where the next bytes go; never empty once the messages of taken() were taken."""
        kept = self._end - self._start
        if kept == 0 or len(self._buffer) - self._end < SPARE:
            self._view[:kept] = self._view[self._start : self._end]
            self._start, self._end = 0, kept
        return self._view[self._end :]

    def taken(self, count: int) -> Iterator[Message]:
        """The messages that are complete with `count` more bytes. Raises WireError, after which there is no way on."""
        self._end += count
        while self._end - self._start >= SMALL:
            start = self._start
            code, sequence, length = _HEADER.unpack_from(self._buffer, start)
            size = SMALL
            if code in (Code.Reply, Code.GenericEvent):
                size += 4 * length
                if size > MAX_MESSAGE:
                    raise WireError(f"a message of {size} bytes")
                if size > self._end - start:
                    return
            self._start += size
            if code == Code.Reply:
                body = bytes(self._view[start + SMALL : start + size])
                yield Reply(sequence, bytes(self._view[start : start + SMALL]), body)
            elif code == Code.Error:
                yield XError(*_ERROR.unpack_from(self._buffer, start))
            elif code in self._events:
                layout, kind = self._events[code]
                yield kind(*layout.unpack_from(self._buffer, start))
