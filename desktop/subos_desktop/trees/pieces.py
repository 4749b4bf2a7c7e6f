"""The pieces of a tree, checked before anything is done with them."""

from __future__ import annotations

import os
import stat
from typing import Any, Dict, List, NamedTuple, Optional, Union

from .errors import NotATree

Piece = Union[Dict[str, Any], bytes]
KINDS = ("folder", "file", "symlink", "hardlink")
MAX_NAME, MAX_TARGET, MAX_DEPTH = 255, 4095, 256
_LATEST = (1 << 63) - 1


class Attributes(NamedTuple):
    """What a file has besides its contents; None is not known. `mtime` is in nanoseconds."""

    mode: Optional[int] = None
    mtime: Optional[int] = None
    uid: Optional[int] = None
    gid: Optional[int] = None

    @classmethod
    def of(cls, found: os.stat_result) -> Attributes:
        return cls(stat.S_IMODE(found.st_mode), found.st_mtime_ns, found.st_uid, found.st_gid)

    def fields(self) -> Dict[str, int]:
        return {name: value for name, value in self._asdict().items() if value is not None}

    @classmethod
    def from_piece(cls, piece: Dict[str, Any]) -> Attributes:
        """Raises NotATree."""
        return cls(
            _number(piece, "mode", 0, 0o7777),
            _number(piece, "mtime", -_LATEST, _LATEST),
            _number(piece, "uid", 0, (1 << 32) - 2),
            _number(piece, "gid", 0, (1 << 32) - 2),
        )


def number(piece: Dict[str, Any], name: str) -> int:
    """A size. Raises NotATree."""
    value = _number(piece, name, 0, _LATEST)
    if value is None:
        raise NotATree(f"a piece without {name}")
    return value


def _number(piece: Dict[str, Any], name: str, low: int, high: int) -> Optional[int]:
    value = piece.get(name)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise NotATree(f"{name} cannot be what it says")
    return value


def is_name(value: Any) -> bool:
    """Whether it is one component of a path."""
    if not isinstance(value, str) or value in ("", ".", "..") or "/" in value or "\0" in value:
        return False
    try:
        return len(os.fsencode(value)) <= MAX_NAME
    except UnicodeEncodeError:
        return False


def target(piece: Dict[str, Any]) -> str:
    """Where a symbolic link leads: it is kept as it is, and never followed here. Raises NotATree."""
    value = piece.get("target")
    if isinstance(value, str) and value and "\0" not in value:
        try:
            if len(os.fsencode(value)) <= MAX_TARGET:
                return value
        except UnicodeEncodeError:
            pass
    raise NotATree("a symbolic link that leads nowhere")


def original(piece: Dict[str, Any]) -> List[str]:
    """The names, from the top, of the file that a hard link is of. Raises NotATree."""
    value = piece.get("to")
    if not isinstance(value, list) or not 0 < len(value) <= MAX_DEPTH or not all(map(is_name, value)):
        raise NotATree("a hard link to nothing")
    return value
