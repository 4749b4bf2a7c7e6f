"""The first bytes of a connection to an X server, without I/O (X Version 11, appendix B, "Connection Setup")."""

from __future__ import annotations

import enum
import struct
import sys
from typing import NamedTuple

from .wire import WireError, padded

MAJOR, MINOR = 11, 0  # of the protocol
LEAST_REQUEST = 4096  # words that every server takes

_REQUEST = struct.Struct("=cxHHHHxx")  # byte order, version, lengths of the authorization's name and data
HEADER = struct.Struct("=BBHHH")  # status, length of a refusal's reason, version, words that follow
_FIXED = struct.Struct("=4xII4xHHBB10x")  # ids' base and mask, lengths of vendor and request, screens, formats
_SCREEN = struct.Struct("=I35xB")  # root window, number of depths
_DEPTH = struct.Struct("=2xH4x")  # number of visuals
_FORMAT_SIZE, _VISUAL_SIZE = 8, 24  # bytes


class Status(enum.IntEnum):
    Failed = 0
    Success = 1
    Authenticate = 2  # more is asked for than we have


class Setup(NamedTuple):
    id_base: int
    id_mask: int  # the bits that are ours to choose
    max_request: int  # in words
    root: int  # the window of the screen


def pack_request(name: bytes, data: bytes) -> bytes:
    """What a client says first; an authorization's name and data, or none."""
    order = b"l" if sys.byteorder == "little" else b"B"
    return _REQUEST.pack(order, MAJOR, MINOR, len(name), len(data)) + padded(name) + padded(data)


def rest_size(header: bytes) -> int:
    """How many bytes follow the HEADER of a server's answer: less than 256 KiB."""
    return 4 * int(HEADER.unpack(header)[4])


def unpack_answer(header: bytes, rest: bytes, screen: int) -> Setup:
    """Raises WireError, also where the server refuses."""
    status, length, _, _, _ = HEADER.unpack(header)
    if status != Status.Success:
        reason = (rest[:length] if status == Status.Failed else rest).decode("latin-1").strip("\0\n ")
        raise WireError(f"it refuses: {reason}" if reason.isprintable() and reason else "it refuses")
    try:
        id_base, id_mask, vendor, max_request, screens, formats = _FIXED.unpack_from(rest)
        if not id_mask:
            raise WireError("it gives no ids")
        if max_request < LEAST_REQUEST:
            raise WireError(f"it takes requests of {max_request} words")
        if screen >= screens:
            raise WireError(f"it has no screen {screen}")
        place = _FIXED.size + vendor + (-vendor & 3) + formats * _FORMAT_SIZE
        for _ in range(screen):
            depths = _SCREEN.unpack_from(rest, place)[1]
            place += _SCREEN.size
            for _ in range(depths):
                place += _DEPTH.size + _VISUAL_SIZE * int(_DEPTH.unpack_from(rest, place)[0])
        return Setup(id_base, id_mask, max_request, _SCREEN.unpack_from(rest, place)[0])
    except struct.error as error:
        raise WireError("its answer is too short") from error
