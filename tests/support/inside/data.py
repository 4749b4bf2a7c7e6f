"""What is in a file: appending, mapped, allocated, copied, and past the page cache. See checks.py."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import shutil
import signal
import struct
import subprocess
from typing import Any

from checks import as_user, begin, ended, main, outcome, read, refused, reread, same, write

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16  # linux/falloc.h
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2  # linux/stat.h
AT_FDCWD = -100
PAGE = 4096

libc = ctypes.CDLL(None, use_errno=True)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if libc.fallocate64(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        raise OSError(ctypes.get_errno(), f"fallocate {mode}")


def mapped_through_an_appending_handle() -> None:
    """What goes back from a page has its place, also where write() would append."""
    write("file", b"x" * 2 * PAGE)
    fd = os.open("file", os.O_RDWR | os.O_APPEND)
    with mmap.mmap(fd, 2 * PAGE) as mapping:
        mapping[10:16] = b"mapped"
        mapping.flush()
    os.write(fd, b"end")
    os.close(fd)
    same(reread("file"), b"x" * 10 + b"mapped" + b"x" * (2 * PAGE - 16) + b"end")


def append_taken_and_given() -> None:
    write("file", b"12345")
    fd = os.open("file", os.O_RDWR | os.O_APPEND)
    os.pwrite(fd, b"AB", 0)
    same(read("file"), b"12345AB", "pwrite through an appending handle")
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    os.pwrite(fd, b"__", 0)
    same(read("file"), b"__345AB", "O_APPEND taken")
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    os.pwrite(fd, b"end", 0)
    os.pwritev(fd, [b"more"], 0, os.RWF_APPEND)
    same(reread("file"), b"__345ABendmore", "O_APPEND given back")
    os.close(fd)


def four_append_at_once() -> None:
    def append(who: int) -> None:
        fd = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        for number in range(50):
            os.write(fd, b"%d %096d\n" % (who, number))

    for child in [begin(lambda who=who: append(who)) for who in range(4)]:  # type: ignore[misc]
        same(ended(child), 0)
    lines = reread("log").splitlines()
    same(len(lines), 200, "lines")
    for who in range(4):  # each process's own, whole and in order
        own = [line for line in lines if line.startswith(b"%d " % who)]
        same(own, [b"%d %096d" % (who, number) for number in range(50)])


def allocating() -> list[str]:
    """What the host's file system cannot do it cannot do in the guest."""
    seen = []
    for mode, offset, size, left in (
        (0, 16 * PAGE, 18 * PAGE, 16 * PAGE),
        (KEEP_SIZE, 16 * PAGE, 16 * PAGE, 16 * PAGE),
        (PUNCH_HOLE | KEEP_SIZE, 2 * PAGE, 16 * PAGE, 14 * PAGE),
        (ZERO_RANGE, 15 * PAGE, 17 * PAGE, 15 * PAGE),
        (ZERO_RANGE | KEEP_SIZE, 15 * PAGE, 16 * PAGE, 15 * PAGE),
    ):
        write("file", b"d" * 16 * PAGE)
        fd = os.open("file", os.O_RDWR)
        same(len(os.pread(fd, 16 * PAGE, 0)), 16 * PAGE)  # so that it is in the page cache
        seen.append(outcome(lambda: fallocate(fd, mode, offset, 2 * PAGE)))  # noqa: B023, as it is called at once
        if seen[-1] == "done":
            same((os.fstat(fd).st_size, read("file").count(b"d")), (size, left), f"mode {mode}: size and data")
            same(reread("file").count(b"d"), left, f"mode {mode}: data on the host")
        os.close(fd)
    fd = os.open("file", os.O_RDWR)
    for offset, length, number in ((-1, 10, errno.EINVAL), (0, 0, errno.EINVAL), (1 << 62, 1 << 62, errno.EFBIG)):
        with refused(number):
            fallocate(fd, 0, offset, length)
    with refused(errno.EOPNOTSUPP):
        fallocate(fd, PUNCH_HOLE, 0, PAGE)
    only_read = os.open("file", os.O_RDONLY)
    with refused(errno.EBADF):
        fallocate(only_read, 0, 0, PAGE)
    return seen


def seeking() -> list[int]:
    fd = os.open("file", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, 1 << 20)
    os.pwrite(fd, b"x", 300_000)
    os.fsync(fd)
    for offset, whence, number in (
        (1 << 20, os.SEEK_DATA, errno.ENXIO),
        (1 << 20, os.SEEK_HOLE, errno.ENXIO),
        (-1, os.SEEK_DATA, errno.ENXIO),
        (400_000, os.SEEK_DATA, errno.ENXIO),
        (-1, os.SEEK_SET, errno.EINVAL),
        (0, 77, errno.EINVAL),
    ):
        with refused(number):
            os.lseek(fd, offset, whence)
    same(os.lseek(fd, 1 << 21, os.SEEK_SET), 1 << 21)
    same(os.lseek(fd, (1 << 20) - 1, os.SEEK_HOLE), (1 << 20) - 1)
    return [os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 300_000, os.SEEK_HOLE)]


def copying() -> None:
    write("from", b"abcdefghij" * 1000)
    write("to", b"x" * 100)
    source, target = os.open("from", os.O_RDWR), os.open("to", os.O_RDWR)
    same(os.copy_file_range(source, target, 500, 10, 50), 500)
    same((read("to")[45:60], os.stat("to").st_size), (b"xxxxxabcdefghij", 550))
    same(os.copy_file_range(source, source, 50, 0, 5000), 50, "within a file")
    with refused(errno.EINVAL):
        os.copy_file_range(source, source, 500, 0, 100)
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_APPEND):
        other = os.open("to", flags)
        with refused(errno.EBADF):
            os.copy_file_range(source, other, 5)
        os.close(other)
    same(os.copy_file_range(source, target, 5, 100_000, 0), 0, "past the end")
    with mmap.mmap(source, 10_000) as mapping:  # not on the host yet
        mapping[5:8] = b"MAP"
        os.copy_file_range(source, target, 10, 0, 0)
    same(reread("to")[:12], b"abcdeMAPijxx")


def past_the_cache() -> None:
    """O_DIRECT and the page cache of another handle see each other."""
    fd = os.open("file", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    block = mmap.mmap(-1, 2 * PAGE)
    block[:] = b"d" * 2 * PAGE
    same(os.write(fd, block), 2 * PAGE)
    same(os.preadv(fd, [block], PAGE), PAGE, "at the end")
    cached = os.open("file", os.O_RDWR)
    os.pwrite(cached, b"cached", 0)
    os.preadv(fd, [block], 0)
    same(block[:7], b"cachedd")
    block[:6] = b"direct"
    os.pwritev(fd, [block], 0)
    same(os.pread(cached, 7, 0), b"directd")
    with mmap.mmap(cached, PAGE) as mapping:
        mapping[:6] = b"mapped"
        os.preadv(fd, [block], 0)
        same(block[:7], b"mappedd")


def truncated_under_a_mapping() -> None:
    write("file", b"x" * 10_000)
    fd = os.open("file", os.O_RDWR)
    with mmap.mmap(fd, 10_000) as mapping:
        os.ftruncate(fd, 5000)
        same(mapping[4998:5002], b"xx\0\0")
        os.ftruncate(fd, 10_000)
        same(mapping[4998:], b"xx" + bytes(5000))
        mapping[9998] = 65
    same(os.pread(fd, 3, 9997), b"\0A\0")

    def touch() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        mapping = mmap.mmap(fd, 10_000)
        os.ftruncate(fd, 10)
        mapping[9000]

    same(ended(begin(touch)), -signal.SIGBUS, "a page that the file no longer has")


def too_big() -> None:
    fd = os.open("file", os.O_CREAT | os.O_RDWR)
    with refused(errno.EFBIG):
        os.pwrite(fd, b"x", (1 << 63) - 2)
    with refused(errno.EFBIG):
        os.ftruncate(fd, 1 << 62)
    with refused(errno.EINVAL):
        os.ftruncate(fd, -1)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        same(os.write(fd, b"x" * 20_000), 10_000)
        with refused(errno.EFBIG):
            os.write(fd, b"x")
        with refused(errno.EFBIG):
            os.ftruncate(fd, 10_001)

    same(ended(begin(limited)), 0)
    same(os.stat("file").st_size, 10_000)


def times() -> None:
    write("file", b"")
    after_2038 = (2**31 * 10**9 + 7, 2**33 * 10**9 + 1)
    for value in ((0, 0), (-1, -5_000_000_001), after_2038):
        os.utime("file", ns=value)
        status = os.stat("file")
        same((status.st_atime_ns, status.st_mtime_ns), value)

    def utimens(*both: int) -> None:
        if libc.utimensat(AT_FDCWD, b"file", struct.pack("qqqq", *both), 0):
            raise OSError(ctypes.get_errno(), "utimensat")

    utimens(55, UTIME_OMIT, 77, 88)
    same((os.stat("file").st_atime_ns, os.stat("file").st_mtime_ns), (after_2038[0], 77 * 10**9 + 88), "OMIT")
    utimens(55, 66, 0, UTIME_OMIT)
    same((os.stat("file").st_atime_ns, os.stat("file").st_mtime_ns), (55 * 10**9 + 66, 77 * 10**9 + 88), "OMIT")
    utimens(55, 66, 0, UTIME_NOW)
    same(os.stat("file").st_atime_ns, 55 * 10**9 + 66, "beside NOW")
    assert os.stat("file").st_mtime_ns > 10**18, "NOW"
    with refused(errno.EINVAL):
        utimens(55, 10**9, 0, 0)


def open_without_a_name() -> list[str]:
    """All attributes of a file that is open, and has no name any more."""
    write("file", b"12345")
    fd = os.open("file", os.O_RDWR)
    os.unlink("file")
    os.fchmod(fd, 0o600)
    os.ftruncate(fd, 3)
    os.utime(fd, (1, 2))
    os.fsync(fd)
    status = os.fstat(fd)
    same((status.st_mode & 0o7777, status.st_mtime, status.st_size, status.st_nlink), (0o600, 2, 3, 0))
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    same(os.read(again, 10), b"123")
    with refused(errno.ENOENT):
        os.link(f"/proc/self/fd/{fd}", "back", src_dir_fd=0, follow_symlinks=True)
    attribute = outcome(lambda: os.setxattr(fd, "user.kept", b"1"))
    if attribute == "done":
        same((os.listxattr(fd), os.getxattr(fd, "user.kept")), (["user.kept"], b"1"))
    return [attribute]


def executing() -> Any:
    """ETXTBSY both ways."""
    shutil.copy(shutil.which("sleep") or "", "program")
    fd = os.open("program", os.O_WRONLY)
    with refused(errno.ETXTBSY):
        subprocess.run(["./program", "0"], check=True)
    os.close(fd)
    running = subprocess.Popen(["./program", "60"])
    with refused(errno.ETXTBSY):
        os.open("program", os.O_WRONLY)
    with refused(errno.ETXTBSY):
        os.truncate("program", 0)
    running.kill()
    running.wait()
    os.chmod("program", 0o711)
    if os.geteuid() == 0:  # one that may not read it may run it
        return as_user(1000, lambda: [subprocess.call(["./program", "0"]), outcome(lambda: read("program"))])
    return None


if __name__ == "__main__":
    main(globals())
