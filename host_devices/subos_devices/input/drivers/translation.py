"""From what one device reports to what another one has: its codes, its ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from subos_protocol.input_codes import Abs, Ev, Prop, Rel
from subos_protocol.virtio_input import virtio_input_absinfo, virtio_input_event

from ..actions import HI_RES
from ..capabilities import PRESSED, RELEASED, Capabilities

COUNTS = 20  # units of an absolute axis for one count of a relative mouse

_COARSE = {Rel.REL_WHEEL: Rel.REL_WHEEL_HI_RES, Rel.REL_HWHEEL: Rel.REL_HWHEEL_HI_RES}
_PLACES = {Rel.REL_X: Abs.ABS_X, Rel.REL_Y: Abs.ABS_Y}
_PASSED = frozenset({Abs.ABS_MT_SLOT, Abs.ABS_MT_TRACKING_ID, Abs.ABS_MT_TOOL_TYPE})  # numbers, not measures


def middle(axis: virtio_input_absinfo) -> int:
    """The value in the middle of an axis, the upper one of two."""
    return (axis.min + axis.max + 1) // 2


def scale(source: virtio_input_absinfo, target: virtio_input_absinfo) -> Callable[[int], int]:
    """Values of one axis as those of another: ends become ends, and what lies within the source's `flat` around the
    middle becomes the middle. Values out of range are taken as the nearer end."""
    low, high = source.min, source.max
    span, room = max(1, high - low), target.max - target.min
    centre, rest = middle(source), middle(target)
    flat = source.flat if low < 0 or source.flat else 0

    def scaled(value: int) -> int:
        value = max(low, min(high, value))
        if flat and abs(value - centre) <= flat:
            return rest
        return target.min + ((value - low) * room + span // 2) // span

    return scaled


def convert(source: virtio_input_absinfo, target: virtio_input_absinfo) -> Callable[[int], int]:
    """Measured values of one axis as those of another, by their resolutions: a g stays a g."""

    def converted(value: int) -> int:
        return max(target.min, min(target.max, round(value * target.res / source.res)))

    return converted


class Translation:
    """Of events of a device such as `source` for one such as `target`. It has state: the slot, and a mouse's place."""

    def __init__(self, source: Capabilities, target: Capabilities) -> None:
        self._keys = target.of(Ev.EV_KEY)
        self._moves = target.of(Ev.EV_REL)
        self._other = target.of(Ev.EV_MSC)
        self._target = target.axes
        measures = Prop.INPUT_PROP_ACCELEROMETER in source.props & target.props
        self._scales = {
            code: (convert if measures and axis.res and target.axes[code].res else scale)(axis, target.axes[code])
            for code, axis in source.axes.items()
            if code in target.axes and code not in _PASSED
        }
        self._lacks_fine = {coarse for coarse, fine in _COARSE.items() if fine not in source.of(Ev.EV_REL)}
        slots = target.axes.get(Abs.ABS_MT_SLOT)
        self._last_slot = slots.max if slots else -1
        self._slot = 0
        places = {code: target.axes[code] for code in _PLACES.values() if code in target.axes}
        self._place = {} if self._moves & _PLACES.keys() else {code: middle(axis) for code, axis in places.items()}

    def frame(self, events: Iterable[virtio_input_event]) -> list[virtio_input_event]:
        """What remains of one frame; perhaps nothing."""
        translated: list[virtio_input_event] = []
        for event in events:
            if event.type == Ev.EV_KEY:
                if event.code in self._keys and event.value in (RELEASED, PRESSED):  # 2 is the host's own repeat
                    translated.append(event)
            elif event.type == Ev.EV_REL:
                translated += self._move(event)
            elif event.type == Ev.EV_ABS:
                translated += self._axis(event)
            elif event.type == Ev.EV_MSC and event.code in self._other:
                translated.append(event)
        return translated

    def _move(self, event: virtio_input_event) -> list[virtio_input_event]:
        code, value = event.code, event.value
        if code in self._moves:
            fine = _COARSE.get(Rel(code)) if code in self._lacks_fine else None
            if fine in self._moves and fine is not None:
                return [event, virtio_input_event(Ev.EV_REL, fine, value * HI_RES)]
            return [event]
        place = _PLACES.get(code)  # type: ignore[call-overload]
        if place not in self._place:
            return []
        axis = self._target[place]
        self._place[place] = max(axis.min, min(axis.max, self._place[place] + value * COUNTS))
        return [virtio_input_event(Ev.EV_ABS, place, self._place[place])]

    def _axis(self, event: virtio_input_event) -> list[virtio_input_event]:
        code, value = event.code, event.value
        if code == Abs.ABS_MT_SLOT:
            self._slot = value
        if code >= Abs.ABS_MT_SLOT and not 0 <= self._slot <= self._last_slot:
            return []
        if code in self._scales:
            return [virtio_input_event(Ev.EV_ABS, code, self._scales[code](value))]
        return [event] if code in _PASSED and code in self._target else []
