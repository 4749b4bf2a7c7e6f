"""A tree of very many files, walked in the guest with few descriptors: nothing is missing, and what it costs."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from machine import INSIDE, MOUNT_POINT, Watch, machine, scratch, wait_ready

from memory import private_memory
from peers import BenchError, say

IN_A_FOLDER = 1000


def make_tree(root: Path, files: int) -> None:
    """`files` files, a thousand to a folder. Every tenth has a few bytes, so that sizes differ."""
    for first in range(0, files, IN_A_FOLDER):
        folder = root / f"folder-{first // IN_A_FOLDER:04}"
        folder.mkdir(parents=True)
        for number in range(first, min(first + IN_A_FOLDER, files)):
            with open(f"{folder}/file-{number:07}", "wb") as file:
                if number % 10 == 0:
                    file.write(b"%d" % number)


def run(options: argparse.Namespace) -> dict[str, Any]:
    sys.path.insert(0, str(INSIDE))
    from walker import look

    with scratch(options.folder) as folder:
        shutil.copytree(INSIDE, folder / "inside", ignore=shutil.ignore_patterns("__pycache__"))
        say(f"making {options.files} files")
        make_tree(folder / "tree", options.files)
        here = look(str(folder / "tree"))
        command = [sys.executable, "-S", f"{MOUNT_POINT}/inside/walker.py", f"{MOUNT_POINT}/tree"]
        command += ["--passes", str(options.passes)]
        environment = {"SUBOS_FAST": "0"} if options.plain else {}
        with machine(folder, command, options.limit, memory=options.memory, environment=environment) as vm:
            before = wait_ready(vm)
            at_first = private_memory(before["pid"])[0]
            watch = Watch(before["pid"])
            try:
                passes = [_one_pass(vm, here, number) for number in range(options.passes)]
            finally:
                watch.close()
            after = vm.share()
            private, proportional = private_memory(after["pid"])
            vm.finish()
    if after["restarts"]:
        raise BenchError(f"the share's worker died {after['restarts']} times")
    if watch.most > options.limit:
        raise BenchError(f"{watch.most} descriptors were open, and {options.limit} are the limit")
    return {
        "files": here["files"],
        "limit": options.limit,
        "most_descriptors": watch.most,
        "looks": watch.looks,
        "passes": passes,
        "inodes": after["inodes"],
        "inodes_open": after["inodes_open"],
        "private_bytes": private,
        "pss_bytes": proportional,
        "bytes_a_node": round((private - at_first) / max(1, after["inodes"] - before["inodes"]), 1),
        "kinds": after["kinds"],
    }


def _one_pass(vm: Any, here: dict[str, Any], number: int) -> dict[str, Any]:
    begun = time.monotonic()
    seen = vm.line()
    if seen != here:
        raise BenchError(f"pass {number}: the guest saw {json.dumps(seen)}, and there is {json.dumps(here)}")
    status = vm.share()
    say(f"pass {number}: {seen['files']} files in {time.monotonic() - begun:.0f} s, {status['inodes']} inodes known")
    return {"seconds": round(time.monotonic() - begun, 1), "inodes": status["inodes"], "open": status["inodes_open"]}
