"""Force feedback: effects that programs upload to a gamepad, play, stop and erase.

Each message is a JSON object:

    {"upload": {"id": 0, "length": 500, "delay": 0, "direction": 0, "type": "rumble", "strong": 65535, "weak": 0}}
    {"play": {"id": 0, "times": 1}}    {"stop": 0}    {"erase": 0}    {"gain": 65535}

Fields and their units are those of struct ff_effect, include/uapi/linux/input.h: times in ms, a length of 0 is one
without end, magnitudes unsigned for rumble, signed for the others, and a full turn of `direction` is 0x10000.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Tuple, Union

from .errors import Malformed
from .input_codes import Ff

MAX_EFFECTS = Ff.FF_GAIN.value  # of one device: higher numbers are settings (linux/input.h, FF_MAX_EFFECTS)
FULL_GAIN = 0xFFFF
MAX_TIMES = 0x7FFF_FFFF

WAVEFORMS = {
    "square": Ff.FF_SQUARE,
    "triangle": Ff.FF_TRIANGLE,
    "sine": Ff.FF_SINE,
    "saw_up": Ff.FF_SAW_UP,
    "saw_down": Ff.FF_SAW_DOWN,
}
_WAVEFORM_NAMES = {code: name for name, code in WAVEFORMS.items()}


class Envelope(NamedTuple):
    """How an effect comes and goes; levels are 0 to 0x7FFF."""

    attack_length: int = 0
    attack_level: int = 0
    fade_length: int = 0
    fade_level: int = 0


class Rumble(NamedTuple):
    """A strong and a weak motor, 0 to 0xFFFF each."""

    strong: int
    weak: int


class Constant(NamedTuple):
    level: int
    envelope: Envelope = Envelope()


class Periodic(NamedTuple):
    waveform: Ff
    period: int
    magnitude: int
    offset: int = 0
    phase: int = 0
    envelope: Envelope = Envelope()


Force = Union[Rumble, Constant, Periodic]


class Effect(NamedTuple):
    """An effect as it lies in the pad, by the number `id` that its kernel gave it."""

    id: int
    length: int
    delay: int
    direction: int
    force: Force


class Upload(NamedTuple):
    """`effect` is there; one with its number is replaced, and goes on playing."""

    effect: Effect


class Play(NamedTuple):
    """Plays it from its start, so many times."""

    id: int
    times: int


class Stop(NamedTuple):
    id: int


class Erase(NamedTuple):
    id: int


class Gain(NamedTuple):
    """The strength of all effects."""

    value: int


Feedback = Union[Upload, Play, Stop, Erase, Gain]

_U16, _S16, _ID = range(1 << 16), range(-(1 << 15), 1 << 15), range(MAX_EFFECTS)
_RANGES = {
    "id": _ID,
    "length": _U16,
    "delay": _U16,
    "direction": _U16,
    "strong": _U16,
    "weak": _U16,
    "level": _S16,
    "period": _U16,
    "magnitude": _S16,
    "offset": _S16,
    "phase": _U16,
    "times": range(1, MAX_TIMES + 1),
    "stop": _ID,
    "erase": _ID,
    "gain": _U16,
}
_FORCES = {"rumble": Rumble, "constant": Constant, "periodic": Periodic}
_HEAD = ("id", "length", "delay", "direction")


def to_object(message: Feedback) -> Dict[str, Any]:
    """What JSON has of it."""
    if isinstance(message, Upload):
        effect = message.effect
        fields: Dict[str, Any] = dict(effect._asdict(), **effect.force._asdict())
        del fields["force"]
        fields["type"] = next(name for name, force in _FORCES.items() if isinstance(effect.force, force))
        if "waveform" in fields:
            fields["waveform"] = _WAVEFORM_NAMES[fields["waveform"]]
        if "envelope" in fields:
            fields["envelope"] = list(fields["envelope"])
        return {"upload": fields}
    if isinstance(message, Play):
        return {"play": message._asdict()}
    return {type(message).__name__.lower(): message[0]}


def from_object(said: Any) -> Feedback:
    """What `to_object` makes; it may come from anybody. Raises Malformed."""
    if not isinstance(said, dict) or len(said) != 1:
        raise Malformed("a message about effects that is none")
    ((kind, content),) = said.items()
    if kind == "upload":
        return Upload(_effect(content))
    if kind == "play":
        return Play(*_numbers(content, Play._fields))
    if kind == "stop":
        return Stop(_number(kind, content))
    if kind == "erase":
        return Erase(_number(kind, content))
    if kind == "gain":
        return Gain(_number(kind, content))
    raise Malformed("a message about effects of an unknown kind")


def _effect(said: Any) -> Effect:
    id_, length, delay, direction = _numbers(said, _HEAD)
    return Effect(id_, length, delay, direction, _force(said))


def _force(said: Dict[str, Any]) -> Force:
    kind = said.get("type")
    if kind == "rumble":
        return Rumble(*_numbers(said, Rumble._fields))
    if kind == "constant":
        return Constant(_number("level", said.get("level")), _envelope(said.get("envelope")))
    if kind == "periodic":
        waveform = said.get("waveform")
        if not isinstance(waveform, str) or waveform not in WAVEFORMS:
            raise Malformed("an effect of an unknown waveform")
        period, magnitude, offset, phase = _numbers(said, ("period", "magnitude", "offset", "phase"))
        return Periodic(WAVEFORMS[waveform], period, magnitude, offset, phase, _envelope(said.get("envelope")))
    raise Malformed("an effect of an unknown type")


def _envelope(said: Any) -> Envelope:
    if not isinstance(said, list) or len(said) != len(Envelope._fields):
        raise Malformed("an envelope that is none")
    return Envelope(*(_in_range("envelope", value, _U16) for value in said))


def _numbers(said: Any, names: Tuple[str, ...]) -> List[int]:
    if not isinstance(said, dict):
        raise Malformed("an effect that is none")
    return [_number(name, said.get(name)) for name in names]


def _number(name: str, value: Any) -> int:
    return _in_range(name, value, _RANGES[name])


def _in_range(name: str, value: Any, allowed: range) -> int:
    if type(value) is not int or value not in allowed:
        raise Malformed(f"an effect whose {name} is none")
    return value
