"""Floods a keyboard with lights:  lights.py DEVICE   (/dev/input/eventN). All are out at the end."""

from __future__ import annotations

import sys
from pathlib import Path

from subos_agent.evdev import EventDevice
from subos_protocol.input_codes import Ev

EVENTS = 20_000
LIGHTS = 3


def flood(path: Path) -> None:
    with EventDevice(path, writable=True) as device:
        for number in range(EVENTS):
            device.write(Ev.EV_LED, number % LIGHTS, number // LIGHTS % 2)
        for code in range(LIGHTS):
            for value in (1, 0):
                device.write(Ev.EV_LED, code, value)


if __name__ == "__main__":
    flood(Path(sys.argv[1]))
