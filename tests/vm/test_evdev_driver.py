"""The evdev driver in a guest, where uinput makes devices that are real to it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from subos_devices.launcher.input_driver import input_driver
from subos_devices.testing.serving import children
from support.guest import Guest
from support.processes import is_alive

pytestmark = pytest.mark.vm

TESTS = Path(__file__).parents[1]


def run_inside(guest: Guest, folder: Path, module: str) -> None:
    """Runs the tests of `support/inside/MODULE` in the guest; what they say is shown if one fails."""
    guest.check(
        *("env", f"PYTHONPATH={TESTS}", sys.executable, "-m", "pytest", "-q"),
        *("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-c", os.devnull, "--rootdir", str(folder)),
        str(guest.share / ".inside" / module),
        timeout=900,
    )


def test_the_rules_of_run_have_a_process_that_ends_with_it(guest: Guest, folder: Path) -> None:
    rules = folder / "a vm.toml"
    rules.write_text('[[input]]\ndevice = "no such device"\n')

    async def live() -> set[int]:
        before = set(children(os.getpid()))
        async with input_driver(guest.vm.plan.name, rules):
            return set(children(os.getpid())) - before

    (process,) = asyncio.run(live())
    assert not is_alive(process)


@pytest.mark.timeout(1000)
def test_real_devices_drive_the_guest_s(guest: Guest, folder: Path) -> None:
    run_inside(guest, folder, "evdev_driver.py")
