"""Does again, to a guest, what was recorded of a device."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ...errors import UserError
from ..capabilities import MAX_EVENTS, SYN_REPORT
from ..client import DriverConnection
from ..evemu import Reader
from .forwarding import Target
from .kinds import kind_of
from .mapper import Mapper
from .mapping import Mapping
from .pads import pad_routes
from .places import allowed
from .translation import Translation

MAX_PAUSE = 86400  # seconds between two frames


def choose(reader: Reader, to: str, targets: Sequence[Target]) -> Target:
    """The best of the guest's devices for a recording; `to` may name one, or a kind. Raises UserError."""
    found = allowed(to, kind_of(reader.device), targets)
    if not found:
        there = ", ".join(target.name for target in targets)
        raise UserError(f"the guest has no device {to or f'for {reader.device.name!r}'}", f"--to one of {there}")
    return found[0]


def play(reader: Reader, target: Target, speed: float) -> int:
    """Plays all of it, `speed` times as fast as it was; how many frames the guest got. Raises UserError."""
    mapper = Mapper(reader.device, Mapping(pad_routes(reader.device, target.capabilities)))
    translation = Translation(mapper.capabilities, target.capabilities)
    began: float | None = None
    played = 0
    with DriverConnection(target.path) as driver:
        for moment, events in reader.frames():
            when = moment / 1_000_000 / speed
            if began is None:
                began = time.monotonic() - when
            pause = began + when - time.monotonic()
            if pause > MAX_PAUSE:
                raise UserError(
                    f"the recording does nothing for {pause:.0f} seconds, and {MAX_PAUSE} are the most",
                    "--speed plays it faster; or are its times wrong?",
                )
            time.sleep(max(0.0, pause))
            frame = translation.frame(mapper.frame(events, when))
            for start in range(0, len(frame), MAX_EVENTS - 1):
                driver.send([*frame[start : start + MAX_EVENTS - 1], SYN_REPORT])
            played += bool(frame)
        driver.finish()
    return played
