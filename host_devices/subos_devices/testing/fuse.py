"""A FUSE client over a driver's queue: what a guest's kernel says to a virtio-fs device.

client = FuseClient(vm.queue(1))
client.init()
client.request(FuseOpcode.FUSE_GETATTR, 1, FUSE_GETATTR_IN.pack(...), reply=104)
"""

from __future__ import annotations

import os
from itertools import count

from subos_protocol.fuse import (
    FUSE_IN_HEADER,
    FUSE_INIT_IN,
    FUSE_INIT_OUT,
    FUSE_OUT_HEADER,
    fuse_in_header,
    fuse_init_in,
    fuse_init_out,
)
from subos_protocol.fuse_opcodes import FuseOpcode

from .driver_queue import DriverQueue
from .errors import DeviceFault


class FuseClient:
    """Speaks FUSE on `queue`, in the name of `uid`, `gid` and `pid`."""

    def __init__(self, queue: DriverQueue, *, uid: int = 0, gid: int = 0, pid: int = 1) -> None:
        self.queue = queue
        self._identity = (uid, gid, pid)
        self._unique = count(2, 2)

    def init(self, *, major: int = 7, minor: int = 38, max_readahead: int = 0x20000, flags: int = 0) -> fuse_init_out:
        """FUSE_INIT; what the device answered. `flags` is the 64-bit set, both words."""
        question = fuse_init_in(major, minor, max_readahead, flags & 0xFFFF_FFFF, flags >> 32, bytes(44))
        return FUSE_INIT_OUT.unpack(self.request(FuseOpcode.FUSE_INIT, 0, FUSE_INIT_IN.pack(question), reply=64))

    def request(self, opcode: int, node: int, *payload: bytes, reply: int = 0) -> bytes:
        """The reply's bytes after its header, at most `reply`. Each of `payload` is a buffer. Raises OSError with
        the errno that the device answered."""
        unique = next(self._unique)
        length = FUSE_IN_HEADER.size + sum(map(len, payload))
        header = FUSE_IN_HEADER.pack(fuse_in_header(length, opcode, unique, node, *self._identity, 0, 0))
        room = [FUSE_OUT_HEADER.size, reply] if reply else [FUSE_OUT_HEADER.size]
        data = b"".join(self.queue.request([header, *(part for part in payload if part)], room))
        answer = FUSE_OUT_HEADER.unpack(data)
        if answer.unique != unique or answer.len != len(data):
            raise DeviceFault(f"FUSE request {unique} got {answer}, {len(data)} bytes")
        if answer.error:
            raise OSError(-answer.error, os.strerror(-answer.error), FuseOpcode(opcode).name)
        return data[FUSE_OUT_HEADER.size :]
