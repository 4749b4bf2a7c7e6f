"""The keyboard: every key that Linux names, so that any host keyboard can drive it. Repeating is the guest's job."""

from __future__ import annotations

from subos_protocol.input_codes import Bus, Ev, Key, Led, Rep
from subos_protocol.virtio_input import virtio_input_devids

from .capabilities import Capabilities
from .model import InputDevice

KEYS = frozenset(key for key in Key if 0 < key < Key.BTN_MISC)
"""linux/input-event-codes.h: below BTN_MISC are a keyboard's own keys; with buttons the guest would see a mouse."""

KEYBOARD = Capabilities(
    name="SubOS Keyboard",
    # Those of QEMU's virtio-keyboard.
    ids=virtio_input_devids(bustype=Bus.BUS_VIRTUAL, vendor=0x0627, product=0x0001, version=1),
    codes={
        Ev.EV_KEY: KEYS,
        Ev.EV_LED: frozenset({Led.LED_NUML, Led.LED_CAPSL, Led.LED_SCROLLL}),
        Ev.EV_REP: frozenset({Rep.REP_DELAY, Rep.REP_PERIOD}),
    },
)


class KeyboardDevice(InputDevice):
    """`keyboard`: see `KEYBOARD`."""

    capabilities = KEYBOARD
