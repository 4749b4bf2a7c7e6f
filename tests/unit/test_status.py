"""`subos-devices status`, in words."""

from __future__ import annotations

import re

from subos_devices.commands.status import quiet_devices, supervisor_line


def test_a_quiet_device_is_told_of_with_its_reason() -> None:
    devices = [
        {"name": "src", "quiet": {"since": 1_700_000_000.0, "reason": "[bold]ended by signal 11"}},
        {"name": "mouse", "quiet": None},
    ]
    (line,) = quiet_devices({"devices": devices})
    pattern = r"src is quiet since \d\d:\d\d:\d\d, and its driver waits: \[bold\]ended by signal 11"
    assert re.fullmatch(pattern, line)


def test_which_supervisor_serves_and_how_many_there_were() -> None:
    def said(pid: int | None, restarts: int) -> str:
        return supervisor_line({"pid": pid, "version": "0.1.0", "restarts": restarts})

    assert said(7, 0) == "supervisor: process 7, version 0.1.0"
    assert said(7, 1) == "supervisor: process 7, version 0.1.0, restarted 1 time"
    assert said(None, 2) == "no supervisor now, restarted 2 times"
