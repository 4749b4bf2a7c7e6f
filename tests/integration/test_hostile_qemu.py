"""A hostile QEMU on the control plane of one device: the supervisor lives, and the other devices are served."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from subos_devices.supervisor import restarts
from subos_devices.testing import FrontEnd, Supervised, supervise
from subos_devices.testing.serving import children
from subos_protocol.vhost_user import (
    HEADER,
    MAX_MEM_REGIONS,
    MAX_PAYLOAD,
    VRING_ADDR,
    VRING_NOFD_MASK,
    FrontendRequest,
    HeaderFlag,
    pack_config,
    vhost_vring_addr,
)
from support.hostile_qemu import KINDS, MOST, OWN, QUEUE, RING, SIZE, USER, HostileQemu, memory_table, state, u64
from support.processes import descriptors, maps
from support.strangers import Reverser
from support.waiting import eventually

R = FrontendRequest


class Hosted:
    """A supervisor with a device whose QEMU is hostile, and one whose QEMU is not."""

    def __init__(self, supervised: Supervised, log: list[str]) -> None:
        self.supervised, self._log = supervised, log
        self.path = supervised.add(Reverser, "hostile")
        self._good = FrontEnd.connect(supervised.add("rng", "good"))
        self._queue = self._good.queue(0)
        self._serves_again()
        pid = self.supervised.status("hostile")["pid"]
        self._worker = eventually(lambda: not maps(pid, "guest-ram") and descriptors(pid))
        gc.collect()
        self._ours = descriptors()  # when the worker has been told to let go, the supervisor has
        self._count = len(self._processes())

    def check_others(self) -> None:
        """The other device is served, its control plane, too, and nothing of ours went wrong."""
        assert len(self._queue.request(writable=[16])[0]) == 16
        self._good.ask(R.GET_FEATURES)
        assert self.supervised.status("good")["restarts"] == 0
        assert not self._log

    def check_left(self) -> None:
        """After the hostile one has gone: nothing of it is left, and the next one is served."""
        eventually(lambda: not self.supervised.status("hostile")["connected"])
        self._serves_again()
        gc.collect()
        assert eventually(lambda: descriptors() == self._ours), [descriptors(), self._ours]
        eventually(lambda: len(self._processes()) == self._count)
        pid = self.supervised.status("hostile")["pid"]
        assert eventually(lambda: descriptors(pid) == self._worker), [descriptors(pid), self._worker]
        self.check_others()

    def _serves_again(self) -> None:
        with FrontEnd.connect(self.path, timeout=20) as vm:
            assert vm.queue(0).request([b"abc"], [3]) == [b"cba"]
            assert vm.queue(1).request([b"abc"], [3]) == [b"cba"]
        eventually(lambda: not self.supervised.status("hostile")["connected"])

    def _processes(self) -> list[int]:
        return [pid for zygote in children(os.getpid()) for pid in (zygote, *children(zygote))]

    def close(self) -> None:
        self._good.close()


class Faults(logging.Handler):
    """Keeps what the supervisor calls a fault of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.seen.append(logging.Formatter().format(record))


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosted]:
    monkeypatch.setattr(restarts, "BACKOFF", (0.0,) * 1_000_000)  # no pause after any death
    faults = Faults()
    loggers = [logging.getLogger(name) for name in ("subos", "asyncio")]
    for logger in loggers:
        logger.addHandler(faults)
    try:
        with (
            supervise() as supervised,
            contextlib.closing(Hosted(supervised, faults.seen)) as hosted,
        ):
            yield hosted
            hosted.check_others()
        vars(hosted).clear()  # pytest keeps it longer than the descriptors may live
    finally:
        for logger in loggers:
            logger.removeHandler(faults)


@pytest.fixture
def qemu(hosted: Hosted) -> Iterator[HostileQemu]:
    qemu = HostileQemu(hosted.path)
    qemu.connect()
    yield qemu
    qemu.hang_up()
    hosted.check_left()


# --- single attacks


def test_memory_that_is_cut_short_under_a_running_ring(hosted: Hosted, qemu: HostileQemu) -> None:
    qemu.set_up(0)
    qemu.cut(0)
    qemu.kick()
    eventually(lambda: hosted.supervised.status("hostile")["restarts"] > 2)  # each dies at the first look
    qemu.message(R.GET_VRING_BASE, state(0, 0))
    hosted.check_others()


def test_memory_that_is_cut_short_before_a_ring_starts(hosted: Hosted, qemu: HostileQemu) -> None:
    qemu.set_up(0)
    qemu.message(R.GET_VRING_BASE, state(0, 0))
    qemu.cut(4096)
    qemu.message(R.SET_VRING_KICK, u64(0), fds=["eventfd"])
    qemu.message(R.GET_VRING_BASE, state(0, 0))


@pytest.mark.parametrize("kind", ["full eventfd", "pipe", "socket", "folder", "path", "null"])
def test_a_ring_breaks_whose_err_descriptor_takes_nothing(hosted: Hosted, qemu: HostileQemu, kind: str) -> None:
    qemu.message(R.SET_VRING_ERR, u64(0), fds=[kind])
    qemu.set_up(0)
    qemu.scribble(RING + 0x1000, b"\0\0\xff\xff")  # more is available than the ring holds
    qemu.kick()
    eventually(lambda: hosted.supervised.status("hostile")["faults"] > 0)
    hosted.check_others()
    qemu.message(R.GET_VRING_BASE, state(0, 0))
    qemu.hang_up()


FLOOD = """
import socket, struct, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
flood = struct.pack("<III", 3, 1, 0) * 5000  # SET_OWNER
print("flooding", flush=True)
while True:
    sock.sendall(flood)
"""


def test_messages_without_end_hold_nobody_else_up(hosted: Hosted) -> None:
    process = subprocess.Popen([sys.executable, "-c", FLOOD, hosted.path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process, process.stdout:
        try:
            assert process.stdout.readline() == b"flooding\n"
            for _ in range(20):
                hosted.check_others()
            assert process.poll() is None
        finally:
            process.kill()
    hosted.check_left()


def test_answers_that_nobody_reads(hosted: Hosted) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(os.fspath(hosted.path))
        sock.settimeout(10)
        question = HEADER.struct.pack(R.GET_FEATURES, HeaderFlag.VERSION, 0) * 100
        with pytest.raises(ConnectionError):  # sooner or later it hangs up
            sock.sendall(question * 1000)
        hosted.check_others()
    hosted.check_left()


def test_connections_that_come_and_go_while_others_wait(hosted: Hosted) -> None:
    """One is served at a time; who waits and goes again leaves nothing."""
    first = HostileQemu(hosted.path)
    first.connect()
    first.message(R.SET_OWNER)
    waiting = [HostileQemu(hosted.path) for _ in range(3)]
    for one in waiting:
        threading.Thread(target=one.connect).start()
    eventually(lambda: not any(one.closed for one in waiting))
    for one in waiting:
        one.hang_up()
    first.message(R.SET_OWNER)
    first.hang_up()
    hosted.check_left()


# --- everything, in any order


def sometimes(*often: int) -> st.SearchStrategy[int]:
    return st.one_of(st.sampled_from(often), st.integers(0, 0xFFFF_FFFF))


INDEX = sometimes(0, 0, 0, 1, 1, 2, 255, 256)
WORD = sometimes(0, 1, 2, 3, 4, QUEUE, 1024, 32768, 65536)
LONG = st.one_of(st.sampled_from((0, 1, VRING_NOFD_MASK, 1 << 63, (1 << 64) - 1)), st.integers(0, (1 << 64) - 1))
PLACE = st.one_of(
    st.builds(lambda page, odd: USER + 0x1000 * page + odd, st.integers(0, SIZE // 0x1000), st.integers(0, 17)), LONG
)
REGION = st.tuples(
    st.one_of(st.sampled_from((0, 0x1000, SIZE // 2, SIZE, (1 << 64) - 0x1000)), LONG),
    st.one_of(st.sampled_from((0, 1, 0x1000, SIZE // 2, SIZE, SIZE + 1, 1 << 46)), LONG),
    st.one_of(st.sampled_from((USER, USER + SIZE // 2, USER + SIZE)), LONG),
    st.one_of(st.sampled_from((0, 0x1000, SIZE // 2, SIZE)), LONG),
)


REGIONS = st.lists(REGION, max_size=MAX_MEM_REGIONS + 1)
TABLE = st.one_of(
    REGIONS.map(lambda regions: memory_table(len(regions), regions)),
    st.builds(memory_table, INDEX, REGIONS),
)
PAYLOAD = st.one_of(
    st.builds(state, INDEX, WORD),
    LONG.map(u64),
    INDEX.map(u64),
    st.builds(
        lambda index, *places: VRING_ADDR.pack(vhost_vring_addr(index, *places)), INDEX, WORD, PLACE, PLACE, PLACE, LONG
    ),
    TABLE,
    st.builds(lambda offset, data: pack_config(offset, data), st.integers(0, 200), st.binary(max_size=50)),
    st.binary(max_size=300),
    st.integers(0, MAX_PAYLOAD).map(bytes),
)
REQUEST = st.one_of(
    st.sampled_from([request for request in R if request < R.SET_LOG_BASE or request > R.SET_LOG_FD]), WORD
)
FLAGS = st.one_of(st.sampled_from((0, int(HeaderFlag.NEED_REPLY))), st.integers(0, 0xFFFF_FFFF))
FDS = st.one_of(st.lists(st.sampled_from(KINDS), max_size=2), st.lists(st.sampled_from(KINDS), max_size=MOST))


class Hostility(RuleBasedStateMachine):
    """What a hostile QEMU may do, to one device after the other front end's."""

    hosted: Hosted

    @initialize()
    def connect(self) -> None:
        self.qemu = HostileQemu(self.hosted.path)
        self.qemu.connect()

    @precondition(lambda self: self.qemu.closed)
    @rule()
    def again(self) -> None:
        self.qemu.connect()

    @precondition(lambda self: not self.qemu.closed)
    @rule(request=REQUEST, payload=PAYLOAD, flags=FLAGS, fds=FDS, pieces=st.lists(st.integers(0, 300), max_size=3))
    def message(self, request: int, payload: bytes, flags: int, fds: list[str], pieces: list[int]) -> None:
        self.qemu.message(request, payload, flags, fds, pieces)

    @precondition(lambda self: not self.qemu.closed)
    @rule(table=REGIONS, fds=st.lists(st.sampled_from((OWN, "memory", "no memory", "read-only memory")), max_size=9))
    def memory(self, table: list[tuple[int, int, int, int]], fds: list[str]) -> None:
        self.qemu.message(R.SET_MEM_TABLE, memory_table(len(table), table), 0, fds)

    @precondition(lambda self: not self.qemu.closed)
    @rule(index=st.integers(0, 1), own=st.booleans())
    def set_up(self, index: int, own: bool) -> None:
        self.qemu.set_up(index, own=own)

    @precondition(lambda self: not self.qemu.closed)
    @rule(index=st.integers(0, 1))
    def take_back(self, index: int) -> None:
        self.qemu.message(R.GET_VRING_BASE, state(index, 0))

    @precondition(lambda self: not self.qemu.closed)
    @rule(at=st.integers(0, 3 * RING), data=st.binary(min_size=1, max_size=64))
    def scribble(self, at: int, data: bytes) -> None:
        self.qemu.scribble(at, data)
        self.qemu.kick()

    @precondition(lambda self: not self.qemu.closed)
    @rule(size=st.sampled_from((0, 0x1000, RING + 0x1001, SIZE)))
    def cut(self, size: int) -> None:
        self.qemu.cut(size)
        self.qemu.kick()

    @precondition(lambda self: not self.qemu.closed)
    @rule(request=st.integers(0, 60), version=st.sampled_from((0, 2, 3)), size=WORD, fds=FDS)
    def no_header(self, request: int, version: int, size: int, fds: list[str]) -> None:
        self.qemu.nonsense(HEADER.struct.pack(request, version, size), fds)

    @precondition(lambda self: not self.qemu.closed)
    @rule(request=REQUEST, size=st.integers(MAX_PAYLOAD + 1, 0xFFFF_FFFF), fds=FDS)
    def too_long(self, request: int, size: int, fds: list[str]) -> None:
        self.qemu.nonsense(HEADER.struct.pack(request, HeaderFlag.VERSION, size), fds)

    @precondition(lambda self: not self.qemu.closed)
    @rule(request=REQUEST, payload=PAYLOAD, fds=FDS, at=st.integers(0, 300))
    def leave_within_a_message(self, request: int, payload: bytes, fds: list[str], at: int) -> None:
        self.qemu.leave_within(request, payload, fds, at)

    @rule()
    def others(self) -> None:
        self.hosted.check_others()

    def teardown(self) -> None:
        if hasattr(self, "qemu"):
            self.qemu.hang_up()
            self.hosted.check_left()


def test_whatever_a_front_end_says(hosted: Hosted) -> None:
    class Machine(Hostility):
        pass

    Machine.hosted = hosted
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=25,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
