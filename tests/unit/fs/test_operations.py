"""What each operation does to a real directory, and the errno that it answers."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import time
from pathlib import Path

import pytest

from subos_devices.fs.caching import CACHE_POLICIES, CachePolicy
from subos_devices.fs.hot import FINE_TICK
from subos_protocol.fuse import (
    FUSE_ATTR_OUT,
    FUSE_COPY_FILE_RANGE_IN,
    FUSE_CREATE_IN,
    FUSE_ENTRY_OUT,
    FUSE_FALLOCATE_IN,
    FUSE_LSEEK_IN,
    FUSE_SETATTR_IN,
    FUSE_STATFS_OUT,
    FUSE_STATX_IN,
    FUSE_STATX_OUT,
    fuse_attr_out,
    fuse_copy_file_range_in,
    fuse_entry_out,
)
from subos_protocol.fuse_opcodes import FUSE_WRITE_CACHE, FuseInit, FuseOpcode, FuseOpened, FuseSetattr
from support.contained import contained
from support.fuse_requests import Guest, Refused

from .conftest import Serve, start

ALL = (1 << 64) - 1
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")


def refused(guest: Guest, opcode: int, node: int, arguments: bytes, **room: int) -> int:
    """The errno of a request."""
    return guest.ask(opcode, node, arguments, room=room.get("room", 300)).error


def setattr_(guest: Guest, node: int, valid: int, **values: int) -> fuse_attr_out:
    fields = dict.fromkeys(FUSE_SETATTR_IN.fields._fields, 0) | values | {"valid": int(valid)}  # type: ignore[attr-defined]
    body = FUSE_SETATTR_IN.struct.pack(*fields.values())
    return FUSE_ATTR_OUT.unpack(guest.ask(FuseOpcode.FUSE_SETATTR, node, body, room=FUSE_ATTR_OUT.size).body)


def make(guest: Guest, opcode: int, arguments: bytes, parent: int = 1) -> fuse_entry_out:
    return FUSE_ENTRY_OUT.unpack(guest.ask(opcode, parent, arguments, room=FUSE_ENTRY_OUT.size).body)


def mkdir(guest: Guest, name: bytes, parent: int = 1, mode: int = 0o755) -> int:
    return make(guest, FuseOpcode.FUSE_MKDIR, struct.pack("<II", mode, 0) + name + b"\0", parent).nodeid


def rename(guest: Guest, old: bytes, new: bytes, olddir: int = 1, newdir: int = 1, flags: int = 0) -> int:
    body = struct.pack("<QII", newdir, flags, 0) + old + b"\0" + new + b"\0"
    return guest.ask(FuseOpcode.FUSE_RENAME2, olddir, body).error


# --- attributes


def test_getattr_says_what_stat_says(guest: Guest, root: Path) -> None:
    file = root / "file"
    file.write_bytes(b"12345")
    os.utime(file, ns=(-1_500_000_001, 1_700_000_000_123_456_789))
    entry, status = guest.lookup(b"file"), file.stat()
    for answer in (entry, guest.getattr(entry.nodeid)):
        assert (answer.ino, answer.size, answer.mode) == (status.st_ino, 5, status.st_mode)
        assert (answer.atime, answer.atimensec) == (-2, 499_999_999)
        assert (answer.mtime, answer.mtimensec) == (1_700_000_000, 123_456_789)
        assert answer.ctime * 10**9 + answer.ctimensec == status.st_ctime_ns
        assert (answer.nlink, answer.uid, answer.gid) == (1, status.st_uid, status.st_gid)
        assert (answer.blksize, answer.blocks) == (status.st_blksize, status.st_blocks)


def test_statx(guest: Guest, root: Path) -> None:
    (root / "file").write_bytes(b"12345")
    body = FUSE_STATX_IN.struct.pack(0, 0, 0, 0, 0xFFF)
    reply = guest.ask(FuseOpcode.FUSE_STATX, guest.lookup(b"file").nodeid, body, room=FUSE_STATX_OUT.size).body
    mask, _, _, nlink, _, _, mode, _, ino, size = struct.unpack_from("<IIQIIIHHQQ", FUSE_STATX_OUT.unpack(reply).stat)
    assert mask & 0x7FF == 0x7FF
    assert (nlink, stat.S_ISREG(mode), ino, size) == (1, True, (root / "file").stat().st_ino, 5)


def test_setattr_mode_owner_and_size(guest: Guest, root: Path) -> None:
    file = root / "file"
    node, handle = guest.create(b"file")
    assert stat.S_IMODE(setattr_(guest, node, FuseSetattr.FATTR_MODE, mode=0o100640).mode) == 0o640
    assert setattr_(guest, node, FuseSetattr.FATTR_SIZE, size=100).size == 100
    assert setattr_(guest, node, FuseSetattr.FATTR_SIZE | FuseSetattr.FATTR_FH, size=50, fh=handle).size == 50
    assert setattr_(guest, node, FuseSetattr.FATTR_UID, uid=os.geteuid()).uid == os.geteuid()
    assert file.stat().st_size == 50
    for size in (1 << 63, ALL):
        body = FUSE_SETATTR_IN.struct.pack(int(FuseSetattr.FATTR_SIZE), *[0, 0], size, *[0] * 12)
        assert refused(guest, FuseOpcode.FUSE_SETATTR, node, body) == errno.EINVAL
    body = FUSE_SETATTR_IN.struct.pack(int(FuseSetattr.FATTR_SIZE), *[0] * 15)
    assert refused(guest, FuseOpcode.FUSE_SETATTR, 1, body) == errno.EISDIR


@as_root
def test_setattr_owner(guest: Guest) -> None:
    node, _ = guest.create(b"file")
    assert setattr_(guest, node, FuseSetattr.FATTR_UID, uid=1234, gid=99).gid == 0
    changed = setattr_(guest, node, FuseSetattr.FATTR_GID, uid=99, gid=1235)
    assert (changed.uid, changed.gid) == (1234, 1235)


def test_setattr_times(guest: Guest, root: Path) -> None:
    node, _ = guest.create(b"file")
    both = FuseSetattr.FATTR_ATIME | FuseSetattr.FATTR_MTIME
    answer = setattr_(guest, node, both, atime=1000, atimensec=1, mtime=-2000, mtimensec=2)
    assert (answer.atime, answer.atimensec, answer.mtime, answer.mtimensec) == (1000, 1, -2000, 2)
    answer = setattr_(guest, node, FuseSetattr.FATTR_MTIME, mtime=3000)
    assert (answer.atime, answer.mtime) == (1000, 3000)
    answer = setattr_(guest, node, FuseSetattr.FATTR_ATIME | FuseSetattr.FATTR_ATIME_NOW, atime=5)
    assert answer.atime > 1_600_000_000
    assert answer.mtime == 3000
    body = FUSE_SETATTR_IN.struct.pack(int(both), *[0] * 7, 1_000_000_000, *[0] * 7)
    assert refused(guest, FuseOpcode.FUSE_SETATTR, node, body) == errno.EINVAL


def test_setattr_times_of_a_symlink(guest: Guest, root: Path) -> None:
    (root / "target").write_bytes(b"")
    before = (root / "target").stat().st_mtime_ns
    (root / "link").symlink_to("target")
    node = guest.lookup(b"link").nodeid
    assert setattr_(guest, node, FuseSetattr.FATTR_MTIME, mtime=4000).mtime == 4000
    assert (root / "link").lstat().st_mtime == 4000
    assert (root / "target").stat().st_mtime_ns == before


@pytest.mark.parametrize(("mode", "left"), [(0o6755, 0o755), (0o2644, 0o2644), (0o4644, 0o644)])
def test_suid_goes_when_the_guest_says_so(guest: Guest, root: Path, mode: int, left: int) -> None:
    """FUSE_HANDLE_KILLPRIV_V2. An ordinary user's host kernel drops the bits at every write anyway."""
    file = root / "file"

    def arm() -> None:
        file.write_bytes(b"0123456789")
        file.chmod(mode)

    arm()
    node = guest.lookup(b"file").nodeid
    handle = guest.open(node, os.O_RDWR)
    guest.write(node, handle, b"x")
    if os.geteuid() == 0:
        assert stat.S_IMODE(file.stat().st_mode) == mode
    guest.write(node, handle, b"x", flags=4)
    assert stat.S_IMODE(file.stat().st_mode) == left
    arm()
    setattr_(guest, node, FuseSetattr.FATTR_SIZE | FuseSetattr.FATTR_KILL_SUIDGID, size=3)
    assert stat.S_IMODE(file.stat().st_mode) == left
    arm()
    guest.open(node, os.O_WRONLY | os.O_TRUNC, 1)
    assert stat.S_IMODE(file.stat().st_mode) == left


def test_a_setattr_of_nothing_drops_suid(guest: Guest, root: Path) -> None:
    """What the guest's kernel sends for chown(-1, -1), and before fallocate and copy_file_range."""
    node, _ = guest.create(b"file")
    (root / "file").chmod(0o4755)
    assert stat.S_IMODE(setattr_(guest, node, 0).mode) == 0o755


@as_root
@pytest.mark.parametrize(("uid", "gid", "left"), [(0, 0, 0o2767), (1001, 1001, 0o767), (1001, 1000, 0o2767)])
def test_a_setattr_of_nothing_by_others_drops_sgid(guest: Guest, root: Path, uid: int, gid: int, left: int) -> None:
    """Where the group may not execute it goes for those that are not of it, as with a write."""
    node, _ = guest.create(b"file")
    os.chown(root / "file", 1000, 1000)
    (root / "file").chmod(0o2767)
    guest.uid, guest.gid = uid, gid
    assert stat.S_IMODE(setattr_(guest, node, 0).mode) == left


@pytest.mark.parametrize("settles", [0, 60])
def test_pages_are_kept_while_a_file_is_as_it_was(
    serve: Serve, root: Path, monkeypatch: pytest.MonkeyPatch, settles: int
) -> None:
    """`settles`: a page that a host program has mapped may change without a new time until it is written back."""
    monkeypatch.setitem(CACHE_POLICIES, "auto", CACHE_POLICIES["auto"]._replace(settles=settles))
    monkeypatch.setattr(CachePolicy, "forgetful", lambda policy: policy)  # the test's folder may be on a tmpfs
    guest = serve()
    file = root / "file"
    file.write_bytes(b"content")
    node = guest.lookup(b"file").nodeid
    keeps = []

    def open_now() -> None:
        body = struct.pack("<II", os.O_RDONLY, 0)
        reply = guest.ask(FuseOpcode.FUSE_OPEN, node, body, room=16).body
        keeps.append(bool(struct.unpack("<QII", reply)[1] & FuseOpened.FOPEN_KEEP_CACHE))

    def wait_for_a_tick() -> None:
        while time.time_ns() - file.stat().st_ctime_ns < 2 * FINE_TICK:
            pass

    open_now()  # never seen before
    open_now()  # written a moment ago: it may be written again within the same tick
    old = file.stat().st_mtime_ns - 10**10
    os.utime(file, ns=(old, old))
    wait_for_a_tick()
    open_now()
    open_now()
    open_now()
    file.write_bytes(b"CONTENT")
    os.utime(file, ns=(old, old))  # the same size and time, but not the same ctime
    open_now()
    assert keeps == [False, False, False, settles == 0, settles == 0, False]


def test_pages_on_a_tmpfs_are_not_kept() -> None:
    assert CACHE_POLICIES["auto"].compares
    assert not CACHE_POLICIES["auto"].forgetful().compares


def test_a_file_that_the_host_replaced_is_stale_when_it_is_opened(guest: Guest, root: Path) -> None:
    (root / "file").write_bytes(b"old")
    node = guest.lookup(b"file").nodeid
    handle = guest.open(node)
    guest.release(node, handle)
    (root / "new").write_bytes(b"new")
    (root / "new").rename(root / "file")
    opening = struct.pack("<II", os.O_RDONLY, 0)
    assert guest.ask(FuseOpcode.FUSE_OPEN, node, opening, room=16).error == errno.ESTALE
    folder = mkdir(guest, b"folder")
    (root / "folder").rmdir()
    for opcode, arguments in (
        (FuseOpcode.FUSE_MKDIR, bytes(8) + b"name\0"),
        (FuseOpcode.FUSE_CREATE, struct.pack("<IIII", os.O_RDWR | os.O_CREAT, 0o600, 0, 0) + b"name\0"),
        (FuseOpcode.FUSE_UNLINK, b"name\0"),
        (FuseOpcode.FUSE_RENAME2, struct.pack("<QII", folder, 0, 0) + b"name\0other\0"),
    ):
        assert refused(guest, opcode, folder, arguments) == errno.ESTALE
    open_file = guest.create(b"open")[0]
    (root / "open").unlink()
    guest.open(open_file)  # by /proc/self/fd in the guest, say


def test_statfs_and_access(guest: Guest, root: Path) -> None:
    body = guest.ask(FuseOpcode.FUSE_STATFS, 1, room=FUSE_STATFS_OUT.size).body
    answer, real = FUSE_STATFS_OUT.unpack(body), os.statvfs(root)
    assert (answer.blocks, answer.bsize, answer.namelen) == (real.f_blocks, real.f_bsize, real.f_namemax)
    assert guest.ask(FuseOpcode.FUSE_ACCESS, 1, struct.pack("<II", os.W_OK, 0)).error == 0


def test_readlink(guest: Guest, root: Path) -> None:
    (root / "link").symlink_to("a" * 300)
    node = guest.lookup(b"link").nodeid
    assert guest.ask(FuseOpcode.FUSE_READLINK, node, data_room=4095).body == b"a" * 300
    assert guest.ask(FuseOpcode.FUSE_READLINK, node, data_room=299).error == errno.ENAMETOOLONG
    assert guest.ask(FuseOpcode.FUSE_READLINK, 1, data_room=4095).error in (errno.EINVAL, errno.ENOENT)


@pytest.mark.parametrize("extended", [True, False])
def test_extended_attributes(serve: Serve, root: Path, extended: bool) -> None:
    guest = serve()
    guest.init(ALL if extended else ALL & ~FuseInit.FUSE_SETXATTR_EXT)
    node, _ = guest.create(b"file")
    head = struct.pack("<II", 5, 0) + (bytes(8) if extended else b"")
    assert guest.ask(FuseOpcode.FUSE_SETXATTR, node, head + b"user.color\0bl\0ue").body == b""
    assert os.getxattr(root / "file", "user.color") == b"bl\0ue"
    for opcode, name, value in (
        (FuseOpcode.FUSE_GETXATTR, b"user.color\0", b"bl\0ue"),
        (FuseOpcode.FUSE_LISTXATTR, b"", b"user.color\0"),
    ):
        size = guest.ask(opcode, node, struct.pack("<II", 0, 0) + name, room=8).body
        assert struct.unpack("<II", size) == (len(value), 0)
        exact = struct.pack("<II", len(value), 0)
        assert guest.ask(opcode, node, exact + name, data_room=len(value)).body == value
        short = struct.pack("<II", len(value) - 1, 0)
        assert guest.ask(opcode, node, short + name, data_room=100).error == errno.ERANGE
    create = struct.pack("<II", 5, os.XATTR_CREATE) + (bytes(8) if extended else b"")
    assert refused(guest, FuseOpcode.FUSE_SETXATTR, node, create + b"user.color\0green") == errno.EEXIST
    for bad in (b"user.color\0longer than said", b"user.color\0", b"\0green", b"user.color"):
        assert refused(guest, FuseOpcode.FUSE_SETXATTR, node, head + bad) == errno.EINVAL
    assert guest.ask(FuseOpcode.FUSE_REMOVEXATTR, node, b"user.color\0").body == b""
    missing = struct.pack("<II", 100, 0) + b"user.color\0"
    assert guest.ask(FuseOpcode.FUSE_GETXATTR, node, missing, data_room=100).error == errno.ENODATA


@pytest.mark.parametrize("xattr", [True, "mapped"])
def test_trusted_attributes_are_listed_to_root_alone(serve: Serve, root: Path, xattr: str | bool) -> None:
    if xattr is True and os.geteuid() != 0:
        pytest.skip("only root has any")
    guest = serve(xattr=xattr)
    node, _ = guest.create(b"file")
    for name in (b"user.a", b"trusted.b"):
        head = struct.pack("<IIII", 1, 0, 0, 0)
        assert guest.ask(FuseOpcode.FUSE_SETXATTR, node, head + name + b"\0v").body == b""
    for uid, listed in ((0, {b"user.a", b"trusted.b", b""}), (1000, {b"user.a", b""})):
        guest.uid = uid
        size = guest.ask(FuseOpcode.FUSE_LISTXATTR, node, struct.pack("<II", 0, 0), room=8).body
        names = guest.ask(FuseOpcode.FUSE_LISTXATTR, node, struct.pack("<II", 100, 0), data_room=100).body
        assert set(names.split(b"\0")) == listed
        assert struct.unpack("<II", size) == (len(names), 0)


def test_without_extended_attributes(serve: Serve) -> None:
    guest = serve(xattr=False)
    assert refused(guest, FuseOpcode.FUSE_GETXATTR, 1, struct.pack("<II", 0, 0) + b"user.a\0") == errno.ENOSYS


# --- names


def test_making_things(guest: Guest, root: Path) -> None:
    folder = mkdir(guest, b"folder", mode=0o1750)
    assert stat.S_IMODE((root / "folder").stat().st_mode) == 0o1750
    entry = make(guest, FuseOpcode.FUSE_SYMLINK, b"link\0../target\0", folder)
    assert stat.S_ISLNK(entry.mode)
    assert os.readlink(root / "folder/link") == "../target"
    fifo = make(guest, FuseOpcode.FUSE_MKNOD, struct.pack("<IIII", stat.S_IFIFO | 0o600, 0, 0, 0) + b"fifo\0", folder)
    assert stat.S_ISFIFO((root / "folder/fifo").stat().st_mode)
    with pytest.raises(Refused) as caught:
        guest.open(fifo.nodeid)
    assert caught.value.errno == errno.ENXIO
    linked = make(guest, FuseOpcode.FUSE_LINK, struct.pack("<Q", entry.nodeid) + b"again\0")
    assert linked.nodeid == entry.nodeid
    assert os.readlink(root / "again") == "../target"
    for opcode, arguments in (
        (FuseOpcode.FUSE_MKDIR, bytes(8)),
        (FuseOpcode.FUSE_MKNOD, struct.pack("<IIII", stat.S_IFREG, 0, 0, 0)),
        (FuseOpcode.FUSE_LINK, struct.pack("<Q", entry.nodeid)),
    ):
        assert refused(guest, opcode, 1, arguments + b"folder\0") == errno.EEXIST
    assert refused(guest, FuseOpcode.FUSE_SYMLINK, 1, b"empty\0\0") == errno.ENOENT


def test_removing_things(guest: Guest, root: Path) -> None:
    folder = mkdir(guest, b"folder")
    node, handle = guest.create(b"file", folder)
    assert refused(guest, FuseOpcode.FUSE_RMDIR, 1, b"folder\0") == errno.ENOTEMPTY
    assert refused(guest, FuseOpcode.FUSE_UNLINK, 1, b"folder\0") in (errno.EISDIR, errno.EPERM)
    assert refused(guest, FuseOpcode.FUSE_RMDIR, folder, b"file\0") == errno.ENOTDIR
    guest.write(node, handle, b"still here")
    assert guest.ask(FuseOpcode.FUSE_UNLINK, folder, b"file\0").body == b""
    # Deleted and open: handle and node live on, and no new file is mistaken for the old one.
    assert guest.read(node, handle, 100) == b"still here"
    assert guest.getattr(node).nlink == 0
    assert len({guest.create(b"new%d" % index, folder)[0] for index in range(20)} | {node}) == 21
    assert guest.open(node) != handle
    for index in range(20):
        assert guest.ask(FuseOpcode.FUSE_UNLINK, folder, b"new%d\0" % index).body == b""
    assert guest.ask(FuseOpcode.FUSE_RMDIR, 1, b"folder\0").body == b""
    assert not (root / "folder").exists()
    assert refused(guest, FuseOpcode.FUSE_UNLINK, 1, b"folder\0") == errno.ENOENT


def test_renaming(guest: Guest, root: Path) -> None:
    folder = mkdir(guest, b"folder")
    one, _ = guest.create(b"one")
    two, _ = guest.create(b"two", folder)
    assert rename(guest, b"one", b"two", 1, folder, flags=1) == errno.EEXIST
    assert rename(guest, b"one", b"two", 1, folder, flags=2) == 0
    assert guest.lookup(b"one").nodeid == two
    assert guest.lookup(b"two", folder).nodeid == one
    assert guest.ask(FuseOpcode.FUSE_RENAME, 1, struct.pack("<Q", folder) + b"one\0two\0").body == b""
    assert guest.lookup(b"two", folder).nodeid == two
    assert guest.getattr(one).nlink == 0
    assert rename(guest, b"folder", b"in", 1, folder) == errno.EINVAL
    assert rename(guest, b"folder", b"moved", flags=8) == errno.EINVAL
    assert rename(guest, b"missing", b"moved") == errno.ENOENT
    assert rename(guest, b"folder", b"x", 1, 999) == errno.EBADF
    assert sorted(os.listdir(root)) == ["folder"]


# --- files


def test_open_flags(guest: Guest, root: Path) -> None:
    (root / "file").write_bytes(b"0123456789")
    node = guest.lookup(b"file").nodeid
    with pytest.raises(Refused) as caught:
        guest.write(node, guest.open(node), b"x")
    assert caught.value.errno == errno.EBADF
    appending = os.O_RDWR | os.O_APPEND
    handle = guest.open(node, appending)
    guest.write(node, handle, b"end", 2, opened=appending)
    assert (root / "file").read_bytes() == b"0123456789end"
    # A page of a shared mapping comes by the same handle and belongs where it says; so does what is written after
    # fcntl(F_SETFL) has taken O_APPEND away.
    guest.write(node, handle, b"AB", 0, flags=FUSE_WRITE_CACHE, opened=appending)
    guest.write(node, handle, b"CD", 2, opened=os.O_RDWR)
    assert (root / "file").read_bytes() == b"ABCD456789end"
    assert guest.read(node, guest.open(node, os.O_RDONLY | os.O_DIRECT), 5, 1) == b"BCD45"
    guest.open(node, os.O_WRONLY | os.O_TRUNC)
    assert (root / "file").read_bytes() == b""
    with pytest.raises(Refused) as caught:
        guest.open(1)
    assert caught.value.errno == errno.EISDIR


def test_create(guest: Guest, root: Path) -> None:
    node, handle = guest.create(b"file", mode=0o4751)
    assert stat.S_IMODE((root / "file").stat().st_mode) == 0o4751
    guest.write(node, handle, b"content")
    again, handle = guest.create(b"file", flags=os.O_RDWR)
    assert (again, guest.read(node, handle, 7)) == (node, b"content")
    with pytest.raises(Refused) as caught:
        guest.create(b"file", flags=os.O_RDWR | os.O_EXCL)
    assert caught.value.errno == errno.EEXIST
    guest.create(b"file", flags=os.O_WRONLY | os.O_TRUNC)
    assert (root / "file").stat().st_size == 0
    os.mkfifo(root / "fifo")
    with pytest.raises(Refused) as caught:
        guest.create(b"fifo")
    assert caught.value.errno == errno.ENXIO


def test_tmpfile(guest: Guest, root: Path) -> None:
    body = FUSE_CREATE_IN.struct.pack(os.O_RDWR, 0o600, 0, 0) + b"/\0"
    reply = guest.ask(FuseOpcode.FUSE_TMPFILE, 1, body, room=144).body
    node, handle = FUSE_ENTRY_OUT.unpack(reply).nodeid, struct.unpack_from("<Q", reply, 128)[0]
    assert guest.write(node, handle, b"nameless") == 8
    assert os.listdir(root) == []
    make(guest, FuseOpcode.FUSE_LINK, struct.pack("<Q", node) + b"named\0")
    assert (root / "named").read_bytes() == b"nameless"


def test_fallocate_and_lseek(guest: Guest, root: Path) -> None:
    node, handle = guest.create(b"file")

    def fallocate(mode: int, offset: int, length: int) -> int:
        body = FUSE_FALLOCATE_IN.struct.pack(handle, offset, length, mode, 0)
        return guest.ask(FuseOpcode.FUSE_FALLOCATE, node, body).error

    assert fallocate(0, 0, 1 << 20) == 0
    assert guest.getattr(node).size == 1 << 20
    guest.write(node, handle, b"\xff" * (1 << 20))
    assert fallocate(1 | 2, 65536, 65536) == 0  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    assert guest.read(node, handle, 4096, 65536) == bytes(4096)
    assert fallocate(0, 0, 0) == errno.EINVAL
    assert fallocate(0, 1 << 63, 1) == errno.EFBIG
    assert fallocate(0, (1 << 63) - 1, 1) == errno.EFBIG

    def lseek(offset: int, whence: int) -> int:
        body = FUSE_LSEEK_IN.struct.pack(handle, offset, whence, 0)
        return int.from_bytes(guest.ask(FuseOpcode.FUSE_LSEEK, node, body, room=8).body, "little")

    assert lseek(0, os.SEEK_HOLE) == 65536
    assert lseek(65536, os.SEEK_DATA) == 131072
    with pytest.raises(Refused) as caught:
        lseek(1 << 21, os.SEEK_DATA)
    assert caught.value.errno == errno.ENXIO
    with pytest.raises(Refused) as caught:
        lseek(0, 77)
    assert caught.value.errno == errno.EINVAL


def test_copy_file_range(guest: Guest, root: Path) -> None:
    source, handle_in = guest.create(b"source")
    guest.write(source, handle_in, b"0123456789")
    target, handle_out = guest.create(b"target")

    def copy(**changes: int) -> int:
        fields = fuse_copy_file_range_in(handle_in, 2, target, handle_out, 1, 5, 0)._replace(**changes)
        body = FUSE_COPY_FILE_RANGE_IN.pack(fields)
        return int.from_bytes(guest.ask(FuseOpcode.FUSE_COPY_FILE_RANGE, source, body, room=8).body[:4], "little")

    assert copy() == 5
    assert (root / "target").read_bytes() == b"\00023456"
    assert copy(len=ALL) == 8
    for change, expected in (({"fh_in": 99}, errno.EBADF), ({"fh_out": 99}, errno.EBADF), ({"flags": 1}, errno.EINVAL)):
        with pytest.raises(Refused) as caught:
            copy(**change)
        assert caught.value.errno == expected
    with pytest.raises(Refused):
        copy(off_in=ALL)


def test_what_only_has_to_succeed(guest: Guest) -> None:
    node, handle = guest.create(b"file")
    directory = guest.opendir()
    for flags in (0, 1):
        assert guest.ask(FuseOpcode.FUSE_FSYNC, node, struct.pack("<QII", handle, flags, 0)).body == b""
        assert guest.ask(FuseOpcode.FUSE_FSYNCDIR, 1, struct.pack("<QII", directory, flags, 0)).body == b""
    assert guest.ask(FuseOpcode.FUSE_FLUSH, node, struct.pack("<QQQ", handle, 0, 0)).body == b""
    assert guest.ask(FuseOpcode.FUSE_SYNCFS, 1, bytes(8)).body == b""
    assert guest.ask(FuseOpcode.FUSE_INTERRUPT, 0, struct.pack("<Q", 2), reply=False).written == 0
    assert guest.read(node, handle, 1) == b""


# --- directories


@pytest.mark.parametrize("plus", [False, True])
def test_reading_a_directory(guest: Guest, root: Path, plus: bool) -> None:
    for index in range(50):
        (root / f"file{index:03}{'x' * index}").write_bytes(b"")
    (root / "folder").mkdir()
    (root / "link").symlink_to("x")
    handle = guest.opendir()
    found = guest.readdir(handle, plus=plus)
    assert set(found) == {b".", b".."} | {os.fsencode(name) for name in os.listdir(root)}
    for name in (b"folder", b"link", b"file003xxx"):
        status = (root / os.fsdecode(name)).lstat()
        assert found[name][1:] == (status.st_ino, stat.S_IFMT(status.st_mode) >> 12)
        assert found[name][0] == (guest.lookup(name).nodeid if plus else 0)
    # From the beginning again: what is new shows, what is gone does not.
    (root / "new").write_bytes(b"")
    (root / "folder").rmdir()
    again = guest.readdir(handle, plus=plus)
    assert b"new" in again
    assert b"folder" not in again
    guest.release(1, handle, FuseOpcode.FUSE_RELEASEDIR)


def test_readdirplus_counts_lookups(guest: Guest, root: Path) -> None:
    (root / "file").write_bytes(b"12")
    handle = guest.opendir()
    node = guest.readdir(handle, plus=True)[b"file"][0]
    assert guest.readdir(handle, plus=True)[b"file"][0] == node
    guest.ask(FuseOpcode.FUSE_FORGET, node, struct.pack("<Q", 1), reply=False)
    assert guest.getattr(node).size == 2
    guest.ask(FuseOpcode.FUSE_FORGET, node, struct.pack("<Q", 1), reply=False)
    assert refused(guest, FuseOpcode.FUSE_GETATTR, node, bytes(16)) == errno.EBADF


def test_directory_with_too_small_a_buffer(guest: Guest) -> None:
    handle = guest.opendir()
    with pytest.raises(Refused) as caught:
        guest.readdir(handle, size=16)
    assert caught.value.errno == errno.EINVAL


def test_names_that_are_no_text(guest: Guest, root: Path) -> None:
    name = b"\xff\xfe\x01 name"
    guest.create(name)
    assert os.listdir(os.fsencode(root)) == [name]
    assert name in guest.readdir(guest.opendir(), plus=True)


@contained
def test_the_same_inode_number_on_another_file_system(tmp_path: Path) -> None:
    """The guest sees one st_dev, so (file system, number) pairs must stay different numbers."""
    root = tmp_path / "share"
    (root / "mounted").mkdir(parents=True)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"tmpfs", bytes(root / "mounted"), b"tmpfs", 0, None) == 0
    assert (root / "mounted").stat().st_dev != root.stat().st_dev
    device, guest = start(root)
    guest.init()
    (root / "mounted/file").write_bytes(b"")
    mounted = guest.lookup(b"mounted")
    numbers = [guest.getattr(1).ino, mounted.ino, guest.lookup(b"file", mounted.nodeid).ino]
    assert len(set(numbers)) == 3
    assert mounted.ino & 0xF_FFFF_FFFF_FFFF == (root / "mounted").stat().st_ino
    listing = guest.readdir(guest.opendir(mounted.nodeid), mounted.nodeid)
    assert listing[b"file"][1] == numbers[2]
    device.close()


# --- who owns what is made, and what a read-only share refuses


@as_root
def test_what_is_made_belongs_to_the_caller(guest: Guest, root: Path) -> None:
    root.chmod(0o755)  # the caller may not write here, but the guest's kernel has decided that already
    guest.uid, guest.gid = 1234, 1235
    guest.create(b"file")
    mkdir(guest, b"folder")
    make(guest, FuseOpcode.FUSE_SYMLINK, b"link\0target\0")
    make(guest, FuseOpcode.FUSE_MKNOD, struct.pack("<IIII", stat.S_IFIFO | 0o600, 0, 0, 0) + b"fifo\0")
    for name in ("file", "folder", "link", "fifo"):
        status = (root / name).lstat()
        assert (status.st_uid, status.st_gid) == (1234, 1235), name
    os.chown(root, 0, 77)
    root.chmod(0o2755)
    mkdir(guest, b"inherits")
    assert (root / "inherits").stat().st_gid == 77
    assert (root / "inherits").stat().st_mode & stat.S_ISGID
    guest.uid = guest.gid = 0
    guest.create(b"ours")
    assert (root / "ours").stat().st_uid == 0
    (root / "probe").write_bytes(b"")
    assert (root / "probe").stat().st_uid == 0  # this thread is itself again
    guest.uid = 0xFFFF_FFFF
    with pytest.raises(Refused) as caught:
        guest.create(b"nobody's")
    assert caught.value.errno == errno.EPERM


def test_modes_are_the_guest_s(guest: Guest, root: Path) -> None:
    guest.create(b"file", mode=0o666)
    mkdir(guest, b"folder", mode=0o777)
    assert stat.S_IMODE((root / "file").stat().st_mode) == 0o666
    assert stat.S_IMODE((root / "folder").stat().st_mode) == 0o777


def test_a_read_only_share(serve: Serve, root: Path) -> None:
    (root / "file").write_bytes(b"content")
    (root / "folder").mkdir()
    before = {path: path.lstat() for path in (root, root / "file", root / "folder")}
    guest = serve(readonly=True)
    node = guest.lookup(b"file").nodeid
    handle = guest.open(node)
    assert guest.read(node, handle, 100) == b"content"
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, 3):
        with pytest.raises(Refused) as caught:
            guest.open(node, flags)
        assert caught.value.errno == errno.EROFS
    name = b"name\0"
    for opcode, where, arguments in (
        (FuseOpcode.FUSE_SETATTR, node, bytes(88)),
        (FuseOpcode.FUSE_SYMLINK, 1, b"name\0target\0"),
        (FuseOpcode.FUSE_MKNOD, 1, struct.pack("<IIII", stat.S_IFREG, 0, 0, 0) + name),
        (FuseOpcode.FUSE_MKDIR, 1, bytes(8) + name),
        (FuseOpcode.FUSE_UNLINK, 1, b"file\0"),
        (FuseOpcode.FUSE_RMDIR, 1, b"folder\0"),
        (FuseOpcode.FUSE_RENAME, 1, struct.pack("<Q", 1) + b"file\0name\0"),
        (FuseOpcode.FUSE_RENAME2, 1, struct.pack("<QQ", 1, 0) + b"file\0name\0"),
        (FuseOpcode.FUSE_LINK, 1, struct.pack("<Q", node) + name),
        (FuseOpcode.FUSE_WRITE, node, struct.pack("<QQIIQII", handle, 0, 1, 0, 0, 0, 0) + b"x"),
        (FuseOpcode.FUSE_SETXATTR, node, struct.pack("<IIII", 1, 0, 0, 0) + b"user.a\0x"),
        (FuseOpcode.FUSE_REMOVEXATTR, node, b"user.a\0"),
        (FuseOpcode.FUSE_CREATE, 1, bytes(16) + name),
        (FuseOpcode.FUSE_TMPFILE, 1, bytes(16) + name),
        (FuseOpcode.FUSE_FALLOCATE, node, struct.pack("<QQQII", handle, 0, 1, 0, 0)),
        (FuseOpcode.FUSE_COPY_FILE_RANGE, node, struct.pack("<7Q", handle, 0, node, handle, 1, 1, 0)),
        (FuseOpcode.FUSE_ACCESS, node, struct.pack("<II", os.W_OK, 0)),
    ):
        assert refused(guest, opcode, where, arguments) == errno.EROFS, FuseOpcode(opcode).name
    for path, status in before.items():
        now = path.lstat()
        assert (now.st_mode, now.st_size, now.st_mtime_ns, now.st_ctime_ns) == (
            status.st_mode,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
