"""The muxer between made-up queues and real sockets: whatever a guest does, it neither fails nor grows."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subos_devices.errors import UserError
from subos_devices.vhost_user.device import STATISTICS_SIZE, DeviceSpec
from subos_devices.vhost_user.errors import BadChain
from subos_devices.vhost_user.virtqueue import Chain
from subos_devices.vsock import host
from subos_devices.vsock.buffers import cut, read
from subos_devices.vsock.device import VsockDevice
from subos_devices.vsock.known import MAX_CONNECTIONS, OPEN, Known, describe
from subos_devices.vsock.muxer import MAX_RESETS, Muxer
from subos_devices.vsock.table import WIDE
from subos_protocol.vsock import HDR_SIZE, VIRTIO_VSOCK_HDR, Op, virtio_vsock_hdr

CID = 3


class Queue:
    """What the muxer uses of a Virtqueue."""

    def __init__(self, index: int, size: int = 128) -> None:
        self.index, self.size = index, size
        self.more = False
        self.used_index = 0
        self.chains: deque[Chain] = deque()
        self.given: list[int] = []
        self.signals = 0

    def pop(self) -> Chain | None:
        return self.chains.popleft() if self.chains else None

    def push(self, head: int, written: int) -> None:
        self.given.append(head)
        self.used_index += 1

    def signal(self) -> None:
        self.signals += 1


class Worker:
    """What the muxer uses of its worker; time passes when the test says so."""

    respawned = False

    def __init__(self) -> None:
        self.statistics = memoryview(bytearray(STATISTICS_SIZE))
        self.alarms: list[Callable[[], None]] = []
        self.look: Callable[[], None]
        self.muxer: Muxer

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        self.look = callback

    def unwatch(self, fd: int) -> None: ...

    def alarm(self, seconds: float, callback: Callable[[], None]) -> None:
        self.alarms.append(callback)

    def kick(self, queue: Queue) -> None:
        self.muxer.fill(queue)

    def log(self, message: str) -> None: ...


class Scene:
    def __init__(self, folder: str, limit: int = 8, statistics: memoryview | None = None) -> None:
        self.path = f"{folder}/v"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.worker = Worker()
        if statistics is not None:
            self.worker.statistics = statistics
        known, connect = Known(self.worker.statistics), partial(host.connect, self.path)
        self.muxer = Muxer(self.listener.fileno(), connect, CID, limit, self.worker, known)
        self.worker.muxer = self.muxer
        self.rx, self.tx, self.sent = Queue(0), Queue(1), 0
        self.muxer.rx_started(self.rx)
        self.muxer.tx_started(self.tx)

    def close(self) -> None:
        self.muxer.close()
        self.listener.close()
        os.unlink(self.path)

    def give(self, count: int = 1, size: int = 4096) -> list[bytearray]:
        """Receive buffers."""
        memory = [bytearray(size) for _ in range(count)]
        self.rx.chains += [Chain(head, [], [memoryview(buffer)]) for head, buffer in enumerate(memory)]
        self.muxer.fill(self.rx)
        return memory

    def send(self, *fields: int, payload: bytes = b"") -> None:
        self.raw([VIRTIO_VSOCK_HDR.pack(virtio_vsock_hdr(*fields)), payload])

    def raw(self, buffers: list[bytes]) -> None:
        self.tx.chains.append(Chain(self.sent, [memoryview(part) for part in buffers if part], []))
        self.sent += 1
        self.muxer.take(self.tx)

    def pass_time(self) -> None:
        alarms, self.worker.alarms = self.worker.alarms, []
        for alarm in alarms:
            alarm()


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Scene]:
    with contextlib.closing(Scene(str(tmp_path))) as made:
        yield made


def op_of(buffer: bytearray) -> int:
    return VIRTIO_VSOCK_HDR.unpack(buffer).op


def request(at: Scene, guest_port: int, host_port: int) -> None:
    at.send(CID, 2, guest_port, host_port, 0, 1, Op.REQUEST, 0, 1000, 0)


def test_connections_beyond_the_limit_are_reset(at: Scene, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/v_5000")
        listener.listen(64)
        buffers = at.give(20)
        for port in range(10):
            request(at, 40000 + port, 5000)
        assert [op_of(buffer) for buffer in buffers[:10]].count(Op.RESPONSE) == 8
        assert describe(at.worker.statistics)["connections"] == 8
        assert describe(at.worker.statistics)["refused"] == 2
        at.send(CID, 2, 40000, 5000, 0, 1, Op.RST, 0, 0, 0)
        request(at, 50000, 5000)
        assert op_of(buffers[10]) == Op.RESPONSE


def test_the_next_worker_resets_what_the_last_one_left(tmp_path: Path) -> None:
    statistics = memoryview(bytearray(STATISTICS_SIZE))
    known = Known(statistics)
    assert known.start() == []
    places = [known.note(port, port + 1) for port in (10, 20, 30)]
    known.forget(places[1])
    with contextlib.closing(Scene(str(tmp_path), statistics=statistics)) as at:
        headers = [VIRTIO_VSOCK_HDR.unpack(buffer) for buffer in at.give(3)]
        assert {(h.src_port, h.dst_port) for h in headers if h.op == Op.RST} == {(10, 11), (30, 31)}
        assert Known(statistics).start() == []


def test_there_is_a_place_for_every_connection() -> None:
    known = Known(memoryview(bytearray(STATISTICS_SIZE)))
    known.start()
    places = [known.note(1, port) for port in range(MAX_CONNECTIONS)]
    assert len(set(places)) == MAX_CONNECTIONS
    assert min(places) > OPEN
    assert known.note(1, 0) == -1


def test_transmit_buffers_are_given_back_together(at: Scene) -> None:
    for _ in range(20):
        at.send(CID, 2, 1, 2, 0, 1, Op.RST, 0, 0, 0)
    assert at.tx.given == []
    at.pass_time()
    assert at.tx.given == list(range(20))
    assert at.tx.signals == 1
    for _ in range(40):
        at.send(CID, 2, 1, 2, 0, 1, Op.RST, 0, 0, 0)
    assert len(at.tx.given) >= 20 + 32  # a quarter of the queue is as many as it keeps
    at.muxer.stopped(at.tx)
    assert len(at.tx.given) == 60


def test_a_receive_buffer_without_room_is_a_broken_ring(at: Scene) -> None:
    at.send(CID, 2, 1, 2, 0, 1, Op.RW, 0, 0, 0)
    with pytest.raises(BadChain):
        at.give(1, HDR_SIZE)


@given(st.lists(st.integers(0, 60), max_size=6))
def test_a_header_in_any_framing(sizes: list[int]) -> None:
    data = bytes(range(256))[: sum(sizes)]
    parts, start = [], 0
    for size in sizes:
        parts.append(memoryview(data[start : start + size]))
        start += size
    head, payload = cut(parts)
    assert b"".join(head) == data[:HDR_SIZE]
    assert b"".join(payload) == data[HDR_SIZE:]
    packet = read(parts)
    assert (packet is None) == (len(data) < HDR_SIZE)
    if packet is not None:
        assert packet[0] == VIRTIO_VSOCK_HDR.unpack(data)
        assert b"".join(packet[1]) == data[HDR_SIZE:]


@given(st.binary(max_size=40))
def test_any_first_line(line: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert 0 <= host.parse_connect(line) < 1 << 32


PORTS = st.sampled_from([22, 5000, 5001, 1023, 40000])
FIELD = st.one_of(st.sampled_from([0, 1, 2, 3, 4, 5, 100, 5000, 1 << 31, (1 << 32) - 1]), st.integers(0, (1 << 32) - 1))
CIDS = st.sampled_from([CID, CID, CID, 2]), st.sampled_from([2, 2, 2, CID])
PACKET = st.tuples(*CIDS, PORTS, PORTS, FIELD, st.sampled_from([1, 1, 2]), st.integers(0, 8), FIELD, FIELD, FIELD)
ACTION = st.one_of(
    st.tuples(st.just("packet"), PACKET, st.integers(0, 70_000)),
    st.tuples(st.just("raw"), st.lists(st.binary(max_size=50), max_size=4), st.none()),
    st.tuples(st.just("give"), st.integers(1, 5), st.integers(HDR_SIZE + 1, 5000)),
    st.tuples(st.just("client"), PORTS, st.binary(max_size=3000)),
    st.tuples(st.just("write"), st.integers(0, 9), st.binary(max_size=3000)),
    st.tuples(st.just("close"), st.integers(0, 9), st.none()),
    st.tuples(st.just("time"), st.none(), st.none()),
)


@settings(max_examples=150)
@given(st.lists(ACTION, max_size=60))
def test_anything_at_all(actions: list[tuple]) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(Scene(folder)) as at,
        contextlib.ExitStack() as stack,
    ):
        for port in (5000, 1023):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(f"{folder}/v_{port}")
            listener.listen(4)
        clients: list[socket.socket] = []
        for what, first, second in actions:
            if what == "packet":
                at.send(*first, payload=bytes(second))
            elif what == "raw":
                at.raw(first)
            elif what == "give":
                at.give(first, second)
            elif what == "client":
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                with contextlib.suppress(OSError):
                    client.connect(at.path)
                    client.send(b"CONNECT %d\n" % first + second)
                clients.append(client)
            elif what == "write" and clients:
                with contextlib.suppress(OSError):
                    clients[first % len(clients)].send(second)
            elif what == "close" and clients:
                clients.pop(first % len(clients)).close()
            elif what == "time":
                at.pass_time()
            at.worker.look()
            assert len(at.muxer.table) <= 8
            assert len(at.muxer.table.resets) <= MAX_RESETS + 16
            assert len(at.muxer.table.turns) <= 8
            assert sum(len(stream.backlog) for stream in at.muxer.table._all) <= 8 * WIDE


def test_options() -> None:
    def device(**options: str | int | None) -> VsockDevice:
        return VsockDevice(DeviceSpec("vsock", "vsock", options))

    assert device(uds_path="v").config() == bytes([3, 0, 0, 0, 0, 0, 0, 0])
    assert device(uds_path="v", guest_cid="42").config() == bytes([42, 0, 0, 0, 0, 0, 0, 0])
    for wrong in ({}, {"uds_path": ""}, {"uds_path": "v" * 100}, {"uds_path": "v", "cid": 3}):
        with pytest.raises(UserError):
            device(**wrong)
    for cid in ("2", "x", "-1", 1 << 32):
        with pytest.raises(UserError, match="cannot have the address"):
            device(uds_path="v", guest_cid=cid)
