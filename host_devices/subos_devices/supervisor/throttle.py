"""Keeps what a guest can provoke from flooding the log: a driver may break its ring thousands of times a second."""

from __future__ import annotations

import logging
import time

BURST = 10  # messages of one kind about one device
PERIOD = 10.0  # seconds


class Throttle(logging.Filter):
    """Lets BURST records of the same text and first argument (the device) pass in each PERIOD."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        arguments = record.args if isinstance(record.args, tuple) else ()
        kind = (str(record.msg), str(arguments[0]) if arguments else "")
        began, count = self._passed.get(kind, (0.0, 0))
        now = time.monotonic()
        if not count or now - began > PERIOD:
            began, count = now, 0
        self._passed[kind] = (began, count + 1)
        return count < BURST
