"""What a gamepad of this host has beside its event devices: lights, which a guest's programs may set, and a battery.

The kernel's drivers of real pads make both as devices beside the event device, in sysfs:

    …/leds/input7:rgb:indicator/{multi_intensity,brightness}, …/leds/input7:white:player-1/brightness   (a DualSense)
    …/leds/input7:{red,green,blue}/brightness                                                           (a DualShock 4)
    …/power_supply/ps-controller-battery-…/{capacity,status}

Source: drivers/hid/hid-playstation.c, Documentation/leds/leds-class-multicolor.rst, sysfs-class-power.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from subos_protocol.errors import Malformed
from subos_protocol.hid_pad import MAX_LEVEL, Battery, Charge, Light, light_from_object
from subos_protocol.input_codes import Ev
from subos_protocol.virtio_input import virtio_input_event

SYSFS = Path("/sys/class/input")
PLAYERS = 5
_COLOURS = ("red", "green", "blue")
_NO_COLOUR = "0 0 0"
_STATES = {"Charging": Charge.CHARGING, "Full": Charge.FULL}


class PadExtras:
    """Of the pad whose event device is `path`. What it does not have, or what we may not write, is left alone."""

    def __init__(self, path: Path, sysfs: Path = SYSFS) -> None:
        self._folder = sysfs / path.name / "device" / "device"
        self._before: dict[Path, str] = {}
        """What the lights were before we set them."""
        self._shown: dict[Path, str] = {}
        """What they are now, as far as we set them."""
        self._lamps: list[tuple[Path, Callable[[Light], str]]] = []
        """Their attributes, in the order in which they are to be written, with what each is to have."""

    def show(self, said: Any) -> None:
        """Lights it as a guest said. Raises OSError where we may not; what means nothing is ignored."""
        with contextlib.suppress(Malformed):
            light = light_from_object(said)
            self._lamps = self._lamps or self._find_lamps()
            for file, value_of in self._lamps:
                self._write(file, value_of(light))

    def restore(self) -> None:
        """Lights it as it was, as far as that can be. What hid-playstation has a DualSense show when it comes is in no
        attribute: such a pad keeps what it shows now, rather than being dark."""
        before, self._before = self._before, {}
        self._shown.clear()
        colourless = {file.parent for file, value in before.items() if value == _NO_COLOUR}
        for file, value in before.items():
            if file.parent not in colourless:
                with contextlib.suppress(OSError):
                    file.write_text(value)

    def battery(self) -> list[virtio_input_event]:
        """How it is, for the guest; nothing where there is none that can be read."""
        for supply in self._folder.glob("power_supply/*"):
            with contextlib.suppress(OSError, ValueError):
                level = int((supply / "capacity").read_text())
                state = _STATES.get((supply / "status").read_text().strip(), Charge.DISCHARGING)
                return [
                    virtio_input_event(Ev.EV_PWR, Battery.LEVEL, max(0, min(MAX_LEVEL, level))),
                    virtio_input_event(Ev.EV_PWR, Battery.STATE, state),
                ]
        return []

    def _find_lamps(self) -> list[tuple[Path, Callable[[Light], str]]]:
        lamps: list[tuple[Path, Callable[[Light], str]]] = []
        for lamp in self._folder.glob("leds/*:rgb:indicator"):
            lamps += [(lamp / "multi_intensity", _colour), (lamp / "brightness", lambda _: "255")]
        for part, colour in enumerate(_COLOURS):
            lamps += [(lamp / "brightness", partial(_part, part)) for lamp in self._folder.glob(f"leds/*:{colour}")]
        for number in range(PLAYERS):
            found = self._folder.glob(f"leds/*:player-{number + 1}")
            lamps += [(lamp / "brightness", partial(_player, number)) for lamp in found]
        return lamps

    def _write(self, file: Path, value: str) -> None:
        if self._shown.get(file) == value:
            return
        if file not in self._before:
            self._before[file] = file.read_text().strip()
        file.write_text(value)
        self._shown[file] = value


def _colour(light: Light) -> str:
    return " ".join(map(str, light.rgb))


def _part(part: int, light: Light) -> str:
    return str(light.rgb[part])


def _player(number: int, light: Light) -> str:
    return str(light.players >> number & 1)
