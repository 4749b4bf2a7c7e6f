"""Applies a mapping to a device's events. No clock of its own: who uses it says what time it is."""

from __future__ import annotations

from collections.abc import Iterable

from subos_protocol.input_codes import Abs, Ev
from subos_protocol.virtio_input import virtio_input_absinfo, virtio_input_event

from ..capabilities import PRESSED, RELEASED, Capabilities
from .mapping import Control, Mapping
from .translation import middle

PRESSES, LETS_GO = 0.5, 0.4  # how far an axis is from its rest where its side presses a button, and lets it go

_RESTS_AT_AN_END = frozenset({Abs.ABS_Z, Abs.ABS_RZ, Abs.ABS_GAS, Abs.ABS_BRAKE, Abs.ABS_THROTTLE})
_SIDES = virtio_input_absinfo(-1, 1)
_TRIGGER = virtio_input_absinfo(0, 1)


def rest(code: int, axis: virtio_input_absinfo) -> int:
    """Where an axis is that nobody touches: triggers at their lower end, all others in the middle."""
    return axis.min if code in _RESTS_AT_AN_END and axis.min >= 0 else middle(axis)


class Mapper:
    """Of one device `source`; `capabilities` is what comes out.

    Times are in seconds, on any clock that only advances.
    """

    def __init__(self, source: Capabilities, mapping: Mapping) -> None:
        self._mapping = mapping
        self._axes = source.axes
        self.capabilities = _mapped(source, mapping)
        self._held: dict[Control, set[Control]] = {}  # of each button and side that is down: who presses it
        self._turbo: dict[int, tuple[float, bool]] = {}  # of each held turbo button: its next change, and to what
        self._presses_buttons = {
            control.code
            for control, target in mapping.routes.items()
            if control.type == Ev.EV_ABS and target.type == Ev.EV_KEY
        }

    @property
    def next_tick(self) -> float | None:
        """When `tick` is wanted next; None while no turbo button is held."""
        return min((when for when, _ in self._turbo.values()), default=None)

    def frame(self, events: Iterable[virtio_input_event], now: float) -> list[virtio_input_event]:
        """What one frame of the device becomes."""
        mapped: list[virtio_input_event] = []
        for event in events:
            if event.type == Ev.EV_KEY and event.value in (RELEASED, PRESSED):
                mapped += self._button(event.code, event.value, now)
            elif event.type == Ev.EV_ABS and event.code in self._axes:
                mapped += self._axis(event.code, event.value)
            elif event.type != Ev.EV_KEY:
                mapped.append(event)
        return mapped

    def tick(self, now: float) -> list[virtio_input_event]:
        """What turbo buttons do by themselves, up to `now`: each changes once at most."""
        mapped: list[virtio_input_event] = []
        for code, (when, pressed) in list(self._turbo.items()):
            if when <= now:
                mapped += self._press(Control(Ev.EV_KEY, code), pressed)
                self._turbo[code] = (max(when, now - self._half(code)) + self._half(code), not pressed)
        return mapped

    def _half(self, code: int) -> float:
        return 0.5 / self._mapping.turbo[code]

    def _button(self, code: int, value: int, now: float) -> list[virtio_input_event]:
        if code in self._mapping.turbo:
            if value == RELEASED:
                self._turbo.pop(code, None)
            elif code not in self._turbo:
                self._turbo[code] = (now + self._half(code), False)
        return self._press(Control(Ev.EV_KEY, code), value == PRESSED)

    def _axis(self, code: int, value: int) -> list[virtio_input_event]:
        axis = self._axes[code]
        if code in self._mapping.dead_zones:
            value = _beyond(value, rest(code, axis), axis, self._mapping.dead_zones[code])
        if code in self._mapping.inverted:
            value = axis.min + axis.max - value
        if code in self._presses_buttons:
            return self._deflect(code, value)
        control = self._mapping.routes.get(Control(Ev.EV_ABS, code), Control(Ev.EV_ABS, code))
        return [virtio_input_event(Ev.EV_ABS, control.code, value)]

    def _deflect(self, code: int, value: int) -> list[virtio_input_event]:
        """An axis whose sides are buttons; a whole one that is a button presses it to either side."""
        axis = self._axes[code]
        origin = rest(code, axis)
        reach = max(1, (axis.max - origin) if value > origin else (origin - axis.min))
        away = (value - origin) / reach
        mapped: list[virtio_input_event] = []
        for side in (-1, 1, 0):
            control = Control(Ev.EV_ABS, code, side)
            if control not in self._mapping.routes:
                continue
            amount = abs(away) if side == 0 else away * side
            target = self._mapping.routes[control]
            was = control in self._held.get(target, ())
            mapped += self._press(control, amount >= (LETS_GO if was else PRESSES))
        return mapped

    def _press(self, source: Control, pressed: bool) -> list[virtio_input_event]:
        target = self._mapping.routes.get(source, source)
        holders = self._held.setdefault(target, set())
        before = bool(holders)
        (holders.add if pressed else holders.discard)(source)
        if before == bool(holders):
            return []
        if target.type == Ev.EV_KEY:
            return [virtio_input_event(Ev.EV_KEY, target.code, PRESSED if holders else RELEASED)]
        return [virtio_input_event(Ev.EV_ABS, target.code, self._place(target))]

    def _place(self, target: Control) -> int:
        """Where the buttons that lead to an axis put it."""
        axis = self.capabilities.axes[target.code]
        low, high = (bool(self._held.get(target._replace(side=side))) for side in (-1, 1))
        if target.side == 0:
            high = bool(self._held.get(target))
        if low == high:
            return axis.min if axis is _TRIGGER else rest(target.code, axis)
        return axis.max if high else axis.min


def _beyond(value: int, origin: int, axis: virtio_input_absinfo, zone: float) -> int:
    """`value` without the dead zone around `origin`; what lies beyond it is stretched, so that nothing jumps."""
    reach = (axis.max - origin) if value > origin else (origin - axis.min)
    away = abs(value - origin) / max(1, reach)
    if away <= zone:
        return origin
    moved = round(min(1.0, (away - zone) / (1 - zone)) * reach)
    return origin + moved if value > origin else origin - moved


def _mapped(source: Capabilities, mapping: Mapping) -> Capabilities:
    """What a device with `source`'s controls has after `mapping`."""
    keys = set(source.of(Ev.EV_KEY))
    axes = dict(source.axes)
    for control in mapping.routes:
        if control.type == Ev.EV_KEY:
            keys.discard(control.code)
        else:
            axes.pop(control.code, None)
    for control, target in mapping.routes.items():
        if target.type == Ev.EV_KEY:
            keys.add(target.code)
        elif control.type == Ev.EV_ABS:
            if control.code in source.axes:
                axes[target.code] = source.axes[control.code]
        else:
            axes.setdefault(target.code, _SIDES if target.side else _TRIGGER)
    codes = {**source.codes, Ev.EV_KEY: frozenset(keys)}
    return source._replace(codes=codes, axes=axes)
