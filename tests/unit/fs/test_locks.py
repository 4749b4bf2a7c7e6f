"""locks=host: the guest's locks and this host's processes' are in each other's way; waits end as they should."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import select
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from subos_devices.errors import UserError
from subos_devices.fs.device import FsDevice
from subos_devices.fs.locks import OFFSET_MAX
from subos_devices.vhost_user.device import DeviceSpec
from subos_protocol.fuse import (
    FUSE_FLUSH_IN,
    FUSE_IN_HEADER,
    FUSE_INTERRUPT_IN,
    FUSE_LK_IN,
    FUSE_LK_OUT,
    FUSE_OPEN_IN,
    FUSE_OPEN_OUT,
    FUSE_OUT_HEADER,
    FUSE_RELEASE_IN,
)
from subos_protocol.fuse_opcodes import (
    FUSE_LK_FLOCK,
    FUSE_RELEASE_FLOCK_UNLOCK,
    FuseInit,
    FuseOpcode,
    FuseOpened,
)
from support.fuse_requests import INDIRECT, NEXT, QUEUE_SIZE, WRITE, Guest, Refused

from .conftest import Serve

READ, WRITES, UNLOCK = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
ALICE, BOB = 0xA11CE << 40, 0xB0B << 40
TIMEOUT = 10.0  # seconds for what ends by itself


class Locker:
    """The guest's kernel as far as locks go: one file, open twice."""

    def __init__(self, guest: Guest, root: Path) -> None:
        self.guest, self.path = guest, root / "file"
        self.path.write_bytes(b"0123456789")
        self.node = guest.lookup(b"file").nodeid
        self.one, self.two = guest.open(self.node, os.O_RDWR), guest.open(self.node, os.O_RDWR)
        self.device: FsDevice = guest.worker.device
        self.slots = iter(range(1, QUEUE_SIZE))

    def arguments(
        self, owner: int, kind: int, start: int, end: int, flock: bool = False, handle: int | None = None
    ) -> bytes:
        flags = FUSE_LK_FLOCK if flock else 0
        return FUSE_LK_IN.struct.pack(handle or self.one, owner, start, end, kind, 4242, flags, 0)

    def set(
        self, owner: int, kind: int, start: int = 0, end: int = OFFSET_MAX, *, flock: bool = False, handle: int = 0
    ) -> None:
        """Raises Refused with the errno."""
        body = self.arguments(owner, kind, start, end, flock, handle)
        assert self.guest.ask(FuseOpcode.FUSE_SETLK, self.node, body).body == b""

    def get(self, owner: int, kind: int, start: int = 0, end: int = OFFSET_MAX) -> tuple[int, int, int, int]:
        """Start, end, type, pid of what is in the way."""
        body = self.arguments(owner, kind, start, end)
        return FUSE_LK_OUT.unpack(self.guest.ask(FuseOpcode.FUSE_GETLK, self.node, body, room=FUSE_LK_OUT.size).body)

    def flush(self, owner: int, handle: int = 0) -> None:
        body = FUSE_FLUSH_IN.struct.pack(handle or self.one, 0, 0, owner)
        assert self.guest.ask(FuseOpcode.FUSE_FLUSH, self.node, body).error == 0

    def release(self, handle: int, flags: int = 0) -> None:
        body = FUSE_RELEASE_IN.struct.pack(handle, 0, flags, 0)
        assert self.guest.ask(FuseOpcode.FUSE_RELEASE, self.node, body).error == 0

    # --- waiting

    def wait(self, owner: int, kind: int, *, flock: bool = False, handle: int = 0, unique: int = 0) -> Waiting:
        """Begins a SETLKW, in a chain of its own."""
        return Waiting(self, self.arguments(owner, kind, 0, OFFSET_MAX, flock, handle), unique)

    def settle(self) -> None:
        """Waits until some wait has ended, and has the device look at what it means."""
        assert select.select([self.device.server.locks.waiters.ended], [], [], TIMEOUT)[0]  # type: ignore[union-attr]
        self.guest.worker.callback()


class Waiting:
    """One SETLKW that may be answered later."""

    def __init__(self, locker: Locker, body: bytes, unique: int) -> None:
        guest = self.guest = locker.guest
        self.locker = locker
        slot = next(locker.slots)
        self.unique = unique or 1_000_000 + 2 * slot
        at = 0x20000 + 0x400 * slot
        header = FUSE_IN_HEADER.struct.pack(
            FUSE_IN_HEADER.size + len(body), FuseOpcode.FUSE_SETLKW, self.unique, locker.node, 0, 0, 1, 0, 0
        )
        guest.bytes[at : at + len(header)] = header
        guest.bytes[at + 64 : at + 64 + len(body)] = body
        self.reply = at + 128
        guest.bytes[self.reply : self.reply + 16] = bytes(16)
        table = b"".join(
            struct.pack("<QIHH", guest.address(where), size, flags, index + 1)
            for index, (where, size, flags) in enumerate(
                [(at, len(header), NEXT), (at + 64, len(body), NEXT), (self.reply, FUSE_OUT_HEADER.size, WRITE)]
            )
        )
        guest.bytes[at + 256 : at + 256 + len(table)] = table
        entry = struct.pack("<QIHH", guest.address(at + 256), len(table), INDIRECT, 0)
        guest.bytes[guest.desc + 16 * slot : guest.desc + 16 * (slot + 1)] = entry
        place = guest.avail + 4 + 2 * (guest.index % QUEUE_SIZE)
        guest.bytes[place : place + 2] = struct.pack("<H", slot)
        guest.index = (guest.index + 1) & 0xFFFF
        guest.bytes[guest.avail + 2 : guest.avail + 4] = struct.pack("<H", guest.index)
        guest.drain(guest.queue)

    @property
    def errno(self) -> int | None:
        """What it was answered, or None while it waits."""
        length, error, unique = FUSE_OUT_HEADER.struct.unpack_from(self.guest.bytes, self.reply)
        if not length:
            return None
        assert (length, unique) == (FUSE_OUT_HEADER.size, self.unique)
        return -int(error)

    def result(self) -> int:
        """Its errno, waited for."""
        while self.errno is None:
            self.locker.settle()
        assert self.errno is not None
        return self.errno


@pytest.fixture
def locker(serve: Serve, root: Path) -> Locker:
    guest = serve(locks="host")
    guest.counts_replies = False
    return Locker(guest, root)


class Stranger:
    """A process of the host's. `do` runs one line of Python in it, where `file` is the file, and returns "ok" or
    the errno's name."""

    PROGRAM = """
import errno, fcntl, sys
file = open(sys.argv[1], "r+b", buffering=0)
for line in sys.stdin:
    try:
        exec(line)
        print("ok", flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
"""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-S", "-c", self.PROGRAM, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, line: str) -> str:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def lock(self, kind: str = "EX", length: int = 0, start: int = 0) -> str:
        return self.do(f"fcntl.lockf(file, fcntl.LOCK_{kind} | fcntl.LOCK_NB, {length}, {start})")

    def unlock(self) -> str:
        return self.do("fcntl.lockf(file, fcntl.LOCK_UN)")

    def flock(self, kind: str) -> str:
        return self.do(f"fcntl.flock(file, fcntl.LOCK_{kind} | fcntl.LOCK_NB)")


@pytest.fixture
def stranger(locker: Locker) -> Iterator[Stranger]:
    stranger = Stranger(locker.path)
    yield stranger
    stranger.process.stdin.close()  # type: ignore[union-attr]
    stranger.process.wait(TIMEOUT)
    stranger.process.stdout.close()  # type: ignore[union-attr]


def refused(call: Callable[[], object]) -> int:
    with pytest.raises(Refused) as caught:
        call()
    assert caught.value.errno is not None
    return caught.value.errno


def descriptors() -> int:
    gc.collect()  # what earlier tests left behind must not go in between
    return len(os.listdir("/proc/self/fd"))


# --- who is in whose way


def test_two_owners(locker: Locker) -> None:
    before = descriptors()
    locker.set(ALICE, WRITES, 0, 9)
    assert refused(lambda: locker.set(BOB, READ, 5, 5)) == errno.EAGAIN
    locker.set(BOB, WRITES, 10, 19)
    assert locker.get(BOB, READ) == (0, 9, WRITES, 4242)
    assert locker.get(ALICE, READ, 0, 9) == (0, 9, UNLOCK, 0)
    locker.set(ALICE, UNLOCK, 0, OFFSET_MAX)
    locker.set(BOB, WRITES, 0, 9)
    locker.flush(BOB)
    locker.set(ALICE, WRITES)
    locker.flush(ALICE)
    assert descriptors() == before


def test_a_process_of_the_host_s(locker: Locker, stranger: Stranger) -> None:
    assert stranger.lock(length=10) == "ok"
    assert refused(lambda: locker.set(ALICE, WRITES, 9, 9)) == errno.EAGAIN
    assert locker.get(ALICE, READ) == (0, 9, WRITES, 0)
    locker.set(ALICE, WRITES, 10, 20)
    assert stranger.lock(length=30) == "EAGAIN"
    stranger.unlock()
    locker.set(ALICE, READ)
    assert stranger.lock("SH") == "ok"
    assert stranger.lock("EX") == "EAGAIN"
    locker.flush(ALICE)
    assert stranger.lock("EX") == "ok"


def test_locks_are_upgraded_downgraded_and_split(locker: Locker, stranger: Stranger) -> None:
    locker.set(ALICE, READ, 0, 99)
    assert stranger.lock("SH", 100) == "ok"
    stranger.unlock()
    locker.set(ALICE, WRITES, 0, 99)
    assert stranger.lock("SH", 100) == "EAGAIN"
    locker.set(ALICE, UNLOCK, 40, 59)
    assert stranger.lock("EX", 20, 40) == "ok"
    assert stranger.lock("SH", 1, 39) == "EAGAIN"
    assert stranger.lock("SH", 1, 60) == "EAGAIN"
    locker.set(ALICE, READ, 0, 39)
    assert stranger.lock("SH", 40) == "ok"
    assert locker.get(BOB, WRITES, 60, 70) == (60, 99, WRITES, 4242)


def test_flushing_drops_one_owner_s_locks(locker: Locker, stranger: Stranger) -> None:
    locker.set(ALICE, WRITES, 0, 0)
    locker.set(BOB, WRITES, 1, 1)
    locker.flush(ALICE, locker.two)  # any of its handles of the file
    assert stranger.lock("EX", 1, 0) == "ok"
    assert stranger.lock("EX", 1, 1) == "EAGAIN"
    locker.flush(BOB + 1)
    assert stranger.lock("EX", 1, 1) == "EAGAIN"


def test_releasing_drops_what_was_locked_through_the_handle(locker: Locker, stranger: Stranger) -> None:
    """The guest's own OFD locks: their owner is the open file, and no FLUSH comes in its name."""
    locker.set(ALICE, WRITES, 0, 0, handle=locker.one)
    locker.set(BOB, WRITES, 1, 1, handle=locker.two)
    locker.release(locker.one)
    assert stranger.lock("EX", 1, 0) == "ok"
    assert stranger.lock("EX", 1, 1) == "EAGAIN"


def test_flock(locker: Locker, stranger: Stranger) -> None:
    locker.set(ALICE, WRITES, flock=True)
    assert refused(lambda: locker.set(BOB, READ, flock=True, handle=locker.two)) == errno.EAGAIN
    assert stranger.flock("SH") == "EAGAIN"
    assert stranger.lock("EX") == "ok"  # another kind of lock
    locker.set(ALICE, READ, flock=True)
    assert stranger.flock("SH") == "ok"
    locker.set(ALICE, UNLOCK, flock=True)
    assert stranger.flock("EX") == "ok"
    assert refused(lambda: locker.set(ALICE, READ, flock=True)) == errno.EAGAIN
    stranger.flock("UN")
    locker.set(ALICE, WRITES, flock=True)
    locker.release(locker.one, FUSE_RELEASE_FLOCK_UNLOCK)
    assert stranger.flock("EX") == "ok"


@pytest.mark.parametrize(
    ("start", "end", "kind", "number"),
    [
        (0, 1 << 63, WRITES, errno.EOVERFLOW),
        (1 << 63, (1 << 64) - 1, WRITES, errno.EOVERFLOW),
        (5, 4, WRITES, errno.EINVAL),
        (0, 9, 3, errno.EINVAL),
        (0, 9, 0xFFFF_FFFF, errno.EINVAL),
    ],
)
def test_ranges_that_are_none(locker: Locker, start: int, end: int, kind: int, number: int) -> None:
    assert refused(lambda: locker.set(ALICE, kind, start, end)) == number
    assert refused(lambda: locker.get(ALICE, kind, start, end)) == number
    before = descriptors()
    assert Waiting(locker, locker.arguments(ALICE, kind, start, end), 0).errno == number
    assert descriptors() == before


def test_ranges_at_the_limits(locker: Locker) -> None:
    locker.set(ALICE, WRITES, OFFSET_MAX, OFFSET_MAX)
    assert locker.get(BOB, WRITES) == (OFFSET_MAX, OFFSET_MAX, WRITES, 4242)
    locker.set(BOB, WRITES, 0, OFFSET_MAX - 1)
    assert locker.get(ALICE, READ) == (0, OFFSET_MAX - 1, WRITES, 4242)


def test_forged_handles_and_kinds(locker: Locker) -> None:
    for handle in (99, (1 << 64) - 1):
        for flock in (False, True):
            assert refused(lambda h=handle, f=flock: locker.set(ALICE, WRITES, handle=h, flock=f)) == errno.EBADF  # type: ignore[misc]
    assert refused(lambda: locker.set(ALICE, 7, flock=True)) == errno.EINVAL
    assert refused(lambda: locker.get(ALICE, UNLOCK)) == errno.EINVAL
    locker.node = 1
    assert refused(lambda: locker.set(ALICE, WRITES)) == errno.EISDIR


def test_a_file_that_may_only_be_read(serve: Serve, root: Path) -> None:
    guest = serve(locks="host", readonly=True)
    (root / "file").write_bytes(b"")
    locker = Locker.__new__(Locker)
    locker.guest, locker.path, locker.node = guest, root / "file", guest.lookup(b"file").nodeid
    locker.one = guest.open(locker.node, os.O_RDONLY)
    locker.set(ALICE, READ, 0, 9)
    with open(root / "file", "r+b") as file, pytest.raises(BlockingIOError):
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_too_many_owners(locker: Locker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subos_devices.fs.locks.MAX_OWNERS", 4)
    for owner in range(4):
        locker.set(owner, READ)
    assert refused(lambda: locker.set(99, READ)) == errno.ENOLCK
    locker.flush(2)
    locker.set(99, READ)


def test_locks_keep_within_the_share_s_descriptors(locker: Locker, stranger: Stranger) -> None:
    share = locker.device.server.share
    before = share.files.in_use
    stranger.lock("EX", 1, 5)
    locker.set(ALICE, WRITES, 0, 0)
    waits = [locker.wait(ALICE, WRITES), locker.wait(BOB, WRITES, flock=True)]
    assert share.files.in_use == before + 2  # the flock could be had at once
    while len(share.descriptors):
        share.descriptors._evict()
    share.descriptors.limit = share.files.in_use
    assert refused(lambda: locker.set(BOB, WRITES, 7, 7)) == errno.ENOLCK
    assert locker.wait(ALICE, WRITES).errno == errno.ENOLCK
    stranger.unlock()
    assert [waiting.result() for waiting in waits] == [0, 0]
    locker.flush(ALICE)
    share.descriptors.limit = before + 100
    locker.guest.init()
    assert share.files.in_use <= before


# --- waiting


def test_waiting_for_a_process_of_the_host_s(locker: Locker, stranger: Stranger) -> None:
    stranger.lock()
    waiting = locker.wait(ALICE, WRITES)
    assert waiting.errno is None
    assert locker.guest.getattr(locker.node).size == 10  # the queue goes on
    assert locker.get(BOB, READ)[2] == WRITES
    stranger.unlock()
    assert waiting.result() == 0
    assert stranger.lock("SH") == "EAGAIN"
    locker.flush(ALICE)
    assert stranger.lock("EX") == "ok"


def test_waiting_for_another_owner(locker: Locker) -> None:
    locker.set(BOB, WRITES)
    waiting = locker.wait(ALICE, WRITES)
    assert waiting.errno is None
    locker.flush(BOB)
    assert waiting.result() == 0
    assert locker.get(BOB, READ) == (0, OFFSET_MAX, WRITES, 4242)


def test_waiting_for_nothing(locker: Locker) -> None:
    assert locker.wait(ALICE, WRITES).errno == 0
    assert locker.wait(ALICE, UNLOCK).errno == 0
    assert locker.wait(ALICE, READ, flock=True).errno == 0


def test_waiting_for_a_flock(locker: Locker, stranger: Stranger) -> None:
    stranger.flock("EX")
    waiting = locker.wait(ALICE, WRITES, flock=True)
    assert waiting.errno is None
    stranger.flock("UN")
    assert waiting.result() == 0
    assert stranger.flock("SH") == "EAGAIN"
    locker.release(locker.one, FUSE_RELEASE_FLOCK_UNLOCK)
    assert stranger.flock("EX") == "ok"


def interrupt(locker: Locker, unique: int) -> None:
    assert locker.guest.ask(FuseOpcode.FUSE_INTERRUPT, 0, FUSE_INTERRUPT_IN.struct.pack(unique)).error == 0


@pytest.mark.parametrize("flock", [False, True])
def test_interrupting_a_wait(locker: Locker, stranger: Stranger, flock: bool) -> None:
    stranger.flock("EX") if flock else stranger.lock()
    waits = [locker.wait(ALICE, WRITES, flock=flock) for _ in range(10)]
    for waiting in waits[1:]:
        interrupt(locker, waiting.unique)
        interrupt(locker, waiting.unique)
        assert waiting.result() == errno.EINTR
    assert waits[0].errno is None
    stranger.flock("UN") if flock else stranger.unlock()
    assert waits[0].result() == 0
    interrupt(locker, waits[0].unique)


def test_an_interrupt_that_comes_before_its_request(locker: Locker, stranger: Stranger) -> None:
    stranger.lock()
    interrupt(locker, 77)
    assert locker.wait(ALICE, WRITES, unique=77).errno == errno.EINTR
    stranger.unlock()
    interrupt(locker, 79)
    assert locker.wait(ALICE, WRITES, unique=79).errno == 0  # it did not have to wait


def test_too_many_waiters(locker: Locker, stranger: Stranger) -> None:
    assert locker.device.server.locks is not None
    locker.device.server.locks.waiters.limit = 3
    stranger.lock()
    waits = [locker.wait(ALICE, WRITES) for _ in range(3)]
    assert locker.wait(ALICE, WRITES).errno == errno.ENOLCK
    interrupt(locker, waits[0].unique)
    assert waits[0].result() == errno.EINTR
    waits[0] = locker.wait(ALICE, WRITES)
    assert waits[0].errno is None
    stranger.unlock()
    assert [waiting.result() for waiting in waits] == [0, 0, 0]


def test_one_that_waits_goes_on_when_its_process_closes_another_file(locker: Locker, stranger: Stranger) -> None:
    locker.set(ALICE, WRITES, 0, 0)
    assert stranger.lock("EX", 1, 5) == "ok"
    waiting = locker.wait(ALICE, WRITES)
    locker.flush(ALICE, locker.two)
    assert waiting.errno is None
    assert stranger.lock("EX", 1, 0) == "ok"
    stranger.unlock()
    assert waiting.result() == 0
    assert stranger.lock("SH") == "EAGAIN"


@pytest.mark.parametrize("flock", [False, True])
def test_releasing_the_handle_ends_its_waits(locker: Locker, stranger: Stranger, flock: bool) -> None:
    stranger.flock("EX") if flock else stranger.lock()
    waiting = locker.wait(ALICE, WRITES, flock=flock)
    locker.release(locker.one)
    assert waiting.result() == errno.EBADF
    stranger.flock("UN") if flock else stranger.unlock()
    assert stranger.lock() == "ok"
    assert stranger.flock("EX") == "ok"


@pytest.mark.parametrize("how", ["init", "destroy"])
def test_a_session_that_ends_takes_locks_and_waits_along(locker: Locker, stranger: Stranger, how: str) -> None:
    before = descriptors()
    locker.set(BOB, WRITES, 0, 0)
    stranger.lock("EX", 1, 5)
    waits = [locker.wait(ALICE, WRITES), locker.wait(BOB, WRITES)]
    if how == "init":
        locker.guest.init()
    else:
        assert locker.guest.ask(FuseOpcode.FUSE_DESTROY, 0).error == 0
    numbers = {waiting.result() for waiting in waits}
    assert numbers == {errno.EBADF if how == "init" else errno.ENOTCONN}
    assert stranger.lock() == "ok"
    assert locker.device.server.locks is not None
    while locker.device.server.locks.waiters:
        pass
    assert descriptors() <= before


def test_a_queue_that_is_stopped_and_started_again(locker: Locker, stranger: Stranger) -> None:
    """The wait goes on meanwhile, and its answer is given when there is a queue for it."""
    stranger.lock()
    waiting = locker.wait(ALICE, WRITES)
    guest = locker.guest
    locker.device.queue_stopped(guest.queue)
    stranger.unlock()
    locker.settle()
    assert waiting.errno is None
    locker.device.queue_started(guest.queue)
    locker.device.process(guest.queue)
    assert waiting.errno == 0


def test_a_unique_that_the_guest_changes_while_it_waits(locker: Locker, stranger: Stranger) -> None:
    """It harms nobody but itself: the request begins again, under its new name."""
    stranger.lock()
    waiting = locker.wait(ALICE, WRITES)
    at = waiting.reply - 128 + 8
    locker.guest.bytes[at : at + 8] = struct.pack("<Q", 4711)
    stranger.unlock()
    locker.settle()
    waiting.unique = 4711
    assert waiting.errno == 0


# --- what is agreed upon


def test_locks_are_the_guest_s_own_by_default(serve: Serve, root: Path) -> None:
    (root / "file").write_bytes(b"")
    locks = FuseInit.FUSE_POSIX_LOCKS | FuseInit.FUSE_FLOCK_LOCKS
    guest = serve()
    assert not FuseInit(guest.init().flags) & locks
    body = FUSE_LK_IN.struct.pack(1, 1, 0, 1, WRITES, 1, 0, 0)
    for opcode in (FuseOpcode.FUSE_GETLK, FuseOpcode.FUSE_SETLK, FuseOpcode.FUSE_SETLKW):
        assert guest.ask(opcode, 1, body, room=24).error == errno.ENOSYS
    guest = serve(locks="host")
    assert FuseInit(guest.init().flags) & locks == locks
    node = guest.lookup(b"file").nodeid
    for flags in (os.O_RDONLY, os.O_RDWR):  # each close must be told of
        reply = guest.ask(FuseOpcode.FUSE_OPEN, node, FUSE_OPEN_IN.struct.pack(flags, 0), room=FUSE_OPEN_OUT.size)
        assert not FUSE_OPEN_OUT.unpack(reply.body).open_flags & FuseOpened.FOPEN_NOFLUSH


def test_the_option(root: Path) -> None:
    with pytest.raises(UserError, match="no place for locks"):
        FsDevice(DeviceSpec("fs", "share", {"shared_dir": str(root), "locks": "both"}))
