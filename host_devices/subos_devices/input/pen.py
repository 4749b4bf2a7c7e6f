"""The pen: pressure, tilt, an eraser and two buttons, which come near before they touch.

INPUT_PROP_POINTER: like the absolute mouse it reaches the whole desktop, wherever its screens are. With
INPUT_PROP_DIRECT a desktop would look for the one screen that the pen is built into. libinput takes no pen without a
resolution; this one is as large as a screen of 15 inches.
"""

from __future__ import annotations

from subos_protocol.input_codes import Abs, Bus, Ev, Key, Prop
from subos_protocol.virtio_input import virtio_input_absinfo, virtio_input_devids

from .capabilities import Capabilities
from .model import InputDevice
from .mouse import AXIS_MAX
from .state import State

RESOLUTION_X, RESOLUTION_Y = 100, 178  # units a millimetre, of axes that run to AXIS_MAX: 16:9
PRESSURE_MAX = 8191
TILT = virtio_input_absinfo(min=-64, max=63, res=57)  # units a radian: degrees

PEN = Capabilities(
    name="SubOS Pen",
    ids=virtio_input_devids(bustype=Bus.BUS_VIRTUAL, vendor=0x0627, product=0x0005, version=1),
    codes={
        Ev.EV_KEY: frozenset({Key.BTN_TOOL_PEN, Key.BTN_TOOL_RUBBER, Key.BTN_TOUCH, Key.BTN_STYLUS, Key.BTN_STYLUS2})
    },
    axes={
        Abs.ABS_X: virtio_input_absinfo(min=0, max=AXIS_MAX, res=RESOLUTION_X),
        Abs.ABS_Y: virtio_input_absinfo(min=0, max=AXIS_MAX, res=RESOLUTION_Y),
        Abs.ABS_PRESSURE: virtio_input_absinfo(min=0, max=PRESSURE_MAX),
        Abs.ABS_DISTANCE: virtio_input_absinfo(min=0, max=63),
        Abs.ABS_TILT_X: TILT,
        Abs.ABS_TILT_Y: TILT,
    },
    props=frozenset({Prop.INPUT_PROP_POINTER}),
)
AWAY: dict[int, int] = {Abs.ABS_PRESSURE: 0, Abs.ABS_DISTANCE: 0, Abs.ABS_TILT_X: 0, Abs.ABS_TILT_Y: 0}


class PenDevice(InputDevice):
    """`pen`: see `PEN`."""

    capabilities = PEN

    def new_state(self) -> State:
        return State(self.capabilities, AWAY)
