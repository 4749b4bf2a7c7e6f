"""Guest and host work on one tree for minutes, with few descriptors: everything that was acknowledged is there."""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from machine import INSIDE, MOUNT_POINT, Watch, machine, scratch, wait_ready

from memory import private_memory
from peers import BenchError, say

CACHE_TIME = 2  # seconds after which the guest believes nothing any more that it has not asked for again

HOST_PAUSE = 0.005
"""Seconds that the host's processes rest after each thing they do: where the guest is emulated, it is much slower."""
MOST_OPEN = 120  # files that the guest has open at once
OTHERS = 100  # descriptors of the worker's own, and what is open for a moment


def run(options: argparse.Namespace) -> dict[str, Any]:
    sys.path.insert(0, str(INSIDE))
    from walker import look

    seconds = 60 * options.minutes
    with scratch(options.folder) as folder:
        shutil.copytree(INSIDE, folder / "inside", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("tree/own", "tree/shared", "tree/logs"):
            (folder / name).mkdir(parents=True)
        environment = {"SUBOS_FAST": "0"} if options.plain else {}
        with machine(
            folder, _in_the_guest(options, seconds), options.limit, memory=options.memory, environment=environment
        ) as vm:
            before = wait_ready(vm)
            at_first = private_memory(before["pid"])[0]
            if vm.line() != "ready":
                raise BenchError("the guest did not begin")
            watch = Watch(before["pid"])
            try:
                host = subprocess.run(_mixer(sys.executable, str(folder), "host", options, seconds))
                said = vm.line()
                time.sleep(CACHE_TIME)
                vm.say("look")
                seen = vm.line()
            finally:
                watch.close()
            look(str(folder / "tree"), str(folder / "here"))
            after = vm.share()
            private = private_memory(after["pid"])[0]
            vm.finish()
        if host.returncode or said:
            raise BenchError(f"a process died: status {host.returncode} on the host, {said} in the guest")
        logs = {path.name: json.loads(path.read_text()) for path in (folder / "tree/logs").iterdir()}
        wrong = _wrong(logs, folder / "tree")
        lines = ((folder / name).read_text().splitlines() for name in ("here", "seen"))
        wrong += difflib.unified_diff(*lines, "the host", "the guest", lineterm="", n=0)
    counts: Counter[str] = Counter()
    for name, log in logs.items():
        for what, count in log["counts"].items():
            counts[f"{name.partition('-')[0]}: {what}"] += count
    if wrong or after["restarts"] or watch.most > options.limit:
        print("\n".join(wrong), file=sys.stderr)
        raise BenchError(
            f"{len(wrong)} things were wrong; the worker died {after['restarts']} times, and had up to {watch.most} "
            f"descriptors open, of {options.limit}: {after['inodes_open']} inodes, {after['files_open']} files, "
            f"{after['directories_open']} folders at the end"
        )
    errors = {kind: about["errors"] for kind, about in after["kinds"].items() if about["errors"]}
    say(f"{sum(counts.values())} operations, and nothing was lost")
    return {
        "minutes": options.minutes,
        "limit": options.limit,
        "most_descriptors": watch.most,
        "looks": watch.looks,
        "operations": sum(counts.values()),
        "counts": dict(sorted(counts.items())),
        "requests": after["requests"],
        "errors": errors,
        "tree": seen,
        "private_bytes": [at_first, private],
    }


def _mixer(python: str, folder: str, side: str, options: argparse.Namespace, seconds: float) -> list[str]:
    most_open = max(4, min(MOST_OPEN, options.limit - OTHERS)) // options.processes
    numbers = (options.processes, seconds, options.seed, HOST_PAUSE if side == "host" else 0, most_open)
    return [python, "-S", f"{folder}/inside/mixer.py", f"{folder}/tree", side, *map(str, numbers)]


def _in_the_guest(options: argparse.Namespace, seconds: float) -> list[str]:
    """Says "ready", works, says how that ended; and at the next line looks at the whole tree."""
    mixer = shlex.join(_mixer(sys.executable, MOUNT_POINT, "guest", options, seconds))
    walker = shlex.join(
        [
            sys.executable,
            "-S",
            f"{MOUNT_POINT}/inside/walker.py",
            f"{MOUNT_POINT}/tree",
            "--list",
            f"{MOUNT_POINT}/seen",
        ]
    )
    return ["sh", "-c", f"echo '\"ready\"'; {mixer}; echo $?; read -r line; {walker}"]


def _wrong(logs: dict[str, dict[str, Any]], tree: Path) -> list[str]:
    """What the logs say and the host's tree does not, and what the processes themselves found wrong."""
    wrong = [f"{name}: {what}" for name, log in logs.items() for what in log["wrong"]]
    expected = {name for log in logs.values() for name in log["made"]} - {
        n for log in logs.values() for n in log["gone"]
    }
    there = {path.name for path in (tree / "shared").iterdir()}
    wrong += [f"shared/{name} was made and not removed, and is not there" for name in sorted(expected - there)]
    wrong += [f"shared/{name} was removed, or never made, and is there" for name in sorted(there - expected)]
    for path in (tree / "shared").iterdir():
        data = path.read_bytes()
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            wrong.append(f"shared/{path.name} is not whole")
    for who, log in logs.items():
        own = tree / "own" / who
        found = {
            str(p.relative_to(own)): hashlib.sha256(p.read_bytes()).hexdigest() for p in own.rglob("*") if p.is_file()
        }
        if found != log["own"]:
            different = {path for path, _ in found.items() ^ log["own"].items()}
            wrong.append(f"own/{who} is not as it was left: {sorted(different)[:20]}")
    return wrong
