"""Gamepads in the guest's agent: whose a pad is, what passes, and what happens when somebody goes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from subos_agent.gamepad.service import MAX_PADS, Gamepads
from subos_agent.gamepad.twins import DEVICES, DRIVER, Twins
from subos_agent.gamepad.uinput import UinputPad
from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.peer import Peer
from subos_protocol.agent.stream import Stream
from subos_protocol.effects import Effect, Erase, Feedback, Gain, Play, Rumble, Stop, Upload
from subos_protocol.gamepad import (
    OPERATION,
    TAKE_AFTER,
    Axis,
    Message,
    Opened,
    Pad,
    Taken,
    pack_pad,
    unpack_message,
)
from subos_protocol.input_codes import Abs, Ev, Ff, Key
from subos_protocol.virtio_input import (
    VIRTIO_INPUT_EVENT,
    virtio_input_absinfo,
    virtio_input_devids,
    virtio_input_event,
)
from support.agents import asking, on_a_loop

PAD = Pad(
    "pad1",
    "Pad",
    virtio_input_devids(3, 1, 2, 3),
    {Ev.EV_KEY: frozenset({Key.BTN_SOUTH})},
    {Abs.ABS_X: Axis(128, virtio_input_absinfo(0, 255))},
    ff=frozenset({Ff.FF_RUMBLE, Ff.FF_GAIN}),
    effects=16,
)
PRESSED = [virtio_input_event(Ev.EV_KEY, Key.BTN_SOUTH, 1), virtio_input_event(Ev.EV_SYN, 0, 0)]
RUMBLE = Upload(Effect(0, 0, 0, 0, Rumble(1, 2)))
GRACE = 0.3


class FakeUinput:
    """The kernel's device, as far as the agent sees it; `game` does something with it."""

    made: list[FakeUinput] = []
    error = 0

    def __init__(self, pad: Pad) -> None:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self.pad = pad
        self.fd, self._far = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.created = False
        self.written: list[list[virtio_input_event]] = []
        self.suspicious = False
        self._queue: list[Feedback] = []
        self.made.append(self)

    def create(self) -> None:
        self.created = True

    def listen(self, heard: Callable[[], None]) -> None:
        asyncio.get_running_loop().add_reader(self.fd, heard)

    def deafen(self) -> None:
        asyncio.get_running_loop().remove_reader(self.fd)

    def write(self, events: Sequence[virtio_input_event]) -> None:
        assert self.created
        self.written.append(list(events))

    def game(self, *messages: Feedback) -> None:
        self._queue += messages
        os.write(self._far, b"x")

    def feedback(self) -> list[Feedback]:
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 100)
        queue, self._queue = self._queue, []
        return queue

    def overlooked(self) -> list[Feedback]:
        return self.feedback()

    @property
    def is_open(self) -> bool:
        return self.fd >= 0

    def close(self) -> None:
        if self.is_open:
            os.close(self.fd)
            os.close(self._far)
            self.fd = -1


class Sysfs:
    """The virtio_input driver's folder: a device that is unbound has no input device there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.driver = root / "sys" / DRIVER
        self.driver.mkdir(parents=True)
        self.records = root / "run" / "gamepads"
        for attribute in ("bind", "unbind"):
            (self.driver / attribute).touch()

    def plug(self, device: str, serial: str) -> None:
        (self.root / "sys" / DEVICES / device).mkdir(parents=True)
        folder = self.driver / device / "input" / "input7"
        folder.mkdir(parents=True)
        (folder / "uniq").write_text(f"{serial}\n")

    def unplug(self, device: str) -> None:
        (self.root / "sys" / DEVICES / device).rmdir()
        shutil.rmtree(self.driver / device)

    def said(self, attribute: str) -> str:
        """What was written last."""
        return (self.driver / attribute).read_text()

    @property
    def recorded(self) -> list[str]:
        return sorted(record.name for record in self.records.glob("*"))

    def twins(self) -> Twins:
        return Twins(self.root / "sys", self.records)


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    sysfs = Sysfs(tmp_path)
    sysfs.plug("virtio5", "pad1")
    sysfs.plug("virtio6", "mouse")
    return sysfs


@pytest.fixture(autouse=True)
def made() -> Iterator[list[FakeUinput]]:
    FakeUinput.made.clear()
    FakeUinput.error = 0
    yield FakeUinput.made
    assert not any(uinput.is_open for uinput in FakeUinput.made), "a device was left open"


@contextlib.asynccontextmanager
async def host(sysfs: Sysfs, grace: float = GRACE, twins: Twins | None = None) -> AsyncIterator[tuple[Peer, Gamepads]]:
    gamepads = Gamepads(twins or sysfs.twins(), cast(Any, FakeUinput), grace)
    gamepads.start()
    try:
        async with asking(gamepads.handlers()) as peer:
            yield peer, gamepads
    finally:
        await gamepads.close()
    assert not gamepads._turns, "whoever waits for a pad is forgotten with it"


def opening(peer: Peer, pad: Pad = PAD) -> Stream:
    return peer.call({"op": OPERATION, "pad": pack_pad(pad)})


async def heard(stream: Stream) -> Message:
    message = await asyncio.wait_for(stream.receive(), 10)
    assert message is not None
    assert isinstance(message.content, bytes)
    return unpack_message(message.content)


async def send(stream: Stream, events: Sequence[virtio_input_event]) -> None:
    await stream.send(b"".join(map(VIRTIO_INPUT_EVENT.pack, events)))


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about")


@on_a_loop
async def test_a_pad_is_made_and_its_twin_steps_aside(sysfs: Sysfs, made: list[FakeUinput]) -> None:
    async with host(sysfs) as (peer, _), opening(peer) as stream:
        assert await heard(stream) == Opened()
        (uinput,) = made
        assert (uinput.pad, uinput.created) == (PAD, True)
        assert (sysfs.said("unbind"), sysfs.recorded) == ("virtio5", ["virtio5"])
        await send(stream, PRESSED)
        await until(lambda: uinput.written == [PRESSED])
        stream.end()
        assert await asyncio.wait_for(stream.result(), 10) == {}
        assert uinput.written == [PRESSED, PAD.neutral()]
        assert not uinput.is_open
        assert (sysfs.said("bind"), sysfs.recorded) == ("virtio5", [])


@on_a_loop
async def test_what_games_do_is_told(sysfs: Sysfs, made: list[FakeUinput]) -> None:
    async with host(sysfs) as (peer, _), opening(peer) as stream:
        assert await heard(stream) == Opened()
        made[0].game(Stop(3), RUMBLE, Play(0, 2), Gain(7))
        assert [await heard(stream) for _ in range(3)] == [Gain(7), RUMBLE, Play(0, 2)]
        made[0].game(Erase(0))
        assert await heard(stream) == Erase(0)


@on_a_loop
async def test_packets_that_were_taken_are_counted(sysfs: Sysfs, made: list[FakeUinput]) -> None:
    async with host(sysfs) as (peer, _), opening(peer) as stream:
        assert await heard(stream) == Opened()
        for _ in range(2 * TAKE_AFTER):
            await send(stream, PRESSED)
        assert [await heard(stream), await heard(stream)] == [Taken(TAKE_AFTER), Taken(TAKE_AFTER)]
        assert len(made[0].written) == 2 * TAKE_AFTER


@on_a_loop
async def test_a_pad_outlives_its_stream(sysfs: Sysfs, made: list[FakeUinput]) -> None:
    """Games keep the device that they have open; the next stream hears what plays."""
    async with host(sysfs, grace=60) as (peer, gamepads):
        async with opening(peer) as stream:
            assert await heard(stream) == Opened()
            await send(stream, PRESSED)
            made[0].game(RUMBLE, Play(0, 5))
            await until(lambda: made[0].written)
        await until(lambda: made[0].written == [PRESSED, PAD.neutral()])
        made[0].game(Gain(9))  # a game is answered meanwhile
        await until(lambda: not made[0]._queue)
        gamepads._grace = GRACE
        async with opening(peer) as stream:
            assert [await heard(stream) for _ in range(4)] == [Opened(), Gain(9), RUMBLE, Play(0, 5)]
            assert len(made) == 1
            await asyncio.sleep(2 * GRACE)
            assert made[0].is_open
        await until(lambda: not made[0].is_open)
        await until(lambda: sysfs.said("bind") == "virtio5")


@on_a_loop
async def test_a_channel_that_breaks_leaves_nothing_pressed(sysfs: Sysfs, made: list[FakeUinput]) -> None:
    async with host(sysfs, grace=60) as (peer, _):
        stream = opening(peer)
        assert await heard(stream) == Opened()
        await send(stream, PRESSED)
        await until(lambda: made[0].written)
        peer.close()
        await until(lambda: made[0].written == [PRESSED, PAD.neutral()])
        assert made[0].is_open
    assert sysfs.said("bind") == "virtio5"


@on_a_loop
async def test_the_newest_stream_has_the_pad(sysfs: Sysfs, made: list[FakeUinput]) -> None:
    async with host(sysfs) as (peer, _), opening(peer) as first:
        assert await heard(first) == Opened()
        async with opening(peer) as second:
            assert await heard(second) == Opened()
            with pytest.raises(RemoteError, match="another stream"):
                await asyncio.wait_for(first.result(), 10)
            await send(second, PRESSED)
            await until(lambda: made[0].written[-1:] == [PRESSED])
            assert len(made) == 1


class SlowTwins(Twins):
    """Takes its time between a twin's driver and its record, until `go`."""

    def __init__(self, sysfs: Sysfs) -> None:
        super().__init__(sysfs.root / "sys", sysfs.records)
        self.slow, self.go, self.forgotten = threading.Event(), threading.Event(), threading.Event()

    def _forget(self, device: str) -> None:
        self.slow.set()
        assert self.go.wait(10)
        super()._forget(device)
        self.forgotten.set()


@on_a_loop
async def test_a_pad_that_is_wanted_while_it_is_given_back_stays_recorded(sysfs: Sysfs) -> None:
    twins = SlowTwins(sysfs)
    async with host(sysfs, twins=twins) as (peer, _), opening(peer) as first:
        assert await heard(first) == Opened()
        first.end()
        await until(twins.slow.is_set)
        async with opening(peer) as second:
            await asyncio.sleep(0.1)
            twins.go.set()
            assert await heard(second) == Opened()
            assert await asyncio.wait_for(first.result(), 10) == {}
            assert sysfs.recorded == ["virtio5"]


@on_a_loop
async def test_a_pad_that_is_wanted_while_it_is_given_back_for_another_agent_stays_recorded(sysfs: Sysfs) -> None:
    sysfs.twins().part("pad1", "virtio5")
    twins = SlowTwins(sysfs)
    async with host(sysfs, grace=0.05, twins=twins) as (peer, _):
        await until(twins.slow.is_set)
        async with opening(peer) as stream:
            await asyncio.sleep(0.1)
            twins.go.set()
            assert await heard(stream) == Opened()
            await until(twins.forgotten.is_set)
            assert sysfs.recorded == ["virtio5"]


@on_a_loop
async def test_a_pad_that_is_asked_for_as_its_time_ends_is_kept(sysfs: Sysfs, made: list[FakeUinput]) -> None:
    async with host(sysfs, grace=60) as (peer, gamepads):
        async with opening(peer) as first:
            assert await heard(first) == Opened()
        (held,) = gamepads._pads.values()
        await until(lambda: not held.is_taken)
        timer = held.expiry
        assert await gamepads._hold(PAD) is held
        await gamepads._give_up(held, timer)  # its time had come before
        assert made[0].is_open


@on_a_loop
async def test_a_pad_that_is_another_one_is_made_anew(sysfs: Sysfs, made: list[FakeUinput]) -> None:
    other = PAD._replace(name="Another Pad")
    async with host(sysfs) as (peer, _), opening(peer) as first:
        assert await heard(first) == Opened()
        async with opening(peer, other) as second:
            assert await heard(second) == Opened()
            assert [uinput.pad.name for uinput in made if uinput.is_open] == ["Another Pad"]


@on_a_loop
async def test_what_a_killed_agent_left_is_given_back(sysfs: Sysfs, made: list[FakeUinput]) -> None:
    sysfs.twins().part("pad1", "virtio5")
    async with host(sysfs, grace=2):
        assert sysfs.said("bind") == "", "the host may want it"
        await until(lambda: sysfs.said("bind") == "virtio5")
        assert sysfs.recorded == []


@on_a_loop
async def test_what_a_killed_agent_left_is_taken_up(sysfs: Sysfs, made: list[FakeUinput]) -> None:
    sysfs.twins().part("pad1", "virtio5")
    (sysfs.driver / "virtio5").rename(sysfs.root / "virtio5")  # it has no driver
    async with host(sysfs, grace=2) as (peer, _), opening(peer) as stream:
        assert await heard(stream) == Opened()
        await asyncio.sleep(2.5)
        assert sysfs.said("bind") == ""
    assert (sysfs.said("bind"), sysfs.recorded) == ("virtio5", [])


@on_a_loop
async def test_a_twin_that_does_not_come(sysfs: Sysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subos_agent.gamepad.service.TWIN_SECONDS", 0.1)
    async with host(sysfs) as (peer, _):
        with pytest.raises(RemoteError) as caught:
            await opening(peer, PAD._replace(serial="pad2")).result()
        assert caught.value.code == "not-found"
        assert sysfs.said("unbind") == ""


@on_a_loop
async def test_a_twin_that_comes_late(sysfs: Sysfs) -> None:
    async with host(sysfs) as (peer, _), opening(peer, PAD._replace(serial="pad2")) as stream:
        await asyncio.sleep(0.1)
        sysfs.plug("virtio9", "pad2")
        assert await heard(stream) == Opened()
        assert sysfs.said("unbind") == "virtio9"


@on_a_loop
async def test_a_kernel_without_uinput_keeps_the_twin(sysfs: Sysfs) -> None:
    FakeUinput.error = errno.ENOENT
    async with host(sysfs) as (peer, _):
        with pytest.raises(RemoteError) as caught:
            await opening(peer).result()
        assert (caught.value.code, caught.value.hint) == ("unavailable", "the guest's kernel needs the module uinput")
        assert sysfs.said("unbind") == ""


@on_a_loop
async def test_a_pad_that_cannot_be_made_gives_its_twin_back(sysfs: Sysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: FakeUinput) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(FakeUinput, "create", fail)
    async with host(sysfs) as (peer, _):
        with pytest.raises(RemoteError, match="cannot be made"):
            await opening(peer).result()
        assert (sysfs.said("unbind"), sysfs.said("bind"), sysfs.recorded) == ("virtio5", "virtio5", [])


@on_a_loop
async def test_who_gives_up_while_a_pad_is_made_leaves_nothing(sysfs: Sysfs, made: list[FakeUinput]) -> None:
    async with host(sysfs) as (peer, _):
        for _ in range(5):
            async with opening(peer):
                await asyncio.sleep(0.01)
        await until(lambda: made and not any(uinput.is_open for uinput in made))
        await until(lambda: sysfs.recorded == [])


@on_a_loop
async def test_more_pads_than_a_guest_takes(sysfs: Sysfs) -> None:
    for number in range(MAX_PADS):
        sysfs.plug(f"virtio{100 + number}", f"many{number}")
    async with host(sysfs) as (peer, _):
        streams = [opening(peer, PAD._replace(serial=f"many{number}")) for number in range(MAX_PADS)]
        for stream in streams:
            assert await heard(stream) == Opened()
        with pytest.raises(RemoteError) as caught:
            await opening(peer).result()
        assert caught.value.code == "busy"


@pytest.mark.parametrize("head", [{}, {"pad": 5}, {"pad": {**pack_pad(PAD), "effects": 97}}])
@on_a_loop
async def test_a_head_that_is_none(sysfs: Sysfs, head: dict[str, Any]) -> None:
    async with host(sysfs) as (peer, _):
        with pytest.raises(RemoteError) as caught:
            await peer.ask({"op": OPERATION, **head})
        assert caught.value.code == "malformed"


@on_a_loop
async def test_events_that_are_none(sysfs: Sysfs, made: list[FakeUinput]) -> None:
    async with host(sysfs) as (peer, _):
        stream = opening(peer)
        assert await heard(stream) == Opened()
        await stream.send(b"1234567")
        with pytest.raises(RemoteError) as caught:
            await asyncio.wait_for(stream.result(), 10)
        assert caught.value.code == "malformed"
        await until(lambda: made[0].written == [PAD.neutral()])


def test_a_file_that_is_no_uinput(tmp_path: Path) -> None:
    (tmp_path / "uinput").touch()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        UinputPad(PAD, tmp_path / "uinput")
    assert len(os.listdir("/proc/self/fd")) == before
