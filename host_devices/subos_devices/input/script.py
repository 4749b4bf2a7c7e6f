"""The script driver: actions in words, sent over the driver sockets of a VM's input devices.

    move X Y                             X and Y from 0 to 32767, or as percentages: move 50% 12.5%
    click [BUTTON] [--at X Y]            left (unless said), right, middle, side or extra
    press [BUTTON], release [BUTTON]     what is still pressed at the end is released
    scroll N [--horizontal]              detents; up and right are positive
    nudge DX DY                          moves the relative mouse
    type TEXT                            on a US keyboard
    key NAME[+NAME…]                     key enter, key ctrl+alt+f1; pressed in order, released in reverse
    touch X Y [--finger N]               puts finger 1 (unless said) to 10 there, or moves it
    lift [--finger N]
    tap X Y                              puts finger 1 there and lifts it
    pad BUTTON [press|release]           a, b, x, y, lb, rb, start …, or up, down, left, right of the cross
    stick left|right X Y                 from -100% to 100%; down and right are positive
    trigger left|right N                 from 0% to 100%
    battery N% [charging|full]           of a pad with one that the guest can read
    gyro X Y Z, accel X Y Z              of a pad with sensors: degrees a second; g
    touchpad X Y [--finger N]            of a pad with a touch pad, from 0% to 100%
    touchpad lift [--finger N], touchpad press|release|click
    wait SECONDS

move, click --at, touch and tap take --monitor N: X and Y are then a place on that monitor of the guest, which its agent
knows.

Several actions are separated by commas: "move 10% 10%, press, move 90% 90%, release". After a `type` that comes first
all is text, commas too.
"""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from subos_protocol.input_codes import Key
from subos_protocol.monitors import Layout
from subos_protocol.virtio_input import virtio_input_event

from ..errors import UserError
from .actions import (
    Action,
    Events,
    button,
    chord,
    device_of,
    lift,
    move,
    nudge,
    scroll,
    touch,
    type_text,
)
from .capabilities import PRESSED, RELEASED
from .client import DriverConnection
from .gamepad import words as pad_words
from .gamepad.profiles import Profile
from .keymap import key_named
from .monitors import places, reach
from .mouse import AXIS_MAX

BUTTONS = {
    "left": Key.BTN_LEFT,
    "right": Key.BTN_RIGHT,
    "middle": Key.BTN_MIDDLE,
    "side": Key.BTN_SIDE,
    "extra": Key.BTN_EXTRA,
}
MAX_SCROLL = 1000  # detents of one action
MAX_NUDGE = 32767
MAX_WAIT = 86400  # seconds of one action
FINGERS = 10
GAMEPAD = "gamepad1"

Pad = Callable[[], Profile]
"""What the gamepad is that the words are for. It is asked when there is such a word. Raises UserError for none."""


Monitors = Callable[[], Layout]
"""Where the guest's monitors are. It is asked when there is a --monitor. Raises UserError where nobody knows."""


def no_pad() -> Profile:
    raise UserError("no gamepad is known here", "name the VM, or the --profile of a --socket")


def no_monitors() -> Layout:
    raise UserError("no monitors are known here", "--monitor is for the devices of a VM whose agent runs: name the VM")


def parse(
    words: Sequence[str], pad: Pad = no_pad, monitors: Monitors = no_monitors, gamepad: str = GAMEPAD
) -> list[Action]:
    """The actions that `words` spell; `gamepad` is the pad that they are for. Raises UserError for what is none, before
    anything is sent."""
    script = " ".join(words)
    sentences = [script] if script.startswith("type ") else script.split(",")
    monitors = functools.cache(monitors)
    actions = [action for sentence in sentences for action in _sentence(sentence, pad, monitors, gamepad)]
    if not actions:
        raise UserError("no action", f"there are {_ALL}; see subos-devices input --help")
    return actions


def play(where: Path | Mapping[str, Path], actions: Iterable[Action]) -> None:
    """Sends `actions` to the device that listens on the socket `where`, or each to its own (see `device_of`)."""
    with contextlib.ExitStack() as stack:
        drivers: dict[Path, DriverConnection] = {}
        for action in actions:
            if isinstance(action, float):
                time.sleep(action)
                continue
            path = where if isinstance(where, Path) else where[device_of(action) or ""]
            if path not in drivers:
                drivers[path] = stack.enter_context(DriverConnection(path))
            drivers[path].send(action)
        for driver in drivers.values():
            driver.finish()


# --- words


def _sentence(sentence: str, pad: Pad, monitors: Monitors, gamepad: str) -> list[Action]:
    verb, _, rest = sentence.lstrip().partition(" ")
    if verb == "type":
        return _type(rest)
    words = sentence.split()
    if not words:
        return []
    if words[0] in pad_words.VERBS:
        return [Events(gamepad, pad_words.VERBS[words[0]](words[1:], pad().capabilities))]
    if words[0] in pad_words.PART_VERBS:
        part, spell = pad_words.PART_VERBS[words[0]]
        return [Events(f"{gamepad}-{part}", spell(words[1:], pad().part(part).capabilities))]
    if words[0] not in _VERBS:
        raise UserError(f"{words[0]!r} is no action", f"there are {_ALL}")
    number, words = _monitor(words)
    action = _VERBS[words[0]](words[1:])
    return [action if number is None else _placed(action, words[0], number, monitors)]


def _monitor(words: list[str]) -> tuple[int | None, list[str]]:
    """Its number, if it is named, and the other words."""
    if "--monitor" not in words:
        return None, words
    at = words.index("--monitor")
    number = "".join(words[at + 1 : at + 2])
    if at == 0 or not re.fullmatch(r"[0-9]{1,2}", number):
        raise UserError("--monitor takes a number, from 1", "move 50% 50% --monitor 2")
    return int(number), words[:at] + words[at + 2 :]


def _placed(action: Action, verb: str, number: int, monitors: Monitors) -> Action:
    """The action on that monitor."""
    if isinstance(action, float) or not places(action):
        raise UserError(f"{verb} says no place for --monitor", "click --at 50% 50% --monitor 2")
    placed = reach(monitors(), number).place(action)
    return Events(action.device, placed) if isinstance(action, Events) else placed


def _type(text: str) -> list[Action]:
    if not text:
        raise UserError("type takes a text", "type hello")
    return type_text(text)


def _key(words: list[str]) -> Action:
    if len(words) != 1:
        raise UserError("key takes one key, or several joined by +", "key enter, or key ctrl+alt+delete")
    return chord([key_named(name) for name in words[0].split("+")])


def _move(words: list[str]) -> Action:
    if len(words) != 2:
        raise UserError(
            f"move takes X and Y, not {' '.join(words) or 'nothing'!r}", "move 16383 16383, or move 50% 50%"
        )
    return move(_coordinate(words[0]), _coordinate(words[1]))


def _click(words: list[str]) -> Action:
    moved: list[virtio_input_event] = []
    if "--at" in words:
        at = words.index("--at")
        moved = move(*map(_coordinate, _pair(words[at + 1 : at + 3])))
        words = words[:at] + words[at + 3 :]
    code = _button(words)
    return moved + button(code, PRESSED) + button(code, RELEASED)


def _pair(words: list[str]) -> list[str]:
    if len(words) != 2:
        raise UserError("--at takes X and Y", "click left --at 50% 50%")
    return words


def _scroll(words: list[str]) -> Action:
    amounts = [word for word in words if word != "--horizontal"]
    if len(amounts) != 1 or len(words) > 2 or not re.fullmatch(r"[+-]?[0-9]{1,9}", amounts[0]):
        raise UserError("scroll takes a whole number of detents", "scroll -3, or scroll 3 --horizontal")
    detents = int(amounts[0])
    if not -MAX_SCROLL <= detents <= MAX_SCROLL:
        raise UserError(f"scroll {detents} is too far", f"at most {MAX_SCROLL} detents")
    return scroll(detents, horizontal="--horizontal" in words)


def _wait(words: list[str]) -> Action:
    if len(words) != 1 or not re.fullmatch(r"[0-9]{0,9}\.?[0-9]{1,20}", words[0]) or float(words[0]) > MAX_WAIT:
        raise UserError(f"wait takes seconds, {MAX_WAIT} at most", "wait 0.5")
    return float(words[0])


def _nudge(words: list[str]) -> Action:
    if len(words) != 2 or not all(re.fullmatch(r"[+-]?[0-9]{1,9}", word) for word in words):
        raise UserError(f"nudge takes DX and DY, not {' '.join(words) or 'nothing'!r}", "nudge 10 -5")
    dx, dy = map(int, words)
    if max(abs(dx), abs(dy)) > MAX_NUDGE:
        raise UserError(f"nudge {dx} {dy} is too far", f"at most {MAX_NUDGE} each way")
    return nudge(dx, dy)


def _touch(words: list[str]) -> Action:
    finger, words = _finger(words)
    if len(words) != 2:
        raise UserError(f"touch takes X and Y, not {' '.join(words) or 'nothing'!r}", "touch 50% 50% --finger 2")
    return touch(finger, _coordinate(words[0]), _coordinate(words[1]))


def _lift(words: list[str]) -> Action:
    finger, words = _finger(words)
    if words:
        raise UserError(f"lift takes no {' '.join(words)!r}", "lift --finger 2")
    return lift(finger)


def _tap(words: list[str]) -> Action:
    if len(words) != 2:
        raise UserError(f"tap takes X and Y, not {' '.join(words) or 'nothing'!r}", "tap 50% 50%")
    return Events("touch", [*touch(0, _coordinate(words[0]), _coordinate(words[1])), *lift(0)])


def _finger(words: list[str]) -> tuple[int, list[str]]:
    """Its slot, and the other words."""
    if "--finger" not in words:
        return 0, words
    at = words.index("--finger")
    number = "".join(words[at + 1 : at + 2])
    if not re.fullmatch(r"[0-9]{1,2}", number) or not 1 <= int(number) <= FINGERS:
        raise UserError(f"--finger takes a number from 1 to {FINGERS}", "touch 50% 50% --finger 2")
    return int(number) - 1, words[:at] + words[at + 2 :]


def _button(words: list[str]) -> int:
    if not words:
        return BUTTONS["left"]
    if len(words) > 1 or words[0] not in BUTTONS:
        raise UserError(f"{' '.join(words)!r} is no button", f"there are {', '.join(BUTTONS)}")
    return BUTTONS[words[0]]


def _coordinate(word: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,20})?%", word):
        value = round(float(word[:-1]) * AXIS_MAX / 100)
    elif re.fullmatch(r"[0-9]{1,9}", word):
        value = int(word)
    else:
        raise UserError(f"{word!r} is no coordinate", f"a whole number from 0 to {AXIS_MAX}, or a percentage")
    if value > AXIS_MAX:
        raise UserError(f"{word} lies outside the screen", f"from 0 to {AXIS_MAX}, or 0% to 100%")
    return value


_VERBS: dict[str, Callable[[list[str]], Action]] = {
    "move": _move,
    "click": _click,
    "press": lambda words: button(_button(words), PRESSED),
    "release": lambda words: button(_button(words), RELEASED),
    "scroll": _scroll,
    "nudge": _nudge,
    "key": _key,
    "touch": _touch,
    "lift": _lift,
    "tap": _tap,
    "wait": _wait,
}
_ALL = ", ".join([*_VERBS, "type", *pad_words.VERBS, *pad_words.PART_VERBS])
