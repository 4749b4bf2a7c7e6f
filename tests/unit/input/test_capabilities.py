"""What the guest is told of the mouse, and what host drivers may say for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_devices.input.capabilities import MAX_EVENTS
from subos_devices.input.mouse import MOUSE, MouseDevice
from subos_devices.vhost_user.device import DeviceSpec
from subos_protocol.errors import Malformed, ProtocolError, Truncated
from subos_protocol.virtio import DeviceId
from subos_protocol.virtio_input import VIRTIO_INPUT_EVENT


def ask(device: MouseDevice, select: int, subsel: int = 0) -> bytes:
    """As Linux asks: one byte at a time, then the answer's `size` bytes."""
    device.set_config(0, bytes([select]))
    device.set_config(1, bytes([subsel]))
    config = device.config()
    assert len(config) == 136
    assert config[:2] == bytes([select, subsel])
    assert not any(config[8 + config[2] :])
    return config[8 : 8 + config[2]]


@pytest.fixture
def mouse() -> MouseDevice:
    return MouseDevice(DeviceSpec("mouse", "pointer"))


def test_the_device_is_a_virtio_input_with_two_queues(mouse):
    assert (mouse.device_id, mouse.num_queues, mouse.has_config) == (DeviceId.INPUT, 2, True)


@pytest.mark.parametrize(
    ("select", "subsel", "literal"),
    [
        (0x01, 0, b"SubOS Mouse"),
        (0x02, 0, b"pointer"),
        (0x03, 0, bytes.fromhex("0600 2706 0300 0200")),
        (0x10, 0, b""),
        (0x11, 1, bytes(34) + b"\x1f" + bytes(6) + b"\x04"),  # BTN_LEFT to BTN_EXTRA: 0x110 to 0x114; BTN_TOUCH 0x14a
        (0x11, 2, b"\x40\x19"),  # REL_HWHEEL 6, REL_WHEEL 8, their hi-res 11 and 12
        (0x11, 3, b"\x03"),  # ABS_X, ABS_Y
        (0x11, 4, b""),
        (0x11, 0x11, b""),
        (0x12, 0, bytes.fromhex("00000000 ff7f0000 00000000 00000000 00000000")),
        (0x12, 1, bytes.fromhex("00000000 ff7f0000 00000000 00000000 00000000")),
        (0x12, 2, b""),
        (0x01, 1, b""),
        (0x00, 0, b""),
        (0xFF, 0xFF, b""),
    ],
)
def test_config_answers(mouse, select, subsel, literal):
    assert ask(mouse, select, subsel) == literal


def test_qemu_writes_the_whole_configuration_space_back(mouse):
    mouse.set_config(0, bytes([0x01, 0, 8]) + b"\xee" * 133)
    assert mouse.config()[8:19] == b"SubOS Mouse"
    mouse.set_config(2, b"\xee" * 134)
    assert mouse.config()[:3] == bytes([1, 0, 11])


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=8)), max_size=10))
def test_any_write_leaves_a_configuration_space(writes):
    device = MouseDevice(DeviceSpec("mouse", "pointer"))
    for offset, data in writes:
        device.set_config(offset, data)
        assert len(device.config()) == 136


# --- packets of host drivers


def packet(*events: tuple[int, int, int]) -> bytes:
    return b"".join(VIRTIO_INPUT_EVENT.struct.pack(*event) for event in events)


def test_a_literal_packet():
    data = bytes.fromhex("0300000064000000 0300010037000000 0000000000000000 0100100101000000")
    assert MOUSE.parse(data) == [[(3, 0, 100), (3, 1, 55)], [(1, 0x110, 1)]]


def test_empty_frames_are_nothing():
    assert MOUSE.parse(packet((0, 0, 0), (0, 0, 0))) == []


@pytest.mark.parametrize(
    "event",
    [
        (1, 0x115, 1),  # BTN_FORWARD: not on this mouse
        (1, 30, 1),  # KEY_A
        (1, 0x110, 2),  # repetition is the guest's
        (1, 0x110, -1),
        (3, 0, -1),
        (3, 1, 32768),
        (3, 2, 0),
        (2, 0, 1),  # REL_X: an absolute mouse
        (0, 1, 0),  # SYN_CONFIG
        (0, 3, 0),  # SYN_DROPPED
        (0, 0, 1),
        (0x11, 0, 1),  # LEDs are the guest's to set
        (0x1F, 0, 0),
        (0xFFFF, 0xFFFF, 0),
    ],
)
def test_what_the_mouse_cannot_have_is_refused(event):
    with pytest.raises(Malformed):
        MOUSE.parse(packet((3, 0, 1), (0, 0, 0), event))


def test_parts_and_floods_are_refused():
    with pytest.raises(Truncated):
        MOUSE.parse(packet((3, 0, 1))[:-1])
    assert MOUSE.parse(packet(*[(2, 8, 1)] * MAX_EVENTS)) == [[(2, 8, 1)] * MAX_EVENTS]
    with pytest.raises(Malformed):
        MOUSE.parse(packet(*[(2, 8, 1)] * (MAX_EVENTS + 1)))


good = st.one_of(
    st.tuples(st.just(3), st.sampled_from([0, 1]), st.integers(0, 32767)),
    st.tuples(st.just(1), st.integers(0x110, 0x114), st.sampled_from([0, 1])),
    st.tuples(st.just(2), st.sampled_from([6, 8, 11, 12]), st.integers(-(1 << 31), (1 << 31) - 1)),
    st.just((0, 0, 0)),
)


@given(st.lists(good, max_size=MAX_EVENTS))
def test_every_good_packet_is_split_at_its_reports(events):
    frames = MOUSE.parse(packet(*events))
    assert [event for frame in frames for event in frame] == [event for event in events if event[0]]
    assert all(frames)


@given(st.binary(max_size=600))
def test_any_bytes_are_frames_or_an_error(data):
    try:
        frames = MOUSE.parse(data)
    except ProtocolError:
        return
    for frame in frames:
        for event in frame:
            MOUSE.check(event)
