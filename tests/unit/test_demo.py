from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from subos_devices import demo
from subos_devices.demo import inputs
from subos_devices.errors import SubosError


def test_a_worker_whose_pid_is_not_known_yet_is_killed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Process 0 would be our own process group."""
    killed: list[str] = []
    server = SimpleNamespace(restarts=0, worker=SimpleNamespace(pid=0, kill=lambda: killed.append("worker")))
    scene = SimpleNamespace(vm=SimpleNamespace(supervisor=SimpleNamespace(devices={"mouse": server})))

    async def played(*_: object) -> None:
        server.restarts = 1

    monkeypatch.setattr(os, "kill", lambda *_: killed.append("group"))
    monkeypatch.setattr(inputs, "_play", played)
    monkeypatch.setattr(inputs, "_until_seen", played)
    asyncio.run(inputs.mouse_recovers(cast(Any, scene)))
    assert killed == ["worker"]


def test_what_a_guest_says_is_shown_without_its_control_characters() -> None:
    async def fails(_scene: demo.Scene) -> str:
        raise SubosError("\x1b[2J gone")

    row = asyncio.run(demo.run_check(demo.Scene(cast(Any, None), cast(Any, None), Path()), ("fs", "reads", fails)))
    assert (row.ok, row.detail) == (False, "?[2J gone")
