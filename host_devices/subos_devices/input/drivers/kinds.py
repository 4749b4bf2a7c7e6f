"""What kind of input device something is, by what it can report: as udev's input_id builtin tells them apart."""

from __future__ import annotations

from subos_protocol.input_codes import Abs, Ev, Key, Prop, Rel

from ..capabilities import Capabilities

TARGETS = {
    "keyboard": ("keyboard",),
    "mouse": ("pointer", "mouse"),
    "absolute-mouse": ("mouse",),
    "touch": ("touch",),
    "pen": ("pen",),
    "gamepad": ("gamepad",),
    "motion": ("motion",),
    "touchpad": ("touchpad",),
}
"""Which kinds of the guest's devices a host device of a kind can drive, the best first."""

SHARED = frozenset({"keyboard", "mouse", "pointer"})
"""Kinds of the guest's devices that several host devices may drive at once."""

PARTS = frozenset({"motion", "touchpad"})
"""Kinds that are further event devices of a gamepad."""
POINTING = frozenset({"mouse", "touch", "pen"})
"""Kinds of the guest's devices that say a place, on axes that reach over its whole desktop."""

PAD_BUTTONS = frozenset(range(Key.BTN_JOYSTICK, Key.BTN_DIGI)) | frozenset(
    range(Key.BTN_TRIGGER_HAPPY, Key.BTN_TRIGGER_HAPPY + 0x28)
)


def kind_of(device: Capabilities) -> str:
    """A key of TARGETS; empty for what we have no device for (a lid, say)."""
    keys, axes, moves = device.of(Ev.EV_KEY), device.of(Ev.EV_ABS), device.of(Ev.EV_REL)
    has_position = {Abs.ABS_X, Abs.ABS_Y} <= axes
    if Prop.INPUT_PROP_ACCELEROMETER in device.props:
        return "motion"
    if has_position and {Key.BTN_TOOL_PEN, Key.BTN_STYLUS} & keys:
        return "pen"
    has_fingers = Abs.ABS_MT_POSITION_X in axes
    # QEMU's mice have BTN_TOUCH, too.
    is_mouse = Key.BTN_LEFT in keys and Key.BTN_TOOL_FINGER not in keys and not has_fingers
    if Key.BTN_TOUCH in keys and (has_position or has_fingers) and not is_mouse:
        return "touchpad" if Key.BTN_TOOL_FINGER in keys and Prop.INPUT_PROP_DIRECT not in device.props else "touch"
    if keys & PAD_BUTTONS and {Abs.ABS_X, Abs.ABS_HAT0X} & axes:
        return "gamepad"
    if Key.BTN_LEFT in keys and {Rel.REL_X, Rel.REL_Y} <= moves:
        return "mouse"
    if Key.BTN_LEFT in keys and has_position:
        return "absolute-mouse"
    if any(0 < key < Key.BTN_MISC for key in keys):
        return "keyboard"
    return ""
