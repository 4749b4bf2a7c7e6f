"""What the host changes behind the guest's back, met while the guest may still trust what it knew:  stale.py FOLDER

Each case says `turn-CASE` when the host is to do its part, and goes on at `done-CASE`. Prints JSON: a list of case and
what came of it. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

from checks import outcome, read, write


def host(case: str) -> None:
    """The host's turn. No pause: what follows is within the second that names are good for."""
    os.close(os.open(f"turn-{case}", os.O_CREAT | os.O_WRONLY))
    while not os.path.exists(f"done-{case}"):
        pass


def got(path: str) -> str:
    """What is in it, or the name of the errno."""
    held = []
    refusal = outcome(lambda: held.append(read(path)))
    return held[0].decode() if held else refusal


def made(path: str) -> str:
    return outcome(lambda: write(path, b"made"))


def removed_folder() -> list[str]:
    os.mkdir("removed")
    host("removed_folder")
    return [made("removed/file"), outcome(lambda: os.mkdir("removed")), made("removed/file")]


def removed_folder_mkdir() -> list[str]:
    os.mkdir("gone")
    host("removed_folder_mkdir")
    return [outcome(lambda: os.mkdir("gone/sub")), outcome(lambda: os.mkdir("gone"))]


def own_removed_folder() -> list[str]:
    os.mkdir("own")
    fd = os.open("own", os.O_RDONLY)
    os.rmdir("own")
    return [outcome(lambda: os.mkdir(f"/proc/self/fd/{fd}/sub"))]


def replaced_folder() -> list[str]:
    os.mkdir("folder")
    write("folder/file", b"old")
    read("folder/file")
    host("replaced_folder")
    return [made("folder/new"), got("folder/file"), *sorted(os.listdir("folder"))]


def replaced_file() -> list[str]:
    write("replaced", b"old")
    read("replaced")
    host("replaced_file")
    return [got("replaced")]


def removed_file() -> list[str]:
    write("unlinked", b"old")
    read("unlinked")
    host("removed_file")
    return [got("unlinked")]


def still_open() -> list[str]:
    """The open one is the old one, as long as it is open."""
    write("open", b"old")
    with open("open", "rb") as file:
        host("still_open")
        return [file.read().decode(), got(f"/proc/self/fd/{file.fileno()}")]


def written_file() -> list[str]:
    """In place, with no other size: who opens it after that sees it."""
    write("written", b"old")
    read("written")
    host("written_file")
    return [got("written")]


def grown_file() -> list[str]:
    write("grown", b"old")
    read("grown")
    host("grown_file")
    return [got("grown")]


CASES: tuple[Callable[[], list[str]], ...] = (
    *(removed_folder, removed_folder_mkdir, own_removed_folder, replaced_folder),
    *(replaced_file, removed_file, still_open, written_file, grown_file),
)

if __name__ == "__main__":
    os.chdir(sys.argv[1])
    print(json.dumps([(case.__name__, case()) for case in CASES]))
