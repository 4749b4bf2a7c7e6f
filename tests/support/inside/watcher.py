"""Tells what inotify tells of folders and files, until something called "end" is made in one of them.

usage: watcher.py OUTPUT [-r] PATH...        -r: of all folders below, too, as they come

Each line of OUTPUT is JSON: [path, [what happened], cookie, name]. The first is "ready". Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys

IN = {
    0x2: "MODIFY",
    0x4: "ATTRIB",
    0x8: "CLOSE_WRITE",
    0x40: "MOVED_FROM",
    0x80: "MOVED_TO",
    0x100: "CREATE",
    0x200: "DELETE",
    0x400: "DELETE_SELF",
    0x800: "MOVE_SELF",
    0x4000: "Q_OVERFLOW",
    0x8000: "IGNORED",
}  # linux/inotify.h
EVENT = struct.Struct("iIII")
libc = ctypes.CDLL(None, use_errno=True)


class Watcher:
    def __init__(self, recursive: bool) -> None:
        self.fd = libc.inotify_init1(0)
        self.paths: dict[int, str] = {}
        self.recursive = recursive

    def add(self, path: str) -> None:
        wanted = sum(IN) & ~0xC000
        number = libc.inotify_add_watch(self.fd, os.fsencode(path), wanted)
        if number < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", path)
        self.paths[number] = path
        if self.recursive and os.path.isdir(path):
            for entry in os.scandir(path):
                if entry.is_dir(follow_symlinks=False):
                    self.add(entry.path)

    def run(self, output: int) -> None:
        while True:
            data, at, lines = os.read(self.fd, 1 << 18), 0, []
            end = False
            while at < len(data):
                number, mask, cookie, length = EVENT.unpack_from(data, at)
                name = os.fsdecode(data[at + EVENT.size : at + EVENT.size + length].rstrip(b"\0"))
                at += EVENT.size + length
                happened = [word for bit, word in IN.items() if mask & bit]
                path = self.paths.get(number, "")
                lines.append(json.dumps([path, happened, cookie, name]))
                end = end or name == "end"
                if self.recursive and mask & 0x4000_0100 == 0x4000_0100:
                    self.add(os.path.join(path, name))
            os.write(output, "".join(f"{line}\n" for line in lines).encode())
            if end:
                return


if __name__ == "__main__":
    recursive = sys.argv[2] == "-r"
    watcher = Watcher(recursive)
    for path in sys.argv[3 if recursive else 2 :]:
        watcher.add(path)
    output = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(output, b'"ready"\n')
    watcher.run(output)
