"""Reading /dev/input: the kernel's numbers and bytes, through a kernel played by a table. VM tests use a real one."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import threading

import pytest

from subos_agent import evdev
from subos_protocol.input_codes import Ev

ANSWERS = {
    0x81004506: b"SubOS Mouse\0",  # EVIOCGNAME(256)
    0x81004508: b"mouse\0",  # EVIOCGUNIQ(256)
    0x80084502: bytes.fromhex("0600270603000200"),  # EVIOCGID
    0x80044509: bytes(4),  # EVIOCGPROP(4)
    0x80044520: b"\x0f\0\x10\0",  # EVIOCGBIT(0, 4): SYN, KEY, REL, ABS and REP, for which the kernel has no bitmap
    0x80604521: bytes(34) + b"\x1f",  # EVIOCGBIT(EV_KEY, 96)
    0x80024522: b"\x40\x19",  # EVIOCGBIT(EV_REL, 2)
    0x80084523: b"\x03",  # EVIOCGBIT(EV_ABS, 8)
    0x80604518: bytes(34) + b"\x02",  # EVIOCGKEY(96): BTN_RIGHT
    0x80184540: struct.pack("=6i", 100, 0, 32767, 0, 0, 0),  # EVIOCGABS(ABS_X)
    0x80184541: struct.pack("=6i", 200, 0, 32767, 0, 0, 0),  # EVIOCGABS(ABS_Y)
}

MOVE_X = bytes.fromhex("0100000000000000 0200000000000000 0300 0000 64000000")  # 1.000002 s, ABS_X 100
WHEEL = bytes.fromhex("0100000000000000 0300000000000000 0200 0800 ffffffff")  # REL_WHEEL -1


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two devices, of which the second is the mouse; both are pipes."""
    for number in (10, 2):
        os.mkfifo(tmp_path / f"event{number}")
    (tmp_path / "mice").touch()

    def ioctl(fd, request, argument):
        path = os.readlink(f"/proc/self/fd/{fd}")
        if request == 0x81004506 and path.endswith("event2"):
            return b"Power Button\0".ljust(256, b"\0")
        return ANSWERS[request].ljust(len(argument), b"\0")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    monkeypatch.setattr(evdev, "INPUT_FOLDER", tmp_path)
    return tmp_path


def test_devices_in_the_order_of_their_numbers(folder):
    found = evdev.devices(folder)
    assert [device.name for device in found] == ["Power Button", "SubOS Mouse"]
    for device in found:
        device.close()


def test_what_a_device_says_of_itself(folder):
    with evdev.find("SubOS Mouse", folder) as mouse:
        assert mouse.serial == "mouse"
        assert mouse.ids == (6, 0x0627, 3, 2)
        assert mouse.props == set()
        assert mouse.types == {0, 1, 2, 3, 0x14}
        assert mouse.codes(Ev.EV_KEY) == {0x110, 0x111, 0x112, 0x113, 0x114}
        assert mouse.codes(Ev.EV_REL) == {6, 8, 11, 12}
        assert mouse.axis(1) == (200, 0, 32767, 0, 0, 0)
        assert mouse.pressed == {0x111}


def test_a_light_is_switched(folder):
    reader = os.open(folder / "event10", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert evdev.main(["light", "SubOS Mouse", "LED_CAPSL", "on"]) == 0
        assert os.read(reader, 100) == struct.pack("@llHHi", 0, 0, 0x11, 1, 1) + struct.pack("@llHHi", 0, 0, 0, 0, 0)
        assert evdev.main(["light", "SubOS Mouse", "LED_NUML", "off"]) == 0
        assert os.read(reader, 24) == struct.pack("@llHHi", 0, 0, 0x11, 0, 0)
    finally:
        os.close(reader)


def test_no_such_device(folder):
    assert evdev.find("Keyboard", folder) is None
    assert evdev.main(["light", "Keyboard", "LED_NUML", "on"]) == 1
    assert evdev.main(["read", "Keyboard"]) == 1


def test_events_are_read_as_they_come(folder):
    with evdev.find("SubOS Mouse", folder) as mouse:
        assert list(mouse.read(timeout=0)) == []
        writer = os.open(folder / "event10", os.O_WRONLY)
        events = mouse.read(timeout=60)
        os.write(writer, MOVE_X + WHEEL)
        assert next(events) == (1, 2, 3, 0, 100)
        assert next(events) == (1, 3, 2, 8, -1)
        os.close(writer)
        assert list(events) == []


def test_the_command_line(folder, capsys):
    writer = threading.Thread(target=lambda: (folder / "event10").write_bytes(MOVE_X + WHEEL))
    writer.start()
    assert evdev.main(["read", "SubOS Mouse"]) == 0
    writer.join()
    described, *events = map(json.loads, capsys.readouterr().out.splitlines())
    assert described["codes"]["EV_REL"] == ["REL_HWHEEL", "REL_WHEEL", "REL_WHEEL_HI_RES", "REL_HWHEEL_HI_RES"]
    assert described["axes"]["ABS_X"] == [100, 0, 32767, 0, 0, 0]
    assert described["pressed"] == ["BTN_RIGHT"]
    assert events == [["EV_ABS", "ABS_X", 100], ["EV_REL", "REL_WHEEL", -1]]
