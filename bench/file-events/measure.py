"""How long after a change on the host a program in the guest hears of it, and how fast a burst is told.

The time is that of a round trip: from before the change until the host sees what the guest's program has written to the
share in answer to its inotify event. So it is a little more than what is to be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from peers import BUILD, SUBOS_DEVICES, BenchError, main

ATTRIB, CLOSE_WRITE, MOVED_TO, CREATE, DELETE = 0x4, 0x8, 0x80, 0x100, 0x200  # linux/inotify.h
LOOK = 0.0003  # seconds between looks at the answers
PATIENCE = 60.0


class Answers:
    """What the guest's program has said so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at = 0

    def until(self, wanted: Callable[[list[tuple[int, str]]], bool], patience: float = PATIENCE) -> float:
        """When `wanted` was true of all events since the last time. Raises BenchError."""
        deadline, events = time.monotonic() + patience, list[tuple[int, str]]()
        while True:
            now = time.monotonic()
            size = self.path.stat().st_size
            if size > self.at:
                with self.path.open("rb") as file:
                    file.seek(self.at)
                    new, end, _begun = file.read().rpartition(b"\n")
                self.at += len(new + end)
                for line in new.decode().splitlines():
                    mask, _, name = line.partition(" ")
                    events.append((int(mask, 16), name))
                if wanted(events):
                    return now
            if now > deadline:
                raise BenchError(f"an event was not told within {patience:g} s: {events}")
            time.sleep(LOOK)


@contextlib.contextmanager
def watching(folder: Path, cache: str) -> Iterator[Answers]:
    """A guest with `folder` shared, where a program watches `folder/watched`."""
    (folder / "watched").mkdir()
    answers = Answers(folder / "answers")
    inside = Path(__file__).with_name("inside.py")
    (folder / "inside.py").write_text(inside.read_text())
    name = f"file-events-{os.getpid()}"
    command = [sys.executable, "-S", "/share/inside.py", "/share/watched", "/share/answers"]
    options = ["--name", name, "--cache", cache, "--share", f"{folder}:share:/share:rw"]
    process = subprocess.Popen([SUBOS_DEVICES, "run", *options, "--", *command], stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (answers.path.exists() and answers.path.stat().st_size) or not _has_agent(name):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError("the guest did not begin")
            time.sleep(0.1)
        answers.at = len("ready\n")
        time.sleep(2)  # what the guest does when it has booted
        yield answers
        (folder / "watched/end").touch()
        if process.wait(PATIENCE):
            raise BenchError("the guest's program failed")
    finally:
        process.terminate()
        process.wait()


def _has_agent(name: str) -> bool:
    said = subprocess.run([SUBOS_DEVICES, "status", name, "--json"], capture_output=True, text=True)
    return bool(not said.returncode and json.loads(said.stdout)[0].get("agent"))


def changes(folder: Path, number: int) -> Iterator[tuple[str, int, str, Callable[[], object]]]:
    """What is done: its name, the event that tells of it, the name in the folder, and the doing."""
    one, two = folder / f"one{number}", folder / f"two{number}"
    yield "create", CLOSE_WRITE, one.name, lambda: one.write_bytes(b"first")
    yield "write", CLOSE_WRITE, one.name, lambda: one.write_bytes(b"second")
    yield "chmod", ATTRIB, one.name, lambda: one.chmod(0o600)
    yield "rename", MOVED_TO, two.name, lambda: one.rename(two)
    yield "delete", DELETE, two.name, two.unlink


def measure(options: argparse.Namespace) -> dict[str, Any]:
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="file-events-", dir=options.folder or BUILD) as where:
        folder = Path(where)
        with watching(folder, options.cache) as answers:
            times: dict[str, list[float]] = {}
            for number in range(-3, options.rounds):  # the first ones do not count
                for kind, bit, name, change in changes(folder / "watched", number):
                    time.sleep(options.pause)
                    begun = time.monotonic()
                    change()
                    told = answers.until(_tells(bit, name))
                    if number >= 0:
                        times.setdefault(kind, []).append(1000 * (told - begun))
            time.sleep(1)
            answers.at = answers.path.stat().st_size
            begun = time.monotonic()
            for number in range(options.burst):
                (folder / f"watched/burst{number}").touch()
            wanted = f"burst{options.burst - 1}"
            burst = answers.until(_tells(CREATE, wanted)) - begun
    rows = {kind: _row(values) for kind, values in times.items()}
    rows["all"] = _row([value for values in times.values() for value in values])
    return {"milliseconds": rows, "burst": {"files": options.burst, "seconds": round(burst, 3)}}


def _tells(bit: int, name: str) -> Callable[[list[tuple[int, str]]], bool]:
    return lambda events: any(mask & bit and there == name for mask, there in events)


def _row(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = {"p50": statistics.median(ordered), "p95": ordered[int(0.95 * len(ordered))]}
    at |= {"p99": ordered[int(0.99 * len(ordered))], "max": ordered[-1]}
    return {"n": len(ordered), **{name: round(value, 2) for name, value in at.items()}}


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="of five changes each (default: 40)")
    parser.add_argument("--pause", type=float, default=0.05, metavar="S", help="before each change (default: 0.05)")
    parser.add_argument("--burst", type=int, default=1000, metavar="N", help="files made at once (default: 1000)")
    parser.add_argument("--cache", default="auto", help="the share's cache mode (default: auto)")
    parser.add_argument("--folder", type=Path, help="where the share is made (default: bench/build)")
    parser.add_argument("--json", action="store_true", help="for a program")
    options = parser.parse_args()
    found = measure(options)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{'ms':8}{'n':>6}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}")
    for kind, row in found["milliseconds"].items():
        print(f"{kind:8}{row['n']:>6}" + "".join(f"{row[name]:>8.2f}" for name in ("p50", "p95", "p99", "max")))
    print(f"{found['burst']['files']} files at once: {found['burst']['seconds']} s until the last one was told")


if __name__ == "__main__":
    main(run)
