"""`clock`: the host says what time it is, at first and after each of its suspends.

    → REQUEST {"op": "clock", "time": 1790000000.25, "tolerance": 0.5}
    ← REPLY {"ahead": -3600.1, "set": true}

`ahead` is how far the guest's clock was ahead of the host's, in seconds.
"""

from __future__ import annotations

import time
from typing import Any

from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.stream import Stream

LATEST = 32503680000.0  # the year 3000


async def clock(stream: Stream) -> Head:
    """Handles `clock`. Raises RemoteError."""
    now: Any = stream.head.get("time")
    tolerance: Any = stream.head.get("tolerance", 0.5)
    if not (_is_time(now) and _is_time(tolerance)):
        raise RemoteError("malformed", "a time that cannot be one")
    ahead = time.time() - now
    off = abs(ahead) > tolerance
    if off:
        try:
            time.clock_settime(time.CLOCK_REALTIME, now)
        except OSError as error:
            raise RemoteError("failed", f"the guest's clock cannot be set: {error.strerror}") from error
    return {"ahead": round(ahead, 6), "set": off}


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < LATEST
