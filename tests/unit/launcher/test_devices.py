"""Devices of a VM, as planned: their names and their sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from subos_devices.errors import UserError
from subos_devices.launcher import devices
from subos_devices.launcher.shares import Share
from subos_devices.supervisor.control import SOCKET


def test_no_tag_names_a_socket_of_the_vms_own(tmp_path: Path) -> None:
    words = ("control", "qmp", "mouse.driver", "console")
    planned = devices.plan([Share(tmp_path, word) for word in words], mouse=True, rng=True)
    paths = [devices.socket_path(tmp_path, device) for device in planned]
    paths += [devices.driver_path(tmp_path, device.name) for device in planned if device.driven]
    paths += [tmp_path / SOCKET, tmp_path / "qmp.sock", tmp_path / "lock"]
    assert len(set(paths)) == len(words) + 2 + 1 + 3


@pytest.mark.parametrize("tag", ["mouse", "rng"])
def test_two_devices_of_one_name_are_refused(tmp_path: Path, tag: str) -> None:
    share = Share(tmp_path, tag)
    with pytest.raises(UserError, match=f"two devices would be called '{tag}'") as caught:
        devices.plan([share], mouse=True, rng=True)
    assert "--share PATH:TAG" in caught.value.hint
    assert [device.kind for device in devices.plan([share], mouse=False, rng=False)] == ["fs"]


def test_a_share_of_one_file_is_its_folder_with_that_name_only(tmp_path: Path) -> None:
    [device] = devices.plan([Share(tmp_path / "a file", "t", True, single=True)], common={"cache": "never"})
    assert device.options == {"shared_dir": str(tmp_path), "only": "a file", "readonly": True, "cache": "never"}
    command = devices.serve_command(tmp_path, device)
    assert command[command.index("--shared-dir") + 1] == str(tmp_path / "a file")


def test_shares_and_mice_can_be_taken_out_again_and_the_root_cannot(tmp_path: Path) -> None:
    planned = [*devices.plan([Share(tmp_path, "t")], mouse=True, pointer=True, pen=True), devices.root_device()]
    removable = {device.name: devices.vhost_user_device(tmp_path, device).removable for device in planned}
    assert removable == {"t": True, "mouse": True, "pointer": True, "pen": False, "subos-root": False}


def test_gamepads_are_numbered(tmp_path: Path) -> None:
    planned = devices.plan([], touch=True, gamepad=["xbox360", "dualsense", "xbox360"])
    pads = ["gamepad1", "gamepad2", "gamepad2-motion", "gamepad2-touchpad", "gamepad3"]
    assert [device.name for device in planned] == ["touch", *pads]
    assert [device.kind for device in planned[2:5]] == ["gamepad", "motion", "touchpad"]
    assert all(devices.vhost_user_device(tmp_path, device).driver == "vhost-user-input-pci" for device in planned)
    command = devices.serve_command(tmp_path, planned[2])
    assert command[command.index("--option") + 1] == "profile=dualsense"
    assert command[command.index("--driver-socket") + 1] == str(tmp_path / "gamepad2.driver.sock")


def test_a_gamepad_that_the_agent_is_to_leave_alone() -> None:
    rumbles, quick = devices.plan([], gamepad=["xbox360", "xbox360:no-rumble"])
    assert (rumbles.channel, quick.channel) == (devices.GAMEPAD, "")
    assert rumbles.options == quick.options == {"profile": "xbox360"}


def test_sensors_have_the_agent_or_the_pad_s_own_serial() -> None:
    """uinput knows no serials, and by virtio-input SDL knows by it which sensors are which pad's."""
    _, motion, touchpad = devices.plan([], gamepad=["dualshock4:uinput"])
    assert (motion.channel, touchpad.channel) == (devices.GAMEPAD, devices.GAMEPAD)
    assert motion.options == {"profile": "dualshock4"}
    _, motion, touchpad = devices.plan([], gamepad=["dualshock4:no-rumble"])
    assert (motion.channel, touchpad.channel) == ("", "")
    assert motion.options == touchpad.options == {"profile": "dualshock4", "serial": "gamepad1"}
    command = devices.serve_command(Path("/a"), touchpad)
    assert command[2] == "touchpad"
    assert command[-4:] == ["--option", "profile=dualshock4", "--option", "serial=gamepad1"]


def test_a_gamepad_that_the_agent_may_make_as_a_hid_device() -> None:
    for device in devices.plan([], gamepad=["dualsense"]):
        assert device.options == {"profile": "dualsense", "hid": "gamepad1"}
    for device in devices.plan([], gamepad=["dualsense:uhid"]):
        assert device.options == {"profile": "dualsense", "hid": "gamepad1", "hid_only": True}
    for others in (["dualsense:uinput"], ["dualsense:no-rumble"], ["dualsense:no-sensors"], ["switchpro"]):
        assert all("hid" not in device.options for device in devices.plan([], gamepad=others))


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("xbox360:uhid", "dualsense and dualshock4 can be one"),
        ("dualsense:uhid:uinput", "leave out :uinput"),
        ("dualsense:no-rumble:uhid", "leave out :no-rumble"),
        ("dualshock4:uhid:no-sensors", "leave out :no-sensors"),
    ],
)
def test_gamepads_that_can_be_no_hid_device(wanted: str, hint: str) -> None:
    with pytest.raises(UserError, match="this gamepad is no HID device") as caught:
        devices.plan([], gamepad=[wanted])
    assert caught.value.hint == hint


def test_a_gamepad_without_its_sensors() -> None:
    assert [device.name for device in devices.plan([], gamepad=["switchpro"])] == ["gamepad1", "gamepad1-motion"]
    (pad,) = devices.plan([], gamepad=["switchpro:no-sensors:no-rumble"])
    assert (pad.channel, pad.options) == ("", {"profile": "switchpro"})


def test_gamepads_that_come_and_go_are_for_run() -> None:
    planned = devices.plan([], gamepad=["xbox360", "switchpro:hotplug"])
    assert [(device.name, device.hot) for device in planned] == [
        ("gamepad1", False),
        ("gamepad2", True),
        ("gamepad2-motion", True),
    ]
    devices.refuse_hot(planned[:1])
    with pytest.raises(UserError, match="gamepad2: :hotplug is for subos-devices run") as caught:
        devices.refuse_hot(planned)
    assert "leave :hotplug out" in caught.value.hint


def test_gamepads_that_there_cannot_be() -> None:
    with pytest.raises(UserError, match="xbox360:rumble: 'rumble' is no option of a gamepad") as caught:
        devices.plan([], gamepad=["xbox360:rumble"])
    assert caught.value.hint == "there are no-rumble, no-sensors, hotplug, uhid, uinput"
    with pytest.raises(UserError, match="no gamepad is called 'atari'"):
        devices.plan([], gamepad=["xbox360", "atari"])
    with pytest.raises(UserError, match="9 gamepads are too many") as caught:
        devices.plan([], gamepad=["generic"] * 9)
    assert caught.value.hint == "a VM has at most 8"
