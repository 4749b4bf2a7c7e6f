"""What libinput makes of input devices (libinput 1.19 or newer, by ctypes), as a compositor would ask it.

libinput.py PATH…: prints, each as a line of JSON, a list for each device, of its name and of what it can do, null where
libinput does not want it; then its events, as [name, event, …], until it is killed. Places are in thousandths of the
axes' length, which a compositor takes for the width and the height of its desktop.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import sys
from collections.abc import Callable
from ctypes import c_char_p, c_double, c_int, c_uint32, c_void_p
from typing import Any

CAPABILITIES = ("keyboard", "pointer", "touch", "tablet-tool", "tablet-pad", "gesture", "switch")
TOOLS = {1: "pen", 2: "eraser"}
SIZE = 1000
VERTICAL, HORIZONTAL = 0, 1

OPEN = ctypes.CFUNCTYPE(c_int, c_char_p, c_int, c_void_p)
CLOSE = ctypes.CFUNCTYPE(None, c_int, c_void_p)
_library = ctypes.CDLL("libinput.so.10")


class Interface(ctypes.Structure):
    """struct libinput_interface"""

    _fields_ = [("open_restricted", OPEN), ("close_restricted", CLOSE)]


def call(name: str, result: Any, *arguments: Any) -> Any:
    """Calls libinput_NAME; pointers, numbers and texts are told apart by their types."""
    function = getattr(_library, f"libinput_{name}")
    function.restype = result
    function.argtypes = [c_char_p if isinstance(argument, bytes) else _type(argument) for argument in arguments]
    return function(*arguments)


def _type(argument: Any) -> Any:
    return c_uint32 if isinstance(argument, int) and argument < 1 << 32 else c_void_p


def places(of: str, event: Any) -> list[float]:
    return [round(call(f"{of}_get_{axis}_transformed", c_double, event, SIZE), 1) for axis in ("x", "y")]


def keyboard_key(event: Any) -> list[Any]:
    return [call(f"event_keyboard_get_{what}", c_uint32, event) for what in ("key", "key_state")]


def pointer_motion(event: Any) -> list[Any]:
    return [call(f"event_pointer_get_{what}_unaccelerated", c_double, event) for what in ("dx", "dy")]


def pointer_absolute(event: Any) -> list[Any]:
    return [
        round(call(f"event_pointer_get_absolute_{axis}_transformed", c_double, event, SIZE), 1) for axis in ("x", "y")
    ]


def pointer_button(event: Any) -> list[Any]:
    return [call(f"event_pointer_get_{what}", c_uint32, event) for what in ("button", "button_state")]


def pointer_wheel(event: Any) -> list[Any]:
    """In 120ths of a detent, downwards and to the right."""
    return [
        call("event_pointer_get_scroll_value_v120", c_double, event, axis)
        if call("event_pointer_has_axis", c_int, event, axis)
        else 0
        for axis in (VERTICAL, HORIZONTAL)
    ]


def touch_slot(event: Any) -> list[Any]:
    return [call("event_touch_get_slot", c_int, event)]


def touch_place(event: Any) -> list[Any]:
    return [*touch_slot(event), *places("event_touch", event)]


def tool(event: Any) -> list[Any]:
    """Which one, where, how firmly from 0 to 1, and how it is tilted, in degrees."""
    kind = TOOLS.get(call("tablet_tool_get_type", c_int, call("event_tablet_tool_get_tool", c_void_p, event)))
    pressure = round(call("event_tablet_tool_get_pressure", c_double, event), 3)
    tilt = [round(call(f"event_tablet_tool_get_tilt_{axis}", c_double, event)) for axis in ("x", "y")]
    return [kind, *places("event_tablet_tool", event), pressure, *tilt]


def tool_in_state(state: str) -> Callable[[Any], list[Any]]:
    return lambda event: [call(f"event_tablet_tool_get_{state}_state", c_int, event), *tool(event)]


def tool_button(event: Any) -> list[Any]:
    return [call(f"event_tablet_tool_get_{what}", c_uint32, event) for what in ("button", "button_state")]


EVENTS: dict[int, tuple[str, str, Callable[[Any], list[Any]]]] = {
    300: ("key", "keyboard", keyboard_key),
    400: ("motion", "pointer", pointer_motion),
    401: ("motion-absolute", "pointer", pointer_absolute),
    402: ("button", "pointer", pointer_button),
    404: ("wheel", "pointer", pointer_wheel),
    500: ("touch-down", "touch", touch_place),
    501: ("touch-up", "touch", touch_slot),
    502: ("touch-motion", "touch", touch_place),
    503: ("touch-cancel", "touch", touch_slot),
    600: ("tool-axis", "tablet_tool", tool),
    601: ("tool-proximity", "tablet_tool", tool_in_state("proximity")),
    602: ("tool-tip", "tablet_tool", tool_in_state("tip")),
    603: ("tool-button", "tablet_tool", tool_button),
}
"""enum libinput_event_type: what it is called here, what it is an event of, and what is said of it."""


def say(words: list[Any]) -> None:
    print(json.dumps(words), flush=True)


def main(paths: list[str]) -> None:
    interface = Interface(
        OPEN(lambda path, flags, _: os.open(path, flags)), CLOSE(lambda descriptor, _: os.close(descriptor))
    )
    context = call("path_create_context", c_void_p, ctypes.addressof(interface), 0)
    for path in paths:
        with open(f"/sys/class/input/{os.path.basename(path)}/device/name") as file:
            name = file.read().strip()
        device = call("path_add_device", c_void_p, context, path.encode())
        say(
            [
                name,
                device
                and [
                    what
                    for number, what in enumerate(CAPABILITIES)
                    if call("device_has_capability", c_int, device, number)
                ],
            ]
        )
    poll = select.poll()
    poll.register(call("get_fd", c_int, context), select.POLLIN)
    say(["listens"])
    while True:
        call("dispatch", c_int, context)
        while event := call("get_event", c_void_p, context):
            heard(event)
            call("event_destroy", None, event)
        poll.poll()


def heard(event: Any) -> None:
    kind = call("event_get_type", c_int, event)
    if kind in EVENTS:
        called, of, describe = EVENTS[kind]
        name = call("device_get_name", c_char_p, call("event_get_device", c_void_p, event)).decode()
        say([name, called, *describe(call(f"event_get_{of}_event", c_void_p, event))])


main(sys.argv[1:])
