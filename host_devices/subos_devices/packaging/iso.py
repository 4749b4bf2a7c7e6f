"""A disk image with files in one folder: ISO 9660 (ECMA-119) with Rock Ridge names (SUSP and RRIP 1.12).

Written here since what writes such images elsewhere is either another program to install or stamps them with the time
of day. Linux, cloud-init and the BSDs read it; the tests read it with pycdlib.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Sequence

from .payload import File

SECTOR = 2048
FIRST_DESCRIPTOR = 16
PATH_TABLES = 18
ROOT = 20
"""Sectors: of the volume descriptor and its terminator, of the two path tables, of the root folder."""
DESCRIPTION = b"THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS"
FOLDER_MODE, FILE_TYPE = 0o040555, 0o100000
NO_TIME = b"0" * 16 + b"\0"
LIMIT = 64 << 20
"""Bytes of all files: the image is made in memory."""


def build(label: str, files: Sequence[File], when: int) -> bytes:
    """The image; `label` is a few capital letters, `when` in seconds since 1970.

    Raises ValueError: two names that ISO 9660 cannot tell apart, a name too long, too much of it all.
    """
    names = {_iso_name(file.path): file for file in files}
    if len(names) < len(files) or not re.fullmatch(r"[A-Z0-9_]{1,32}", label):
        raise ValueError("names that ISO 9660 cannot tell apart, or a label that it does not know")
    if sum(len(file.content) for file in files) > LIMIT:
        raise ValueError(f"more than {LIMIT >> 20} MiB")
    date = _short_date(when)
    ordered = sorted(names.items(), key=lambda item: [part.ljust(31) for part in item[0][:-2].partition(".")])
    size = len(_folder(ordered, ROOT, 0, date))  # in sectors, whatever the places of the files
    place = ROOT + size // SECTOR
    body = [_folder(ordered, place, size, date)]
    body += [_padded(file.content) for _, file in ordered]
    sectors = ROOT + sum(map(len, body)) // SECTOR
    record = _record(b"\0", ROOT, size, date, folder=True)
    table = struct.pack("<BBIH2s", 1, 0, ROOT, 1, b"\0\0"), struct.pack(">BBIH2s", 1, 0, ROOT, 1, b"\0\0")
    head = [bytes(FIRST_DESCRIPTOR * SECTOR), _descriptor(label, sectors, len(table[0]), record, when)]
    head += [_padded(b"\xffCD001\1"), *map(_padded, table)]
    return b"".join(head + body)


def _descriptor(label: str, sectors: int, table: int, root: bytes, when: int) -> bytes:
    """The primary volume descriptor (ECMA-119, 8.4)."""
    moment = time.strftime("%Y%m%d%H%M%S00", time.gmtime(when)).encode() + b"\0"
    parts = [
        b"\1CD001\1\0" + b" " * 32 + label.ljust(32).encode() + bytes(8),
        _both32(sectors) + bytes(32) + _both16(1) + _both16(1) + _both16(SECTOR),
        _both32(table) + struct.pack("<II", PATH_TABLES, 0) + struct.pack(">II", PATH_TABLES + 1, 0),
        root + b" " * (4 * 128 + 3 * 37) + moment + moment + NO_TIME + NO_TIME + b"\1\0",
    ]
    return _padded(b"".join(parts))


def _folder(files: Sequence[tuple[str, File]], place: int, size: int, date: bytes) -> bytes:
    """The root folder, the contents of whose files begin at the sector `place`. No record crosses a sector."""
    posix = _posix(FOLDER_MODE, 2)
    itself = struct.pack("<2sBB2sB", b"SP", 7, 1, b"\xbe\xef", 0) + posix
    itself += struct.pack("<2sBBBBBB", b"ER", 18 + len(DESCRIPTION), 1, 10, len(DESCRIPTION), 0, 1)
    itself += b"RRIP_1991A" + DESCRIPTION
    records = [_record(b"\0", ROOT, size, date, itself, folder=True)]
    records += [_record(b"\1", ROOT, size, date, posix, folder=True)]
    for name, file in files:
        use = _posix(FILE_TYPE | file.mode & 0o555, 1) + _name(file.path.encode())
        records.append(_record(name.encode(), place, len(file.content), date, use))
        place += -(-len(file.content) // SECTOR)
    data = b""
    for record in records:
        if len(data) % SECTOR + len(record) > SECTOR:
            data = _padded(data)
        data += record
    return _padded(data)


def _record(name: bytes, place: int, size: int, date: bytes, use: bytes = b"", *, folder: bool = False) -> bytes:
    """A directory record (ECMA-119, 9.1); `use` are Rock Ridge's entries."""
    flags = 2 if folder else 0
    body = _both32(place) + _both32(size) + date + bytes([flags, 0, 0]) + _both16(1) + bytes([len(name)]) + name
    body += bytes(1 - len(name) % 2) + use + bytes(len(use) % 2)
    if len(body) + 2 > 254:
        raise ValueError(f"the name {name!r} is too long")
    return bytes([len(body) + 2, 0]) + body


def _posix(mode: int, links: int) -> bytes:
    """Rock Ridge's PX: mode, links, user, group."""
    return b"PX" + bytes([36, 1]) + b"".join(map(_both32, (mode, links, 0, 0)))


def _name(name: bytes) -> bytes:
    """Rock Ridge's NM."""
    if len(name) > 64 or b"/" in name:
        raise ValueError(f"the name {name!r} is too long, or a path")
    return b"NM" + bytes([5 + len(name), 1, 0]) + name


def _iso_name(name: str) -> str:
    """Capitals, digits and "_", at most 30 with one dot: for who does not read Rock Ridge."""
    stem, dot, ending = re.sub(r"[^A-Z0-9.]", "_", name.upper()).rpartition(".")
    if not dot:
        stem, ending = ending, ""
    return f"{stem.replace('.', '_')[:22]}.{ending[:8]};1"


def _short_date(when: int) -> bytes:
    """ECMA-119, 9.1.5: years since 1900, …, and no offset from Greenwich."""
    year, *rest = time.gmtime(when)[:6]
    return bytes([min(max(year - 1900, 0), 255), *rest, 0])


def _both16(value: int) -> bytes:
    return struct.pack("<H", value) + struct.pack(">H", value)


def _both32(value: int) -> bytes:
    return struct.pack("<I", value) + struct.pack(">I", value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % SECTOR)
