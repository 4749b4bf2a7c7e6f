"""Small versions of bench/endurance: a worker that may have few descriptors loses nothing (see bench/README.md)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from subos_devices.errors import GuestLost
from support.steps import step

pytestmark = pytest.mark.vm

RUN = Path(__file__).resolve().parents[2] / "bench/endurance/run"
LIMIT = 128


def endure(*words: str) -> dict[str, Any]:
    """What it prints. Raises GuestLost where the VM was."""
    step(f"bench/endurance/run {' '.join(words)}")
    done = subprocess.run(
        [sys.executable, RUN, *words, "--limit", str(LIMIT)], capture_output=True, text=True, timeout=240
    )
    if f"exit status {GuestLost.exit_code}" in done.stderr:
        raise GuestLost(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert said["most_descriptors"] <= LIMIT
    return said


def test_more_files_than_descriptors_are_walked() -> None:
    said = endure("walk", "--files", "3000", "--memory", "512M")
    assert said["files"] == 3000
    assert said["inodes"] > 3000


def test_guest_and_host_work_on_one_tree() -> None:
    said = endure("mixed", "--minutes", "0.1", "--memory", "512M")
    assert {name.partition(":")[0] for name in said["counts"]} == {"guest", "host"}
