"""`mount` and `unmount`: shares of the host, at the moment they appear.

    → REQUEST {"op": "mount", "tag": "work", "path": "/work", "read_only": false, "name": ""}
    → REQUEST {"op": "unmount", "tag": "work", "path": "/work", "lazy": false, "name": ""}

`name` is of the one file that is shared: its file system is mounted in a folder of ours, and `path` becomes a link.
What is mounted already, with the same tag at the same place, stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Tuple, TypeVar

from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.stream import Stream

SINGLE = Path("/run/subos/shares")
"""Where file systems of single files are mounted."""
DEVICE_SECONDS = 10.0
"""How long the device may take to appear: it may have been plugged just now."""
MOUNTS = Path("/proc/self/mounts")
T = TypeVar("T")
_TAG = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,35}")
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Place:
    """A share and where it is to be seen; `name` is empty for a folder."""

    tag: str
    path: str
    name: str = ""

    @property
    def folder(self) -> str:
        """Where the file system itself is mounted."""
        return str(SINGLE / self.tag) if self.name else self.path

    @classmethod
    def from_head(cls, head: Head) -> Place:
        """Raises RemoteError for what is none."""
        tag, path, name = head.get("tag"), head.get("path"), head.get("name", "")
        if not isinstance(tag, str) or not _TAG.fullmatch(tag):
            raise RemoteError("malformed", "a tag that cannot be one")
        if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
            raise RemoteError("malformed", "a path that is not absolute")
        if not isinstance(name, str) or "/" in name or "\0" in name or name in (".", ".."):
            raise RemoteError("malformed", "a name that cannot be one")
        return cls(tag, os.path.normpath(path), name)


async def mount(stream: Stream) -> Head:
    """Handles `mount`. Raises RemoteError."""
    place = Place.from_head(stream.head)
    if place.name and os.path.isdir(place.path) and not os.path.islink(place.path):
        raise RemoteError("failed", f"{place.path} is a folder")
    if (place.tag, place.folder) not in await _in_thread(mounted):
        try:
            os.makedirs(place.folder, exist_ok=True)
        except OSError as error:
            raise RemoteError("failed", f"{place.folder}: {error.strerror}") from error
        await _mount(place, "ro" if stream.head.get("read_only") is True else "rw")
    if place.name:
        try:
            _link(place)
        except OSError as error:
            await _run("umount", place.folder)
            raise RemoteError("failed", f"{place.path}: {error.strerror}") from error
    return {}


async def _mount(place: Place, options: str) -> None:
    deadline = asyncio.get_running_loop().time() + DEVICE_SECONDS
    while True:
        status, said = await _run("mount", "-t", "virtiofs", "-o", options, place.tag, place.folder)
        if not status:
            return
        appears = "Invalid argument" in said or "wrong fs type" in said or "No such device" in said
        if not appears or asyncio.get_running_loop().time() > deadline:
            raise RemoteError("failed", said or f"mount ended with status {status}")
        await asyncio.sleep(0.05)


def _link(place: Place) -> None:
    target = f"{place.folder}/{place.name}"
    if os.path.islink(place.path) and os.readlink(place.path) == target:
        return
    os.makedirs(os.path.dirname(place.path), exist_ok=True)
    beside = f"{place.path}.subos-{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)
    os.symlink(target, beside)
    os.replace(beside, place.path)


async def unmount(stream: Stream) -> Head:
    """Handles `unmount`: all mounts of the share go, the last one first. Raises RemoteError."""
    place = Place.from_head(stream.head)
    lazy = ["-l"] if stream.head.get("lazy") is True else []
    for tag, folder in reversed(await _in_thread(mounted)):
        if tag == place.tag:
            status, said = await _run("umount", *lazy, folder)
            if status:
                raise RemoteError("failed", said or f"umount ended with status {status}")
    if place.name:
        with contextlib.suppress(OSError):
            if os.readlink(place.path) == f"{place.folder}/{place.name}":
                os.unlink(place.path)
        with contextlib.suppress(OSError):
            os.rmdir(place.folder)
    return {}


def mounted(mounts: Path = MOUNTS) -> List[Tuple[str, str]]:
    """(tag, folder) of each virtiofs mount, in the order in which they were made."""
    found = []
    for line in mounts.read_bytes().split(b"\n"):  # a carriage return may be part of a path
        words = line.split(b" ")
        if len(words) > 2 and words[2] == b"virtiofs":
            tag, folder = (os.fsdecode(_ESCAPE.sub(_unescape, word)) for word in words[:2])
            found.append((tag, folder))
    return found


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 8) & 0xFF])


async def _run(*argv: str) -> Tuple[int, str]:
    """(exit status, what it said in one line)."""

    def run() -> Tuple[int, str]:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, " ".join(os.fsdecode(done.stdout).split())

    return await _in_thread(run)


async def _in_thread(function: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, function)
