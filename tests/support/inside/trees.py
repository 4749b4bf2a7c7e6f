"""What a folder holds, file by file, so that host and guest can be compared. Standard library only.

As a program, prints `tree(FOLDER)` as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from typing import Any


def tree(folder: str) -> dict[str, dict[str, Any]]:
    """Relative path → what there is to know of it. Names that are not UTF-8 hold lone surrogates."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(parent, name)
            found[os.path.relpath(path, folder)] = describe(path)
    return found


def describe(path: str) -> dict[str, Any]:
    status = os.lstat(path)
    about: dict[str, Any] = {
        "mode": oct(status.st_mode),
        "owner": [status.st_uid, status.st_gid],
        "modified": status.st_mtime_ns,
        "inode": status.st_ino,
    }
    if not stat.S_ISDIR(status.st_mode):  # what a folder's link count and size mean is each file system's own
        about["links"], about["size"] = status.st_nlink, status.st_size
    if stat.S_ISLNK(status.st_mode):
        about["target"] = os.readlink(path)
    if stat.S_ISREG(status.st_mode):
        about["hash"] = file_hash(path)
        about["attributes"] = {
            name: os.getxattr(path, name).hex() for name in sorted(os.listxattr(path)) if name.startswith("user.")
        }
    return about


def file_hash(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    print(json.dumps(tree(sys.argv[1])))
