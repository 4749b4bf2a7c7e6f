"""A game, as far as its gamepad goes:  game.py NAME STEPS

Opens the first event device called NAME and does STEPS, a JSON list: {"upload": …, "play": …, "stop": …, "erase": …,
"gain": …} as the protocol has them (the number of an uploaded effect is what the kernel makes it; those of the others
are counted from the first upload), {"file": PATH} makes a file, {"wait": PATH} waits until one is there,
{"flood": N} plays and stops the first effect N times, {"state": true} notes what is pressed and where the axes are,
{"pressed": […]} waits until that is pressed, {"nodes": true} notes the files in /dev/input that are of this name.
Prints JSON: what the device is, and what was noted.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from subos_agent import evdev
from subos_protocol.effects import Erase, Gain, Play, Stop, Upload, from_object
from subos_protocol.ff_effect import EVIOCRMFF, EVIOCSFF, to_kernel
from subos_protocol.input_codes import Ev, Ff, code_name
from subos_protocol.input_event import pack_event

EVIOCGEFFECTS = 2 << 30 | 4 << 16 | ord("E") << 8 | 0x84
PATIENCE = 120  # seconds


class Game:
    def __init__(self, name: str) -> None:
        self.pad = find(name)
        self.fd = os.open(self.pad.path, os.O_RDWR)
        self.effects: list[int] = []
        self.noted: list[Any] = []

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.pad.name,
            "ids": self.pad.ids,
            "codes": {Ev(type_).name: sorted(self.pad.codes(type_)) for type_ in (Ev.EV_KEY, Ev.EV_ABS, Ev.EV_FF)},
            "axes": {code: self.pad.axis(code) for code in sorted(self.pad.codes(Ev.EV_ABS))},
            "effects": struct.unpack("i", fcntl.ioctl(self.fd, EVIOCGEFFECTS, bytes(4)))[0],
        }

    def pressed(self) -> list[str]:
        return [code_name(Ev.EV_KEY, code) for code in sorted(self.pad.pressed)]

    def do(self, step: dict[str, Any]) -> None:
        if "file" in step:
            Path(step["file"]).touch()
        elif "wait" in step:
            wait(Path(step["wait"]).exists, step["wait"])
        elif "flood" in step:
            for count in range(step["flood"]):
                self.write(self.effects[0], count & 1)
        elif "state" in step:
            self.noted.append(
                {
                    "pressed": self.pressed(),
                    "axes": {code: self.pad.axis(code).value for code in sorted(self.pad.codes(Ev.EV_ABS))},
                }
            )
        elif "pressed" in step:
            wait(lambda: self.pressed() == step["pressed"], f"{step['pressed']} instead of {self.pressed()}")
        elif "nodes" in step:
            self.noted.append(nodes(self.pad.name))
        else:
            self.feel(step)

    def feel(self, step: dict[str, Any]) -> None:
        message = from_object(step)
        if isinstance(message, Upload):
            known = message.effect.id < len(self.effects)
            effect = to_kernel(message.effect, number=self.effects[message.effect.id] if known else -1)
            fcntl.ioctl(self.fd, EVIOCSFF, effect)
            if not known:
                self.effects.append(effect.id)
        elif isinstance(message, Play):
            self.write(self.effects[message.id], message.times)
        elif isinstance(message, Stop):
            self.write(self.effects[message.id], 0)
        elif isinstance(message, Erase):
            fcntl.ioctl(self.fd, EVIOCRMFF, self.effects[message.id])
        elif isinstance(message, Gain):
            self.write(Ff.FF_GAIN, message.value)

    def write(self, code: int, value: int) -> None:
        os.write(self.fd, pack_event(Ev.EV_FF, code, value))


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"it did not come about: {what}")
        time.sleep(0.01)


def nodes(name: str) -> list[str]:
    """event1, js0, say."""
    folders = Path("/sys/class/input").glob("*/device/name")
    return sorted(path.parts[-3] for path in folders if path.read_text().strip() == name)


def find(name: str) -> evdev.EventDevice:
    found: list[evdev.EventDevice | None] = []
    wait(lambda: bool(found.append(evdev.find(name)) or found[-1]), f"a device called {name}")
    assert found[-1] is not None
    return found[-1]


if __name__ == "__main__":
    game = Game(sys.argv[1])
    for one in json.loads(sys.argv[2]):
        game.do(one)
    print(json.dumps({"device": game.describe(), "noted": game.noted, "effects": game.effects}))
