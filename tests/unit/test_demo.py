from __future__ import annotations

import asyncio
import contextlib
import os
import socket
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


def test_lights_that_were_on_before_are_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The console of a guest may have lit others by then."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, contextlib.ExitStack() as stack:
        listener.bind(os.fspath(tmp_path / "keyboard.driver.sock"))
        listener.listen()

        async def light(*_words: object) -> str:
            driver = stack.enter_context(listener.accept()[0])
            driver.send(b'{"leds": {"LED_NUML": 1}}')
            driver.send(b'{"leds": {"LED_NUML": 1, "LED_CAPSL": 1}}')
            return ""

        monkeypatch.setattr(inputs, "in_guest", light)
        scene: Any = SimpleNamespace(vm=SimpleNamespace(folder=tmp_path))
        assert asyncio.run(inputs.keyboard_lights(scene)) == "lit"
