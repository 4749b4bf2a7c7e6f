import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_protocol.agent.frames import (
    FLUSH,
    MAXIMUM_PAYLOAD,
    ZEROS,
    Frame,
    FrameType,
    find_hello,
    pack_head,
    parse,
    unpack_head,
)
from subos_protocol.agent.hello import Hello
from subos_protocol.errors import Malformed

DATA = b"\x03\x01\x00\x00\x05\x00\x00\x00\x02\x00\x00\x00hi"
"""On stream 5, part 1: written out by hand."""
WINDOW = b"\x08\x00\x00\x00\x04\x00\x00\x00\x04\x00\x00\x00\x00\x00\x02\x00"


def test_frames_byte_by_byte() -> None:
    assert Frame(FrameType.DATA, 5, b"hi", 1).pack() == DATA
    assert parse(bytearray(DATA), 0) == (Frame(FrameType.DATA, 5, b"hi", 1), len(DATA))
    assert Frame(FrameType.WINDOW, 4, struct.pack("<I", 1 << 17)).pack() == WINDOW
    assert parse(bytearray(WINDOW), 0) == (Frame(FrameType.WINDOW, 4, b"\x00\x00\x02\x00"), len(WINDOW))


def test_a_frame_that_is_not_whole_yet() -> None:
    for cut in range(len(DATA)):
        assert parse(bytearray(DATA[:cut]), 0) == (None, 0)


def test_zeros_between_frames_are_padding() -> None:
    assert parse(bytearray(bytes(7) + DATA), 0) == (Frame(FrameType.DATA, 5, b"hi", 1), 7 + len(DATA))
    assert parse(bytearray(bytes(7)), 0) == (None, 7)


def test_a_length_is_refused_before_anything_is_kept() -> None:
    with pytest.raises(Malformed):
        parse(bytearray(struct.pack("<BBHII", 3, 0, 0, 1, MAXIMUM_PAYLOAD + 1)), 0)


def test_a_flush_fills_any_frame_that_was_cut() -> None:
    whole = Frame(FrameType.DATA, 1, bytes([7]) * MAXIMUM_PAYLOAD).pack()
    for cut in (1, 11, 12, 13, len(whole) - 1):
        data = bytearray(whole[:cut] + FLUSH + DATA)
        start, frames = 0, []
        while True:
            frame, start = parse(data, start)
            if frame is None:
                break
            frames.append(frame)
        assert frames[-1] == Frame(FrameType.DATA, 5, b"hi", 1)


@given(st.binary(max_size=100), st.integers(0, 40))
def test_a_hello_is_found_amid_anything(before: bytes, zeros: int) -> None:
    hello = Frame(FrameType.HELLO, 0, b"{}").pack()
    data = bytearray(before + ZEROS + bytes(zeros) + hello)
    start, found = find_hello(data)
    assert found
    assert parse(data, start)[0] == Frame(FrameType.HELLO, 0, b"{}")


@given(st.binary(max_size=100), st.integers(1, 30))
def test_a_hello_is_found_when_it_comes_in_pieces(before: bytes, size: int) -> None:
    stream = before.replace(b"\1", b"\2") + ZEROS + Frame(FrameType.HELLO, 0, b"{}").pack()
    heard = bytearray()
    found = False
    for at in range(0, len(stream), size):
        heard += stream[at : at + size]
        start, found = find_hello(heard)
        if found:
            break
        del heard[:start]
    assert found


def test_heads_byte_by_byte() -> None:
    assert pack_head({"op": "mount", "path": "/\udcff"}) == b'{"op":"mount","path":"/\\udcff"}'
    assert unpack_head(b'{"op":"mount","path":"/\\udcff"}') == {"op": "mount", "path": "/\udcff"}


@pytest.mark.parametrize("payload", [b"", b"[]", b"1", b"nonsense", b"\xff", b"[" * 60_000, b'"x"'])
def test_heads_that_are_none(payload: bytes) -> None:
    with pytest.raises(Malformed):
        unpack_head(payload)


def test_a_head_that_does_not_fit() -> None:
    with pytest.raises(Malformed, match="at most"):
        pack_head({"x": "y" * MAXIMUM_PAYLOAD})


HELLO = {
    "speaks": "subos-agent",
    "version": 1,
    "software": "subos-agent",
    "release": "0.1.0",
    "capabilities": ["exec"],
    "instance": "aa",
    "seen": None,
}


def test_hello_byte_by_byte() -> None:
    hello = Hello("subos-agent", "0.1.0", ["exec"], instance="aa")
    assert hello.head(None) == HELLO
    assert Hello.from_head(HELLO) == hello
    assert Hello.from_head({**HELLO, "colour": "red", "capabilities": ["exec", 3, "x" * 1000]}) == hello


@pytest.mark.parametrize(
    "change",
    [
        {"speaks": "http"},
        {"version": 0},
        {"version": True},
        {"version": "1"},
        {"software": ""},
        {"release": 5},
        {"instance": None},
        {"instance": "x" * 257},
        {"capabilities": "exec"},
        {"capabilities": ["x"] * 257},
        {"seen": 1},
    ],
)
def test_hellos_that_are_none(change: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        Hello.from_head(json.loads(json.dumps({**HELLO, **change})))
