"""Inputs to begin from: literal requests of the kinds that Linux sends, in the form that fs.py reads."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from subos_protocol.fuse_opcodes import FuseOpcode as Op

ENTRY, OPENED, ATTR, WRITTEN, DATA, CREATED, STATX = 6, 2, 5, 1, 11, 7, 9  # places in fs.ROOMS


def request(opcode: int, node: int, arguments: bytes = b"", room: int = 0, framing: int = 0) -> bytes:
    return struct.pack("<BBBBH", opcode, node, framing, room, len(arguments)) + arguments


def read(handle: int, size: int = 4096, offset: int = 0) -> bytes:
    return struct.pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0)


def write(handle: int, data: bytes, offset: int = 0) -> bytes:
    return struct.pack("<QQIIQII", handle, offset, len(data), 0, 0, os.O_RDWR, 0) + data


def sequences() -> Iterator[list[bytes]]:
    folder, file = request(Op.FUSE_LOOKUP, 1, b"folder\0", ENTRY), request(Op.FUSE_LOOKUP, 2, b"file\0", ENTRY)
    opened = request(Op.FUSE_OPEN, 3, struct.pack("<II", os.O_RDWR, 0), OPENED)
    release = struct.pack("<QIIQ", 1, 0, 0, 0)
    made = request(Op.FUSE_CREATE, 1, struct.pack("<IIII", os.O_RDWR | os.O_CREAT, 0o644, 0, 0) + b"new\0", CREATED)
    yield [folder, file, opened, request(Op.FUSE_READ, 3, read(1), DATA), request(Op.FUSE_RELEASE, 3, release)]
    yield [
        folder,
        file,
        opened,
        request(Op.FUSE_WRITE, 3, write(1, b"data"), WRITTEN),
        request(Op.FUSE_FLUSH, 3, release),
    ]
    yield [folder, file, request(Op.FUSE_OPEN, 3, bytes(8), OPENED), request(Op.FUSE_GETATTR, 3, bytes(16), ATTR)]
    for opcode in (Op.FUSE_READDIR, Op.FUSE_READDIRPLUS):
        listing = [request(opcode, 1, read(1, size), DATA) for size in (200, 4096)]
        yield [request(Op.FUSE_OPENDIR, 1, bytes(8), OPENED), *listing, request(Op.FUSE_RELEASEDIR, 1, release)]
    yield [made, request(Op.FUSE_UNLINK, 1, b"new\0"), request(Op.FUSE_GETATTR, 2, bytes(16), ATTR)]
    yield [made, request(Op.FUSE_RENAME2, 1, struct.pack("<QII", 1, 0, 0) + b"new\0folder\0")]
    yield [made, request(Op.FUSE_RENAME, 1, struct.pack("<Q", 1) + b"new\0newer\0"), made]
    yield [made, request(Op.FUSE_LINK, 1, struct.pack("<Q", 2) + b"other\0", ENTRY)]
    yield [made, request(Op.FUSE_FALLOCATE, 2, struct.pack("<QQQII", 1, 0, 4096, 0, 0))]
    yield [made, request(Op.FUSE_LSEEK, 2, struct.pack("<QQII", 1, 0, os.SEEK_HOLE, 0), WRITTEN)]
    yield [made, request(Op.FUSE_COPY_FILE_RANGE, 2, struct.pack("<QQQQQQQ", 1, 0, 2, 1, 0, 4096, 0), WRITTEN)]
    size = struct.pack("<IIQQQ", 1 << 3, 0, 0, 100, 0) + bytes(56)
    yield [made, request(Op.FUSE_SETATTR, 2, size, ATTR), request(Op.FUSE_FSYNC, 2, struct.pack("<QII", 1, 1, 0))]
    name, value = b"user.name\0", b"value"
    attribute = struct.pack("<IIII", len(value), 0, 0, 0) + name + value
    yield [made, request(Op.FUSE_SETXATTR, 2, attribute), request(Op.FUSE_SETXATTR, 2, attribute[:8] + attribute[16:])]
    yield [made, request(Op.FUSE_GETXATTR, 2, struct.pack("<II", 100, 0) + name, DATA)]
    yield [made, request(Op.FUSE_LISTXATTR, 2, struct.pack("<II", 100, 0), DATA)]
    yield [made, request(Op.FUSE_REMOVEXATTR, 2, name)]
    yield [
        request(Op.FUSE_MKDIR, 1, struct.pack("<II", 0o755, 0) + b"made\0", ENTRY),
        request(Op.FUSE_RMDIR, 1, b"made\0"),
    ]
    yield [request(Op.FUSE_MKNOD, 1, struct.pack("<IIII", 0o010644, 0, 0, 0) + b"pipe\0", ENTRY)]
    yield [request(Op.FUSE_SYMLINK, 1, b"name\0target\0", ENTRY), request(Op.FUSE_READLINK, 2, b"", DATA)]
    yield [request(Op.FUSE_TMPFILE, 1, struct.pack("<IIII", os.O_RDWR, 0o600, 0, 0) + b"\0", CREATED)]
    yield [request(Op.FUSE_STATX, 1, struct.pack("<IIQII", 0, 0, 0, 0, 0xFFF), STATX)]
    yield [
        request(Op.FUSE_STATFS, 1, b"", STATX),
        request(Op.FUSE_ACCESS, 1, bytes(8)),
        request(Op.FUSE_SYNCFS, 1, bytes(8)),
    ]
    yield [folder, request(Op.FUSE_FORGET, 2, struct.pack("<Q", 1)), folder]
    yield [folder, request(Op.FUSE_BATCH_FORGET, 0, struct.pack("<IIQQ", 1, 0, 2, 1)), folder]
    yield [request(Op.FUSE_INIT, 0, struct.pack("<IIIII", 7, 41, 131072, 0xFFFF_FFFF, 0xFF) + bytes(44), 3), folder]
    for framing in range(7):
        yield [
            request(Op.FUSE_LOOKUP, 1, b"folder\0", ENTRY, framing),
            request(Op.FUSE_GETATTR, 1, bytes(16), ATTR, framing),
        ]
    yield [
        request(Op.FUSE_LOOKUP, 1, name + b"\0", ENTRY) for name in (b"..", b".", b"/", b"../outside", b"link", b"fifo")
    ]


def seeds() -> Iterator[bytes]:
    for sequence in sequences():
        yield b"\0" + b"".join(sequence)
    header = struct.pack("<IIQQIIIHH", 56, Op.FUSE_GETATTR, 2, 1, 0, 0, 0, 0, 0) + bytes(40)
    rows = [
        (0, 40, 1, 1, 0),
        (0, 40, 1, 1, 0),
        (1, 16, 1, 2, 40),
        (1, 16, 1, 2, 40),
        (2, 16, 3, 3, 200),
        (2, 16, 3, 3, 200),
    ]
    table = b"".join(struct.pack("<BHBBH", *row) for row in [*rows, (3, 104, 2, 0, 300), (3, 104, 2, 0, 300)])
    yield b"\1" + header + table
    yield b"\1" + header + struct.pack("<BHBBH", 0, 64, 4, 0, 0) + struct.pack("<BHBBH", 0, 64, 4, 0, 0)
    yield (
        b"\1"
        + header
        + b"".join(struct.pack("<BHBBH", at, 16, 1, (at + 1) % 4, 16 * at) for at in range(4) for _ in "ab")
    )
