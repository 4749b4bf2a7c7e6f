"""A pad made by uinput in the place of a host's, and a driver that plays on it:  host_pad.py FOLDER

FOLDER is where subos_devices lies. Prints JSON: what the pad was told, and by which of the driver's words.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.append(sys.argv[1])
from game import find
from uinput_pad import PAD, STEPS

from subos_agent.gamepad.uinput import UinputPad
from subos_devices.input.rumble import PadRumble
from subos_protocol.effects import to_object

PATIENCE = 20  # seconds
KINDS = ("upload", "play", "stop", "erase", "gain")


class Told:
    """What the pad is told, as its program hears it."""

    def __init__(self, uinput: UinputPad) -> None:
        self.uinput = uinput

    def until(self, *wanted: Any) -> list[dict[str, Any]]:
        """Until there was each of the messages or kinds of them."""
        said: list[dict[str, Any]] = []
        deadline = time.monotonic() + PATIENCE
        while not all(each in said or any(each in message for message in said if each in KINDS) for each in wanted):
            if time.monotonic() > deadline:
                sys.exit(f"{said} instead of {wanted}")
            if select.select([self.uinput.fd], [], [], 0.1)[0]:
                said += map(to_object, self.uinput.feedback())
        return said


def main() -> None:
    uinput = UinputPad(PAD)
    uinput.create()
    told, pad = Told(uinput), find(PAD.name)
    noted: dict[str, Any] = {}

    rumble = PadRumble(pad.path, PAD.ff)
    for said in (None, {"shake": 1}, {"play": {"id": 5, "times": 1}}, *STEPS[:2]):
        rumble.feel(said)
    noted["played"] = told.until("upload", "play")
    rumble.silence()
    noted["silenced"] = told.until("stop", "erase")

    rumble.feel(STEPS[0])
    rumble.feel({"play": {"id": 0, "times": 1}})
    told.until("upload", "play")
    rumble.close()
    noted["closed"] = told.until("stop", "erase")

    simple = PadRumble(pad.path, frozenset())  # as if it could only rumble
    for upload in (STEPS[2], STEPS[3]):
        simple.feel(upload)
        noted.setdefault("simple", []).extend(told.until("upload"))
    for number in range(1, 100):  # nobody answers: what is done meanwhile is kept, as far as it counts
        simple.feel({"play": {"id": 1, "times": number}})
        simple.feel({"upload": {**STEPS[0]["upload"], "id": 2 + number % 2, "strong": number}})
    time.sleep(0.2)
    noted["late"] = told.until({"play": {"id": 0, "times": 99}})  # as the pad numbers it
    uinput.close()  # unplugged
    simple.feel({"gain": 5})
    simple._thread.join(PATIENCE)
    noted["ended"] = not simple._thread.is_alive()
    rumble._thread.join(PATIENCE)
    print(json.dumps(noted))


if __name__ == "__main__":
    main()
