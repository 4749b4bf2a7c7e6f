"""What a supervisor and its holder say to each other, byte by byte."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from subos_devices.supervisor.packets import PIECE, Backlog, Inbox, Packet, packets, send, send_whole
from support.processes import descriptors

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    before = descriptors()
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        yield left, right
    assert descriptors() == before


def test_the_bytes_of_a_message(pair: Pair) -> None:
    assert list(packets({"op": "ping"})) == [Packet(b'.[{"op": "ping"}, 0]', ())]
    left, right = pair
    inbox = Inbox(right)
    assert inbox.receive() is None
    with open(os.devnull) as null:
        send(left, Packet(b'+[{"op": "for', [null.fileno()]))
        assert inbox.receive() is None
        send(left, Packet(b'.get", "name": "rng"}, 2]', [null.fileno()]))
    message = inbox.receive()
    assert message is not None
    assert (message.body, message.complete) == ({"op": "forget", "name": "rng"}, True)
    assert [os.readlink(f"/proc/self/fd/{fd}") for fd in message.fds] == [os.devnull] * 2
    message.close()


def test_what_does_not_fit_into_one_packet_comes_whole(pair: Pair) -> None:
    left, right = pair
    body = {"text": "x" * (2 * PIECE)}
    with open(os.devnull) as null:
        send_whole(left, body, [null.fileno()] * 450)
    message = Inbox(right).receive()
    assert message is not None
    assert (message.body, len(message.fds), message.complete) == (body, 450, True)
    message.close()


def test_a_message_whose_sender_died_in_the_middle_was_never_sent(pair: Pair) -> None:
    left, right = pair
    inbox = Inbox(right)
    with open(os.devnull) as null:
        send(left, Packet(b'+[{"op": "for', [null.fileno()]))
    left.close()
    with pytest.raises(EOFError):
        inbox.receive()
    inbox.close()


@pytest.mark.parametrize("data", [b".", b".nonsense", b".[1, 0]", b".{}", b'.[{"op": 1}]', b"." + b"[" * 60000])
def test_what_is_no_message(pair: Pair, data: bytes) -> None:
    left, right = pair
    with open(os.devnull) as null:
        send(left, Packet(data, [null.fileno()]))
    with pytest.raises(ValueError, match="no message"):
        Inbox(right).receive()


def test_descriptors_that_there_is_no_room_for_are_missed(pair: Pair) -> None:
    left, right = pair
    with open(os.devnull) as null:
        send(left, Packet(b'.[{"op": "note"}, 2]', [null.fileno()]))
    message = Inbox(right).receive()
    assert message is not None
    assert (len(message.fds), message.complete) == (1, False)
    message.close()


def test_what_there_is_no_room_for_goes_later_and_in_order(pair: Pair) -> None:
    left, right = pair
    left.setblocking(False)
    backlog, inbox = Backlog(left), Inbox(right)
    sent = 0
    with open(os.devnull) as null:
        while not backlog.is_waiting or sent % 10:
            backlog.put({"number": sent, "text": "x" * 10000}, [null.fileno()])
            sent += 1
    heard = 0
    while heard < sent:
        message = inbox.receive()
        if message is None:
            backlog.flush()
            continue
        assert (message.body["number"], len(message.fds)) == (heard, 1)
        message.close()
        heard += 1
    assert not backlog.is_waiting
    with open(os.devnull) as null:
        while not backlog.is_waiting:
            backlog.put({"text": "x" * 10000}, [null.fileno()])
    backlog.close()
    right.close()  # and what it has not read
    backlog.put({"op": "ping"})  # nobody is there
    assert not backlog.is_waiting


def test_all_that_was_said_is_heard_of_one_who_died_before_reading_everything(pair: Pair) -> None:
    left, right = pair
    inbox = Inbox(right)
    send_whole(right, {"op": "never read"})
    send_whole(left, {"op": "note"})
    left.close()
    message = inbox.receive()
    assert message is not None
    assert message.body == {"op": "note"}
    with pytest.raises(EOFError):
        inbox.receive()
