"""Fuzzes the FUSE dispatch and the ring with atheris: anything a guest may say, to both twins at once (see README.md).

An input is a sequence of requests or, after a first byte that is odd, of descriptor tables. Both twins get the same,
each over a share of its own; they must answer alike, and nothing may be raised or leave the share.
"""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["subos_devices.fs", "subos_devices.vhost_user", "subos_protocol"]):
    from subos_devices.fs.device import FsDevice
    from subos_devices.vhost_user import _ring, virtqueue
    from subos_devices.vhost_user.device import STATISTICS_SIZE, DeviceSpec, Worker
    from subos_devices.vhost_user.errors import TransportError

import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from child import Now, fuzz, main
from seeds import seeds

from support import fuse_requests
from support.contained import check_contained, contain
from support.fuse_requests import BASE, FRAMINGS, QUEUE_SIZE, Guest

REQUEST = struct.Struct("<BBBBH")  # opcode, node, framing, room, bytes that follow
NODES = (*range(12), 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1)
ROOMS = (0, 8, 16, 64, 80, 104, 128, 144, 256, 300, 1000, 4096, 5000, 70000, 0, 0)
TABLE = struct.Struct("<BHBBH")  # descriptor, length, flags, next, where
SECRET = b"what no guest may see"


class NoWorker(Worker):
    respawned = False
    kept = None
    sees_host = True

    def __init__(self) -> None:
        self.statistics = memoryview(bytearray(STATISTICS_SIZE))

    def watch(self, fd: int, callback: Callable[[], None]) -> None: ...

    def log(self, message: str) -> None: ...


class Twin:
    """A device of one twin over a share in `folder`, and its guest."""

    def __init__(self, folder: Path, queue: type) -> None:
        self.folder, self.root = folder, folder / "share"
        (folder / "outside").mkdir(parents=True)
        (folder / "outside/secret").write_bytes(SECRET)
        self.root.mkdir()
        fuse_requests.Virtqueue = queue  # type: ignore[misc]
        self.device = FsDevice(DeviceSpec("fs", "share", {"shared_dir": str(self.root)}))
        self.device.start(NoWorker())
        self.guest = Guest()
        self.guest.drain = self.device.process
        self.queue = queue
        self.device.queue_started(self.guest.queue)

    def begin(self) -> None:
        """The share, and what the guest knows, as at first."""
        for entry in os.scandir(self.root):
            shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
        (self.root / "folder").mkdir()
        (self.root / "folder/file").write_bytes(b"content" * 1000)
        (self.root / "link").symlink_to("../outside/secret")
        os.mkfifo(self.root / "fifo")
        self.guest.framing = FRAMINGS[0]
        self.guest.unique = 100
        self.guest.init()

    def ask(self, opcode: int, node: int, arguments: bytes, framing: int, room: int) -> tuple[int, ...] | str:
        """What both twins must agree on: whether and how long the reply is, and its errno."""
        self.guest.framing = FRAMINGS[framing]
        try:
            reply = self.guest.ask(opcode, node, arguments, room=room)
        except TransportError as error:  # more buffers than a chain may have
            self.again()
            return type(error).__name__
        if not reply.written:
            return (0,)
        assert reply.written == reply.length <= 16 + room, reply
        assert reply.unique == self.guest.unique
        assert 0 <= reply.error < 4096
        assert not reply.error or reply.written == 16
        assert SECRET not in reply.raw
        return reply.written, reply.error

    def chains(self, data: bytes) -> str:
        """Descriptors as they come; what became of them."""
        guest = self.guest
        guest.bytes[0x10000:0x10050] = data[:80].ljust(80, b"\0")
        for at, (index, length, flags, after, where) in enumerate(
            TABLE.iter_unpack(data[80:][: len(data[80:]) // 7 * 7])
        ):
            place = guest.desc if at % 2 else 0x14000  # the queue's own, or an indirect table
            address = BASE + 0x10000 + (where & 0xFFF) if where < 0xF000 else where << 48
            row = struct.pack("<QIHH", address if not flags & 4 else BASE + 0x14000, length, flags & 15, after)
            guest.bytes[place + 16 * index : place + 16 * index + 16] = row
        guest.index = guest.index + 1 & 0xFFFF
        slot = guest.avail + 4 + 2 * ((guest.index - 1) % QUEUE_SIZE)
        guest.bytes[slot : slot + 2] = data[:2].ljust(2, b"\0")
        guest.bytes[guest.avail + 2 : guest.avail + 4] = struct.pack("<H", guest.index)
        try:
            self.device.process(guest.queue)
        except TransportError as error:
            self.again()
            return type(error).__name__
        return guest.bytes[guest.used + 2 : guest.used + 4].hex()

    def again(self) -> None:
        """The queue has ended: the guest's driver sets it up anew."""
        guest = self.guest
        self.device.queue_stopped(guest.queue)
        guest.bytes[0:0xF000] = bytes(0xF000)
        guest.index = 0
        places = (BASE + guest.desc, BASE + guest.avail, BASE + guest.used)
        guest.queue = self.queue(1, QUEUE_SIZE, guest.memory, *places, call=guest.call)
        self.device.queue_started(guest.queue)

    def check(self) -> None:
        assert sorted(os.listdir(self.folder)) == ["outside", "share"]
        assert os.listdir(self.folder / "outside") == ["secret"]
        assert (self.folder / "outside/secret").read_bytes() == SECRET


def requests(data: bytes) -> Iterator[tuple[int, int, bytes, int, int]]:
    at = 0
    while at + REQUEST.size <= len(data):
        opcode, node, framing, room, length = REQUEST.unpack_from(data, at)
        at += REQUEST.size
        arguments = data[at : at + length % 4096]
        at += len(arguments)
        yield (
            opcode % 60,
            NODES[node % 16],
            arguments,
            framing % len(FRAMINGS),
            min(ROOMS[room % 16], 5000 if framing % 7 > 3 else 70000),
        )


class Harness:
    def __init__(self, folder: Path, now: Now) -> None:
        self.now = now
        self.twins = [Twin(folder / "plain", virtqueue.Virtqueue), Twin(folder / "compiled", _ring.Virtqueue)]

    def __call__(self, data: bytes) -> None:
        self.now.note(data)
        for twin in self.twins:
            twin.begin()
        if data[:1] and data[0] & 1:
            outcomes = [twin.chains(data[1:]) for twin in self.twins]
            assert outcomes[0] == outcomes[1], outcomes
            for twin in self.twins:
                twin.again()
        else:
            for request in requests(data[1:]):
                plain, compiled = (twin.ask(*request) for twin in self.twins)
                assert plain == compiled, f"{request}: {plain} as plain Python, {compiled} compiled"
        for twin in self.twins:
            twin.check()


def run(folder: Path, now: Now, arguments: list[str]) -> None:
    contain(folder)
    check_contained(folder)
    os.chdir(folder)
    fuzz(folder, Harness(folder, now), seeds(), arguments)


if __name__ == "__main__":
    sys.exit(main(run))
