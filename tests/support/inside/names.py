"""Names, folders and what hangs on them: files made without a name, rename's flags, places in folders, limits. See
checks.py."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import stat
import struct

from checks import begin, ended, main, outcome, read, refused, same, write

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4  # linux/fs.h
AT_FDCWD = -100

libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.opendir.argtypes = [ctypes.c_char_p]
libc.readdir.argtypes = libc.rewinddir.argtypes = libc.closedir.argtypes = libc.telldir.argtypes = [ctypes.c_void_p]
libc.telldir.restype = ctypes.c_long
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]


def renameat2(old: str, new: str, flags: int) -> None:
    if libc.renameat2(AT_FDCWD, old.encode(), AT_FDCWD, new.encode(), ctypes.c_uint(flags)):
        raise OSError(ctypes.get_errno(), f"renameat2 {old} {new}")


def next_entry(folder: int) -> tuple[int, str] | None:
    """Inode number and name of struct dirent."""
    at = libc.readdir(folder)
    return at and (struct.unpack("Q", ctypes.string_at(at, 8))[0], ctypes.string_at(at + 19).decode())


def without_a_name() -> None:
    """O_TMPFILE, named afterwards; with O_EXCL it can have no name."""
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"data")
    same((os.fstat(fd).st_nlink, os.listdir(".")), (0, []))
    os.link(f"/proc/self/fd/{fd}", "named", src_dir_fd=0, follow_symlinks=True)
    same((os.fstat(fd).st_nlink, read("named"), stat.S_IMODE(os.stat("named").st_mode)), (1, b"data", 0o640))
    os.write(fd, b" and more")
    same(read("named"), b"data and more")
    os.unlink("named")
    os.close(fd)
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o640)
    with refused(errno.ENOENT):
        os.link(f"/proc/self/fd/{fd}", "never", src_dir_fd=0, follow_symlinks=True)


def renaming() -> str:
    for name in ("a", "b", "d", "e"):
        write(name, name.encode())
    os.mkdir("folder")
    write("folder/in", b"")
    with refused(errno.EEXIST):
        renameat2("a", "b", RENAME_NOREPLACE)
    with refused(errno.EINVAL):
        renameat2("a", "b", RENAME_NOREPLACE | RENAME_EXCHANGE)
    with refused(errno.EINVAL):
        renameat2("a", "b", 8)
    with refused(errno.ENOENT):
        renameat2("a", "absent", RENAME_EXCHANGE)
    renameat2("a", "b", RENAME_EXCHANGE)
    same((read("a"), read("b")), (b"b", b"a"))
    renameat2("a", "folder", RENAME_EXCHANGE)
    same((os.listdir("a"), read("folder")), (["in"], b"b"), "a file and a folder")
    renameat2("d", "moved", RENAME_NOREPLACE)
    same(read("moved"), b"d")
    done = outcome(lambda: renameat2("b", "c", RENAME_WHITEOUT))
    if done == "done":
        left = os.lstat("b")
        same((stat.S_ISCHR(left.st_mode), left.st_rdev, read("c")), (True, 0, b"a"))
        with refused(errno.EEXIST):
            renameat2("e", "c", RENAME_WHITEOUT | RENAME_NOREPLACE)
        os.unlink("b")
    return done


def places_in_a_folder() -> None:
    """telldir's places hold; after rewinddir what came meanwhile is there."""
    for number in range(200):
        write(f"file-{number}", b"")
    folder = libc.opendir(b".")
    seen, places = [], []
    while True:
        places.append(libc.telldir(folder))
        entry = next_entry(folder)
        if not entry:
            break
        seen.append(entry[1])
    same((len(seen), len(set(seen))), (202, 202))
    for number in (0, 1, 77, 150, 201, 3):
        libc.seekdir(folder, places[number])
        same((next_entry(folder) or (0, ""))[1], seen[number], f"after seekdir to entry {number}")
    write("later", b"")
    libc.rewinddir(folder)
    again = set()
    while entry := next_entry(folder):
        again.add(entry[1])
    same(again, {*seen, "later"})
    libc.closedir(folder)


def numbers_of_dots() -> None:
    os.makedirs("above/folder")
    folder = libc.opendir(b"above/folder")
    numbers = {}
    while entry := next_entry(folder):
        numbers[entry[1]] = entry[0]
    libc.closedir(folder)
    same(numbers, {".": os.stat("above/folder").st_ino, "..": os.stat("above").st_ino})


def one_makes_it() -> None:
    """O_EXCL: of three processes that make the same files each file is made once."""

    def make() -> None:
        made = 0
        for number in range(40):
            try:
                os.close(os.open(f"file-{number}", os.O_CREAT | os.O_EXCL))
                made += 1
            except FileExistsError:
                pass
        os._exit(made)

    same(sum(ended(child) for child in [begin(make) for _ in range(3)]), 40)


def a_wait_for_a_lock_is_interrupted() -> None:
    write("file", b"")
    held = os.open("file", os.O_RDWR)
    fcntl.lockf(held, fcntl.LOCK_EX)

    class Rung(Exception):
        pass

    def ring(*_: object) -> None:
        raise Rung

    def wait() -> None:
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            fcntl.lockf(os.open("file", os.O_RDWR), fcntl.LOCK_EX)
        except Rung:
            os._exit(7)

    same(ended(begin(wait)), 7)


def limits() -> list[str]:
    """How long a symlink and an attribute may be is the host's file system's own."""
    seen = []
    for size in (1, 59, 60, 255, 4095):
        seen.append(outcome(lambda: os.symlink("x" * size, f"link-{size}")))  # noqa: B023
        if seen[-1] == "done":
            same(os.readlink(f"link-{size}"), "x" * size)
            same(os.lstat(f"link-{size}").st_size, size)
    with refused(errno.ENAMETOOLONG):
        os.symlink("x" * 4096, "link")
    with refused(errno.ENOENT):
        os.symlink("", "link")
    write("file", b"")
    os.mkfifo("fifo")
    attributes = (
        *(("file", name, 1) for name in ("user.a", "user.", "none.a", "system.a", "user." + "n" * 250)),
        *(("file", "user.big", size) for size in (2000, 65_536)),
        ("fifo", "user.a", 1),
    )
    for path, name, size in attributes:
        seen.append(outcome(lambda: os.setxattr(path, name, b"v" * size)))  # noqa: B023
    with refused(errno.ERANGE):
        os.setxattr("file", "user." + "n" * 251, b"")
    with refused(errno.E2BIG):
        os.setxattr("file", "user.big", bytes(65_537))
    with refused(errno.ENODATA):
        os.getxattr("file", "user.none")
    if seen[5] == "done":
        os.setxattr("file", "user.a", b"longer than that")
        with refused(errno.ERANGE):
            fill(libc.getxattr(b"file", b"user.a", ctypes.create_string_buffer(4), ctypes.c_size_t(4)))
        with refused(errno.ERANGE):
            fill(libc.listxattr(b"file", ctypes.create_string_buffer(4), ctypes.c_size_t(4)))
    return seen


def fill(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


if __name__ == "__main__":
    main(globals())
