"""The state machine: two of them joined by lists of bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subos_protocol.agent.connection import (
    CHUNK,
    WINDOW,
    Cancelled,
    Connection,
    Ended,
    Event,
    Limits,
    Lost,
    NotReady,
    PeerIs,
    Received,
    Replied,
    Requested,
)
from subos_protocol.agent.frames import FLUSH, Frame, FrameType, pack_head
from subos_protocol.agent.hello import Hello
from subos_protocol.errors import ProtocolError


def hello(name: str) -> Hello:
    return Hello(name, "1", ["echo"])


def joined() -> tuple[Connection, Connection]:
    one, two = Connection(hello("one"), opener=True), Connection(hello("two"), opener=False)
    exchange(one, two)
    assert one.is_ready
    assert two.is_ready
    return one, two


def exchange(one: Connection, two: Connection) -> tuple[list[Event], list[Event]]:
    """Until nobody has more to say: (what `one` heard, what `two` heard)."""
    heard: tuple[list[Event], list[Event]] = ([], [])
    while True:
        there, back = one.data_to_send(), two.data_to_send()
        if not there and not back:
            return heard
        heard[1].extend(two.receive(there))
        heard[0].extend(one.receive(back))


def test_both_know_each_other_after_three_hellos() -> None:
    one, two = Connection(hello("one"), opener=True), Connection(hello("two"), opener=False)
    assert two.data_to_send() == b""
    heard_one, heard_two = exchange(one, two)
    assert heard_one == [PeerIs(two.hello.__class__(**{**vars(two.hello), "seen": one.hello.instance}))]
    assert [event.hello.software for event in heard_two if isinstance(event, PeerIs)] == ["one"]


def test_a_request_before_that_is_refused() -> None:
    with pytest.raises(NotReady):
        Connection(hello("one"), opener=True).request({"op": "x"})


def test_a_request_with_data_and_a_reply() -> None:
    one, two = joined()
    number = one.request({"op": "cat"})
    one.send(number, b"abc", 7)
    one.event(number, {"size": 3})
    one.end(number)
    assert exchange(one, two)[1] == [
        Requested(1, {"op": "cat"}),
        Received(1, 7, b"abc", 64),
        Received(1, 0, b'{"size":3}', 64, True),
        Ended(1),
    ]
    two.send(1, b"abc")
    two.reply(1, {"status": 0})
    assert exchange(one, two)[0] == [Received(1, 0, b"abc", 64), Replied(1, {"status": 0})]
    assert not one.is_open(1)
    assert not two.is_open(1)


def test_the_other_side_opens_even_streams() -> None:
    one, two = joined()
    assert [two.request({}), two.request({}), one.request({}), one.request({})] == [2, 4, 1, 3]


def test_data_waits_for_credit_and_other_streams_do_not() -> None:
    one, two = joined()
    large, small = one.request({"op": "large"}), one.request({"op": "small"})
    one.send(large, bytes(3 * WINDOW))
    one.send(small, b"key")
    heard = exchange(one, two)[1]
    got = [event for event in heard if isinstance(event, Received)]
    assert sum(len(event.content) for event in got if event.stream == large) == WINDOW
    assert [event.content for event in got if event.stream == small] == [b"key"]
    assert [event.stream for event in got].index(small) <= 2  # it did not wait for the large one
    assert one.queued(large) == 2 * WINDOW
    for event in got:
        two.consumed(event.stream, event.cost)
    again = [event for event in exchange(one, two)[1] if isinstance(event, Received)]
    assert sum(len(event.content) for event in again) == WINDOW


def test_more_than_was_granted_ends_it() -> None:
    one, two = joined()
    one.request({"op": "x"})
    exchange(one, two)
    flood = Frame(FrameType.DATA, 1, bytes(CHUNK)).pack()
    for _ in range(WINDOW // CHUNK):
        two.receive(flood)
    with pytest.raises(ProtocolError):
        two.receive(Frame(FrameType.DATA, 1, b"").pack())  # even an empty one costs


def test_too_many_requests_are_busy() -> None:
    one, two = joined()
    two._limits = Limits(streams=2)
    numbers = [one.request({"op": "x"}) for _ in range(3)]
    heard = exchange(one, two)[0]
    assert [(event.stream, event.head["error"]) for event in heard if isinstance(event, Cancelled)] == [
        (numbers[2], "busy")
    ]


def test_endless_pings_without_reading_end_it() -> None:
    _, two = joined()
    ping = Frame(FrameType.PING, 0, b"12345678").pack()
    with pytest.raises(ProtocolError, match="does not read"):
        two.receive(ping * 2000)


def test_a_ping_is_answered() -> None:
    _, two = joined()
    two.receive(Frame(FrameType.PING, 0, b"12345678").pack())
    assert two.data_to_send() == Frame(FrameType.PONG, 0, b"12345678").pack()


def test_cancel_drops_what_waits_and_late_frames_are_skipped() -> None:
    one, two = joined()
    number = one.request({"op": "x"})
    exchange(one, two)
    two.send(number, bytes(10))
    late = two.data_to_send()
    one.send(number, bytes(2 * WINDOW))
    one.cancel(number, {"error": "cancelled"})
    assert exchange(one, two)[1] == [Cancelled(number, {"error": "cancelled"})]
    assert one.receive(late) == []
    one.cancel(number, {})
    assert one.data_to_send() == b""


def test_unknown_frames_and_streams_are_skipped() -> None:
    _, two = joined()
    assert two.receive(Frame(99, 3, b"what").pack() + Frame(FrameType.DATA, 77, b"who").pack()) == []
    assert two.data_to_send() == b""


@pytest.mark.parametrize("number", [0, 2])
def test_a_request_with_our_numbers_ends_it(number: int) -> None:
    _, two = joined()
    with pytest.raises(ProtocolError):
        two.receive(Frame(FrameType.REQUEST, number, b"{}").pack())


def test_a_number_is_used_once() -> None:
    _, two = joined()
    two.receive(Frame(FrameType.REQUEST, 5, b"{}").pack())
    with pytest.raises(ProtocolError):
        two.receive(Frame(FrameType.REQUEST, 3, b"{}").pack())


def test_a_new_process_at_the_other_end_of_the_same_transport() -> None:
    one = Connection(hello("one"), opener=True, shared=True)
    two = Connection(hello("two"), opener=False, shared=True)
    exchange(one, two)
    number = two.request({"op": "x"})
    exchange(one, two)
    one.send(number, bytes(100))
    half = one.data_to_send()[:50]
    two.receive(half)
    new = Connection(hello("new"), opener=True, shared=True)
    heard = two.receive(FLUSH + new.data_to_send())
    assert Lost([number]) in heard
    heard_new, heard_two = exchange(new, two)
    assert any(isinstance(event, PeerIs) for event in heard_new)
    assert [event.hello.software for event in heard_two if isinstance(event, PeerIs)] == ["new"]
    assert new.request({"op": "y"}) == 1
    assert Requested(1, {"op": "y"}) in exchange(new, two)[1]


def test_a_new_process_skips_what_was_meant_for_the_old_one() -> None:
    two = Connection(hello("two"), opener=False, shared=True)
    one = Connection(hello("one"), opener=True, shared=True)
    exchange(one, two)
    number = two.request({"op": "x"})
    two.send(number, b"\1" + bytes(range(256)) * 20)
    rest = two.data_to_send()[100:]
    new = Connection(hello("new"), opener=True, shared=True)
    assert new.receive(rest) == []
    exchange(new, two)
    assert new.is_ready
    assert two.is_ready


def test_a_hello_that_was_lost_is_made_up_for_by_the_next() -> None:
    one = Connection(hello("one"), opener=True, shared=True)
    two = Connection(hello("two"), opener=False, shared=True)
    one.data_to_send()
    one.say_hello()
    two.receive(one.data_to_send())
    two.data_to_send()  # its answer is lost
    one.say_hello()
    exchange(one, two)
    assert one.is_ready
    assert two.is_ready


frames = st.builds(
    Frame,
    st.integers(0, 12),
    st.integers(0, 6),
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [
                b"{}",
                b'{"op":"x"}',
                struct.pack("<I", 0xFFFFFFFF),
                struct.pack("<I", 0x7FFFFFFF),
                b"12345678",
                pack_head(hello("x").head(None)),
            ]
        ),
    ),
    st.integers(0, 255),
)


@settings(max_examples=300)
@given(st.lists(frames, max_size=30), st.integers(1, 50))
def test_whatever_comes_only_protocol_errors_and_bounded_memory(sent: list[Frame], size: int) -> None:
    one, two = joined()
    mine = two.request({"op": "mine"})
    exchange(one, two)
    data = b"".join(frame.pack() for frame in sent)
    try:
        for at in range(0, len(data), size):
            for event in two.receive(data[at : at + size]):
                if isinstance(event, Requested) and two.is_open(event.stream):
                    two.send(event.stream, bytes(100))
                    two.reply(event.stream, {})
            if two.is_open(mine):
                two.send(mine, b"x")
            two.data_to_send()
    except ProtocolError:
        return
    assert len(two._heard) <= size + (1 << 16) + 12
    assert len(two._streams) <= 66


@given(st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes(data: bytes, shared: bool) -> None:
    connection = Connection(hello("x"), opener=False, shared=shared)
    try:
        connection.receive(data)
    except ProtocolError:
        return
    assert not connection._streams


def test_requests_that_are_taken_back_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The transport takes nothing meanwhile: nobody asks for what is to be sent."""
    one, two = joined()
    for _ in range(1000):
        number = one.request({"op": "x"})
        two.receive(one.data_to_send())
        two.reply(number, {})
        one.cancel(number, {})
        two.receive(one.data_to_send())
    assert not two._streams
    assert not two._turns
    assert not two._control
