"""Reads a tree. Symbolic links are not followed, holes in files are not read."""

from __future__ import annotations

import errno
import os
import stat
from typing import Dict, Generator, Iterator, List, Tuple

from .errors import TreeError
from .pieces import MAX_DEPTH, Attributes, Piece

CHUNK = 1 << 15
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def pack(path: str) -> Generator[Piece, None, None]:
    """The pieces of what lies at `path`. Raises TreeError where that itself cannot be read; what lies in it and cannot
    be read is told as skipped."""
    try:
        found = os.stat(path) if path.endswith("/") else os.lstat(path)
    except (OSError, ValueError) as error:
        raise TreeError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    packer = _Packer(path)
    pieces = packer.entry(path, "", found, [])
    first = next(pieces)
    if isinstance(first, dict) and "skipped" in first:
        raise TreeError(f"{path}: {first['why']}")
    yield first
    yield from pieces


class _Packer:
    def __init__(self, top: str) -> None:
        self._top = top
        self._linked: Dict[Tuple[int, int], List[str]] = {}
        """Where the first name of each file with several names was."""

    def entry(self, path: str, name: str, found: os.stat_result, above: List[str]) -> Iterator[Piece]:
        """`above` are the names from below the top to this one."""
        try:
            if stat.S_ISDIR(found.st_mode):
                yield from self._folder(path, name, found, above)
            elif stat.S_ISLNK(found.st_mode):
                target = os.readlink(path)
                yield {"symlink": name, "target": target, **Attributes.of(found).fields()}
            elif stat.S_ISREG(found.st_mode):
                yield from self._file(path, name, above)
            else:
                yield {"skipped": path, "why": "it is neither a file, a folder nor a link"}
        except OSError as error:
            yield {"skipped": path, "why": error.strerror or str(error)}

    def _folder(self, path: str, name: str, found: os.stat_result, above: List[str]) -> Iterator[Piece]:
        if len(above) >= MAX_DEPTH:
            yield {"skipped": path, "why": f"it lies more than {MAX_DEPTH} folders deep"}
            return
        with os.scandir(path) as entries:
            inside = sorted(entry.name for entry in entries)
        yield {"folder": name, **Attributes.of(found).fields()}
        for each in inside:
            below = os.path.join(path, each)
            try:
                info = os.lstat(below)
            except FileNotFoundError:
                continue  # gone since
            except OSError as error:
                yield {"skipped": below, "why": error.strerror or str(error)}
                continue
            yield from self.entry(below, each, info, [*above, each])
        yield {"leave": True}

    def _file(self, path: str, name: str, above: List[str]) -> Iterator[Piece]:
        descriptor = os.open(path, _READ)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.ESTALE, "it changed while it was read")
            key = (found.st_dev, found.st_ino)
            if key in self._linked:
                yield {"hardlink": name, "to": self._linked[key]}
                return
            if found.st_nlink > 1 and above:
                self._linked[key] = above
            yield {"file": name, "size": found.st_size, **Attributes.of(found).fields()}
            yield from _contents(descriptor, found.st_size)
        finally:
            os.close(descriptor)


def _contents(descriptor: int, size: int) -> Iterator[Piece]:
    at = 0
    while at < min(size, os.fstat(descriptor).st_size):
        data_at, data_end = _data(descriptor, at, size)
        if data_at > at:
            yield {"hole": data_at - at}
        at = data_at
        while at < data_end:
            data = os.pread(descriptor, min(CHUNK, data_end - at), at)
            if not data:
                return  # it has become shorter
            yield data
            at += len(data)


def _data(descriptor: int, at: int, size: int) -> Tuple[int, int]:
    """Where the next data begins and ends, `size` where there is none."""
    try:
        begin = os.lseek(descriptor, at, os.SEEK_DATA)
        return min(begin, size), min(os.lseek(descriptor, begin, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a hole up to the end
            return size, size
        return at, size
