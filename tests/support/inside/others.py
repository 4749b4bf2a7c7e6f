"""Other users, what they may and what goes when they do it: suid and sgid, capabilities, shared folders. As root, for a
host side that runs as root. See checks.py."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import stat
import struct

from checks import as_user, main, outcome, read, refused, same, write

OWNER, STRANGER = 1000, 1001
# VFS_CAP_REVISION_2 of linux/capability.h, with CAP_NET_BIND_SERVICE permitted
CAPABILITIES = struct.pack("<IIIII", 0x0200_0000, 1 << 10, 0, 0, 0)

libc = ctypes.CDLL(None, use_errno=True)


def mode(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def about(path: str) -> tuple[str, int, int, str]:
    status = os.lstat(path)
    return path, status.st_uid, status.st_gid, oct(status.st_mode)


# --- what goes when a file is changed

WAYS = ("write", "ftruncate", "O_TRUNC", "truncate", "copy_file_range", "fallocate", "mmap")


def change(path: str, way: str) -> None:
    if way == "truncate":
        return os.truncate(path, 2)
    fd = os.open(path, os.O_RDWR | (os.O_TRUNC if way == "O_TRUNC" else 0))
    if way == "write":
        os.write(fd, b"1")
    elif way == "ftruncate":
        os.ftruncate(fd, 1)
    elif way == "copy_file_range":
        os.copy_file_range(os.open("source", os.O_RDONLY), fd, 3)
    elif way == "fallocate":
        if libc.fallocate64(fd, 0, ctypes.c_int64(0), ctypes.c_int64(4096)):
            raise OSError(ctypes.get_errno(), "fallocate")
    elif way == "mmap":
        with mmap.mmap(fd, 5) as mapping:
            mapping[0] = 1
    os.close(fd)


def suid_and_sgid() -> list[str]:
    """suid goes; sgid too where the group may execute, or who does it is not of the group (Linux 6.2). Neither goes
    when root does it, or by a mapping."""
    write("source", b"abcdef")
    seen = []
    for bits in (0o6777, 0o2767, 0o6755):
        for who in (OWNER, STRANGER, 0):
            if who == STRANGER and not bits & 0o002:
                continue
            for way in WAYS:
                write(way, b"12345")
                os.chown(way, OWNER, OWNER)
                os.chmod(way, bits)
            same(as_user(who, lambda: [outcome(lambda: change(way, way)) for way in WAYS]), ["done"] * 7)  # noqa: B023
            left = bits
            if who:
                left &= ~0o4000
                left &= ~0o2000 if bits & 0o010 or who == STRANGER else ~0
            wanted = {way: oct(bits if way == "mmap" else left) for way in WAYS}
            found = {way: oct(mode(way)) for way in WAYS}
            if found != wanted:
                seen.append(f"{bits:o} changed by {who}: {found}, not {wanted}")
    assert not seen, "\n".join(seen)
    return seen


def chown_of_nothing() -> None:
    """chown drops both also when it changes nothing; from a folder it takes neither."""
    for ids in ((5, 5), (-1, -1)):
        for bits, left in ((0o6777, 0o777), (0o2767, 0o2767)):
            write("file", b"")
            os.chmod("file", bits)
            os.chown("file", *ids)
            same(oct(mode("file")), oct(left), f"{bits:o} given to {ids}:")
    os.mkdir("folder")
    os.chmod("folder", 0o6777)
    os.chown("folder", 5, 5)
    same(oct(mode("folder")), oct(0o6777))


def capabilities() -> None:
    write("file", b"#!/bin/sh\n")
    os.chmod("file", 0o755)

    def give() -> None:
        os.setxattr("file", "security.capability", CAPABILITIES)
        same(os.getxattr("file", "security.capability"), CAPABILITIES)

    for way in ("write", "truncate"):
        give()
        change("file", way)
        with refused(errno.ENODATA):
            os.getxattr("file", "security.capability")
    give()
    os.chown("file", 1, 1)
    with refused(errno.ENODATA):
        os.getxattr("file", "security.capability")


# --- folders of several users


def a_folder_of_a_group() -> list[tuple[str, int, int, str]]:
    os.mkdir("folder")
    os.chown("folder", 0, 77)
    os.chmod("folder", 0o2777)
    write("folder/file", b"")
    os.mkdir("folder/sub")
    os.mkfifo("folder/fifo")
    os.symlink("x", "folder/link")
    for name, groups in (("stranger", []), ("member", [77])):
        # sgid on what the group may execute is for those of the group
        made = as_user(OWNER, lambda: os.close(os.open(f"folder/{name}", os.O_CREAT, 0o2775)), groups)  # noqa: B023
        same(made, None)
    as_user(OWNER, lambda: os.mkdir("folder/of-a-stranger"))
    seen = [about(f"folder/{name}") for name in sorted(os.listdir("folder"))]
    same({gid for _, _, gid, _ in seen}, {77})
    same(mode("folder/sub") & 0o2000, 0o2000)
    return seen


def made_by_another() -> list[tuple[str, int, int, str]]:
    """What a user makes is theirs, and masked."""
    os.mkdir("folder")
    os.chmod("folder", 0o777)

    def make() -> list[object]:
        os.umask(0o027)
        os.chdir("folder")
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir("sub")
        os.mkfifo("fifo", 0o666)
        os.symlink("x", "link")
        os.link("file", "hard")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
        status = os.fstat(os.open(".", os.O_TMPFILE | os.O_RDWR, 0o666))
        device = outcome(lambda: os.mknod("device", stat.S_IFCHR | 0o600, os.makedev(1, 3)))
        return [stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, device]

    same(as_user(OWNER, make), [0o640, OWNER, OWNER, "EPERM"])
    seen = [about(f"folder/{name}") for name in sorted(os.listdir("folder"))]
    same({(uid, gid) for _, uid, gid, _ in seen}, {(OWNER, OWNER)})
    same((mode("folder/file"), mode("folder/sub"), mode("folder/fifo")), (0o640, 0o750, 0o640))
    return seen


def its_maker_writes_what_nobody_may() -> None:
    os.chmod(".", 0o777)

    def make() -> list[str]:
        fd = os.open("file", os.O_CREAT | os.O_RDWR, 0o400)
        os.write(fd, b"123")
        os.ftruncate(fd, 2)
        os.fchmod(fd, 0)
        os.write(fd, b"4")
        return [repr(os.pread(fd, 5, 0)), outcome(lambda: os.open("file", os.O_RDONLY))]

    same(as_user(OWNER, make), [repr(b"12\x004"), "EACCES"])


def a_sticky_folder() -> None:
    os.mkdir("folder")
    os.chmod("folder", 0o1777)
    write("folder/root's", b"")
    as_user(OWNER, lambda: write("folder/owner's", b""))
    for change in (lambda: os.unlink("folder/root's"), lambda: os.rename("folder/root's", "folder/x")):
        same(as_user(OWNER, lambda: outcome(change)), "EPERM")  # noqa: B023
    same(as_user(STRANGER, lambda: outcome(lambda: os.unlink("folder/owner's"))), "EPERM")
    same(as_user(OWNER, lambda: outcome(lambda: os.unlink("folder/owner's"))), "done")
    same(os.listdir("folder"), ["root's"])


def trusted_attributes() -> None:
    """Root's alone, and nobody else is told that they are there."""
    write("file", b"")
    os.chmod("file", 0o666)
    os.setxattr("file", "user.seen", b"1")
    os.setxattr("file", "trusted.hidden", b"1")
    same(sorted(os.listxattr("file")), ["trusted.hidden", "user.seen"])

    def look() -> list[object]:
        reading = outcome(lambda: os.getxattr("file", "trusted.hidden"))
        return [os.listxattr("file"), reading, outcome(lambda: os.setxattr("file", "trusted.hidden", b"2"))]

    same(as_user(OWNER, look), [["user.seen"], "ENODATA", "EPERM"])
    same((os.getxattr("file", "trusted.hidden"), read("file")), (b"1", b""))


if __name__ == "__main__":
    main(globals())
