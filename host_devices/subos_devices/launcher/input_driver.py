"""The process by which devices of this host drive those of a VM that `run` has booted, by the rules of its settings."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from ..input.drivers.host import evdev_module
from ..input.drivers.rules import check_targets, parse_rules
from ..processes import die_with_parent
from .devices import PlannedDevice

END_SECONDS = 2.0


def check(tables: list[dict[str, Any]], devices: Sequence[PlannedDevice]) -> None:
    """Raises UserError for rules that cannot work on a VM with `devices`."""
    rules = parse_rules(tables)
    check_targets(rules, [(device.name, device.kind) for device in devices if device.driven], "input")
    if rules:
        evdev_module()


@contextlib.asynccontextmanager
async def input_driver(name: str, config: Path | None) -> AsyncIterator[None]:
    """Drives the VM `name` by the rules in `config` while the block lasts; without a file nobody does."""
    if config is None:
        yield
        return
    launcher = os.getpid()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "subos_devices.cli", "input", name, "attach", "--quiet", "--config", os.fspath(config)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        preexec_fn=lambda: die_with_parent(launcher),
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), END_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                process.kill()
            await process.wait()
