"""What an input device can do: the answers to the guest's questions, and the gate for what host drivers send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from subos_protocol.errors import Malformed, Truncated
from subos_protocol.hid_pad import is_battery
from subos_protocol.input_codes import Abs, Ev, Syn
from subos_protocol.virtio_input import (
    MAX_U,
    VIRTIO_INPUT_ABSINFO,
    VIRTIO_INPUT_DEVIDS,
    VIRTIO_INPUT_EVENT,
    ConfigSelect,
    pack_bitmap,
    virtio_input_absinfo,
    virtio_input_devids,
    virtio_input_event,
)

MAX_EVENTS = 64  # of one packet of a host driver
MAX_PACKET = MAX_EVENTS * VIRTIO_INPUT_EVENT.size  # bytes

Frame = Sequence[virtio_input_event]
"""What happened at one moment, without the SYN_REPORT that ends it."""

RELEASED, PRESSED = 0, 1
NO_TOUCH = -1
MAX_NAME = 63
"""Bytes. drivers/virtio/virtio_input.c keeps 64, and reads on into the serial where no zero is among them."""
TOUCH_ENDS = (Abs.ABS_MT_TRACKING_ID, NO_TOUCH)  # outside the axis' range, which is that of numbers of touches
_DRIVABLE = (Ev.EV_KEY, Ev.EV_REL, Ev.EV_ABS, Ev.EV_MSC)  # the other types are the guest's to send


class Capabilities(NamedTuple):
    """Identity and reach of one input device. `codes` are the codes by event type; those of EV_ABS are `axes`' keys.
    Of one with a `battery`, drivers may say how that is (subos_protocol.hid_pad)."""

    name: str
    ids: virtio_input_devids
    codes: Mapping[int, frozenset[int]]
    axes: Mapping[int, virtio_input_absinfo] = MappingProxyType({})
    props: frozenset[int] = frozenset()
    battery: bool = False

    def of(self, type_: int) -> frozenset[int]:
        """The codes of event type `type_`."""
        return frozenset(self.axes) if type_ == Ev.EV_ABS else self.codes.get(type_, frozenset())

    def answer(self, select: int, subsel: int, serial: str = "") -> bytes:
        """What the configuration space says to `select` and `subsel`; empty where there is nothing to say."""
        if select == ConfigSelect.VIRTIO_INPUT_CFG_EV_BITS:
            return pack_bitmap(self.of(subsel))
        if select == ConfigSelect.VIRTIO_INPUT_CFG_ABS_INFO:
            return VIRTIO_INPUT_ABSINFO.pack(self.axes[subsel]) if subsel in self.axes else b""
        if subsel:  # the others are asked with 0
            return b""
        if select == ConfigSelect.VIRTIO_INPUT_CFG_ID_NAME:
            return self.name.encode()[:MAX_NAME]
        if select == ConfigSelect.VIRTIO_INPUT_CFG_ID_SERIAL:
            return serial.encode()[:MAX_U]
        if select == ConfigSelect.VIRTIO_INPUT_CFG_ID_DEVIDS:
            return VIRTIO_INPUT_DEVIDS.pack(self.ids)
        if select == ConfigSelect.VIRTIO_INPUT_CFG_PROP_BITS:
            return pack_bitmap(self.props)
        return b""

    def check(self, event: virtio_input_event) -> None:
        """Raises Malformed for an event that this device cannot have."""
        type_, code, value = event
        if self.battery and is_battery(*event):
            return
        if type_ not in _DRIVABLE or code not in self.of(type_):
            raise Malformed(f"{self.name} has no event of type {type_:#x}, code {code:#x}")
        if type_ == Ev.EV_KEY and value not in (RELEASED, PRESSED):
            raise Malformed(f"key {code:#x}: {value} is neither 0 (released) nor 1 (pressed)")
        if type_ == Ev.EV_ABS and (code, value) != TOUCH_ENDS:
            axis = self.axes[code]
            if not axis.min <= value <= axis.max:
                raise Malformed(f"axis {code:#x}: {value} is not within {axis.min} to {axis.max}")

    def parse(self, packet: bytes) -> list[Frame]:
        """The frames of one driver packet, empty ones left out; a last SYN_REPORT may lack.

        Raises Truncated for a part of an event, Malformed for more than MAX_EVENTS or for anything that
        this device cannot have: a packet is taken whole or not at all.
        """
        if len(packet) > MAX_PACKET:
            raise Malformed(f"a packet of more than {MAX_EVENTS} events")
        if len(packet) % VIRTIO_INPUT_EVENT.size:
            raise Truncated(f"a packet of {len(packet)} bytes; an event has {VIRTIO_INPUT_EVENT.size}")
        frames: list[Frame] = []
        frame: list[virtio_input_event] = []
        for fields in VIRTIO_INPUT_EVENT.struct.iter_unpack(packet):
            event = virtio_input_event(*fields)
            if event == SYN_REPORT:
                frames.append(frame)
                frame = []
            else:
                self.check(event)
                frame.append(event)
        frames.append(frame)
        return [frame for frame in frames if frame]


SYN_REPORT = virtio_input_event(Ev.EV_SYN, Syn.SYN_REPORT, 0)
