"""Xauthority files: which secret opens which X server, without I/O (libXau, AuRead.c and AuGetBest.c)."""

from __future__ import annotations

import enum
import struct
from typing import Iterator, NamedTuple, Sequence, Tuple

COOKIE = b"MIT-MAGIC-COOKIE-1"
MAX_FILE = 1 << 20  # bytes of a file that are looked at

_NUMBER = struct.Struct(">H")  # of a family, of the bytes of a string


class Family(enum.IntEnum):
    Internet = 0  # 4 bytes of address
    Internet6 = 6
    Local = 256  # a host's name
    Wild = 65535  # any server


class Entry(NamedTuple):
    family: int
    address: bytes
    number: bytes  # the display's, in decimal; empty for any
    name: bytes
    data: bytes


def entries(file: bytes) -> Iterator[Entry]:
    """Those of a file's content; one that is cut off, and what follows it, is left out."""
    place = 0
    try:
        while place < len(file):
            family = _NUMBER.unpack_from(file, place)[0]
            place += _NUMBER.size
            strings = []
            for _ in range(4):
                size = _NUMBER.unpack_from(file, place)[0]
                place += _NUMBER.size + size
                if place > len(file):
                    return
                strings.append(file[place - size : place])
            yield Entry(family, *strings)
    except struct.error:
        return


def cookie(file: bytes, addresses: Sequence[Tuple[Family, bytes]], display: int) -> bytes:
    """The secret for a server that is known by these addresses, the best one first; empty where there is none."""
    number = b"%d" % display
    found = [entry for entry in entries(file) if entry.name == COOKIE and entry.number in (b"", number)]
    for address in addresses:
        for entry in found:
            if entry.family == Family.Wild or (entry.family, entry.address) == address:
                return entry.data
    return b""
