"""What libinput in the guest makes of our devices, which is what Wayland's compositors and X make of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from subos_devices.input import script
from subos_devices.input.actions import button, frame
from subos_devices.input.gamepad import profiles
from subos_devices.input.monitors import reach
from subos_devices.input.mouse import AXIS_MAX, MOUSE
from subos_devices.input.pen import PEN, PRESSURE_MAX
from subos_devices.input.pointer import POINTER
from subos_devices.input.touch import TOUCH
from subos_devices.launcher import devices
from subos_protocol.input_codes import Abs, Ev, Key
from support.command import subos
from support.guest import Guest
from support.waiting import eventually

from .test_input_devices import KEYBOARD, described, driver
from .test_monitors import LAYOUT, RIGHT

pytestmark = pytest.mark.vm

UDEVD = "$(command -v systemd-udevd || echo /lib/systemd/systemd-udevd)"


@pytest.fixture
def udev(guest: Guest) -> Iterator[None]:
    """udevd in the guest, which knows the input devices; libinput takes no others."""
    guest.check(
        "sh", "-c", f"{UDEVD} --daemon && udevadm trigger --action=add --subsystem-match=input && udevadm settle"
    )
    yield
    guest.check("sh", "-c", "udevadm control --exit; rm -rf /run/udev")


class Libinput:
    """A program that listens by libinput to all event devices there are; `kinds` is what each can do, by its name."""

    def __init__(self, guest: Guest, folder: Path) -> None:
        self._guest = guest
        self._report, self._pid = folder / "report", folder / "pid"
        words = shlex.join(guest.inside_command("libinput.py"))
        report, pid = shlex.quote(str(self._report)), shlex.quote(str(self._pid))
        shell = f"{words} /dev/input/event* >{report} 2>&1 </dev/null & echo $! >{pid}"
        guest.check("sh", "-c", shell)
        eventually(lambda: ["listens"] in self._lines(), timeout=60)
        self.kinds: dict[str, list[str] | None] = dict(self._lines()[:-1])

    def _lines(self) -> list[Any]:
        """What it has printed; words that are no JSON are libinput's own."""
        if not self._report.exists():
            return []
        lines = self._report.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("[") and line.endswith("\n")]

    def events(self) -> list[Any]:
        return self._lines()[len(self.kinds) + 1 :]

    def wait_for(self, *wanted: list[Any]) -> None:
        """Until it has reported these, in this order."""

        def seen() -> bool:
            rest = iter(self.events())
            return all(event in rest for event in wanted)

        try:
            eventually(seen, timeout=60)
        except AssertionError:
            raise AssertionError(f"{self.events()} is not {list(wanted)}") from None

    def close(self) -> None:
        self._guest.check("sh", "-c", f"kill {int(self._pid.read_text())}")


@pytest.fixture
def libinput(guest: Guest, folder: Path, udev: None) -> Iterator[Libinput]:
    listener = Libinput(guest, folder)
    yield listener
    listener.close()


def play(guest: Guest, device: str, *words: str) -> None:
    script.play(devices.driver_path(guest.vm.folder, device), script.parse(words, monitors=lambda: LAYOUT))


def test_what_each_device_is(guest: Guest, libinput: Libinput) -> None:
    """A gamepad is left to games."""
    pads = [profiles.load(name).capabilities.name for name in ("xbox360", "dualsense")]
    wanted = {
        KEYBOARD: ["keyboard"],
        MOUSE.name: ["pointer"],
        TOUCH.name: ["touch"],
        PEN.name: ["tablet-tool"],
        **dict.fromkeys(pads),
    }
    assert {name: libinput.kinds[name] for name in wanted} == wanted


def test_the_keyboard_and_the_mouse(guest: Guest, libinput: Libinput) -> None:
    play(guest, "keyboard", "key shift+a")
    keys = [(Key.KEY_LEFTSHIFT, 1), (Key.KEY_A, 1), (Key.KEY_A, 0), (Key.KEY_LEFTSHIFT, 0)]
    libinput.wait_for(*([KEYBOARD, "key", *key] for key in keys))
    play(guest, "mouse", "move 25% 75%, click right")
    clicked: list[list[Any]] = [[MOUSE.name, "button", Key.BTN_RIGHT, state] for state in (1, 0)]
    libinput.wait_for([MOUSE.name, "motion-absolute", 250.0, 750.0], *clicked)
    play(guest, "mouse", "scroll -2, scroll 1 --horizontal")
    libinput.wait_for(*clicked, [MOUSE.name, "wheel", 240.0, 0], [MOUSE.name, "wheel", 0, 120.0])


def test_the_relative_mouse(guest: Guest, folder: Path, udev: None) -> None:
    name = guest.vm.plan.name
    subos("input", name, "mouse", "relative", check=0)
    try:
        eventually(lambda: POINTER.name in described(guest), timeout=60)
        guest.check("udevadm", "settle")
        libinput = Libinput(guest, folder)
        assert libinput.kinds[POINTER.name] == ["pointer"]
        subos("input", name, "nudge 40 -7, scroll 1", check=0)
        libinput.wait_for([POINTER.name, "motion", 40.0, -7.0], [POINTER.name, "wheel", -120.0, 0])
        subos("input", name, "click side", check=0)
        libinput.wait_for(*([POINTER.name, "button", Key.BTN_SIDE, state] for state in (1, 0)))
        libinput.close()
    finally:
        subos("input", name, "mouse", "absolute", check=0)
    eventually(lambda: MOUSE.name in described(guest), timeout=60)


def test_two_fingers(guest: Guest, libinput: Libinput) -> None:
    play(guest, "touch", "touch 40% 50%, touch 60% 50% --finger 2, touch 30% 50%, lift --finger 2, lift")
    libinput.wait_for(
        [TOUCH.name, "touch-down", 0, 400.0, 500.0],
        [TOUCH.name, "touch-down", 1, 600.0, 500.0],
        [TOUCH.name, "touch-motion", 0, 300.0, 500.0],
        [TOUCH.name, "touch-up", 1],
        [TOUCH.name, "touch-up", 0],
    )


def test_the_pen_comes_near_presses_tilts_and_is_turned_round(guest: Guest, libinput: Libinput) -> None:
    with driver(guest, "pen") as pen:
        place = (Ev.EV_ABS, Abs.ABS_X, 1 + AXIS_MAX // 4), (Ev.EV_ABS, Abs.ABS_Y, 1 + AXIS_MAX // 2)
        tilt = (Ev.EV_ABS, Abs.ABS_TILT_X, -20), (Ev.EV_ABS, Abs.ABS_TILT_Y, 30)
        pen.send(frame((Ev.EV_KEY, Key.BTN_TOOL_PEN, 1), *place, *tilt))
        libinput.wait_for([PEN.name, "tool-proximity", 1, "pen", 250.0, 500.0, 0.0, -20, 30])
        pen.send(frame((Ev.EV_ABS, Abs.ABS_PRESSURE, PRESSURE_MAX // 2), (Ev.EV_KEY, Key.BTN_TOUCH, 1)))
        eventually(lambda: any(event[1:4] == ["tool-tip", 1, "pen"] for event in libinput.events()), timeout=60)
        pen.send(frame((Ev.EV_ABS, Abs.ABS_PRESSURE, PRESSURE_MAX)))
        eventually(lambda: libinput.events()[-1][1:] == ["tool-axis", "pen", 250.0, 500.0, 1.0, -20, 30], timeout=60)
        pen.send([*button(Key.BTN_STYLUS, 1), *button(Key.BTN_STYLUS, 0)])
        libinput.wait_for(*([PEN.name, "tool-button", Key.BTN_STYLUS, state] for state in (1, 0)))
        pen.send(frame((Ev.EV_ABS, Abs.ABS_PRESSURE, 0), (Ev.EV_KEY, Key.BTN_TOUCH, 0)))
        pen.send(frame((Ev.EV_KEY, Key.BTN_TOOL_PEN, 0)))
        eventually(lambda: libinput.events()[-1][1:4] == ["tool-proximity", 0, "pen"], timeout=60)
        pen.send(frame((Ev.EV_KEY, Key.BTN_TOOL_RUBBER, 1)))
        eventually(lambda: libinput.events()[-1][1:4] == ["tool-proximity", 1, "eraser"], timeout=60)
    eventually(lambda: libinput.events()[-1][1:4] == ["tool-proximity", 0, "eraser"], timeout=60)
    ups = [event for event in libinput.events() if event[1] == "tool-tip"]
    assert [event[2] for event in ups] == [1, 0]


@pytest.mark.parametrize(
    ("device", "word", "event"), [("mouse", "move", "motion-absolute"), ("touch", "touch", "touch-down")]
)
def test_a_place_on_the_second_monitor(guest: Guest, libinput: Libinput, device: str, word: str, event: str) -> None:
    """No rule of udev's changes it: libinput takes an axis for the whole desktop."""
    assert reach(LAYOUT, 2).across.first > 0
    play(guest, device, f"{word} 50% 50% --monitor 2")

    def at() -> list[float]:
        """Of the desktop's pixels."""
        found = [line[-2:] for line in libinput.events() if line[1] == event]
        return [part * side / 1000 for part, side in zip(found[-1], LAYOUT.desktop[2:], strict=True)] if found else []

    x, y = eventually(at, timeout=60)
    assert x == pytest.approx(RIGHT.x + RIGHT.width / 2, abs=0.002 * LAYOUT.desktop.width)
    assert y == pytest.approx(RIGHT.y + RIGHT.height / 2, abs=0.002 * LAYOUT.desktop.height)
