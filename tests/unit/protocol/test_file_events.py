"""The packets of file events: literal bytes both ways, and whatever else may come."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_protocol import file_events as kind
from subos_protocol.errors import Malformed
from subos_protocol.file_events import (
    MAX_PACKET,
    MAX_PATH,
    NUMBERS,
    Heard,
    Replay,
    pack_attached,
    pack_replays,
    pack_results,
    unpack_heard,
    unpack_replays,
)

names = st.binary(min_size=1, max_size=255).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
paths = st.lists(names, max_size=7).map(b"/".join)
numbers = st.integers(0, (1 << 64) - 1)
replays = st.builds(
    Replay,
    number=st.integers(0, NUMBERS - 1),
    kind=st.sampled_from(kind.KINDS),
    directory=paths,
    name=names,
    mode=st.integers(0, 0xFFFF),
    parent=numbers,
    inode=numbers,
    to_directory=paths,
    to_name=st.just(b"") | names,
)


def test_a_replay_s_bytes() -> None:
    replay = Replay(5, "rename", b"src", b"a\xff", 0o100644, 2, 1042, b"src/b", b"c d")
    packet = b'{"replays": [[5, "rename", "src", "a\\udcff", 33188, 2, 1042, "src/b", "c d"]]}'
    assert pack_replays([replay]) == [packet]
    assert unpack_replays(packet) == [replay]


def test_results_and_what_is_said_of_the_agent() -> None:
    assert pack_results([(5, 0), (6, 2)]) == [b'{"done": [[5, 0], [6, 2]]}']
    assert unpack_heard(b'{"done": [[5, 0], [6, 2]]}') == Heard(None, [(5, 0), (6, 2)])
    assert pack_attached(True) == b'{"attached": true}'
    assert unpack_heard(b'{"attached": false}') == Heard(False, [])


def test_tokens_are_two_groups_a_replay() -> None:
    assert (kind.token(0), kind.looking(0)) == (0xE000_0000, 0xE000_0001)
    assert kind.looking(NUMBERS - 1) == kind.END_OF_TOKENS - 1


@given(st.lists(replays, max_size=60))
def test_replays_survive_the_way(said: list[Replay]) -> None:
    packets = pack_replays(said)
    assert all(len(packet) <= MAX_PACKET for packet in packets)
    assert [replay for packet in packets for replay in unpack_replays(packet)] == said


def test_the_longest_replay_fits_a_packet() -> None:
    path = b"/".join([b"\xff" * 255] * 8)[:MAX_PATH].rstrip(b"/")
    longest = Replay(
        NUMBERS - 1, "rename", path, b"\xff" * 255, 0xFFFF, (1 << 64) - 1, (1 << 64) - 1, path, b"\xfe" * 255
    )
    assert unpack_replays(*pack_replays([longest])) == [longest]


GOOD: list[Any] = [5, "create", "src", "new", 33188, 2, 3, "", ""]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(0, NUMBERS), (0, -1), (0, True), (0, "5"), (1, "make"), (1, 3), (2, "/src"), (2, "a//b"), (2, "a/../b")],
        *[(2, "a/"), (2, "n" * 256), (2, "a/" * (MAX_PATH // 2) + "aa"), (3, ""), (3, "a/b"), (3, ".."), (3, "a\0")],
        *[(3, "n" * 256), (3, "\ud800"), (3, None), (4, 1 << 16), (5, 1 << 64), (6, 1.0), (7, "."), (8, "a/b")],
    ],
)
def test_replays_that_are_none(field: int, value: Any) -> None:
    assert unpack_replays(json.dumps({"replays": [GOOD]}).encode())
    bad = [*GOOD[:field], value, *GOOD[field + 1 :]]
    with pytest.raises(Malformed):
        unpack_replays(json.dumps({"replays": [bad]}).encode())


@pytest.mark.parametrize(
    "packet",
    [
        *[b"", b"[]", b"{", b"\xff", b'{"done": 1}', b'{"done": [1]}', b'{"done": [[1]]}', b'{"done": [[1, "2"]]}'],
        *[b'{"done": [[true, 0]]}', b'{"done": [[-1, 0]]}', b'{"done": [[1, 4096]]}', b'{"attached": 1}', b"[" * 20000],
        json.dumps({"done": [[1, 0]] * 1025}).encode(),
        b" " * MAX_PACKET + b"{}",
    ],
)
def test_what_a_guest_may_say_instead(packet: bytes) -> None:
    with pytest.raises(Malformed):
        unpack_heard(packet)


@given(st.binary(max_size=300))
def test_bytes_are_heard_or_malformed(packet: bytes) -> None:
    for unpack in (unpack_heard, unpack_replays):
        with contextlib.suppress(Malformed):
            unpack(packet)
