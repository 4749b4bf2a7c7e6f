"""The relative mouse: for games that turn a view by it. It reports motion, where `mouse` reports a position."""

from __future__ import annotations

from subos_protocol.input_codes import Bus, Ev, Key, Rel
from subos_protocol.virtio_input import virtio_input_devids

from .capabilities import Capabilities
from .model import InputDevice

POINTER = Capabilities(
    name="SubOS Pointer",
    # Those of QEMU's virtio-mouse.
    ids=virtio_input_devids(bustype=Bus.BUS_VIRTUAL, vendor=0x0627, product=0x0002, version=2),
    codes={
        Ev.EV_KEY: frozenset(key for key in Key if Key.BTN_MOUSE <= key <= Key.BTN_TASK),
        Ev.EV_REL: frozenset(
            {
                Rel.REL_X,
                Rel.REL_Y,
                Rel.REL_WHEEL,
                Rel.REL_HWHEEL,
                Rel.REL_WHEEL_HI_RES,
                Rel.REL_HWHEEL_HI_RES,
            }
        ),
    },
)


class PointerDevice(InputDevice):
    """`pointer`: see `POINTER`."""

    capabilities = POINTER
