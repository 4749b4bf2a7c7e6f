"""What one make of gamepad has as buttons and another as axes: triggers and the cross."""

from __future__ import annotations

from subos_protocol.input_codes import Abs, Ev, Key

from ..capabilities import Capabilities
from .mapping import Control

_SAME = (
    (Control(Ev.EV_KEY, Key.BTN_TL2), Control(Ev.EV_ABS, Abs.ABS_Z)),
    (Control(Ev.EV_KEY, Key.BTN_TR2), Control(Ev.EV_ABS, Abs.ABS_RZ)),
    (Control(Ev.EV_KEY, Key.BTN_DPAD_LEFT), Control(Ev.EV_ABS, Abs.ABS_HAT0X, -1)),
    (Control(Ev.EV_KEY, Key.BTN_DPAD_RIGHT), Control(Ev.EV_ABS, Abs.ABS_HAT0X, 1)),
    (Control(Ev.EV_KEY, Key.BTN_DPAD_UP), Control(Ev.EV_ABS, Abs.ABS_HAT0Y, -1)),
    (Control(Ev.EV_KEY, Key.BTN_DPAD_DOWN), Control(Ev.EV_ABS, Abs.ABS_HAT0Y, 1)),
)


def pad_routes(source: Capabilities, target: Capabilities) -> dict[Control, Control]:
    """Where the controls of `source` lead that `target` has in the other form only. None for what has no such form."""

    def has(device: Capabilities, control: Control) -> bool:
        return control.code in device.of(control.type)

    routes: dict[Control, Control] = {}
    for button, axis in _SAME:
        for mine, theirs in ((button, axis), (axis, button)):
            if has(source, mine) and not has(source, theirs) and has(target, theirs) and not has(target, mine):
                routes[mine] = theirs
    return routes
