"""A share in a temporary directory, served to a guest in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from subos_devices.fs import syscalls
from subos_devices.fs.device import FsDevice
from subos_devices.fs.lasting import Lasting
from subos_devices.vhost_user.device import STATISTICS_SIZE, DeviceSpec, Worker
from subos_devices.vhost_user.virtqueue import Virtqueue
from support import fuse_requests
from support.fuse_requests import LINUX, Framing, Guest
from support.variants import variants

Serve = Callable[..., Guest]
QUEUES = variants("subos_devices.vhost_user.virtqueue", "subos_devices.vhost_user._ring", "Virtqueue")


class NoWorker(Worker):
    sees_host = True

    def __init__(self, kept: Lasting | None = None, *, respawned: bool = False) -> None:
        self.kept = kept
        self.respawned = respawned
        self.statistics = memoryview(bytearray(STATISTICS_SIZE))
        self.device: FsDevice

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Only ended waits for locks are watched for; the tests of those call it themselves."""
        self.callback = callback

    def unwatch(self, fd: int) -> None:
        raise AssertionError("fs watches on")

    def kick(self, queue: Virtqueue) -> None:
        self.device.process(queue)

    def log(self, message: str) -> None:
        raise AssertionError(message)


def start(root: Path, framing: Framing = LINUX, **options: str | bool) -> tuple[FsDevice, Guest]:
    """A device that serves `root`, and a guest that has not said FUSE_INIT yet."""
    device = FsDevice(DeviceSpec("fs", "share", {"shared_dir": str(root), **options}))
    worker = NoWorker()
    worker.device = device
    device.start(worker)
    guest = Guest(framing)
    guest.worker = worker
    device.queue_started(guest.queue)
    guest.drain = device.process
    return device, guest


@pytest.fixture(autouse=True, params=[*QUEUES])
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test runs over the plain ring and operations, and over the compiled ones. A device takes its process for
    its own, umask and securebits: this one's are as they were afterwards, for the programs that other tests start."""
    monkeypatch.setattr(fuse_requests, "Virtqueue", QUEUES[request.param])
    umask, securebits = os.umask(0o22), syscalls.securebits()
    yield
    os.umask(umask)
    if syscalls.securebits() != securebits:
        syscalls.set_securebits(securebits)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "share"
    folder.mkdir()
    return folder


@pytest.fixture
def serve(root: Path) -> Iterator[Serve]:
    """`serve(**options)` is a guest that has said FUSE_INIT."""
    running: list[tuple[FsDevice, Guest]] = []

    def begin(framing: Framing = LINUX, **options: str | bool) -> Guest:
        device, guest = start(root, framing, **options)
        running.append((device, guest))
        guest.init()
        return guest

    yield begin
    for device, guest in running:
        device.queue_stopped(guest.queue)
        device.close()
        guest.close()


@pytest.fixture
def guest(serve: Serve) -> Guest:
    return serve()
