"""What is said of a pad that is a HID device: literal bytes both ways, and whatever else may come."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_protocol.errors import Malformed
from subos_protocol.gamepad import MAX_PACKET, Pad, pack_description, pack_message, unpack_message, unpack_pad
from subos_protocol.hid_pad import Hid, Light, is_battery, light_from_object, unpack_hid
from subos_protocol.virtio_input import virtio_input_devids

HID = Hid("dualsense", "Sony", "gamepad3", "motion", ("motion", "touchpad"))
SAID: dict[str, Any] = {
    "model": "dualsense",
    "name": "Sony",
    "pad": "gamepad3",
    "part": "motion",
    "parts": ["motion", "touchpad"],
    "only": False,
}
PAD = Pad("gamepad3-motion", "Sony Motion Sensors", virtio_input_devids(3, 0x54C, 0xCE6, 0x8111), {}, {}, hid=HID)


def test_a_description_s_bytes() -> None:
    packet = pack_description(PAD)
    assert packet.endswith(
        b'"effects": 0, "hid": {"model": "dualsense", "name": "Sony", "pad": "gamepad3", "part": "motion", '
        b'"parts": ["motion", "touchpad"], "only": false}}}'
    )
    assert unpack_pad(json.loads(packet)["pad"]) == PAD
    assert HID.serials == {"pad": "gamepad3", "motion": "gamepad3-motion", "touchpad": "gamepad3-touchpad"}


def test_an_agent_that_knows_none_of_it_takes_the_pad() -> None:
    said = json.loads(pack_description(PAD))["pad"]
    del said["hid"]
    assert unpack_pad(said) == PAD._replace(hid=None)


def test_the_longest_fits() -> None:
    longest = HID._replace(model="m" * 32, name="n" * 79, pad="p" * 100)
    assert len(pack_description(PAD._replace(hid=longest))) < MAX_PACKET


@pytest.mark.parametrize(
    "said",
    [
        [],
        {},
        {**SAID, "model": ""},
        {**SAID, "model": "m" * 33},
        {**SAID, "name": 5},
        {**SAID, "name": "a\nb"},
        {**SAID, "pad": "p" * 101},
        {**SAID, "part": "wheel"},
        {**SAID, "parts": ["touchpad"]},
        {**SAID, "parts": ["touchpad", "motion"]},
        {**SAID, "parts": ["motion", "motion"]},
        {**SAID, "parts": "motion"},
        {**SAID, "parts": [["motion"]]},
        {**SAID, "only": 1},
    ],
)
def test_what_is_no_hid_device_is_refused(said: Any) -> None:
    with pytest.raises(Malformed):
        unpack_hid(said)


def test_a_light_s_bytes() -> None:
    packet = b'{"led": {"rgb": [0, 128, 255], "players": 4}}'
    assert pack_message(Light((0, 128, 255), 4)) == packet
    assert unpack_message(packet) == Light((0, 128, 255), 4)


@pytest.mark.parametrize(
    "packet",
    [
        b'{"led": 5}',
        b'{"led": {"rgb": [0, 0, 0]}}',
        b'{"led": {"rgb": [0, 0], "players": 0}}',
        b'{"led": {"rgb": [0, 0, 256], "players": 0}}',
        b'{"led": {"rgb": [0, 0, -1], "players": 0}}',
        b'{"led": {"rgb": [0, 0, true], "players": 0}}',
        b'{"led": {"rgb": [0, 0, 0], "players": 32}}',
        b'{"led": {"rgb": [0, 0, 0], "players": 0, "more": 1}}',
        b'{"led": {"rgb": [0, 0, 0], "players": 0}, "stop": 1}',
    ],
)
def test_what_is_no_light_is_refused(packet: bytes) -> None:
    with pytest.raises(Malformed):
        unpack_message(packet)


def test_what_is_said_of_a_battery() -> None:
    assert all(is_battery(0x16, 0, level) for level in (0, 100))
    assert all(is_battery(0x16, 1, state) for state in (0, 1, 2))
    assert not any(
        is_battery(*event) for event in ((0x16, 0, 101), (0x16, 0, -1), (0x16, 1, 3), (0x16, 2, 0), (1, 0, 0))
    )


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*SAID, "rgb", "players"]), inner),
)


@given(anything)
def test_whatever_is_said_means_something_or_is_refused(said: Any) -> None:
    with contextlib.suppress(Malformed):
        unpack_hid(said)
    with contextlib.suppress(Malformed):
        light_from_object(said)


@given(st.dictionaries(st.sampled_from(list(SAID)), anything))
def test_whatever_is_changed_of_it_is_said_again_or_refused(changed: dict[str, Any]) -> None:
    with contextlib.suppress(Malformed):
        found = unpack_hid({**SAID, **changed})
        assert found is not None
        assert unpack_hid({**found._asdict(), "parts": list(found.parts)}) == found
