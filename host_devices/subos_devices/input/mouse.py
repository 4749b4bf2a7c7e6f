"""The mouse: an absolute pointer, so that the guest's stands where the host's does, without a grab.

It has no INPUT_PROP_*: a device with ABS_X, ABS_Y and BTN_LEFT and no stylus is what udev calls ID_INPUT_MOUSE, and
libinput and X then take its axes as a position on the screen. BTN_TOUCH is there as in QEMU's, and nobody presses it:
without it the kernel's joydev would take the mouse for a joystick, and make it a /dev/input/js0.
"""

from __future__ import annotations

from subos_protocol.input_codes import Abs, Bus, Ev, Key, Rel
from subos_protocol.virtio_input import virtio_input_absinfo, virtio_input_devids

from .capabilities import Capabilities
from .model import InputDevice

AXIS_MAX = 32767  # each axis runs from 0, the left or upper edge, to this

_AXIS = virtio_input_absinfo(min=0, max=AXIS_MAX)

MOUSE = Capabilities(
    name="SubOS Mouse",
    # Those of QEMU's virtio-tablet, which quirk tables already know as an absolute pointer.
    ids=virtio_input_devids(bustype=Bus.BUS_VIRTUAL, vendor=0x0627, product=0x0003, version=2),
    codes={
        Ev.EV_KEY: frozenset({Key.BTN_LEFT, Key.BTN_RIGHT, Key.BTN_MIDDLE, Key.BTN_SIDE, Key.BTN_EXTRA, Key.BTN_TOUCH}),
        Ev.EV_REL: frozenset({Rel.REL_WHEEL, Rel.REL_HWHEEL, Rel.REL_WHEEL_HI_RES, Rel.REL_HWHEEL_HI_RES}),
    },
    axes={Abs.ABS_X: _AXIS, Abs.ABS_Y: _AXIS},
)


class MouseDevice(InputDevice):
    """`mouse`: see `MOUSE`."""

    capabilities = MOUSE
