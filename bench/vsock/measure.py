"""Our vsock device beside QEMU's virtio-serial, in one booted guest (see bench/README.md). `run` starts it.

Each row alternates between the two (A B, B A, …). Printed are the medians of the rounds, and their ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from guests import reached
from peers import PROJECT, BenchError, main, say
from subos_devices import runtime, signals
from subos_devices.config import resolve
from subos_devices.errors import SubosError
from subos_devices.launcher.control import GuestControl, agent_command
from subos_devices.launcher.devices import vsock_path
from subos_devices.launcher.guest_run import Mode
from subos_devices.launcher.settings import SETTINGS
from subos_devices.launcher.vm import VmPlan, start
from subos_devices.supervisor.holder import Holder

OURS, PEER = "subos", "virtio-serial"
WORK = Path(__file__).with_name("work.py")
PORT, SERIAL = 5000, "org.subos.bench"
MESSAGE = 32  # bytes of a round trip's message
BLOCK = 64 << 10
TIMEOUT = 120.0  # seconds for any answer

Channels = dict[str, socket.socket]


def run() -> None:
    options = parse_arguments()
    results: dict[str, dict[str, Any]] = {}
    with closing(Holder.start()) as holder:
        try:
            status = signals.run(measure(results, holder, options))
        except SubosError as error:
            raise BenchError(str(error)) from error
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        print(f"{'median':12}{'unit':>8}{OURS:>14}{PEER:>14}{'ratio':>8}")
        for row, result in results.items():
            values = "".join(f"{result['median'][side]:14.1f}" for side in (OURS, PEER))
            print(f"{row:12}{result['unit']:>8}{values}{result['ratio']:8.2f}")
    sys.exit(status)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/vsock/run", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="after one that is not counted (default: 7)")
    parser.add_argument("--trips", type=int, default=500, help="round trips of a round (default: 500)")
    parser.add_argument("--size", type=int, default=16, metavar="MIB", help="of a throughput's round (default: 16)")
    parser.add_argument("--cpus", type=int, default=2, metavar="N", help="virtual processors (default: 2)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.rows = options.rows or list(ROWS)
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    return options


async def measure(results: dict[str, dict[str, Any]], holder: Holder, options: argparse.Namespace) -> int:
    say("booting")
    async with booted(holder, options.cpus) as channels:
        for row in options.rows:
            say(row)
            results[row] = await asyncio.to_thread(measure_row, channels, row, options)
    return 0


@contextlib.asynccontextmanager
async def booted(holder: Holder, cpus: int) -> AsyncIterator[Channels]:
    """The default guest, and a connected stream to work.py in it by each of the two."""
    os.chdir(PROJECT)  # which the guest then sees even under /tmp
    wanted = argparse.Namespace(mouse=False, keyboard=False, rng=False, cpus=cpus)
    plan = VmPlan.from_settings(resolve(wanted, SETTINGS, None))
    agent, variables = agent_command()
    async with start(plan, holder, command=agent, mode=Mode.CONTROL, environment=variables) as vm:
        control = GuestControl(vm.machine)
        await control.wait_booted()
        with contextlib.ExitStack() as stack:
            serial = await plugged_port(stack, vm.folder, await vm.machine.qmp())
            work = f"{sys.executable} -S {WORK}"
            begin = f"{work} vsock {PORT} >/dev/null 2>&1 & {work} serial {SERIAL} >/dev/null 2>&1 &"
            await control.run(["sh", "-c", begin])
            ours = stack.enter_context(await asyncio.to_thread(reached, vsock_path(vm.folder), PORT, TIMEOUT))
            for channel in (ours, serial):
                channel.settimeout(TIMEOUT)
            yield {OURS: ours, PEER: serial}
        await control.close()


async def plugged_port(stack: contextlib.ExitStack, folder: Path, monitor: Any) -> socket.socket:
    """One more virtio-serial port in the guest; the host's end of it."""
    path = folder / "bench.sock"
    listener = stack.enter_context(runtime.listen(path))
    address = {"type": "unix", "data": {"path": str(path)}}
    backend = {"type": "socket", "data": {"addr": address, "server": False}}
    await monitor.execute("chardev-add", id="bench", backend=backend)
    await monitor.execute(
        "device_add", driver="virtserialport", bus="ports.0", chardev="bench", name=SERIAL, id="bench"
    )
    return stack.enter_context(listener.accept()[0])


# --- rows


def measure_row(channels: Channels, row: str, options: argparse.Namespace) -> dict[str, Any]:
    unit, once, larger_is_better = ROWS[row]
    values: dict[str, list[float]] = {OURS: [], PEER: []}
    for turn in range(-1, options.rounds):
        for side in sorted(channels, reverse=turn % 2 == 0):
            value = once(channels[side], options)
            if turn >= 0:
                values[side].append(round(value, 2))
    median = {side: statistics.median(found) for side, found in values.items()}
    ratio = round(median[OURS] / median[PEER], 3)
    return {"unit": unit, "ratio": ratio, "larger_is_better": larger_is_better, "median": median, "rounds": values}


def round_trip(channel: socket.socket, options: argparse.Namespace) -> float:
    """The median of a round's trips."""
    message, times = os.urandom(MESSAGE), []
    channel.sendall(b"echo %d %d\n" % (options.trips, MESSAGE))
    for _ in range(options.trips):
        began = time.perf_counter()
        channel.sendall(message)
        receive(channel, MESSAGE)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def to_guest(channel: socket.socket, options: argparse.Namespace) -> float:
    block, size = os.urandom(BLOCK), options.size << 20
    channel.sendall(b"sink %d\n" % size)
    began = time.perf_counter()
    for _ in range(size // BLOCK):
        channel.sendall(block)
    receive(channel, 1)
    return options.size / (time.perf_counter() - began)


def to_host(channel: socket.socket, options: argparse.Namespace) -> float:
    began = time.perf_counter()
    channel.sendall(b"source %d\n" % (options.size << 20))
    receive(channel, options.size << 20)
    return options.size / (time.perf_counter() - began)


def receive(channel: socket.socket, size: int) -> None:
    """Takes exactly `size` bytes."""
    while size:
        data = channel.recv(min(size, 1 << 20))
        if not data:
            raise BenchError("the guest's end is gone")
        size -= len(data)


Once = Callable[[socket.socket, argparse.Namespace], float]
ROWS: dict[str, tuple[str, Once, bool]] = {
    "round-trip": ("µs", round_trip, False),
    "to-guest": ("MiB/s", to_guest, True),
    "to-host": ("MiB/s", to_host, True),
}

main(run)
