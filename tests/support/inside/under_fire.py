"""Works on files in three ways at once until the host says "enough":  under_fire.py FOLDER

Random operations on a file, a database, and names that come and go: in each, whatever is done must be done once.
Prints how many rounds there were of each. Standard library only.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from checks import begin, ended, read, refused, same, write
from database import main as change_database

from fuzz import Fuzz


def random_operations(number: int) -> None:
    Fuzz("file", False, number).run(60)


def database(number: int) -> None:
    change_database(f"database-{number}", 3)


def names(_number: int) -> None:
    """Each of these fails if it is done twice, or not at all."""
    os.mkdir("folder")
    fd = os.open("folder/file", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.write(fd, b"content")
    for place in ("folder/renamed", "beside"):
        os.rename(sorted(os.listdir("folder"))[0].join(("folder/", "")), place)
    os.link("beside", "linked")
    same(os.fstat(fd).st_nlink, 2)
    os.symlink("beside", "link")
    same(os.readlink("link"), "beside")
    for _ in range(5):
        os.write(fd, b"+")
    appending = os.open("beside", os.O_WRONLY | os.O_APPEND)
    for _ in range(10):
        os.write(appending, b"appended;")
    os.close(appending)
    same(read("linked"), b"content+++++" + 10 * b"appended;")
    os.setxattr("beside", "user.once", b"value", os.XATTR_CREATE)
    os.removexattr("beside", "user.once")
    for name in ("beside", "linked", "link"):
        os.unlink(name)
        with refused(errno.ENOENT):
            os.stat(name)
    same(os.fstat(fd).st_nlink, 0)
    os.close(fd)
    os.rmdir("folder")


def work(what: Callable[[int], None]) -> None:
    os.mkdir(what.__name__)
    os.chdir(what.__name__)
    here, number = os.getcwd(), 0
    while not os.path.exists("../enough"):
        what(number)
        number += 1
        same(os.getcwd(), here)  # which fails in a folder that the kernel takes for gone
    write("rounds", b"%d" % number)


def main(folder: str) -> None:
    os.chdir(folder)
    works = (random_operations, database, names)
    children = [begin(lambda what=what: work(what)) for what in works]  # type: ignore[misc]
    assert [ended(child) for child in children] == [0, 0, 0]
    print(*(int(read(f"{what.__name__}/rounds")) for what in works))


if __name__ == "__main__":
    main(sys.argv[1])
