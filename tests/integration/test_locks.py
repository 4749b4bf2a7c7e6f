"""A request that waits for a lock, and what may happen to its worker and its ring meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from subos_devices.testing import DriverQueue, FrontEnd, NoAnswer, Pending, Supervised, supervise
from subos_devices.testing.fuse import FuseClient
from subos_protocol.fuse import (
    FUSE_ENTRY_OUT,
    FUSE_GETATTR_IN,
    FUSE_IN_HEADER,
    FUSE_LK_IN,
    FUSE_OPEN_IN,
    FUSE_OPEN_OUT,
    FUSE_OUT_HEADER,
)
from subos_protocol.fuse_opcodes import FuseInit, FuseOpcode
from support.waiting import eventually

ALL = FuseInit.FUSE_POSIX_LOCKS | FuseInit.FUSE_FLOCK_LOCKS


@dataclass
class Waiter:
    """A guest, one of whose requests waits for a lock that this process has on `path`."""

    supervised: Supervised
    vm: FrontEnd
    queue: DriverQueue
    client: FuseClient
    node: int
    pending: Pending
    path: Path
    fd: int

    def unlock(self) -> None:
        fcntl.lockf(self.fd, fcntl.LOCK_UN)

    def getattr(self) -> bytes:
        return self.client.request(FuseOpcode.FUSE_GETATTR, self.node, FUSE_GETATTR_IN.struct.pack(0, 0, 0), reply=104)

    def result(self) -> int:
        """The errno that the request that waited gets."""
        return -FUSE_OUT_HEADER.unpack(self.queue.wait(self.pending).buffers[0]).error

    def assert_it_waits(self) -> None:
        with pytest.raises(NoAnswer):
            self.queue.wait(self.pending, timeout=0.1)


@contextlib.contextmanager
def waiting(tmp_path: Path) -> Iterator[Waiter]:
    """A guest whose request waits."""
    path = tmp_path / "file"
    path.write_bytes(b"data")
    fd = os.open(path, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    with (
        supervise() as supervised,
        FrontEnd.connect(supervised.add("fs", shared_dir=str(tmp_path), locks="host")) as vm,
    ):
        queue = vm.queue(1, size=64)
        client = FuseClient(queue)
        assert client.init(flags=int(ALL)).flags == ALL
        node = FUSE_ENTRY_OUT.unpack(client.request(FuseOpcode.FUSE_LOOKUP, 1, b"file\0", reply=128)).nodeid
        opened = client.request(FuseOpcode.FUSE_OPEN, node, FUSE_OPEN_IN.struct.pack(os.O_RDWR, 0), reply=16)
        body = FUSE_LK_IN.struct.pack(FUSE_OPEN_OUT.unpack(opened).fh, 1, 0, (1 << 63) - 1, fcntl.F_WRLCK, 1, 0, 0)
        header = FUSE_IN_HEADER.struct.pack(40 + len(body), FuseOpcode.FUSE_SETLKW, 9999, node, 0, 0, 1, 0, 0)
        pending = queue.add([header, body], [FUSE_OUT_HEADER.size])
        queue.kick()
        waiter = Waiter(supervised, vm, queue, client, node, pending, path, fd)
        waiter.getattr()
        waiter.assert_it_waits()
        yield waiter
    os.close(fd)


def test_the_answer_comes_when_the_lock_is_free(tmp_path: Path) -> None:
    with waiting(tmp_path) as waiter:
        for _ in range(100):
            waiter.getattr()
        waiter.unlock()
        assert waiter.result() == 0
        with pytest.raises(BlockingIOError):
            fcntl.lockf(waiter.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_new_memory_table_and_a_pause(tmp_path: Path) -> None:
    """The ring is made anew each time, and goes on where it was."""
    with waiting(tmp_path) as waiter:
        waiter.vm.set_memory()
        waiter.getattr()
        waiter.vm.enable(waiter.queue, False)
        waiter.vm.enable(waiter.queue, True)
        waiter.getattr()
        base = waiter.vm.stop(waiter.queue)
        assert base == waiter.queue.used_index + 1
        waiter.unlock()
        waiter.vm.start(waiter.queue, base=base)
        assert waiter.result() == 0
        waiter.getattr()


def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    """The next one goes on waiting, and gets the lock."""
    with waiting(tmp_path) as waiter:
        for _ in range(3):
            waiter.getattr()
        for _ in range(2):
            os.kill(waiter.supervised.status()["pid"], signal.SIGKILL)
            waiter.getattr()
        waiter.assert_it_waits()
        waiter.unlock()
        assert waiter.result() == 0
        with pytest.raises(BlockingIOError):
            fcntl.lockf(waiter.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.kill(waiter.supervised.status()["pid"], signal.SIGKILL)
        with pytest.raises(BlockingIOError):
            fcntl.lockf(waiter.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        waiter.getattr()


def test_a_worker_that_dies_while_its_ring_is_taken_back(tmp_path: Path) -> None:
    with waiting(tmp_path) as waiter:
        pid = waiter.supervised.status()["pid"]
        os.kill(pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        base = waiter.vm.stop(waiter.queue)
        assert base - waiter.queue.used_index == 1
        waiter.vm.start(waiter.queue, base=base)
        waiter.unlock()
        assert waiter.result() == 0


def test_a_guest_that_is_reset(tmp_path: Path) -> None:
    """Its old requests are gone, and the lock that one of them waited for is nobody's."""
    with waiting(tmp_path) as waiter:
        waiter.vm.reboot()
        waiter.client.init(flags=int(ALL))
        for _ in range(200):
            waiter.client.request(FuseOpcode.FUSE_GETATTR, 1, FUSE_GETATTR_IN.struct.pack(0, 0, 0), reply=104)
        waiter.unlock()
        fcntl.lockf(waiter.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert waiter.supervised.status()["faults"] == 0
        assert waiter.supervised.status()["restarts"] == 0


def test_a_guest_that_is_reset_while_there_is_no_worker(tmp_path: Path) -> None:
    with waiting(tmp_path) as waiter:
        os.kill(waiter.supervised.status()["pid"], signal.SIGSTOP)
        os.kill(waiter.supervised.status()["pid"], signal.SIGKILL)
        waiter.vm.reboot()
        waiter.client.init()
        for _ in range(200):
            waiter.client.request(FuseOpcode.FUSE_GETATTR, 1, FUSE_GETATTR_IN.struct.pack(0, 0, 0), reply=104)
        assert waiter.supervised.status()["faults"] == 0


def test_a_chain_that_its_driver_breaks_while_it_waits(tmp_path: Path) -> None:
    """The ring is over, and the device is not."""
    with waiting(tmp_path) as waiter:
        table = waiter.pending.table
        assert table is not None
        waiter.vm.ram.write(table[0], b"\xff" * 8)
        waiter.unlock()
        eventually(lambda: waiter.supervised.status()["faults"] == 1)
        waiter.vm.reboot()
        waiter.client.init()
        assert waiter.supervised.status()["restarts"] == 0
