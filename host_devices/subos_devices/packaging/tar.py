"""Tar archives that depend on nothing but their files: sorted, root's, of one time."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from .payload import File


def archive(files: Iterable[File], time: int, prefix: str = "") -> bytes:
    """An uncompressed archive, with a member for each folder. `prefix` is put before every name."""
    ordered = sorted(files, key=lambda file: file.path)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in folders(ordered):
            tar.addfile(_member(prefix + path, 0o755, time, tarfile.DIRTYPE))
        for file in ordered:
            member = _member(prefix + file.path, file.mode, time, tarfile.REGTYPE)
            member.size = len(file.content)
            tar.addfile(member, io.BytesIO(file.content))
    return buffer.getvalue()


def folders(files: Iterable[File]) -> Iterator[str]:
    """The root, as the empty path, and every folder, each after the one that it is in."""
    parents = {parent for file in files for parent in PurePosixPath(file.path).parents}
    return ("" if str(path) == "." else str(path) for path in sorted(parents))


def _member(name: str, mode: int, time: int, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mode, member.mtime, member.type = mode, time, kind
    member.uname = member.gname = "root"
    return member
