"""`mount` and `unmount`: shares of the host, at the moment they appear.

    → REQUEST {"op": "mount", "tag": "work", "path": "/work", "read_only": false, "name": ""}
    → REQUEST {"op": "unmount", "tag": "work", "path": "/work", "lazy": false, "name": ""}

`name` is of the one file that is shared: its file system is mounted in a folder of ours, and `path` becomes a link.
What is mounted already, with the same tag at the same place, stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Callable, Dict, List, Tuple, TypeVar

from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.stream import Stream

from .places import open_folder, true_path

SINGLE = Path("/run/subos/shares")
"""Where file systems of single files are mounted."""
DEVICE_SECONDS = 10.0
"""How long the device may take to appear: it may have been plugged just now."""
MOUNTS = Path("/proc/self/mounts")
PLACES = ("/mnt", "/media", "/srv", "/home", str(SINGLE.parent))
MAX_LOCKS = 64
MS_RDONLY = 1
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8  # umount2(2)
_libc = ctypes.CDLL(None, use_errno=True)
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


class Mounts:
    """`anywhere`: also where a share could make whoever writes it this guest's root; else below PLACES alone."""

    def __init__(self, *, anywhere: bool) -> None:
        self._anywhere = anywhere
        self._locks: Dict[str, asyncio.Lock] = {}
        self._threads = ThreadPoolExecutor(2, "mount")
        """Their own: a device that does not answer holds who mounts it, and nobody else."""

    async def mount(self, stream: Stream) -> Head:
        """Handles `mount`. Raises RemoteError."""
        place = Place.from_head(stream.head)
        if not self._anywhere and not any(place.path.startswith(f"{allowed}/") for allowed in PLACES):
            raise RemoteError(
                "refused",
                f"this guest takes shares below {', '.join(PLACES)} only",
                'choose such a place; or, inside it, as root: "subos-agent allow exec"',
            )
        flags = MS_RDONLY if stream.head.get("read_only") is True else 0
        deadline = monotonic() + DEVICE_SECONDS
        async with self._alone(place.tag):
            while not await self._run(lambda: _mount(place, flags, last=monotonic() > deadline)):
                await asyncio.sleep(0.05)
        return {}

    async def unmount(self, stream: Stream) -> Head:
        """Handles `unmount`: all mounts of the share go, the last one first. Raises RemoteError."""
        place = Place.from_head(stream.head)
        flags = UMOUNT_NOFOLLOW | (MNT_DETACH if stream.head.get("lazy") is True else 0)
        async with self._alone(place.tag):
            await self._run(lambda: _unmount(place, flags))
        return {}

    def _alone(self, tag: str) -> asyncio.Lock:
        """One request a share at a time: whether it is mounted is looked at before it is."""
        if len(self._locks) > MAX_LOCKS:
            self._locks = {name: lock for name, lock in self._locks.items() if lock.locked()}
        return self._locks.setdefault(tag, asyncio.Lock())

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise RemoteError("failed", f"{where}{error.strerror or error}") from error


def _mount(place: Place, flags: int, *, last: bool) -> bool:
    """False where the device is not there yet, unless this is the last attempt. Raises OSError."""
    if place.name and os.path.isdir(place.path) and not os.path.islink(place.path):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", place.path)
    folder = open_folder(place.folder)
    try:
        if (place.tag, true_path(folder)) not in mounted():
            try:
                _check(
                    _libc.mount(place.tag.encode(), b"/proc/self/fd/%d" % folder, b"virtiofs", flags, None), place.path
                )
            except OSError as error:
                if error.errno == errno.EINVAL and not last:
                    return False
                raise
    finally:
        os.close(folder)
    if place.name:
        try:
            _link(place)
        except OSError:
            _check(_libc.umount2(os.fsencode(place.folder), UMOUNT_NOFOLLOW), place.folder)
            raise
    return True


def _link(place: Place) -> None:
    """Makes `path` a link to the one file."""
    target, name = f"{place.folder}/{place.name}", os.path.basename(place.path)
    folder = open_folder(os.path.dirname(place.path))
    try:
        with contextlib.suppress(OSError):
            if os.readlink(name, dir_fd=folder) == target:
                return
        beside = f".{name[:200]}.subos-{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=folder)
        os.symlink(target, beside, dir_fd=folder)
        os.replace(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(folder)


def _unmount(place: Place, flags: int) -> None:
    """Raises OSError."""
    for tag, folder in reversed(mounted()):
        if tag == place.tag:
            _check(_libc.umount2(os.fsencode(folder), flags), folder)
    if place.name:
        with contextlib.suppress(OSError):
            if os.readlink(place.path) == f"{place.folder}/{place.name}":
                os.unlink(place.path)
        with contextlib.suppress(OSError):
            os.rmdir(place.folder)


def _check(result: int, path: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


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
