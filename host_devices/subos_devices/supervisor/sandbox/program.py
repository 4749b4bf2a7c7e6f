"""A worker that is another program: which file is executed, and what it must see of this host for that.

A program that was linked statically needs nothing but itself: its root stays empty. Any other needs the host's
libraries, and a script its interpreter, too.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from ...errors import UserError

LIBRARIES = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache")
_HEAD = 4096  # bytes that are looked at
_PROGRAM_HEADERS = struct.Struct("<32xQ14xHH")  # Elf64_Ehdr: e_phoff, e_phentsize, e_phnum
_CLASS_64, _PT_INTERP = b"\x7fELF\x02\x01", 3  # elf.h: 64 bits, little-endian


class Program(NamedTuple):
    """`file` is executed as `arguments`; `sees` is what its root holds, nothing for one that was linked statically."""

    file: str
    arguments: tuple[str, ...]
    sees: tuple[str, ...] = ()

    @property
    def without(self) -> tuple[tuple[str, str], ...]:
        """What holds our own workers and not this one, and why."""
        found = [("undumpable", "the kernel forgets it as a program is executed")]
        if self.sees:
            found.append(("no new code", f"it maps its libraries: {', '.join(self.sees)}"))
        return tuple(found)


def find(command: Sequence[str]) -> Program:
    """What a command by its whole path is. Raises UserError."""
    path, arguments = command[0], tuple(command)
    head = _head(path)
    if head.startswith(b"#!"):
        # As the kernel does it; it would want to open the script by its descriptor, in a /proc that is not there.
        words = head[2:].partition(b"\n")[0].decode(errors="replace").split(maxsplit=1)
        if not words or not os.path.isabs(words[0]) or _head(words[0]).startswith(b"#!"):
            raise UserError(f"{path} is a script whose first line names no program", "#!/usr/bin/python3, say")
        interpreter = find(words)
        return interpreter._replace(arguments=(*words, *arguments), sees=_seen(interpreter.file, path))
    if not head.startswith(_CLASS_64):
        raise UserError(f"{path} is no program of this machine", "a 64-bit ELF file, or a script")
    return Program(path, arguments, _seen(path) if _is_dynamic(head) else ())


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "name a program by its whole path") from error


def _is_dynamic(head: bytes) -> bool:
    """It names a loader. One whose headers lie elsewhere counts as such, too."""
    try:
        offset, size, count = _PROGRAM_HEADERS.unpack_from(head)
        kinds = [struct.unpack_from("<I", head, offset + index * size)[0] for index in range(count)]
    except struct.error:
        return True
    return _PT_INTERP in kinds


def _seen(*paths: str) -> tuple[str, ...]:
    """The libraries and `paths`, without what lies in another of them."""
    found: list[str] = []
    for path in (*LIBRARIES, *paths):
        inside = any(path == other or path.startswith(other + "/") for other in found)
        if os.path.exists(path) and not inside:
            found.append(path)
    return tuple(found)
