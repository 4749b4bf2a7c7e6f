"""The worker of a share is killed, in its jail and with its keeper: what its guest had open is open in the next one."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from subos_devices.fs.lasting import Lasting
from subos_devices.supervisor import restarts
from subos_devices.supervisor.restarts import BRIEF
from subos_devices.testing import FrontEnd, Supervised, supervise
from subos_protocol.fuse import (
    FUSE_DIRENT,
    FUSE_GETATTR_IN,
    FUSE_LK_IN,
    FUSE_READ_IN,
)
from subos_protocol.fuse_opcodes import FuseInit, FuseOpcode
from support.processes import descriptors
from support.share_client import ShareClient
from support.waiting import eventually


class Served(NamedTuple):
    supervised: Supervised
    client: ShareClient

    def kill(self) -> None:
        """Kills the worker once its life was worth the name, and waits for the next one to answer."""
        time.sleep(BRIEF)
        pid = self.pid()
        os.kill(pid, signal.SIGKILL)
        self.client.request(FuseOpcode.FUSE_GETATTR, 1, FUSE_GETATTR_IN.struct.pack(0, 0, 0), reply=104)
        assert self.pid() != pid

    def pid(self) -> int:
        return int(eventually(lambda: self.supervised.status()["pid"]))


@contextmanager
def serving(folder: Path, **options: str) -> Iterator[Served]:
    with (
        supervise() as supervised,
        FrontEnd.connect(supervised.add("fs", shared_dir=str(folder), **options), timeout=20) as vm,
    ):
        client = ShareClient(vm.queue(1, size=64))
        client.init(flags=int(FuseInit.FUSE_POSIX_LOCKS | FuseInit.FUSE_FLOCK_LOCKS))
        yield Served(supervised, client)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shared = tmp_path / "share"
    shared.mkdir()
    return shared


def test_open_files_and_a_directory_half_read(folder: Path) -> None:
    for index in range(500):
        (folder / f"file{index}").write_bytes(b"%d" % index)
    with serving(folder) as served:
        node = served.client.lookup(b"file7")
        reading = served.client.open(node)
        written, writing = served.client.create(b"written")
        gone, unlinked = served.client.create(b"gone")
        served.client.write(gone, unlinked, b"without a name", 0)
        served.client.request(FuseOpcode.FUSE_UNLINK, 1, b"gone\0")
        directory, names, offset = served.client.open(1, os.O_DIRECTORY, FuseOpcode.FUSE_OPENDIR), [], 0
        for turn in range(6):
            served.kill()
            assert served.client.read(node, reading) == b"7"
            served.client.write(written, writing, b"%d" % turn, turn)
            assert served.client.read(gone, unlinked) == b"without a name"
            data, at = served.client.read(1, directory, offset, FuseOpcode.FUSE_READDIR), 0
            while at < len(data):
                entry = FUSE_DIRENT.unpack(data, at)
                names.append(data[at + FUSE_DIRENT.size : at + FUSE_DIRENT.size + entry.namelen])
                offset = entry.off
                at += FUSE_DIRENT.size + entry.namelen + 7 & ~7
        assert (folder / "written").read_bytes() == b"012345"
        assert sorted(names) == sorted([b".", b"..", b"written", *(b"file%d" % index for index in range(500))])
        assert served.supervised.status()["restarts"] == 6


def open_in(pid: int) -> list[str]:
    """What a worker has open, whatever its own number is."""
    return [re.sub(r"^/proc/\d+", "/proc/self", name) for name in descriptors(pid)]


def test_no_descriptor_is_left_behind(folder: Path) -> None:
    with serving(folder) as served:
        served.client.create(b"kept")
        served.kill()
        before = open_in(served.pid())
        for index in range(4):
            node, handle = served.client.create(b"file%d" % index)
            served.kill()
            served.client.release(node, handle)
        served.kill()
        assert open_in(served.pid()) == before


def test_a_lock_of_the_guest_holds_all_the_while(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"data")
    with serving(folder, locks="host") as served, path.open("r+b") as here:
        node = served.client.lookup(b"file")
        handle = served.client.open(node, os.O_RDWR)
        body = FUSE_LK_IN.struct.pack(handle, 1, 0, (1 << 63) - 1, fcntl.F_WRLCK, 1, 0, 0)
        served.client.request(FuseOpcode.FUSE_SETLK, node, body)
        os.kill(served.pid(), signal.SIGKILL)
        for _ in range(300):
            with pytest.raises(BlockingIOError):
                fcntl.lockf(here, fcntl.LOCK_EX | fcntl.LOCK_NB)
        served.kill()
        with pytest.raises(BlockingIOError):
            fcntl.lockf(here, fcntl.LOCK_EX | fcntl.LOCK_NB)
        served.client.release(node, handle)
        fcntl.lockf(here, fcntl.LOCK_EX | fcntl.LOCK_NB)


@dataclass
class Coming:
    """One VM after the other, with the same share."""

    supervised: Supervised
    path: Path
    file: Path

    def session(self) -> Iterator[Served]:
        """A VM that has a file locked, and others open, until it ends without a word."""
        with FrontEnd.connect(self.path, timeout=20) as vm:
            client = ShareClient(vm.queue(1, size=64))
            client.init(flags=int(FuseInit.FUSE_POSIX_LOCKS | FuseInit.FUSE_FLOCK_LOCKS))
            served = Served(self.supervised, client)
            node = served.client.lookup(b"file")
            handle = served.client.open(node, os.O_RDWR)
            served.client.create(b"other")
            served.client.open(1, os.O_DIRECTORY, FuseOpcode.FUSE_OPENDIR)
            body = FUSE_LK_IN.struct.pack(handle, 1, 0, (1 << 63) - 1, fcntl.F_WRLCK, 1, 0, 0)
            client.request(FuseOpcode.FUSE_SETLK, node, body)
            assert not self.lock_is_free()
            yield served

    def lock_is_free(self) -> bool:
        with self.file.open("r+b") as here:
            try:
                fcntl.lockf(here, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def check_the_next_finds_nothing(self) -> None:
        """Not even one that begins no session of its own."""
        with FrontEnd.connect(self.path, timeout=20) as vm:
            client = ShareClient(vm.queue(1, size=64))
            assert self.lock_is_free()
            for opcode, arguments, room in (
                (FuseOpcode.FUSE_GETATTR, FUSE_GETATTR_IN.struct.pack(0, 0, 0), 104),
                (FuseOpcode.FUSE_READ, FUSE_READ_IN.struct.pack(1, 0, 4096, 0, 0, 0, 0), 4096),
            ):
                with pytest.raises(OSError, match="not connected"):
                    client.request(opcode, 2, arguments, reply=room)
            client.init()
            assert client.lookup(b"file")


@pytest.fixture
def coming(folder: Path) -> Iterator[Coming]:
    (folder / "file").write_bytes(b"data")
    with supervise() as supervised:
        yield Coming(supervised, supervised.add("fs", shared_dir=str(folder), locks="host"), folder / "file")


def test_what_a_vm_had_goes_with_it(coming: Coming) -> None:
    before = open_in(int(coming.supervised.status()["pid"]))
    for served in coming.session():
        worker = served.pid()
    eventually(coming.lock_is_free)
    assert open_in(worker) == before
    coming.check_the_next_finds_nothing()
    assert coming.supervised.status()["restarts"] == 0


@pytest.mark.parametrize("first", ["worker", "vm"])
def test_what_a_vm_had_goes_with_it_though_its_worker_dies(coming: Coming, first: str) -> None:
    """Before its end, or over it."""
    for served in coming.session():
        time.sleep(BRIEF)
        os.kill(served.pid(), signal.SIGKILL if first == "worker" else signal.SIGSTOP)
        if first == "vm":
            threading.Timer(0.5, os.kill, (served.pid(), signal.SIGKILL)).start()
    eventually(coming.lock_is_free)
    coming.check_the_next_finds_nothing()


def test_what_a_vm_had_goes_with_it_while_there_is_no_worker(coming: Coming, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "BACKOFF", (2.0,) * 6)
    for served in coming.session():
        os.kill(served.pid(), signal.SIGKILL)
        eventually(lambda: coming.supervised.status()["restarts"] == 1)
    eventually(coming.lock_is_free, timeout=1.5)
    coming.check_the_next_finds_nothing()


def test_a_keeper_that_is_killed_takes_all_along(folder: Path) -> None:
    """The guest is told that nothing is known any more, and may begin anew."""
    with serving(folder) as served:
        node, handle = served.client.create(b"file")
        keeper = served.supervised.status()["keeper"]
        os.kill(keeper, signal.SIGKILL)
        eventually(lambda: served.supervised.status()["keeper"] not in (None, keeper))
        with pytest.raises(OSError, match="not connected"):
            served.client.write(node, handle, b"lost", 0)
        served.client.init()
        assert served.client.lookup(b"file")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write to a worker's memory")
def test_a_circle_in_what_was_kept_costs_its_guest_no_more_than_the_session(folder: Path) -> None:
    """A worker in a guest's hands has left it there."""
    for name in ("file", "other"):
        (folder / name).touch()
    with serving(folder) as served:
        node = served.client.lookup(b"file")
        layout = Lasting()
        begin = next(
            int(line.partition("-")[0], 16)
            for line in Path(f"/proc/{served.pid()}/maps").read_text().splitlines()
            if line.endswith("/dev/zero (deleted)") and _length(line) == len(layout._memory)
        )
        with open(f"/proc/{served.pid()}/mem", "r+b", buffering=0) as memory:
            for column, index, count in (("heads", 0, 64), ("links", node, 1)):
                memory.seek(begin + layout._places[column][0] + 4 * index)
                memory.write(node.to_bytes(4, "little") * count)
        os.kill(served.pid(), signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(OSError, match="not connected"):
            served.client.lookup(b"other")
        served.client.init()
        assert served.client.lookup(b"other")
        assert time.monotonic() - began < 10
        assert served.supervised.status()["restarts"] == 2


def _length(line: str) -> int:
    """Of a mapping."""
    begin, _, end = line.split()[0].partition("-")
    return int(end, 16) - int(begin, 16)
