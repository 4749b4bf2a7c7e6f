"""struct ff_effect (include/uapi/linux/input.h), as the kernel of this machine has it: what an upload carries."""

from __future__ import annotations

import ctypes
from typing import Optional

from .effects import MAX_EFFECTS, WAVEFORMS, Constant, Effect, Envelope, Force, Periodic, Rumble
from .input_codes import Ff

_u16, _s16 = ctypes.c_uint16, ctypes.c_int16


class ff_envelope(ctypes.Structure):
    _fields_ = [("attack_length", _u16), ("attack_level", _u16), ("fade_length", _u16), ("fade_level", _u16)]


class ff_constant_effect(ctypes.Structure):
    _fields_ = [("level", _s16), ("envelope", ff_envelope)]


class ff_periodic_effect(ctypes.Structure):
    _fields_ = [
        ("waveform", _u16),
        ("period", _u16),
        ("magnitude", _s16),
        ("offset", _s16),
        ("phase", _u16),
        ("envelope", ff_envelope),
        ("custom_len", ctypes.c_uint32),
        ("custom_data", ctypes.c_void_p),
    ]


class ff_rumble_effect(ctypes.Structure):
    _fields_ = [("strong_magnitude", _u16), ("weak_magnitude", _u16)]


class _union(ctypes.Union):
    _fields_ = [("constant", ff_constant_effect), ("periodic", ff_periodic_effect), ("rumble", ff_rumble_effect)]


class ff_effect(ctypes.Structure):
    """Without the effects of wheels and joysticks, which are no larger."""

    _fields_ = [
        ("type", _u16),
        ("id", _s16),
        ("direction", _u16),
        ("trigger_button", _u16),
        ("trigger_interval", _u16),
        ("length", _u16),
        ("delay", _u16),
        ("u", _union),
    ]


EVIOCSFF = 1 << 30 | ctypes.sizeof(ff_effect) << 16 | ord("E") << 8 | 0x80
"""_IOW('E', 0x80, struct ff_effect): uploads an effect, whose number the kernel fills in where it is -1."""
EVIOCRMFF = 1 << 30 | ctypes.sizeof(ctypes.c_int) << 16 | ord("E") << 8 | 0x81
"""_IOW('E', 0x81, int): erases the effect of that number."""


def to_kernel(effect: Effect, *, number: int) -> ff_effect:
    """`number` is -1 for one that the kernel does not have yet."""
    said = ff_effect(id=number, direction=effect.direction, length=effect.length, delay=effect.delay)
    force = effect.force
    if isinstance(force, Rumble):
        said.type = Ff.FF_RUMBLE
        said.u.rumble = ff_rumble_effect(*force)
    elif isinstance(force, Constant):
        said.type = Ff.FF_CONSTANT
        said.u.constant = ff_constant_effect(force.level, ff_envelope(*force.envelope))
    else:
        said.type = Ff.FF_PERIODIC
        said.u.periodic = ff_periodic_effect(*force[:-1], ff_envelope(*force.envelope))
    return said


def from_kernel(said: ff_effect) -> Optional[Effect]:
    """None for one that a gamepad does not have."""
    force = _force(said)
    if force is None or not 0 <= said.id < MAX_EFFECTS:
        return None
    return Effect(said.id, said.length, said.delay, said.direction, force)


def _force(said: ff_effect) -> Optional[Force]:
    if said.type == Ff.FF_RUMBLE:
        return Rumble(said.u.rumble.strong_magnitude, said.u.rumble.weak_magnitude)
    if said.type == Ff.FF_CONSTANT:
        return Constant(said.u.constant.level, _envelope(said.u.constant.envelope))
    if said.type == Ff.FF_PERIODIC and said.u.periodic.waveform in WAVEFORMS.values():
        wave = said.u.periodic
        envelope = _envelope(wave.envelope)
        return Periodic(Ff(wave.waveform), wave.period, wave.magnitude, wave.offset, wave.phase, envelope)
    return None


def _envelope(said: ff_envelope) -> Envelope:
    return Envelope(said.attack_length, said.attack_level, said.fade_length, said.fade_level)
