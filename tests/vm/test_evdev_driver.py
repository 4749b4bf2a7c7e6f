"""The evdev driver in a guest, where uinput makes devices that are real to it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from support.guest import Guest

pytestmark = pytest.mark.vm

TESTS = Path(__file__).parents[1]


def run_inside(guest: Guest, folder: Path, module: str) -> None:
    """Runs the tests of `support/inside/MODULE` in the guest; what they say is shown if one fails."""
    guest.check(
        *("env", f"PYTHONPATH={TESTS}", sys.executable, "-m", "pytest", "-q"),
        *("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-c", os.devnull, "--rootdir", str(folder)),
        str(guest.share / ".inside" / module),
        timeout=400,
    )


@pytest.mark.timeout(500)
def test_real_devices_drive_the_guest_s(guest: Guest, folder: Path) -> None:
    run_inside(guest, folder, "evdev_driver.py")
