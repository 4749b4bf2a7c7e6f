"""The demo's checks of shared files: their contents, and what the guest's watchers hear of the host's changes."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from .scene import Scene, begin, eventually, in_guest, same

MIB = 1 << 20


async def root(scene: Scene) -> str:
    """The guest's userland is this machine's own."""
    program = os.path.realpath("/bin/sh")
    seen = (await in_guest(scene, "sha256sum", program)).split()[0]
    same(seen, hashlib.sha256(Path(program).read_bytes()).hexdigest(), f"the hash of {program}")
    return f"Linux {(await in_guest(scene, 'uname', '-r')).strip()} on this machine's files"


async def host_writes(scene: Scene) -> str:
    data = secrets.token_bytes(MIB)
    (scene.folder / "from-host").write_bytes(data)
    seen = (await in_guest(scene, "sha256sum", str(scene.folder / "from-host"))).split()[0]
    same(seen, hashlib.sha256(data).hexdigest(), "the hash in the guest")
    return "1 MiB, hashes equal"


async def guest_writes(scene: Scene) -> str:
    path = scene.folder / "from-guest"
    shell = 'head -c 1048576 /dev/urandom >"$1" && sha256sum "$1"'
    seen = (await in_guest(scene, "sh", "-c", shell, "sh", str(path))).split()[0]
    data = path.read_bytes()
    same(len(data), MIB, "the size on the host")
    same(hashlib.sha256(data).hexdigest(), seen, "the hash on the host")
    return "1 MiB, hashes equal"


# A program that watches a folder as any other does: inotify(7), by ctypes. It prints a line for each event.
WATCHER = """
import ctypes, os, struct, sys
names = {2: "MODIFY", 8: "CLOSE_WRITE", 64: "MOVED_FROM", 128: "MOVED_TO", 256: "CREATE", 512: "DELETE"}
libc = ctypes.CDLL(None)
watch = libc.inotify_init1(0)
libc.inotify_add_watch(watch, os.fsencode(sys.argv[1]), sum(names))
print("watching", flush=True)
while True:
    data = os.read(watch, 65536)
    while data:
        _, mask, _, size = struct.unpack_from("iIII", data)
        name, data = data[16:16 + size].rstrip(bytes(1)), data[16 + size:]
        print(names.get(mask & 0xFFF, mask), os.fsdecode(name), flush=True)
"""
SEEN = "/run/subos-demo-events"  # in the guest


async def events(scene: Scene) -> str:
    """inotify in the guest reports what this host does in a share, as if it had happened there."""
    folder = scene.folder / "watched"
    folder.mkdir()
    await begin(scene, SEEN, WATCHER, str(folder))
    steps: list[tuple[Callable[[], object], list[str]]] = [
        (lambda: (folder / "a").write_bytes(b"one"), ["CREATE a"]),
        (lambda: (folder / "a").write_bytes(b"another"), ["MODIFY a", "CLOSE_WRITE a"]),
        (lambda: (folder / "a").rename(folder / "b"), ["MOVED_FROM a", "MOVED_TO b"]),
        (lambda: (folder / "b").unlink(), ["DELETE b"]),
    ]
    count = 0
    for change, wanted in steps:
        before = len(await _reported(scene))
        change()
        await eventually(lambda: _has(scene, before, wanted), " and ".join(wanted))  # noqa: B023 (awaited at once)
        count += len(wanted)
    return f"created, changed, renamed and removed: {count} events, in order"


async def _reported(scene: Scene) -> list[str]:
    return (await in_guest(scene, "cat", SEEN)).splitlines()


async def _has(scene: Scene, before: int, wanted: list[str]) -> bool:
    rest = iter((await _reported(scene))[before:])
    return all(line in rest for line in wanted)
