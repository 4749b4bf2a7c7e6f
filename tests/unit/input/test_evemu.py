"""evemu's format: as evemu writes it, as we write it, and what is wrong in it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_devices.errors import UserError
from subos_devices.input.capabilities import Capabilities
from subos_devices.input.evemu import HEADER, MAX_FRAME, MAX_LINE, Reader, RecordedFrame, describe, write_frame
from subos_devices.input.gamepad import profiles
from subos_devices.input.keyboard import KEYBOARD
from subos_devices.input.touch import TOUCH
from subos_protocol.input_codes import ABS_MAX, KEY_MAX, Abs, Ev, Key
from subos_protocol.virtio_input import virtio_input_absinfo, virtio_input_devids, virtio_input_event

# As evemu-record 2.7 writes it, its comments shortened.
CAPTURED = b"""\
# EVEMU 1.3
# Kernel: 6.12.95
# Input device name: "Some #1 Tablet"
#   Event type 3 (EV_ABS)
N: Some #1 Tablet
I: 0003 046d c52b 0111
P: 01 00 00 00 00 00 00 00
B: 00 0b 00 00 00 00 00 00 00
B: 01 00 00 00 00 00 00 00 00
B: 01 00 00 00 00 00 00 00 00
B: 01 00 00 00 00 00 00 00 00
B: 01 00 00 00 00 00 00 00 00
B: 01 00 00 03 00 00 00 00 00
B: 03 03 00 00 00 00 00 00 00
A: 00 0 1000 4 8 40
A: 01 -5 5 0 0 0
L: 00 1
################################
#      Waiting for events      #
################################
E: 0.000001 0003 0000 0500\t# EV_ABS / ABS_X                500
E: 0.000001 0001 0110 1
E: 0.000001 0000 0000 0000\t# ------------ SYN_REPORT (0) ----------
E: 1.250000 0003 0001 -0005
E: 1.250000 0000 0000 0
E: 1.300000 0001 0110 0
"""


def read(text: bytes) -> tuple[Capabilities, list[RecordedFrame]]:
    reader = Reader(io.BytesIO(text), "some file")
    return reader.device, list(reader.frames())


def test_what_evemu_has_written() -> None:
    device, frames = read(CAPTURED)
    assert device == Capabilities(
        name="Some #1 Tablet",
        ids=virtio_input_devids(3, 0x46D, 0xC52B, 0x111),
        codes={0: frozenset({0, 1, 3}), Ev.EV_KEY: frozenset({0x110, 0x111})},
        axes={0: virtio_input_absinfo(0, 1000, 4, 8, 40), 1: virtio_input_absinfo(-5, 5)},
        props=frozenset({0}),
    )
    assert frames == [
        RecordedFrame(1, [virtio_input_event(3, 0, 500), virtio_input_event(1, 0x110, 1)]),
        RecordedFrame(1_250_000, [virtio_input_event(3, 1, -5)]),
    ]


def test_what_we_write() -> None:
    device = Capabilities(
        "A\nname",
        virtio_input_devids(3, 1, 2, 0xFFFF),
        {Ev.EV_KEY: frozenset({Key.KEY_ESC, Key.BTN_LEFT})},
        {Abs.ABS_Y: virtio_input_absinfo(-1, 1, 0, 2, 3)},
    )
    rows = ["02 00 00 00 00 00 00 00", *["00 00 00 00 00 00 00 00"] * 3, "00 00 01 00 00 00 00 00"]
    assert describe(device) == (
        "N: A name\nI: 0003 0001 0002 ffff\nP: 00 00 00 00 00 00 00 00\nB: 00 0b 00 00 00 00 00 00 00\n"
        + "".join(f"B: 01 {row}\n" for row in rows)
        + "B: 03 02 00 00 00 00 00 00 00\nA: 01 -1 1 0 2 3\n"
    )
    frame = RecordedFrame(12_000_034, [virtio_input_event(Ev.EV_ABS, Abs.ABS_Y, -7)])
    assert write_frame(frame) == "E: 12.000034 0003 0001 -7\t# ABS_Y\nE: 12.000034 0000 0000 0\t# SYN_REPORT\n"


@pytest.mark.parametrize("device", [KEYBOARD, TOUCH, *(profiles.load(name).capabilities for name in profiles.names())])
def test_devices_are_read_as_they_were_written(device: Capabilities) -> None:
    read_back, _ = read((HEADER + describe(device)).encode())
    codes = {type_: found for type_, found in read_back.codes.items() if type_ != Ev.EV_SYN}
    assert read_back._replace(codes=codes) == device._replace(battery=False), "which is no part of an event device"


events = st.builds(
    virtio_input_event, st.integers(1, 0x1F), st.integers(0, KEY_MAX), st.integers(-(1 << 31), (1 << 31) - 1)
)
frames = st.lists(st.builds(RecordedFrame, st.integers(0, 10**15), st.lists(events)))


@given(frames)
def test_frames_are_read_as_they_were_written(written: list[RecordedFrame]) -> None:
    text = HEADER + describe(KEYBOARD) + "".join(map(write_frame, written))
    assert read(text.encode())[1] == written


HEAD = b"# EVEMU 1.3\nN: x\nI: 0003 0001 0001 0001\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "line 0: it does not say what its device is"),
        (b"hello\n", "line 1: 'hello' is not understood"),
        (b"# EVEMU 2.0\nN: x\n", "line 1: its format is version 2"),
        (b"N: x\nE: 0.000001 0000 0000 0\n", "line 2: it does not say what its device is"),
        (HEAD + b"B: 20 00 00 00 00 00 00 00 00\n", "line 4: 0x20 is not an event type"),
        (HEAD + b"B: 01 00\n", "line 4: 'B: 01 00' is not understood"),
        (HEAD + b"B: 01 00 00 00 00 00 00 00 00\n" * 13, "line 16: too many bits"),
        (HEAD + b"P: 00 00 00 00 00 00 00 00\n" * 2, "line 5: too many bits"),
        (HEAD + b"A: 40 0 1 0 0 0\n", "line 4: 0x40 is not an axis"),
        (HEAD + b"A: 00 5 1 0 0 0\n", "line 4: axis 00 begins at 5 and ends at 1"),
        (HEAD + b"A: 00 0 99999999999 0 0 0\n", "line 4: 99999999999 does not fit into 32 bits"),
        (HEAD + b"\nE: 0.000001 0001 0300 1\n", "line 5: 0x300 is not a code"),
        (HEAD + b"E: 0.000001 0001 001e 1\nN: y\n", "line 5: a line N: after the first event"),
        (HEAD + b"E: 0.1 0001 001e 1\n", "line 4: 'E: 0.1 0001 001e 1' is not understood"),
        (HEAD + b"#" * MAX_LINE + b"\n", f"line 4: a line of more than {MAX_LINE} bytes"),
        (HEAD + b"E: 0.000001 0001 001e 1\n" * (MAX_FRAME + 1), f"a frame of more than {MAX_FRAME} events"),
        (b"\n" + b"N: x\n" * 10_001, "line 10001: a description of more than 10000 lines"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: bytes, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(text)
    assert f"some file, {message}" in caught.value.message or message in caught.value.message


def lines() -> Iterator[st.SearchStrategy[bytes]]:
    yield st.binary(max_size=40)
    yield st.sampled_from(CAPTURED.splitlines())
    letters = st.sampled_from([bytes([letter]) for letter in b"NIPBALSE"])
    rest = st.from_regex(rb"[0-9a-f. -]{0,40}", fullmatch=True)
    yield st.builds(lambda letter, rest: letter + b": " + rest, letters, rest)


@given(st.lists(st.one_of(*lines())))
def test_any_file_is_read_or_refused_in_words(text: list[bytes]) -> None:
    with contextlib.suppress(UserError):
        device, frames = read(b"\n".join(text))
        assert device.name
        assert all(code <= ABS_MAX for code in device.axes)
        assert all(event.code <= KEY_MAX for frame in frames for event in frame.events)
