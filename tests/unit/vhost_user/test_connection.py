"""Framing and descriptor passing over a socket pair."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subos_devices.vhost_user.connection import MAX_FDS, Message, MessageStream, receive_with_fds
from subos_devices.vhost_user.errors import BadMessage
from subos_protocol.vhost_user import MAX_PAYLOAD, HeaderFlag, pack_message
from support.processes import descriptors


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, MessageStream]]:
    """The front end's plain socket, and the stream that reads what it says."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    stream = MessageStream(ours)
    try:
        yield theirs, stream
    finally:
        stream.close()
        theirs.close()


def send_with(sock: socket.socket, data: bytes, *fds: int) -> None:
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())])


def test_a_message_and_its_descriptors() -> None:
    with pair() as (theirs, stream), open(os.devnull) as null:
        send_with(theirs, pack_message(5, b"payload", 9), null.fileno(), null.fileno())
        message = stream.receive()
        assert message
        assert (message.request, message.payload, len(message.fds)) == (5, b"payload", 2)
        assert message.needs_reply
        assert all(os.path.sameopenfile(fd, null.fileno()) for fd in message.fds)
        assert not any(os.get_inheritable(fd) for fd in message.fds)
        os.close(message.take_fd())
        message.close()
        assert message.fds == []
        with pytest.raises(BadMessage):
            message.take_fd()


def test_nothing_yet_and_the_end() -> None:
    with pair() as (theirs, stream):
        assert stream.receive() is None
        theirs.send(pack_message(1)[:5])
        assert stream.receive() is None
        theirs.close()
        with pytest.raises(EOFError):
            stream.receive()


def test_descriptors_stay_with_their_message() -> None:
    with pair() as (theirs, stream), open(os.devnull) as null:
        theirs.send(pack_message(1, b"first"))
        send_with(theirs, pack_message(2, b"second"), null.fileno())
        theirs.send(pack_message(3))
        counts = []
        for _ in range(3):
            message = stream.receive()
            assert message
            counts.append((message.request, len(message.fds)))
            message.close()
        assert counts == [(1, 0), (2, 1), (3, 0)]


def test_what_was_not_taken_is_closed_with_the_stream() -> None:
    before = descriptors()
    with pair() as (theirs, stream), open(os.devnull) as null:
        send_with(theirs, pack_message(1, b"cut")[:-1], null.fileno())
        assert stream.receive() is None
    assert descriptors() == before


def test_too_many_descriptors() -> None:
    before = descriptors()
    with pair() as (theirs, stream), open(os.devnull) as null:
        data = pack_message(1, b"ab")
        for byte in data[:2]:
            send_with(theirs, bytes([byte]), *[null.fileno()] * MAX_FDS)
        with pytest.raises(BadMessage, match=f"{2 * MAX_FDS} descriptors"):
            stream.receive()
    assert descriptors() == before


@pytest.mark.parametrize(
    "header",
    [
        pack_message(1, flags=HeaderFlag.VERSION)[:8] + (MAX_PAYLOAD + 1).to_bytes(4, "little"),
        pack_message(1, flags=0),
        pack_message(1, flags=2),
        b"GET / HTTP/1",
    ],
)
def test_headers_that_are_not_vhost_users(header: bytes) -> None:
    with pair() as (theirs, stream):
        theirs.send(header)
        with pytest.raises(BadMessage, match="not a vhost-user header"):
            stream.receive()


def test_sending() -> None:
    with pair() as (theirs, stream), open(os.devnull) as null:
        stream.send(24, b"data", HeaderFlag.REPLY, [null.fileno()])
        data, ancillary, _, _ = theirs.recvmsg(100, 100)
        assert data == bytes.fromhex("18000000 05000000 04000000") + b"data"
        [(_, _, fds)] = ancillary
        os.close(array.array("i", fds)[0])


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 50), st.binary(max_size=50), st.integers(0, 3)), max_size=6), st.data())
def test_any_cutting_gives_the_same_messages(messages: list[tuple[int, bytes, int]], data: st.DataObject) -> None:
    before = descriptors()
    with pair() as (theirs, stream), open(os.devnull) as null:
        received = []

        def read() -> None:
            while message := stream.receive():
                received.append((message.request, message.payload, len(message.fds)))
                message.close()

        for request, payload, fds in messages:
            whole = pack_message(request, payload)
            first = data.draw(st.integers(1, len(whole)))
            send_with(theirs, whole[:first], *[null.fileno()] * fds)
            if data.draw(st.booleans()):
                read()
            if whole[first:]:
                theirs.send(whole[first:])
        read()
        assert received == messages
    assert descriptors() == before


def read_to_the_end(stream: MessageStream) -> None:
    while True:
        message = stream.receive()
        assert isinstance(message, Message)
        message.close()


@settings(max_examples=300)
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.integers(0, 3)), max_size=8))
def test_any_bytes_are_messages_or_refused_and_leak_nothing(pieces: list[tuple[bytes, int]]) -> None:
    before = descriptors()
    with pair() as (theirs, stream), open(os.devnull) as null:
        for piece, fds in pieces:
            send_with(theirs, piece, *[null.fileno()] * fds)
        theirs.close()
        with pytest.raises((EOFError, BadMessage)):
            read_to_the_end(stream)
    assert descriptors() == before


def test_what_is_received_is_looked_at_first_and_inherited_by_nobody() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right, open(os.devnull) as null:
        socket.send_fds(left, [b"data"], [null.fileno()])
        for flags in (socket.MSG_PEEK, socket.MSG_PEEK, 0):
            data, [fd] = receive_with_fds(right, 100, 1, flags)
            assert (data, os.get_inheritable(fd), os.path.sameopenfile(fd, null.fileno())) == (b"data", False, True)
            os.close(fd)
        with pytest.raises(BlockingIOError):
            receive_with_fds(right, 100, 1, socket.MSG_DONTWAIT)
