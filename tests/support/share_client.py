"""A guest's program on a share: the requests that its kernel makes for it."""

from __future__ import annotations

import os

from subos_devices.testing.fuse import FuseClient
from subos_protocol.fuse import (
    FUSE_CREATE_IN,
    FUSE_ENTRY_OUT,
    FUSE_OPEN_IN,
    FUSE_OPEN_OUT,
    FUSE_READ_IN,
    FUSE_RELEASE_IN,
    FUSE_WRITE_IN,
)
from subos_protocol.fuse_opcodes import FuseOpcode


class ShareClient(FuseClient):
    """Nodes, handles and offsets are the server's own numbers."""

    def lookup(self, name: bytes, parent: int = 1) -> int:
        reply = self.request(FuseOpcode.FUSE_LOOKUP, parent, name + b"\0", reply=128)
        return FUSE_ENTRY_OUT.unpack(reply).nodeid

    def open(self, node: int, flags: int = os.O_RDONLY, opcode: FuseOpcode = FuseOpcode.FUSE_OPEN) -> int:
        return FUSE_OPEN_OUT.unpack(self.request(opcode, node, FUSE_OPEN_IN.struct.pack(flags, 0), reply=16)).fh

    def create(self, name: bytes) -> tuple[int, int]:
        body = FUSE_CREATE_IN.struct.pack(os.O_RDWR | os.O_CREAT, 0o644, 0, 0) + name + b"\0"
        reply = self.request(FuseOpcode.FUSE_CREATE, 1, body, reply=144)
        return FUSE_ENTRY_OUT.unpack(reply).nodeid, FUSE_OPEN_OUT.unpack(reply, 128).fh

    def read(self, node: int, handle: int, offset: int = 0, opcode: FuseOpcode = FuseOpcode.FUSE_READ) -> bytes:
        body = FUSE_READ_IN.struct.pack(handle, offset, 4096, 0, 0, 0, 0)
        return self.request(opcode, node, body, reply=4096)

    def write(self, node: int, handle: int, data: bytes, offset: int) -> None:
        body = FUSE_WRITE_IN.struct.pack(handle, offset, len(data), 0, 0, 0, 0)
        self.request(FuseOpcode.FUSE_WRITE, node, body, data, reply=8)

    def release(self, node: int, handle: int) -> None:
        self.request(FuseOpcode.FUSE_RELEASE, node, FUSE_RELEASE_IN.struct.pack(handle, 0, 0, 0))
