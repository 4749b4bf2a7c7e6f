"""The vsock device between a front end that plays a guest's driver, and Unix sockets of the host's programs."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from subos_devices.testing import FrontEnd, Served, serve
from subos_protocol.vsock import Op, Shutdown
from support.vsock_driver import BUFFERS, Driver, Packet
from support.waiting import eventually

BOTH = Shutdown.RCV | Shutdown.SEND


class Host:
    """The host's side: clients of the device's socket, and listeners beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: list[socket.socket] = []

    def client(self, port: int | None = None) -> socket.socket:
        """A client that has asked for the guest's `port`."""
        sock = self.keep(socket.socket(socket.AF_UNIX))
        sock.settimeout(10)
        sock.connect(os.fspath(self.path))
        if port is not None:
            sock.sendall(b"CONNECT %d\n" % port)
        return sock

    def listen(self, port: int, backlog: int = 64) -> socket.socket:
        sock = self.keep(socket.socket(socket.AF_UNIX))
        sock.settimeout(10)
        sock.bind(f"{self.path}_{port}")
        sock.listen(backlog)
        return sock

    def accept(self, listener: socket.socket) -> socket.socket:
        sock = self.keep(listener.accept()[0])
        sock.settimeout(10)
        return sock

    def keep(self, sock: socket.socket) -> socket.socket:
        self._open.append(sock)
        return sock

    def close(self) -> None:
        for sock in self._open:
            sock.close()
        for path in self.path.parent.glob(f"{self.path.name}_*"):
            path.unlink()


class Scene:
    def __init__(self, served: Served, vm: FrontEnd, host: Host, buffers: int) -> None:
        self.served, self.vm, self.host = served, vm, host
        self.guest = Driver(vm, buffers)

    def to_guest(self, port: int = 5000, room: int = 1 << 20) -> tuple[socket.socket, Packet]:
        """A client of the host connected to the guest's `port`, and the guest's REQUEST for it."""
        client = self.host.client(port)
        request = self.guest.expect(Op.REQUEST)
        self.guest.reply(request, Op.RESPONSE, buf_alloc=room)
        assert client.recv(64) == b"OK %d\n" % request.src_port
        return client, request

    def to_host(self, port: int = 5000, guest_port: int = 40000, room: int = 1 << 20) -> tuple[socket.socket, Packet]:
        """A program of the guest connected to a listener of the host: what that accepted, and the RESPONSE."""
        listener = self.host.listen(port)
        self.guest.send(Op.REQUEST, guest_port, port, buf_alloc=room)
        response = self.guest.expect(Op.RESPONSE)
        return self.host.accept(listener), response


@contextlib.contextmanager
def scene(folder: Path, buffers: int = BUFFERS) -> Iterator[Scene]:
    path = folder / "v"
    with (
        serve("vsock", "--uds-path", str(path)) as served,
        contextlib.closing(Host(path)) as host,
        FrontEnd.connect(served.path) as vm,
    ):
        yield Scene(served, vm, host, buffers)


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path) as made:
        yield made
    vars(made).clear()  # pytest keeps it longer than the descriptors may live


def closed(sock: socket.socket) -> bool:
    """Whether the other end has gone, with nothing left to be read."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


# --- opening


def test_the_configuration_space_is_the_guests_address(at: Scene) -> None:
    assert at.vm.config(0, 8) == (3).to_bytes(8, "little")
    assert at.vm.max_queues == 2


def test_a_client_talks_to_a_program_of_the_guest(at: Scene) -> None:
    client, request = at.to_guest(5000)
    assert (request.src_cid, request.dst_cid, request.dst_port) == (2, 3, 5000)
    client.sendall(b"question")
    assert at.guest.expect(Op.RW).payload == b"question"
    at.guest.reply(request, Op.RW, b"answer")
    assert client.recv(64) == b"answer"


def test_what_a_client_says_behind_its_first_line_is_kept(at: Scene) -> None:
    client = at.host.client()
    client.sendall(b"connect 5000\r\nearly")
    request = at.guest.expect(Op.REQUEST)
    at.guest.reply(request, Op.RESPONSE)
    assert at.guest.expect(Op.RW).payload == b"early"


def test_a_port_of_the_guest_where_nobody_listens(at: Scene) -> None:
    client = at.host.client(5000)
    at.guest.reply(at.guest.expect(Op.REQUEST), Op.RST)
    assert closed(client)


@pytest.mark.parametrize(
    "line", [b"CONNECT\n", b"CONNECT x\n", b"CONNECT -1\n", b"CONNECT 4294967296\n", b"HELLO 5\n", b"\n", b"C" * 40]
)
def test_a_client_that_does_not_say_what_it_wants_is_turned_away(at: Scene, line: bytes) -> None:
    client = at.host.client()
    client.sendall(line)
    assert closed(client)
    at.to_guest(5000)


def test_a_first_line_may_come_in_pieces(at: Scene) -> None:
    client = at.host.client()
    for piece in (b"CONN", b"ECT 50", b"00", b"\n"):
        client.sendall(piece)
        time.sleep(0.02)
    assert at.guest.expect(Op.REQUEST).dst_port == 5000


def test_a_program_of_the_guest_talks_to_one_of_the_host(at: Scene) -> None:
    accepted, response = at.to_host(5000, guest_port=40000)
    assert (response.src_port, response.dst_port) == (5000, 40000)
    at.guest.send(Op.RW, 40000, 5000, b"question")
    assert accepted.recv(64) == b"question"
    accepted.sendall(b"answer")
    assert at.guest.expect(Op.RW).payload == b"answer"


def test_a_port_of_the_host_where_nobody_listens(at: Scene) -> None:
    at.guest.send(Op.REQUEST, 40000, 5001)
    reset = at.guest.expect(Op.RST)
    assert (reset.src_port, reset.dst_port) == (5001, 40000)


@pytest.mark.parametrize(
    ("host_port", "guest_port", "granted"),
    [(252, 1023, True), (252, 1024, False), (1023, 40000, False), (1024, 40000, True), (0, 1024, False)],
)
def test_privileged_ports_are_for_privileged_programs(
    at: Scene, host_port: int, guest_port: int, granted: bool
) -> None:
    at.host.listen(host_port)
    at.guest.send(Op.REQUEST, guest_port, host_port)
    at.guest.expect(Op.RESPONSE if granted else Op.RST)


def test_a_listener_that_does_not_accept_refuses_and_holds_nobody_up(at: Scene) -> None:
    at.host.listen(5000, backlog=1)
    answers = []
    for port in range(40000, 40010):
        at.guest.send(Op.REQUEST, port, 5000)
        answers.append(at.guest.next().op)
    assert answers.count(Op.RESPONSE) == 2  # a backlog of one holds two
    assert answers.count(Op.RST) == 8
    at.to_guest(6000)


# --- ending


def test_the_host_ends_its_direction_and_goes_on_receiving(at: Scene) -> None:
    client, request = at.to_guest()
    client.sendall(b"all")
    client.shutdown(socket.SHUT_WR)
    assert at.guest.expect(Op.RW).payload == b"all"
    assert at.guest.expect(Op.SHUTDOWN).flags == Shutdown.SEND
    at.guest.reply(request, Op.RW, b"still")
    assert client.recv(64) == b"still"
    at.guest.reply(request, Op.SHUTDOWN, flags=BOTH)
    assert closed(client)
    at.guest.expect(Op.RST)


def test_the_guest_ends_its_direction_and_goes_on_receiving(at: Scene) -> None:
    client, request = at.to_guest()
    at.guest.reply(request, Op.RW, b"all")
    at.guest.reply(request, Op.SHUTDOWN, flags=Shutdown.SEND)
    assert client.recv(64) == b"all"
    assert client.recv(64) == b""
    client.sendall(b"still")
    assert at.guest.expect(Op.RW).payload == b"still"
    client.close()
    assert at.guest.expect(Op.SHUTDOWN).flags == BOTH


def test_a_guest_that_receives_no_more(at: Scene) -> None:
    client, request = at.to_guest()
    at.guest.reply(request, Op.SHUTDOWN, flags=Shutdown.RCV)

    def fails() -> bool:
        try:
            client.sendall(b"x")
        except BrokenPipeError:
            return True
        return False

    eventually(fails)
    at.guest.reply(request, Op.RW, b"yet it sends")
    assert client.recv(64) == b"yet it sends"


def test_a_client_that_closes(at: Scene) -> None:
    client, request = at.to_guest()
    client.sendall(b"last words")
    client.close()
    assert at.guest.expect(Op.RW).payload == b"last words"
    assert at.guest.expect(Op.SHUTDOWN).flags == BOTH
    at.guest.reply(request, Op.RW, b"to nobody")
    at.guest.reply(request, Op.RST)
    at.guest.reply(request, Op.RW, b"after the end")
    at.guest.expect(Op.RST)


def test_a_reset_of_the_guest_ends_the_client_after_all_that_was_sent(at: Scene) -> None:
    client, request = at.to_guest()
    sent = os.urandom(200_000)
    for start in range(0, len(sent), 50_000):
        at.guest.reply(request, Op.RW, sent[start : start + 50_000])
    at.guest.reply(request, Op.RST)
    seen = b""
    while data := client.recv(65536):
        seen += data
    assert seen == sent


def test_a_client_that_leaves_before_the_guest_has_answered(at: Scene) -> None:
    client = at.host.client(5000)
    request = at.guest.expect(Op.REQUEST)
    client.close()
    reset = at.guest.expect(Op.RST)
    assert (reset.src_port, reset.dst_port) == (request.src_port, 5000)
    at.guest.reply(request, Op.RESPONSE)
    at.guest.expect(Op.RST)


# --- a hostile or broken guest


@pytest.mark.parametrize("op", [Op.INVALID, Op.RESPONSE, Op.REQUEST, 99])
def test_a_packet_out_of_place_ends_its_connection_and_no_other(at: Scene, op: int) -> None:
    client, request = at.to_guest(5000)
    other, other_request = at.to_guest(5001)
    at.guest.reply(request, op)
    at.guest.expect(Op.RST)
    assert closed(client)
    at.guest.reply(other_request, Op.RW, b"alive")
    assert other.recv(64) == b"alive"


def test_packets_of_no_connection_are_reset(at: Scene) -> None:
    for op in (Op.RW, Op.RESPONSE, Op.SHUTDOWN, Op.CREDIT_UPDATE, Op.CREDIT_REQUEST):
        at.guest.send(op, 1, 2)
        reset = at.guest.expect(Op.RST)
        assert (reset.src_port, reset.dst_port) == (2, 1)
    at.guest.send(Op.RST, 1, 2)
    at.guest.send(Op.REQUEST, 1, 5000, type=2)  # SEQPACKET is not offered
    assert at.guest.expect(Op.RST).type == 2


def test_packets_with_addresses_that_are_not_ours_are_dropped(at: Scene) -> None:
    at.guest.send(Op.RW, 1, 2, src_cid=4)
    at.guest.send(Op.RW, 1, 2, dst_cid=5)
    at.guest.send_raw(b"short")
    at.guest.send(Op.RW, 7, 8)
    assert at.guest.expect(Op.RST).dst_port == 7


def test_more_than_there_was_credit_for(at: Scene) -> None:
    client, request = at.to_guest()
    assert request.buf_alloc == 256 << 10
    for _ in range(20):  # nobody reads: what the socket takes counts as read
        at.guest.reply(request, Op.RW, bytes(60_000))
    at.guest.expect(Op.RST)
    while not closed(client):
        pass


def test_bytes_received_that_were_never_sent(at: Scene) -> None:
    client, request = at.to_guest()
    client.sendall(b"12345")
    at.guest.expect(Op.RW)
    at.guest.reply(request, Op.CREDIT_UPDATE, fwd_cnt=5)
    at.guest.reply(request, Op.CREDIT_UPDATE, fwd_cnt=3)  # overtaken by a later one: ignored
    client.sendall(b"6")
    assert at.guest.expect(Op.RW).payload == b"6"
    at.guest.reply(request, Op.CREDIT_UPDATE, fwd_cnt=7)
    at.guest.expect(Op.RST)


def test_a_payload_that_is_not_there(at: Scene) -> None:
    client, request = at.to_guest()
    at.guest.send(Op.RW, 5000, request.src_port, b"abc", length=4)
    at.guest.expect(Op.RST)
    assert closed(client)


@pytest.mark.parametrize("sizes", [(1, 43, 5), (44, 2, 3), (40, 9), (49,), (10, 10, 10, 19)])
def test_any_framing(at: Scene, sizes: tuple[int, ...]) -> None:
    client, request = at.to_guest()
    at.guest.send(Op.RW, 5000, request.src_port, b"hello", sizes=sizes)
    assert client.recv(64) == b"hello"
    at.guest.give(1, [20, 24, 2, 3])
    at.guest.use_up()
    client.sendall(b"world")
    assert at.guest.expect(Op.RW).payload == b"world"
