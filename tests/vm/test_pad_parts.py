"""Gyroscope, accelerometer and touch pad of gamepads in a booted guest: by virtio-input, and made by the agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from subos_devices.input.actions import frame
from subos_devices.input.capabilities import MAX_NAME
from subos_devices.input.gamepad import profiles
from subos_devices.launcher import devices
from subos_protocol.input_codes import Abs, Ev, Key, code_name
from support.command import subos
from support.guest import Guest
from support.waiting import eventually

from .test_input_devices import Reader, described, driver

pytestmark = pytest.mark.vm

QUICK, AGENTS = "gamepad2", "gamepad3"  # of support/guest.py: by virtio-input, and by the agent
PROFILES = {QUICK: "dualsense", AGENTS: "dualshock4"}
PARTS = [(pad, part) for pad in PROFILES for part in profiles.PARTS]


def agent_has(guest: Guest, pad: str, part: str) -> bool:
    return bool(guest.vm.supervisor.devices[f"{pad}-{part}"].describe()["gamepad"]["agent"])


def name_of(pad: str, part: str) -> str:
    """What the guest calls it: virtio_input keeps less of a name than uinput."""
    name = profiles.load(PROFILES[pad]).part(part).capabilities.name
    return name[:MAX_NAME] if pad == QUICK else name


@pytest.fixture(autouse=True)
def agent(guest: Guest) -> None:
    """It has what it is to have."""
    eventually(lambda: all(agent_has(guest, pad, part) for pad, part in PARTS if pad == AGENTS), timeout=120)


@pytest.mark.parametrize(("pad", "part"), PARTS)
def test_the_guest_s_kernel_has_what_the_profile_says(guest: Guest, pad: str, part: str) -> None:
    model = profiles.load(PROFILES[pad]).part(part)
    can = model.capabilities
    device = described(guest)[name_of(pad, part)]
    assert device["serial"] == (QUICK if pad == QUICK else "")
    assert device["ids"] == list(can.ids)
    assert device["props"] == sorted(can.props)
    for type_ in (Ev.EV_KEY, Ev.EV_REL, Ev.EV_ABS, Ev.EV_MSC, Ev.EV_FF):
        wanted = [code_name(type_, code) for code in sorted(can.of(type_))]
        assert device["codes"].get(type_.name, []) == wanted
    for code, axis in can.axes.items():
        found = device["axes"][code_name(Ev.EV_ABS, code)]
        assert found[1:] == [axis.min, axis.max, axis.fuzz, axis.flat, axis.res]
        if part == "motion":
            assert found[0] == model.rest[code]


@pytest.mark.parametrize("pad", PROFILES)
def test_measurements_arrive_with_their_times_and_end_with_their_driver(guest: Guest, folder: Path, pad: str) -> None:
    reader = Reader(guest, folder, name_of(pad, "motion"))
    turn = (Ev.EV_ABS, Abs.ABS_RY, 1_000_000)
    with driver(guest, f"{pad}-motion") as sensors:
        sensors.send(frame((Ev.EV_ABS, Abs.ABS_Y, -20000), turn, (Ev.EV_MSC, 5, 123456789)))
        measured: list[list[Any]] = [["EV_ABS", "ABS_Y", -20000], ["EV_ABS", "ABS_RY", 1_000_000]]
        reader.wait_for(*measured, ["EV_MSC", "MSC_TIMESTAMP", 123456789])
    reader.wait_for(*measured, ["EV_ABS", "ABS_RY", 0])
    reader.wait_for(*measured, ["EV_ABS", "ABS_Y", 8192])


@pytest.mark.parametrize("pad", PROFILES)
def test_fingers_and_the_button_arrive_and_end_with_their_driver(guest: Guest, folder: Path, pad: str) -> None:
    reader = Reader(guest, folder, name_of(pad, "touchpad"))
    with driver(guest, f"{pad}-touchpad") as touchpad:
        touchpad.send(frame(*finger(0, 100, 200), (Ev.EV_KEY, Key.BTN_LEFT, 1)))
        touchpad.send(frame(*finger(1, 300, 400)))
        down = [["EV_KEY", "BTN_TOUCH", 1], ["EV_KEY", "BTN_TOOL_DOUBLETAP", 1]]
        reader.wait_for(*down)
        reader.wait_for(["EV_KEY", "BTN_LEFT", 1])
        reader.wait_for(["EV_ABS", "ABS_MT_SLOT", 1], ["EV_ABS", "ABS_MT_POSITION_X", 300])
    reader.wait_for(*down, ["EV_KEY", "BTN_TOUCH", 0])
    reader.wait_for(*[["EV_ABS", "ABS_MT_TRACKING_ID", -1]] * 2)
    reader.wait_for(["EV_KEY", "BTN_LEFT", 1], ["EV_KEY", "BTN_LEFT", 0])
    assert described(guest)[name_of(pad, "touchpad")]["pressed"] == []


def test_the_worker_of_a_touch_pad_dies_while_fingers_are_down(guest: Guest, folder: Path) -> None:
    """Of the one that the agent has."""
    reader = Reader(guest, folder, name_of(AGENTS, "touchpad"))
    with driver(guest, f"{AGENTS}-touchpad") as touchpad:
        touchpad.send(frame(*finger(1, 100, 200), (Ev.EV_KEY, Key.BTN_LEFT, 1)))
        reader.wait_for(["EV_KEY", "BTN_LEFT", 1])
        guest.kill_worker(f"{AGENTS}-touchpad")
        reader.wait_for(["EV_ABS", "ABS_MT_TRACKING_ID", -1])
        reader.wait_for(["EV_KEY", "BTN_LEFT", 1], ["EV_KEY", "BTN_LEFT", 0])
    eventually(lambda: agent_has(guest, AGENTS, "touchpad"), timeout=60)
    assert described(guest)[name_of(AGENTS, "touchpad")]["pressed"] == []


def test_the_words_reach_the_devices_beside_the_pad(guest: Guest, folder: Path) -> None:
    motion, touchpad = (Reader(guest, folder, name_of(QUICK, part)) for part in profiles.PARTS)
    words = "gyro 0 90 0, accel 0 -1 0, touchpad 0% 100%, touchpad click, wait 0.1"
    subos("input", f"{guest.vm.plan.name}/{QUICK}", words, check=0)
    motion.wait_for(["EV_ABS", "ABS_RY", 92160], ["EV_ABS", "ABS_Y", -8192], ["EV_ABS", "ABS_RY", 0])
    touchpad.wait_for(["EV_ABS", "ABS_MT_POSITION_Y", 1079], ["EV_KEY", "BTN_LEFT", 1], ["EV_KEY", "BTN_TOUCH", 0])


def test_a_pad_and_what_it_has_share_a_slot(guest: Guest) -> None:
    where = guest.check("sh", "-c", "readlink -f /sys/class/input/event*/device/device")
    functions = [line.split("/")[-2] for line in where.splitlines() if "/virtio" in line]
    slots = [function.partition(".")[0] for function in functions]
    # The agent has the third pad's.
    assert max(slots.count(slot) for slot in slots) == 3
    assert devices.driver_path(guest.vm.folder, f"{AGENTS}-motion").is_socket()


def finger(slot: int, x: int, y: int) -> list[tuple[int, int, int]]:
    contact = [(Ev.EV_ABS, Abs.ABS_MT_SLOT, slot), (Ev.EV_ABS, Abs.ABS_MT_TRACKING_ID, slot)]
    return [*contact, (Ev.EV_ABS, Abs.ABS_MT_POSITION_X, x), (Ev.EV_ABS, Abs.ABS_MT_POSITION_Y, y)]
