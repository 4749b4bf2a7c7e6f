"""One connection's state, by the packets of a guest that may say anything."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from subos_devices.vsock.connection import BOTH, HALF, MASK, RCV, SEND, Connection, Event
from subos_protocol.vsock import Op

ROOM = 1000
U32 = st.integers(0, MASK)


def opened(room: int = ROOM, peer_room: int = 500) -> Connection:
    """The guest has asked, and was told that it is open."""
    connection = Connection.from_guest(80, 40000, room, peer_room)
    assert connection.say() == (Op.RESPONSE, 0)
    connection.stamp()
    return connection


def said(connection: Connection) -> list[tuple[int, int]]:
    found = []
    while connection.due:
        found.append(connection.say())
        connection.stamp()
    return found


def test_a_client_asks_the_guest() -> None:
    connection = Connection.to_guest(1, 2, ROOM)
    assert not connection.is_known
    assert connection.credit == 0
    assert said(connection) == [(Op.REQUEST, 0)]
    assert connection.is_known
    assert connection.receive(Op.RESPONSE, 0, 0, 500, 0) is Event.OPENED
    assert connection.credit == 500
    assert connection.receive(Op.RESPONSE, 0, 0, 500, 0) is Event.BROKEN


def test_an_answer_before_the_question() -> None:
    assert Connection.to_guest(1, 2, ROOM).receive(Op.RESPONSE, 0, 0, 500, 0) is Event.BROKEN


def test_nothing_but_an_answer_before_it_is_open() -> None:
    for op in (Op.RW, Op.SHUTDOWN, Op.CREDIT_UPDATE, Op.CREDIT_REQUEST, Op.REQUEST):
        connection = Connection.to_guest(1, 2, ROOM)
        said(connection)
        assert connection.receive(op, 0, 0, 500, 0) is Event.BROKEN


def test_credit_of_the_guest_goes_down_and_up() -> None:
    connection = opened(peer_room=500)
    connection.sent(300)
    assert connection.credit == 200
    connection.receive(Op.CREDIT_UPDATE, 0, 0, 500, 100)
    assert connection.credit == 300
    connection.receive(Op.CREDIT_UPDATE, 0, 0, 100, 100)  # it has made its buffer smaller than what is on its way
    assert connection.credit == 0


def test_counters_wrap() -> None:
    connection = opened(peer_room=500)
    moved = 0
    while moved < (1 << 32) + 1000:
        connection._sent = connection._peer_fwd_cnt = moved & MASK  # as if so much had gone
        connection.sent(500)
        assert connection.credit == 0
        assert connection.receive(Op.CREDIT_UPDATE, 0, 0, 500, (moved + 500) & MASK) is Event.NOTHING
        assert connection.credit == 500
        connection._received = connection.fwd_cnt = connection._told_fwd_cnt = moved & MASK
        assert connection.receive(Op.RW, 0, ROOM, 500, (moved + 500) & MASK) is Event.DATA
        connection.forwarded(ROOM)
        assert said(connection) == [(Op.CREDIT_UPDATE, 0)]
        moved += (1 << 29) - 7


def test_more_payload_than_room() -> None:
    connection = opened()
    assert connection.receive(Op.RW, 0, ROOM, 0, 0) is Event.DATA
    connection.forwarded(10)
    assert connection.receive(Op.RW, 0, 11, 0, 0) is Event.BROKEN


def test_the_guest_is_told_of_room_when_half_of_it_may_seem_used() -> None:
    connection = opened(peer_room=ROOM)
    connection.receive(Op.RW, 0, 499, ROOM, 0)
    connection.forwarded(499)
    assert said(connection) == []
    connection.receive(Op.RW, 0, 1, ROOM, 0)
    connection.forwarded(1)
    assert said(connection) == [(Op.CREDIT_UPDATE, 0)]
    assert connection.stamp() == (ROOM, 500)


def test_counting_what_was_never_sent_is_the_end_and_counting_backwards_is_not() -> None:
    connection = opened()
    connection.sent(100)
    assert connection.receive(Op.CREDIT_UPDATE, 0, 0, 500, 80) is Event.NOTHING
    assert connection.receive(Op.CREDIT_UPDATE, 0, 0, 500, 50) is Event.NOTHING
    assert connection.credit == 480
    assert connection.receive(Op.CREDIT_UPDATE, 0, 0, 500, 101) is Event.BROKEN


def test_half_closes() -> None:
    connection = opened()
    connection.end(SEND)
    connection.end(SEND)
    assert said(connection) == [(Op.SHUTDOWN, SEND)]
    assert connection.receive(Op.RW, 0, 5, 500, 0) is Event.DATA
    assert connection.receive(Op.SHUTDOWN, SEND, 0, 500, 0) is Event.ENDED
    assert connection.guest_ended == SEND
    assert connection.receive(Op.RW, 0, 5, 500, 0) is Event.BROKEN
    connection.end(BOTH)
    assert said(connection) == [(Op.SHUTDOWN, BOTH)]
    assert connection.receive(Op.SHUTDOWN, RCV | 1 << 20, 0, 500, 0) is Event.ENDED
    assert connection.guest_ended == BOTH
    assert connection.credit == 0


packets = st.tuples(st.integers(0, 9), U32, st.one_of(U32, st.integers(0, 2 * ROOM)), U32, U32)
steps = st.one_of(
    packets,
    st.tuples(st.just("forward"), st.integers(0, ROOM)),
    st.tuples(st.just("send"), st.integers(0, ROOM)),
    st.tuples(st.just("end"), st.integers(1, 3)),
    st.tuples(st.just("say"), st.just(0)),
)


@settings(max_examples=300)
@given(st.booleans(), st.lists(steps, max_size=40))
def test_any_packets_neither_raise_nor_let_the_backlog_grow(by_guest: bool, script: list[tuple]) -> None:
    connection = Connection.from_guest(1, 2, ROOM, 100) if by_guest else Connection.to_guest(1, 2, ROOM)
    backlog = 0
    for step in script:
        if step[0] == "forward":
            count = min(step[1], backlog)
            backlog -= count
            connection.forwarded(count)
        elif step[0] == "send":
            connection.sent(min(step[1], connection.credit))
        elif step[0] == "end":
            connection.end(step[1])
        elif step[0] == "say":
            assert len(said(connection)) <= 3
        else:
            event = connection.receive(*step)
            if event in (Event.BROKEN, Event.GONE):
                return
            if event is Event.DATA:
                backlog += step[2]
        assert 0 <= backlog <= ROOM
        assert 0 <= connection.credit <= MASK
        assert (connection._sent - connection._peer_fwd_cnt) & MASK < HALF
