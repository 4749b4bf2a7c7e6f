"""X11's requests, as python-xlib 0.33 packs them; what a server sends, as Xvfb 21.1 sent it."""

from __future__ import annotations

import contextlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_desktop.clipboard.interface import CHUNK
from subos_desktop.clipboard.x11 import requests, wire
from subos_desktop.clipboard.x11.requests import EventMask
from subos_desktop.clipboard.x11.wire import (
    SENT,
    Code,
    Decoder,
    DestroyNotify,
    Extension,
    Message,
    Property,
    PropertyNotify,
    Reply,
    SelectionNotify,
    SelectionRequest,
    WireError,
    XError,
    XFixesSelectionNotify,
)

pytestmark = pytest.mark.skipif(sys.byteorder == "big", reason="the bytes are a little-endian machine's")

REQUESTS = [
    (
        requests.create_window(0x200001, 0x51E, EventMask.PropertyChange),
        "01000900 01002000 1e050000 ffffffff 01000100 00000200 00000000 00080000 00004000",
    ),
    (
        requests.select_events(0x200001, EventMask.PropertyChange | EventMask.StructureNotify),
        "02000400 01002000 00080000 00004200",
    ),
    (requests.destroy_window(0x200001), "04000200 01002000"),
    (requests.intern_atom("CLIPBOARD"), "10000500 09000000 434c4950 424f4152 44000000"),
    (requests.get_atom_name(0x123), "11000200 23010000"),
    (
        requests.change_property(0x200001, 0x120, 31, 8, 5),
        "12000800 01002000 20010000 1f000000 08000000 05000000",
    ),
    (
        requests.change_property(0x200001, 0x120, requests.ATOM, 32, 8) + requests.words([1, 0xFFFFFFFF]),
        "12000800 01002000 20010000 04000000 20000000 02000000 01000000 ffffffff",
    ),
    (  # by the specification of BIG-REQUESTS: no length where it usually is, then it, in 32 bits
        requests.change_property(0x200001, 0x120, 31, 8, 0x40000),
        "12000000 07000100 01002000 20010000 1f000000 08000000 00000400",
    ),
    (
        requests.get_property(0x200001, 0x120, requests.ANY_PROPERTY_TYPE, 65536, 65536, delete=True),
        "14010600 01002000 20010000 00000000 00000100 00000100",
    ),
    (requests.set_selection_owner(0x200001, 0x11F, 0), "16000400 01002000 1f010000 00000000"),
    (requests.get_selection_owner(0x11F), "17000200 1f010000"),
    (
        requests.convert_selection(0x200001, 0x11F, 0x121, 0x120),
        "18000600 01002000 1f010000 21010000 20010000 00000000",
    ),
    (
        requests.send_selection_notify(0x1234, 0x400001, 0x11F, 0x121, 0x120),
        "19000b00 01004000 00000000 1f000000 34120000 01004000 1f010000 21010000 20010000 00000000 00000000",
    ),
    (requests.query_extension("XFIXES"), "62000400 06000000 58464958 45530000"),
    (requests.big_requests_enable(133), "85000100"),
    (requests.xfixes_query_version(138), "8a000300 02000000 00000000"),
    (requests.xfixes_select_selection_input(138, 0x200001, 0x11F), "8a020400 01002000 1f010000 07000000"),
]

MADE = bytes.fromhex("01000600 00000000 ed000000") + bytes(20)
NAME = bytes.fromhex("01000700 02000000 07000000") + bytes(20) + b"PRIMARY\0"
FOUND = bytes.fromhex("01000100 00000000 018a578c") + bytes(20)
HALF = bytes.fromhex("01080f00 01000000 1f000000 01000000 04000000") + bytes(12) + b"hell"
NOT_SET = bytes.fromhex("01001100") + bytes(28)
NUMBERS = bytes.fromhex("01201300 02000000 04000000 00000000 02000000") + bytes(12) + b"\1\0\0\0\2\0\0\0"

REPLIES = [
    (MADE, wire.unpack_number, 6, 0xED),
    (NAME, wire.unpack_name, 7, "PRIMARY"),
    (FOUND, wire.unpack_extension, 1, Extension(1, 138, 87)),
    (HALF, wire.unpack_property, 15, Property(31, 8, 1, b"hell")),
    (NOT_SET, wire.unpack_property, 17, Property(0, 0, 0, b"")),
    (NUMBERS, wire.unpack_property, 19, Property(4, 32, 0, b"\1\0\0\0\2\0\0\0")),
]

EVENTS: list[tuple[bytes, Message]] = [
    (
        bytes.fromhex("57000b00 01002000 02002000 01000000 a40c2500 a30c2500") + bytes(8),
        XFixesSelectionNotify(0, 0x200001, 0x200002, 1, 0x250CA4, 0x250CA3),
    ),
    (
        bytes.fromhex("57010b00 01002000 00000000 01000000 a40c2500 a30c2500") + bytes(8),
        XFixesSelectionNotify(1, 0x200001, 0, 1, 0x250CA4, 0x250CA3),
    ),
    (
        bytes.fromhex("1c000d00 01002000 1f000000 3b0d2500 00000000") + bytes(12),
        PropertyNotify(0x200001, 31, wire.PropertyState.NewValue),
    ),
    (
        bytes.fromhex("1c001000 01002000 1f000000 060f2500 01000000") + bytes(12),
        PropertyNotify(0x200001, 31, wire.PropertyState.Deleted),
    ),
    (
        bytes.fromhex("1e000e00 00000000 01002000 02002000 01000000 1f000000 27000000 00000000"),
        SelectionRequest(0, 0x200001, 0x200002, 1, 31, 39),
    ),
    (
        bytes.fromhex("9f001400 34120000 01002000 01000000 1f000000 27000000 00000000 00000000"),
        SelectionNotify(0x1234, 0x200001, 1, 31, 39),
    ),
    (bytes.fromhex("11001900 02002000 01002000") + bytes(20), DestroyNotify(0x200001)),
]
UNKNOWN = bytes.fromhex("1d001500 67112500 01002000 01000000") + bytes(16)  # SelectionClear
BAD_WINDOW = bytes.fromhex("00031700 06002000 00001400") + bytes(20)


def decoded(*pieces: bytes) -> list[Message]:
    decoder = Decoder()
    decoder.expect_xfixes(87)
    found: list[Message] = []
    for piece in pieces:
        while piece:
            room = decoder.room()
            count = min(len(room), len(piece))
            room[:count], piece = piece[:count], piece[count:]
            found += decoder.taken(count)
    return found


@pytest.mark.parametrize(("packed", "data"), REQUESTS)
def test_requests(packed: bytes, data: str) -> None:
    assert packed == bytes.fromhex(data)


@pytest.mark.parametrize(("data", "unpack", "sequence", "answer"), REPLIES)
def test_replies(data: bytes, unpack: object, sequence: int, answer: object) -> None:
    (reply,) = decoded(data)
    assert isinstance(reply, Reply)
    assert reply.sequence == sequence
    assert unpack(reply) == answer  # type: ignore[operator]


@pytest.mark.parametrize(("data", "event"), EVENTS)
def test_events(data: bytes, event: Message) -> None:
    assert decoded(data) == [event]


def test_errors_tell_what_they_are_about() -> None:
    (error,) = decoded(BAD_WINDOW)
    assert isinstance(error, XError)
    assert (error.code, error.sequence, error.resource) == (3, 23, 0x200006)
    assert str(error) == "X error 3 of request 20.0, for 0x200006"


def test_what_another_client_makes_up_is_no_news() -> None:
    """But two events are a client's to send."""
    for data, event in EVENTS:
        sent = bytes([data[0] | SENT]) + data[1:]
        expected = [event] if isinstance(event, (SelectionNotify, SelectionRequest)) else []
        assert decoded(sent, MADE) == [*expected, *decoded(MADE)]
    forged = bytes([Code.GenericEvent | SENT, 0, 0, 0]) + b"\xff" * 28  # of no length, whatever it says
    assert decoded(forged, MADE) == decoded(MADE)


def test_what_nobody_needs_is_left_out() -> None:
    generic = bytes([Code.GenericEvent, 130, 1, 0, 2, 0, 0, 0]) + bytes(24) + bytes(8)
    assert decoded(UNKNOWN, generic, MADE) == decoded(MADE)


@pytest.mark.parametrize("code", [Code.Reply, Code.GenericEvent])
def test_a_message_has_an_end(code: Code) -> None:
    words = CHUNK // 4
    assert len(decoded(bytes([code, 0, 1, 0]) + words.to_bytes(4, "little") + bytes(24 + CHUNK), MADE)) >= 1
    for length in (words + 1, 0x3FFFFFFF, 0xFFFFFFFF):
        with pytest.raises(WireError):
            decoded(bytes([code, 0, 1, 0]) + length.to_bytes(4, "little") + bytes(24))


@pytest.mark.parametrize(
    "head",
    [
        "01080f00 01000000 1f000000 01000000 05000000",  # more than there is
        "01200f00 01000000 1f000000 01000000 ffffffff",
        "01070f00 01000000 1f000000 01000000 04000000",  # units of 7 bits
        "01080f00 01000000 00000000 00000000 04000000",  # without a type
        "01000f00 01000000 1f000000 00000000 04000000",
    ],
)
def test_impossible_properties_are_refused(head: str) -> None:
    (reply,) = decoded(bytes.fromhex(head) + bytes(12) + b"hell")
    assert isinstance(reply, Reply)
    with pytest.raises(WireError):
        wire.unpack_property(reply)


def test_a_name_ends_with_its_reply() -> None:
    (reply,) = decoded(NAME[:8] + b"\x09\0" + NAME[10:])
    assert isinstance(reply, Reply)
    with pytest.raises(WireError):
        wire.unpack_name(reply)


def test_a_name_has_an_end() -> None:
    with pytest.raises(WireError):
        requests.intern_atom("x" * 0x10000)


@pytest.mark.parametrize("most", [4096, 65535, 65536, 4194303])
def test_the_most_data_of_a_request_fill_it(most: int) -> None:
    size = requests.max_data(most)
    request = requests.change_property(1, 2, 3, 8, size)
    assert len(request) + size == 4 * most or most == requests.MAX_WORDS + 1
    assert len(request) + size <= 4 * most


def seen(messages: list[Message]) -> list[object]:
    """Two errors are never equal."""
    return [message.args if isinstance(message, XError) else message for message in messages]


STREAM = [*(data for data, *_ in REPLIES), *(data for data, _ in EVENTS), UNKNOWN, BAD_WINDOW]


@given(st.lists(st.sampled_from([*STREAM, b"large"]), max_size=40), st.data())
def test_the_cuts_of_a_stream_do_not_matter(messages: list[bytes], data: st.DataObject) -> None:
    large = bytes.fromhex("01080f00 00000100 1f000000 01000000 00000400") + bytes(12) + bytes(range(256)) * 1024
    whole = [large if message == b"large" else message for message in messages]
    stream = b"".join(whole)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    found = decoded(*pieces)
    assert seen(found) == seen([message for each in whole for message in decoded(each)])
    assert len(found) == len(messages) - messages.count(UNKNOWN)


@given(st.binary(max_size=600))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    with contextlib.suppress(WireError):
        decoded(data)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=64))
def test_any_reply_is_understood_or_refused(head: bytes, body: bytes) -> None:
    reply = Reply(0, head, body)
    assert 0 <= wire.unpack_number(reply) < 1 << 32
    assert wire.unpack_extension(reply).major < 256
    with contextlib.suppress(WireError):
        assert len(wire.unpack_name(reply)) <= len(body)
    with contextlib.suppress(WireError):
        found = wire.unpack_property(reply)
        assert len(found.data) <= len(body)
        assert (found.bits == 0) == (found.kind == 0)
        assert not found.bits or len(found.data) * 8 % found.bits == 0
