"""POSIX ACLs as a program meets them, on a folder:  acls.py FOLDER

Prints JSON of all that it saw, so that two file systems can be compared. As root, who becomes others on the way.
Standard library only.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import sys
from collections.abc import Callable

from checks import outcome

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32  # linux/posix_acl.h
SOMEBODY, SOME_GROUP = 1000, 50

seen: dict[str, object] = {}


def acl(*entries: tuple[int, ...]) -> bytes:
    """An ACL of (tag, permissions) or (tag, permissions, id)."""
    packed = (struct.pack("<HHI", *(entry if len(entry) == 3 else (*entry, 0xFFFFFFFF))) for entry in entries)
    return struct.pack("<I", 2) + b"".join(packed)


RICH = acl((USER_OBJ, 6), (USER, 6, SOMEBODY), (GROUP_OBJ, 4), (GROUP, 1, SOME_GROUP), (MASK, 7), (OTHER, 0))
POOR = acl((USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 1))


def note(what: str, path: str) -> None:
    """Mode and ACLs of `path`."""
    attributes = {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in acls_of(path)}
    seen[what] = [oct(os.lstat(path).st_mode), attributes]


def acls_of(path: str) -> list[str]:
    return sorted(name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("system.posix_acl"))


def as_user(uid: int, gids: list[int], call: Callable[[], object]) -> str:
    """What comes of `call` in a process of that user, whose first group is its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups(gids[1:])
        os.setgid(gids[0])
        os.setuid(uid)
        os.write(writer, outcome(call).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def touch(path: str, mode: int = 0o666) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))


def access_acls() -> None:
    touch("file", 0o640)
    os.chmod("file", 0o640)
    os.setxattr("file", ACCESS, RICH)
    note("with an ACL", "file")
    seen["the named user writes"] = as_user(SOMEBODY, [SOMEBODY], lambda: os.open("file", os.O_RDWR))
    seen["the named group writes"] = as_user(2000, [2000, SOME_GROUP], lambda: os.open("file", os.O_RDWR))
    seen["others read"] = as_user(2000, [2000], lambda: os.open("file", os.O_RDONLY))
    for mode in (0o604, 0o000, 0o777, 0o640):
        os.chmod("file", mode)
        note(f"chmod {mode:o}", "file")
    seen["the named user, masked"] = as_user(SOMEBODY, [SOMEBODY], lambda: os.open("file", os.O_RDWR))
    os.setxattr("file", ACCESS, POOR)
    note("with no more than a mode", "file")
    os.setxattr("file", ACCESS, RICH)
    os.removexattr("file", ACCESS)
    note("without", "file")
    seen["default of a file"] = outcome(lambda: os.setxattr("file", DEFAULT, RICH))
    seen["no ACL"] = outcome(lambda: os.setxattr("file", ACCESS, RICH[:-1]))
    seen["without a mask"] = outcome(lambda: os.setxattr("file", ACCESS, RICH[:-16] + RICH[-8:]))
    seen["others set it"] = as_user(2000, [2000], lambda: os.setxattr("file", ACCESS, RICH))


def default_acls() -> None:
    os.mkdir("folder", 0o755)
    os.setxattr("folder", DEFAULT, RICH)
    note("a default ACL", "folder")
    os.umask(0o077)
    touch("folder/file")
    touch("folder/closed", 0o600)
    os.mkdir("folder/sub", 0o777)
    touch("folder/sub/file")
    os.mkdir("folder/sub/sub", 0o2700)
    os.symlink("file", "folder/link")
    fd = os.open("folder", os.O_TMPFILE | os.O_RDWR, 0o666)
    proc = os.open("/proc/self/fd", os.O_RDONLY)
    os.link(str(fd), "folder/named", src_dir_fd=proc, follow_symlinks=True)
    os.close(proc)
    os.close(fd)
    for name in ("file", "closed", "sub", "sub/file", "sub/sub", "named"):
        note(f"inherited by {name}", f"folder/{name}")
    if "fifos" in sys.argv[2:]:
        os.mkfifo("folder/fifo", 0o666)
        note("inherited by a fifo", "folder/fifo")
    os.removexattr("folder", DEFAULT)
    touch("folder/masked")
    note("by the umask again", "folder/masked")
    os.mkdir("poor", 0o755)
    os.setxattr("poor", DEFAULT, POOR)
    touch("poor/file")
    os.mkdir("poor/sub")
    note("a poor default", "poor/file")
    note("a poor default, sub", "poor/sub")
    os.umask(0o022)


def owned_by_others() -> None:
    """Somebody whose file is of a group that is not theirs loses sgid by an ACL."""
    os.mkdir("others", 0o777)
    os.chmod("others", 0o777)
    touch("others/file")
    os.chown("others/file", SOMEBODY, SOME_GROUP)
    os.chmod("others/file", stat.S_ISGID | 0o755)
    seen["an ACL on one's own"] = as_user(SOMEBODY, [SOMEBODY], lambda: os.setxattr("others/file", ACCESS, RICH))
    note("sgid after that", "others/file")


if __name__ == "__main__":
    os.umask(0o022)
    os.chdir(sys.argv[1])
    access_acls()
    default_acls()
    owned_by_others()
    print(json.dumps(seen))
