"""What is to be done about a message of the front end: `Session.receive` says it, a `DeviceServer` does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MemoryChanged:
    """`session.memory` and `session.region_fds` are new, and rings may be running on the old ones."""


@dataclass(frozen=True)
class RingStarted:
    """`session.vrings[index]` has all it needs; it serves once it is enabled too."""

    index: int


@dataclass(frozen=True)
class RingStopped:
    """The driver takes the ring back: nothing may touch it once this is performed. The performer
    sets `session.vrings[index].base` to the next available index."""

    index: int


@dataclass(frozen=True)
class RingEnabled:
    """`session.vrings[index].enabled` changed while the ring was started."""

    index: int


@dataclass(frozen=True)
class CallChanged:
    """`session.vrings[index].call` is a new eventfd while the ring is started."""

    index: int


Effect = MemoryChanged | RingStarted | RingStopped | RingEnabled | CallChanged
EFFECTS: Sequence[type[Effect]] = (MemoryChanged, RingStarted, RingStopped, RingEnabled, CallChanged)


def effect_name(effect: Effect) -> list[Any]:
    """As JSON has it."""
    return [type(effect).__name__, *vars(effect).values()]


def effect_named(kind: str, *fields: int) -> Effect:
    """What `effect_name` says."""
    return {effect.__name__: effect for effect in EFFECTS}[kind](*fields)
