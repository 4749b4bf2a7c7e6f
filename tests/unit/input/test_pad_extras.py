"""Lights and battery of a gamepad of this host, in a sysfs of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from subos_devices.input.pad_extras import PadExtras

EVENT = Path("/dev/input/event7")


class Sysfs:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.pad = root / "event7/device/device"
        self.pad.mkdir(parents=True)

    def make(self, where: str, value: str) -> Path:
        file = self.pad / where
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
        return file

    def extras(self) -> PadExtras:
        return PadExtras(EVENT, self.root)


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path)


def test_a_dualsense_is_lit_and_is_as_it_was(sysfs: Sysfs) -> None:
    colour = sysfs.make("leds/input7:rgb:indicator/multi_intensity", "0 0 128")
    strength = sysfs.make("leds/input7:rgb:indicator/brightness", "9")
    players = [sysfs.make(f"leds/input7:white:player-{n}/brightness", str(int(n == 3))) for n in range(1, 6)]
    extras = sysfs.extras()
    extras.show({"rgb": [1, 2, 255], "players": 0b01010})
    assert (colour.read_text(), strength.read_text()) == ("1 2 255", "255")
    assert [file.read_text() for file in players] == ["0", "1", "0", "1", "0"]
    extras.show({"rgb": [7, 7, 7], "players": 0})
    assert colour.read_text() == "7 7 7"
    extras.restore()
    assert (colour.read_text(), strength.read_text()) == ("0 0 128", "9")
    assert [file.read_text() for file in players] == ["0", "0", "1", "0", "0"]
    extras.restore()


def test_a_dualshock_4_is_lit(sysfs: Sysfs) -> None:
    colours = [sysfs.make(f"leds/input7:{name}/brightness", "3") for name in ("red", "green", "blue")]
    extras = sysfs.extras()
    extras.show({"rgb": [11, 22, 33], "players": 0})
    assert [file.read_text() for file in colours] == ["11", "22", "33"]
    extras.restore()
    assert [file.read_text() for file in colours] == ["3", "3", "3"]


def test_only_what_changes_is_written_and_looked_for_once(sysfs: Sysfs) -> None:
    colour = sysfs.make("leds/input7:rgb:indicator/multi_intensity", "0 0 128")
    strength = sysfs.make("leds/input7:rgb:indicator/brightness", "9")
    first = sysfs.make("leds/input7:white:player-1/brightness", "0")
    extras = sysfs.extras()
    extras.show({"rgb": [1, 2, 3], "players": 0})
    sysfs.make("leds/input7:white:player-2/brightness", "untouched")
    for file in (colour, strength, first):
        file.write_text("seen")
    extras.show({"rgb": [1, 2, 3], "players": 2})
    assert [file.read_text() for file in (colour, strength, first)] == ["seen"] * 3
    extras.show({"rgb": [1, 2, 4], "players": 3})
    assert [file.read_text() for file in (colour, strength, first)] == ["1 2 4", "seen", "1"]
    assert "untouched" in (first.parent.parent / "input7:white:player-2/brightness").read_text()
    extras.restore()
    extras.show({"rgb": [1, 2, 4], "players": 2})
    assert colour.read_text() == "1 2 4"


def test_what_could_not_be_written_is_written_the_next_time(sysfs: Sysfs) -> None:
    first = sysfs.make("leds/input7:white:player-1/brightness", "0")
    extras = sysfs.extras()
    extras.show({"rgb": [0, 0, 0], "players": 0})
    first.unlink()
    first.mkdir()
    with pytest.raises(OSError, match="directory"):
        extras.show({"rgb": [0, 0, 0], "players": 1})
    first.rmdir()
    first.write_text("")
    extras.show({"rgb": [0, 0, 0], "players": 1})
    assert first.read_text() == "1"


def test_a_colour_that_was_none_is_not_put_back(sysfs: Sysfs) -> None:
    """hid-playstation lights a DualSense blue when it comes, and the attribute is 0 0 0 then."""
    colour = sysfs.make("leds/input7:rgb:indicator/multi_intensity", "0 0 0")
    strength = sysfs.make("leds/input7:rgb:indicator/brightness", "9")
    extras = sysfs.extras()
    extras.show({"rgb": [1, 2, 3], "players": 0})
    extras.restore()
    assert (colour.read_text(), strength.read_text()) == ("1 2 3", "255")


@pytest.mark.parametrize("said", [None, 5, {"rgb": [0, 0, 300], "players": 0}, {"rgb": "red", "players": 0}])
def test_what_means_nothing_lights_nothing(sysfs: Sysfs, said: object) -> None:
    colour = sysfs.make("leds/input7:red/brightness", "3")
    sysfs.extras().show(said)
    assert colour.read_text() == "3\n"


def test_a_pad_without_any_of_it(sysfs: Sysfs) -> None:
    extras = sysfs.extras()
    extras.show({"rgb": [1, 2, 3], "players": 1})
    extras.restore()
    assert extras.battery() == []


@pytest.mark.parametrize(
    ("capacity", "status", "events"),
    [
        ("45", "Discharging", [(0x16, 0, 45), (0x16, 1, 0)]),
        ("45", "Charging", [(0x16, 0, 45), (0x16, 1, 1)]),
        ("100", "Full", [(0x16, 0, 100), (0x16, 1, 2)]),
        ("250", "Unknown", [(0x16, 0, 100), (0x16, 1, 0)]),
        ("much", "Full", []),
    ],
)
def test_a_battery(sysfs: Sysfs, capacity: str, status: str, events: list[tuple[int, int, int]]) -> None:
    sysfs.make("power_supply/battery/capacity", capacity)
    sysfs.make("power_supply/battery/status", status)
    assert sysfs.extras().battery() == events
