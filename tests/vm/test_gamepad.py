"""A gamepad that the guest's agent has: what games see of it, what they do with effects, and who dies meanwhile."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import subos_devices
from subos_devices.input.driver_socket import MAX_FEEDBACK
from subos_devices.input.gamepad import profiles
from subos_devices.launcher.control import Completed
from subos_devices.launcher.devices import driver_path
from subos_protocol.input_codes import Abs, Ev, Key
from subos_protocol.virtio_input import VIRTIO_INPUT_EVENT, virtio_input_event
from support.guest import Guest
from support.steps import step
from support.waiting import eventually

pytestmark = pytest.mark.vm

NAME = "gamepad1"
PROFILE = profiles.load("xbox360")
REPORT = virtio_input_event(Ev.EV_SYN, 0, 0)
RUMBLE = {"id": 0, "length": 500, "delay": 0, "direction": 0, "strong": 49152, "weak": 7, "type": "rumble"}
ENDLESS = {**RUMBLE, "length": 0}


class Driver:
    """A host driver of the pad, which is what the pad rumbles on; it connects again to the next worker."""

    def __init__(self, guest: Guest) -> None:
        self._path = driver_path(guest.vm.folder, NAME)
        self.felt: list[dict[str, Any]] = []
        self.hung_up = False
        self._connect()

    def _connect(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(os.fspath(self._path))
        self.socket.setblocking(False)

    def connect_again(self) -> None:
        self.close()
        eventually(lambda: self._connected(), timeout=20)
        self.hung_up = False

    def _connected(self) -> bool:
        try:
            self._connect()
        except OSError:
            self.socket.close()
            return False
        return True

    def send(self, *events: tuple[int, int, int]) -> None:
        self.socket.send(b"".join(VIRTIO_INPUT_EVENT.pack(virtio_input_event(*event)) for event in (*events, REPORT)))

    def feels(self, wanted: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Waits until what it was told is wanted."""

        def look() -> bool:
            while not self.hung_up:
                try:
                    packet = self.socket.recv(MAX_FEEDBACK)
                except BlockingIOError:
                    break
                except ConnectionError:
                    packet = b""
                self.hung_up = not packet
                if packet:
                    self.felt.append(json.loads(packet)["ff"])
            return wanted(self.felt)

        eventually(look, timeout=60)
        felt, self.felt = self.felt, []
        return felt

    def close(self) -> None:
        self.socket.close()


class Playing:
    """A game in the guest (inside/game.py) that goes on when it is told to."""

    def __init__(self, guest: Guest, folder: Path, steps: list[dict[str, Any]], *, then: list[dict[str, Any]]) -> None:
        self._guest = guest
        self._go, ready = folder / "go", folder / "ready"
        script = [*steps, {"file": str(ready)}, {"wait": str(self._go)}, *then]
        self._begun = begin(guest, script)
        eventually(lambda: ready.exists() or self._begun.done(), timeout=60)

    def end(self) -> dict[str, Any]:
        self._go.touch()
        return seen(self._guest, self._begun)


def begin(guest: Guest, script: list[dict[str, Any]]) -> concurrent.futures.Future[Completed]:
    return guest.begin(guest.inside_command("game.py", PROFILE.capabilities.name, json.dumps(script)), timeout=150)


def seen(guest: Guest, begun: concurrent.futures.Future[Completed]) -> dict[str, Any]:
    done = guest.finish(begun)
    assert done.status == 0, done.stderr.decode()
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def play(guest: Guest, *script: dict[str, Any]) -> dict[str, Any]:
    return seen(guest, begin(guest, list(script)))


def agent_has_it(guest: Guest) -> bool:
    return bool(guest.vm.supervisor.devices[NAME].describe()["gamepad"]["agent"])


def twin_runs(guest: Guest) -> bool:
    """Whether the guest's virtio-input driver has the pad."""
    held = guest.vm.supervisor.devices[NAME].held  # not its status, which takes longer than some drivers stay
    assert held is not None
    return bool(held.record["session"]["vrings"][0]["started"])


def kill_agent(guest: Guest, number: signal.Signals) -> None:
    step(f"the agent gets {number.name}")
    find = """for p in /proc/[0-9]*; do case $(tr '\\0' ' ' <$p/cmdline) in *' serve --allow-exec ')"""
    guest.check("sh", "-c", f"{find} kill -{number.name[3:]} ${{p#/proc/}};; esac; done 2>/dev/null")


@pytest.fixture
def pad(guest: Guest) -> Iterator[Driver]:
    eventually(lambda: agent_has_it(guest), timeout=120)
    driver = Driver(guest)
    yield driver
    driver.close()


def test_uinput_says_what_games_do(guest: Guest) -> None:
    """The kernel's side of it, without a host."""
    said = json.loads(guest.inside("uinput_pad.py", timeout=150))
    assert said["device"]["ids"] == [3, 0x45E, 0x28E, 0x110]
    assert said["device"]["codes"] == {"EV_KEY": [304, 315], "EV_ABS": [0], "EV_FF": [80, 81, 82, 90, 96]}
    assert said["device"]["axes"] == {"0": [128, 0, 255, 1, 15, 2]}
    assert [state["pressed"] for state in said["noted"]] == [["BTN_SOUTH"], []]
    assert [state["axes"]["0"] for state in said["noted"]] == [255, 128]
    kinds = ["upload", "play", "upload", "upload", "gain", "play", "stop", "upload", "stop", "erase"]
    assert [next(iter(each)) for each in said["said"]][: len(kinds)] == kinds
    assert said["said"][0]["upload"] == {**RUMBLE, "delay": 10}
    assert said["said"][2]["upload"]["envelope"] == [1, 2, 3, 4]
    assert sorted(each["erase"] for each in said["said"][len(kinds) :] if "erase" in each) == [0, 1], "it was closed"
    assert said["found"], "a request that uinput did not tell of is answered"
    assert said["failed"] == "No such device", "who uploads to a pad that goes is told so"


def test_effects_are_played_on_a_pad_of_the_host(guest: Guest) -> None:
    """The guest is the host here: it has a kernel with uinput."""
    said = json.loads(guest.inside("host_pad.py", str(Path(subos_devices.__file__).parents[1]), timeout=150))
    assert said["played"] == [{"upload": {**RUMBLE, "delay": 10}}, {"play": {"id": 0, "times": 2}}]
    assert {"stop": 0} in said["silenced"]
    assert {"stop": 0} in said["closed"]
    forces = [each["upload"] for each in said["simple"] if "upload" in each]
    assert [(force["type"], force["strong"], force["weak"]) for force in forces] == [
        ("rumble", 10, 10),
        ("rumble", 2, 2),
    ]
    assert len(said["late"]) < 20
    assert said["ended"]


def test_a_game_sees_one_pad_that_is_the_real_one(guest: Guest, pad: Driver) -> None:
    said = play(guest, {"nodes": True}, {"state": True})
    nodes, state = said["noted"]
    assert [node.rstrip("0123456789") for node in nodes] == ["event", "js"]
    device, can = said["device"], PROFILE.capabilities
    assert device["name"] == can.name
    assert device["ids"] == list(can.ids)
    assert device["codes"]["EV_KEY"] == sorted(can.of(Ev.EV_KEY))
    assert device["codes"]["EV_FF"] == sorted(PROFILE.force_feedback)
    assert {int(code): info[1:] for code, info in device["axes"].items()} == {
        code: list(info) for code, info in can.axes.items()
    }
    assert state["pressed"] == []
    assert {int(code): value for code, value in state["axes"].items()} == PROFILE.rest
    assert not twin_runs(guest)


def test_buttons_and_axes_arrive(guest: Guest, pad: Driver, folder: Path) -> None:
    pad.send((Ev.EV_KEY, Key.BTN_SOUTH, 1), (Ev.EV_ABS, Abs.ABS_X, -32768), (Ev.EV_ABS, Abs.ABS_RZ, 255))
    pad.send((Ev.EV_KEY, Key.BTN_START, 1))
    both = {"pressed": ["BTN_SOUTH", "BTN_START"]}
    game = Playing(guest, folder, [both, {"state": True}], then=[{"pressed": []}, {"state": True}])
    pad.close()
    before, state = game.end()["noted"]
    assert (before["axes"]["0"], before["axes"]["5"]) == (-32768, 255)
    assert {int(code): value for code, value in state["axes"].items()} == PROFILE.rest


def test_an_effect_arrives_with_its_magnitudes_and_its_duration(guest: Guest, pad: Driver, folder: Path) -> None:
    steps = [{"gain": 40000}, {"upload": RUMBLE}, {"play": {"id": 0, "times": 3}}]
    game = Playing(guest, folder, steps, then=[{"gain": 65535}])
    assert sorted(map(str, pad.feels(lambda felt: len(felt) >= len(steps)))) == sorted(map(str, steps))
    game.end()
    felt = pad.feels(lambda felt: {"erase": 0} in felt)
    assert {"gain": 65535} in felt
    assert felt[-1] == {"erase": 0}


def test_the_worker_is_killed_while_a_button_is_down_and_an_effect_plays(
    guest: Guest, pad: Driver, folder: Path
) -> None:
    """The game keeps its pad: nothing is pressed any more, and what it plays goes on on the next driver."""
    then = [{"pressed": ["BTN_START"]}, {"state": True}, {"nodes": True}]
    game = Playing(guest, folder, [{"upload": ENDLESS}, {"play": {"id": 0, "times": 1}}], then=then)
    pad.send((Ev.EV_KEY, Key.BTN_SOUTH, 1), (Ev.EV_ABS, Abs.ABS_X, 32767))
    pad.feels(lambda felt: {"play": {"id": 0, "times": 1}} in felt)
    server = guest.vm.supervisor.devices[NAME]
    restarts = server.restarts
    step("the worker is killed")
    os.kill(guest.worker(NAME), signal.SIGKILL)
    pad.feels(lambda _felt: pad.hung_up)
    eventually(lambda: server.restarts == restarts + 1 and agent_has_it(guest), timeout=60)
    pad.connect_again()
    pad.feels(lambda felt: {"upload": ENDLESS} in felt and {"play": {"id": 0, "times": 1}} in felt)
    pad.send((Ev.EV_KEY, Key.BTN_START, 1))
    said = game.end()
    state, nodes = said["noted"]
    assert state["axes"]["0"] == PROFILE.rest[Abs.ABS_X]
    assert len(nodes) == 2, "it is still one pad, and the one that the game has open"
    assert {"erase": 0} in pad.feels(lambda felt: {"erase": 0} in felt)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_agent_ends_while_a_button_is_down_and_an_effect_plays(
    guest: Guest, pad: Driver, folder: Path, number: signal.Signals
) -> None:
    """The effect stops here, and the next agent has the pad as it is now."""
    begin_in_background(guest, folder, [{"upload": ENDLESS}, {"play": {"id": 0, "times": 1}}])
    pad.send((Ev.EV_KEY, Key.BTN_SOUTH, 1))
    pad.feels(lambda felt: {"play": {"id": 0, "times": 1}} in felt)
    kill_agent(guest, number)
    felt = pad.feels(lambda felt: {"erase": 0} in felt)
    assert {"stop": 0} in felt
    if number == signal.SIGTERM:
        eventually(lambda: twin_runs(guest))
    eventually(lambda: agent_has_it(guest), timeout=120)
    step("the next agent has it")
    game = Playing(guest, folder, [{"pressed": ["BTN_SOUTH"]}], then=[{"pressed": []}, {"nodes": True}])
    pad.send((Ev.EV_KEY, Key.BTN_SOUTH, 0))
    assert len(game.end()["noted"][0]) == 2
    (folder / "over").touch()
    assert not twin_runs(guest)


def begin_in_background(guest: Guest, folder: Path, steps: list[dict[str, Any]]) -> None:
    """A game that plays on while the guest does something else."""
    ready = folder / "playing"
    script = json.dumps([*steps, {"file": str(ready)}, {"wait": str(folder / "over")}])
    command = guest.inside_command("game.py", PROFILE.capabilities.name, script)
    guest.check("sh", "-c", '"$@" >/dev/null 2>&1 </dev/null &', "sh", *command)
    eventually(ready.exists, timeout=60)


def test_a_game_that_floods_is_heard_in_the_end(guest: Guest, pad: Driver) -> None:
    step("5,000 times played and stopped, while nobody reads here")
    said = play(guest, {"upload": ENDLESS}, {"flood": 5000}, {"play": {"id": 0, "times": 7}}, {"erase": 0})
    assert said["effects"] == [0]
    felt = pad.feels(lambda felt: {"erase": 0} in felt)
    assert felt[-1] == {"erase": 0}
    assert agent_has_it(guest)
