"""From the SIGKILL of a worker to the first request that the next one has answered (see bench/README.md).

A front end in QEMU's place, a supervisor in a process of its own: no guest, so it is the host's part alone.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers import PROJECT, BenchError, main, say

sys.path.insert(0, str(PROJECT / "tests"))  # support: the guest's side of vsock

import stages
from drivers import Guest, guest

from subos_devices.errors import SubosError

DEVICES = ("mouse", "keyboard", "gamepad1", "vsock", "rng", "fs")
HERE = Path(__file__).parent


class Served:
    """supervisor.py, and what it says."""

    def __init__(self, folder: Path, page: Path | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, HERE / "supervisor.py", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "log").open("wb"),
            text=True,
            env={**os.environ, **({stages.STAGES: str(page)} if page else {})},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._say, self._hear = self._process.stdin, self._process.stdout
        if self._hear.readline() != "ready\n":
            raise BenchError(f"the supervisor did not start: {(folder / 'log').read_text()}")

    def worker(self, name: str) -> int:
        """The pid of the device's worker, which may be on its way."""
        for _ in range(1000):
            self._say.write(f"{name}\n")
            self._say.flush()
            if pid := int(self._hear.readline()):
                return pid
            time.sleep(0.01)
        raise BenchError(f"{name} has no worker any more")

    def close(self) -> None:
        self._say.close()
        self._process.wait()
        self._hear.close()


def run() -> None:
    parser = argparse.ArgumentParser(prog="bench/recovery/run", description=__doc__)
    parser.add_argument("devices", nargs="*", metavar="DEVICE", help=f"of {', '.join(DEVICES)} (default: all)")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--inodes", type=int, default=10_000, help="that the guest of `fs` knows")
    parser.add_argument("--stages", action="store_true", help="where the time goes")
    parser.add_argument("--json", action="store_true", help="for a program, in ms")
    options = parser.parse_args()
    if unknown := set(options.devices) - set(DEVICES):
        raise BenchError(f"no device is called {min(unknown)}: there are {', '.join(DEVICES)}")
    wanted = options.devices or DEVICES
    with (
        tempfile.TemporaryDirectory(prefix="subos-recovery-") as name,
        served(Path(name), options.stages) as (one, page),
    ):
        rows = []
        for device in wanted:
            say(f"{device}: {options.kills} kills …")
            try:
                with closing(guest(device, Path(name), options.inodes)) as front_end:
                    rows.append(kills(one, front_end, options.kills, page))
            except SubosError as error:
                raise BenchError(f"{device}: {error}") from error
    print(json.dumps(rows, indent=2) if options.json else table(rows))


@contextmanager
def served(folder: Path, staged: bool) -> Iterator[tuple[Served, stages.Page | None]]:
    (folder / "share").mkdir()
    page = stages.make(str(folder / "stages")) if staged else None
    with closing(Served(folder, folder / "stages" if staged else None)) as one:
        yield one, page


def kills(one: Served, front_end: Guest, count: int, page: stages.Page | None) -> dict[str, object]:
    """One device's figures, in ms."""
    times, reached = [], []
    front_end.ask()
    for _ in range(count):
        pid = os.pidfd_open(one.worker(front_end.name))
        if page:
            page.clear()
        began = time.monotonic_ns()
        signal.pidfd_send_signal(pid, signal.SIGKILL)
        select.select([pid], [], [])  # what is said earlier may still reach the dead one
        died = time.monotonic_ns()
        os.close(pid)
        front_end.ask()
        answered = time.monotonic_ns()
        times.append((answered - began) / 1e6)
        if page:
            reached.append(spans(began, died, page, answered))
    row: dict[str, object] = {"device": front_end.name, "p50": statistics.median(times), "max": max(times)}
    if front_end.lost:
        row["lost"] = front_end.lost
    if reached:
        row["stages"] = {name: statistics.median(span[name] for span in reached) for name in reached[0]}
    return row


def spans(began: int, died: int, page: stages.Page, answered: int) -> dict[str, float]:
    """Milliseconds from one stage to the next."""
    found, last = {"died": (died - began) / 1e6}, began
    for name, at in {**page.times(), "answered": answered}.items():
        found[name] = (at - last) / 1e6
        last = at
    return found


def table(rows: list[dict[str, object]]) -> str:
    lines = [f"{'ms':10} {'p50':>8} {'max':>8}"]
    for row in rows:
        lines.append(f"{row['device']:10} {row['p50']:8.1f} {row['max']:8.1f}  {row.get('lost', '')}".rstrip())
        spent = row.get("stages")
        if isinstance(spent, dict):
            lines.append("  " + ", ".join(f"{name} {value:.2f}" for name, value in spent.items()))
    return "\n".join(lines)


main(run)
