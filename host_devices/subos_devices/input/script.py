"""The script driver: actions in words, sent over the driver sockets of a mouse and a keyboard.

    move X Y                             X and Y from 0 to 32767, or as percentages: move 50% 12.5%
    click [BUTTON] [--at X Y]            left (unless said), right, middle, side or extra
    press [BUTTON], release [BUTTON]     what is still pressed at the end is released
    scroll N [--horizontal]              detents; up and right are positive
    type TEXT                            on a US keyboard
    key NAME[+NAME…]                     key enter, key ctrl+alt+f1; pressed in order, released in reverse
    wait SECONDS

Several actions are separated by commas: "move 10% 10%, press, move 90% 90%, release". After a `type` that comes first
all is text, commas too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from subos_protocol.input_codes import Abs, Ev, Key, Rel
from subos_protocol.virtio_input import VIRTIO_INPUT_EVENT, virtio_input_event

from ..errors import UserError
from .capabilities import PRESSED, RELEASED, SYN_REPORT
from .driver_socket import MAX_FEEDBACK, REFUSED
from .keymap import key_named, keys_for
from .mouse import AXIS_MAX

BUTTONS = {
    "left": Key.BTN_LEFT,
    "right": Key.BTN_RIGHT,
    "middle": Key.BTN_MIDDLE,
    "side": Key.BTN_SIDE,
    "extra": Key.BTN_EXTRA,
}
HI_RES = 120  # REL_WHEEL_HI_RES units of one detent
MAX_SCROLL = 1000  # detents of one action
TIMEOUT = 10.0  # seconds in which a device takes a packet

Action = list[virtio_input_event] | float
"""Events to send as one packet, or seconds to wait."""


def move(x: int, y: int) -> list[virtio_input_event]:
    """To (x, y), each from 0 to AXIS_MAX."""
    return [virtio_input_event(Ev.EV_ABS, Abs.ABS_X, x), virtio_input_event(Ev.EV_ABS, Abs.ABS_Y, y), SYN_REPORT]


def button(code: int, value: int) -> list[virtio_input_event]:
    """PRESSED or RELEASED."""
    return [virtio_input_event(Ev.EV_KEY, code, value), SYN_REPORT]


def scroll(detents: int, *, horizontal: bool = False) -> list[virtio_input_event]:
    """Up, or right, by `detents`; in both resolutions, as the kernel's own mouse drivers report it."""
    coarse, fine = (Rel.REL_HWHEEL, Rel.REL_HWHEEL_HI_RES) if horizontal else (Rel.REL_WHEEL, Rel.REL_WHEEL_HI_RES)
    return [
        virtio_input_event(Ev.EV_REL, coarse, detents),
        virtio_input_event(Ev.EV_REL, fine, detents * HI_RES),
        SYN_REPORT,
    ]


def chord(codes: Sequence[int]) -> list[virtio_input_event]:
    """Presses the keys in order and releases them in reverse."""
    events = [button(code, PRESSED) for code in codes] + [button(code, RELEASED) for code in reversed(codes)]
    return [event for frame in events for event in frame]


def type_text(text: str) -> list[Action]:
    """A chord for each letter. Raises UserError for a letter that a US keyboard does not have."""
    return [chord(keys_for(letter)) for letter in text]


def device_of(action: Action) -> str | None:
    """Which device the action is for: "keyboard", "mouse", or None for a pause."""
    if isinstance(action, float):
        return None
    keys = (event.code for event in action if event.type == Ev.EV_KEY)
    return "keyboard" if any(code < Key.BTN_MISC for code in keys) else "mouse"


def parse(words: Sequence[str]) -> list[Action]:
    """The actions that `words` spell. Raises UserError for what is none, before anything is sent."""
    script = " ".join(words)
    sentences = [script] if script.startswith("type ") else script.split(",")
    actions = [action for sentence in sentences for action in _sentence(sentence)]
    if not actions:
        raise UserError("no action", f"there are {', '.join(_VERBS)}; see subos-devices input --help")
    return actions


class DriverConnection:
    """A connected driver; the device releases what it held when it goes. Raises UserError where nobody listens."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(TIMEOUT)
        try:
            self._socket.connect(os.fspath(path))
        except OSError as error:
            self._socket.close()
            raise UserError(
                f"no device listens on {path}: {error.strerror or error}", "subos-devices status lists what runs"
            ) from error

    def __enter__(self) -> DriverConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, events: Iterable[virtio_input_event]) -> None:
        """At most 64 events, as one packet. Waits while the device's queue is full; raises UserError if it stays so,
        and where the device has refused something."""
        try:
            self._socket.send(b"".join(map(VIRTIO_INPUT_EVENT.pack, events)))
        except TimeoutError as error:
            raise UserError("the guest takes no input", "is it paused, or has it hung?") from error
        except OSError as error:
            self.finish()
            raise UserError(f"the device went away: {error.strerror}", "try again") from error

    def finish(self) -> None:
        """Returns once the device has taken everything. Raises UserError where it has refused something."""
        with contextlib.suppress(OSError):  # it has closed already, and said why
            self._socket.shutdown(socket.SHUT_WR)
        try:
            while packet := self._receive():
                if REFUSED in (said := json.loads(packet)):
                    raise UserError(f"the device refused it: {said[REFUSED]}")
        except TimeoutError as error:
            raise UserError("the guest takes no input", "is it paused, or has it hung?") from error
        except (OSError, ValueError) as error:
            raise UserError(f"the device went away: {getattr(error, 'strerror', error)}", "try again") from error

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(MAX_FEEDBACK)
        except ConnectionResetError:  # it closed with packets of ours unread; its last words are still here
            return self._socket.recv(MAX_FEEDBACK)


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


def _sentence(sentence: str) -> list[Action]:
    verb, _, rest = sentence.lstrip().partition(" ")
    if verb == "type":
        return _type(rest)
    words = sentence.split()
    if not words:
        return []
    if words[0] not in _VERBS:
        raise UserError(f"{words[0]!r} is no action", f"there are {', '.join(_VERBS)}, type")
    return [_VERBS[words[0]](words[1:])]


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
    if len(amounts) != 1 or len(words) > 2 or not re.fullmatch(r"[+-]?[0-9]+", amounts[0]):
        raise UserError("scroll takes a whole number of detents", "scroll -3, or scroll 3 --horizontal")
    detents = int(amounts[0])
    if not -MAX_SCROLL <= detents <= MAX_SCROLL:
        raise UserError(f"scroll {detents} is too far", f"at most {MAX_SCROLL} detents")
    return scroll(detents, horizontal="--horizontal" in words)


def _wait(words: list[str]) -> Action:
    if len(words) != 1 or not re.fullmatch(r"[0-9]*\.?[0-9]+", words[0]):
        raise UserError("wait takes seconds", "wait 0.5")
    return float(words[0])


def _button(words: list[str]) -> int:
    if not words:
        return BUTTONS["left"]
    if len(words) > 1 or words[0] not in BUTTONS:
        raise UserError(f"{' '.join(words)!r} is no button", f"there are {', '.join(BUTTONS)}")
    return BUTTONS[words[0]]


def _coordinate(word: str) -> int:
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?%", word):
        value = round(float(word[:-1]) * AXIS_MAX / 100)
    elif re.fullmatch(r"[0-9]+", word):
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
    "key": _key,
    "wait": _wait,
}
