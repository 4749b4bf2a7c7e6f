"""What a pad's worker and the guest's agent say to each other: literal bytes both ways, and whatever else may come."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_protocol.effects import Gain, Stop
from subos_protocol.errors import Malformed, ProtocolError, Truncated
from subos_protocol.gamepad import (
    MAX_EVENTS,
    MAX_MESSAGE,
    MAX_PACKET,
    WINDOW,
    Axis,
    Lost,
    Opened,
    Pad,
    Taken,
    is_description,
    pack_description,
    pack_message,
    pack_pad,
    unpack_events,
    unpack_message,
    unpack_pad,
)
from subos_protocol.input_codes import Abs, Ev, Ff, Key
from subos_protocol.virtio_input import virtio_input_absinfo, virtio_input_devids, virtio_input_event

PAD = Pad(
    "pad1",
    "Microsoft X-Box 360 pad",
    virtio_input_devids(3, 0x045E, 0x028E, 0x0110),
    {Ev.EV_KEY: frozenset({Key.BTN_SOUTH, Key.BTN_EAST})},
    {
        Abs.ABS_X: Axis(0, virtio_input_absinfo(-32768, 32767, 16, 128)),
        Abs.ABS_Z: Axis(0, virtio_input_absinfo(0, 255)),
    },
    ff=frozenset({Ff.FF_RUMBLE, Ff.FF_GAIN}),
    effects=16,
)
DESCRIPTION = (
    b'{"pad": {"serial": "pad1", "name": "Microsoft X-Box 360 pad", "ids": [3, 1118, 654, 272], '
    b'"codes": {"1": [304, 305]}, "axes": [[0, 0, -32768, 32767, 16, 128, 0], [2, 0, 0, 255, 0, 0, 0]], "props": [], '
    b'"ff": [80, 96], "effects": 16}}'
)


def test_a_description_s_bytes() -> None:
    assert pack_description(PAD) == DESCRIPTION
    assert unpack_pad(json.loads(DESCRIPTION)["pad"]) == PAD
    assert is_description(DESCRIPTION)


def test_the_largest_pad_fits_a_packet() -> None:
    axes = {code: Axis(-(1 << 31), virtio_input_absinfo(*[-(1 << 31)] * 5)) for code in range(64)}
    axes[Abs.ABS_MT_SLOT] = Axis(63, virtio_input_absinfo(-(1 << 31), 63, *[-(1 << 31)] * 3))
    codes = {Ev.EV_KEY: frozenset(range(0x300)), Ev.EV_REL: frozenset(range(16)), Ev.EV_MSC: frozenset(range(8))}
    largest = Pad("s" * 128, "é" * 39, PAD.ids, codes, axes, frozenset(range(32)), frozenset(range(128)), 96)
    assert len(pack_description(largest)) <= MAX_PACKET
    assert unpack_pad(pack_pad(largest)) == largest


def test_neutral_is_all_released_and_every_axis_where_it_rests() -> None:
    assert PAD.neutral() == [
        virtio_input_event(1, 304, 0),
        virtio_input_event(1, 305, 0),
        virtio_input_event(3, 0, 0),
        virtio_input_event(3, 2, 0),
        virtio_input_event(0, 0, 0),
    ]


def test_neutral_is_without_fingers() -> None:
    axes = {
        code: Axis(0, virtio_input_absinfo(0, high)) for code, high in ((0, 9), (0x2F, 1), (0x35, 9), (0x39, 65535))
    }
    touchpad = PAD._replace(codes={Ev.EV_KEY: frozenset({0x14A})}, axes=axes)
    assert touchpad.neutral() == [
        virtio_input_event(1, 0x14A, 0),
        virtio_input_event(3, 0x2F, 0),
        virtio_input_event(3, 0x39, -1),
        virtio_input_event(3, 0x2F, 1),
        virtio_input_event(3, 0x39, -1),
        virtio_input_event(3, 0, 0),
        virtio_input_event(0, 0, 0),
    ]


def pad(**changed: Any) -> dict[str, Any]:
    return {**pack_pad(PAD), **changed}


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        {},
        pad(serial=""),
        pad(serial="a\0b"),
        pad(serial="s" * 129),
        pad(name=5),
        pad(name="é" * 40),
        pad(name="a\nb"),
        pad(name="\udcff"),
        pad(ids=[3, 1, 2]),
        pad(ids=[3, 1, 2, 65536]),
        pad(codes=[]),
        pad(codes={"3": [0]}),
        pad(codes={"1": [0x300]}),
        pad(codes={"1": [0] * 0x301}),
        pad(codes={"1": ["304"]}),
        pad(axes=[[64, 0, 0, 1, 0, 0, 0]]),
        pad(axes=[[0, 2, 0, 1, 0, 0, 0]]),
        pad(axes=[[0, 0, 0, 1, 0, 0]]),
        pad(axes=[[0, 0, 0, 1 << 31, 0, 0, 0]]),
        pad(axes=[0] * 65),
        pad(axes=[[0x2F, 0, 0, 64, 0, 0, 0]]),
        pad(axes=[[0x2F, -1, -1, -1, 0, 0, 0]]),
        pad(ff=[128]),
        pad(effects=97),
        pad(effects=True),
    ],
)
def test_what_is_no_pad_is_refused(said: Any) -> None:
    with pytest.raises(Malformed):
        unpack_pad(said)


def test_messages_bytes() -> None:
    for message, packet in (
        (Opened(), b'{"opened": true}'),
        (Lost(), b'{"lost": true}'),
        (Taken(8), b'{"taken": 8}'),
        (Stop(3), b'{"stop": 3}'),
        (Gain(5), b'{"gain": 5}'),
    ):
        assert pack_message(message) == packet
        assert unpack_message(packet) == message


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"x",
        b"5",
        b"[" * 1000,
        b'{"taken": 0}',
        b'{"taken": %d}' % (WINDOW + 1),
        b'{"taken": true}',
        b'{"opened": false}',
        b'{"stop": 3, "opened": true}',
        b'{"gain": 5}'.ljust(MAX_MESSAGE + 1),
        b'{"gain": ' + b"9" * 900 + b"}",
    ],
)
def test_what_is_no_message_is_refused(packet: bytes) -> None:
    with pytest.raises(Malformed):
        unpack_message(packet)


def test_events_bytes() -> None:
    packet = bytes.fromhex("0100 3001 01000000  0300 0000 00800000  0000 0000 00000000")
    assert not is_description(packet)
    assert unpack_events(packet) == [
        virtio_input_event(1, 0x130, 1),
        virtio_input_event(3, 0, 0x8000),
        virtio_input_event(0, 0, 0),
    ]
    with pytest.raises(Truncated):
        unpack_events(packet[:-1])
    with pytest.raises(Malformed):
        unpack_events(bytes(8 * (MAX_EVENTS + 1)))


@given(st.binary(max_size=600))
def test_whatever_comes_is_understood_or_refused(packet: bytes) -> None:
    with contextlib.suppress(Malformed):
        unpack_message(packet)
    with contextlib.suppress(ProtocolError):
        unpack_events(packet)


@given(
    st.dictionaries(
        st.sampled_from(list(pack_pad(PAD))),
        st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers() | st.lists(st.integers(), max_size=8)),
    )
)
def test_whatever_a_pad_is_called_it_is_one_or_refused(changed: dict[str, Any]) -> None:
    with contextlib.suppress(Malformed):
        found = unpack_pad(pad(**changed))
        assert unpack_pad(pack_pad(found)) == found
