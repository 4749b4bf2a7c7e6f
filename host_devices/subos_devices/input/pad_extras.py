"""What a gamepad of this host has beside its event devices: lights, which a guest's programs may set, and a battery.

The kernel's drivers of real pads make both as devices beside the event device, in sysfs:

    …/leds/input7:rgb:indicator/{multi_intensity,brightness}, …/leds/input7:white:player-1/brightness   (a DualSense)
    …/leds/input7:{red,green,blue}/brightness                                                           (a DualShock 4)
    …/power_supply/ps-controller-battery-…/{capacity,status}

Source: drivers/hid/hid-playstation.c, Documentation/leds/leds-class-multicolor.rst, sysfs-class-power.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from subos_protocol.errors import Malformed
from subos_protocol.hid_pad import MAX_LEVEL, Battery, Charge, Light, light_from_object
from subos_protocol.input_codes import Ev
from subos_protocol.virtio_input import virtio_input_event

SYSFS = Path("/sys/class/input")
PLAYERS = 5
_COLOURS = ("red", "green", "blue")
_STATES = {"Charging": Charge.CHARGING, "Full": Charge.FULL}


class PadExtras:
    """Of the pad whose event device is `path`. What it does not have, or what we may not write, is left alone."""

    def __init__(self, path: Path, sysfs: Path = SYSFS) -> None:
        self._folder = sysfs / path.name / "device" / "device"
        self._before: dict[Path, str] = {}
        """What the lights were before we set them."""

    def show(self, said: Any) -> None:
        """Lights it as a guest said. Raises OSError where we may not; what means nothing is ignored."""
        with contextlib.suppress(Malformed):
            for file, value in self._wanted(light_from_object(said)):
                self._write(file, value)

    def restore(self) -> None:
        """Lights it as it was, as far as that can be."""
        before, self._before = self._before, {}
        for file, value in before.items():
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

    def _wanted(self, light: Light) -> list[tuple[Path, str]]:
        """The attributes to write, in order."""
        wanted: list[tuple[Path, str]] = []
        for lamp in self._folder.glob("leds/*:rgb:indicator"):
            wanted += [(lamp / "multi_intensity", " ".join(map(str, light.rgb))), (lamp / "brightness", "255")]
        for colour, part in zip(_COLOURS, light.rgb, strict=True):
            wanted += [(lamp / "brightness", str(part)) for lamp in self._folder.glob(f"leds/*:{colour}")]
        for number in range(PLAYERS):
            lamps = self._folder.glob(f"leds/*:player-{number + 1}")
            wanted += [(lamp / "brightness", str(light.players >> number & 1)) for lamp in lamps]
        return wanted

    def _write(self, file: Path, value: str) -> None:
        if file not in self._before:
            self._before[file] = file.read_text().strip()
        file.write_text(value)
