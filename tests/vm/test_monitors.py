"""A guest with two monitors: what the host is told of them, and that what it points at lies on the right one."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from subos_devices.launcher.control import agent_command
from subos_protocol.monitors import Area, Layout, Monitor, pack_layout
from support.command import running, subos
from support.guest import Guest
from support.waiting import eventually

from .test_input_devices import described

pytestmark = pytest.mark.vm

DISPLAY = ":7"
LEFT, RIGHT = Area(0, 0, 1000, 1000), Area(1000, 0, 2000, 800)
LAYOUT = Layout(Area(0, 0, 3000, 1000), (Monitor("left", LEFT), Monitor("right", RIGHT)))


def told(guest: Guest) -> Any:
    [machine] = json.loads(subos("status", guest.vm.plan.name, "--json", check=0).stdout)
    return machine["monitors"]


@pytest.fixture
def desktop(guest: Guest) -> Iterator[None]:
    """With a session of the agent in it."""
    guest.wait_for_agent()
    begin = (
        f"rm -f /tmp/x7; mkfifo /tmp/x7; Xvfb {DISPLAY} -displayfd 3 -screen 0 3000x1000x24 -nolisten tcp -noreset "
        "3>/tmp/x7 >/dev/null 2>&1 & echo $! >/tmp/x7.pid; read display </tmp/x7"
    )
    guest.check("sh", "-c", begin)
    monitors = {monitor.name: list(monitor.area) for monitor in LAYOUT.monitors}
    guest.inside("x_monitors.py", DISPLAY, json.dumps(monitors))
    command, variables = agent_command("session", "--backend", "x11")
    words = shlex.join([f"{name}={value}" for name, value in variables.items()] + command)
    guest.check("sh", "-c", f"env DISPLAY={DISPLAY} {words} >/tmp/session7.log 2>&1 & echo $! >/tmp/session7.pid")
    yield
    guest.run(["sh", "-c", "kill $(cat /tmp/session7.pid /tmp/x7.pid)"])


def test_places_on_each_monitor(guest: Guest, desktop: None) -> None:
    eventually(lambda: told(guest) is not None, timeout=60)
    assert told(guest) == pack_layout(LAYOUT)
    name = guest.vm.plan.name

    def at(device: str) -> tuple[float, float]:
        """In the desktop's pixels, as its display server reckons."""
        x, y = (described(guest)[device]["axes"][axis][0] for axis in ("ABS_X", "ABS_Y"))
        return x * LAYOUT.desktop.width / 32768, y * LAYOUT.desktop.height / 32768

    for number, monitor in enumerate(LAYOUT.monitors, 1):
        for part in (0, 50, 100):
            subos("input", name, f"move {part}% {part}% --monitor {number}", check=0)
            eventually(lambda: is_on(at("SubOS Mouse"), monitor.area, part / 100), timeout=30)  # noqa: B023
    subos("input", name, "tap 50% 50% --monitor 2", check=0)
    eventually(lambda: is_on(at("SubOS Touchscreen"), RIGHT, 0.5), timeout=30)
    refused = subos("input", name, "move 1 1 --monitor 3", check=2).stderr.decode()
    assert "no monitor 3" in refused
    assert "2: right, 2000x800 at 1000,0" in refused


def test_who_attaches_to_a_monitor_that_nobody_tells_of_waits(guest: Guest) -> None:
    guest.wait_for_agent()
    attach = ("input", guest.vm.plan.name, "attach", "no such device")
    for words, wrong in (
        (("--monitor", "0"), "--monitor must be a number from 1 to 16, not 0"),
        (("--to", "keyboard", "--monitor", "1"), "keyboard points at no monitor"),
    ):
        assert wrong in subos(*attach, *words, check=2).stderr.decode()
    with running(*attach, "--monitor", "1", stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = [process.stderr.readline().decode() for _ in range(2)]
        assert said[0] == "subos: no device no such device is here yet; it is taken when it comes\n"
        assert said[1].startswith("subos: where the guest's monitors are is not known: ")
        process.terminate()
        assert process.wait(30) == 0


def is_on(place: tuple[float, float], area: Area, part: float) -> bool:
    """Whether it lies on the monitor, so far from its left and upper edges, but for a pixel."""
    x, y = place[0] - area.x, place[1] - area.y
    near = abs(x - part * area.width) <= 1 and abs(y - part * area.height) <= 1
    return near and 0 <= x < area.width and 0 <= y < area.height


def test_without_a_session_nothing_is_said(guest: Guest) -> None:
    guest.wait_for_agent()
    assert told(guest) is None
    refused = subos("input", guest.vm.plan.name, "move 1 1 --monitor 1").stderr.decode()
    assert "no" in refused
