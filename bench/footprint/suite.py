"""Eight devices with a front end each, by process model: what their processes hold, as JSON (see run)."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time

from subos_devices.registry import KINDS
from subos_devices.testing import FrontEnd, supervise

DEVICES = ("fs", "mouse", "pointer", "keyboard", "touch", "pen", "gamepad", "rng")
GROUPED = tuple(f"{kind}=group:small" for kind in DEVICES if kind != "fs")
MODELS = {"own": (), "grouped": GROUPED}
REST = 2.0  # seconds after which they count as idle


def measure(process: tuple[str, ...]) -> dict[str, int]:
    """Bytes of PSS by device, and of the zygote and all workers."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        supervised = stack.enter_context(supervise(process=process, kinds=tuple(KINDS)))
        options = {"fs": {"shared_dir": folder}, "gamepad": {"profile": "xbox360"}}
        for kind in DEVICES:
            path = supervised.add(kind, kind, **options.get(kind, {}))
            stack.enter_context(FrontEnd.connect(path)).queue(0)
        time.sleep(REST)
        lines, together = supervised.status_and_memory()
        costs = {line["name"]: line["pss"] for line in lines if line["process"] == "own"}
        shared = {line["process"]: line["pss"] for line in lines if line["process"] != "own"}
        return {**costs, **shared, "zygote": together["zygote"], "workers": together["workers"]}


json.dump({name: measure(process) for name, process in MODELS.items()}, sys.stdout)
