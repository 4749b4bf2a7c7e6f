"""From copy to paste, between X servers of the host and of a booted guest (see bench/README.md). `run` starts it.

Both ends are programs that live on, so no start of a program is in it. The time begins before one is told to copy, and
ends when the other one has all bytes. `raw` is a stream of the vsock device of as many bytes, in turn with the others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from guests import reached
from peers import PROJECT, BenchError, main, say
from subos_desktop.clipboard import CHUNK, HTML, PNG, TEXT, Selection
from subos_desktop.clipboard.x11 import X11Clipboard
from subos_devices import signals
from subos_devices.config import resolve
from subos_devices.errors import SubosError
from subos_devices.launcher.control import GuestControl, agent_command
from subos_devices.launcher.devices import vsock_path
from subos_devices.launcher.guest_run import Mode
from subos_devices.launcher.settings import SETTINGS
from subos_devices.launcher.vm import VmPlan, start
from subos_devices.supervisor.holder import Holder

WORK = Path(__file__).with_name("work.py")
PORT = 5000
TIMEOUT = 120.0  # seconds for any answer
ROWS = {"text": (TEXT, 1 << 10), "html": (HTML, 1 << 20), "png": (PNG, 30 << 20)}
PAUSE = 0.3  # seconds between copies: who copies without end is slowed down
Row = dict[str, Any]


def run() -> None:
    parser = argparse.ArgumentParser(prog="bench/clipboard/run", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=15, help="after one that is not counted (default: 15)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    with closing(Holder.start()) as holder:
        try:
            results: list[Row] = []
            status = signals.run(measure(results, holder, options.rows or list(ROWS), options.rounds))
        except SubosError as error:
            raise BenchError(str(error)) from error
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        print(f"{'':12}{'direction':>12}{'p50 ms':>10}{'raw ms':>10}{'raw/ours':>10}")
        for row in results:
            ours, raw = row["p50"]["ours"], row["p50"]["raw"]
            print(f"{row['what']:12}{row['direction']:>12}{ours:10.1f}{raw:10.1f}{raw / ours:10.2f}")
    sys.exit(status)


async def measure(results: list[Row], holder: Holder, rows: list[str], rounds: int) -> int:
    say("booting")
    with x_server() as display:
        os.environ["DISPLAY"] = display
        os.environ.pop("WAYLAND_DISPLAY", None)
        async with booted(holder) as (reader, writer), X11Clipboard(display) as clipboard:
            ends = Ends(reader, writer, clipboard)
            for what in rows:
                mime, size = ROWS[what]
                for direction, once in (("to-guest", ends.to_guest), ("to-host", ends.to_host)):
                    say(f"{what} {direction}")
                    times: dict[str, list[float]] = {"ours": [], "raw": []}
                    for turn in range(-1, rounds if size < 10 << 20 else min(rounds, 5)):
                        ours = await asyncio.wait_for(once(mime, size), TIMEOUT)
                        raw = await asyncio.wait_for(ends.raw(direction, size), TIMEOUT)
                        if turn >= 0:
                            times["ours"].append(ours * 1000)
                            times["raw"].append(raw * 1000)
                        await asyncio.sleep(PAUSE)
                    p50 = {side: round(statistics.median(found), 2) for side, found in times.items()}
                    results.append({"what": what, "direction": direction, "p50": p50, "rounds": times})
    return 0


class Ends:
    """The host's program, `clipboard`, and the guest's, at the other end of the stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, clipboard: X11Clipboard) -> None:
        self._reader, self._writer, self._clipboard = reader, writer, clipboard
        self._offers = clipboard.offers()

    async def to_guest(self, mime: str, size: int) -> float:
        self._writer.write(f"paste {mime}\n".encode())
        await asyncio.sleep(0.2)  # it waits for the offer now
        began = time.perf_counter()
        await self._clipboard.offer(Selection.CLIPBOARD, [mime], lambda _mime: given(size))
        await self._reader.readexactly(1)
        return time.perf_counter() - began

    async def to_host(self, mime: str, size: int) -> float:
        began = time.perf_counter()
        self._writer.write(f"copy {mime} {size}\n".encode())
        async for offer in self._offers:
            if mime in offer.formats:
                break
        got = 0
        async for chunk in self._clipboard.read(Selection.CLIPBOARD, mime, offer.serial):
            got += len(chunk)
        took = time.perf_counter() - began
        if got != size:
            raise BenchError(f"{got} bytes of {size} came")
        return took

    async def raw(self, direction: str, size: int) -> float:
        began = time.perf_counter()
        if direction == "to-host":
            self._writer.write(f"source {size}\n".encode())
            left = size
            while left:
                left -= len(await self._reader.read(min(left, 1 << 20)))
        else:
            self._writer.write(f"sink {size}\n".encode())
            async for chunk in given(size):
                self._writer.write(chunk)
                await self._writer.drain()
            await self._reader.readexactly(1)
        return time.perf_counter() - began


async def given(size: int) -> AsyncIterator[bytes]:
    block = bytes(range(256)) * (CHUNK // 256)
    while size:
        yield block[:size]
        size -= min(size, CHUNK)


@contextlib.contextmanager
def x_server() -> Any:
    """A display of its own."""
    reader, writer = os.pipe()
    command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", "64x64x24", "-nolisten", "tcp", "-noreset"]
    try:
        server = subprocess.Popen(command, pass_fds=[writer], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError as error:
        raise BenchError("Xvfb is not there: installers/host.sh desktop") from error
    os.close(writer)
    try:
        with open(reader) as said:
            yield f":{said.readline().strip()}"
    finally:
        server.kill()
        server.wait()


@contextlib.asynccontextmanager
async def booted(holder: Holder) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """The default guest with an X server, a session of the agent and work.py; a stream to that."""
    os.chdir(PROJECT)  # which the guest then sees even under /tmp
    plan = VmPlan.from_settings(resolve(argparse.Namespace(mouse=False, keyboard=False, rng=False), SETTINGS, None))
    agent, variables = agent_command()
    session, _ = agent_command("session", "--backend", "x11")
    async with start(plan, holder, command=agent, mode=Mode.CONTROL, environment=variables) as vm:
        control = GuestControl(vm.machine)
        await control.wait_booted()
        script = (
            "mkfifo /tmp/x; Xvfb -displayfd 3 -screen 0 64x64x24 -nolisten tcp -noreset 3>/tmp/x >/dev/null 2>&1 & "
            "read number </tmp/x; export DISPLAY=:$number; "
            f"{shlex.join(session)} >/tmp/session.log 2>&1 & {sys.executable} {WORK} {PORT} >/tmp/work.log 2>&1 &"
        )
        await control.run(["sh", "-c", script], b"", "/", timeout=TIMEOUT)
        connection = await asyncio.to_thread(reached, vsock_path(vm.folder), PORT, TIMEOUT)
        connection.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=connection)
        await asyncio.wait_for(reader.readexactly(1), TIMEOUT)
        await asyncio.sleep(10.0)  # the session starts as well
        yield reader, writer
        writer.close()
        await control.close()


main(run)
