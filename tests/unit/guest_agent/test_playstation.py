"""Sony's pads as HID devices: reports against the kernel's structures, and the driver's arithmetic on the calibration.

The offsets here were written down from drivers/hid/hid-playstation.c (Linux 6.12), not from our tables.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_agent.gamepad.hid_reports import Reports
from subos_agent.gamepad.playstation import BUTTONS, MODELS, Controls, Told, Touch, mac_of
from subos_protocol.hid_pad import Battery, Charge
from subos_protocol.input_codes import Abs, Ev, Key, Msc
from subos_protocol.virtio_input import virtio_input_event

DUALSENSE, DUALSHOCK4 = MODELS["dualsense"], MODELS["dualshock4"]
BOTH = [pytest.param(model, id=name) for name, model in MODELS.items()]
SYN = (Ev.EV_SYN, 0, 0)
MAC = bytes.fromhex("021122334455")


class Said:
    """Reports of a pad, by the events that lead to them; `now` is what our own clock says, in seconds."""

    def __init__(self, model):
        self.reports = []
        self.now = 100.0
        self._reports = Reports(model, self.reports.append, lambda: self.now)

    def again(self):
        del self.reports[:]
        self._reports.repeat()
        (report,) = self.reports
        return report

    def do(self, part, *events):
        """The reports of one frame."""
        del self.reports[:]
        self._reports.write(part, [virtio_input_event(*event) for event in (*events, SYN)])
        return list(self.reports)


def word(report, at):
    return int.from_bytes(report[at : at + 2], "little", signed=True)


def test_a_dualsense_that_nobody_touches():
    neutral = "01 80808080 0000 00 08000000 00000000 000000000000 000000200000 00000000 00 80000000 80000000"
    assert DUALSENSE.pack(Controls(), 0).hex() == neutral.replace(" ", "") + 12 * "00" + "2a" + 10 * "00"


def test_a_dualshock_4_that_nobody_touches():
    neutral = "01 80808080 080000 0000 0000 00 000000000000 000000200000 0000000000 1b00 00 01 00 80000000 80000000"
    assert DUALSHOCK4.pack(Controls(), 0).hex() == neutral.replace(" ", "") + 21 * "00"


def test_a_dualsense_in_use():
    said = Said(DUALSENSE)
    said.do("pad", (Ev.EV_ABS, Abs.ABS_X, 0), (Ev.EV_ABS, Abs.ABS_RY, 255), (Ev.EV_ABS, Abs.ABS_Z, 7))
    said.do("pad", (Ev.EV_ABS, Abs.ABS_HAT0X, -1), (Ev.EV_ABS, Abs.ABS_HAT0Y, 1), (Ev.EV_KEY, Key.BTN_NORTH, 1))
    said.do("motion", (Ev.EV_MSC, 5, 0))
    said.do("motion", (Ev.EV_ABS, Abs.ABS_RY, 64_000), (Ev.EV_ABS, Abs.ABS_Z, -8192), (Ev.EV_MSC, 5, 0x5555_5556))
    (report,) = said.do(
        "touchpad",
        (Ev.EV_ABS, Abs.ABS_MT_SLOT, 1),
        (Ev.EV_ABS, Abs.ABS_MT_TRACKING_ID, 5),
        (Ev.EV_ABS, Abs.ABS_MT_POSITION_X, 0x712),
        (Ev.EV_ABS, Abs.ABS_MT_POSITION_Y, 0x345),
        (Ev.EV_KEY, Key.BTN_LEFT, 1),
    )
    assert report[:11].hex() == "010080" + "80ff" + "0700" + "04" + "85" + "00" + "02"
    assert [word(report, 16 + 2 * n) for n in range(6)] == [0, 1000, 0, 0, 8192, -8192]
    assert report[28:32].hex() == "02000000"  # thirds of a microsecond, which wrap
    assert report[33:41].hex() == "80000000" + "05125734"


def test_a_dualshock_4_in_use():
    said = Said(DUALSHOCK4)
    said.do("pad", (Ev.EV_ABS, Abs.ABS_RZ, 9), (Ev.EV_KEY, Key.BTN_MODE, 1), (Ev.EV_KEY, Key.BTN_TL2, 1))
    said.do("motion", (Ev.EV_MSC, Msc.MSC_TIMESTAMP, 5000))
    (report,) = said.do("motion", (Ev.EV_ABS, Abs.ABS_RX, -128), (Ev.EV_MSC, Msc.MSC_TIMESTAMP, 6600))
    assert report[:10].hex() == "0180808080" + "080409" + "0009"
    assert report[10:12].hex() == "2c01"  # units of 16/3 microseconds
    assert [word(report, 13 + 2 * n) for n in range(6)] == [-2, 0, 0, 0, 8192, 0]


def time_of(report):
    """Of a DualSense, in microseconds."""
    return int.from_bytes(report[28:32], "little") / 3


def stamp(value):
    return (Ev.EV_MSC, Msc.MSC_TIMESTAMP, value)


def test_the_time_goes_on_when_the_host_begins_to_say_it():
    """The driver takes a step back for a wrap, which is most of an hour."""
    said = Said(DUALSENSE)
    said.now += 7
    (report,) = said.do("pad", (Ev.EV_KEY, Key.BTN_SOUTH, 1))
    assert time_of(report) == 7_000_000
    said.now += 1
    times = [time_of(said.do("motion", stamp(value))[0]) for value in (500, 4500, 8500, 300, 4300)]
    assert times == [8_000_000, 8_004_000, 8_008_000, 8_008_000, 8_012_000]


def test_the_host_s_time_may_wrap():
    for first in (-1, 0x7FFF_FFFF - (1 << 32), 0x7FFF_FFFF):
        said = Said(DUALSENSE)
        values = ((first + passed + (1 << 31)) % (1 << 32) - (1 << 31) for passed in (0, 1000, 2000))
        assert [time_of(said.do("motion", stamp(value))[0]) for value in values] == [0, 1000, 2000]


def test_what_is_said_again_has_the_time_move_on_and_the_host_s_is_not_behind_it():
    said = Said(DUALSENSE)
    said.do("motion", stamp(0), (Ev.EV_ABS, Abs.ABS_X, 7))
    (first,) = said.do("motion", stamp(4000))
    said.now += 0.006
    again = said.again()
    assert time_of(again) - time_of(first) == 6000
    assert again[16:28] == first[16:28]
    assert again[7] == first[7] + 1, "it counts"
    (button,) = said.do("pad", (Ev.EV_KEY, Key.BTN_SOUTH, 1))
    times = [time_of(button), *(time_of(said.do("motion", stamp(value))[0]) for value in (8000, 12000, 16000))]
    assert times == [10_000, 10_000, 12_000, 16_000]


def test_a_host_whose_time_has_nothing_to_do_with_ours_is_not_waited_for():
    said = Said(DUALSENSE)
    said.do("motion", stamp(0))
    said.now += 60
    said.again()
    assert [time_of(said.do("motion", stamp(value))[0]) for value in (4000, 8000)] == [60_000_000, 60_004_000]


@pytest.mark.parametrize("model", BOTH)
def test_each_button_has_a_bit_of_its_own(model):
    first = 8 if model is DUALSENSE else 5
    idle, seen = model.pack(Controls(), 0), set()
    for key in BUTTONS:
        controls = Controls()
        controls.keys[key] = True
        report = model.pack(controls, 0)
        assert [at for at in range(64) if report[at] != idle[at]] == [first + BUTTONS[key][0]]
        seen.add(bytes(a ^ b for a, b in zip(report, idle, strict=True)))
    assert len(seen) == len(BUTTONS) == 14


@pytest.mark.parametrize("model", BOTH)
def test_a_finger_that_follows_another_is_lifted_first(model):
    said = Said(model)
    at = 33 if model is DUALSENSE else 35
    slot = (Ev.EV_ABS, Abs.ABS_MT_SLOT, 0)
    (down,) = said.do("touchpad", slot, (Ev.EV_ABS, Abs.ABS_MT_TRACKING_ID, 200))
    assert down[at] == 200 % 128
    between, after = said.do("touchpad", (Ev.EV_ABS, Abs.ABS_MT_TRACKING_ID, 201))
    assert (between[at] & 0x80, after[at]) == (0x80, 201 % 128)
    (same,) = said.do("touchpad", (Ev.EV_ABS, Abs.ABS_MT_TRACKING_ID, 201))
    assert same[at] == 201 % 128
    (up,) = said.do("touchpad", (Ev.EV_ABS, Abs.ABS_MT_TRACKING_ID, -1))
    assert up[at] & 0x80


def test_the_touch_pad_s_button_of_a_dualshock_4_is_said_twice():
    """The driver ends the frame before it tells of the button."""
    said = Said(DUALSHOCK4)
    assert [report[7] & 2 for report in said.do("touchpad", (Ev.EV_KEY, Key.BTN_LEFT, 1))] == [2, 2]
    assert len(said.do("touchpad", (Ev.EV_KEY, Key.BTN_LEFT, 1))) == 1, "it has not changed"
    assert len(Said(DUALSENSE).do("touchpad", (Ev.EV_KEY, Key.BTN_LEFT, 1))) == 1


def dualsense_battery(status):
    """dualsense_parse_report"""
    level, state = min((status & 15) * 10 + 5, 100), status >> 4
    return {0: (level, "Discharging"), 1: (level, "Charging"), 2: (100, "Full")}[state]


def dualshock4_battery(status):
    """dualshock4_parse_report"""
    data = status & 15
    level = data * 10 + 5 if data < 10 else 100
    if not status & 16:
        return level, "Discharging"
    return level, "Full" if data == 11 else "Charging"


@pytest.mark.parametrize("model", BOTH)
def test_the_driver_understands_the_battery(model):
    at, read = (53, dualsense_battery) if model is DUALSENSE else (30, dualshock4_battery)
    for level in range(101):
        for state in Charge:
            said = Said(model)
            (report,) = said.do("pad", (Ev.EV_PWR, Battery.LEVEL, level), (Ev.EV_PWR, Battery.STATE, state))
            expected = 100 if state is Charge.FULL or level == 100 else level // 10 * 10 + 5
            assert read(report[at]) == (expected, state.name.capitalize())


@pytest.mark.parametrize("model", BOTH)
def test_the_calibration_leaves_values_as_they_are(model):
    """As the driver reads it, of the kernels since 6.3 and of those before."""
    calibration = model.feature(0x05 if model is DUALSENSE else 0x02, MAC)
    assert len(calibration) == (41 if model is DUALSENSE else 37)
    gyro = [word(calibration, 7 + 2 * n) for n in range(6)]
    speed = word(calibration, 19) + word(calibration, 21)
    gravity = [word(calibration, 23 + 2 * n) for n in range(6)]
    assert calibration[1:7] == bytes(6)
    for plus, minus in zip(gyro[::2], gyro[1::2], strict=True):
        assert plus - minus == abs(plus) + abs(minus)
        assert speed * 1024 == 64 * (plus - minus)
    for plus, minus in zip(gravity[::2], gravity[1::2], strict=True):
        assert (plus - (plus - minus) // 2, 2 * 8192) == (0, plus - minus)


def test_feature_reports():
    assert DUALSENSE.feature(0x09, MAC).hex() == "09" + "554433221102" + 13 * "00"
    assert DUALSHOCK4.feature(0x12, MAC).hex() == "12" + "554433221102" + 9 * "00"
    firmware = DUALSENSE.feature(0x20, MAC)
    assert (len(firmware), firmware[0], word(firmware, 44)) == (64, 0x20, 0x0224)
    assert (len(DUALSHOCK4.feature(0xA3, MAC)), DUALSHOCK4.feature(0xA3, MAC)[0]) == (49, 0xA3)
    assert DUALSENSE.feature(0x81, MAC) == DUALSHOCK4.feature(0x81, MAC) == b""


def test_addresses_differ_and_are_nobody_s():
    first, second = mac_of("gamepad1"), mac_of("gamepad2")
    assert (len(first), len(second), first == second) == (6, 6, False)
    assert first == mac_of("gamepad1")
    assert first[0] & 3 == 2, "locally administered, of one device"


def dualsense_output(**bytes_at):
    report = bytearray(63)
    report[0] = 2
    for at, value in bytes_at.items():
        report[int(at[1:])] = value
    return bytes(report)


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (dualsense_output(_1=0x02, _39=0x04, _3=7, _4=200), Told(motors=(200, 7))),  # "v2", as the driver says it
        (dualsense_output(_1=0x03, _3=7, _4=200), Told(motors=(200, 7))),
        (dualsense_output(_2=0x04, _45=1, _46=2, _47=255), Told(rgb=(1, 2, 255))),
        (dualsense_output(_2=0x10, _44=0x24), Told(players=4)),
        (dualsense_output(_39=0x02, _42=0x02), Told(rgb=(0, 0, 0))),  # dualsense_reset_leds
        (dualsense_output(), Told(motors=(0, 0))),  # so SDL ends a rumble on hidraw: the pad turns on no longer
        (dualsense_output(_3=7, _45=9), Told(motors=(0, 0))),
        (dualsense_output(_2=0x01), Told()),  # the microphone's light alone
        (b"\x01" + bytes(62), Told()),
        (b"\x02" + bytes(46), Told()),
        (b"", Told()),
    ],
)
def test_what_a_dualsense_is_told(report, told):
    assert DUALSENSE.told(report) == told


def test_what_a_dualshock_4_is_told():
    assert DUALSHOCK4.told(bytes([5, 3, 0, 0, 8, 9, 1, 2, 3]) + bytes(23)) == Told((9, 8), (1, 2, 3))
    assert DUALSHOCK4.told(bytes([5, 2, 0, 0, 8, 9, 1, 2, 3]) + bytes(23)) == Told(None, (1, 2, 3))
    assert DUALSHOCK4.told(bytes([5, 3, 0, 0, 8, 9, 1, 2])) == Told()


@given(st.binary(max_size=100))
def test_whatever_it_is_told_means_something_or_nothing(report):
    for model in MODELS.values():
        told = model.told(report)
        assert told.motors is None or all(0 <= motor <= 255 for motor in told.motors)
        assert told.rgb is None or all(0 <= part <= 255 for part in told.rgb)
        assert told.players is None or 0 <= told.players <= 31


events = st.lists(
    st.builds(
        virtio_input_event,
        st.sampled_from([Ev.EV_SYN, Ev.EV_KEY, Ev.EV_ABS, Ev.EV_MSC, Ev.EV_PWR]),
        st.one_of(st.sampled_from([*BUTTONS, *Abs]), st.integers(0, 0xFFFF)),
        st.integers(-(1 << 31), (1 << 31) - 1),
    ),
    max_size=64,
)


@given(st.lists(st.tuples(st.sampled_from(["pad", "motion", "touchpad"]), events), max_size=6))
def test_whatever_happens_is_a_report(steps):
    for model in MODELS.values():
        reports: list[bytes] = []
        packer = Reports(model, reports.append)
        for part, happened in steps:
            packer.write(part, happened)
        packer.report()
        assert all(len(report) == 64 and report[0] == 1 for report in reports)


@given(st.integers(0, 4095), st.integers(0, 4095), st.integers(0, 65535))
def test_touches_come_out_as_the_driver_reads_them(x, y, number):
    controls = Controls()
    controls.touches[0] = Touch(number, x, y)
    for model, at in ((DUALSENSE, 33), (DUALSHOCK4, 35)):
        contact, low, middle, high = model.pack(controls, 0)[at : at + 4]
        assert (contact & 0x80, (middle & 15) << 8 | low, high << 4 | middle >> 4) == (0, x, y)
