"""A pad that the agent may make as a HID device: how it is described, its lights, its battery."""

from __future__ import annotations

import pytest

from subos_devices.input.gamepad.device import GamepadDevice, MotionDevice, TouchpadDevice
from subos_devices.vhost_user.device import DeviceSpec
from subos_protocol.gamepad import Lost, Opened
from subos_protocol.hid_pad import Hid, Light
from support.input_bench import heard

from .test_rumble import CENTRED, REPORT, PadBench

FULL = [(0x16, 0, 100), (0x16, 1, 2)]
NAME = "Sony Interactive Entertainment DualSense Wireless Controller"


class HidBench(PadBench):
    """As PadBench; its pad may be a HID device."""

    def device_options(self):
        return {"profile": "dualsense", "hid": "pointer"}


class XboxBench(PadBench):
    """As PadBench; its pad has none of it."""

    def device_options(self):
        return {"profile": "xbox360", "hid": "pointer"}


@pytest.fixture
def bench(tmp_path):
    bench = HidBench(tmp_path)
    bench.start_queue()
    assert bench.guest_reads() == CENTRED, "virtio-input knows no battery"
    bench.agent_hears()
    yield bench
    bench.close()


@pytest.fixture
def taken(bench):
    bench.device.queue_stopped(bench.ring.queue)
    bench.tell(Opened())
    assert bench.agent_hears() == [*CENTRED[:-1], *FULL, REPORT]
    return bench


def test_a_pad_and_its_parts_say_that_they_belong_together():
    options = {"profile": "dualsense", "hid": "gamepad3", "hid_only": True}
    for kind, part in ((GamepadDevice, "pad"), (MotionDevice, "motion"), (TouchpadDevice, "touchpad")):
        name = "gamepad3" if part == "pad" else f"gamepad3-{part}"
        device = kind(DeviceSpec(part, name, options))
        hid = device.pad().hid
        assert hid == Hid("dualsense", NAME, "gamepad3", part, ("motion", "touchpad"), only=True)
        assert hid.serials[part] == device.serial
    assert GamepadDevice(DeviceSpec("gamepad", "gamepad3", {"profile": "dualsense"})).pad().hid is None
    assert GamepadDevice(DeviceSpec("gamepad", "gamepad3", {**options, "profile": "xbox360"})).pad().hid is None


def test_what_is_lit_is_told_to_every_driver_and_shown(taken):
    early = taken.connect()
    taken.tell(Light((0, 0, 128), 4), Light((1, 2, 255), 4))
    assert heard(early) == [{"led": {"rgb": [0, 0, 128], "players": 4}}, {"led": {"rgb": [1, 2, 255], "players": 4}}]
    late = taken.connect()
    assert heard(late) == [{"led": {"rgb": [1, 2, 255], "players": 4}}]
    shown = taken.device.describe(taken.worker.statistics)["gamepad"]
    assert shown["led"] == {"rgb": [1, 2, 255], "players": 4}
    taken.tell(Lost())
    assert heard(early) == [{"led": {"rgb": [0, 0, 0], "players": 0}}], "nobody lights it any more"


def test_a_pad_that_was_never_lit_shows_nothing(taken):
    driver = taken.connect()
    taken.tell(Lost())
    assert heard(driver) == []
    assert "led" not in taken.device.describe(taken.worker.statistics)["gamepad"]


def test_the_battery_is_told_to_the_agent_and_ends_with_its_driver(taken):
    driver, other = taken.connect(), taken.connect()
    taken.send(driver, (0x16, 0, 40), (0x16, 1, 1))
    assert taken.agent_hears() == [(0x16, 0, 40), (0x16, 1, 1), REPORT]
    taken.tell(Lost())
    assert not any(event[0] == 0x16 for event in taken.agent_hears())
    taken.tell(Opened())
    assert taken.agent_hears()[-3:] == [(0x16, 0, 40), (0x16, 1, 1), REPORT]
    other.close()
    taken.worker.turn()
    assert taken.agent_hears() == []
    driver.close()
    taken.worker.turn()
    assert taken.agent_hears()[-3:] == [*FULL, REPORT]


def test_the_battery_is_nothing_for_the_guest_s_own_driver(bench):
    driver = bench.connect()
    bench.send(driver, (0x16, 0, 40))
    bench.send(driver, (1, 0x130, 1), (0x16, 1, 1))
    assert bench.guest_reads() == [(1, 0x130, 1), REPORT]


@pytest.mark.parametrize("event", [(0x16, 0, 101), (0x16, 1, 3), (0x16, 2, 0), (0x16, 0, -1)])
def test_what_no_battery_is_like_is_refused(taken, event):
    driver = taken.connect()
    taken.send(driver, event)
    assert "refused" in heard(driver)[0]


def test_a_pad_that_is_no_hid_device_does_nothing_with_its_battery(tmp_path):
    """Its drivers need not know how the guest has it."""
    bench = PadBench(tmp_path)
    bench.tell(Opened())
    bench.agent_hears()
    driver = bench.connect()
    bench.send(driver, (0x16, 0, 40))
    bench.send(driver, (1, 0x130, 1))
    assert bench.agent_hears() == [(1, 0x130, 1), REPORT]
    assert heard(driver) == []
    bench.close()


def test_a_pad_without_a_battery_refuses_to_be_told_of_it(tmp_path):
    bench = XboxBench(tmp_path)
    driver = bench.connect()
    bench.send(driver, (0x16, 0, 40))
    assert "has no event of type 0x16" in heard(driver)[0]["refused"]
    bench.close()
