"""Many connections, much data, and what becomes of both when somebody stops: the vsock device under load."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_devices.testing import FrontEnd
from subos_protocol.vsock import Op
from support.vsock_driver import Driver, Packet
from support.waiting import eventually

from .test_vsock import Scene, closed, scene

ROOM = 256 << 10
MANY = 2000


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path) as made:
        yield made
    vars(made).clear()


def filled(sock: socket.socket) -> int:
    """Sends until nothing more is taken; how much it was."""
    sock.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.send(bytes(65536))
    sock.settimeout(10)
    return sent


# --- somebody stops


def test_a_host_that_does_not_read_stops_the_guest_and_no_other(at: Scene) -> None:
    client, request = at.to_guest()
    sent = os.urandom(1 << 20)
    allowed, at_host, credit = 0, 0, ROOM
    interrupt = at.vm.queues[0].call_fd
    while True:  # as a driver does: never more than there is credit for
        part = sent[allowed : allowed + min(30_000, credit - allowed + at_host)]
        if not part:
            updates = [packet.fwd_cnt for packet in at.guest.there() if packet.op == Op.CREDIT_UPDATE]
            if updates:
                at_host = updates[-1]
            elif select.select([interrupt], [], [], 0.3)[0]:
                os.read(interrupt, 8)  # perhaps of what was seen before
            else:
                break
            continue
        at.guest.reply(request, Op.RW, part)
        allowed += len(part)
    assert ROOM <= allowed < ROOM + (1 << 19)  # and what the host's socket holds
    other, other_request = at.to_guest(5001)
    at.guest.reply(other_request, Op.RW, b"not held up")
    assert other.recv(64) == b"not held up"
    seen = b""
    while len(seen) < allowed:
        seen += client.recv(65536)
    assert seen == sent[:allowed]
    at.guest.expect_credit(request, allowed - ROOM // 2)


def test_a_guest_without_room_stops_the_host_and_is_asked(at: Scene) -> None:
    client, request = at.to_guest(room=10)
    client.sendall(b"0123456789abcdef")
    assert at.guest.expect(Op.RW).payload == b"0123456789"
    other, _ = at.to_guest(5001)
    other.sendall(b"not held up")
    assert at.guest.expect(Op.RW).payload == b"not held up"
    at.guest.expect(Op.CREDIT_REQUEST)  # after a second
    at.guest.reply(request, Op.CREDIT_UPDATE, buf_alloc=10, fwd_cnt=10)
    assert at.guest.expect(Op.RW).payload == b"abcdef"


def test_a_sender_with_a_small_buffer_of_its_own_hears_in_time(at: Scene) -> None:
    """Linux has no more on its way than its own buffer holds, so that much without a word would be the end."""
    client, request = at.to_guest(room=8192)
    for _ in range(2):
        at.guest.reply(request, Op.RW, bytes(4096), buf_alloc=8192)
        assert len(client.recv(8192)) == 4096
    assert at.guest.expect(Op.CREDIT_UPDATE).fwd_cnt in (4096, 8192)


def test_a_guest_without_receive_buffers_loses_nothing(tmp_path: Path) -> None:
    with scene(tmp_path, buffers=2) as at:
        client, _ = at.to_guest()
        sent = os.urandom(300_000)
        pieces = []
        client.setblocking(False)
        done = filled_with(client, sent)
        while sum(map(len, pieces)) < len(sent):
            pieces.append(at.guest.expect(Op.RW).payload)
            done += filled_with(client, sent[done:])
        assert b"".join(pieces) == sent
    vars(at).clear()


def filled_with(sock: socket.socket, data: bytes) -> int:
    with contextlib.suppress(BlockingIOError):
        return sock.send(data)
    return 0


def test_resets_wait_for_buffers_and_the_guest_s_packets_for_them(tmp_path: Path) -> None:
    """A guest that gives no buffers cannot have us keep more than a few hundred resets."""
    with scene(tmp_path, buffers=0) as at:
        sent = 0
        with contextlib.suppress(AssertionError):  # the device takes no more
            while sent < 1000:
                at.guest.send(Op.RW, sent, 9, timeout=1)
                sent += 1
        assert 256 <= sent < 256 + 128
        at.guest.give(64)
        ports = [at.guest.next().dst_port for _ in range(sent + 1)]
        assert ports == list(range(sent + 1))
    vars(at).clear()


# --- many


def test_2000_connections_of_the_host_at_once(at: Scene) -> None:
    clients: dict[int, socket.socket] = {}
    for number in range(MANY):
        clients[number] = at.host.client(5000)
        request = at.guest.expect(Op.REQUEST)
        at.guest.reply(request, Op.RESPONSE)
        assert clients[number].recv(64) == b"OK %d\n" % request.src_port
    for number, client in clients.items():
        client.sendall(b"%d" % number)
    seen = {}
    for _ in range(MANY):
        packet = at.guest.expect(Op.RW)
        seen[packet.src_port] = packet.payload
        at.guest.reply(packet, Op.RW, packet.payload[::-1])
    assert len(seen) == MANY
    for number, client in clients.items():
        assert client.recv(64) == b"%d" % number if number < 10 else (b"%d" % number)[::-1]
        client.close()
    ended = {at.guest.expect(Op.SHUTDOWN).src_port for _ in range(MANY)}
    assert ended == seen.keys()


def test_one_that_floods_does_not_starve_the_others(at: Scene) -> None:
    """Each has its turn: 16 buffers at most between two packets of the small one."""
    flood, flood_request = at.to_guest(5000, room=1 << 30)
    small, small_request = at.to_guest(5001)
    filled(flood)
    small.sendall(b"small")
    before = 0
    while (packet := at.guest.next()).src_port != small_request.src_port:
        before += 1
    assert packet.payload == b"small"
    assert before <= 64 + 3 * 16  # what had been given before, and a few turns
    assert flood_request.src_port != small_request.src_port


# --- deaths


def test_a_worker_that_is_killed_is_known_to_both_ends_at_once(at: Scene) -> None:
    pairs = [at.to_guest(5000 + number) for number in range(5)]
    accepted, response = at.to_host(6000, guest_port=40000)
    os.kill(at.served.worker(), signal.SIGKILL)
    assert all(closed(client) for client, _ in pairs)
    assert closed(accepted)
    wanted = {(request.src_port, request.dst_port) for _, request in pairs} | {(6000, 40000)}
    seen = set()
    while seen != wanted:
        packet = at.guest.next()
        assert packet.op == Op.RST
        seen.add((packet.src_port, packet.dst_port))
    at.guest.reply(pairs[0][1], Op.RW, b"late")
    at.guest.expect(Op.RST)
    client, request = again(at)
    at.guest.reply(request, Op.RW, b"the next one works")
    assert client.recv(64) == b"the next one works"
    assert response.op == Op.RESPONSE


def again(at: Scene) -> tuple[socket.socket, Packet]:
    """A connection by the next worker; the host's socket may be refused until it is there."""
    client = eventually(lambda: _client(at), timeout=5)
    request = at.guest.expect(Op.REQUEST)
    at.guest.reply(request, Op.RESPONSE)
    assert client.recv(64) == b"OK %d\n" % request.src_port
    return client, request


def _client(at: Scene) -> socket.socket | None:
    with contextlib.suppress(ConnectionError):
        return at.host.client(7000)
    return None


def test_connections_that_ended_are_not_reset_by_the_next_worker(at: Scene) -> None:
    client, request = at.to_guest()
    client.close()
    at.guest.expect(Op.SHUTDOWN)
    at.guest.reply(request, Op.RST)
    os.kill(at.served.worker(), signal.SIGKILL)
    _, request = again(at)  # no reset came before


def test_a_guest_that_reboots_leaves_no_connection(at: Scene) -> None:
    client, _ = at.to_guest()
    accepted, _ = at.to_host(6000)
    at.vm.reboot()
    assert closed(client)
    assert closed(accepted)
    at.guest.give(64)
    client, request = at.to_guest()  # which is the first packet that the new driver sees
    at.guest.reply(request, Op.RW, b"again")
    assert client.recv(64) == b"again"


def test_a_vm_that_ends_takes_its_connections_along(at: Scene) -> None:
    client, _ = at.to_guest()
    accepted, _ = at.to_host(6000)
    for sock in (client, accepted):
        sock.settimeout(5)
    at.vm.close()
    assert closed(client)
    assert closed(accepted)
    with FrontEnd.connect(at.served.path) as vm:
        at.guest = Driver(vm)
        client, request = at.to_guest()  # which is the first packet that the next guest sees
        at.guest.reply(request, Op.RW, b"again")
        assert client.recv(64) == b"again"


def test_connections_outlive_a_pause_of_the_vm(at: Scene) -> None:
    client, request = at.to_guest()
    bases = {queue: at.vm.stop(queue) for queue in at.vm.queues.values()}
    client.sendall(b"meanwhile")
    at.vm.set_memory()
    for queue, base in bases.items():
        at.vm.start(queue, base=base)
    assert at.guest.expect(Op.RW).payload == b"meanwhile"
    at.guest.reply(request, Op.RW, b"after it")
    assert client.recv(64) == b"after it"


def test_a_broken_ring_ends_the_ring_and_not_the_worker(at: Scene) -> None:
    pid = at.served.worker()
    queue = at.vm.queues[1]
    queue.write_descriptor(0, 1 << 60, 100)
    queue.publish(0)
    queue.kick()
    eventually(lambda: "broke its ring" in at.served.log)
    assert at.served.worker() == pid
    at.vm.reboot()
    at.guest.give(64)
    at.to_guest()
