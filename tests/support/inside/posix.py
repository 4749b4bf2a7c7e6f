"""What a program expects of a file system, tried on a folder of a share:  posix.py CHECK FOLDER

Each function is a check; it raises where the file system does otherwise. What it leaves in the folder is compared
with what the host sees. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import socket
import stat
import sys
import threading

from checks import read, refused, write

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2  # linux/fs.h
AT_FDCWD = -100
MIB = 1 << 20


def forget_pages() -> None:
    """What is read next comes from the host."""
    write("/proc/sys/vm/drop_caches", b"3")


# --- data


def opening() -> None:
    fd = os.open("new", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    os.write(fd, b"0123456789")
    with refused(errno.EEXIST):
        os.open("new", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    os.close(os.open("new", os.O_WRONLY | os.O_TRUNC))
    assert os.fstat(fd).st_size == 0, "O_TRUNC left data"
    os.close(fd)
    with refused(errno.ENOTDIR):
        os.open("new", os.O_RDONLY | os.O_DIRECTORY)
    with refused(errno.ENOTDIR):
        os.stat("new/below")
    with refused(errno.ENOENT):
        os.open("absent", os.O_RDONLY)
    os.mkdir("folder")
    with refused(errno.EISDIR):
        os.open("folder", os.O_WRONLY)
    with refused(errno.EISDIR, errno.EPERM):
        os.unlink("folder")
    with refused(errno.EEXIST):
        os.mkdir("folder")
    write("folder/in", b"")
    with refused(errno.ENOTEMPTY):
        os.rmdir("folder")
    with refused(errno.ENOTDIR):
        os.rmdir("new")


def appending() -> None:
    first = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    second = os.open("log", os.O_WRONLY | os.O_APPEND)
    for number in range(50):
        os.write(first if number % 2 else second, b"%03d\n" % number)
    assert read("log") == b"".join(b"%03d\n" % number for number in range(50))
    os.ftruncate(second, 8)
    os.write(first, b"end\n")
    assert read("log") == b"000\n001\nend\n"
    os.close(first)
    os.close(second)


def mapping() -> None:
    write("mapped", bytes(MIB))
    with open("mapped", "r+b") as file, mmap.mmap(file.fileno(), MIB) as one, mmap.mmap(file.fileno(), MIB) as two:
        for place in range(0, MIB, 4096):
            one[place : place + 8] = place.to_bytes(8, "little")
        one[MIB - 1] = 0xAA
        assert two[5 * 4096 : 5 * 4096 + 2] == b"\x00\x50", "two mappings differ"
        assert os.pread(file.fileno(), 8, 9 * 4096) == (9 * 4096).to_bytes(8, "little"), "read() is behind the mapping"
        os.pwrite(file.fileno(), b"written", 100)
        assert one[100:107] == b"written", "the mapping is behind write()"
        one.flush()
    forget_pages()
    data = read("mapped")
    assert len(data) == MIB
    assert (data[100:107], data[-1]) == (b"written", 0xAA)
    assert all(data[place : place + 8] == place.to_bytes(8, "little") for place in range(0, MIB, 4096))


def big_file() -> None:
    """64 MiB, written in odd pieces and read back from the host."""
    block = os.urandom(MIB + 1)
    with open("big", "wb", buffering=0) as file:
        for number in range(64):
            piece = block[number:] + block[:number]
            assert file.write(piece[:MIB]) == MIB
        os.fsync(file.fileno())
    forget_pages()
    with open("big", "rb", buffering=0) as file:
        for number in range(64):
            piece = block[number:] + block[:number]
            assert file.read(MIB) == piece[:MIB], f"MiB {number} came back otherwise"
        assert file.read(1) == b""


def holes() -> None:
    fd = os.open("sparse", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"x" * 4096, 8 * MIB)
    os.ftruncate(fd, 16 * MIB)
    os.fsync(fd)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 8 * MIB
    assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
    assert os.lseek(fd, 8 * MIB, os.SEEK_HOLE) == 8 * MIB + 4096
    with refused(errno.ENXIO):
        os.lseek(fd, 8 * MIB + 4096, os.SEEK_DATA)
    assert os.fstat(fd).st_blocks * 512 < MIB, "the hole takes room"
    assert os.pread(fd, 4096, 4 * MIB) == bytes(4096)
    os.posix_fallocate(fd, 0, 2 * MIB)
    assert os.fstat(fd).st_blocks * 512 >= 2 * MIB, "fallocate took no room"
    copy = os.open("copy", os.O_CREAT | os.O_RDWR)
    assert os.copy_file_range(fd, copy, 4096, 8 * MIB, 100) == 4096
    assert os.pread(copy, 5000, 0) == bytes(100) + b"x" * 4096
    os.close(copy)
    os.close(fd)


def locks() -> None:
    with open("locked", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with open("locked", "rb") as other, refused(errno.EWOULDBLOCK):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_UN)
        fcntl.lockf(file, fcntl.LOCK_EX)
        child = os.fork()
        if child == 0:
            try:
                with open("locked", "r+b") as other:
                    fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os._exit(3)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3, "a record lock did not hold"


# --- names


def hard_links() -> None:
    write("one", b"first")
    os.link("one", "two")
    assert os.stat("one").st_ino == os.stat("two").st_ino
    assert os.stat("one").st_nlink == os.stat("two").st_nlink == 2
    write("two", b"through the other")
    assert read("one") == b"through the other"
    os.mkdir("folder")
    os.link("one", "folder/three")
    os.unlink("one")
    assert os.stat("two").st_nlink == 2
    assert read("folder/three") == b"through the other"
    with refused(errno.EPERM):
        os.link("folder", "folder2")
    with refused(errno.EEXIST):
        os.link("two", "folder/three")


def symlinks() -> None:
    write("file", b"data")
    os.mkdir("folder")
    os.symlink("../file", "folder/relative")
    os.symlink(os.path.abspath("file"), "absolute")
    os.symlink("nowhere", "dangling")
    os.symlink("loop", "loop")
    os.symlink("t" * 1000, "long")
    assert read("folder/relative") == read("absolute") == b"data"
    assert os.readlink("folder/relative") == "../file"
    assert os.readlink("long") == "t" * 1000
    assert os.lstat("dangling").st_size == len("nowhere")
    assert stat.S_ISLNK(os.lstat("dangling").st_mode)
    with refused(errno.ENOENT):
        os.stat("dangling")
    with refused(errno.ELOOP):
        os.stat("loop")
    with refused(errno.ELOOP):
        os.open("absolute", os.O_RDONLY | os.O_NOFOLLOW)
    with refused(errno.EINVAL):
        os.readlink("file")


def renaming() -> None:
    write("old", b"old")
    write("new", b"new")
    with open("old", "rb") as kept:
        os.rename("new", "old")
        assert read("old") == b"new"
        assert kept.read() == b"old", "an open file changed when its name was taken"
        assert os.fstat(kept.fileno()).st_nlink == 0
    with refused(errno.ENOENT):
        os.stat("new")
    os.makedirs("a/deep")
    os.makedirs("b")
    write("a/deep/file", b"moved")
    os.rename("a", "b")
    assert read("b/deep/file") == b"moved"
    os.mkdir("c")
    write("c/full", b"")
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        os.rename("b", "c")
    with refused(errno.EISDIR):
        os.rename("old", "b")
    with refused(errno.ENOTDIR):
        os.rename("b", "old")
    with refused(errno.EINVAL):
        os.rename("b", "b/deep/b")
    with refused(errno.EEXIST):
        rename2("old", "c/full", RENAME_NOREPLACE)
    rename2("old", "c/full", RENAME_EXCHANGE)
    assert (read("old"), read("c/full")) == (b"", b"new")
    here = os.open("b/deep", os.O_RDONLY | os.O_DIRECTORY)
    os.rename("b", "elsewhere")
    assert os.listdir(here) == ["file"], "an open folder was lost when the one above it moved"
    os.close(here)


def rename2(old: str, new: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, old.encode(), AT_FDCWD, new.encode(), ctypes.c_uint(flags)):
        raise OSError(ctypes.get_errno(), f"renameat2 {old} {new}")


def unlinked_while_open() -> None:
    os.mkdir("folder")
    with open("folder/file", "w+b", buffering=0) as file:
        file.write(b"before")
        os.unlink("folder/file")
        os.rmdir("folder")
        file.write(b" and after")
        forget_pages()
        assert os.pread(file.fileno(), 100, 0) == b"before and after"
        assert os.fstat(file.fileno()).st_nlink == 0
        os.ftruncate(file.fileno(), 6)
        assert os.pread(file.fileno(), 100, 0) == b"before"
        assert os.fstat(file.fileno()).st_size == 6
    assert os.listdir(".") == []


def long_names() -> None:
    for name in ("n" * 255, "ü" * 127):
        write(name, name.encode())
        assert read(name) == name.encode()
    for name in ("n" * 256, "ü" * 128):
        with refused(errno.ENAMETOOLONG):
            write(name, b"")
    os.makedirs("/".join(["d" * 100] * 12))
    assert sorted(os.listdir(".")) == sorted(["n" * 255, "ü" * 127, "d" * 100])


def weird_names() -> None:
    names = [
        b"new\nline",
        b" spaces ",
        b"-dash",
        b"...",
        b"a:b",
        b"\xff\xfe not UTF-8",
        "中文 ☃".encode(),
        b"*?[$`\\'\"",
    ]
    names += [bytes(range(1, 47)), bytes(range(48, 256))]  # every byte but NUL and the slash
    for number, name in enumerate(names):
        os.mkdir(name)
        write(os.fsdecode(name + b"/" + name), b"%d" % number)
    assert sorted(os.listdir(b".")) == sorted(names)
    for number, name in enumerate(names):
        assert os.listdir(name) == [name]
        assert read(os.fsdecode(name + b"/" + name)) == b"%d" % number


def many_files() -> None:
    """A thousand files; half of them go while the folder is being listed."""
    for number in range(1000):
        write(f"file-{number:03}", b"%d" % (number * number))
    forget_pages()
    assert sorted(os.listdir(".")) == [f"file-{number:03}" for number in range(1000)]
    assert all(read(f"file-{number:03}") == b"%d" % (number * number) for number in range(0, 1000, 7))
    seen = []
    with os.scandir(".") as entries:
        for entry in entries:
            seen.append(entry.name)
            if int(entry.name[5:]) % 2:
                os.unlink(entry.name)
    assert len(seen) == len(set(seen)) == 1000, f"{len(seen)} entries, {len(set(seen))} different"
    assert sorted(os.listdir(".")) == [f"file-{number:03}" for number in range(0, 1000, 2)]


# --- what is neither data nor name


def fifos() -> None:
    os.mkfifo("fifo", 0o640)
    assert stat.S_ISFIFO(os.stat("fifo").st_mode)
    writer = threading.Thread(target=write, args=("fifo", b"through the pipe"))
    writer.start()
    assert read("fifo") == b"through the pipe"
    writer.join()


def unix_sockets() -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind("socket")  # relative: a socket's path is at most 107 bytes long
        listener.listen()
        assert stat.S_ISSOCK(os.stat("socket").st_mode)
        client.connect("socket")
        peer, _ = listener.accept()
        with peer:
            client.sendall(b"hello")
            assert peer.recv(5) == b"hello"
    with socket.socket(socket.AF_UNIX) as client, refused(errno.ECONNREFUSED):
        client.connect("socket")


def attributes() -> None:
    write("file", b"")
    os.setxattr("file", "user.one", b"1")
    os.setxattr("file", "user.empty", b"")
    os.setxattr("file", "user.long", b"v" * 2000)
    assert sorted(os.listxattr("file")) == ["user.empty", "user.long", "user.one"]
    assert os.getxattr("file", "user.long") == b"v" * 2000
    assert os.getxattr("file", "user.empty") == b""
    with refused(errno.EEXIST):
        os.setxattr("file", "user.one", b"2", os.XATTR_CREATE)
    os.setxattr("file", "user.one", b"2", os.XATTR_REPLACE)
    with refused(errno.ENODATA):
        os.setxattr("file", "user.none", b"", os.XATTR_REPLACE)
    os.removexattr("file", "user.empty")
    with refused(errno.ENODATA):
        os.getxattr("file", "user.empty")
    assert os.getxattr("file", "user.one") == b"2"
    os.mkdir("folder")
    os.setxattr("folder", "user.of-a-folder", bytes(range(256)))
    assert os.getxattr("folder", "user.of-a-folder") == bytes(range(256))


def modes_and_times() -> None:
    os.umask(0o027)
    os.close(os.open("masked", os.O_CREAT | os.O_WRONLY, 0o666))
    os.mkdir("folder", 0o777)
    assert stat.S_IMODE(os.stat("masked").st_mode) == 0o640
    assert stat.S_IMODE(os.stat("folder").st_mode) == 0o750
    os.chmod("masked", 0o4755)
    os.chmod("folder", 0o1777)
    assert stat.S_IMODE(os.stat("masked").st_mode) == 0o4755
    assert stat.S_IMODE(os.stat("folder").st_mode) == 0o1777
    times = (1_000_000_000_123_456_789, 1_111_111_111_987_654_321)
    for name in ("masked", "folder"):
        os.utime(name, ns=times)
        status = os.stat(name)
        assert (status.st_atime_ns, status.st_mtime_ns) == times, f"{name}: {status}"
    os.symlink("masked", "link")
    os.utime("link", ns=times, follow_symlinks=False)
    assert os.lstat("link").st_mtime_ns == times[1]
    before = os.stat("masked").st_mtime_ns
    with open("masked", "wb") as file:
        file.write(b"newer")
    assert os.stat("masked").st_mtime_ns > before, "a write did not change the time"


def owners() -> None:
    """For a host side that runs as root; another user's may change no owner."""
    write("file", b"")
    os.mkdir("folder")
    os.chmod("file", 0o4755)
    os.chown("file", 1234, 5678)
    assert (os.stat("file").st_uid, os.stat("file").st_gid) == (1234, 5678)
    assert not os.stat("file").st_mode & stat.S_ISUID, "chown left the set-user-ID bit"
    os.chown("folder", -1, 77)
    assert (os.stat("folder").st_uid, os.stat("folder").st_gid) == (os.getuid(), 77)
    os.symlink("file", "link")
    os.chown("link", 9, 9, follow_symlinks=False)
    assert (os.lstat("link").st_uid, os.stat("file").st_uid) == (9, 1234)


def nothing_may_change() -> None:
    """On a read-only share that holds `file`, `folder` and the symlink `link`."""
    assert read("file") == b"as the host wrote it"
    for change in (
        lambda: os.open("new", os.O_CREAT | os.O_WRONLY),
        lambda: os.open("file", os.O_WRONLY),
        lambda: os.truncate("file", 0),
        lambda: os.mkdir("new"),
        lambda: os.rmdir("folder"),
        lambda: os.unlink("file"),
        lambda: os.rename("file", "new"),
        lambda: os.link("file", "new"),
        lambda: os.symlink("file", "new"),
        lambda: os.mkfifo("new"),
        lambda: os.chmod("file", 0o777),
        lambda: os.utime("file"),
        lambda: os.chown("file", 1, 1),
        lambda: os.setxattr("file", "user.new", b""),
    ):
        with refused(errno.EROFS):
            change()
    assert sorted(os.listdir(".")) == ["file", "folder", "link"]


if __name__ == "__main__":
    os.chdir(sys.argv[2])
    globals()[sys.argv[1]]()
