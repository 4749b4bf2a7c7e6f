"""One request of each kind, and what is seen of its answer."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from subos_protocol.fuse import (
    FUSE_ATTR_OUT,
    FUSE_CREATE_IN,
    FUSE_DIRENT,
    FUSE_ENTRY_OUT,
    FUSE_LK_IN,
    FUSE_LK_OUT,
    FUSE_OPEN_IN,
    FUSE_OPEN_OUT,
    FUSE_READ_IN,
    FUSE_RELEASE_IN,
    FUSE_SETATTR_IN,
    FUSE_WRITE_IN,
    fuse_setattr_in,
)
from subos_protocol.fuse_opcodes import FUSE_LK_FLOCK, FUSE_RELEASE_FLOCK_UNLOCK, FuseSetattr
from subos_protocol.fuse_opcodes import FuseOpcode as Op
from support.fuse_requests import Guest, Reply

from .lives import Request

ENTRY, OPEN, ATTR = FUSE_ENTRY_OUT.size, FUSE_OPEN_OUT.size, FUSE_ATTR_OUT.size


class Scene(NamedTuple):
    """Nodes and handles that the guest has."""

    folder: int
    empty: int
    file: int
    other: int
    link: int
    full: int
    opened: int
    """Of `file`, to read and write."""
    reading: int
    """Of `other`."""
    orphan: int
    """A file without a name, which is open."""
    listing: int
    """Of the root."""
    closed: int
    """A file that nobody may read."""


def build(root: Path, uid: int = os.geteuid()) -> None:
    """A share, all of it that user's."""
    root.mkdir()
    for name in ("folder", "empty", "full"):
        (root / name).mkdir()
    (root / "folder/inner").write_bytes(b"inner")
    (root / "full/thing").write_bytes(b"thing")
    (root / "file").write_bytes(b"content")
    (root / "other").write_bytes(b"other")
    (root / "twin").hardlink_to(root / "file")
    (root / "link").symlink_to("file")
    (root / "unknown").write_bytes(b"unknown")
    (root / "closed").write_bytes(b"closed")
    os.setxattr(root / "file", "user.here", b"value")
    for name in ("closed", "full"):
        (root / name).chmod(0)
    for path in (root, *root.rglob("*")):
        if uid != os.geteuid():
            os.chown(path, uid, uid, follow_symlinks=False)
        os.utime(path, (1, 1), follow_symlinks=False)


def begin(guest: Guest) -> Scene:
    guest.init()
    folder, empty, file, other, link, full = (
        guest.lookup(name).nodeid for name in (b"folder", b"empty", b"file", b"other", b"link", b"full")
    )
    orphan, _handle = guest.create(b"orphan")
    guest.ask(Op.FUSE_UNLINK, 1, b"orphan\0")
    opened, reading = guest.open(file, os.O_RDWR), guest.open(other)
    closed = guest.lookup(b"closed").nodeid
    return Scene(folder, empty, file, other, link, full, opened, reading, orphan, guest.opendir(), closed)


def setattr_(valid: int, **values: int) -> bytes:
    fields = dict.fromkeys(fuse_setattr_in._fields, 0) | values | {"valid": valid}
    return FUSE_SETATTR_IN.struct.pack(*fields.values())


def create(name: bytes, flags: int = os.O_RDWR, mode: int = 0o644) -> bytes:
    return FUSE_CREATE_IN.struct.pack(flags | os.O_CREAT, mode, 0o22, 0) + name + b"\0"


def write(handle: int, offset: int, data: bytes, opened: int = os.O_RDWR) -> bytes:
    return FUSE_WRITE_IN.struct.pack(handle, offset, len(data), 0, 0, opened, 0)


def rename(to: int, old: bytes, new: bytes, flags: int) -> bytes:
    return struct.pack("<QII", to, flags, 0) + old + b"\0" + new + b"\0"


def read(handle: int, size: int = 4096) -> bytes:
    return FUSE_READ_IN.struct.pack(handle, 0, size, 0, 0, 0, 0)


def setxattr(name: bytes, value: bytes, flags: int) -> bytes:
    return struct.pack("<IIII", len(value), flags, 0, 0) + name + b"\0" + value


CREATE, REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE
NOREPLACE, EXCHANGE = 1, 2
FIFO, REG = 0o10644, 0o100644
BYTES = b"to be appended, " * 1000
APPEND = os.O_WRONLY | os.O_APPEND

Case = Callable[[Scene], Request]

CASES: dict[str, Case] = {
    "lookup": lambda s: Request(Op.FUSE_LOOKUP, 1, b"unknown\0", room=ENTRY),
    "lookup of a folder": lambda s: Request(Op.FUSE_LOOKUP, s.folder, b"inner\0", room=ENTRY),
    "lookup of nothing": lambda s: Request(Op.FUSE_LOOKUP, 1, b"nothing\0", room=ENTRY),
    "forget": lambda s: Request(Op.FUSE_FORGET, s.link, struct.pack("<Q", 1), reply=False),
    "forget many": lambda s: Request(
        Op.FUSE_BATCH_FORGET, 0, struct.pack("<II6Q", 3, 0, s.link, 1, s.empty, 1, s.full, 1), reply=False
    ),
    "getattr": lambda s: Request(Op.FUSE_GETATTR, s.file, bytes(16), room=ATTR),
    "chmod": lambda s: Request(Op.FUSE_SETATTR, s.file, setattr_(FuseSetattr.FATTR_MODE, mode=0o600), room=ATTR),
    "truncate": lambda s: Request(Op.FUSE_SETATTR, s.file, setattr_(FuseSetattr.FATTR_SIZE, size=3), room=ATTR),
    "truncate what is open": lambda s: Request(
        Op.FUSE_SETATTR,
        s.file,
        setattr_(FuseSetattr.FATTR_SIZE | FuseSetattr.FATTR_FH, size=30, fh=s.opened),
        room=ATTR,
    ),
    "readlink": lambda s: Request(Op.FUSE_READLINK, s.link, data_room=100),
    "symlink": lambda s: Request(Op.FUSE_SYMLINK, s.folder, b"made\0target\0", room=ENTRY),
    "symlink over a file": lambda s: Request(Op.FUSE_SYMLINK, 1, b"file\0target\0", room=ENTRY),
    "mknod": lambda s: Request(Op.FUSE_MKNOD, 1, struct.pack("<IIII", REG, 0, 0o22, 0) + b"made\0", room=ENTRY),
    "mknod of a fifo": lambda s: Request(
        Op.FUSE_MKNOD, s.folder, struct.pack("<IIII", FIFO, 0, 0o22, 0) + b"made\0", room=ENTRY
    ),
    "mknod over a file": lambda s: Request(
        Op.FUSE_MKNOD, 1, struct.pack("<IIII", REG, 0, 0o22, 0) + b"unknown\0", room=ENTRY
    ),
    "mkdir": lambda s: Request(Op.FUSE_MKDIR, s.folder, struct.pack("<II", 0o755, 0o22) + b"made\0", room=ENTRY),
    "mkdir over a folder": lambda s: Request(
        Op.FUSE_MKDIR, 1, struct.pack("<II", 0o755, 0o22) + b"empty\0", room=ENTRY
    ),
    "unlink": lambda s: Request(Op.FUSE_UNLINK, 1, b"other\0"),
    "unlink one of two": lambda s: Request(Op.FUSE_UNLINK, 1, b"file\0"),
    "unlink what is not known": lambda s: Request(Op.FUSE_UNLINK, 1, b"unknown\0"),
    "unlink nothing": lambda s: Request(Op.FUSE_UNLINK, 1, b"nothing\0"),
    "unlink a folder": lambda s: Request(Op.FUSE_UNLINK, 1, b"folder\0"),
    "rmdir": lambda s: Request(Op.FUSE_RMDIR, 1, b"empty\0"),
    "rmdir of what is full": lambda s: Request(Op.FUSE_RMDIR, 1, b"full\0"),
    "rename": lambda s: Request(Op.FUSE_RENAME, 1, struct.pack("<Q", s.folder) + b"file\0new\0"),
    "rename over a file": lambda s: Request(Op.FUSE_RENAME, 1, struct.pack("<Q", 1) + b"file\0other\0"),
    "rename over itself": lambda s: Request(Op.FUSE_RENAME, 1, struct.pack("<Q", 1) + b"file\0twin\0"),
    "rename a folder": lambda s: Request(Op.FUSE_RENAME, 1, struct.pack("<Q", 1) + b"folder\0empty\0"),
    "rename over what is full": lambda s: Request(Op.FUSE_RENAME, 1, struct.pack("<Q", 1) + b"folder\0full\0"),
    "rename nothing": lambda s: Request(Op.FUSE_RENAME, 1, struct.pack("<Q", 1) + b"nothing\0new\0"),
    "rename to nothing": lambda s: Request(Op.FUSE_RENAME2, 1, rename(s.folder, b"file", b"new", NOREPLACE)),
    "rename to something": lambda s: Request(Op.FUSE_RENAME2, 1, rename(1, b"file", b"other", NOREPLACE)),
    "exchange": lambda s: Request(Op.FUSE_RENAME2, 1, rename(s.folder, b"file", b"inner", EXCHANGE)),
    "exchange with itself": lambda s: Request(Op.FUSE_RENAME2, 1, rename(1, b"file", b"twin", EXCHANGE)),
    "exchange with nothing": lambda s: Request(Op.FUSE_RENAME2, 1, rename(1, b"file", b"nothing", EXCHANGE)),
    "link": lambda s: Request(Op.FUSE_LINK, s.folder, struct.pack("<Q", s.file) + b"made\0", room=ENTRY),
    "link over a file": lambda s: Request(Op.FUSE_LINK, 1, struct.pack("<Q", s.file) + b"other\0", room=ENTRY),
    "link over itself": lambda s: Request(Op.FUSE_LINK, 1, struct.pack("<Q", s.file) + b"twin\0", room=ENTRY),
    "open to read": lambda s: Request(Op.FUSE_OPEN, s.other, FUSE_OPEN_IN.struct.pack(os.O_RDONLY, 0), room=OPEN),
    "open to write": lambda s: Request(Op.FUSE_OPEN, s.file, FUSE_OPEN_IN.struct.pack(os.O_RDWR, 0), room=OPEN),
    "open and truncate": lambda s: Request(
        Op.FUSE_OPEN, s.file, FUSE_OPEN_IN.struct.pack(os.O_WRONLY | os.O_TRUNC, 0), room=OPEN
    ),
    "open a folder as a file": lambda s: Request(Op.FUSE_OPEN, s.folder, FUSE_OPEN_IN.struct.pack(0, 0), room=OPEN),
    "read": lambda s: Request(Op.FUSE_READ, s.file, read(s.opened), data_room=4096),
    "write": lambda s: Request(Op.FUSE_WRITE, s.file, write(s.opened, 3, b"written"), b"written", room=8),
    "append": lambda s: Request(Op.FUSE_WRITE, s.file, write(s.opened, 0, BYTES, APPEND), BYTES, room=8),
    "append to what is not open": lambda s: Request(Op.FUSE_WRITE, s.file, write(99, 0, BYTES, APPEND), BYTES, room=8),
    "append to what may not be written": lambda s: Request(
        Op.FUSE_WRITE, s.other, write(s.reading, 0, BYTES, APPEND), BYTES, room=8
    ),
    "statfs": lambda s: Request(Op.FUSE_STATFS, 1, room=80),
    "release": lambda s: Request(Op.FUSE_RELEASE, s.file, FUSE_RELEASE_IN.struct.pack(s.opened, 0, 0, 0)),
    "release what is shared": lambda s: Request(
        Op.FUSE_RELEASE, s.other, FUSE_RELEASE_IN.struct.pack(s.reading, 0, 0, 0)
    ),
    "fsync": lambda s: Request(Op.FUSE_FSYNC, s.file, struct.pack("<QII", s.opened, 0, 0)),
    "setxattr": lambda s: Request(Op.FUSE_SETXATTR, s.file, setxattr(b"user.new", b"1", 0)),
    "setxattr of a new one": lambda s: Request(Op.FUSE_SETXATTR, s.file, setxattr(b"user.new", b"1", CREATE)),
    "setxattr as if new": lambda s: Request(Op.FUSE_SETXATTR, s.file, setxattr(b"user.here", b"1", CREATE)),
    "setxattr of an old one": lambda s: Request(Op.FUSE_SETXATTR, s.file, setxattr(b"user.here", b"1", REPLACE)),
    "setxattr as if old": lambda s: Request(Op.FUSE_SETXATTR, s.file, setxattr(b"user.new", b"1", REPLACE)),
    "getxattr": lambda s: Request(Op.FUSE_GETXATTR, s.file, struct.pack("<II", 99, 0) + b"user.here\0", data_room=99),
    "listxattr": lambda s: Request(Op.FUSE_LISTXATTR, s.file, struct.pack("<II", 99, 0), data_room=99),
    "removexattr": lambda s: Request(Op.FUSE_REMOVEXATTR, s.file, b"user.here\0"),
    "removexattr of none": lambda s: Request(Op.FUSE_REMOVEXATTR, s.file, b"user.new\0"),
    "flush": lambda s: Request(Op.FUSE_FLUSH, s.file, struct.pack("<QIIQ", s.opened, 0, 0, 7)),
    "opendir": lambda s: Request(Op.FUSE_OPENDIR, s.folder, FUSE_OPEN_IN.struct.pack(0, 0), room=OPEN),
    "readdir": lambda s: Request(Op.FUSE_READDIR, 1, read(s.listing), data_room=4096),
    "readdirplus": lambda s: Request(Op.FUSE_READDIRPLUS, 1, read(s.listing), data_room=4096),
    "releasedir": lambda s: Request(Op.FUSE_RELEASEDIR, 1, FUSE_RELEASE_IN.struct.pack(s.listing, 0, 0, 0)),
    "access": lambda s: Request(Op.FUSE_ACCESS, s.file, struct.pack("<II", os.R_OK, 0)),
    "create": lambda s: Request(Op.FUSE_CREATE, s.folder, create(b"made"), room=ENTRY + OPEN),
    "create what may not be read": lambda s: Request(
        Op.FUSE_CREATE, 1, create(b"made", os.O_WRONLY | os.O_EXCL, 0), room=ENTRY + OPEN
    ),
    "create what is there": lambda s: Request(Op.FUSE_CREATE, 1, create(b"other"), room=ENTRY + OPEN),
    "create what is unknown": lambda s: Request(Op.FUSE_CREATE, 1, create(b"unknown"), room=ENTRY + OPEN),
    "create anew": lambda s: Request(
        Op.FUSE_CREATE, 1, create(b"unknown", os.O_WRONLY | os.O_TRUNC), room=ENTRY + OPEN
    ),
    "create a new one only": lambda s: Request(
        Op.FUSE_CREATE, 1, create(b"other", os.O_WRONLY | os.O_EXCL), room=ENTRY + OPEN
    ),
    "create over a folder": lambda s: Request(Op.FUSE_CREATE, 1, create(b"empty"), room=ENTRY + OPEN),
    "tmpfile": lambda s: Request(Op.FUSE_TMPFILE, s.folder, create(b"."), room=ENTRY + OPEN),
    "fallocate": lambda s: Request(Op.FUSE_FALLOCATE, s.file, struct.pack("<QQQII", s.opened, 0, 100, 0, 0)),
    "punch a hole": lambda s: Request(Op.FUSE_FALLOCATE, s.file, struct.pack("<QQQII", s.opened, 1, 3, 3, 0)),
    "lseek": lambda s: Request(
        Op.FUSE_LSEEK, s.file, struct.pack("<QQII", s.opened, 0, os.SEEK_HOLE, 0), room=8
    ),
    "copy": lambda s: Request(
        Op.FUSE_COPY_FILE_RANGE, s.other, struct.pack("<7Q", s.reading, 0, s.file, s.opened, 2, 5, 0), room=8
    ),
    "copy to its own end": lambda s: Request(
        Op.FUSE_COPY_FILE_RANGE, s.file, struct.pack("<7Q", s.opened, 3, s.file, s.opened, 10, 100, 0), room=8
    ),
    "statx": lambda s: Request(Op.FUSE_STATX, s.file, struct.pack("<IIQII", 0, 0, 0, 0, 0x7FF), room=288),
}  # fmt: skip


def lock(handle: int, kind: int, flags: int = 0) -> bytes:
    return FUSE_LK_IN.struct.pack(handle, 7, 0, 9, kind, 1, flags, 0)


HOST_LOCKS: dict[str, Case] = {
    "setlk": lambda s: Request(Op.FUSE_SETLK, s.file, lock(s.opened, fcntl.F_WRLCK)),
    "setlkw": lambda s: Request(Op.FUSE_SETLKW, s.file, lock(s.opened, fcntl.F_WRLCK)),
    "unlock": lambda s: Request(Op.FUSE_SETLK, s.file, lock(s.opened, fcntl.F_UNLCK)),
    "flock": lambda s: Request(Op.FUSE_SETLK, s.file, lock(s.opened, fcntl.F_WRLCK, FUSE_LK_FLOCK)),
    "getlk": lambda s: Request(Op.FUSE_GETLK, s.file, lock(s.opened, fcntl.F_WRLCK), room=FUSE_LK_OUT.size),
    "flush": CASES["flush"],
    "release": lambda s: Request(
        Op.FUSE_RELEASE, s.file, FUSE_RELEASE_IN.struct.pack(s.opened, 0, FUSE_RELEASE_FLOCK_UNLOCK, 7)
    ),
}

UNREADABLE: dict[str, Case] = {
    "setxattr": lambda s: Request(Op.FUSE_SETXATTR, s.closed, setxattr(b"security.a", b"1", 0)),
    "setxattr of a new one": lambda s: Request(Op.FUSE_SETXATTR, s.closed, setxattr(b"security.a", b"1", CREATE)),
    "getxattr": lambda s: Request(Op.FUSE_GETXATTR, s.full, struct.pack("<II", 99, 0) + b"security.a\0", data_room=99),
    "create": lambda s: Request(Op.FUSE_CREATE, s.folder, create(b"made", os.O_RDWR, 0o444), room=ENTRY + OPEN),
    "create what nobody may read": lambda s: Request(
        Op.FUSE_CREATE, s.folder, create(b"made", os.O_RDWR, 0), room=ENTRY + OPEN
    ),
}
"""Where an ordinary user's worker may not do it as the mode is."""


def seen(request: Request, reply: Reply, names: dict[int, tuple[str, ...]], *, numbers: bool = True) -> list[Any]:
    """A reply without times, and with names in the place of inode numbers; without the numbers of nodes and handles
    where they may be others."""
    found = _seen(request, reply, names)
    return [value for value in found if numbers or not isinstance(value, Number)]


class Number(int):
    """Of a node or a handle."""


def _seen(request: Request, reply: Reply, names: dict[int, tuple[str, ...]]) -> list[Any]:
    if not request.reply:
        return [reply.written]
    found: list[Any] = [reply.error, reply.unique]
    if reply.error or not reply.written or request.opcode in (Op.FUSE_STATFS, Op.FUSE_STATX):
        return [*found, reply.written]
    body = reply.body
    if request.opcode in (Op.FUSE_READDIR, Op.FUSE_READDIRPLUS):
        return [*found, sorted(entries(body, request.opcode == Op.FUSE_READDIRPLUS, names))]
    if request.opcode == Op.FUSE_OPEN or request.opcode == Op.FUSE_OPENDIR:
        return [*found, *_opened(body)]
    if request.opcode in (Op.FUSE_GETATTR, Op.FUSE_SETATTR):
        return [*found, attributes(FUSE_ATTR_OUT.unpack(body), names)]
    if request.room >= ENTRY:
        entry = FUSE_ENTRY_OUT.unpack(body)
        found += [Number(entry.nodeid), entry.entry_valid, attributes(entry, names)]
        return [*found, *_opened(body[ENTRY:])] if len(body) > ENTRY else found
    return [*found, body]


def _opened(body: bytes) -> list[int]:
    opened = FUSE_OPEN_OUT.unpack(body)
    return [Number(opened.fh), opened.open_flags]


def attributes(at: Any, names: dict[int, tuple[str, ...]]) -> tuple[object, ...]:
    return names.get(at.ino), at.size, at.mode, at.nlink, at.uid, at.gid, at.rdev


def entries(body: bytes, plus: bool, names: dict[int, tuple[str, ...]]) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    at = 0
    while at < len(body):
        nodeid = 0
        if plus:
            nodeid = FUSE_ENTRY_OUT.unpack(body, at).nodeid
            at += ENTRY
        dirent = FUSE_DIRENT.unpack(body, at)
        name = body[at + FUSE_DIRENT.size : at + FUSE_DIRENT.size + dirent.namelen]
        found.append((name, nodeid, dirent.type, names.get(dirent.ino)))
        at += FUSE_DIRENT.size + dirent.namelen + 7 & ~7
    return found


class Outcome(NamedTuple):
    reply: list[Any]
    tree: dict[str, Any]
    nodes: dict[int, Any]
    lookups: dict[int, int]
    files: list[Any]
    directories: list[Any]
