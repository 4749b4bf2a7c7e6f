"""Gamepads that the agent makes as HID devices in a booted guest: what the kernel's own driver makes of them."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from subos_devices.input.actions import frame
from subos_devices.input.driver_socket import MAX_FEEDBACK
from subos_devices.input.gamepad import profiles
from subos_devices.launcher.devices import driver_path
from subos_protocol.input_codes import Abs, Ev, Key, code_name
from subos_protocol.virtio_input import VIRTIO_INPUT_EVENT
from support.command import subos
from support.guest import Guest
from support.steps import step
from support.waiting import eventually

from .test_gamepad import kill_agent
from .test_input_devices import Reader, described, driver
from .test_pad_parts import finger
from .test_sdl import lines

pytestmark = pytest.mark.vm

PADS = {"gamepad1": "dualsense", "gamepad2": "dualshock4"}
PARTS = [(pad, part) for pad in PADS for part in ("pad", *profiles.PARTS)]
RUMBLE = {"id": 0, "length": 0, "delay": 0, "direction": 0, "strong": 49152, "weak": 7 << 8, "type": "rumble"}
FELT = {**RUMBLE, "strong": 192 * 257, "weak": 7 * 257}
"""The driver has eight bits for each motor."""


@pytest.fixture(scope="module")
def guest(runtime_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    pads = [*(f"{name}:uhid" for name in PADS.values()), f"{PADS['gamepad1']}:uhid:hotplug"]
    guest = Guest.boot(f"hid-{os.getpid()}", tmp_path_factory.mktemp("hid"), pads)
    yield guest
    guest.close()


def agent_has_it(guest: Guest) -> bool:
    names = [name_of(pad, part) for pad, part in PARTS]
    return all(guest.vm.supervisor.devices[name].describe()["gamepad"]["agent"] for name in names)


@pytest.fixture(autouse=True)
def agent(guest: Guest) -> None:
    eventually(lambda: agent_has_it(guest), timeout=120)


def name_of(pad: str, part: str) -> str:
    """What the host calls it."""
    return pad if part == "pad" else f"{pad}-{part}"


def called(pad: str, part: str) -> str:
    """What the guest calls it."""
    profile = profiles.load(PADS[pad])
    return (profile if part == "pad" else profile.part(part)).capabilities.name


class Listener:
    """A host driver of a pad: what it is told."""

    def __init__(self, guest: Guest, pad: str) -> None:
        self.heard: list[dict[str, Any]] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = driver_path(guest.vm.folder, pad)
        eventually(lambda: self.socket.connect_ex(os.fspath(path)) == 0, timeout=60)
        self.socket.setblocking(False)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *events: tuple[int, int, int]) -> None:
        self.socket.send(b"".join(map(VIRTIO_INPUT_EVENT.pack, frame(*events))))

    def hears(self, wanted: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Waits until what it was told is wanted."""

        def look() -> bool:
            try:
                while packet := self.socket.recv(MAX_FEEDBACK):
                    self.heard.append(json.loads(packet))
            except BlockingIOError:
                pass
            return wanted(self.heard)

        eventually(look, timeout=60)
        heard, self.heard = self.heard, []
        return heard


def read(guest: Guest, *attributes: str) -> list[str]:
    return guest.check("sh", "-c", f"cat {' '.join(attributes)}").split()


def led(rgb: tuple[int, int, int], players: int) -> dict[str, Any]:
    return {"led": {"rgb": list(rgb), "players": players}}


@pytest.mark.parametrize(("pad", "part"), PARTS)
def test_the_driver_makes_what_the_profile_says(guest: Guest, pad: str, part: str) -> None:
    profile = profiles.load(PADS[pad])
    can = (profile if part == "pad" else profile.part(part)).capabilities
    device = described(guest)[can.name]
    assert device["ids"] == list(can.ids)
    assert device["props"] == sorted(can.props)
    for type_ in (Ev.EV_KEY, Ev.EV_REL, Ev.EV_ABS, Ev.EV_MSC):
        wanted = [code_name(type_, code) for code in sorted(can.of(type_))]
        assert device["codes"].get(type_.name, []) == wanted
    for code, axis in can.axes.items():
        assert device["axes"][code_name(Ev.EV_ABS, code)][1:] == [axis.min, axis.max, axis.fuzz, axis.flat, axis.res]
    if part != "touchpad":
        rest = (profile if part == "pad" else profile.part(part)).rest
        assert {axis: values[0] for axis, values in device["axes"].items()} == {
            code_name(Ev.EV_ABS, code): value for code, value in rest.items()
        }


def test_a_pad_is_seen_once_and_its_parts_have_its_serial(guest: Guest) -> None:
    names = guest.check("sh", "-c", "cat /sys/class/input/event*/device/name").splitlines()
    for pad in PADS:
        parts = [called(pad, part) for part in ("pad", *profiles.PARTS)]
        assert [names.count(name) for name in parts] == [1, 1, 1]
        assert sum(name.startswith(parts[0]) for name in names) == 3, "its twins, whose names are cut, have gone"
        serials = {described(guest)[name]["serial"] for name in parts}
        assert len(serials) == 1
        assert len(serials.pop()) == len("02:00:00:00:00:00")


@pytest.mark.parametrize("pad", PADS)
def test_buttons_sticks_and_the_cross_arrive_and_end_with_their_driver(guest: Guest, folder: Path, pad: str) -> None:
    reader = Reader(guest, folder, called(pad, "pad"))
    buttons = sorted(profiles.load(PADS[pad]).capabilities.of(Ev.EV_KEY))
    with driver(guest, pad) as sender:
        for code in buttons:
            sender.send(frame((Ev.EV_KEY, code, 1)))
            reader.wait_for(["EV_KEY", code_name(Ev.EV_KEY, code), 1])
        for code, value in (
            (Abs.ABS_X, 0),
            (Abs.ABS_RY, 255),
            (Abs.ABS_Z, 77),
            (Abs.ABS_HAT0X, -1),
            (Abs.ABS_HAT0Y, 1),
        ):
            sender.send(frame((Ev.EV_ABS, code, value)))
            reader.wait_for(["EV_ABS", code.name, value])
        assert len(described(guest)[called(pad, "pad")]["pressed"]) == len(buttons)
    reader.wait_for(*(["EV_KEY", code_name(Ev.EV_KEY, buttons[0]), value] for value in (1, 0)))
    reader.wait_for(["EV_ABS", "ABS_RY", 255], ["EV_ABS", "ABS_RY", 128])
    reader.wait_for(["EV_ABS", "ABS_HAT0X", -1], ["EV_ABS", "ABS_HAT0X", 0])
    eventually(lambda: described(guest)[called(pad, "pad")]["pressed"] == [])


@pytest.mark.parametrize("pad", PADS)
def test_measurements_arrive_and_end_with_their_driver(guest: Guest, folder: Path, pad: str) -> None:
    reader = Reader(guest, folder, called(pad, "motion"))
    with driver(guest, f"{pad}-motion") as sensors:
        turn = (Ev.EV_ABS, Abs.ABS_RY, 1_000_000)
        sensors.send(frame((Ev.EV_ABS, Abs.ABS_Y, -20000), turn, (Ev.EV_MSC, 5, 123456789)))
        reader.wait_for(["EV_ABS", "ABS_RY", 1_000_000], ["EV_ABS", "ABS_Y", -20000])
        sensors.send(frame((Ev.EV_ABS, Abs.ABS_RX, -64), (Ev.EV_MSC, 5, 123460789)))
        reader.wait_for(["EV_ABS", "ABS_Y", -20000], ["EV_ABS", "ABS_RX", -64])
        eventually(lambda: reader.events()[-1][1] == "MSC_TIMESTAMP")
        first, second = [value for _, name, value in reader.events() if name == "MSC_TIMESTAMP"][-2:]
        assert abs(second - first - 4000) <= 6, "microseconds; a DualShock 4 counts sixteen thirds of one"
    reader.wait_for(["EV_ABS", "ABS_RY", 1_000_000], ["EV_ABS", "ABS_RY", 0])
    reader.wait_for(["EV_ABS", "ABS_Y", -20000], ["EV_ABS", "ABS_Y", 8192])


@pytest.mark.parametrize("pad", PADS)
def test_fingers_and_the_button_arrive_and_end_with_their_driver(guest: Guest, folder: Path, pad: str) -> None:
    reader = Reader(guest, folder, called(pad, "touchpad"))
    with driver(guest, f"{pad}-touchpad") as touchpad:
        touchpad.send(frame(*finger(0, 100, 200)))
        reader.wait_for(["EV_ABS", "ABS_MT_POSITION_X", 100], ["EV_ABS", "ABS_MT_POSITION_Y", 200])
        touchpad.send(frame(*finger(1, 1919, 941)))
        reader.wait_for(["EV_ABS", "ABS_MT_SLOT", 1], ["EV_ABS", "ABS_MT_POSITION_X", 1919])
        reader.wait_for(["EV_KEY", "BTN_TOUCH", 1], ["EV_KEY", "BTN_TOOL_DOUBLETAP", 1])
        touchpad.send(frame((Ev.EV_KEY, Key.BTN_LEFT, 1)))
        reader.wait_for(["EV_KEY", "BTN_LEFT", 1])
    reader.wait_for(["EV_KEY", "BTN_LEFT", 1], ["EV_KEY", "BTN_LEFT", 0])
    reader.wait_for(*[["EV_ABS", "ABS_MT_TRACKING_ID", -1]] * 2)
    assert described(guest)[called(pad, "touchpad")]["pressed"] == []


@pytest.mark.parametrize("pad", PADS)
def test_rumble_arrives_with_its_magnitudes(guest: Guest, folder: Path, pad: str) -> None:
    go = folder / "go"
    steps = [{"upload": RUMBLE}, {"play": {"id": 0, "times": 1}}, {"wait": str(go)}, {"stop": 0}]
    with Listener(guest, pad) as listener:
        game = guest.begin(guest.inside_command("game.py", called(pad, "pad"), json.dumps(steps)), timeout=150)
        heard = listener.hears(lambda heard: {"ff": {"play": {"id": 0, "times": 1}}} in heard)
        assert {"ff": {"upload": FELT}} in heard
        go.touch()
        assert {"ff": {"stop": 0}} in listener.hears(lambda heard: {"ff": {"stop": 0}} in heard)
        assert guest.finish(game).status == 0


def test_the_driver_is_unbound_while_an_effect_plays_and_bound_again(guest: Guest, folder: Path) -> None:
    """It does not stop the motors itself, and knows nothing of the pad when it comes again."""
    ready, over = folder / "ready", folder / "over"
    steps = [{"upload": RUMBLE}, {"play": {"id": 0, "times": 1}}, {"file": str(ready)}, {"wait": str(over)}]
    command = guest.inside_command("game.py", called("gamepad2", "pad"), json.dumps(steps))
    guest.check("sh", "-c", '"$@" >/dev/null 2>&1 </dev/null &', "sh", *command)
    eventually(ready.exists, timeout=60)
    (device,) = guest.check("sh", "-c", "grep -l 'HID_PHYS=subos/.*2' /sys/bus/hid/devices/*/uevent").split()
    device = device.split("/")[-2]
    drivers = "/sys/bus/hid/drivers/playstation"
    with Listener(guest, "gamepad2") as listener:
        listener.hears(lambda heard: {"ff": {"play": {"id": 0, "times": 1}}} in heard)
        listener.send((Ev.EV_PWR, 0, 40), (Ev.EV_PWR, 1, 1), (Ev.EV_KEY, Key.BTN_SOUTH, 1))
        guest.check("sh", "-c", f"echo {device} >{drivers}/unbind")
        listener.hears(lambda heard: {"ff": {"stop": 0}} in heard)
        over.touch()
        guest.check("sh", "-c", f"echo {device} >{drivers}/bind")
        eventually(lambda: called("gamepad2", "pad") in described(guest), timeout=60)
        eventually(lambda: described(guest)[called("gamepad2", "pad")]["pressed"] == ["BTN_SOUTH"], timeout=60)
        battery = f"/sys/bus/hid/devices/{device}/power_supply/*"
        eventually(lambda: read(guest, f"{battery}/capacity", f"{battery}/status") == ["45", "Charging"], timeout=60)
    eventually(lambda: described(guest)[called("gamepad2", "pad")]["pressed"] == [], timeout=60)


@pytest.mark.parametrize("pad", PADS)
def test_a_rumble_with_a_length_stops_by_itself(guest: Guest, pad: str) -> None:
    steps = [{"upload": {**RUMBLE, "length": 300}}, {"play": {"id": 0, "times": 1}}]
    wait = [{"state": True}] * 1
    with Listener(guest, pad) as listener:
        playing = guest.inside_command("game.py", called(pad, "pad"), json.dumps([*steps, *wait]))
        game = guest.begin(["sh", "-c", '"$@" && sleep 1', "sh", *playing], timeout=150)
        listener.hears(lambda heard: {"ff": {"stop": 0}} in heard)
        assert guest.finish(game).status == 0


def test_the_colour_of_a_dualsense_and_its_lights_for_players_arrive(guest: Guest) -> None:
    with Listener(guest, "gamepad1") as listener:
        lit = [led((0, 0, 128), players) for players in (0b00100, 0b01010)]  # the first player's, or the second's
        heard = listener.hears(lambda heard: any(each in lit for each in heard))
        players = next(each for each in heard if each in lit)["led"]["players"]
        at = "/sys/class/leds/*:rgb:indicator"
        guest.check("sh", "-c", f"echo 10 20 30 >$(echo {at}/multi_intensity); echo 255 >$(echo {at}/brightness)")
        listener.hears(lambda heard: led((10, 20, 30), players) in heard)
        guest.check("sh", "-c", "echo 1 >$(echo /sys/class/leds/*:white:player-1/brightness)")
        listener.hears(lambda heard: led((10, 20, 30), players | 1) in heard)
        shown = guest.vm.supervisor.devices["gamepad1"].describe()["gamepad"]["led"]
        assert shown == {"rgb": [10, 20, 30], "players": players | 1}


def test_the_colour_of_a_dualshock_4_arrives(guest: Guest) -> None:
    with Listener(guest, "gamepad2") as listener:
        write = "for c in red:11 green:22 blue:33; do echo ${c#*:} >$(echo /sys/class/leds/*:${c%:*}/brightness); done"
        guest.check("sh", "-c", write)
        listener.hears(lambda heard: led((11, 22, 33), 0) in heard)


@pytest.mark.parametrize("pad", PADS)
def test_the_battery_is_what_its_driver_says(guest: Guest, pad: str) -> None:
    (serial,) = {described(guest)[called(pad, "pad")]["serial"]}
    battery = f"/sys/class/power_supply/ps-controller-battery-{serial}"

    def state() -> list[str]:
        return read(guest, f"{battery}/capacity", f"{battery}/status")

    eventually(lambda: state() == ["100", "Full"])
    with Listener(guest, pad) as listener:
        listener.send((Ev.EV_PWR, 0, 40), (Ev.EV_PWR, 1, 1))
        eventually(lambda: state() == ["45", "Charging"], timeout=60)
        listener.send((Ev.EV_PWR, 0, 9), (Ev.EV_PWR, 1, 0))
        eventually(lambda: state() == ["5", "Discharging"], timeout=60)
    eventually(lambda: state() == ["100", "Full"], timeout=60)
    subos("input", f"{guest.vm.plan.name}/{pad}", "battery 70%, wait 0.1", check=0)


def newest_sdl() -> str:
    """The one from PyPI: the system's may be too old for sensors."""
    found = importlib.util.find_spec("sdl2dll")
    assert found is not None, "pysdl2-dll is one of the packages for tests"
    assert found.origin is not None
    return str(Path(found.origin).with_name("dll") / "libSDL2-2.0.so")


def test_sdl_feels_the_sensors(guest: Guest, folder: Path) -> None:
    """It pairs the event devices by their serial."""
    seen, go = folder / "seen", folder / "go"
    names = json.dumps(["PS5 Controller", "DualSense Wireless Controller"])
    command = guest.inside_command("sdl.py", "feel", names, str(seen), str(go))
    game = guest.begin(["env", f"SDL_LIBRARY={newest_sdl()}", "SDL_JOYSTICK_HIDAPI=0", *command], timeout=200)
    try:
        eventually(lambda: game.done() or lines(seen), timeout=60)
        assert lines(seen)[:1] == ["open accel gyro"]
        with driver(guest, "gamepad1-motion") as sensors:
            turn, gravity = (
                (Ev.EV_ABS, Abs.ABS_RY, 90 * 1024),
                ((Ev.EV_ABS, Abs.ABS_X, 8192), (Ev.EV_ABS, Abs.ABS_Y, -8192)),
            )
            sensors.send(frame(turn, *gravity, (Ev.EV_MSC, 5, 1000)))
            eventually(lambda: game.done() or feels(seen, "gyro", (0, math.radians(90), 0)), timeout=60)
            eventually(lambda: game.done() or feels(seen, "accel", (9.80665, -9.80665, 0)), timeout=60)
            assert not game.done()
    finally:
        go.touch()
        done = guest.finish(game)
    assert done.status == 0, done.stderr.decode()


MEASURE = """
for p in /proc/[0-9]*; do case $(tr '\\0' ' ' <$p/cmdline) in *' serve --allow-exec ') agent=$p; esac; done 2>/dev/null
used() { set -- $(sed 's/.*) //' $agent/stat); echo $((${12} + ${13})); }
sleep 3; before=$(used); sleep 10; echo $(($(used) - before))
for n in /sys/bus/hid/devices/*/hidraw/*; do exec 3</dev/${n##*/}; break; done
sleep 1; before=$(used); sleep 10; echo $(($(used) - before))
"""
"""Hundredths of a second that the agent uses in ten, while nobody has hidraw open and while somebody has."""


def test_a_pad_that_rests_wakes_nobody(guest: Guest) -> None:
    idle, busy = map(int, guest.check("sh", "-c", MEASURE, timeout=90).split())
    step(f"of 10 s the agent used {idle * 10} ms at rest, {busy * 10} ms while somebody read hidraw")
    assert idle <= 10 < busy


def feels(seen: Path, sensor: str, wanted: tuple[float, float, float]) -> bool:
    said = [line.split()[1:] for line in lines(seen) if line.startswith(f"{sensor} ")]
    return any(
        all(abs(float(value) - part) < 0.02 for value, part in zip(values, wanted, strict=True)) for values in said
    )


def test_a_pad_that_comes_and_goes_is_a_hid_device_while_something_drives_it(guest: Guest) -> None:
    name = called("gamepad1", "pad")
    devices = guest.vm.supervisor.devices
    parts = [devices[name_of("gamepad3", part)] for part in ("pad", *profiles.PARTS)]

    def names() -> list[str]:
        """Of those that are not just going."""
        listed = guest.check("sh", "-c", "cat /sys/class/input/event*/device/name 2>/dev/null; true").splitlines()
        return [each for each in listed if each.startswith(name)]

    for _ in range(2):
        with driver(guest, "gamepad3"):
            eventually(lambda: all(part.describe()["gamepad"]["agent"] for part in parts), timeout=60)
            assert len(names()) == 6, "as many as the first pad has, and no twin"
        step("it goes")
        eventually(lambda: len(names()) == 3, timeout=60)
        eventually(lambda: not any(part.describe()["gamepad"]["agent"] for part in parts), timeout=60)


def test_the_worker_is_killed_while_a_button_is_down(guest: Guest, folder: Path) -> None:
    """The guest's device stays, and nothing of it is pressed."""
    reader = Reader(guest, folder, called("gamepad1", "pad"))
    node = described(guest)[called("gamepad1", "pad")]["path"]
    with driver(guest, "gamepad1") as sender:
        sender.send(frame((Ev.EV_KEY, Key.BTN_SOUTH, 1)))
        reader.wait_for(["EV_KEY", "BTN_SOUTH", 1])
        guest.kill_worker("gamepad1")
        reader.wait_for(["EV_KEY", "BTN_SOUTH", 1], ["EV_KEY", "BTN_SOUTH", 0])
    eventually(lambda: agent_has_it(guest), timeout=60)
    assert described(guest)[called("gamepad1", "pad")]["path"] == node
    with driver(guest, "gamepad1") as sender:
        sender.send(frame((Ev.EV_KEY, Key.BTN_EAST, 1)))
        reader.wait_for(["EV_KEY", "BTN_EAST", 1])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_agent_ends_while_an_effect_plays(guest: Guest, folder: Path, number: signal.Signals) -> None:
    """The effect stops here, and the next agent makes the pad again."""
    ready, over = folder / "ready", folder / "over"
    steps = [{"upload": RUMBLE}, {"play": {"id": 0, "times": 1}}, {"file": str(ready)}, {"wait": str(over)}]
    command = guest.inside_command("game.py", called("gamepad1", "pad"), json.dumps(steps))
    guest.check("sh", "-c", '"$@" >/dev/null 2>&1 </dev/null &', "sh", *command)
    eventually(ready.exists, timeout=60)
    with Listener(guest, "gamepad1") as listener:
        listener.hears(lambda heard: {"ff": {"play": {"id": 0, "times": 1}}} in heard)
        kill_agent(guest, number)
        heard = listener.hears(lambda heard: {"ff": {"erase": 0}} in heard)
        assert {"ff": {"stop": 0}} in heard
        eventually(lambda: agent_has_it(guest), timeout=120)
        step("the next agent has it")
        over.touch()
        names = guest.check("sh", "-c", "cat /sys/class/input/event*/device/name").splitlines()
        assert sum(name.startswith(called("gamepad1", "pad")) for name in names) == 3
        if not is_lit(heard):
            listener.hears(is_lit)


def is_lit(heard: list[dict[str, Any]]) -> bool:
    return any(any(said["led"]["rgb"]) for said in heard if "led" in said)
