"""Random changes to a tree in which others may be at work too, under few names, so that they meet.

usage: changes.py FOLDER SECONDS SEED PAUSE     (standard library only)

Prints how many things were done. What was in somebody else's way is no failure.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import sys
import time
from contextlib import suppress

DEPTH, NAMES = 3, "abcdef"
IN_THE_WAY = {
    *(errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ESTALE, errno.EISDIR, errno.ENOTDIR, errno.EINVAL),
    *(errno.EBUSY, errno.ELOOP, errno.EXDEV, errno.EMLINK, errno.EPERM),
}


class Changes:
    def __init__(self, folder: str, seed: int) -> None:
        self.folder = folder
        self.chance = random.Random(seed)

    def path(self) -> str:
        depth = self.chance.randrange(1, DEPTH + 1)
        return "/".join([self.folder, *self.chance.choices(NAMES, k=depth)])

    def data(self) -> bytes:
        return self.chance.randbytes(self.chance.choice((1, 10, 5000)))

    def write(self) -> None:
        with open(self.path(), "wb") as file:
            file.write(self.data())

    def patch(self) -> None:
        """The size stays."""
        with open(self.path(), "r+b") as file:
            file.write(self.chance.randbytes(1))

    def append(self) -> None:
        with open(self.path(), "ab") as file:
            file.write(self.data())

    def replace(self) -> None:
        path = self.path()
        with open(path + ".new", "wb") as file:
            file.write(self.data())
        os.rename(path + ".new", path)

    def make_folder(self) -> None:
        os.mkdir(self.path())

    def link(self) -> None:
        os.link(self.path(), self.path())

    def symlink(self) -> None:
        os.symlink(self.chance.choice(NAMES), self.path())

    def rename(self) -> None:
        os.rename(self.path(), self.path())

    def remove(self) -> None:
        path = self.path()
        if stat.S_ISDIR(os.lstat(path).st_mode):
            os.rmdir(path)
        else:
            os.unlink(path)

    def mode(self) -> None:
        os.chmod(self.path(), self.chance.choice((0o755, 0o700, 0o750)), follow_symlinks=True)

    def read(self) -> None:
        with open(self.path(), "rb") as file:
            file.read()

    def list(self) -> None:
        for entry in os.scandir(os.path.dirname(self.path())):
            entry.stat(follow_symlinks=False)

    def run(self, seconds: float, pause: float) -> int:
        done, end = 0, time.monotonic() + seconds
        work = [self.write, self.write, self.patch, self.append, self.replace, self.make_folder, self.make_folder]
        work += [self.link, self.symlink, self.rename, self.rename, self.rename, self.remove, self.remove, self.mode]
        work += [self.read, self.read, self.list]
        while time.monotonic() < end:
            try:
                self.chance.choice(work)()
                done += 1
            except OSError as error:
                if error.errno not in IN_THE_WAY:
                    raise
            time.sleep(pause)
        return done


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        print(Changes(sys.argv[1], int(sys.argv[3])).run(float(sys.argv[2]), float(sys.argv[4])))
