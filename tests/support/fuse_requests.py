"""A guest's driver and FUSE client in the test's own process: requests through a real ring in a memfd.

`Guest` owns guest memory and one virtqueue; `ask` frames a request, lets the device drain the ring, and returns the
reply. Framing is a choice (`Framing`), so that every test can be run with buffers cut anywhere.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from subos_devices.vhost_user.memory import GuestMemory
from subos_devices.vhost_user.virtqueue import Virtqueue
from subos_protocol.fuse import (
    FUSE_ATTR_OUT,
    FUSE_CREATE_IN,
    FUSE_DIRENT,
    FUSE_ENTRY_OUT,
    FUSE_GETATTR_IN,
    FUSE_IN_HEADER,
    FUSE_INIT_IN,
    FUSE_INIT_OUT,
    FUSE_OPEN_IN,
    FUSE_OPEN_OUT,
    FUSE_OUT_HEADER,
    FUSE_READ_IN,
    FUSE_RELEASE_IN,
    FUSE_WRITE_IN,
    fuse_attr_out,
    fuse_entry_out,
    fuse_init_out,
)
from subos_protocol.fuse_opcodes import FuseOpcode
from subos_protocol.vhost_user import vhost_user_mem_region

BASE = 0x4000_0000  # guest-physical address of the memory
SIZE = 16 << 20
QUEUE_SIZE = 256
NEXT, WRITE, INDIRECT = 1, 2, 4

Cut = Callable[[int], list[int]]
"""Sizes of the buffers that so many bytes are cut into."""


def whole(size: int) -> list[int]:
    return [size] if size else []


def pieces(of: int) -> Cut:
    return lambda size: [min(of, size - at) for at in range(0, size, of)]


@dataclass(frozen=True)
class Framing:
    """How a request is laid out. `sections` keeps header, arguments and data apart, as Linux does."""

    name: str
    sections: bool = True
    cut: Cut = whole
    indirect: bool = True
    gap: int = 64
    """Bytes between buffers, so that nothing is contiguous by accident."""

    def __str__(self) -> str:
        return self.name


LINUX = Framing("linux")
FRAMINGS = [
    LINUX,
    Framing("direct", indirect=False),
    Framing("one buffer each way", sections=False),
    Framing("contiguous", gap=0),
    Framing("bytes", cut=pieces(1), sections=False),
    Framing("split header", cut=pieces(24), sections=False),
    Framing("split everywhere", cut=pieces(13)),
]


class Refused(OSError):
    """The reply's errno."""


@dataclass(frozen=True)
class Reply:
    """`written` is what the used ring says, `raw` the whole writable part."""

    written: int
    raw: bytes

    @property
    def length(self) -> int:
        return FUSE_OUT_HEADER.unpack(self.raw).len

    @property
    def error(self) -> int:
        return -FUSE_OUT_HEADER.unpack(self.raw).error

    @property
    def unique(self) -> int:
        return FUSE_OUT_HEADER.unpack(self.raw).unique

    @property
    def body(self) -> bytes:
        """What follows the header. Raises Refused with the reply's errno, if it has one."""
        if self.error:
            raise Refused(self.error, os.strerror(self.error))
        assert self.written == self.length
        return self.raw[FUSE_OUT_HEADER.size : self.length]


@dataclass
class Guest:
    """One ring at the bottom of guest memory, buffers above it. `drain` is the device's answer to a kick."""

    framing: Framing = LINUX
    unique: int = 100
    uid: int = field(default_factory=os.geteuid)
    gid: int = field(default_factory=os.getegid)
    drain: Callable[[Virtqueue], None] = lambda queue: None
    worker: Any = None
    """What the device was started with."""
    counts_replies: bool = True
    """Whether every chain is given back before the next one is offered: not where some are answered later."""

    def __post_init__(self) -> None:
        fd = os.memfd_create("guest")
        os.ftruncate(fd, SIZE)
        self.bytes = mmap.mmap(fd, SIZE)
        # The upper half is a span of its own: guest-physical space has a hole there.
        half = SIZE // 2
        self.hole = half
        regions = [
            vhost_user_mem_region(BASE, half + 4096, 0x7000_0000_0000, 0),
            vhost_user_mem_region(BASE + SIZE, half - 4096, 0x7100_0000_0000, half + 4096),
        ]
        self.memory = GuestMemory(regions, [fd, fd])
        os.close(fd)
        self.call = os.eventfd(0)
        self.desc, self.avail, self.used = 0, 0x4000, 0x8000
        self.queue = Virtqueue(
            1, QUEUE_SIZE, self.memory, BASE + self.desc, BASE + self.avail, BASE + self.used, call=self.call
        )
        self.index = 0

    def close(self) -> None:
        os.close(self.call)

    # --- the driver

    def address(self, offset: int) -> int:
        """Guest-physical address of an offset into the memory file."""
        return BASE + offset if offset < self.hole + 4096 else BASE + SIZE + offset - self.hole - 4096

    def ask(
        self,
        opcode: int,
        nodeid: int = 1,
        arguments: bytes = b"",
        *,
        data: bytes = b"",
        room: int = 0,
        data_room: int = 0,
        reply: bool = True,
        length: int | None = None,
        at: int = 0x10000,
        extensions: bytes = b"",
    ) -> Reply:
        """One request with `room` bytes for the reply's structure and `data_room` for its data. `extensions` follow
        the arguments, a multiple of 8 bytes."""
        self.unique += 2
        arguments += extensions
        total = FUSE_IN_HEADER.size + len(arguments) + len(data)
        header = FUSE_IN_HEADER.struct.pack(
            total if length is None else length,
            opcode,
            self.unique,
            nodeid,
            self.uid,
            self.gid,
            1,
            len(extensions) // 8,
            0,
        )
        readable = [header, arguments, data]
        writable = [FUSE_OUT_HEADER.size, room, data_room] if reply else []
        if not self.framing.sections:
            readable, writable = [b"".join(readable)], [sum(writable)]
        return self.submit(readable, writable, at)

    def submit(self, readable: Iterable[bytes], writable: Iterable[int], at: int = 0x10000) -> Reply:
        """One chain of these buffers, cut as the framing says."""
        buffers: list[tuple[int, int, int]] = []
        for section in readable:
            start = 0
            for size in self.framing.cut(len(section)):
                self.bytes[at : at + size] = section[start : start + size]
                buffers.append((self.address(at), size, 0))
                start += size
                at += size + self.framing.gap
        answers: list[tuple[int, int]] = []
        for length in writable:
            for size in self.framing.cut(length):
                self.bytes[at : at + size] = b"\xaa" * size
                buffers.append((self.address(at), size, WRITE))
                answers.append((at, size))
                at += size + self.framing.gap
        written = self.chain(buffers, at + 16 & ~15)
        return Reply(written, b"".join(self.bytes[start : start + size] for start, size in answers))

    def chain(self, buffers: list[tuple[int, int, int]], table: int = 0xF000) -> int:
        """Offers one chain of (address, length, flags) and returns the used ring's length."""
        descriptors = b"".join(
            struct.pack("<QIHH", address, size, flags | (NEXT if index + 1 < len(buffers) else 0), index + 1)
            for index, (address, size, flags) in enumerate(buffers)
        )
        if self.framing.indirect or len(buffers) > QUEUE_SIZE:
            self.bytes[table : table + len(descriptors)] = descriptors
            descriptors = struct.pack("<QIHH", self.address(table), len(descriptors), INDIRECT, 0)
        self.bytes[self.desc : self.desc + len(descriptors)] = descriptors
        slot = self.avail + 4 + 2 * (self.index % QUEUE_SIZE)
        self.bytes[slot : slot + 2] = struct.pack("<H", 0)
        self.index = (self.index + 1) & 0xFFFF
        self.bytes[self.avail + 2 : self.avail + 4] = struct.pack("<H", self.index)
        self.drain(self.queue)
        (used,) = struct.unpack_from("<H", self.bytes, self.used + 2)
        assert used == self.index or not self.counts_replies, "the chain was not given back"
        head, written = struct.unpack_from("<II", self.bytes, self.used + 4 + 8 * ((used - 1) % QUEUE_SIZE))
        assert head == 0
        return int(written)

    # --- the FUSE client

    def init(self, flags: int = 0xFFFF_FFFF_FFFF_FFFF, *, major: int = 7, minor: int = 41) -> fuse_init_out:
        body = FUSE_INIT_IN.struct.pack(major, minor, 131072, flags & 0xFFFF_FFFF, flags >> 32, b"")
        return FUSE_INIT_OUT.unpack(self.ask(FuseOpcode.FUSE_INIT, 0, body, room=FUSE_INIT_OUT.size).body)

    def lookup(self, name: bytes, parent: int = 1) -> fuse_entry_out:
        reply = self.ask(FuseOpcode.FUSE_LOOKUP, parent, name + b"\0", room=FUSE_ENTRY_OUT.size)
        return FUSE_ENTRY_OUT.unpack(reply.body)

    def getattr(self, node: int = 1) -> fuse_attr_out:
        body = FUSE_GETATTR_IN.struct.pack(0, 0, 0)
        return FUSE_ATTR_OUT.unpack(self.ask(FuseOpcode.FUSE_GETATTR, node, body, room=FUSE_ATTR_OUT.size).body)

    def open(self, node: int, flags: int = os.O_RDONLY, open_flags: int = 0) -> int:
        body = FUSE_OPEN_IN.struct.pack(flags, open_flags)
        reply = self.ask(FuseOpcode.FUSE_OPEN, node, body, room=FUSE_OPEN_OUT.size)
        return FUSE_OPEN_OUT.unpack(reply.body).fh

    def create(self, name: bytes, parent: int = 1, flags: int = os.O_RDWR, mode: int = 0o644) -> tuple[int, int]:
        """Node and handle of a new file."""
        body = FUSE_CREATE_IN.struct.pack(flags | os.O_CREAT, mode, 0, 0) + name + b"\0"
        reply = self.ask(FuseOpcode.FUSE_CREATE, parent, body, room=FUSE_ENTRY_OUT.size + FUSE_OPEN_OUT.size).body
        return FUSE_ENTRY_OUT.unpack(reply).nodeid, FUSE_OPEN_OUT.unpack(reply, FUSE_ENTRY_OUT.size).fh

    def read(self, node: int, handle: int, size: int, offset: int = 0, *, room: int | None = None) -> bytes:
        body = FUSE_READ_IN.struct.pack(handle, offset, size, 0, 0, 0, 0)
        return self.ask(FuseOpcode.FUSE_READ, node, body, data_room=size if room is None else room).body

    def write(
        self, node: int, handle: int, data: bytes, offset: int = 0, *, flags: int = 0, opened: int = os.O_RDWR
    ) -> int:
        body = FUSE_WRITE_IN.struct.pack(handle, offset, len(data), flags, 0, opened, 0)
        return int.from_bytes(self.ask(FuseOpcode.FUSE_WRITE, node, body, data=data, room=8).body[:4], "little")

    def release(self, node: int, handle: int, opcode: int = FuseOpcode.FUSE_RELEASE) -> None:
        assert self.ask(opcode, node, FUSE_RELEASE_IN.struct.pack(handle, 0, 0, 0)).body == b""

    def opendir(self, node: int = 1) -> int:
        body = FUSE_OPEN_IN.struct.pack(os.O_DIRECTORY, 0)
        reply = self.ask(FuseOpcode.FUSE_OPENDIR, node, body, room=FUSE_OPEN_OUT.size)
        return FUSE_OPEN_OUT.unpack(reply.body).fh

    def readdir(
        self, handle: int, node: int = 1, *, plus: bool = False, size: int = 512
    ) -> dict[bytes, tuple[int, int, int]]:
        """The whole directory, in as many requests as it takes: name → (node id or 0, inode number, type)."""
        found: dict[bytes, tuple[int, int, int]] = {}
        offset = 0
        while True:
            body = FUSE_READ_IN.struct.pack(handle, offset, size, 0, 0, 0, 0)
            opcode = FuseOpcode.FUSE_READDIRPLUS if plus else FuseOpcode.FUSE_READDIR
            reply = self.ask(opcode, node, body, data_room=size).body
            if not reply:
                return found
            at = 0
            while at < len(reply):
                nodeid = 0
                if plus:
                    nodeid = FUSE_ENTRY_OUT.unpack(reply, at).nodeid
                    at += FUSE_ENTRY_OUT.size
                dirent = FUSE_DIRENT.unpack(reply, at)
                name = reply[at + FUSE_DIRENT.size : at + FUSE_DIRENT.size + dirent.namelen]
                assert name not in found
                found[name] = (nodeid, dirent.ino, dirent.type)
                offset = dirent.off
                at += FUSE_DIRENT.size + dirent.namelen + 7 & ~7
