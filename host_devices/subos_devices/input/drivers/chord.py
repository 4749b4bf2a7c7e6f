"""The chord that takes devices from the guest and gives them back: both Ctrl keys, as with QEMU's input-linux."""

from __future__ import annotations

from subos_protocol.input_codes import Ev, Key
from subos_protocol.virtio_input import virtio_input_event

CHORD = frozenset({Key.KEY_LEFTCTRL, Key.KEY_RIGHTCTRL})


class Chord:
    """Of one keyboard."""

    def __init__(self) -> None:
        self._down: set[int] = set()

    def note(self, event: virtio_input_event) -> bool:
        """True where this event completes the chord."""
        if event.type != Ev.EV_KEY or event.code not in CHORD:
            return False
        before = len(self._down)
        (self._down.add if event.value else self._down.discard)(event.code)
        return len(self._down) == len(CHORD) > before
