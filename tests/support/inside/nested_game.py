"""A game in a guest in a guest:  nested_game.py NAME

Says "ready" once the pad called NAME can rumble, "pressed" when its button is down and its stick to the right, then
rumbles; "released" when neither is so any more.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from game import Game

from subos_agent import evdev
from subos_protocol.input_codes import Abs, Ev

PATIENCE = 900  # seconds: two emulations on top of each other
RUMBLE = {"id": 0, "length": 500, "delay": 0, "direction": 0, "type": "rumble", "strong": 49152, "weak": 7}


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"never {what}")
        time.sleep(0.05)
    print(what, flush=True)


def can_rumble(name: str) -> bool:
    found = evdev.find(name)
    if found is None:
        return False
    with found:
        return bool(found.codes(Ev.EV_FF))


def main(name: str) -> None:
    until(lambda: can_rumble(name), "ready")
    game = Game(name)
    until(lambda: game.pressed() == ["BTN_SOUTH"] and game.pad.axis(Abs.ABS_X).value == 32767, "pressed")
    game.do({"upload": RUMBLE})
    game.do({"play": {"id": 0, "times": 1}})
    until(lambda: not game.pressed() and game.pad.axis(Abs.ABS_X).value == 0, "released")


if __name__ == "__main__":
    main(sys.argv[1])
