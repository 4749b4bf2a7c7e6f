"""The evdev driver and the recorder with devices of the host that behave oddly; tests/vm has real ones."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import json
import os
import socket
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from subos_devices.errors import SubosError
from subos_devices.input.drivers import driver as driver_module
from subos_devices.input.drivers import forwarding, host
from subos_devices.input.drivers import monitors as monitors_module
from subos_devices.input.drivers.driver import EvdevDriver
from subos_devices.input.drivers.forwarding import Target
from subos_devices.input.drivers.frames import FrameReader
from subos_devices.input.drivers.host import HostDevice, Identity, TimedEvent, identity_of
from subos_devices.input.drivers.recorder import Recorder
from subos_devices.input.drivers.rules import Rule, parse_device
from subos_devices.input.drivers.state import DeviceState
from subos_devices.input.evemu import MAX_FRAME
from subos_devices.input.gamepad import profiles
from subos_devices.input.keyboard import KEYBOARD
from subos_devices.input.touch import TOUCH
from subos_devices.runtime import listen
from subos_protocol.input_codes import Abs, Ev, Key
from subos_protocol.monitors import Area, Layout, Monitor
from subos_protocol.virtio_input import VIRTIO_INPUT_EVENT, virtio_input_event

SYN = virtio_input_event(Ev.EV_SYN, 0, 0)


class OddDevice:
    """A keyboard that opens, and then answers nothing: `opened` counts."""

    opened = 0

    def __init__(self, path: Path) -> None:
        type(self).opened += 1
        self.path = path
        self.fd, self._far = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.capabilities = KEYBOARD
        self.identity = Identity("Odd Keyboard", 1, 2, "", "")
        self.grabbed = False

    def state(self) -> DeviceState:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def release(self) -> None: ...

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._far)

    def __str__(self) -> str:
        return "Odd Keyboard"


class Button(OddDevice):
    """One key, which `press` presses; `unplug` takes it away."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gone = False

    def press(self) -> None:
        os.write(self._far, b"x")

    def unplug(self) -> None:
        self.gone = True
        os.write(self._far, b"x")

    def state(self) -> DeviceState:
        return DeviceState()

    def read(self) -> Iterator[TimedEvent]:
        if self.gone:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        os.read(self.fd, 1)
        yield TimedEvent(0, virtio_input_event(Ev.EV_KEY, Key.KEY_A, 1))
        yield TimedEvent(0, SYN)


class NoHotplug:
    """Nothing comes or goes."""

    def __enter__(self) -> NoHotplug:
        self.fd, self._far = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        return self

    def __exit__(self, *what: object) -> None:
        os.close(self.fd)
        os.close(self._far)


def test_a_device_that_opens_and_cannot_be_read_is_not_opened_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = tmp_path / "event0"
    node.touch()
    OddDevice.opened = 0
    monkeypatch.setattr(driver_module, "HostDevice", OddDevice)
    monkeypatch.setattr(driver_module, "Hotplug", NoHotplug)
    monkeypatch.setattr(driver_module, "paths", lambda: [node])
    target = Target("keyboard", "keyboard", tmp_path / "keyboard.input", KEYBOARD)
    warned: list[str] = []
    told: list[str] = []

    async def run() -> None:
        driver = EvdevDriver([Rule(*parse_device("Odd*"))], lambda: [target], told.append, warned.append)
        running = asyncio.ensure_future(driver.run())
        for _ in range(50):
            await asyncio.sleep(0)
        assert OddDevice.opened == 1
        node.chmod(0o600)  # it is another one, or we may read it now
        driver._look()
        assert OddDevice.opened == 2
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    asyncio.run(run())
    assert warned == ["Odd Keyboard cannot be read: Invalid argument"] * 2
    assert not any("drives" in said for said in told), "it never did"


class Parted(Button):
    """An event device of one of two DualSenses; which is in the name of its file: pad-aa, motion-bb, say."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        kind, _, uniq = path.name.partition("-")
        dualsense = profiles.load("dualsense")
        self.capabilities = dualsense.capabilities if kind == "pad" else dualsense.part(kind).capabilities
        self.identity = Identity(self.capabilities.name, 0x54C, 0xCE6, uniq, "")

    def __str__(self) -> str:
        return self.path.name


@pytest.mark.parametrize(
    "nodes",
    [
        ["motion-bb", "motion-aa", "touchpad-aa", "pad-bb", "pad-aa"],
        ["pad-bb", "pad-aa", "touchpad-aa", "motion-aa", "motion-bb"],
    ],
)
def test_what_a_pad_has_beside_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: list[str]) -> None:
    """Whichever comes first. The rule is about the pads alone; the second one's touch pad is not there."""
    dualsense = profiles.load("dualsense")
    parts = {"gamepad": dualsense.capabilities, **{name: part.capabilities for name, part in dualsense.parts.items()}}
    targets = [
        Target(pad if kind == "gamepad" else f"{pad}-{kind}", kind, tmp_path / f"{pad}-{kind}.sock", can)
        for pad in ("gamepad1", "gamepad2")
        for kind, can in parts.items()
    ]
    for node in nodes:
        (tmp_path / node).touch()
    monkeypatch.setattr(driver_module, "HostDevice", Parted)
    monkeypatch.setattr(driver_module, "Hotplug", NoHotplug)
    monkeypatch.setattr(driver_module, "paths", lambda: [tmp_path / node for node in nodes])
    warned: list[str] = []
    told: list[str] = []

    async def run() -> None:
        with contextlib.ExitStack() as stack:
            for target in targets:
                stack.enter_context(listen(target.path, socket.SOCK_SEQPACKET))
            driver = EvdevDriver(
                [Rule("name", dualsense.capabilities.name)], lambda: targets, told.append, warned.append
            )
            running = asyncio.ensure_future(driver.run())
            for _ in range(50):
                await asyncio.sleep(0)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    asyncio.run(run())
    driven = dict(said.split(" drives ") for said in told)
    assert driven == {
        "pad-bb": "gamepad1",
        "motion-bb": "gamepad1-motion",
        "pad-aa": "gamepad2",
        "motion-aa": "gamepad2-motion",
        "touchpad-aa": "gamepad2-touchpad",
    }
    assert not warned


def test_a_touch_pad_of_no_pad_drives_what_a_rule_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = profiles.load("dualsense").part("touchpad")
    target = Target("gamepad1-touchpad", "touchpad", tmp_path / "sock", part.capabilities)
    (tmp_path / "touchpad-cc").touch()
    monkeypatch.setattr(driver_module, "HostDevice", Parted)
    monkeypatch.setattr(driver_module, "Hotplug", NoHotplug)
    monkeypatch.setattr(driver_module, "paths", lambda: [tmp_path / "touchpad-cc"])
    told: list[str] = []

    async def run(to: str) -> None:
        with listen(target.path, socket.SOCK_SEQPACKET):
            driver = EvdevDriver([Rule("name", "*", to)], lambda: [target], told.append, told.append)
            running = asyncio.ensure_future(driver.run())
            for _ in range(50):
                await asyncio.sleep(0)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    asyncio.run(run(""))
    assert told == ["no device * is here yet; it is taken when it comes"]
    for to in ("touchpad", "gamepad1-touchpad"):
        told.clear()
        asyncio.run(run(to))
        assert told == ["touchpad-cc drives gamepad1-touchpad"]


def test_lights_that_a_guest_sets_without_end_are_set_so_often_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target("keyboard", "keyboard", tmp_path / "sock", KEYBOARD)
    (tmp_path / "event0").touch()
    monkeypatch.setattr(driver_module, "HostDevice", Button)
    monkeypatch.setattr(driver_module, "Hotplug", NoHotplug)
    monkeypatch.setattr(driver_module, "paths", lambda: [tmp_path / "event0"])
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(forwarding.PadExtras, "show", lambda self, said: shown.append(said))

    async def run() -> None:
        loop = asyncio.get_running_loop()
        with listen(target.path, socket.SOCK_SEQPACKET) as listener:
            driver = EvdevDriver([Rule("name", "*")], lambda: [target], lambda _: None, lambda _: None)
            running = asyncio.ensure_future(driver.run())
            listener.setblocking(False)
            guest, _ = await loop.sock_accept(listener)
            with guest:
                for number in range(500):
                    light = {"led": {"rgb": [number % 256, 0, 0], "players": 0}}
                    await loop.sock_sendall(guest, json.dumps(light).encode())
                await asyncio.sleep(3 * forwarding.LIGHT_SECONDS)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    begun = time.monotonic()
    asyncio.run(run())
    assert shown[-1]["rgb"] == [499 % 256, 0, 0]
    assert len(shown) <= (time.monotonic() - begun) / forwarding.LIGHT_SECONDS + 1


class Screen(OddDevice):
    """A touch screen; `happens` are the events of one frame."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.capabilities = TOUCH
        self.frames: list[list[virtio_input_event]] = []
        made.append(self)

    def happens(self, *events: tuple[int, int]) -> None:
        self.frames.append([virtio_input_event(Ev.EV_ABS, *event) for event in events])
        os.write(self._far, b"x")

    def state(self) -> DeviceState:
        return DeviceState()

    def read(self) -> Iterator[TimedEvent]:
        os.read(self.fd, 1)
        for event in [*self.frames.pop(0), SYN]:
            yield TimedEvent(0, event)

    def __str__(self) -> str:
        return "a touch screen"


made: list[Screen] = []
ONE = Layout(Area(0, 0, 1000, 500), (Monitor("left", Area(0, 0, 1000, 500)),))
TWO = Layout(Area(0, 0, 2000, 500), (*ONE.monitors, Monitor("right", Area(1000, 0, 1000, 500))))
SWAPPED = TWO._replace(monitors=TWO.monitors[::-1])


def test_a_screen_that_drives_one_monitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the monitor, follows it, and is let go when it is gone."""
    (tmp_path / "event0").touch()
    made.clear()
    monkeypatch.setattr(driver_module, "HostDevice", Screen)
    monkeypatch.setattr(driver_module, "Hotplug", NoHotplug)
    monkeypatch.setattr(driver_module, "paths", lambda: [tmp_path / "event0"])
    monkeypatch.setattr(monitors_module, "AGAIN", 0)
    monkeypatch.setattr(monitors_module, "PAUSE", 0)
    said: list[str] = []

    async def run() -> None:
        answers: asyncio.Queue[Layout | SubosError] = asyncio.Queue()

        async def layouts() -> AsyncGenerator[Layout, None]:
            while True:
                answer = await answers.get()
                if isinstance(answer, SubosError):
                    raise answer
                yield answer

        async def until(text: str) -> None:
            while text not in said:
                await asyncio.sleep(0.001)

        loop = asyncio.get_running_loop()
        with listen(tmp_path / "touch", socket.SOCK_SEQPACKET) as listener:
            listener.setblocking(False)
            target = Target("touch", "touch", tmp_path / "touch", TOUCH)
            rules = [Rule("name", "Odd*", monitor=2)]
            driver = EvdevDriver(rules, lambda: [target], said.append, said.append, layouts)
            running = asyncio.ensure_future(driver.run())
            answers.put_nowait(SubosError("there is no session"))
            await until("where the guest's monitors are is not known: there is no session")
            made[0].happens((Abs.ABS_MT_TRACKING_ID, 1), (Abs.ABS_MT_POSITION_X, 0))  # of which nobody is told
            answers.put_nowait(ONE)
            hint = "there is 1: left, 1000x500 at 0,0"
            await until(f"the guest has no monitor 2: a touch screen waits for it\n  hint: {hint}")
            made[0].happens((Abs.ABS_MT_TRACKING_ID, -1))
            while made[0].frames:
                await asyncio.sleep(0.001)
            with pytest.raises(BlockingIOError):
                listener.accept()
            answers.put_nowait(TWO)
            await until("a touch screen drives touch, on monitor 2")
            connection = (await loop.sock_accept(listener))[0]
            connection.setblocking(False)

            async def hear() -> list[tuple[int, int]]:
                packet = await loop.sock_recv(connection, 4096)
                events = [virtio_input_event(*each) for each in VIRTIO_INPUT_EVENT.struct.iter_unpack(packet)]
                return [event[1:] for event in events if event.type == Ev.EV_ABS]

            made[0].happens((Abs.ABS_MT_TRACKING_ID, 2), (Abs.ABS_MT_POSITION_X, 32767), (Abs.ABS_MT_POSITION_Y, 0))
            places = [(Abs.ABS_MT_POSITION_X, 32767), (Abs.ABS_MT_POSITION_Y, 0)]
            assert await hear() == [(Abs.ABS_MT_TRACKING_ID, 2), *places]
            made[0].happens((Abs.ABS_MT_POSITION_X, 0))
            assert await hear() == [(Abs.ABS_MT_POSITION_X, 16384)]
            answers.put_nowait(SWAPPED)  # the finger that is down follows
            assert await hear() == [(Abs.ABS_MT_SLOT, 0), (Abs.ABS_MT_POSITION_X, 0), (Abs.ABS_MT_POSITION_Y, 0)]
            answers.put_nowait(SubosError("the session has ended"))  # what it has told counts until another one tells
            await until("where the guest's monitors are is not known: the session has ended")
            made[0].happens((Abs.ABS_MT_POSITION_X, 32767))
            assert await hear() == [(Abs.ABS_MT_POSITION_X, 16383)]
            answers.put_nowait(ONE)
            assert await loop.sock_recv(connection, 4096) == b"", "what is down goes up"
            connection.close()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_name_that_is_no_utf_8_ends_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        b"\xe9".decode()

    class Evdev:
        InputDevice = staticmethod(refuse)

    monkeypatch.setattr(host, "evdev_module", lambda: Evdev)
    with pytest.raises(OSError, match="UTF-8"):
        HostDevice(tmp_path / "event0")
    folder = tmp_path / "event0" / "device"
    (folder / "id").mkdir(parents=True)
    for name, content in (("name", b"Caf\xe9\n"), ("phys", b"\n"), ("uniq", b"\n"), ("id/vendor", b"1\n")):
        (folder / name).write_bytes(content)
    (folder / "id" / "product").write_bytes(b"2\n")
    monkeypatch.setattr(host, "SYSFS", tmp_path)
    assert identity_of(tmp_path / "event0") == Identity("Caf\ufffd", 1, 2, "", "")


class ManyAxes:
    """A throttle whose axes the kernel numbers up to where those of touches are: it has no slots to tell of."""

    fd = -1
    name, phys, uniq = "Throttle", "", ""

    class info:
        bustype, vendor, product, version = 3, 1, 2, 0

    class axis:
        value, min, max, fuzz, flat, resolution = 7, 0, 255, 0, 0, 0

    def capabilities(self, absinfo: bool) -> dict[int, Any]:
        return {Ev.EV_ABS: [(code, self.axis) for code in range(Abs.ABS_MISC, Abs.ABS_MT_SLOT + 5)]}

    def input_props(self) -> list[int]:
        return []

    def active_keys(self) -> list[int]:
        return []

    def absinfo(self, code: int) -> type[axis]:
        return self.axis


def test_many_axes_are_no_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    class Evdev:
        InputDevice = staticmethod(lambda path: ManyAxes())

    monkeypatch.setattr(host, "evdev_module", lambda: Evdev)
    monkeypatch.setattr("fcntl.fcntl", lambda fd, what: os.O_RDONLY)
    device = HostDevice(Path("/dev/input/event0"))
    assert device.state() == DeviceState(axes=dict.fromkeys(range(Abs.ABS_MISC, Abs.ABS_MT_SLOT), 7))


class Flood:
    """A frame longer than any: its end releases a key."""

    def __init__(self) -> None:
        self.held = {int(Key.KEY_A)}

    def state(self) -> DeviceState:
        return DeviceState(set(self.held))

    def read(self) -> Iterator[TimedEvent]:
        self.held.clear()
        for _ in range(MAX_FRAME):
            yield TimedEvent(0, virtio_input_event(Ev.EV_MSC, 4, 1))
        yield TimedEvent(0, virtio_input_event(Ev.EV_KEY, Key.KEY_A, 0))
        yield TimedEvent(0, SYN)


def test_a_frame_that_is_too_long_leaves_no_key_down() -> None:
    device: Any = Flood()
    reader = FrameReader(device)
    reader.begin()
    (frame,) = reader.read()
    assert frame.events == [virtio_input_event(Ev.EV_KEY, Key.KEY_A, 0)]
    assert not reader.known.keys


def test_one_of_many_devices_that_goes_does_not_end_a_recording_that_has_not_begun(tmp_path: Path) -> None:
    gone, pressed, idle = (Button(tmp_path / name) for name in ("event0", "event1", "event2"))
    said: list[str] = []
    file = io.StringIO()

    async def run() -> None:
        devices: Any = [gone, pressed, idle]
        recorder = Recorder(devices, said.append)
        recording = asyncio.ensure_future(recorder.run(file))
        for happens, until in (
            (gone.unplug, lambda: len(devices) == 2),
            (idle.unplug, lambda: len(devices) == 1),
            (pressed.press, lambda: recorder.frames == 1),
            (pressed.unplug, recording.done),
        ):
            await asyncio.sleep(0)
            happens()
            while not until():
                await asyncio.sleep(0.001)
        await recording

    asyncio.run(asyncio.wait_for(run(), 20))
    assert "0001 001e 1" in file.getvalue()
    assert file.getvalue().startswith("# EVEMU")
    assert said[-1] == "Odd Keyboard is gone"
