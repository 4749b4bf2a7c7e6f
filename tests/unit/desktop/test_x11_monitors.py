"""RandR's requests, as python-xlib 0.33 packs them; what a server says of its monitors, as Xvfb 21.1 sent it."""

from __future__ import annotations

import contextlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_desktop.clipboard.x11.wire import Decoder, Notice, Reply, WireError
from subos_desktop.monitors import x11
from subos_desktop.monitors.x11 import Found
from subos_protocol.monitors import MAX_MONITORS, Area

pytestmark = pytest.mark.skipif(sys.byteorder == "big", reason="the bytes are a little-endian machine's")

VERSION = "01000200 00000000 01000000 05000000 00000000 00000000 00000000 00000000"
GEOMETRY = "01180300 00000000 0d050000 00000000 b80be803 00000000 00000000 00000000"
HEAD = "01000400 0d000000 67b55c00 02000000 01000000 00000000 00000000 00000000"
MONITORS = (
    "ed000000 00000100 00000000 e803e803 e8030000 e8030000 3c000000"
    "ee000000 00000000 e8030000 d0072003 d0070000 20030000"
)


def reply(head: str, body: str = "") -> Reply:
    return Reply(2, bytes.fromhex(head), bytes.fromhex(body))


@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        (x11.query_version(0x8C), "8c000300 01000000 05000000"),
        (x11.select_input(0x8C, 0x50D), "8c040300 0d050000 07000000"),
        (x11.get_monitors(0x8C, 0x50D), "8c2a0300 0d050000 01000000"),
        (x11.get_geometry(0x50D), "0e000200 0d050000"),
    ],
)
def test_requests(packed: bytes, expected: str) -> None:
    assert packed == bytes.fromhex(expected)


def test_replies() -> None:
    assert x11.unpack_version(reply(VERSION)) == (1, 5)
    assert x11.unpack_geometry(reply(GEOMETRY)) == Area(0, 0, 3000, 1000)
    assert x11.unpack_monitors(reply(HEAD, MONITORS)) == [
        Found(0xED, Area(0, 0, 1000, 1000)),
        Found(0xEE, Area(1000, 0, 2000, 800)),
    ]


def test_events_are_told_once_they_are_expected() -> None:
    """RRNotify, of a CRTC that was switched off, is event 90 of that server."""
    event = bytes.fromhex("5a000700") + bytes(28)
    decoder = Decoder()
    assert list(fed(decoder, event)) == []
    decoder.expect_notice(90)
    assert list(fed(decoder, event)) == [Notice(90)]


def fed(decoder: Decoder, data: bytes) -> list[object]:
    decoder.room()[: len(data)] = data
    return list(decoder.taken(len(data)))


def test_a_reply_that_ends_too_soon() -> None:
    with pytest.raises(WireError):
        x11.unpack_monitors(reply(HEAD, MONITORS[:-9]))


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=2000))
def test_whatever_is_said_is_a_few_monitors_or_an_error(head: bytes, body: bytes) -> None:
    with contextlib.suppress(WireError):
        found = x11.unpack_monitors(Reply(0, head, body))
        assert len(found) <= MAX_MONITORS
        assert 24 * len(found) <= len(body)
