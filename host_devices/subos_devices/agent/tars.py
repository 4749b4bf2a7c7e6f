"""Trees as tar archives, on standard input and output of `subos-devices cp`."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, Any, cast

from subos_desktop.trees import Piece, TreeError
from subos_desktop.trees.packing import CHUNK
from subos_desktop.trees.pieces import MAX_DEPTH, Attributes, is_name, number, original, target

from .standard import GivenUp, StandardInput, StandardOutput

_ZEROS = bytes(CHUNK)


def read_tar(source: IO[bytes] | StandardInput) -> Iterator[Piece]:
    """The pieces of an archive's members, in one nameless folder. Raises TreeError."""
    yield {"folder": ""}
    inside: list[str] = []
    try:
        with tarfile.open(fileobj=cast(IO[bytes], source), mode="r|*") as tar:
            for member in tar:
                names = _names(member.name)
                if not names:
                    continue
                folder = names if member.isdir() else names[:-1]
                same = _common(inside, folder)
                yield from ({"leave": True} for _ in inside[same:])
                for depth, name in enumerate(folder[same:], same + 1):
                    whole = member.isdir() and depth == len(names)
                    yield {"folder": name, **(_fields(member) if whole else {})}
                inside = folder
                if not member.isdir():
                    yield from _member(tar, member, names[-1])
    except GivenUp as error:
        raise TreeError(str(error)) from error
    except tarfile.TarError as error:
        raise TreeError(f"standard input is no tar archive: {error}") from error
    yield from ({"leave": True} for _ in inside)
    yield {"leave": True}


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> Iterator[Piece]:
    if member.issym():
        yield {"symlink": name, "target": member.linkname, **_fields(member)}
    elif member.islnk():
        yield {"hardlink": name, "to": _names(member.linkname)}
    elif member.isreg():
        yield {"file": name, "size": member.size, **_fields(member)}
        content = tar.extractfile(member)
        while content is not None and (data := content.read(CHUNK)):
            yield data
    else:
        yield {"skipped": member.name, "why": "it is neither a file, a folder nor a link"}


def _names(path: str) -> list[str]:
    names = [name for name in path.split("/") if name not in ("", ".")]
    if not all(map(is_name, names)):
        raise TreeError(f"the archive has a member {path!r}, which leads elsewhere")
    return names


def _common(one: list[str], other: list[str]) -> int:
    """How many names they have in common, from the top."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


def _fields(member: tarfile.TarInfo) -> dict[str, int]:
    return Attributes(member.mode & 0o7777, int(member.mtime * 10**9), member.uid, member.gid).fields()


class TarWriter:
    """Writes the pieces of a tree as an archive, whose topmost name is `name` ("" for none). Raises TreeError."""

    def __init__(self, target: IO[bytes] | StandardOutput, name: str) -> None:
        self.files = 0
        self.bytes = 0
        self.skipped: list[str] = []
        self.skipped_count = 0
        self._target = target
        self._top = name or "."
        self._inside: list[str] = []
        self._entered = 0
        self._rest = -1  # bytes of the current file that are still to come
        self._padding = 0

    def take(self, piece: Piece) -> None:
        if isinstance(piece, bytes):
            self._write(piece)
        elif "hole" in piece:
            self._zeros(number(piece, "hole"))
        elif "skipped" in piece:
            self.skipped_count += 1
            if len(self.skipped) < 20:
                self.skipped.append(f"{piece['skipped']}: {piece.get('why')}"[:600])
        else:
            self._finish_file()
            self._entry(piece)

    def finish(self) -> None:
        """The archive's end."""
        self._finish_file()
        self._target.write(bytes(2 * tarfile.BLOCKSIZE))

    def _entry(self, piece: dict[str, Any]) -> None:
        if "leave" in piece:
            if not self._inside:
                raise TreeError("the guest leaves more folders than it has entered")
            self._inside.pop()
            return
        kind = next((kind for kind in _TYPES if kind in piece), None)
        if kind is None:
            return
        name = piece[kind]
        if (self._inside and not is_name(name)) or len(self._inside) > MAX_DEPTH:
            raise TreeError("the guest sends a name that is none, or too deep")
        member = tarfile.TarInfo("/".join([*self._inside, name] if self._inside else [self._top]))
        member.type = _TYPES[kind]
        self._describe(member, kind, piece)
        self._target.write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        self.files += 1
        if kind == "folder":
            self._inside.append(name if self._inside else self._top)

    def _describe(self, member: tarfile.TarInfo, kind: str, piece: dict[str, Any]) -> None:
        attributes = Attributes.from_piece(piece)
        member.mode = (0o755 if kind == "folder" else 0o644) if attributes.mode is None else attributes.mode
        member.mtime = (attributes.mtime or 0) / 10**9
        member.uid, member.gid = attributes.uid or 0, attributes.gid or 0
        if kind == "symlink":
            member.linkname = target(piece)
        elif kind == "hardlink":
            member.linkname = "/".join([self._top, *original(piece)])
        elif kind == "file":
            member.size = self._rest = number(piece, "size")
            self._padding = -member.size % tarfile.BLOCKSIZE

    def _write(self, data: bytes) -> None:
        if len(data) > self._rest:
            raise TreeError("the guest sends more than it has announced")
        self._rest -= len(data)
        self.bytes += len(data)
        self._target.write(data)

    def _zeros(self, size: int) -> None:
        if size > self._rest:
            raise TreeError("the guest sends more than it has announced")
        self._rest -= size
        while size:
            size -= self._target.write(_ZEROS[: min(size, len(_ZEROS))])

    def _finish_file(self) -> None:
        """A file that became shorter while it was read is filled up: its size is in the archive already."""
        if self._rest >= 0:
            self._zeros(self._rest)
            self._target.write(bytes(self._padding))
            self._rest = -1


_TYPES = {
    "folder": tarfile.DIRTYPE,
    "file": tarfile.REGTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
}
