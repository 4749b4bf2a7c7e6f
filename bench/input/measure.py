"""From an input event on the host to a guest's program that has read it (see bench/README.md). `run` starts it.

Our devices beside QEMU's own, in one booted guest, in turn: virtio-tablet over VNC and by QMP, usb-tablet by QMP. Each
time ends when the guest's program (work.py) has said that it has the event, so the way back is in all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shlex
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qemu_pointers import AXIS_MAX, Monitor, Move, Vnc

from guests import reached
from peers import PROJECT, BenchError, main, say
from subos_devices import signals
from subos_devices.config import resolve
from subos_devices.errors import SubosError
from subos_devices.input.script import DriverConnection
from subos_devices.launcher.control import GuestControl, agent_command
from subos_devices.launcher.devices import driver_path, vsock_path
from subos_devices.launcher.guest_run import Mode
from subos_devices.launcher.settings import NO_RUMBLE, SETTINGS
from subos_devices.launcher.vm import RunningVm, VmPlan, start
from subos_devices.supervisor.holder import Holder
from subos_protocol.input_codes import Abs, Ev, Key, Rel, Syn
from subos_protocol.virtio_input import virtio_input_event

WORK = Path(__file__).with_name("work.py")
PORT = 5000
TIMEOUT = 120.0
BLOCK = 20  # moves of one side before the next has its turn
FLOOD, CLICKS = 20_000, 200
REPORTS, SECONDS = 8_000, 10  # a second, and how long
PADS, PAD_RATE, PAD_SECONDS = 4, 1_000, 5
SYN = virtio_input_event(Ev.EV_SYN, Syn.SYN_REPORT, 0)
OURS, VNC, QMP, USB = "subos", "virtio-tablet, VNC", "virtio-tablet, QMP", "usb-tablet, QMP"
NAMES = {OURS: "SubOS Mouse", VNC: "QEMU Virtio Tablet", QMP: "QEMU Virtio Tablet", USB: "QEMU QEMU USB Tablet"}
MICE = {VNC: "QEMU Virtio Tablet", QMP: "QEMU Virtio Tablet", USB: "QEMU HID Tablet"}
POINTER = "SubOS Pointer"
PAD_NAMES = [f"gamepad{number + 1}" for number in range(PADS)]


class Guest:
    """work.py's end of a stream, and what drives the pointers."""

    def __init__(self, vm: RunningVm, stream: socket.socket, vnc: Vnc, monitor: Monitor, pads: list[str]) -> None:
        self.vm = vm
        self.pads = pads
        self.monitor = monitor
        self._stream = stream
        self._vnc = vnc
        self._file = stream.makefile("rb")

    def ask(self, words: str) -> str:
        self._stream.sendall(words.encode() + b"\n")
        return self._file.readline().decode().strip()

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask("report"))
        return found

    def echo(self) -> None:
        """Waits until one more frame has been read."""
        if not self._file.read(1):
            raise BenchError("the guest's program is gone")

    def driver(self, name: str) -> DriverConnection:
        return DriverConnection(driver_path(self.vm.folder, name))

    @contextlib.contextmanager
    def pointer(self, side: str) -> Any:
        """Its `Move`."""
        if side == OURS:
            with self.driver("mouse") as driver:
                yield lambda x, y, pressed=False: driver.send(frame(x, y, pressed))
                driver.finish()
            return
        self.monitor.drive(MICE[side])
        yield self._vnc.move if side == VNC else self.monitor.move


def frame(x: int, y: int, pressed: bool) -> list[virtio_input_event]:
    return [
        virtio_input_event(Ev.EV_ABS, Abs.ABS_X, x),
        virtio_input_event(Ev.EV_ABS, Abs.ABS_Y, y),
        virtio_input_event(Ev.EV_KEY, Key.BTN_LEFT, int(pressed)),
        SYN,
    ]


# --- rows


def latency(guest: Guest, options: argparse.Namespace) -> dict[str, Any]:
    """One move at a time, milliseconds."""
    times: dict[str, list[float]] = {side: [] for side in NAMES}
    for turn in range(options.moves // BLOCK + 1):
        for side in sorted(NAMES, reverse=bool(turn % 2)):
            guest.ask(f"echo {NAMES[side]}")
            with guest.pointer(side) as move:
                for number in range(BLOCK):
                    # Ever another place, whatever the resolution.
                    place = (turn * BLOCK + number) % 400 * 80, (number + 1) * 1500
                    time.sleep(0.002)
                    began = time.perf_counter()
                    move(*place)
                    guest.echo()
                    if turn:
                        times[side].append((time.perf_counter() - began) * 1000)
    return {side: percentiles(found) for side, found in times.items()}


def percentiles(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100)
    return {"n": len(values), "p50": round(cuts[49], 3), "p99": round(cuts[98], 3), "max": round(max(values), 3)}


def flood(guest: Guest, _options: argparse.Namespace) -> dict[str, Any]:
    """Moves as fast as they are taken, and clicks among them: which of them arrive, and where the pointer ends."""
    found: dict[str, Any] = {}
    for side in (OURS, VNC):
        guest.ask(f"count {NAMES[side]}")
        began = time.perf_counter()
        with guest.pointer(side) as move:
            send_flood(move)
        said, seconds = settled(guest, NAMES[side]), time.perf_counter() - began
        at = tuple(said["axes"].get(str(int(axis))) for axis in (Abs.ABS_X, Abs.ABS_Y))
        found[side] = {
            "clicks": said["presses"].get(str(int(Key.BTN_LEFT)), 0),
            "held": said["keys"].get(str(int(Key.BTN_LEFT)), 0),
            "right_place": at == (AXIS_MAX, AXIS_MAX),
            "dropped": said["dropped"],
            "frames": said["frames"],
            "seconds": round(seconds, 2),
        }
    return found


def send_flood(move: Move) -> None:
    for number in range(FLOOD):
        place = number * 7 % AXIS_MAX, number * 13 % AXIS_MAX
        move(*place, False)
        if number % (FLOOD // CLICKS) == 0:
            move(*place, True)
            move(*place, False)
    move(AXIS_MAX, AXIS_MAX, False)


def settled(guest: Guest, *names: str) -> Any:
    """What was counted, once nothing more has come for a second."""
    before: dict[str, Any] = {}
    while (now := guest.report()) != before:
        before = now
        time.sleep(1.0)
    return now[names[0]] if len(names) == 1 else now


def high_rate(guest: Guest, _options: argparse.Namespace) -> dict[str, Any]:
    """A mouse of 8,000 reports a second for ten seconds, with a click every tenth of one."""
    guest.ask(f"count {POINTER}")
    sent = clicks = 0
    with guest.driver("pointer") as driver:
        began = time.perf_counter()
        for number in range(REPORTS * SECONDS // 8):
            pace(began + number * 8 / REPORTS)
            events = [virtio_input_event(Ev.EV_REL, Rel.REL_X, 1), SYN] * 8
            if number % (REPORTS // 80) == 0:
                clicks += 1
                for value in (1, 0):
                    events += [virtio_input_event(Ev.EV_KEY, Key.BTN_LEFT, value), SYN]
            driver.send(events)
            sent += 8
        driver.finish()
        seconds = time.perf_counter() - began
    said = settled(guest, POINTER)
    return {
        "sent": sent,
        "arrived": said["sums"].get(str(int(Rel.REL_X)), 0),
        "clicks": clicks,
        "clicks_arrived": said["presses"].get(str(int(Key.BTN_LEFT)), 0),
        "held": said["keys"].get(str(int(Key.BTN_LEFT)), 0),
        "dropped": said["dropped"],
        "frames": said["frames"],
        "seconds": round(seconds, 2),
    }


def pads(guest: Guest, _options: argparse.Namespace) -> dict[str, Any]:
    """Four pads at 1,000 reports a second each: a stick that moves, and a button now and then."""
    names = guest.pads
    guest.ask(f"count {'|'.join(names)}")
    presses, last = 0, 0
    with contextlib.ExitStack() as stack:
        drivers = [stack.enter_context(guest.driver(name)) for name in PAD_NAMES]
        began = time.perf_counter()
        for number in range(PAD_RATE * PAD_SECONDS):
            pace(began + number / PAD_RATE)
            last = random.randrange(-32768, 32767)
            events = [virtio_input_event(Ev.EV_ABS, Abs.ABS_X, last)]
            if number % 50 == 0:
                down = number % 100 == 0
                presses += down
                events.append(virtio_input_event(Ev.EV_KEY, Key.BTN_SOUTH, int(down)))
            for driver in drivers:
                driver.send([*events, SYN])
        seconds = time.perf_counter() - began
        said = settled(guest, *names)  # before the drivers go, and with them what they hold
    return {
        "presses": presses,
        "arrived": [said[name]["presses"].get(str(int(Key.BTN_SOUTH)), 0) for name in names],
        "right_place": [said[name]["axes"].get(str(int(Abs.ABS_X))) == last for name in names],
        "dropped": [said[name]["dropped"] for name in names],
        "seconds": round(seconds, 2),
    }


def pace(moment: float) -> None:
    if (wait := moment - time.perf_counter()) > 0:
        time.sleep(wait)


def idle(guest: Guest, _options: argparse.Namespace) -> dict[str, Any]:
    """How often each worker is woken in ten seconds in which nothing happens."""
    time.sleep(2.0)
    workers = {name: device.pid for name, device in guest.vm.supervisor.devices.items()}
    inputs = {name: pid for name, pid in workers.items() if pid and name not in ("vsock", "root", "rng")}
    before = {name: switches(pid) for name, pid in inputs.items()}
    time.sleep(10.0)
    return {name: switches(pid) - before[name] for name, pid in inputs.items()}


def switches(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


Row = Callable[[Guest, argparse.Namespace], dict[str, Any]]
ROWS: dict[str, Row] = {"latency": latency, "flood": flood, "high-rate": high_rate, "pads": pads, "idle": idle}


# --- the guest


def run() -> None:
    parser = argparse.ArgumentParser(prog="bench/input/run", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--moves", type=int, default=400, help="of each side in `latency` (default: 400)")
    parser.add_argument("--rumble", action="store_true", help="pads that the guest's agent makes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    results: dict[str, Any] = {}
    with closing(Holder.start()) as holder:
        try:
            status = signals.run(measure(results, holder, options))
        except SubosError as error:
            raise BenchError(str(error)) from error
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        for row, found in results.items():
            print(row)
            for name, value in found.items():
                words = value if not isinstance(value, dict) else "  ".join(f"{k} {v}" for k, v in value.items())
                print(f"  {name:20} {words}")
    sys.exit(status)


async def measure(results: dict[str, Any], holder: Holder, options: argparse.Namespace) -> int:
    say("booting")
    async with booted(holder, rumble=options.rumble) as guest:
        for row in options.rows or ROWS:
            say(row)
            results[row] = await asyncio.to_thread(ROWS[row], guest, options)
    return 0


@contextlib.asynccontextmanager
async def booted(holder: Holder, *, rumble: bool) -> AsyncIterator[Guest]:
    """The default guest with our input devices and QEMU's, and work.py in it."""
    os.chdir(PROJECT)  # which the guest then sees even under /tmp
    pad = "generic" if rumble else f"generic:{NO_RUMBLE}"
    wanted = argparse.Namespace(mouse=True, pointer=True, keyboard=False, rng=False, gamepad=[pad] * PADS)
    plan = VmPlan.from_settings(resolve(wanted, SETTINGS, None))
    agent, variables = agent_command()
    with tempfile.TemporaryDirectory(prefix="subos-bench-") as folder:
        screen, program = Path(folder, "vnc"), Path(folder, "qemu")
        more = (
            "-vnc",
            f"unix:{screen}",
            "-device",
            "virtio-tablet-pci",
            "-device",
            "qemu-xhci",
            "-device",
            "usb-tablet",
        )
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(str(plan.qemu.program))} "$@" {shlex.join(more)}\n')
        program.chmod(0o700)
        plan = replace(plan, qemu=replace(plan.qemu, program=program))
        async with start(plan, holder, command=agent, mode=Mode.CONTROL, environment=variables) as vm:
            control = GuestControl(vm.machine)
            await control.wait_booted()
            work = shlex.join([sys.executable, "-S", str(WORK), str(PORT)])
            begin = f"modprobe -a xhci_pci hid_generic usbhid evdev; {work} >/tmp/work.log 2>&1 &"
            await control.run(["sh", "-c", begin], timeout=TIMEOUT)
            with (
                await asyncio.to_thread(reached, vsock_path(vm.folder), PORT, TIMEOUT) as stream,
                closing(Vnc(screen)) as vnc,
                closing(Monitor(vm.folder / "qmp.sock")) as monitor,
            ):
                stream.settimeout(TIMEOUT)
                pads = [f"subos/{name}" for name in PAD_NAMES] if rumble else PAD_NAMES
                guest = Guest(vm, stream, vnc, monitor, pads)
                for name in {*NAMES.values(), POINTER, *pads}:
                    if await asyncio.to_thread(guest.ask, f"open {name}") != "ok":
                        raise BenchError(f"the guest has no {name}")
                yield guest
            await control.close()


main(run)
