"""Actions in words, and what becomes of them at a device."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from subos_devices import runtime
from subos_devices.commands import input as command
from subos_devices.errors import UserError
from subos_devices.input import client, script
from subos_devices.input.actions import device_of
from subos_devices.input.gamepad import profiles
from subos_devices.input.mouse import MouseDevice
from subos_devices.vhost_user.device import DeviceSpec
from subos_protocol.monitors import Area, Layout, Monitor
from subos_protocol.virtio_input import virtio_input_event
from support.input_ring import FakeWorker

REPORT = (0, 0, 0)


@pytest.mark.parametrize(
    ("words", "actions"),
    [
        ("move 1 32767", [[(3, 0, 1), (3, 1, 32767), REPORT]]),
        ("move 50% 12.5%", [[(3, 0, 16384), (3, 1, 4096), REPORT]]),
        ("move 100% 0%", [[(3, 0, 32767), (3, 1, 0), REPORT]]),
        ("click", [[(1, 0x110, 1), REPORT, (1, 0x110, 0), REPORT]]),
        ("click right --at 3 4", [[(3, 0, 3), (3, 1, 4), REPORT, (1, 0x111, 1), REPORT, (1, 0x111, 0), REPORT]]),
        ("click --at 3 4 side", [[(3, 0, 3), (3, 1, 4), REPORT, (1, 0x113, 1), REPORT, (1, 0x113, 0), REPORT]]),
        ("press extra", [[(1, 0x114, 1), REPORT]]),
        ("release middle", [[(1, 0x112, 0), REPORT]]),
        ("scroll -3", [[(2, 8, -3), (2, 11, -360), REPORT]]),
        ("scroll 2 --horizontal", [[(2, 6, 2), (2, 12, 240), REPORT]]),
        ("wait .25", [0.25]),
        ("type a", [[(1, 30, 1), REPORT, (1, 30, 0), REPORT]]),
        ("type ,", [[(1, 51, 1), REPORT, (1, 51, 0), REPORT]]),
        ("key ctrl+c", [[(1, 29, 1), REPORT, (1, 46, 1), REPORT, (1, 46, 0), REPORT, (1, 29, 0), REPORT]]),
        ("wait 1, type a", [1.0, [(1, 30, 1), REPORT, (1, 30, 0), REPORT]]),
        ("nudge 5 -3", [[(2, 0, 5), (2, 1, -3), REPORT]]),
        ("touch 1 2", [[(3, 0x2F, 0), (3, 0x39, 0), (3, 0x35, 1), (3, 0x36, 2), REPORT]]),
        ("touch --finger 10 1 2", [[(3, 0x2F, 9), (3, 0x39, 9), (3, 0x35, 1), (3, 0x36, 2), REPORT]]),
        ("lift --finger 3", [[(3, 0x2F, 2), (3, 0x39, -1), REPORT]]),
        (
            "tap 0% 100%",
            [[(3, 0x2F, 0), (3, 0x39, 0), (3, 0x35, 0), (3, 0x36, 32767), REPORT, (3, 0x2F, 0), (3, 0x39, -1), REPORT]],
        ),
        ("press, wait 1,release ,", [[(1, 0x110, 1), REPORT], 1.0, [(1, 0x110, 0), REPORT]]),
    ],
)
def test_words(words, actions):
    assert script.parse(words.split()) == actions
    assert script.parse([words]) == actions


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "no action"),
        (",", "no action"),
        ("jump", "'jump' is no action"),
        ("type", "type takes a text"),
        ("type \u00fc", "has no key on a US keyboard"),
        ("key", "key takes one key"),
        ("key nonsense", "there is no key 'nonsense'"),
        ("key btn_left", "there is no key 'btn_left'"),
        ("move 1", "move takes X and Y"),
        ("move", "move takes X and Y"),
        ("move 1 x", "'x' is no coordinate"),
        ("move -1 1", "'-1' is no coordinate"),
        ("move 32768 1", "32768 lies outside"),
        ("move 1 100.1%", "100.1% lies outside"),
        ("click wheel", "'wheel' is no button"),
        ("click left right", "'left right' is no button"),
        ("click --at 1", "--at takes X and Y"),
        ("scroll", "scroll takes"),
        ("scroll 1.5", "scroll takes"),
        ("scroll 1 up", "scroll takes"),
        ("scroll 1001", "too far"),
        ("wait", "wait takes"),
        ("nudge 5", "nudge takes DX and DY"),
        ("nudge 5 x", "nudge takes DX and DY"),
        ("nudge 0 -32768", "too far"),
        ("touch 5", "touch takes X and Y"),
        ("touch 5 5 --finger", "--finger takes a number"),
        ("touch 5 5 --finger 11", "--finger takes a number"),
        ("touch 5 5 --finger 0", "--finger takes a number"),
        ("touch 5 40000", "40000 lies outside"),
        ("lift 5", "lift takes no '5'"),
        ("tap", "tap takes X and Y"),
        ("pad a", "no gamepad is known here"),
        ("move 1 1, wait soon", "wait takes"),
        ("wait 86400.5", "wait takes"),
        (f"wait {'9' * 20}", "wait takes"),
        (f"move {'9' * 5000} 1", "is no coordinate"),
        (f"move {'9' * 400}% 1%", "is no coordinate"),
        (f"scroll {'9' * 5000}", "scroll takes"),
        ("move 1 1 --monitor", "--monitor takes a number"),
        ("move 1 1 --monitor x", "--monitor takes a number"),
        ("move 1 1 --monitor 1", "no monitors are known here"),
        ("scroll 1 --monitor 1", "scroll says no place"),
        ("click --monitor 1", "click says no place"),
        ("wait 1 --monitor 1", "wait says no place"),
    ],
)
def test_words_that_are_no_actions(words, message):
    with pytest.raises(UserError, match=message) as caught:
        script.parse(words.split())
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_places_on_a_monitor():
    asked = []

    def monitors():
        asked.append(1)
        return Layout(Area(0, 0, 200, 100), (Monitor("a", Area(0, 0, 100, 100)), Monitor("b", Area(100, 0, 100, 50))))

    words = "move 0% 0% --monitor 2, click right --at 100% 100% --monitor 2, move 1 1, tap 0% 100% --monitor 1"
    moved, clicked, plain, tapped = script.parse(words.split(), monitors=monitors)
    assert moved == [(3, 0, 16384), (3, 1, 0), REPORT]
    assert clicked[:3] == [(3, 0, 32767), (3, 1, 16383), REPORT]
    assert plain == [(3, 0, 1), (3, 1, 1), REPORT]
    assert tapped[2:4] == [(3, 0x35, 0), (3, 0x36, 32767)]
    assert device_of(tapped) == "touch"
    assert asked == [1], "once for all words"
    with pytest.raises(UserError, match="no monitor 3"):
        script.parse(["move 1 1 --monitor 3"], monitors=monitors)


def pad(name: str) -> Callable[[], profiles.Profile]:
    return lambda: profiles.load(name)


@pytest.mark.parametrize(
    ("words", "name", "events"),
    [
        ("pad a", "xbox360", [(1, 0x130, 1), REPORT, (1, 0x130, 0), REPORT]),
        ("pad x press", "xbox360", [(1, 0x133, 1), REPORT]),
        ("pad lb release", "xbox360", [(1, 0x136, 0), REPORT]),
        ("pad guide", "dualsense", [(1, 0x13C, 1), REPORT, (1, 0x13C, 0), REPORT]),
        ("pad z press", "switchpro", [(1, 0x135, 1), REPORT]),
        ("pad record press", "xboxseries", [(1, 0xA7, 1), REPORT]),
        ("pad up", "xbox360", [(3, 0x11, -1), REPORT, (3, 0x11, 0), REPORT]),
        ("pad right press", "xbox360", [(3, 0x10, 1), REPORT]),
        ("stick left 100% -100%", "xbox360", [(3, 0, 32767), (3, 1, -32768), REPORT]),
        ("stick right 0% 50%", "xbox360", [(3, 3, 0), (3, 4, 16384), REPORT]),
        ("stick left 100% -100%", "dualsense", [(3, 0, 255), (3, 1, 0), REPORT]),
        ("stick left 0% 0%", "dualsense", [(3, 0, 128), (3, 1, 128), REPORT]),
        ("trigger left 100%", "xboxone", [(3, 2, 1023), REPORT]),
        ("battery 40%", "dualsense", [(0x16, 0, 40), (0x16, 1, 0), REPORT]),
        ("battery 7.5% charging", "dualshock4", [(0x16, 0, 8), (0x16, 1, 1), REPORT]),
        ("battery 100% full", "dualsense", [(0x16, 0, 100), (0x16, 1, 2), REPORT]),
        ("trigger right 50%", "xbox360", [(3, 5, 128), REPORT]),
        ("trigger right 0%", "xbox360", [(3, 5, 0), REPORT]),
    ],
)
def test_words_of_a_gamepad_are_what_that_pad_has(words, name, events):
    [action] = script.parse([words], pad(name))
    assert action == events
    assert device_of(action) == "gamepad1"
    for event in events:
        if event != REPORT:
            profiles.load(name).capabilities.check(virtio_input_event(*event))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pad", "pad takes a button"),
        ("pad a hold", "pad takes a button"),
        ("pad record", "Nintendo Co., Ltd. Pro Controller has no button 'record'"),
        ("stick up 0% 0%", "stick takes left or right"),
        ("stick left 0%", "stick takes left or right"),
        ("stick left 101% 0%", "'101%' is not how far"),
        ("stick left 5 0%", "'5' is not how far"),
        ("battery 50%", "the battery of Nintendo Co., Ltd. Pro Controller is none that a guest can read"),
        ("trigger left 100%", "the triggers of Nintendo Co., Ltd. Pro Controller are buttons"),
    ],
)
def test_words_that_a_gamepad_does_not_understand(words, message):
    with pytest.raises(UserError, match=message) as caught:
        script.parse([words], pad("switchpro"))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("words", "name", "part", "events"),
    [
        ("gyro 0 90.5 -2048", "dualsense", "motion", [(3, 3, 0), (3, 4, 92672), (3, 5, -2097152), REPORT]),
        ("gyro 1 0 0", "switchpro", "motion", [(3, 3, 14247), (3, 4, 0), (3, 5, 0), REPORT]),
        ("accel -4 1 0.5", "dualshock4", "motion", [(3, 0, -32768), (3, 1, 8192), (3, 2, 4096), REPORT]),
        (
            "touchpad 100% 0%",
            "dualshock4",
            "touchpad",
            [(3, 0x2F, 0), (3, 0x39, 0), (3, 0x35, 1919), (3, 0x36, 0), REPORT],
        ),
        (
            "touchpad 50% 100% --finger 2",
            "dualsense",
            "touchpad",
            [(3, 0x2F, 1), (3, 0x39, 1), (3, 0x35, 960), (3, 0x36, 1079), REPORT],
        ),
        ("touchpad lift --finger 2", "dualsense", "touchpad", [(3, 0x2F, 1), (3, 0x39, -1), REPORT]),
        ("touchpad click", "dualsense", "touchpad", [(1, 0x110, 1), REPORT, (1, 0x110, 0), REPORT]),
        ("touchpad press", "dualsense", "touchpad", [(1, 0x110, 1), REPORT]),
    ],
)
def test_words_of_sensors_are_for_a_device_beside_the_pad(words, name, part, events):
    [action] = script.parse([words], pad(name), gamepad="gamepad3")
    assert action == events
    assert device_of(action) == f"gamepad3-{part}"
    for event in events:
        if event != REPORT:
            profiles.load(name).part(part).capabilities.check(virtio_input_event(*event))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("gyro", "gyro takes X, Y and Z, not 'nothing'"),
        ("gyro 1 2", "gyro takes X, Y and Z"),
        ("accel a b c", "accel takes X, Y and Z"),
        ("accel 0 1e9 0", "accel takes X, Y and Z"),
        ("accel 0 4.1 0", "4.1 is more than .* can tell"),
        ("touchpad", "touchpad takes X and Y"),
        ("touchpad 5 5", "'5' is not how far"),
        ("touchpad 101% 0%", "'101%' is not how far"),
        ("touchpad 1% 1% --finger 3", "--finger takes a number from 1 to 2"),
    ],
)
def test_words_that_sensors_do_not_understand(words, message):
    with pytest.raises(UserError, match=message) as caught:
        script.parse([words], pad("dualsense"))
    assert caught.value.hint


def test_words_of_sensors_that_a_pad_does_not_have():
    with pytest.raises(UserError, match="the gamepad xbox360 has no motion") as caught:
        script.parse(["gyro 0 0 0"], pad("xbox360"))
    assert caught.value.hint == "dualsense, dualshock4, switchpro have one"


def test_a_trigger_is_never_pushed_out():
    with pytest.raises(UserError, match="'-1%' is not how far"):
        script.parse(["trigger left -1%"], pad("xbox360"))


class Recorder(MouseDevice):
    """A mouse that keeps what it is told."""

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__(spec)
        self.seen: list[tuple[int, int, int]] = []

    def deliver(self, source, frames):
        self.seen += [tuple(event) for frame in frames for event in frame]


class Served:
    """A mouse in a VM's folder, turned by a thread until its driver has gone."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "mouse.driver.sock"
        self.listener = runtime.listen(self.path, socket.SOCK_SEQPACKET)
        self.device = Recorder(DeviceSpec("mouse", "mouse", fds={"driver": self.listener.fileno()}))
        self.worker = FakeWorker()
        self.device.start(self.worker)
        self.end, self.told = os.pipe()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self.end, *self.worker.watched], [], [])
            if self.end in ready:
                return
            self.worker.turn()

    def close(self) -> None:
        os.close(self.told)
        self.thread.join()
        os.close(self.end)
        self.device.close()
        self.listener.close()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with runtime.claim("work") as folder:
        served = Served(folder)
        yield served
        served.close()


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["input", *words])
    return int(args.run(args))


@pytest.mark.parametrize(
    "words",
    [
        ["work", "move", "1", "2,", "scroll", "-1"],
        ["work/mouse", "move 1 2, scroll -1"],
        ["work", "move", "1", "2", ",", "scroll", "-1"],
    ],
)
def test_the_command_drives_a_vm_s_mouse(served, words):
    assert run(*words) == 0
    assert served.device.seen == [(3, 0, 1), (3, 1, 2), (2, 8, -1), (2, 11, -120)]


def test_a_relative_mouse_clicks_where_there_is_no_other(served):
    served.path.rename(served.path.with_name("pointer.driver.sock"))
    assert run("work", "click", "right") == 0
    assert served.device.seen == [(1, 0x111, 1), (1, 0x111, 0)]
    with pytest.raises(UserError, match="no input device 'touch'"):
        run("work", "tap 5 5")


def test_the_command_drives_a_socket(served):
    assert run("--socket", str(served.path), "click", "right", "--at", "5", "5") == 0
    assert served.device.seen == [(3, 0, 5), (3, 1, 5), (1, 0x111, 1), (1, 0x111, 0)]


def test_what_is_wrong_is_found_before_anything_is_sent(served):
    with pytest.raises(UserError):
        run("work", "move 1 1, jump")
    assert served.device.seen == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which VM"),
        (["other", "click"], "no VM called 'other'"),
        (["work/pad", "click"], "no input device 'pad'"),
        (["../work", "click"], "cannot be a VM's name"),
        (["work/../../x", "click"], "no input device"),
        (["work"], "no action"),
        (["--socket", "/nowhere/at/all", "click"], "no device listens"),
    ],
)
def test_what_is_not_there(served, words, message):
    with pytest.raises(UserError, match=message) as caught:
        run(*words)
    assert caught.value.hint


def test_a_refusal_comes_back_with_its_reason(served):
    with client.DriverConnection(served.path) as driver:
        driver.send([virtio_input_event(3, 0, 40000)])
        with pytest.raises(UserError, match="40000 is not within 0 to 32767"):
            driver.finish()


def test_a_device_that_reads_nothing_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "TIMEOUT", 0.05)
    path = tmp_path / "mute.sock"
    with runtime.listen(path, socket.SOCK_SEQPACKET), pytest.raises(UserError, match="takes no input"):
        script.play(path, script.parse(["click"]))


def test_a_device_that_only_talks_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "TIMEOUT", 0.05)
    with runtime.listen(tmp_path / "chatty.sock", socket.SOCK_SEQPACKET) as listener:
        with client.DriverConnection(tmp_path / "chatty.sock") as driver:
            chatty, _ = listener.accept()
            end = threading.Event()

            def talk() -> None:
                with chatty, contextlib.suppress(OSError):
                    while not end.is_set():
                        chatty.send(b'{"leds": {}}')

            thread = threading.Thread(target=talk)
            thread.start()
            with pytest.raises(UserError, match="takes no input"):
                driver.finish()
        end.set()
        thread.join()


def test_the_readme_s_example_is_a_driver(served):
    """Runs the example as it is printed."""
    readme = Path(command.__file__).parents[1] / "input" / "README.md"
    code = readme.read_text().split("```python\n")[1].split("```")[0]
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__", "PATH": str(served.path)})
    assert served.device.seen == [(3, 0, 16383), (3, 1, 16383), (1, 0x110, 1), (1, 0x110, 0)]
