"""A gamepad between its drivers and the guest's agent: whose its events are, and what becomes of effects."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_devices.input.gamepad import profiles
from subos_devices.input.gamepad.agent import MESSAGES_AT_ONCE, AgentLink
from subos_devices.input.gamepad.device import GamepadDevice
from subos_devices.input.outbox import MAX_FRAMES
from subos_devices.vhost_user.device import DeviceSpec
from subos_protocol.effects import Effect, Erase, Feedback, Gain, Play, Rumble, Stop, Upload, to_object
from subos_protocol.gamepad import (
    MAX_PACKET,
    WINDOW,
    Lost,
    Message,
    Opened,
    Taken,
    pack_description,
    pack_message,
    unpack_pad,
)
from support.input_bench import Bench, heard
from support.input_ring import FakeWorker

REPORT = (0, 0, 0)
SOUTH, X = 0x130, 0
CENTRED = [(3, 0, 128), (3, 1, 128), (3, 2, 0), (3, 3, 128), (3, 4, 128), (3, 5, 0), (3, 16, 0), (3, 17, 0), REPORT]
RUMBLE = Upload(Effect(0, 0, 0, 0, Rumble(0xFFFF, 7)))
PLAYING = [{"ff": to_object(RUMBLE)}, {"ff": {"play": {"id": 0, "times": 1}}}]


class PadBench(Bench):
    """`agent` is the launcher's end of the channel."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.agent, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.agent.setblocking(False)
        super().__init__(
            GamepadDevice, folder, options=self.device_options(), fds={"agent": theirs.detach()}, **options
        )

    def device_options(self) -> dict[str, Any]:
        return {"profile": "dualsense"}

    def tell(self, *messages: Message) -> None:
        for message in messages:
            self.agent.send(pack_message(message))
        self.worker.turn()

    def agent_hears(self) -> list[Any]:
        """Descriptions, and events as tuples."""
        said: list[Any] = []
        with contextlib.suppress(BlockingIOError):
            while packet := self.agent.recv(MAX_PACKET):
                said += [json.loads(packet)] if packet[:1] == b"{" else struct.iter_unpack("<HHi", packet)
        return said

    def close(self) -> None:
        super().close()
        self.agent.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[PadBench]:
    bench = PadBench(tmp_path)
    bench.start_queue()
    assert bench.guest_reads() == CENTRED
    yield bench
    bench.close()
    assert not bench.worker.watched


@pytest.fixture
def taken(bench: PadBench) -> PadBench:
    """The agent has the pad, and its twin has no driver."""
    bench.agent_hears()
    bench.device.queue_stopped(bench.ring.queue)
    bench.tell(Opened())
    assert bench.agent_hears() == CENTRED
    assert bench.device.describe(bench.worker.statistics)["gamepad"]["agent"]
    return bench


def test_it_says_what_it_is(bench):
    first, again = bench.agent_hears()
    assert first == again, "at its start, and when the guest has a driver"
    assert unpack_pad(first["pad"]) == bench.device.pad()
    assert (first["pad"]["serial"], first["pad"]["effects"]) == ("pointer", 16)


def test_a_guest_that_starts_its_driver_without_end_fills_nothing(bench):
    for _ in range(5000):  # more than the launcher's socket takes, and nobody reads it
        bench.device.queue_stopped(bench.ring.queue)
        bench.device.queue_started(bench.ring.queue)
    assert len(bench.device._agent._unsaid) == 1
    assert len(bench.worker.alarms) == 1
    assert len(bench.agent_hears()) > 1
    bench.worker.ring()
    assert len(bench.agent_hears()) == 1


def test_a_channel_that_ends_leaves_no_effect_playing(taken):
    driver = taken.connect()
    taken.tell(RUMBLE, Play(0, 1))
    assert heard(driver) == PLAYING
    taken.agent.close()
    taken.worker.turn()
    assert heard(driver) == [{"ff": {"stop": 0}}, {"ff": {"erase": 0}}]
    assert not taken.device.describe(taken.worker.statistics)["gamepad"]["agent"]


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_can_be_said(name):
    device = GamepadDevice(DeviceSpec("gamepad", "gamepad8", {"profile": name}))
    assert pack_description(device.pad())


def test_events_go_to_the_guest_s_driver_while_no_agent_has_it(bench):
    bench.agent_hears()
    driver = bench.connect()
    bench.send(driver, (1, SOUTH, 1))
    assert bench.guest_reads() == [(1, SOUTH, 1), REPORT]
    assert bench.agent_hears() == []


def test_what_is_held_changes_hands(bench):
    """There and back again; the driver of the twin is another one then, and yet may have seen anything."""
    driver = bench.connect()
    bench.send(driver, (1, SOUTH, 1), (3, X, 255))
    bench.guest_reads()
    bench.agent_hears()
    bench.device.queue_stopped(bench.ring.queue)
    bench.tell(Opened())
    held = bench.agent_hears()
    assert {(1, SOUTH, 1), (3, X, 255)} <= set(held)
    assert held[-1] == REPORT
    bench.send(driver, (1, SOUTH, 0))
    assert bench.agent_hears() == [(1, SOUTH, 0), REPORT]
    bench.tell(Lost())
    assert not bench.device.describe(bench.worker.statistics)["gamepad"]["agent"]
    bench.start_queue()
    assert {(1, SOUTH, 0), (3, X, 255)} <= set(bench.guest_reads())
    bench.send(driver, (3, X, 0))
    assert bench.guest_reads() == [(3, X, 0), REPORT]


def test_an_agent_that_leaves_the_twin_its_driver(bench):
    """It has the events alone; afterwards the twin is told the state, releases too."""
    driver = bench.connect()
    bench.send(driver, (1, SOUTH, 1))
    bench.guest_reads()
    bench.agent_hears()
    bench.tell(Opened())
    bench.agent_hears()
    bench.send(driver, (1, SOUTH, 0))
    assert bench.guest_reads() == []
    bench.tell(Lost())
    assert (1, SOUTH, 0) in bench.guest_reads()


def test_a_driver_that_goes_leaves_the_agent_s_pad_neutral(taken):
    driver = taken.connect()
    taken.send(driver, (1, SOUTH, 1), (3, X, 0))
    taken.agent_hears()
    driver.close()
    taken.worker.turn()
    assert sorted(taken.agent_hears()) == [REPORT, (1, SOUTH, 0), (3, X, 128)]


def test_an_agent_that_takes_nothing_gets_no_more(taken):
    """Motion is merged meanwhile, buttons are kept, and drivers wait."""
    driver = taken.connect()
    for value in range(WINDOW - 1):  # the state was one
        taken.send(driver, (3, X, value))
    assert len(taken.agent_hears()) == 2 * (WINDOW - 1)
    for value in range(100):
        taken.send(driver, (3, X, value))
    for number in range(MAX_FRAMES - 1):
        taken.send(driver, (1, SOUTH, 1 - number % 2))
    assert taken.agent_hears() == []
    taken.send(driver, (3, X, 5))
    fill(driver)
    taken.tell(Taken(8))
    said = taken.agent_hears()
    assert said[:2] == [(3, X, 99), REPORT]
    assert [value for type_, _code, value in said if type_ == 1][:3] == [1, 0, 1]
    for _ in range(1000):
        driver_waits = not taken.agent_hears()
        taken.tell(Taken(WINDOW))
        if driver_waits:
            break
    driver.send(struct.pack("<HHi", 3, X, 7))
    taken.worker.turn()
    assert taken.agent_hears()[-2:] == [(3, X, 7), REPORT]


@pytest.mark.parametrize("next_one", [Lost(), Opened()])
def test_drivers_do_not_wait_for_an_agent_that_is_gone(taken, next_one):
    driver = taken.connect()
    for number in range(WINDOW + MAX_FRAMES):
        taken.send(driver, (1, SOUTH, 1 - number % 2))
    fill(driver)
    taken.agent_hears()
    taken.tell(next_one)
    taken.worker.turn()
    driver.send(struct.pack("<HHi", 3, X, 9))
    taken.worker.turn()
    taken.tell(Lost())
    taken.start_queue()
    assert (3, X, 9) in taken.guest_reads()


def test_a_launcher_that_takes_nothing_is_told_later(taken):
    """It cannot be told of 32 packets, so it must have been told of much else."""
    taken.agent_hears()
    told = 0
    while not taken.worker.alarms:
        taken.device._agent.announce()
        told += 1
    taken.tell(Lost(), Opened())
    taken.worker.ring()
    assert len(taken.agent_hears()) == told - 1
    taken.worker.ring()
    assert taken.agent_hears()[-1] == REPORT, "the state"
    assert not taken.worker.alarms


def fill(driver: socket.socket) -> None:
    """Until nobody takes more; it ends only if the device does not read."""
    with contextlib.suppress(BlockingIOError):
        while True:
            driver.send(struct.pack("<HHi", 3, X, 6))


def test_effects_reach_every_driver_and_those_that_come_later(taken):
    first = taken.connect()
    taken.tell(RUMBLE, Gain(5), Play(0, 1))
    assert heard(first) == [PLAYING[0], {"ff": {"gain": 5}}, PLAYING[1]]
    assert heard(taken.connect()) == [{"ff": {"gain": 5}}, *PLAYING]
    taken.tell(Stop(0), Erase(0))
    assert heard(first) == [{"ff": {"stop": 0}}, {"ff": {"erase": 0}}]
    assert heard(taken.connect()) == [{"ff": {"gain": 5}}]


def test_effects_that_come_to_their_end_are_not_played_again(taken):
    taken.tell(Upload(Effect(1, 1, 0, 0, Rumble(1, 1))), Play(1, 1))
    (first,) = heard(taken.connect())[:1]
    assert "upload" in first["ff"]


@pytest.mark.parametrize("end", ["lost", "another"])
def test_effects_end_with_the_agent(taken, end):
    driver = taken.connect()
    taken.tell(RUMBLE, Play(0, 1))
    assert heard(driver) == PLAYING
    taken.tell(Lost() if end == "lost" else Opened())
    assert heard(driver) == [{"ff": {"stop": 0}}, {"ff": {"erase": 0}}]


def test_a_worker_that_ends_hangs_up_on_drivers(taken):
    driver = taken.connect()
    taken.tell(RUMBLE, Play(0, 1))
    taken.device.close()
    assert heard(driver) == [*PLAYING, None]


def test_what_an_agent_says_that_has_no_pad_is_nothing(bench):
    driver = bench.connect()
    bench.tell(RUMBLE, Play(0, 1), Taken(1))
    assert heard(driver) == []


def test_effects_that_are_none(taken):
    driver = taken.connect()
    taken.tell(Play(3, 1), Stop(3), Erase(3))
    for packet in (b"x", b'{"play": {"id": 96, "times": 1}}', b'{"stop": 0}'.ljust(2000), b"[" * 1000):
        taken.agent.send(packet)
    taken.worker.turn()
    assert heard(driver) == []
    assert len(taken.worker.said) == 1
    taken.tell(RUMBLE, Play(0, 1))
    assert heard(driver) == PLAYING


def test_a_flood_of_effects_is_read_in_turns(taken):
    """And a driver that does not read is told in the end what counts."""
    driver = taken.connect()
    taken.tell(RUMBLE)
    told = 0
    for number in range(3000):
        try:
            taken.agent.send(pack_message(Gain(number) if number % 2 else Play(0, number + 1)))
        except BlockingIOError:
            taken.worker.turn()
            taken.worker.ring()
        told = number
    for _ in range(1000):
        taken.worker.turn()
        if not taken.worker.alarms:
            break
        taken.worker.ring()
    taken.tell(Gain(11), Stop(0))
    said = heard(driver)
    for _ in range(1000):
        taken.worker.turn()
        more = heard(driver)
        if not more:
            break
        said += more
    assert told == 2999
    assert len(said) < 3000
    assert sorted(map(json.dumps, said[-2:])) == ['{"ff": {"gain": 11}}', '{"ff": {"stop": 0}}']


def test_so_many_messages_are_read_at_once(taken):
    driver = taken.connect()
    for number in range(2 * MESSAGES_AT_ONCE):
        taken.agent.send(pack_message(Gain(number)))
    taken.worker.turn()
    assert len(heard(driver)) == MESSAGES_AT_ONCE
    taken.worker.ring()
    taken.worker.turn()
    assert len(heard(driver)) == MESSAGES_AT_ONCE


def test_the_next_worker_goes_on_with_the_channel(taken, tmp_path):
    agent, theirs = taken.agent, taken.device._agent._channel.dup()
    agent.send(pack_message(Gain(1)))
    device = GamepadDevice(DeviceSpec("gamepad", "pointer", {"profile": "dualsense"}, {"agent": theirs.detach()}))
    worker = FakeWorker(respawned=True)
    device.start(worker)
    worker.turn()
    assert not device._agent.has_pad
    (description,) = taken.agent_hears()
    assert unpack_pad(description["pad"]) == device.pad()
    agent.send(pack_message(Opened()))
    worker.turn()
    assert taken.agent_hears() == CENTRED
    device.close()
    assert not worker.watched


def test_a_launcher_that_is_gone(taken):
    taken.agent.close()
    taken.worker.turn()
    taken.send(taken.connect(), (3, X, 5))


class Anybody:
    """A pad that notes nothing."""

    def agent_has_it(self) -> None: ...
    def agent_lost_it(self) -> None: ...
    def agent_takes_more(self) -> None: ...
    def feel(self, message: Feedback) -> None: ...


messages = st.sampled_from([Opened(), Lost(), Taken(1), Taken(WINDOW), RUMBLE, Play(0, 1), Erase(0), Gain(1)])


@given(st.lists(messages.map(pack_message) | st.binary(min_size=1, max_size=64), max_size=40))
def test_whatever_an_agent_says_what_is_on_its_way_is_bounded(packets: list[bytes]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker = FakeWorker()
    pad = GamepadDevice(DeviceSpec("gamepad", "pad", {"profile": "generic"})).pad()
    with ours:
        link = AgentLink(theirs, pad, Anybody(), worker)
        for packet in packets:
            ours.send(packet)
            worker.turn()
            worker.ring()
            link.put([])
            assert 0 <= link._on_its_way <= WINDOW
        link.close()
    assert not worker.watched
