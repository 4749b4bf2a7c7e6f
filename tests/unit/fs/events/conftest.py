"""A share with file events, served in this process; the test is the guest's kernel, and its agent."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from subos_devices.fs.device import FsDevice
from subos_devices.fs.lasting import Lasting
from subos_devices.vhost_user.device import STATISTICS_SIZE, DeviceSpec, Worker
from subos_devices.vhost_user.virtqueue import Virtqueue
from subos_protocol.file_events import (
    MAX_PACKET,
    STARTED,
    Replay,
    looking,
    pack_attached,
    pack_results,
    token,
    unpack_replays,
)
from subos_protocol.fuse_opcodes import FuseOpcode
from support.fuse_requests import LINUX, Framing, Guest, Reply


class PolledWorker(Worker):
    """Calls back when it is polled."""

    sees_host = True
    respawned = False

    def __init__(self, kept: Lasting | None = None) -> None:
        self.kept = kept
        self.statistics = memoryview(bytearray(STATISTICS_SIZE))
        self.callbacks: dict[int, Callable[[], None]] = {}
        self.said: list[str] = []

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        assert fd not in self.callbacks
        self.callbacks[fd] = callback

    def unwatch(self, fd: int) -> None:
        del self.callbacks[fd]

    def kick(self, queue: Virtqueue) -> None:
        raise AssertionError("nothing waits here")

    def log(self, message: str) -> None:
        self.said.append(message)

    def poll(self, seconds: float = 0.0) -> bool:
        """False where nothing happened."""
        poll = select.poll()
        for fd in self.callbacks:
            poll.register(fd, select.POLLIN)
        ready = poll.poll(seconds * 1000)
        for fd, _events in ready:
            callback = self.callbacks.get(fd)
            if callback is not None:
                callback()
        return bool(ready)


class Followed:
    """A share, its device with file events, and a guest that has said FUSE_INIT."""

    def __init__(self, root: Path, framing: Framing = LINUX, **options: str | bool) -> None:
        self.root = root
        self.kept = Lasting(1 << 16)
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.spec = DeviceSpec("fs", "share", {"shared_dir": str(root), **options}, {"events": theirs.detach()})
        self.guest = Guest(framing)
        self._start()
        self.guest.init()
        self.channel.setblocking(False)

    def _start(self) -> None:
        self.worker = PolledWorker(self.kept)
        self.device = FsDevice(self.spec)
        self.device.start(self.worker)
        self.device.queue_started(self.guest.queue)
        self.guest.drain = self.device.process
        assert self.channel.recv(MAX_PACKET) == STARTED

    def die(self) -> None:
        """Its worker is another one from now on. What the one before had for itself is closed, as its table is where
        this one's is not."""
        events, share = self.events, self.device.server.share
        for fd in (share.proc, share.descriptors._mount, events._watched.fd if events._watched else None):
            if fd is not None:
                os.close(fd)
        events._channel.detach()
        self.worker.callbacks.clear()
        self._start()

    @property
    def events(self) -> Any:
        return self.device.events

    def attach(self, attached: bool = True) -> None:
        self.channel.send(pack_attached(attached))
        self.settle()

    def settle(self) -> None:
        """Until nothing more happens by itself."""
        while self.worker.poll(0.02):
            pass

    def host(self, script: str, *arguments: str) -> None:
        """Another process changes things; `script` is Python, in the share's folder."""
        subprocess.run([sys.executable, "-S", "-c", "import os, sys\n" + script, *arguments], cwd=self.root, check=True)

    def replays(self) -> list[Replay]:
        """What the agent is told to do now."""
        self.settle()
        found: list[Replay] = []
        while True:
            try:
                found += unpack_replays(self.channel.recv(MAX_PACKET))
            except BlockingIOError:
                return found

    def done(self, *replays: Replay, status: int = 0) -> None:
        """The agent has done them."""
        for packet in pack_results([(replay.number, status) for replay in replays]):
            self.channel.send(packet)
        self.settle()

    @contextmanager
    def as_group(self, gid: int) -> Iterator[Guest]:
        before, self.guest.gid = self.guest.gid, gid
        try:
            yield self.guest
        finally:
            self.guest.gid = before

    def ask(
        self, replay: Replay, opcode: FuseOpcode, node: int, arguments: bytes, room: int = 0, *, look: bool = False
    ) -> Reply:
        """A request of the guest's kernel while its agent performs `replay`, or looks."""
        with self.as_group((looking if look else token)(replay.number)) as guest:
            return guest.ask(opcode, node, arguments, room=room)

    def close(self) -> None:
        self.device.queue_stopped(self.guest.queue)
        self.device.close()
        self.guest.close()
        self.channel.close()


@pytest.fixture
def follow(root: Path) -> Iterator[Callable[..., Followed]]:
    """`follow(**options)` is a share with an agent attached."""
    running: list[Followed] = []

    def begin(framing: Framing = LINUX, **options: str | bool) -> Followed:
        running.append(Followed(root, framing, **options))
        running[-1].attach()
        return running[-1]

    yield begin
    for followed in running:
        followed.close()


@pytest.fixture
def share(follow: Callable[..., Followed]) -> Followed:
    return follow()


def tree_of(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything that a change of the host's files would change."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        attributes = sorted(os.listxattr(path, follow_symlinks=False))
        about = status.st_mode, status.st_ino, status.st_uid, status.st_gid, status.st_nlink, status.st_size
        found[str(path)] = (*about, status.st_mtime_ns, status.st_ctime_ns, content, attributes)
    return found
