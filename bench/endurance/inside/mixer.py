"""Works on a tree beside others who do, knows what must be there, and says what is not. Standard library only.

usage: mixer.py FOLDER SIDE PROCESSES SECONDS SEED PAUSE OPEN

They rest PAUSE seconds after each operation, and have at most OPEN files open for long.

Each process has a folder of its own, `own/SIDE-NUMBER`, whose content it knows and checks all the time. In `shared` all
processes of both sides make, rename, link and remove files under names that never come twice. A file there says itself
what it holds. What was done and acknowledged goes to `logs/SIDE-NUMBER`, which is read at the end (see mixed.py):

    {"made": [names that came], "gone": [names that went], "own": {path: SHA-256}, "counts": {}, "wrong": [what was]}
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import random
import stat
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable

MOST_FILES, LARGEST = 250, 24 << 10
OTHERS_DID = (errno.ENOENT, errno.ESTALE)  # what the other side, or another process, has removed meanwhile


class Wrong(Exception):
    """The share did what a file system may not do."""


class File:
    """A file of ours: what is in it, and how often it has a name."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.names = 0


class Own:
    """A folder that nobody else changes: everything in it is as we left it."""

    def __init__(self, folder: str, chance: random.Random, most_open: int) -> None:
        self.folder, self.chance, self.most_open = folder, chance, most_open
        self.files: dict[str, File] = {}
        self.folders = [""]
        self.open: dict[int, File] = {}
        self.next = 0
        os.makedirs(folder)

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def new(self) -> str:
        self.next += 1
        return f"{self.chance.choice(self.folders)}n{self.next}"

    def some(self) -> str:
        return self.chance.choice(list(self.files)) if self.files else self.create()

    def bytes(self) -> bytes:
        return self.chance.randbytes(self.chance.choice((1, 100, 4096, self.chance.randrange(1, LARGEST))))

    # --- what is done

    def create(self) -> str:
        name, file, data = self.new(), File(), self.bytes()
        fd = os.open(self.path(name), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        self.files[name], file.names = file, 1
        write(fd, data, 0)
        file.data[:] = data
        if len(self.open) < self.most_open and self.chance.random() < 0.7:
            self.open[fd] = file
        else:
            os.close(fd)
        return name

    def write(self) -> None:
        file = self.files[name := self.some()]
        data, at = self.bytes(), self.chance.randrange(len(file.data) + 1000)
        fd = os.open(self.path(name), os.O_WRONLY)
        write(fd, data, at)
        if self.chance.random() < 0.1:
            os.fsync(fd)
        os.close(fd)
        patch(file, at, data)

    def write_open(self) -> None:
        """By a descriptor that was opened long ago, whatever has become of the name."""
        if self.open:
            fd, file = self.chance.choice(list(self.open.items()))
            data, at = self.bytes(), self.chance.randrange(len(file.data) + 1000)
            write(fd, data, at)
            patch(file, at, data)

    def append(self) -> None:
        file, data = self.files[name := self.some()], self.bytes()
        fd = os.open(self.path(name), os.O_WRONLY | os.O_APPEND)
        write(fd, data, None)
        os.close(fd)
        file.data += data

    def map(self) -> None:
        file = self.files[name := self.some()]
        if not file.data:
            return
        data = self.bytes()[: len(file.data)]
        at = self.chance.randrange(len(file.data) - len(data) + 1)
        fd = os.open(self.path(name), os.O_RDWR)
        with mmap.mmap(fd, len(file.data)) as memory:
            os.close(fd)
            same(memory[:], file.data, f"mapped {name}")
            memory[at : at + len(data)] = data
            memory.flush()
        patch(file, at, data)

    def truncate(self) -> None:
        file = self.files[name := self.some()]
        size = self.chance.randrange(len(file.data) + 5000)
        os.truncate(self.path(name), size)
        file.data[size:] = bytes(max(0, size - len(file.data)))

    def rename(self) -> None:
        """To a new name, or over another file."""
        old, new = self.some(), self.new() if self.chance.random() < 0.6 else self.some()
        if self.files.get(new) is not self.files[old]:
            os.rename(self.path(old), self.path(new))
            if new in self.files:
                self.files[new].names -= 1
            self.files[new] = self.files.pop(old)

    def link(self) -> None:
        old, new = self.some(), self.new()
        os.link(self.path(old), self.path(new))
        self.files[new] = self.files[old]
        self.files[new].names += 1

    def unlink(self) -> None:
        name = self.some()
        os.unlink(self.path(name))
        self.files.pop(name).names -= 1

    def mkdir(self) -> None:
        if len(self.folders) < 40:
            name = self.new()
            os.mkdir(self.path(name))
            self.folders.append(f"{name}/")

    def rmdir(self) -> None:
        if len(self.folders) > 1:
            name = self.chance.choice(self.folders[1:])
            used = any(path.startswith(name) and path != name for path in [*self.files, *self.folders])
            try:
                os.rmdir(self.path(name))
            except OSError as error:
                if error.errno != errno.ENOTEMPTY or not used:
                    raise
            else:
                if used:
                    raise Wrong(f"rmdir removed {name}, which was not empty")
                self.folders.remove(name)

    def read(self) -> None:
        file = self.files[name := self.some()]
        with open(self.path(name), "rb") as opened:
            same(opened.read(), file.data, name)
            status = os.fstat(opened.fileno())
        if (status.st_size, status.st_nlink) != (len(file.data), file.names):
            raise Wrong(f"{name}: size {status.st_size}, links {status.st_nlink}; not {len(file.data)}, {file.names}")

    def read_open(self) -> None:
        if self.open:
            fd, file = self.chance.choice(list(self.open.items()))
            same(os.pread(fd, len(file.data) + 100, 0), file.data, f"the open file {fd}")

    def close(self) -> None:
        if self.open:
            fd = self.chance.choice(list(self.open))
            os.close(fd)
            del self.open[fd]

    def list(self) -> None:
        folder = self.chance.choice(self.folders)
        there = {folder + name for name in os.listdir(self.path(folder))}
        known = {path for path in [*self.files, *(path[:-1] for path in self.folders[1:])] if parent(path) == folder}
        if there != known:
            raise Wrong(f"in {folder!r} are {sorted(there - known)} too many, and {sorted(known - there)} are missing")

    def hashes(self) -> dict[str, str]:
        return {name: hashlib.sha256(file.data).hexdigest() for name, file in self.files.items()}


class Shared:
    """A folder in which everybody does everything."""

    def __init__(self, folder: str, who: str, chance: random.Random) -> None:
        self.folder, self.who, self.chance = folder, who, chance
        self.made: list[str] = []
        self.gone: list[str] = []

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def new(self) -> str:
        return f"{self.who}-{len(self.made)}"

    def some(self) -> str:
        names = [name for name in os.listdir(self.folder) if not name.startswith(".")]
        if not names:
            raise FileNotFoundError(errno.ENOENT, "nothing there")
        return self.chance.choice(names)

    def create(self) -> None:
        if len(os.listdir(self.folder)) > 300:
            return self.remove()
        name = self.new()
        body = self.chance.randbytes(self.chance.randrange(LARGEST))
        with open(self.path(f".{name}"), "wb") as file:
            file.write(hashlib.sha256(body).digest() + body)
        os.rename(self.path(f".{name}"), self.path(name))
        self.made.append(name)
        return None

    def read(self) -> None:
        name = self.some()
        with open(self.path(name), "rb") as file:
            data = file.read()
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            raise Wrong(f"{name} in the shared folder holds {len(data)} bytes that are not its own")

    def remove(self) -> None:
        os.unlink(self.path(name := self.some()))
        self.gone.append(name)

    def rename(self) -> None:
        os.rename(self.path(old := self.some()), self.path(new := self.new()))
        self.made.append(new)
        self.gone.append(old)

    def link(self) -> None:
        os.link(self.path(self.some()), self.path(new := self.new()))
        self.made.append(new)


def visit(folder: str, chance: random.Random) -> None:
    """Looks into a folder of somebody else's, as deep as it goes."""
    while True:
        names = os.listdir(folder)
        if not names:
            return
        folder = f"{folder}/{chance.choice(names)}"
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            with open(folder, "rb") as file:
                file.read()
            return


# --- helpers


def write(fd: int, data: bytes, at: int | None) -> None:
    written = os.write(fd, data) if at is None else os.pwrite(fd, data, at)
    if written != len(data):
        raise Wrong(f"{written} of {len(data)} bytes were written")


def patch(file: File, at: int, data: bytes) -> None:
    file.data += bytes(max(0, at - len(file.data)))
    file.data[at : at + len(data)] = data


def same(found: bytes, wanted: bytearray, what: str) -> None:
    if found != wanted:
        at = next((at for at, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), len(wanted))
        raise Wrong(f"{what}: {len(found)} bytes for {len(wanted)}, different from {at} on")


def parent(path: str) -> str:
    return path[: path.rfind("/") + 1]


def work(folder: str, who: str, seconds: float, seed: str, pause: float, most_open: int) -> dict[str, object]:
    chance = random.Random(seed)
    own, shared = Own(f"{folder}/own/{who}", chance, most_open), Shared(f"{folder}/shared", who, chance)
    mine: list[Callable[[], object]] = [
        *(own.create, own.create, own.write, own.write_open, own.append, own.map, own.truncate, own.rename, own.link),
        *(own.unlink, own.mkdir, own.rmdir, own.read, own.read, own.read_open, own.close, own.list),
    ]
    others = [shared.create, shared.create, shared.read, shared.read, shared.remove, shared.rename, shared.link]
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end and len(wrong) < 20:
        time.sleep(pause)
        try:
            if (dice := chance.random()) < 0.6:
                operation = own.unlink if len(own.files) > MOST_FILES else chance.choice(mine)
                operation()
                counts[f"own {operation.__name__}"] += 1
            else:
                operation = chance.choice(others)
                try:
                    if dice < 0.9:
                        operation()
                        counts[f"shared {operation.__name__}"] += 1
                    else:
                        visit(f"{folder}/own", chance)
                        counts["visit"] += 1
                except OSError as error:
                    if error.errno not in OTHERS_DID:
                        raise
                    counts[f"others were quicker: {errno.errorcode[error.errno or 0]}"] += 1
        except (OSError, Wrong):
            wrong.append(traceback.format_exc())
    for fd, file in own.open.items():
        same(os.pread(fd, len(file.data) + 100, 0), file.data, f"the open file {fd} at the end")
        os.close(fd)
    return {"made": shared.made, "gone": shared.gone, "own": own.hashes(), "counts": counts, "wrong": wrong}


def main(folder: str, side: str, processes: int, seconds: float, seed: str, pause: float, most_open: int) -> int:
    """Exit status 1 where a process died."""
    children = []
    for number in range(processes):
        if (child := os.fork()) == 0:
            status = 1
            try:
                said = work(folder, f"{side}-{number}", seconds, f"{seed} {side} {number}", pause, most_open)
                with open(f"{folder}/logs/{side}-{number}", "w") as log:
                    json.dump(said, log)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    return int(max(os.waitpid(child, 0)[1] for child in children) > 0)


if __name__ == "__main__":
    folder, side, processes, seconds, seed, pause, most_open = sys.argv[1:]
    sys.exit(main(folder, side, int(processes), float(seconds), seed, float(pause), int(most_open)))
