"""Appends to a file and reads it by another opening, until the host says "end":  appender.py FOLDER

Nobody else writes to it, so it is always as long as what was written. Prints how often it was read. Standard library
only.
"""

from __future__ import annotations

import os
import sys

from checks import read, same

LINE = b"appended;"
LINES = 10


def main(folder: str) -> None:
    os.chdir(folder)
    fd = os.open("file", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    length = rounds = 0
    while not os.path.exists("end"):
        for _ in range(LINES):
            length += os.write(fd, LINE)
        same(len(read("file")), length)
        rounds += 1
    print(rounds)


if __name__ == "__main__":
    main(sys.argv[1])
