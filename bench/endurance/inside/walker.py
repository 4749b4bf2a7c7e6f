"""What a tree holds, in few bytes, so that two sides can be compared. Standard library only; it runs on both.

usage: walker.py FOLDER [--passes N]    prints one line of JSON a pass, then waits for the end of its input
       walker.py FOLDER --list FILE     also looks into the files, and writes FILE, a line an entry

The digest covers each entry's path, type, permissions, size and time of change, in the order of the names, with --list
also what is in it. Of folders it leaves out size and links, which are each file system's own.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any


def walk(folder: str, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Everything below `folder`, in the order of the names: path from there, and status.

    What is asked of each name while the folder is read, Linux asks for many at once (READDIRPLUS)."""
    with os.scandir(folder) as entries:
        found = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
    for name, status in sorted(found.items()):
        yield prefix + name, status
        if stat.S_ISDIR(status.st_mode):
            yield from walk(f"{folder}/{name}", f"{prefix}{name}/")


def look(folder: str, listing: str = "") -> dict[str, Any]:
    digest, files, folders, size, lines = hashlib.sha256(), 0, 0, 0, []
    for path, status in walk(folder):
        about = [path, status.st_mode, status.st_ino, status.st_mtime_ns]
        if stat.S_ISDIR(status.st_mode):
            folders += 1
        else:
            files += 1
            size += status.st_size
            about += [status.st_nlink, status.st_size]
        if listing and stat.S_ISREG(status.st_mode):
            with open(f"{folder}/{path}", "rb") as file:
                about.append(hashlib.sha256(file.read()).hexdigest())
        line = repr(about)
        digest.update(line.encode())
        if listing:
            lines.append(line)
    if listing:
        with open(listing, "w") as out:
            out.write("\n".join(lines))
    return {"files": files, "folders": folders, "bytes": size, "digest": digest.hexdigest()}


if __name__ == "__main__":
    options = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    for _ in range(int(options.get("--passes", 1))):
        print(json.dumps(look(sys.argv[1], options.get("--list", ""))), flush=True)
    sys.stdin.read()
