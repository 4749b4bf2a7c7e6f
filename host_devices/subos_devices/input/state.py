"""What an input device is like now: who holds which key, and where its axes stand.

Each host driver has keys of its own: a key is down for the guest while anybody holds it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import MappingProxyType

from subos_protocol.input_codes import Ev
from subos_protocol.virtio_input import virtio_input_event

from .capabilities import PRESSED, RELEASED, Capabilities, Frame

NO_REST: Mapping[int, int] = MappingProxyType({})


class State:
    """The state of a device that can do `capabilities`. The axes in `rest` stand there at first, and again when the
    driver that moved them last has gone; others stay where they are."""

    def __init__(self, capabilities: Capabilities, rest: Mapping[int, int] = NO_REST) -> None:
        self._keys = capabilities.of(Ev.EV_KEY)
        self._rest = rest
        self._holders: dict[int, set[Hashable]] = {}  # of each key that is down
        self._axes = dict(rest)  # the last value of each axis that ever moved
        self._movers: dict[int, Hashable] = {}  # of each axis that is to spring back

    def take(self, source: Hashable, frame: Frame) -> Frame:
        """What of `frame`, which `source` reports, makes a difference to the guest."""
        return [event for event in frame if self._note(source, event)]

    def leave(self, source: Hashable) -> Frame:
        """`source` is gone: what nobody else holds is released."""
        sprung = [code for code, mover in self._movers.items() if mover == source]
        held = sorted(code for code, holders in self._holders.items() if source in holders)
        back = [virtio_input_event(Ev.EV_ABS, code, self._rest[code]) for code in sprung]
        up = [virtio_input_event(Ev.EV_KEY, code, RELEASED) for code in held]
        frame = self.take(source, [*back, *up])
        for code in sprung:
            del self._movers[code]
        return frame

    def whole(self, *, guest_is_new: bool) -> Frame:
        """What brings any guest to where the device is now; Linux ignores what changes nothing.

        A guest that is not new was stopped, or saw another worker before this one: it may hold keys that are up by now.
        """
        up = () if guest_is_new else sorted(self._keys - self._holders.keys())
        return [
            *(virtio_input_event(Ev.EV_KEY, code, RELEASED) for code in up),
            *(virtio_input_event(Ev.EV_ABS, code, value) for code, value in self._axes.items()),
            *(virtio_input_event(Ev.EV_KEY, code, PRESSED) for code in sorted(self._holders)),
        ]

    def _note(self, source: Hashable, event: virtio_input_event) -> bool:
        """Keeps what `event` leads to. False where it makes no difference to the guest."""
        if event.type == Ev.EV_ABS:
            self._axes[event.code] = event.value
            if event.code in self._rest:
                self._movers[event.code] = source
        if event.type != Ev.EV_KEY:
            return True
        holders = self._holders.setdefault(event.code, set())
        before = bool(holders)
        if event.value == PRESSED:
            holders.add(source)
        else:
            holders.discard(source)
        after = bool(holders)
        if not holders:
            del self._holders[event.code]
        return before != after
