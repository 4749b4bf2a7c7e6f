"""Tests of the evdev driver, run in a guest by test_evdev_driver.py: uinput's devices are the host's real ones here."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import evdev
import pytest
from evdev import AbsInfo, UInput
from evdev import ecodes as codes
from uinput_pad import PAD, STEPS, Host

from subos_agent.gamepad.uinput import UinputPad
from subos_devices.input.drivers.driver import EvdevDriver
from subos_devices.input.drivers.forwarding import Target
from subos_devices.input.drivers.rules import Rule
from subos_devices.input.gamepad import profiles
from subos_devices.runtime import listen
from subos_devices.testing import FrontEnd, Served, serve
from subos_protocol.virtio_input import VIRTIO_INPUT_EVENT, virtio_input_event
from support.input_guest import Guest
from support.waiting import eventually

PATIENCE = 60.0  # seconds; programs start slowly under emulation
KEYBOARD = "Test Keyboard"
TABLET = "Test Tablet"
PLUG = "py-evdev-uinput"  # where python-evdev says that its devices are; the agent has pads of the same names


class Driver:
    """A running `subos-devices input … attach`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str, times: int = 1) -> None:
        eventually(lambda: self.said.count(text) >= times or self.process.poll() is not None, PATIENCE)
        assert self.said.count(text) >= times, self.said


class Bench:
    """A device of a guest, served here; the guest is played."""

    def __init__(
        self, served: Served, path: Path, kind: str, profile: str, folder: Path, stack: contextlib.ExitStack
    ) -> None:
        self.served = served
        self.path = path
        self._kind = kind
        self._profile = profile
        self._folder = folder
        self._stack = stack
        self._vm = stack.enter_context(FrontEnd.connect(served.path, timeout=PATIENCE))
        self.guest = Guest(self._vm.queue(0, size=4, indirect=False))
        self.status = self._vm.queue(1, size=4)

    def attach(self, *words: str) -> Driver:
        return start_driver(self._stack, self._folder, self.path, self._profile, *words, "--to", self._kind)

    def hears(self, type_: int, code: int, value: int) -> None:
        """Waits until the guest has last heard this of it."""
        self.guest.listen(lambda: self.guest.last(type_, code) == value)


def start_driver(stack: contextlib.ExitStack, folder: Path, path: Path, profile: str, *words: str) -> Driver:
    """`input --socket … attach`, until `stack` is left."""
    log = folder / "driver.log"
    command = [sys.executable, "-m", "subos_devices.cli", "input", "--socket", str(path), "--profile", profile]
    with log.open("wb") as stderr:
        process = subprocess.Popen([*command, "attach", *words], stderr=stderr)
    stack.callback(_end, process)
    return Driver(process, log)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    assert process.wait(PATIENCE) == 0


@contextlib.contextmanager
def bench(kind: str, folder: Path, profile: str = "") -> Iterator[Bench]:
    path = folder / "a device.driver.sock"
    with contextlib.ExitStack() as stack:
        options = ["--option", f"profile={profile}"] if profile else []
        served = stack.enter_context(serve(kind, "--driver-socket", str(path), *options))
        yield Bench(served, path, kind, profile or "generic", folder, stack)


@pytest.fixture
def keyboard(tmp_path: Path) -> Iterator[Bench]:
    with bench("keyboard", tmp_path) as made:
        yield made


def plug_keyboard() -> UInput:
    return UInput({codes.EV_KEY: range(1, 128), codes.EV_LED: [codes.LED_NUML, codes.LED_CAPSL]}, KEYBOARD)


def plug_tablet(maximum: int = 1000) -> UInput:
    axis = AbsInfo(0, 0, maximum, 0, 0, 0)
    keys = [codes.BTN_LEFT, codes.BTN_RIGHT]
    return UInput({codes.EV_KEY: keys, codes.EV_ABS: [(codes.ABS_X, axis), (codes.ABS_Y, axis)]}, TABLET)


def plug_pad(profile: str) -> UInput:
    """As the kernel's driver for the real one registers it."""
    pad = profiles.load(profile)
    axes = [
        (code, AbsInfo(pad.rest[code], axis.min, axis.max, axis.fuzz, axis.flat, axis.res))
        for code, axis in pad.capabilities.axes.items()
    ]
    ids = pad.capabilities.ids
    return UInput(
        {codes.EV_KEY: sorted(pad.capabilities.of(codes.EV_KEY)), codes.EV_ABS: axes},
        pad.capabilities.name,
        vendor=ids.vendor,
        product=ids.product,
        version=ids.version,
        bustype=ids.bustype,
    )


def plug_part(profile: str, name: str) -> UInput:
    """Sensors, or a touch pad, of the same pad: all have PLUG."""
    pad = profiles.load(profile)
    can, ids = pad.part(name).capabilities, pad.capabilities.ids
    axes = [
        (code, AbsInfo(pad.part(name).rest[code], axis.min, axis.max, axis.fuzz, axis.flat, axis.res))
        for code, axis in can.axes.items()
    ]
    listed = {code: sorted(can.of(code)) for code in (codes.EV_KEY, codes.EV_MSC) if can.of(code)}
    return UInput(
        {**listed, codes.EV_ABS: axes},
        can.name,
        vendor=ids.vendor,
        product=ids.product,
        version=ids.version,
        bustype=ids.bustype,
        input_props=sorted(can.props),
    )


@contextlib.contextmanager
def driving(rule: Rule, targets: Sequence[Target]) -> Iterator[list[str]]:
    """The driver in this process, for several of the guest's devices; what it says."""
    said: list[str] = []
    began: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = concurrent.futures.Future()

    async def run() -> None:
        driver = EvdevDriver([rule], lambda: targets, said.append, said.append)
        task = asyncio.ensure_future(driver.run())
        began.set_result((asyncio.get_running_loop(), task))
        with contextlib.suppress(asyncio.CancelledError):
            await task

    thread = threading.Thread(target=asyncio.run, args=[run()])
    thread.start()
    loop, task = began.result(PATIENCE)
    try:
        yield said
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(PATIENCE)


def move(device: UInput, axis: int, value: int) -> None:
    device.write(codes.EV_ABS, axis, value)
    device.syn()


def press(device: UInput, *keys: int) -> None:
    for key in keys:
        device.write(codes.EV_KEY, key, 1)
        device.syn()


def release(device: UInput, *keys: int) -> None:
    for key in keys:
        device.write(codes.EV_KEY, key, 0)
        device.syn()


def seen_by(path: str) -> evdev.InputDevice[str]:
    """Another program of the host that reads the device."""
    return evdev.InputDevice(path)


def keys_of(reader: evdev.InputDevice[str]) -> list[tuple[int, int]]:
    with contextlib.suppress(BlockingIOError):
        return [(event.code, event.value) for event in reader.read() if event.type == codes.EV_KEY]
    return []


def test_a_keyboard_is_forwarded_and_shared(keyboard: Bench) -> None:
    with plug_keyboard() as real, contextlib.closing(seen_by(real.device.path)) as host:
        keyboard.attach(KEYBOARD).wait_for("drives keyboard")
        press(real, codes.KEY_A)
        keyboard.hears(codes.EV_KEY, codes.KEY_A, 1)
        real.write(codes.EV_KEY, codes.KEY_A, 2)  # a repeat is the guest's own business
        release(real, codes.KEY_A)
        keyboard.hears(codes.EV_KEY, codes.KEY_A, 0)
        assert [event.value for event in keyboard.guest.events if event.code == codes.KEY_A] == [1, 0]
        assert keys_of(host) == [(codes.KEY_A, value) for value in (1, 2, 0)]


def test_a_grabbed_keyboard_is_given_back_by_the_chord_and_taken_again(keyboard: Bench) -> None:
    chord = (codes.KEY_LEFTCTRL, codes.KEY_RIGHTCTRL)
    with plug_keyboard() as real, contextlib.closing(seen_by(real.device.path)) as host:
        press(real, codes.KEY_ENTER)  # with which the command was entered
        driver = keyboard.attach(KEYBOARD, "--grab")
        driver.wait_for("drives keyboard")
        release(real, codes.KEY_ENTER)
        eventually(lambda: (codes.KEY_ENTER, 0) in keys_of(host))
        eventually(lambda: _is_grabbed(real.device.path), PATIENCE)
        press(real, codes.KEY_A)
        keyboard.hears(codes.EV_KEY, codes.KEY_A, 1)
        assert keys_of(host) == []
        press(real, *chord)
        driver.wait_for("the host has the devices")
        keyboard.hears(codes.EV_KEY, codes.KEY_A, 0)  # although it is held still
        release(real, codes.KEY_A, *chord)
        press(real, codes.KEY_B)
        eventually(lambda: (codes.KEY_B, 1) in keys_of(host))
        release(real, codes.KEY_B)
        press(real, *chord)
        driver.wait_for("the guest has the devices")
        release(real, *chord)
        eventually(lambda: _is_grabbed(real.device.path), PATIENCE)
        press(real, codes.KEY_C)
        keyboard.hears(codes.EV_KEY, codes.KEY_C, 1)
        heard = {event.code for event in keyboard.guest.events if event.type == codes.EV_KEY}
        assert codes.KEY_B not in heard
        assert codes.KEY_ENTER not in heard


def _is_grabbed(path: str) -> bool:
    with contextlib.closing(evdev.InputDevice(path)) as device:
        try:
            device.grab()
        except OSError:
            return True
        device.ungrab()
    return False


def test_a_device_that_is_unplugged_in_mid_press_comes_back(keyboard: Bench) -> None:
    real = plug_keyboard()
    driver = keyboard.attach(f"name:{KEYBOARD.upper()}")
    driver.wait_for("drives keyboard")
    press(real, codes.KEY_A, codes.KEY_LEFTSHIFT)
    keyboard.hears(codes.EV_KEY, codes.KEY_LEFTSHIFT, 1)
    real.close()
    keyboard.hears(codes.EV_KEY, codes.KEY_A, 0)
    keyboard.hears(codes.EV_KEY, codes.KEY_LEFTSHIFT, 0)
    with plug_keyboard() as again:
        driver.wait_for("drives keyboard", times=2)
        press(again, codes.KEY_B)
        keyboard.hears(codes.EV_KEY, codes.KEY_B, 1)


def test_a_key_that_is_held_while_the_worker_dies_is_down_again_and_released(keyboard: Bench) -> None:
    with plug_keyboard() as real:
        keyboard.attach(KEYBOARD).wait_for("drives keyboard")
        press(real, codes.KEY_A)
        keyboard.hears(codes.EV_KEY, codes.KEY_A, 1)
        keyboard.guest.events.clear()
        os.kill(keyboard.served.worker(), signal.SIGKILL)
        keyboard.hears(codes.EV_KEY, codes.KEY_A, 1)
        release(real, codes.KEY_A)
        keyboard.hears(codes.EV_KEY, codes.KEY_A, 0)


def test_what_the_kernel_has_dropped_is_made_up_for(keyboard: Bench) -> None:
    with plug_keyboard() as real:
        driver = keyboard.attach(KEYBOARD)
        driver.wait_for("drives keyboard")
        press(real, codes.KEY_A)
        keyboard.hears(codes.EV_KEY, codes.KEY_A, 1)
        os.kill(driver.process.pid, signal.SIGSTOP)
        try:
            release(real, codes.KEY_A)
            press(real, codes.KEY_B)
            for _ in range(2000):  # more than its buffer in the kernel holds
                press(real, codes.KEY_C)
                release(real, codes.KEY_C)
        finally:
            os.kill(driver.process.pid, signal.SIGCONT)
        keyboard.hears(codes.EV_KEY, codes.KEY_B, 1)
        keyboard.hears(codes.EV_KEY, codes.KEY_A, 0)
        release(real, codes.KEY_B)
        keyboard.hears(codes.EV_KEY, codes.KEY_B, 0)
        assert keyboard.guest.last(codes.EV_KEY, codes.KEY_C) in (None, 0)


def test_axes_are_scaled(tmp_path: Path) -> None:
    with bench("mouse", tmp_path) as mouse, plug_tablet() as real:
        move(real, codes.ABS_X, 250)
        mouse.attach(TABLET).wait_for("drives mouse")
        mouse.hears(codes.EV_ABS, codes.ABS_X, 8192)  # where it was before
        real.write(codes.EV_ABS, codes.ABS_X, 1000)
        real.write(codes.EV_ABS, codes.ABS_Y, 500)
        real.syn()
        mouse.hears(codes.EV_ABS, codes.ABS_X, 32767)
        mouse.hears(codes.EV_ABS, codes.ABS_Y, 16384)


def test_a_relative_mouse_drives_an_absolute_one(tmp_path: Path) -> None:
    events = {codes.EV_KEY: [codes.BTN_LEFT], codes.EV_REL: [codes.REL_X, codes.REL_Y, codes.REL_WHEEL]}
    with bench("mouse", tmp_path) as mouse, UInput(events, "Test Mouse", vendor=0x46D, product=0xC52B) as real:
        mouse.attach("id:46d:c52b").wait_for("drives mouse")
        real.write(codes.EV_REL, codes.REL_X, 100)
        real.write(codes.EV_REL, codes.REL_WHEEL, -1)
        real.syn()
        mouse.hears(codes.EV_ABS, codes.ABS_X, 16384 + 2000)
        mouse.hears(codes.EV_REL, codes.REL_WHEEL_HI_RES, -120)  # which this one does not report itself


def light(keyboard: Bench, code: int, value: int) -> None:
    """The guest turns a light on or off."""
    keyboard.status.request([VIRTIO_INPUT_EVENT.pack(virtio_input_event(codes.EV_LED, code, value))])


def test_lights_are_the_guest_s_while_it_has_the_keyboard(keyboard: Bench) -> None:
    with plug_keyboard() as real:
        driver = keyboard.attach(KEYBOARD, "--grab")
        driver.wait_for("drives keyboard")
        eventually(lambda: _is_grabbed(real.device.path), PATIENCE)
        before = real.device.leds()  # the kernel's console has its say, too, until it is grabbed
        light(keyboard, codes.LED_CAPSL, 1)
        eventually(lambda: codes.LED_CAPSL in real.device.leds())
        light(keyboard, codes.LED_NUML, 1)
        eventually(lambda: codes.LED_NUML in real.device.leds())
        press(real, codes.KEY_LEFTCTRL, codes.KEY_RIGHTCTRL)
        driver.wait_for("the host has the devices")
        eventually(lambda: real.device.leds() == before)


def test_a_pad_that_is_pressed_drives_one_of_another_make_and_comes_back(tmp_path: Path) -> None:
    with bench("gamepad", tmp_path, "xbox360") as pad:
        real = plug_pad("dualshock4")
        driver = pad.attach("next-pad")
        driver.wait_for("press a button")
        move(real, codes.ABS_X, 0)  # is no button
        press(real, codes.BTN_SOUTH)
        driver.wait_for("drives gamepad")
        release(real, codes.BTN_SOUTH)
        pad.hears(codes.EV_ABS, codes.ABS_X, -32768)
        press(real, codes.BTN_EAST)
        pad.hears(codes.EV_KEY, codes.BTN_EAST, 1)
        move(real, codes.ABS_RZ, 255)
        pad.hears(codes.EV_ABS, codes.ABS_RZ, 255)
        real.close()
        for axis in (codes.ABS_X, codes.ABS_RZ):
            pad.hears(codes.EV_ABS, axis, 0)
        pad.hears(codes.EV_KEY, codes.BTN_EAST, 0)
        with plug_pad("dualshock4") as again:
            driver.wait_for("drives gamepad", times=2)  # it is known: nobody has to press
            move(again, codes.ABS_Y, 255)
            pad.hears(codes.EV_ABS, codes.ABS_Y, 32767)


def test_sensors_and_the_touch_pad_go_with_their_pad(tmp_path: Path) -> None:
    """Those of a DualShock 4 drive a DualSense's, whose touch pad is higher."""
    kinds = ("gamepad", *profiles.PARTS)
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            (tmp_path / kind).mkdir()
        guests = {kind: stack.enter_context(bench(kind, tmp_path / kind, "dualsense")) for kind in kinds}
        dualsense = profiles.load("dualsense")
        abilities = [dualsense.capabilities, *(dualsense.part(kind).capabilities for kind in profiles.PARTS)]
        names = ("gamepad1", "gamepad1-motion", "gamepad1-touchpad")
        targets = [Target(*each) for each in zip(names, kinds, (guests[k].path for k in kinds), abilities, strict=True)]
        sensors, touchpad = (stack.enter_context(plug_part("dualshock4", part)) for part in profiles.PARTS)
        pad = plug_pad("dualshock4")
        said = stack.enter_context(driving(Rule("phys", PLUG), targets))
        eventually(lambda: sum(" drives " in line for line in said) == 3, PATIENCE)
        for axis, value in ((codes.ABS_Y, -20000), (codes.ABS_RZ, 1_000_000)):
            sensors.write(codes.EV_ABS, axis, value)
        sensors.write(codes.EV_MSC, codes.MSC_TIMESTAMP, 123456789)
        sensors.syn()
        guests["motion"].hears(codes.EV_MSC, codes.MSC_TIMESTAMP, 123456789)
        heard = guests["motion"].guest
        assert (heard.last(codes.EV_ABS, codes.ABS_Y), heard.last(codes.EV_ABS, codes.ABS_RZ)) == (-20000, 1_000_000)
        for axis, value in ((codes.ABS_MT_SLOT, 1), (codes.ABS_MT_TRACKING_ID, 5), (codes.ABS_MT_POSITION_Y, 941)):
            touchpad.write(codes.EV_ABS, axis, value)
        touchpad.write(codes.EV_KEY, codes.BTN_LEFT, 1)
        touchpad.syn()
        guests["touchpad"].hears(codes.EV_KEY, codes.BTN_LEFT, 1)
        guests["touchpad"].hears(codes.EV_ABS, codes.ABS_MT_POSITION_Y, 1079)
        press(pad, codes.BTN_SOUTH)
        guests["gamepad"].hears(codes.EV_KEY, codes.BTN_SOUTH, 1)
        pad.close()
        guests["gamepad"].hears(codes.EV_KEY, codes.BTN_SOUTH, 0)
        touchpad.close()
        guests["touchpad"].hears(codes.EV_KEY, codes.BTN_LEFT, 0)
        guests["touchpad"].hears(codes.EV_ABS, codes.ABS_MT_TRACKING_ID, -1)


def test_rules_of_a_file_make_a_pad_of_a_keyboard(tmp_path: Path) -> None:
    rules = tmp_path / "vm.toml"
    rules.write_text(
        """
        [[input]]
        device = "Test Key*"
        map = { KEY_W = "ABS_Y-", KEY_S = "ABS_Y+", KEY_SPACE = "BTN_SOUTH" }
        turbo = { KEY_SPACE = 50 }
        """
    )
    with bench("gamepad", tmp_path, "generic") as pad, plug_keyboard() as real:
        profile = profiles.load("generic")
        up, middle = profile.capabilities.axes[codes.ABS_Y].min, profile.rest[codes.ABS_Y]
        pad.attach("--config", str(rules)).wait_for("drives gamepad")
        press(real, codes.KEY_W)
        pad.hears(codes.EV_ABS, codes.ABS_Y, up)
        release(real, codes.KEY_W)
        pad.hears(codes.EV_ABS, codes.ABS_Y, middle)
        press(real, codes.KEY_SPACE)
        pad.guest.listen(lambda: _presses(pad) >= 3)
        release(real, codes.KEY_SPACE)
        pad.hears(codes.EV_KEY, codes.BTN_SOUTH, 0)


def _presses(pad: Bench) -> int:
    return sum(event == (codes.EV_KEY, codes.BTN_SOUTH, 1) for event in pad.guest.events)


def plug_touchscreen() -> UInput:
    size = AbsInfo(0, 0, 1000, 0, 0, 0)
    axes = [
        (codes.ABS_MT_SLOT, AbsInfo(0, 0, 4, 0, 0, 0)),
        (codes.ABS_MT_TRACKING_ID, AbsInfo(0, 0, 65535, 0, 0, 0)),
        *((code, size) for code in (codes.ABS_X, codes.ABS_Y, codes.ABS_MT_POSITION_X, codes.ABS_MT_POSITION_Y)),
    ]
    events = {codes.EV_KEY: [codes.BTN_TOUCH], codes.EV_ABS: axes}
    return UInput(events, "Test Touchscreen", input_props=[codes.INPUT_PROP_DIRECT])


def test_fingers_whose_events_the_kernel_has_dropped(tmp_path: Path) -> None:
    def touch(slot: int, finger: int, x: int = 0) -> None:
        real.write(codes.EV_ABS, codes.ABS_MT_SLOT, slot)
        real.write(codes.EV_ABS, codes.ABS_MT_TRACKING_ID, finger)
        if finger >= 0:
            real.write(codes.EV_ABS, codes.ABS_MT_POSITION_X, x)
        real.syn()

    with bench("touch", tmp_path) as screen, plug_touchscreen() as real:
        driver = screen.attach("test touch*")
        driver.wait_for("drives touch")
        touch(0, 5, 1000)
        screen.hears(codes.EV_ABS, codes.ABS_MT_POSITION_X, 32767)
        os.kill(driver.process.pid, signal.SIGSTOP)
        try:
            touch(0, -1)
            touch(2, 6, 500)
            for x in range(4000):
                touch(3, 7, x % 1000)
            touch(3, -1)
        finally:
            os.kill(driver.process.pid, signal.SIGCONT)
        # The first finger's end, and the one that stays.
        screen.hears(codes.EV_ABS, codes.ABS_MT_POSITION_X, 16384)
        touch(2, -1)
        screen.hears(codes.EV_KEY, codes.BTN_TOUCH, 0)


def test_a_finger_where_the_last_one_was_before_the_driver_came(tmp_path: Path) -> None:
    """The kernel does not tell again where that is."""

    def tap() -> None:
        for finger in (next(fingers), -1):
            real.write(codes.EV_ABS, codes.ABS_MT_TRACKING_ID, finger)
            real.write(codes.EV_ABS, codes.ABS_MT_POSITION_X, 500)
            real.syn()

    fingers = itertools.count()
    with bench("touch", tmp_path) as screen, plug_touchscreen() as real:
        tap()
        screen.attach("test touch*").wait_for("drives touch")
        tap()
        screen.hears(codes.EV_ABS, codes.ABS_MT_POSITION_X, 16384)


def test_what_was_recorded_is_played(tmp_path: Path) -> None:
    recording = tmp_path / "what was recorded.evemu"
    log = tmp_path / "recorder.log"
    command = [sys.executable, "-m", "subos_devices.cli", "input"]
    with bench("mouse", tmp_path) as mouse, plug_tablet() as real:
        with log.open("wb") as stderr:
            recorder = subprocess.Popen([*command, "record", str(recording), "--device", TABLET], stderr=stderr)
        try:
            eventually(lambda: "recording" in log.read_text() or recorder.poll() is not None, PATIENCE)
            move(real, codes.ABS_X, 250)
            press(real, codes.BTN_LEFT)
            move(real, codes.ABS_X, 1000)
            release(real, codes.BTN_LEFT)
            eventually(lambda: recording.read_text().count("BTN_LEFT") == 2, PATIENCE)
        finally:
            _end(recorder)
        assert "5 frames recorded" in log.read_text()  # with that of where it began
        again = subprocess.run([*command, "record", str(recording), "--device", TABLET], check=False)
        assert again.returncode == 2  # nothing is written over
        play = [*command, "--socket", str(mouse.path), "play", str(recording), "--to", "mouse", "--speed", "100"]
        subprocess.run(play, check=True)
        mouse.hears(codes.EV_KEY, codes.BTN_LEFT, 0)
        heard = [event[1:] for event in mouse.guest.events if event.type == codes.EV_KEY or event.code == codes.ABS_X]
        moves = [(codes.ABS_X, 8192), (codes.BTN_LEFT, 1), (codes.ABS_X, 32767), (codes.BTN_LEFT, 0)]
        assert [event for event in heard if event in moves] == moves


def test_effects_are_played_on_the_pad_and_end_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a device"
    upload, play = STEPS[:2]
    with contextlib.ExitStack() as stack:
        pad = UinputPad(PAD)
        stack.callback(pad.close)
        pad.create()
        host = Host(pad)
        host.awake.set()
        host.start()
        stack.callback(host.join)
        stack.callback(setattr, host, "over", True)
        listener = stack.enter_context(listen(path, socket.SOCK_SEQPACKET))
        listener.settimeout(PATIENCE)
        start_driver(stack, tmp_path, path, "xbox360", PAD.name, "--to", "gamepad")
        device, _ = listener.accept()
        for said in (upload, play):
            device.send(json.dumps({"ff": said}).encode())
        eventually(lambda: host.said == [upload, play], PATIENCE)
        device.close()  # the worker has died: nobody would stop it any more
        eventually(lambda: {"erase": 0} in host.said, PATIENCE)
        again, _ = listener.accept()
        again.close()


def test_a_device_of_the_guest_that_is_plugged_out_and_in(tmp_path: Path) -> None:
    path = tmp_path / "a device"
    with contextlib.ExitStack() as stack:
        real = stack.enter_context(plug_keyboard())
        listener = listen(path, socket.SOCK_SEQPACKET)
        listener.settimeout(PATIENCE)
        driver = start_driver(stack, tmp_path, path, "generic", KEYBOARD, "--to", "keyboard")
        device, _ = listener.accept()
        path.unlink()
        listener.close()
        device.close()
        driver.wait_for("no device listens")
        listener = stack.enter_context(listen(path, socket.SOCK_SEQPACKET))
        listener.settimeout(PATIENCE)
        device = stack.enter_context(listener.accept()[0])
        press(real, codes.KEY_A)
        device.settimeout(PATIENCE)
        assert device.recv(4096) == struct.pack("<HHiHHi", codes.EV_KEY, codes.KEY_A, 1, 0, 0, 0)
        assert driver.said.count("no device listens") == 1
