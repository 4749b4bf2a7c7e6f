"""Has files open in every way while whoever serves them is killed:  survivor.py FOLDER TURNS

The two sides talk by files in the folder. "ready" is made here, "killed N" by the host, "checked N" here again. The
host makes "by the host N" beside each of its own, of which inotify must tell. Standard library only.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import sys
import time

from checks import same, write
from watcher import EVENT, Watcher

FILES = 700  # in a directory: more than the C library reads at once
PAGE = mmap.PAGESIZE


def say(name: str) -> None:
    write(name, b"")


def heard(name: str) -> None:
    while not os.path.exists(name):
        time.sleep(0.05)


class Survivor:
    def __init__(self) -> None:
        os.mkdir("many")
        for number in range(FILES):
            write(f"many/{number}", b"")
        write("read", bytes(range(256)) * 64)
        self.reading = os.open("read", os.O_RDONLY)
        self.writing = os.open("written", os.O_RDWR | os.O_CREAT)
        self.appending = os.open("appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.unlinked = os.open("unlinked", os.O_RDWR | os.O_CREAT)
        os.write(self.unlinked, b"without a name")
        os.unlink("unlinked")
        os.mkdir("removed")
        self.removed = os.open("removed", os.O_RDONLY)
        os.rmdir("removed")
        write("mapped", bytes(4 * PAGE))
        with open("mapped", "r+b") as file:
            self.mapped = mmap.mmap(file.fileno(), 4 * PAGE)
        self.entries = os.scandir("many")
        self.names = [next(self.entries).name]
        write("locked", b"0123456789")
        self.locked = os.open("locked", os.O_RDWR)
        fcntl.lockf(self.locked, fcntl.LOCK_EX, 4, 2)
        write("flocked", b"")
        self.flocked = os.open("flocked", os.O_RDWR)
        fcntl.flock(self.flocked, fcntl.LOCK_EX)
        os.chdir("many")
        self.watcher = Watcher(False)
        self.watcher.add("..")
        self.seen: set[str] = set()

    def check(self, turn: int) -> None:
        same(os.pread(self.reading, 300, 100 * turn), (bytes(range(256)) * 3)[100 * turn :][:300][:300])
        same(os.pwrite(self.writing, b"%d" % turn, turn), 1)
        os.fsync(self.writing)
        os.posix_fadvise(self.writing, 0, 0, os.POSIX_FADV_DONTNEED)
        same(os.pread(self.writing, 100, 0), b"0123456789"[: turn + 1])
        os.write(self.appending, b"%d;" % turn)
        same(os.pread(self.unlinked, 100, 0), b"without a name")
        same(os.fstat(self.unlinked).st_nlink, 0)
        same(os.listdir(self.removed), [])
        same(self.mapped[turn * PAGE : turn * PAGE + 2], b"\0\0")
        self.mapped[turn * PAGE : turn * PAGE + 2] = b"%d!" % turn
        self.mapped.flush()
        for _ in range(100):
            self.names.append(next(self.entries).name)
        same(os.path.basename(os.getcwd()), "many")
        self.hear(f"by the host {turn}")

    def hear(self, name: str) -> None:
        """Waits until inotify has told of it."""
        while name not in self.seen:
            assert select.select([self.watcher.fd], [], [], 30)[0], f"nobody told of {name}"
            data, at = os.read(self.watcher.fd, 1 << 16), 0
            while at < len(data):
                length = EVENT.unpack_from(data, at)[3]
                self.seen.add(os.fsdecode(data[at + EVENT.size : at + EVENT.size + length].rstrip(b"\0")))
                at += EVENT.size + length

    def end(self) -> None:
        self.names += [entry.name for entry in self.entries]
        same(sorted(self.names, key=int), [str(number) for number in range(FILES)])


def main(folder: str, turns: int) -> None:
    os.chdir(folder)
    survivor = Survivor()
    say("../ready")
    for turn in range(turns):
        heard(f"../killed {turn}")
        survivor.check(turn)
        say(f"../checked {turn}")
    survivor.end()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
