"""A gamepad that the guest's agent makes, so that games can have it rumble (virtio-input has no EV_FF).

The host opens a stream for each pad; its head says what the pad is:

    → REQUEST {"op": "gamepad.open", "pad": {"serial": "pad1", "name": "…", "ids": [3, 1118, 654, 272],
                 "codes": {"1": [304, …]}, "axes": [[0, 0, -32768, 32767, 16, 128, 0], …], "props": [],
                 "ff": [80, 81, 90, 96], "effects": 16}}                                           fields of `Pad`
    ← DATA {"opened": true}          the pad is there, its virtio-input twin is not
    → DATA events                    `virtio_input_event`, 8 bytes each, up to MAX_EVENTS together
    ← DATA {"taken": 8}              so many of these packets reached the pad; more than WINDOW are never on their way
    ← DATA {"upload": …}, …          what games do with effects: see `effects`
    ← DATA {"led": …}                what is lit on a pad that is a HID device: see `hid_pad`

The twin is the input device whose serial (`uniq`) is the pad's. At the stream's END the twin comes back at once; where
it ends otherwise the pad is held neutral for a while, for a stream that goes on with it.

Between a pad's worker and whoever carries its packets to the agent: the worker says its {"pad": …} first, and again
when it wants a new stream; it hears {"lost": true} when a stream has ended.
"""

from __future__ import annotations

import json
from typing import Any, Dict, FrozenSet, List, Mapping, NamedTuple, Optional, Union

from .effects import MAX_EFFECTS, Feedback, from_object, to_object
from .errors import Malformed, Truncated
from .hid_pad import Hid, Light, light_from_object, light_to_object, pack_hid, unpack_hid
from .input_codes import ABS_MAX, FF_MAX, INPUT_PROP_MAX, KEY_MAX, MSC_MAX, REL_MAX, Abs, Ev, Syn
from .virtio_input import (
    VIRTIO_INPUT_EVENT,
    virtio_input_absinfo,
    virtio_input_devids,
    virtio_input_event,
)

OPERATION = "gamepad.open"
MAX_EVENTS = 64  # of one packet
MAX_PACKET = 1 << 14  # bytes of any packet, the description being the longest
MAX_MESSAGE = 1 << 10  # bytes of what the agent says
WINDOW = 32  # packets of events that the agent may not have taken yet
TAKE_AFTER = 8  # of them, at the latest, it says so
MAX_NAME = 79  # bytes: linux/uinput.h, UINPUT_MAX_NAME_SIZE
MAX_SERIAL = 128  # bytes: virtio-input's limit

_MAX_CODE = {Ev.EV_KEY: KEY_MAX, Ev.EV_REL: REL_MAX, Ev.EV_MSC: MSC_MAX}
_MAX_SLOTS = 64  # the most that any of the kernel's drivers has is 20
_NO_TOUCH = -1
_INT32 = range(-(1 << 31), 1 << 31)
_SYN_REPORT = virtio_input_event(Ev.EV_SYN, Syn.SYN_REPORT, 0)


class Axis(NamedTuple):
    """`neutral` is where it stands when nobody touches it."""

    neutral: int
    info: virtio_input_absinfo


class Pad(NamedTuple):
    """What a pad is. `codes` are those of EV_KEY, EV_REL and EV_MSC, by type; `ff` what its effects may be (`Ff`),
    `effects` how many it holds; `hid` is how it may be made as a HID device."""

    serial: str
    name: str
    ids: virtio_input_devids
    codes: Mapping[int, FrozenSet[int]]
    axes: Mapping[int, Axis]
    props: FrozenSet[int] = frozenset()
    ff: FrozenSet[int] = frozenset()
    effects: int = 0
    hid: Optional[Hid] = None

    def neutral(self) -> List[virtio_input_event]:
        """The frame after which nothing of it is pressed or moved."""
        keys = sorted(self.codes.get(Ev.EV_KEY, ()))
        slots = self.axes[Abs.ABS_MT_SLOT].info.max + 1 if Abs.ABS_MT_SLOT in self.axes else 0
        return [
            *(virtio_input_event(Ev.EV_KEY, key, 0) for key in keys),
            *(
                virtio_input_event(Ev.EV_ABS, code, value)
                for slot in range(slots)
                for code, value in ((Abs.ABS_MT_SLOT, slot), (Abs.ABS_MT_TRACKING_ID, _NO_TOUCH))
            ),
            *(
                virtio_input_event(Ev.EV_ABS, code, axis.neutral)
                for code, axis in self.axes.items()
                if code < Abs.ABS_MT_SLOT
            ),
            _SYN_REPORT,
        ]


class Opened(NamedTuple):
    """The agent has the pad."""


class Taken(NamedTuple):
    """It has given so many more packets of events to the pad."""

    packets: int


class Lost(NamedTuple):
    """Nobody has the pad any more."""


Message = Union[Opened, Taken, Lost, Light, Feedback]
"""What a pad's worker hears."""


def pack_pad(pad: Pad) -> Dict[str, Any]:
    """For JSON. Raises Malformed for a pad beyond the limits."""
    said = {
        **{key: value for key, value in pad._asdict().items() if key != "hid"},
        "ids": list(map(int, pad.ids)),
        "codes": {str(int(type_)): sorted(map(int, codes)) for type_, codes in pad.codes.items()},
        "axes": [[int(code), axis.neutral, *axis.info] for code, axis in pad.axes.items()],
        "props": sorted(map(int, pad.props)),
        "ff": sorted(map(int, pad.ff)),
        **pack_hid(pad.hid),
    }
    unpack_pad(said)
    return said


def unpack_pad(said: Any) -> Pad:
    """Raises Malformed."""
    if not isinstance(said, dict):
        raise Malformed("a pad that is none")
    ids = _numbers(said.get("ids"), 4, range(1 << 16))
    if len(ids) != 4:
        raise Malformed("a pad's ids are none")
    codes = said.get("codes")
    if not isinstance(codes, dict) or not codes.keys() <= {str(int(type_)) for type_ in _MAX_CODE}:
        raise Malformed("a pad of other kinds of events")
    (effects,) = _numbers([said.get("effects", 0)], 1, range(MAX_EFFECTS + 1))
    return Pad(
        _text(said.get("serial"), MAX_SERIAL),
        _text(said.get("name"), MAX_NAME),
        virtio_input_devids(*ids),
        {Ev(int(type_)): _codes(listed, _MAX_CODE[Ev(int(type_))]) for type_, listed in codes.items()},
        _axes(said.get("axes")),
        _codes(said.get("props", []), INPUT_PROP_MAX),
        _codes(said.get("ff", []), FF_MAX),
        effects,
        unpack_hid(said.get("hid")),
    )


def _axes(said: Any) -> Dict[int, Axis]:
    if not isinstance(said, list) or len(said) > ABS_MAX + 1:
        raise Malformed("a pad's axes are none")
    axes = {}
    for fields in said:
        numbers = _numbers(fields, 7, _INT32)
        if len(numbers) != 7 or not 0 <= numbers[0] <= ABS_MAX or not numbers[2] <= numbers[1] <= numbers[3]:
            raise Malformed("a pad's axis is none")
        if numbers[0] == Abs.ABS_MT_SLOT and not 0 <= numbers[3] < _MAX_SLOTS:
            raise Malformed("a pad of that many fingers")
        axes[numbers[0]] = Axis(numbers[1], virtio_input_absinfo(*numbers[2:]))
    return axes


def _text(said: Any, limit: int) -> str:
    if not isinstance(said, str) or not said or "\0" in said or not said.isprintable():
        raise Malformed("a pad's name is none")
    if len(said.encode()) > limit:
        raise Malformed("a pad's name is too long")
    return said


def _codes(said: Any, highest: int) -> FrozenSet[int]:
    return frozenset(_numbers(said, highest + 1, range(highest + 1)))


def _numbers(said: Any, most: int, allowed: range) -> List[int]:
    if not isinstance(said, list) or len(said) > most:
        raise Malformed("a pad's list of numbers is none")
    if not all(type(number) is int and number in allowed for number in said):
        raise Malformed("a pad's number is out of its range")
    return said


def pack_description(pad: Pad) -> bytes:
    """What a worker says first. Raises Malformed for a pad beyond the limits."""
    packet = json.dumps({"pad": pack_pad(pad)}).encode()
    if len(packet) > MAX_PACKET:
        raise Malformed("a pad's description is too long")
    return packet


def is_description(packet: bytes) -> bool:
    """Whether a worker's packet is one, and not events: the first byte of these is an event type's."""
    return packet[:1] == b"{"


def pack_message(message: Message) -> bytes:
    if isinstance(message, Opened):
        return b'{"opened": true}'
    if isinstance(message, Lost):
        return b'{"lost": true}'
    if isinstance(message, Taken):
        return b'{"taken": %d}' % message.packets
    if isinstance(message, Light):
        return json.dumps(light_to_object(message)).encode()
    return json.dumps(to_object(message)).encode()


def unpack_message(packet: bytes) -> Message:
    """Raises Malformed. The packet comes from a guest."""
    if len(packet) > MAX_MESSAGE:
        raise Malformed("a packet is too long")
    try:
        said = json.loads(packet)
    except (ValueError, RecursionError) as error:
        raise Malformed("a packet is no JSON") from error
    if said == {"opened": True}:
        return Opened()
    if said == {"lost": True}:
        return Lost()
    if isinstance(said, dict) and "taken" in said:
        return Taken(*_numbers([said["taken"]], 1, range(1, WINDOW + 1)))
    if isinstance(said, dict) and said.keys() == {"led"}:
        return light_from_object(said["led"])
    return from_object(said)


def unpack_events(packet: bytes) -> List[virtio_input_event]:
    """Raises Truncated, Malformed."""
    if len(packet) > MAX_EVENTS * VIRTIO_INPUT_EVENT.size:
        raise Malformed(f"a packet of more than {MAX_EVENTS} events")
    if len(packet) % VIRTIO_INPUT_EVENT.size:
        raise Truncated(f"a packet of {len(packet)} bytes; an event has {VIRTIO_INPUT_EVENT.size}")
    return [virtio_input_event(*fields) for fields in VIRTIO_INPUT_EVENT.struct.iter_unpack(packet)]
