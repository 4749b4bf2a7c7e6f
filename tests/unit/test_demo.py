from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from subos_devices import demo
from subos_devices.demo import inputs, recovery
from subos_devices.errors import SubosError


def scene_of(**server: object) -> Any:
    devices = {"mouse": SimpleNamespace(**server)}
    return SimpleNamespace(vm=SimpleNamespace(supervisor=SimpleNamespace(devices=devices)))


def test_a_worker_whose_pid_is_not_known_yet_is_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Process 0 would be our own process group."""
    killed: list[object] = []
    monkeypatch.setattr(os, "kill", lambda *which: killed.append(which))
    with pytest.raises(SubosError, match="has no process"):
        recovery.Killed(scene_of(restarts=0, pid=0), "mouse")
    recovery.Killed(scene_of(restarts=0, pid=7), "mouse")
    assert killed == [(7, signal.SIGKILL)]


def test_what_the_dead_one_had_still_answered_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "kill", lambda *_: None)
    scene = scene_of(restarts=2, pid=7, counters=SimpleNamespace(requests=10))
    server = scene.vm.supervisor.devices["mouse"]

    async def live() -> None:
        killed = recovery.Killed(scene, "mouse")
        answered = asyncio.ensure_future(killed.answered())
        for field, value in ((server.counters, 11), (server, 3)):
            setattr(field, "requests" if field is server.counters else "restarts", value)
            await asyncio.sleep(0.01)
            assert not answered.done()
        server.counters.requests = 12
        after = await asyncio.wait_for(answered, 10)
        assert after >= 20
        assert killed.came_back(after) == f"process 7 killed, back after {after:.0f} ms"
        server.restarts = 4
        with pytest.raises(SubosError):  # it died once more
            killed.came_back(after)

    asyncio.run(live())


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
