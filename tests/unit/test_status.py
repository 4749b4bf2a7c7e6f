"""`subos-devices status`, in words."""

from __future__ import annotations

import re

from subos_devices.commands.status import quiet_devices


def test_a_quiet_device_is_told_of_with_its_reason() -> None:
    devices = [
        {"name": "src", "quiet": {"since": 1_700_000_000.0, "reason": "[bold]ended by signal 11"}},
        {"name": "mouse", "quiet": None},
    ]
    (line,) = quiet_devices({"devices": devices})
    pattern = r"src is quiet since \d\d:\d\d:\d\d, and its driver waits: \[bold\]ended by signal 11"
    assert re.fullmatch(pattern, line)
