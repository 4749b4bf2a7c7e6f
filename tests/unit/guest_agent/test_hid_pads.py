"""Pads as HID devices: what the agent answers the kernel and tells the host, and who has the device for how long."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from subos_agent.gamepad import hid_pad, hid_pads, hidraw
from subos_agent.gamepad.hid_pad import CUT, HidPad
from subos_agent.gamepad.hid_pads import HidPads
from subos_agent.gamepad.playstation import mac_of
from subos_agent.gamepad.service import Gamepads
from subos_agent.gamepad.uhid import DATA_MAX, QUEUE, Asked, GetReport, HidIds, Output, SetReport, UhidEvent
from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.peer import Peer
from subos_protocol.agent.stream import Stream
from subos_protocol.effects import Effect, Play, Rumble, Stop, Upload
from subos_protocol.gamepad import Axis, Opened, Pad
from subos_protocol.hid_pad import Hid, Light, part_serial
from subos_protocol.input_codes import Abs, Ev, Key
from subos_protocol.virtio_input import virtio_input_absinfo, virtio_input_devids, virtio_input_event
from support.agents import asking, on_a_loop

from .test_gamepads import GRACE, PRESSED, FakeUinput, Sysfs, heard, opening, send, until

HID = Hid("dualsense", "Sony DualSense", "pad1", "pad", ("motion", "touchpad"))
IDS = virtio_input_devids(3, 0x54C, 0xCE6, 0x8111)
AXIS = virtio_input_absinfo(0, 255)


def pad(part: str = "pad", hid: Hid = HID) -> Pad:
    serial = "pad1" if part == "pad" else part_serial("pad1", part)
    codes = {Ev.EV_KEY: frozenset({Key.BTN_SOUTH})} if part == "pad" else {}
    return Pad(serial, f"Sony DualSense {part}", IDS, codes, {Abs.ABS_X: Axis(128, AXIS)}, hid=hid._replace(part=part))


class FakeUhid:
    """/dev/uhid and the driver, which takes the device as soon as its questions are answered, if it `takes` it. It does
    not see the first reports, as many as it `misses`."""

    made: list[FakeUhid] = []
    takes = True
    misses = 0
    raw = ""
    error = 0

    def __init__(self, sysfs: Path) -> None:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self._sysfs = sysfs
        self.fd, self._far = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.device: Path | None = None
        self.created: tuple[str, str, str, HidIds] | None = None
        self.reports: list[bytes] = []
        self.replies: list[tuple[int, bytes]] = []
        self.refused: list[int] = []
        self._asked: list[Asked | UhidEvent] = []
        self.made.append(self)

    def create(self, name: str, phys: str, uniq: str, ids: HidIds, descriptor: bytes) -> None:
        assert descriptor
        self.created = (name, phys, uniq, ids)
        self.device = self._sysfs / "bus/hid/devices/0003:054C:0CE6.0001"
        self.device.mkdir(parents=True)
        (self.device / "uevent").write_text(f"DRIVER=playstation\nHID_NAME={name}\nHID_PHYS={phys}\n")
        self.bind()

    def ask(self, *asked: Asked | UhidEvent) -> None:
        self._asked += asked
        os.write(self._far, b"x")

    def read(self) -> list[Asked | UhidEvent]:
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 100)
        asked, self._asked = self._asked, []
        return asked

    def reply(self, request: GetReport, data: bytes) -> None:
        self.replies.append((request.id, data))
        if self.takes and len(self.replies) == 3 and self.device is not None:
            (self.device / "driver").symlink_to(self._sysfs / "bus/hid/drivers/playstation")
            for number in range(3):
                (self.device / f"input/input{number}/event{number}").mkdir(parents=True)
            if self.raw:
                (self.device / "hidraw" / self.raw).mkdir(parents=True, exist_ok=True)
            (self.device / "power_supply/battery").mkdir(parents=True)
            (self.device / "power_supply/battery/status").write_text("Unknown\n")

    def unbind(self) -> None:
        """The driver lets the device go."""
        assert self.device is not None
        (self.device / "driver").unlink()
        for made in ("input", "power_supply"):
            shutil.rmtree(self.device / made)
        self.replies.clear()
        self.ask(UhidEvent.UHID_CLOSE, UhidEvent.UHID_STOP)

    def bind(self) -> None:
        """A driver takes it, and asks what it is."""
        self.ask(UhidEvent.UHID_START, *(GetReport(n, n, 0) for n in (0x09, 0x20, 0x05)))

    def refuse(self, request: SetReport) -> None:
        self.refused.append(request.id)

    def input(self, report: bytes) -> None:
        assert self.fd >= 0
        self.reports.append(report)
        status = self.device / "power_supply/battery/status" if self.device is not None else Path("/nowhere")
        if len(self.reports) > self.misses and status.exists():
            status.write_text("Full\n")

    @property
    def is_open(self) -> bool:
        return self.fd >= 0

    def close(self) -> None:
        if self.is_open:
            os.close(self.fd)
            os.close(self._far)
            self.fd = -1
            if self.device is not None:
                shutil.rmtree(self.device)


def motors(strong: int, weak: int) -> Output:
    return Output(bytes([2, 2, 0, weak, strong]) + bytes(34) + b"\x04" + bytes(23))


def light(rgb: tuple[int, int, int], players: int | None = None) -> Output:
    flags = 0x04 | (0 if players is None else 0x10)
    return Output(bytes([2, 0, flags]) + bytes(41) + bytes([players or 0, *rgb]) + bytes(15))


def turning(strong: int, weak: int, length: int = 0) -> list[Any]:
    return [Upload(Effect(0, length, 0, 0, Rumble(strong, weak))), Play(0, 1)]


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    sysfs = Sysfs(tmp_path)
    (sysfs.root / "sys/bus/hid/drivers/playstation").mkdir(parents=True)
    for number, serial in enumerate(("pad1", "pad1-motion", "pad1-touchpad")):
        sysfs.plug(f"virtio{number}", serial)
    return sysfs


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeUhid]]:
    FakeUhid.made.clear()
    FakeUinput.made.clear()
    monkeypatch.setattr(FakeUhid, "takes", True)
    monkeypatch.setattr(FakeUhid, "misses", 0)
    monkeypatch.setattr(FakeUhid, "raw", "")
    monkeypatch.setattr(FakeUhid, "error", 0)
    monkeypatch.setattr(hid_pad, "COME_UP", 0.3)
    monkeypatch.setattr(hid_pads, "SIBLING_SECONDS", 0.2)
    yield FakeUhid.made
    assert not any(each.is_open for each in (*FakeUhid.made, *FakeUinput.made)), "a device was left open"


def made_hid(sysfs: Sysfs, hid: Hid, ids: virtio_input_devids) -> HidPad:
    return HidPad(hid, ids, sysfs.root / "sys", lambda: cast(Any, FakeUhid(sysfs.root / "sys")), sysfs.root)


@contextlib.asynccontextmanager
async def host(sysfs: Sysfs, grace: float = GRACE) -> AsyncIterator[Peer]:
    def hids(*arguments: Any) -> HidPads:
        return HidPads(*arguments, make=lambda hid, ids: made_hid(sysfs, hid, ids), load=lambda: None)

    gamepads = Gamepads(sysfs.twins(), cast(Any, FakeUinput), grace, hids)
    gamepads.start()
    try:
        async with asking(gamepads.handlers()) as peer:
            yield peer
    finally:
        await gamepads.close()
    assert not gamepads._turns
    assert not gamepads._hids._turns
    assert not gamepads._hids._made


@contextlib.asynccontextmanager
async def all_three(peer: Peer) -> AsyncIterator[list[Stream]]:
    async with contextlib.AsyncExitStack() as stack:
        streams = []
        for part in ("pad", "motion", "touchpad"):
            streams.append(await stack.enter_async_context(opening(peer, pad(part))))
            assert await heard(streams[-1]) == Opened()
        yield streams


@on_a_loop
async def test_three_streams_have_one_device_and_their_twins_step_aside(sysfs: Sysfs, made: list[FakeUhid]) -> None:
    async with host(sysfs) as peer, all_three(peer) as (first, motion, touchpad):
        (uhid,) = made
        uniq = ":".join(f"{byte:02x}" for byte in mac_of("pad1"))
        assert uhid.created == ("Sony DualSense", "subos/pad1", uniq, HidIds(3, 0x54C, 0xCE6, 0x111))
        assert [number for number, data in uhid.replies if data[0] == number] == [0x09, 0x20, 0x05]
        assert sysfs.recorded == ["virtio0", "virtio1", "virtio2"]
        assert len(uhid.reports) == 1, "the neutral one"
        await send(first, PRESSED)
        await until(lambda: len(uhid.reports) == 2)
        assert uhid.reports[-1][8] & 0x20
        turn = [virtio_input_event(Ev.EV_ABS, Abs.ABS_RX, 64), virtio_input_event(Ev.EV_SYN, 0, 0)]
        await send(motion, turn)
        await until(lambda: len(uhid.reports) == 3)
        assert (uhid.reports[-1][8] & 0x20, uhid.reports[-1][16]) == (0x20, 1), "each keeps what the others said"
        first.end()
        assert await asyncio.wait_for(first.result(), 10) == {}
        assert not uhid.reports[-1][8] & 0x20
        assert uhid.is_open
        assert sysfs.recorded == ["virtio0", "virtio1", "virtio2"], "no game sees it twice"
        motion.end()
        touchpad.end()
        await asyncio.wait_for(touchpad.result(), 10)
        await asyncio.wait_for(motion.result(), 10)
        assert not uhid.is_open
        assert sysfs.recorded == []


@on_a_loop
async def test_what_is_turned_and_lit_is_told(sysfs: Sysfs, made: list[FakeUhid]) -> None:
    async with host(sysfs, grace=60) as peer:
        async with opening(peer, pad()) as stream:
            assert await heard(stream) == Opened()
            made[0].ask(light((0, 0, 128)), light((0, 0, 128), 4))
            assert await heard(stream) == Light((0, 0, 128), 4), "the newest"
            made[0].ask(motors(192, 7))
            assert [await heard(stream), await heard(stream)] == turning(192 * 257, 7 * 257)
            made[0].ask(motors(192, 7), motors(0, 0))
            assert await heard(stream) == Stop(0)
            made[0].ask(motors(255, 0), light((1, 2, 3)))
            assert [await heard(stream) for _ in range(3)] == [Light((1, 2, 3), 4), *turning(65535, 0)]
        async with opening(peer, pad()) as stream:
            assert [await heard(stream) for _ in range(4)] == [Opened(), Light((1, 2, 3), 4), *turning(65535, 0)]


@on_a_loop
async def test_a_motor_whose_stop_the_kernel_may_have_lost_stops(sysfs: Sysfs, made: list[FakeUhid]) -> None:
    """It keeps 31 events, and drops what comes then."""
    async with host(sysfs) as peer, opening(peer, pad()) as stream:
        assert await heard(stream) == Opened()
        made[0].ask(*[motors(0, 0), motors(9, 9)] * (QUEUE // 2), motors(9, 9))
        assert [await heard(stream), await heard(stream)] == turning(9 * 257, 9 * 257, CUT)
        made[0].ask(motors(9, 9))
        assert [await heard(stream), await heard(stream)] == turning(9 * 257, 9 * 257)


@on_a_loop
@pytest.mark.parametrize("flood", [[light((n % 256, 0, 0)) for n in range(QUEUE)], [motors(9, 9)] * QUEUE])
async def test_a_flood_that_says_nothing_new_of_the_motors_may_have_lost_their_stop(
    sysfs: Sysfs, made: list[FakeUhid], flood: list[Output]
) -> None:
    async with host(sysfs) as peer, opening(peer, pad()) as stream:
        assert await heard(stream) == Opened()
        made[0].ask(motors(9, 9))
        assert [await heard(stream), await heard(stream)] == turning(9 * 257, 9 * 257)
        made[0].ask(*flood)
        said = [await heard(stream), await heard(stream)]
        if isinstance(said[0], Light):
            said = [said[1], await heard(stream)]
        assert said == turning(9 * 257, 9 * 257, CUT)


@on_a_loop
async def test_lights_alone_do_not_prolong_a_rumble_whose_stop_may_be_lost(sysfs: Sysfs, made: list[FakeUhid]) -> None:
    device = made_hid(sysfs, HID, IDS)
    try:
        assert device._answer([motors(9, 9)] * QUEUE) == turning(9 * 257, 9 * 257, CUT)
        assert device._answer([light((0, 0, 0))] * QUEUE) == []
        assert device._answer([motors(9, 9)] * QUEUE) == turning(9 * 257, 9 * 257, CUT)
        assert device._answer([motors(9, 9)]) == turning(9 * 257, 9 * 257)
    finally:
        device.close()


@on_a_loop
async def test_a_driver_that_goes_leaves_nothing_turning_and_the_next_one_hears_the_state(
    sysfs: Sysfs, made: list[FakeUhid]
) -> None:
    async with host(sysfs) as peer, opening(peer, pad()) as stream:
        assert await heard(stream) == Opened()
        await send(stream, PRESSED)
        await until(lambda: made[0].reports[-1][8] & 0x20)
        made[0].ask(motors(9, 9), light((1, 2, 3), 4))
        assert [await heard(stream) for _ in range(3)] == [Light((1, 2, 3), 4), *turning(9 * 257, 9 * 257)]
        made[0].unbind()
        assert {await heard(stream), await heard(stream)} == {Light((0, 0, 0), 0), Stop(0)}
        before = len(made[0].reports)
        made[0].misses = before + 2
        made[0].bind()
        await until(lambda: len(made[0].reports) == before + 3)
        assert made[0].reports[-1][8] & 0x20
        await asyncio.sleep(0.1)
        assert len(made[0].reports) == before + 3, "it has heard it"


@on_a_loop
async def test_reports_that_come_before_the_driver_is_ready_are_said_again(
    sysfs: Sysfs, made: list[FakeUhid], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel drops them in silence; only one that the driver read says what the battery does."""
    monkeypatch.setattr(FakeUhid, "misses", 2)
    async with host(sysfs) as peer, opening(peer, pad()) as stream:
        assert await heard(stream) == Opened()
        assert len(made[0].reports) == 3


@on_a_loop
async def test_a_driver_that_reads_no_report_does_not_have_the_device(
    sysfs: Sysfs, made: list[FakeUhid], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeUhid, "misses", 10_000)
    async with host(sysfs) as peer, opening(peer, pad()) as stream:
        assert await heard(stream) == Opened()
        assert len(FakeUinput.made) == 1


@on_a_loop
async def test_programs_that_read_reports_themselves_always_hear_something(
    sysfs: Sysfs, made: list[FakeUhid], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeUhid, "raw", f"hidraw-{os.getpid()}")
    monkeypatch.setattr(hidraw, "LOOK_AFTER", 0.1)
    node = sysfs.root / FakeUhid.raw
    node.touch()

    async def becomes(quiet: bool) -> None:
        for _ in range(100):
            before = len(made[0].reports)
            await asyncio.sleep(0.05)
            if (len(made[0].reports) == before) is quiet:
                return
        raise AssertionError(f"it is {'not ' if quiet else ''}quiet")

    async with host(sysfs) as peer, opening(peer, pad()) as stream:
        assert await heard(stream) == Opened()
        await send(stream, PRESSED)
        await until(lambda: made[0].reports[-1][8] & 0x20)
        await becomes(quiet=True)
        with node.open():
            await becomes(quiet=False)
            assert made[0].reports[-1][8] & 0x20, "the last one, again"
            made[0].unbind()
            await becomes(quiet=True)
            made[0].bind()
            await becomes(quiet=False)
        await becomes(quiet=True)


@on_a_loop
async def test_programs_that_ask_for_what_there_is_not_are_answered(sysfs: Sysfs, made: list[FakeUhid]) -> None:
    async with host(sysfs) as peer, opening(peer, pad()) as stream:
        assert await heard(stream) == Opened()
        made[0].ask(GetReport(77, 0x81, 0), SetReport(78, 0x80, 0), Output(b""), Output(bytes(DATA_MAX)))
        await until(lambda: made[0].refused == [78])
        assert made[0].replies[-1] == (77, b"")


@on_a_loop
async def test_a_part_outlives_its_stream_and_is_neutral(sysfs: Sysfs, made: list[FakeUhid]) -> None:
    async with host(sysfs, grace=60) as peer:
        async with opening(peer, pad()) as stream:
            assert await heard(stream) == Opened()
            await send(stream, PRESSED)
            await until(lambda: made[0].reports[-1][8] & 0x20)
        await until(lambda: not made[0].reports[-1][8] & 0x20)
        async with opening(peer, pad()) as stream:
            assert await heard(stream) == Opened()
        assert len(made) == 1


@on_a_loop
async def test_streams_that_end_otherwise_give_it_all_back_in_time(sysfs: Sysfs, made: list[FakeUhid]) -> None:
    async with host(sysfs) as peer:
        async with all_three(peer):
            pass
        await until(lambda: not made[0].is_open)
        await until(lambda: sysfs.recorded == [])


@on_a_loop
async def test_a_part_may_come_first_and_twins_later(sysfs: Sysfs, made: list[FakeUhid]) -> None:
    uniq = sysfs.driver / "virtio0/input/input7/uniq"
    uniq.rename(uniq.with_name("not-yet"))
    async with host(sysfs) as peer, opening(peer, pad("motion")) as motion:
        assert await heard(motion) == Opened()
        assert sysfs.recorded == ["virtio1", "virtio2"]
        uniq.with_name("not-yet").rename(uniq)
        async with opening(peer, pad()) as stream:
            assert await heard(stream) == Opened()
            assert sysfs.recorded == ["virtio0", "virtio1", "virtio2"]
            assert len(made) == 1


@on_a_loop
async def test_a_pad_that_is_plugged_again_before_its_parts_are_gone_is_seen_once(
    sysfs: Sysfs, made: list[FakeUhid]
) -> None:
    async with host(sysfs) as peer, all_three(peer) as (first, _motion, _touchpad):
        sysfs.unplug("virtio0")
        first.end()
        assert await asyncio.wait_for(first.result(), 10) == {}
        assert sysfs.recorded == ["virtio1", "virtio2"]
        sysfs.plug("virtio9", "pad1")
        async with opening(peer, pad()) as again:
            assert await heard(again) == Opened()
            assert sysfs.recorded == ["virtio1", "virtio2", "virtio9"]
            assert sysfs.said("unbind") == "virtio9"
            assert len(made) == 1


@on_a_loop
async def test_a_guest_that_cannot_has_uinput(sysfs: Sysfs, made: list[FakeUhid], monkeypatch: Any) -> None:
    monkeypatch.setattr(FakeUhid, "error", errno.ENOENT)
    async with host(sysfs) as peer, all_three(peer):
        assert made == []
        assert [uinput.pad.serial for uinput in FakeUinput.made] == ["pad1", "pad1-motion", "pad1-touchpad"]


@on_a_loop
async def test_a_device_that_does_not_come_up_is_made_by_uinput(
    sysfs: Sysfs, made: list[FakeUhid], monkeypatch: Any
) -> None:
    """All of it, though the driver could later."""
    monkeypatch.setattr(FakeUhid, "takes", False)
    async with host(sysfs) as peer, opening(peer, pad()) as stream:
        assert await heard(stream) == Opened()
        assert not made[0].is_open
        monkeypatch.setattr(FakeUhid, "takes", True)
        async with opening(peer, pad("motion")) as motion:
            assert await heard(motion) == Opened()
            assert len(FakeUinput.made) == 2
            assert sysfs.recorded == ["virtio0", "virtio1"], "the third has its driver again"


@on_a_loop
async def test_a_pad_that_is_to_be_nothing_else_fails(sysfs: Sysfs, monkeypatch: Any) -> None:
    only = pad(hid=HID._replace(only=True))
    async with host(sysfs) as peer:
        with monkeypatch.context() as patch:
            patch.setattr(FakeUhid, "error", errno.ENOENT)
            with pytest.raises(RemoteError, match="cannot be a HID device: No such file") as caught:
                await asyncio.wait_for(opening(peer, only).result(), 10)
        assert caught.value.code == "unavailable"
        assert FakeUinput.made == []
        async with opening(peer, only) as stream:
            assert await heard(stream) == Opened()


@on_a_loop
async def test_a_pad_that_is_to_be_nothing_else_and_does_not_come_up_keeps_its_twin(
    sysfs: Sysfs, made: list[FakeUhid], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its twin's driver begins when it is given back, and the host asks again: that is not to go on for ever."""
    only = pad(hid=HID._replace(only=True))
    monkeypatch.setattr(FakeUhid, "takes", False)
    async with host(sysfs) as peer:
        with pytest.raises(RemoteError, match="does not take it"):
            await asyncio.wait_for(opening(peer, only).result(), 10)
        assert sysfs.said("bind")
        (sysfs.driver / "bind").write_text("")
        for part in ("pad", "motion"):
            with pytest.raises(RemoteError, match="did not come up before"):
                await asyncio.wait_for(opening(peer, pad(part, hid=HID._replace(only=True))).result(), 10)
        assert len(made) == 1
        assert sysfs.said("bind") == ""
        monkeypatch.setattr(FakeUhid, "takes", True)
        monkeypatch.setattr(hid_pads, "FORGET_SECONDS", 0)
        async with opening(peer, only) as stream:
            assert await heard(stream) == Opened()


@on_a_loop
async def test_a_failure_is_forgotten_when_all_of_the_pad_has_gone(
    sysfs: Sysfs, made: list[FakeUhid], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeUhid, "takes", False)
    monkeypatch.setattr(hid_pads, "FORGET_SECONDS", 0)
    async with host(sysfs) as peer:
        async with opening(peer, pad()) as stream:
            assert await heard(stream) == Opened()
            monkeypatch.setattr(FakeUhid, "takes", True)
            async with opening(peer, pad("motion")) as motion:
                assert await heard(motion) == Opened()
                assert (len(made), len(FakeUinput.made)) == (1, 2), "a pad is one or the other"
        await until(lambda: not any(uinput.is_open for uinput in FakeUinput.made))
        await until(lambda: sysfs.recorded == [])
        async with opening(peer, pad()) as stream:
            assert await heard(stream) == Opened()
            assert (len(made), len(FakeUinput.made)) == (2, 2)


@on_a_loop
async def test_another_kind_of_pad_with_the_same_serial_is_another_device(sysfs: Sysfs, made: list[FakeUhid]) -> None:
    other = HID._replace(model="dualshock4", name="Sony DualShock 4")
    async with host(sysfs, grace=60) as peer:
        async with opening(peer, pad("motion")) as motion, opening(peer, pad()) as stream:
            assert [await heard(each) for each in (motion, stream)] == [Opened(), Opened()]
        async with opening(peer, pad(hid=other)) as stream:
            assert await heard(stream) == Opened()
            assert [uhid.is_open for uhid in made] == [False, True]
            created = made[1].created
            assert created is not None
            assert created[0] == "Sony DualShock 4"
            assert sysfs.recorded == ["virtio0", "virtio1", "virtio2"]
            async with opening(peer, pad("motion", hid=other)) as motion:
                assert await heard(motion) == Opened()
                before = len(made[1].reports)
                await send(motion, [virtio_input_event(Ev.EV_ABS, Abs.ABS_RX, 64), virtio_input_event(0, 0, 0)])
                await until(lambda: len(made[1].reports) > before)
                assert made[1].is_open


@on_a_loop
async def test_what_is_said_to_a_device_that_has_ended_is_lost(sysfs: Sysfs, made: list[FakeUhid]) -> None:
    other = HID._replace(model="dualshock4")
    async with host(sysfs, grace=60) as peer, opening(peer, pad("motion")) as motion:
        assert await heard(motion) == Opened()
        async with opening(peer, pad(hid=other)) as stream:
            assert await heard(stream) == Opened()
            await send(motion, [virtio_input_event(Ev.EV_ABS, Abs.ABS_RX, 64), virtio_input_event(0, 0, 0)])
            motion.end()
            assert await asyncio.wait_for(motion.result(), 10) == {}
            assert [uhid.is_open for uhid in made] == [False, True]


@on_a_loop
async def test_a_kind_or_a_driver_that_is_not_known_here(sysfs: Sysfs) -> None:
    async with host(sysfs) as peer:
        for model, reason in (("steamdeck", "no such kind"), ("dualsense", "no hid-playstation")):
            only = pad(hid=HID._replace(model=model, only=True))
            if model == "dualsense":
                (sysfs.root / "sys/bus/hid/drivers/playstation").rename(sysfs.root / "gone")
            with pytest.raises(RemoteError, match=reason):
                await asyncio.wait_for(opening(peer, only).result(), 10)


def test_modules_are_loaded_where_they_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = tmp_path / "asked"
    program = tmp_path / "modprobe"
    program.write_text(f'#!/bin/sh\necho "$@" >{asked}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    hid_pad.load_modules(tmp_path, tmp_path / "uhid")
    assert asked.read_text() == "-qab uhid hid-playstation\n"
    asked.unlink()
    (tmp_path / "bus/hid/drivers/playstation").mkdir(parents=True)
    (tmp_path / "uhid").touch()
    hid_pad.load_modules(tmp_path, tmp_path / "uhid")
    assert not asked.exists()
