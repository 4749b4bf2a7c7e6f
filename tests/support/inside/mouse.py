"""Watches the guest's mouse:  mouse.py READY

Makes the file READY once it watches, and ends when the side and the extra button are both down. Prints JSON: what
the device is, every event ([type, code, value] with the kernel's names), and its state at the end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from subos_agent import evdev
from subos_protocol.input_codes import Abs, Ev, Key, code_name

TIMEOUT = 120  # seconds in all


def watch(ready: Path) -> None:
    mouse = evdev.find("SubOS Mouse")
    if mouse is None:
        sys.exit("this guest has no SubOS Mouse")
    with mouse:
        device = {
            "ids": mouse.ids,
            "serial": mouse.serial,
            "props": sorted(mouse.props),
            "codes": {Ev(type_).name: names(mouse, type_) for type_ in (Ev.EV_KEY, Ev.EV_REL, Ev.EV_ABS)},
            "x": mouse.axis(Abs.ABS_X)[1:3],
            "y": mouse.axis(Abs.ABS_Y)[1:3],
        }
        ready.touch()
        events: list[list[object]] = []
        held = set()
        for event in mouse.read(TIMEOUT):
            events.append([Ev(event.type).name, code_name(event.type, event.code), event.value])
            if event.type == Ev.EV_KEY:
                (held.add if event.value else held.discard)(event.code)
            if {Key.BTN_SIDE, Key.BTN_EXTRA} <= held:
                break
        state = {
            "pressed": [code_name(Ev.EV_KEY, code) for code in sorted(mouse.pressed)],
            "x": mouse.axis(Abs.ABS_X).value,
            "y": mouse.axis(Abs.ABS_Y).value,
        }
    print(json.dumps({"device": device, "events": events, "state": state}))


def names(mouse: evdev.EventDevice, type_: int) -> list[str]:
    return [code_name(type_, code) for code in sorted(mouse.codes(type_))]


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
