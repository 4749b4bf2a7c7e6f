"""Who reads a pad's reports from hidraw: a node that is a file of ours, and this process that opens it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from subos_agent.gamepad import hidraw
from subos_agent.gamepad.hid_reports import Reports
from subos_agent.gamepad.hidraw import Inotify, NodeWatch, Repeats, is_open, node_of
from subos_agent.gamepad.playstation import MODELS
from support.agents import on_a_loop


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hidraw, "LOOK_AFTER", 0.1)
    node = tmp_path / f"hidraw-{os.getpid()}"
    node.touch()
    return node


async def until(wanted: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + 10
    while not wanted():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.005)


def times_of(reports: list[bytes]) -> list[int]:
    return [int.from_bytes(report[28:32], "little") // 3 for report in reports]


@on_a_loop
async def test_reports_are_repeated_while_somebody_has_it_open(node: Path) -> None:
    said: list[bytes] = []
    reports = Reports(MODELS["dualsense"], said.append)
    repeats = Repeats(reports, node)
    try:
        await until(lambda: not repeats.active)
        before = len(said)
        await asyncio.sleep(0.1)
        assert len(said) == before, "no wake-ups for nobody"
        with node.open():
            await until(lambda: len(said) >= before + 20)
            times = times_of(said[before:])
            assert times == sorted(set(times))
            assert times[-1] - times[0] >= 18 * hidraw.PERIOD * 1e6
            with node.open():
                pass
            await asyncio.sleep(0.3)
            assert repeats.active, "one has closed it, and another one has it"
        await until(lambda: not repeats.active)
        with node.open():
            await until(lambda: repeats.active)
    finally:
        repeats.end()
    before = len(said)
    with node.open():
        await asyncio.sleep(0.3)
    assert len(said) == before


@on_a_loop
async def test_whoever_had_it_open_before_is_heard(node: Path) -> None:
    said: list[bytes] = []
    with node.open():
        repeats = Repeats(Reports(MODELS["dualshock4"], said.append), node)
        try:
            await asyncio.sleep(0.3)
            assert repeats.active
        finally:
            repeats.end()


@on_a_loop
async def test_what_happens_is_not_repeated_at_once(node: Path) -> None:
    said: list[bytes] = []
    reports = Reports(MODELS["dualsense"], said.append)
    repeats = Repeats(reports, node, lambda node: True)
    try:
        begun = asyncio.get_running_loop().time()
        own = 0
        while asyncio.get_running_loop().time() < begun + 0.2:
            reports.report()
            own += 1
            await asyncio.sleep(0.001)
        assert len(said) <= own + 2
    finally:
        repeats.end()


def test_opens_and_closes_are_heard(node: Path) -> None:
    watch = NodeWatch(node)
    try:
        assert watch.read() == Inotify(0)
        with node.open():
            assert watch.read() == Inotify.IN_OPEN
        assert watch.read() == Inotify.IN_CLOSE_NOWRITE
        with node.open("r+b"):
            pass
        assert watch.read() == Inotify.IN_OPEN | Inotify.IN_CLOSE_WRITE
        node.unlink()
        assert watch.read() == Inotify(0)
    finally:
        watch.close()


def test_a_node_that_is_not_there(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        NodeWatch(tmp_path / "hidraw0")
    assert os.listdir("/proc/self/fd") == before
    assert node_of(tmp_path, tmp_path) is None
    (tmp_path / "hidraw/hidraw7").mkdir(parents=True)
    assert node_of(tmp_path, Path("/dev")) == Path("/dev/hidraw7")


def test_processes_that_have_it_open(node: Path) -> None:
    assert not is_open(node)
    with node.open():
        assert is_open(node)
    assert not is_open(node)
