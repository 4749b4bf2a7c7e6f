"""The mouse and the random number generator in a booted guest, and what happens to it when their processes die."""

from __future__ import annotations

import json
import os
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest

from subos_devices import runtime
from subos_devices.input import script
from subos_devices.input.actions import move
from subos_devices.launcher.control import agent_command
from subos_devices.supervisor import control
from support.command import status_of, subos
from support.guest import Guest
from support.processes import is_alive
from support.steps import step
from support.waiting import eventually

pytestmark = pytest.mark.vm

END = script.parse(["press side, press extra"])
KILLS = 3


class Watch:
    """The guest watches its mouse, until `END` is played."""

    def __init__(self, guest: Guest, folder: Path) -> None:
        ready = folder / f"ready-{uuid.uuid4().hex}"
        self._guest = guest
        self._begun = guest.begin(guest.inside_command("mouse.py", str(ready)), timeout=150)
        eventually(lambda: ready.exists() or self._begun.done(), timeout=60)

    def end(self) -> dict[str, Any]:
        """What it saw (see inside/mouse.py)."""
        self._guest.play(END)
        done = self._guest.finish(self._begun)
        assert done.status == 0, done.stderr.decode()
        seen: dict[str, Any] = json.loads(done.stdout)
        return seen


def boot_id(guest: Guest) -> str:
    """Another one after each boot."""
    return guest.check("cat", "/proc/sys/kernel/random/boot_id")


def test_the_guest_knows_what_the_mouse_can_do(guest: Guest, folder: Path) -> None:
    device = Watch(guest, folder).end()["device"]
    assert device["codes"] == {
        "EV_KEY": ["BTN_LEFT", "BTN_RIGHT", "BTN_MIDDLE", "BTN_SIDE", "BTN_EXTRA", "BTN_TOUCH"],
        "EV_REL": ["REL_HWHEEL", "REL_WHEEL", "REL_WHEEL_HI_RES", "REL_HWHEEL_HI_RES"],
        "EV_ABS": ["ABS_X", "ABS_Y"],
    }
    assert device["x"] == device["y"] == [0, 32767]


def test_every_action_arrives_in_order(guest: Guest, folder: Path) -> None:
    guest.play([move(1, 1)])  # a position that is the same again would be no event
    watch = Watch(guest, folder)
    step("play every kind of action")
    guest.play(
        script.parse(
            [
                "move 100 200, click, move 32767 0, press right, move 5 6, release right,",
                "scroll 3, press middle, scroll -2 --horizontal, release middle, move 100% 50%",
            ]
        )
    )
    seen = watch.end()
    frames: list[list[list[object]]] = [[]]
    for event in seen["events"]:
        if event[0] == "EV_SYN":
            frames.append([])
        else:
            frames[-1].append(event)
    assert frames[:13] == [
        [["EV_ABS", "ABS_X", 100], ["EV_ABS", "ABS_Y", 200]],
        [["EV_KEY", "BTN_LEFT", 1]],
        [["EV_KEY", "BTN_LEFT", 0]],
        [["EV_ABS", "ABS_X", 32767], ["EV_ABS", "ABS_Y", 0]],
        [["EV_KEY", "BTN_RIGHT", 1]],
        [["EV_ABS", "ABS_X", 5], ["EV_ABS", "ABS_Y", 6]],
        [["EV_KEY", "BTN_RIGHT", 0]],
        [["EV_REL", "REL_WHEEL", 3], ["EV_REL", "REL_WHEEL_HI_RES", 360]],
        [["EV_KEY", "BTN_MIDDLE", 1]],
        [["EV_REL", "REL_HWHEEL", -2], ["EV_REL", "REL_HWHEEL_HI_RES", -240]],
        [["EV_KEY", "BTN_MIDDLE", 0]],
        [["EV_ABS", "ABS_X", 32767], ["EV_ABS", "ABS_Y", 16384]],
        [["EV_KEY", "BTN_SIDE", 1]],
    ]


def test_the_input_command_moves_the_guest_s_mouse(guest: Guest, folder: Path) -> None:
    watch = Watch(guest, folder)
    subos("input", guest.vm.plan.name, "move", "1234", "4321", check=0)
    state = watch.end()["state"]
    assert (state["x"], state["y"]) == (1234, 4321)


def assert_alternating(events: list[list[object]], button: str) -> None:
    """Pressed, released, pressed, … but for what the kernel itself dropped, because we read too slowly."""
    last: object = None
    for kind, code, value in events:
        if code == "SYN_DROPPED":
            last = None
        elif code == button:
            assert value != last, f"{kind} {code} is {value} twice"
            last = value


def test_the_input_command_types_on_the_guest_s_keyboard(guest: Guest, folder: Path) -> None:
    argv, variables = agent_command()
    reader = ["env", *(f"{name}={value}" for name, value in variables.items()), *argv[:-2], "subos_agent.evdev"]
    report = folder / "keys"
    shell = 'report=$1; shift; "$@" >"$report" 2>&1 </dev/null &'
    guest.check("sh", "-c", shell, "sh", str(report), *reader, "read", "SubOS Keyboard")
    eventually(lambda: report.exists() and report.stat().st_size, timeout=60)
    subos("input", guest.vm.plan.name, "type", "Oh, no", check=0)

    def pressed() -> list[str]:
        lines = report.read_text().splitlines(keepends=True)[1:]
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [code for type_, code, value in events if (type_, value) == ("EV_KEY", 1)]

    wanted = [f"KEY_{key}" for key in ("LEFTSHIFT", "O", "H", "COMMA", "SPACE", "N", "O")]
    eventually(lambda: len(pressed()) >= len(wanted), timeout=60)
    assert pressed() == wanted


def test_a_mouse_whose_process_is_killed_under_events(guest: Guest, folder: Path) -> None:
    """QEMU and the guest go on; no button stays down, and the last position is the one that was sent last."""
    boot, qemu = boot_id(guest), guest.vm.machine.pid
    restarts = guest.vm.supervisor.devices["mouse"].restarts
    watch = Watch(guest, folder)
    played, stop = [0], threading.Event()

    def stream() -> None:
        """Moves, and clicks all the while."""
        while not stop.is_set():
            place = played[0] % 32768
            guest.play([move(place, 32767 - place), *script.parse(["press, release, press right"])])
            played[0] += 1

    thread = threading.Thread(target=stream, name="stream")
    thread.start()
    try:
        for _ in range(KILLS):
            before = played[0]
            eventually(lambda before=before: played[0] >= before + 20)
            guest.kill_worker("mouse")
        before = played[0]
        eventually(lambda: played[0] >= before + 20)
    finally:
        stop.set()
        thread.join()
    step(f"{played[0]} rounds played; the last position")
    guest.play([move(11111, 22222)])
    seen = watch.end()
    assert (seen["state"]["x"], seen["state"]["y"]) == (11111, 22222)
    assert set(seen["state"]["pressed"]) <= {"BTN_SIDE", "BTN_EXTRA"}  # the end's own
    assert_alternating(seen["events"], "BTN_LEFT")
    assert guest.vm.supervisor.devices["mouse"].restarts == restarts + KILLS
    assert (boot_id(guest), guest.vm.machine.pid) == (boot, qemu)
    assert is_alive(qemu)


def draw(guest: Guest) -> bytes:
    assert guest.check("cat", "/sys/class/misc/hw_random/rng_current").startswith("virtio_rng")
    done = guest.run(["head", "-c", "4096", "/dev/hwrng"])
    assert len(done.stdout) == 4096
    return done.stdout


def test_the_guest_draws_random_bytes(guest: Guest) -> None:
    server = guest.vm.supervisor.devices["rng"]
    before = server.counters.requests
    blocks = [draw(guest), draw(guest)]
    assert blocks[0] != blocks[1]
    assert min(len(set(block)) for block in blocks) > 200  # of 256 different bytes
    assert server.counters.requests > before


def test_an_rng_whose_process_is_killed(guest: Guest) -> None:
    boot = boot_id(guest)
    restarts = guest.vm.supervisor.devices["rng"].restarts
    draw(guest)
    guest.kill_worker("rng")
    draw(guest)
    assert guest.vm.supervisor.devices["rng"].restarts == restarts + 1
    assert boot_id(guest) == boot


def test_status_lists_the_vm(guest: Guest) -> None:
    name = guest.vm.plan.name
    machine = status_of(name)
    assert (machine["name"], machine["pid"], machine["qemu"]) == (name, os.getpid(), guest.vm.machine.pid)
    rows = {device["name"]: device for device in machine["devices"]}
    assert {key: row["kind"] for key, row in rows.items()} == {
        "subos-root": "fs",
        "share0-share": "fs",
        "readonly": "fs",
        "locked": "fs",
        **dict.fromkeys(("always", "metadata", "never"), "fs"),
        "mouse": "mouse",
        "keyboard": "keyboard",
        "touch": "touch",
        "pen": "pen",
        **dict.fromkeys(("gamepad1", "gamepad2", "gamepad3", "gamepad4", "gamepad5"), "gamepad"),
        **dict.fromkeys(("gamepad2-motion", "gamepad3-motion", "gamepad4-motion"), "motion"),
        **dict.fromkeys(("gamepad2-touchpad", "gamepad3-touchpad"), "touchpad"),
        "rng": "rng",
        "vsock": "vsock",
    }
    for key, row in rows.items():
        comes_and_goes = key.startswith(("gamepad4", "gamepad5"))
        has_agent = row.get("gamepad", {}).get("agent")  # which then has taken the driver away
        assert row["driver"] or has_agent or comes_and_goes, f"the guest's driver of {key} does not run"
        assert is_alive(row["pid"])
        assert row["restarts"] == guest.vm.supervisor.devices[key].restarts
    assert rows["subos-root"]["requests"] > 1000
    assert rows["share0-share"]["options"]["shared_dir"] == str(guest.share)
    assert rows["readonly"]["options"]["readonly"] is True
    assert control.ask(name, "status")["name"] == name
    table = subos("status", check=0).stdout.decode()
    assert name in table
    assert str(rows["mouse"]["pid"]) in table
    assert runtime.is_running(name)


def test_all_processors_are_there(guest: Guest) -> None:
    """An emulated guest begins with one (launcher/qemu.py)."""
    assert guest.check("cat", "/sys/devices/system/cpu/online").strip() == "0-1"
    assert guest.check("nproc").strip() == "2"
