"""Owners, modes and special files, as root in a guest meets them:  owners.py make|check FOLDER

`make` makes them, `check` looks whether they are as they were made. Standard library only.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys

# VFS_CAP_REVISION_2 of linux/capability.h, with CAP_NET_BIND_SERVICE permitted
CAPABILITIES = struct.pack("<IIIII", 0x0200_0000, 1 << 10, 0, 0, 0)
NULL = os.makedev(1, 3)


def write(path: str, data: bytes = b"content") -> None:
    with open(path, "wb") as file:
        file.write(data)


def written_by(uid: int, path: str) -> None:
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        write(path)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def make() -> None:
    os.umask(0)
    write("file")
    os.chown("file", 1234, 55)
    os.chmod("file", 0o4751)
    write("unreadable")
    os.chmod("unreadable", 0)
    write("written")
    os.chmod("written", 0o6777)
    written_by(2000, "written")
    write("given")
    os.chmod("given", 0o6755)
    os.chown("given", 1, -1)
    os.mkdir("folder")
    os.chown("folder", 7, 8)
    os.chmod("folder", 0o3775)
    write("folder/file")
    os.mkdir("folder/sub", 0o750)
    os.symlink("file", "link")
    os.lchown("link", 1234, 55)
    os.mknod("null", stat.S_IFCHR | 0o666, NULL)
    os.mknod("block", stat.S_IFBLK | 0o660, os.makedev(259, 1 << 19))
    os.mkfifo("fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    os.chown("fifo", 5, 6)
    os.setxattr("file", "security.capability", CAPABILITIES)
    os.setxattr("file", "trusted.mine", b"yes")
    os.setxattr("folder", "trusted.overlay.opaque", b"y")
    write("host's", b"to be changed by the host")
    works()


def works() -> None:
    """Special files are what they say."""
    write("null", b"gone")
    with open("null", "rb") as null:
        assert null.read() == b""
    fd = os.open("fifo", os.O_RDWR)
    os.write(fd, b"through")
    assert os.read(fd, 10) == b"through"
    os.close(fd)


def check() -> None:
    for path, uid, gid, mode in (
        ("file", 1234, 55, stat.S_IFREG | 0o4751),
        ("unreadable", 0, 0, stat.S_IFREG),
        ("written", 0, 0, stat.S_IFREG | 0o777),
        ("given", 1, 0, stat.S_IFREG | 0o755),
        ("folder", 7, 8, stat.S_IFDIR | 0o3775),
        ("folder/file", 0, 8, stat.S_IFREG | 0o666),
        ("folder/sub", 0, 8, stat.S_IFDIR | 0o2750),
        ("null", 0, 0, stat.S_IFCHR | 0o666),
        ("block", 0, 0, stat.S_IFBLK | 0o660),
        ("fifo", 5, 6, stat.S_IFIFO | 0o640),
    ):
        there = os.lstat(path)
        found = (there.st_uid, there.st_gid, there.st_mode)
        assert found == (uid, gid, mode), f"{path}: {found[:2]}, {found[2]:o}"
    assert os.stat("null").st_rdev == NULL
    assert os.stat("block").st_rdev == os.makedev(259, 1 << 19)
    assert stat.S_ISSOCK(os.stat("socket").st_mode)
    types = {entry.name for entry in os.scandir(".") if entry.is_file(follow_symlinks=False)}
    assert types == {"file", "unreadable", "written", "given", "host's"}, types
    with open("unreadable", "rb") as file:
        assert file.read() == b"content"
    assert os.readlink("link") == "file"
    assert os.getxattr("file", "security.capability") == CAPABILITIES
    assert set(os.listxattr("file")) == {"security.capability", "trusted.mine"}
    assert os.listxattr("folder") == ["trusted.overlay.opaque"]
    works()


if __name__ == "__main__":
    os.chdir(sys.argv[2])
    {"make": make, "check": check}[sys.argv[1]]()
