"""Reads a file by every way, each time that somebody tells by inotify that it was written.

usage: reader.py OUTPUT FILE      until a file called "end" is made beside it. Standard library only.

Each line of OUTPUT is JSON: what was read by its name, by a descriptor that stays open and by a mapping, and its size,
mode and time of writing. The first one is what was there at first.
"""

from __future__ import annotations

import json
import mmap
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from watcher import EVENT, Watcher

WRITTEN = 0x2 | 0x4  # IN_MODIFY, IN_ATTRIB


def look(path: str, fd: int, mapped: mmap.mmap) -> str:
    status = os.stat(path)
    with open(path, "rb") as file:
        read = file.read()
    return json.dumps(
        [
            read.decode(),
            os.pread(fd, 1 << 16, 0).decode(),
            mapped[:4].decode(),
            status.st_size,
            status.st_mode & 0o777,
            status.st_mtime_ns,
        ]
    )


if __name__ == "__main__":
    output, path = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.argv[2]
    fd = os.open(path, os.O_RDONLY)
    mapped = mmap.mmap(fd, 4, prot=mmap.PROT_READ)
    watcher = Watcher(False)
    watcher.add(os.path.dirname(path))
    os.write(output, f"{look(path, fd, mapped)}\n".encode())
    while True:
        data, at = os.read(watcher.fd, 1 << 16), 0
        while at < len(data):
            _number, mask, _cookie, length = EVENT.unpack_from(data, at)
            name = data[at + EVENT.size : at + EVENT.size + length].rstrip(b"\0")
            at += EVENT.size + length
            if name == b"end":
                sys.exit()
            if mask & WRITTEN and name == os.fsencode(os.path.basename(path)):
                os.write(output, f"{look(path, fd, mapped)}\n".encode())
