"""The user's cache: kernels, their uncompressed images, initial RAM file systems."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from subos_devices.errors import UserError

WRITABLE = "set XDG_CACHE_HOME to a folder that you may write"


def cache_folder(*names: str) -> Path:
    """`$XDG_CACHE_HOME/subos` (else `~/.cache/subos`), or a folder in it, which is created.

    Raises UserError when it cannot be made.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: a relative path is to be ignored.
    try:
        root = Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()
    except RuntimeError as error:
        raise UserError("you have no home folder to keep a cache in", WRITABLE) from error
    folder = root.joinpath("subos", *names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the cache {folder} cannot be made: {error.strerror}", WRITABLE) from error
    return folder


def key_of(*parts: object) -> str:
    """A short name for content: a file is keyed by path, size and time, the rest by its text."""
    digest = hashlib.sha256()
    for part in parts:
        text = repr(part)
        if isinstance(part, Path):
            status = part.stat()
            text = f"{part.resolve()} {status.st_size} {status.st_mtime_ns}"
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:20]


@contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """A folder on the file system of `beside`, so that what it holds can be renamed to there.

    Raises UserError where the cache cannot be written.
    """
    try:
        fresh = tempfile.TemporaryDirectory(dir=beside.parent, prefix=".new-")
    except OSError as error:
        raise UserError(f"the cache {beside.parent} cannot be written: {error.strerror}", WRITABLE) from error
    with fresh as name:
        yield Path(name)


def cached_file(path: Path, make: Callable[[], bytes]) -> Path:
    """`path`, made from `make()` if it is not there. Two makers at once do not disturb each other."""
    if not path.exists():
        with temporary_folder(path) as folder:
            fresh = folder / path.name
            fresh.write_bytes(make())
            fresh.rename(path)
    return path
