"""A guest that means harm: names, ids and bytes of every kind, contained (see support/contained.py)."""

from __future__ import annotations

import errno
import os
import signal
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from subos_devices.fs import device as device_module
from subos_devices.fs.descriptors import RESERVED
from subos_devices.fs.device import FsDevice
from subos_devices.vhost_user.errors import BadChain
from subos_protocol.fuse import FUSE_GETATTR_IN, FUSE_IN_HEADER, FUSE_READ_IN
from subos_protocol.fuse_opcodes import FuseOpcode
from support.contained import check_contained, contained, run_contained
from support.fuse_requests import FRAMINGS, LINUX, Framing, Guest, Refused, Reply

from .conftest import start

GETATTR = FUSE_GETATTR_IN.struct.pack(0, 0, 0)
ALL = (1 << 64) - 1
SECRET = b"what no guest may see"


def share(folder: Path, framing: Framing = LINUX, **options: bool) -> tuple[Path, FsDevice, Guest]:
    """A share beside a folder that must stay out of reach, with a link that leads there."""
    root, outside = folder / "share", folder / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    (root / "folder").mkdir()
    (root / "folder/file").write_bytes(b"content")
    (root / "way out").symlink_to(outside)
    (root / "way to").symlink_to("../outside/secret")
    device, guest = start(root, framing, **options)
    guest.init()
    return root, device, guest


def check_outside(folder: Path) -> None:
    assert sorted(os.listdir(folder)) == ["outside", "share"]
    assert os.listdir(folder / "outside") == ["secret"]
    assert (folder / "outside/secret").read_bytes() == SECRET


def check_reply(guest: Guest, reply: Reply, room: int) -> None:
    """To whatever was asked, with `room` bytes for an answer: none, or one that Linux would take, of this share."""
    if reply.written:
        assert reply.length == reply.written <= 16 + room
        assert reply.unique == guest.unique
        assert 0 <= reply.error < 4096
        assert reply.error == 0 or reply.written == 16
        assert SECRET not in reply.raw


def refused(guest: Guest, opcode: int, node: int, arguments: bytes) -> int:
    return guest.ask(opcode, node, arguments, room=300).error


def test_containment_is_real(tmp_path: Path) -> None:
    """The tests below rest on it, so it is tested: everything but one folder is read-only in there."""
    sibling = tmp_path / "sibling"
    sibling.mkdir()
    inside = tmp_path / "inside"
    inside.mkdir()

    def within() -> None:
        (inside / "file").write_bytes(b"x")
        for place in (sibling, tmp_path, Path(__file__).parent):
            with pytest.raises(OSError, match="Read-only"):
                (place / "file").write_bytes(b"x")

    run_contained(inside, within)
    assert list(inside.iterdir()) == []
    with pytest.raises(AssertionError, match="not contained"):
        check_contained(inside)
    with pytest.raises(AssertionError, match="the reason"):
        run_contained(inside, lambda: pytest.fail("the reason"))
    opened = os.open(sibling, os.O_PATH)
    with pytest.raises(AssertionError, match="was opened outside"):
        run_contained(inside, lambda: None)
    os.close(opened)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"", errno.EINVAL),
        (b".", errno.EINVAL),
        (b"..", errno.EINVAL),
        (b"../outside", errno.EINVAL),
        (b"folder/file", errno.EINVAL),
        (b"folder/../..", errno.EINVAL),
        (b"way out/secret", errno.EINVAL),
        (b"/", errno.EINVAL),
        (b"inner\0nul", errno.EINVAL),
        (b"n" * 256, errno.ENAMETOOLONG),
    ],
)
@contained
def test_names_that_are_none(tmp_path: Path, name: bytes, expected: int) -> None:
    for framing in (LINUX, FRAMINGS[2]):
        folder = tmp_path / str(framing)
        folder.mkdir()
        root, device, guest = share(folder, framing)
        node = guest.create(b"file")[0]
        for opcode, arguments in (
            (FuseOpcode.FUSE_LOOKUP, name + b"\0"),
            (FuseOpcode.FUSE_MKDIR, bytes(8) + name + b"\0"),
            (FuseOpcode.FUSE_MKNOD, struct.pack("<IIII", stat.S_IFREG, 0, 0, 0) + name + b"\0"),
            (FuseOpcode.FUSE_CREATE, bytes(16) + name + b"\0"),
            (FuseOpcode.FUSE_SYMLINK, name + b"\0target\0"),
            (FuseOpcode.FUSE_LINK, struct.pack("<Q", node) + name + b"\0"),
            (FuseOpcode.FUSE_UNLINK, name + b"\0"),
            (FuseOpcode.FUSE_RMDIR, name + b"\0"),
            (FuseOpcode.FUSE_RENAME, struct.pack("<Q", 1) + b"file\0" + name + b"\0"),
            (FuseOpcode.FUSE_RENAME2, struct.pack("<QQ", 1, 0) + b"file\0" + name + b"\0"),
            (FuseOpcode.FUSE_RENAME2, struct.pack("<QQ", 1, 0) + name + b"\0file\0"),
        ):
            assert refused(guest, opcode, 1, arguments) == expected, FuseOpcode(opcode).name
        assert refused(guest, FuseOpcode.FUSE_LOOKUP, 1, b"not ended") == errno.EINVAL
        assert sorted(os.listdir(root)) == ["file", "folder", "way out", "way to"]
        check_outside(folder)
        device.close()


@contained
def test_links_are_never_followed(tmp_path: Path) -> None:
    _, _, guest = share(tmp_path)
    folder, file = guest.lookup(b"way out"), guest.lookup(b"way to")
    assert stat.S_ISLNK(folder.mode)
    assert stat.S_ISLNK(file.mode)
    for node, expected in ((folder.nodeid, errno.ELOOP), (file.nodeid, errno.ELOOP)):
        with pytest.raises(Refused) as caught:
            guest.open(node)
        assert caught.value.errno == expected
    with pytest.raises(Refused):
        guest.lookup(b"secret", folder.nodeid)
    for name in (b"way out", b"way to"):
        with pytest.raises(Refused):
            guest.create(name, flags=os.O_RDWR | os.O_TRUNC)
    assert refused(guest, FuseOpcode.FUSE_MKDIR, folder.nodeid, bytes(8) + b"made\0") == errno.ENOTDIR
    assert refused(guest, FuseOpcode.FUSE_OPENDIR, folder.nodeid, bytes(8)) == errno.ENOTDIR
    size = struct.pack("<IIQQQ", 8, 0, 0, 0, 0) + bytes(56)
    assert refused(guest, FuseOpcode.FUSE_SETATTR, file.nodeid, size) == errno.ELOOP
    check_outside(tmp_path)


@contained
def test_a_folder_that_becomes_a_link(tmp_path: Path) -> None:
    """A node is an inode, not a path: what the guest knew as a folder stays that folder."""
    root, _, guest = share(tmp_path)
    folder = guest.lookup(b"folder").nodeid
    (root / "folder").rename(root / "moved")
    (root / "folder").symlink_to(tmp_path / "outside")
    with pytest.raises(Refused):
        guest.lookup(b"secret", folder)
    guest.create(b"new", folder)
    assert (root / "moved/new").exists()
    check_outside(tmp_path)


@contained
def test_forged_nodes_and_handles(tmp_path: Path) -> None:
    _, _, guest = share(tmp_path)
    for node in (0, 2, 1 << 31, (1 << 63) + 1, ALL):
        for opcode in FuseOpcode:
            if opcode < FuseOpcode.FUSE_COPY_FILE_RANGE_64 and opcode != FuseOpcode.FUSE_INIT:
                reply = guest.ask(opcode, node, bytes(8) + b"name\0", room=300)
                assert reply.error or reply.length == 16 or reply.written == 0
                guest.init()
        assert guest.ask(FuseOpcode.FUSE_GETATTR, node, GETATTR, room=104).error == errno.EBADF
        assert guest.ask(FuseOpcode.FUSE_LOOKUP, node, b"name\0", room=128).error == errno.EBADF
        assert guest.ask(FuseOpcode.FUSE_MKDIR, node, bytes(8) + b"name\0", room=128).error == errno.EBADF
    file, _ = guest.create(b"file")
    for handle in (0, 2, 3, 7, 1 << 31, ALL):
        for opcode in (FuseOpcode.FUSE_READ, FuseOpcode.FUSE_READDIR, FuseOpcode.FUSE_READDIRPLUS):
            body = FUSE_READ_IN.struct.pack(handle, 0, 16, 0, 0, 0, 0)
            assert guest.ask(opcode, file, body, data_room=300).error == errno.EBADF
        for opcode in (FuseOpcode.FUSE_RELEASE, FuseOpcode.FUSE_RELEASEDIR, FuseOpcode.FUSE_FLUSH):
            assert guest.ask(opcode, file, struct.pack("<QQQ", handle, 0, 0)).error == errno.EBADF


OPEN = struct.Struct("<II")
LET_GO = (errno.ESTALE, errno.ENXIO, errno.ENOENT)
"""What an opening answers where the name is something else meanwhile. EACCES would be the system's, which refuses
devices in here: we would have tried."""


def is_device(path: Path) -> bool:
    return stat.S_ISCHR(path.lstat().st_mode)


def refuse_to_hang() -> None:
    """The contained child ends where an opening waits for a fifo's other end."""
    signal.alarm(60)


@contained
def test_devices_fifos_and_sockets_are_never_opened(tmp_path: Path) -> None:
    """An escape of others: a device node is made or found in the share, and opened by the server, as itself."""
    refuse_to_hang()
    root, _, guest = share(tmp_path)
    os.mkfifo(root / "fifo")
    os.mknod(root / "socket", stat.S_IFSOCK | 0o666)
    names = [b"fifo", b"socket"]
    if os.geteuid() == 0:
        os.mknod(root / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        made = struct.pack("<IIII", stat.S_IFCHR | 0o666, os.makedev(1, 5), 0, 0) + b"of the guest\0"
        assert guest.ask(FuseOpcode.FUSE_MKNOD, 1, made, room=128).error == 0
        assert is_device(root / "of the guest")
        names += [b"device", b"of the guest"]
    shorter = struct.pack("<IIQQQ", 1 << 3, 0, 0, 0, 0) + bytes(56)
    for name in names:
        node = guest.lookup(name).nodeid
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_NONBLOCK, os.O_WRONLY | os.O_TRUNC):
            assert refused(guest, FuseOpcode.FUSE_OPEN, node, OPEN.pack(flags, 0)) == errno.ENXIO
        assert refused(guest, FuseOpcode.FUSE_OPENDIR, node, bytes(8)) == errno.ENOTDIR
        assert refused(guest, FuseOpcode.FUSE_SETATTR, node, shorter) == errno.ENXIO
        assert refused(guest, FuseOpcode.FUSE_SYNCFS, node, bytes(8)) == errno.EINVAL
        create = struct.pack("<IIII", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644, 0, 0) + name + b"\0"
        assert refused(guest, FuseOpcode.FUSE_CREATE, 1, create) == errno.ENXIO


BY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")


@pytest.mark.parametrize("kind", ["fifo", pytest.param("device", marks=BY_ROOT), "link"])
@contained
def test_a_file_that_becomes_a_device(tmp_path: Path, kind: str) -> None:
    """Between LOOKUP and OPEN the host puts something else under the name, be it with the file's own inode number."""
    refuse_to_hang()
    root, device, guest = share(tmp_path)
    for reuse in (False, True):
        (root / "file").write_bytes(b"a file")
        node = guest.lookup(b"file").nodeid
        (root / "file").unlink()
        if kind == "fifo":
            os.mkfifo(root / "file")
        elif kind == "device":
            os.mknod(root / "file", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        else:
            (root / "file").symlink_to("../outside/secret")
        if reuse:
            device.server.share.nodes.inos[node] = (root / "file").lstat().st_ino
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            assert refused(guest, FuseOpcode.FUSE_OPEN, node, OPEN.pack(flags, 0)) in LET_GO
        create = struct.pack("<IIII", os.O_RDWR | os.O_CREAT, 0o644, 0, 0) + b"file\0"
        assert refused(guest, FuseOpcode.FUSE_CREATE, 1, create) == (errno.ELOOP if kind == "link" else errno.ENXIO)
        (root / "file").unlink()
    check_outside(tmp_path)


@contained
def test_names_that_change_all_the_time(tmp_path: Path) -> None:
    """Another process puts a file, a fifo and a link out of the share under one name in turn, as fast as it can."""
    refuse_to_hang()
    root, _, guest = share(tmp_path)
    (root / "file").write_bytes(b"a file")
    os.mkfifo(root / "fifo")
    (root / "a link").symlink_to("../outside/secret")
    (root / "name").write_bytes(b"a file")
    if (child := os.fork()) == 0:
        try:
            while True:
                for source in ("fifo", "file", "a link", "file"):
                    if source == "file":
                        (root / "next").write_bytes(b"a file")
                    else:
                        os.link(root / source, root / "next", follow_symlinks=False)
                    os.rename(root / "next", root / "name")
        finally:
            os._exit(1)
    outcomes = set()
    try:
        for _ in range(3000):
            try:
                handle = guest.open(node := guest.lookup(b"name").nodeid)
            except Refused as refusal:
                outcomes.add(refusal.errno)
            else:
                assert guest.read(node, handle, 100) in (b"a file", b"")
                guest.release(node, handle)
                outcomes.add(0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert {0, errno.ENXIO, errno.ELOOP} <= outcomes <= {0, errno.ELOOP, *LET_GO}
    check_outside(tmp_path)


@contained
def test_65536_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the descriptors that the share may use, openings are refused, and nothing else is."""
    monkeypatch.setattr(device_module, "MOST_DESCRIPTORS", 512 + RESERVED)
    before = len(os.listdir("/proc/self/fd"))
    _, device, guest = share(tmp_path)
    node, first = guest.create(b"file")
    writing = OPEN.pack(os.O_RDWR, 0)
    errors = [guest.ask(FuseOpcode.FUSE_OPEN, node, writing, room=16).error for _ in range(65_536)]
    opened = errors.count(0)
    assert 256 <= opened < 512
    assert set(errors) == {0, errno.ENFILE}
    assert errors == sorted(errors)
    assert len(os.listdir("/proc/self/fd")) - before < 512 + RESERVED
    assert guest.write(node, first, b"still served") == 12
    assert guest.read(node, first, 100) == b"still served"
    folder = guest.lookup(b"folder").nodeid
    old = guest.lookup(b"file", folder).nodeid
    assert guest.getattr(old).size == 7
    for handle in range(2, opened + 2):
        guest.release(node, handle)
    handles = {guest.open(old) for _ in range(65_536)}  # openings for reading of what does not change share one
    assert len(handles) == 65_536
    assert guest.read(old, max(handles), 100) == b"content"
    guest.init()
    body = FUSE_READ_IN.struct.pack(2, 0, 1, 0, 0, 0, 0)
    assert guest.ask(FuseOpcode.FUSE_READ, node, body, data_room=1).error == errno.EBADF
    device.close()


@contained
def test_forget_counts_that_underflow(tmp_path: Path) -> None:
    """More FORGETs than lookups are as many as there were: no count goes round, and no other node is let go."""
    _, device, guest = share(tmp_path)
    table = device.server.share.nodes
    for count in (2, 1 << 31, 1 << 32, (1 << 63) + 1, ALL):
        folder, file = guest.lookup(b"folder").nodeid, guest.create(b"file")[0]
        for _ in range(3):
            guest.ask(FuseOpcode.FUSE_FORGET, folder, struct.pack("<Q", count), reply=False)
        assert table.lookups[folder] == 0
        assert guest.ask(FuseOpcode.FUSE_GETATTR, folder, GETATTR, room=104).error == errno.EBADF
        assert guest.getattr(file).ino
        batch = struct.pack("<IIQQQQ", 2, 0, file, count, file, count)
        guest.ask(FuseOpcode.FUSE_BATCH_FORGET, 0, batch, reply=False)
        assert table.lookups[file] == 0
        guest.ask(FuseOpcode.FUSE_FORGET, 1, struct.pack("<Q", count), reply=False)
        assert guest.getattr(1).nlink >= 1
        assert table.count == 1
        assert guest.lookup(b"folder").nodeid in (folder, file)
        guest.ask(FuseOpcode.FUSE_FORGET, folder, struct.pack("<Q", ALL), reply=False)
        guest.ask(FuseOpcode.FUSE_FORGET, file, struct.pack("<Q", ALL), reply=False)


@contained
def test_requests_cut_short(tmp_path: Path) -> None:
    """Each request, cut after each of its bytes: as it is, an errno or no answer, and never more than was asked."""
    root, _, guest = share(tmp_path)
    file, handle = guest.create(b"file")
    guest.write(file, handle, b"content")
    times = struct.pack("<QQIIQII", handle, 0, 4, 0, 0, os.O_RDWR, 0)
    requests = {
        FuseOpcode.FUSE_LOOKUP: (1, b"file\0", 128),
        FuseOpcode.FUSE_SETATTR: (file, struct.pack("<IIQQQ", 1 << 3, 0, 0, 7, 0) + bytes(56), 104),
        FuseOpcode.FUSE_READ: (file, times, 64),
        FuseOpcode.FUSE_WRITE: (file, times + b"cont", 8),
        FuseOpcode.FUSE_SYMLINK: (1, b"made\0target\0", 128),
        FuseOpcode.FUSE_MKDIR: (1, bytes(8) + b"made\0", 128),
        FuseOpcode.FUSE_RENAME2: (1, struct.pack("<QII", 1, 1, 0) + b"file\0folder\0", 0),
        FuseOpcode.FUSE_LINK: (1, struct.pack("<Q", file) + b"folder\0", 128),
        FuseOpcode.FUSE_SETXATTR: (file, struct.pack("<IIII", 5, 0, 0, 0) + b"user.name\0value", 0),
        FuseOpcode.FUSE_CREATE: (1, bytes(16) + b"folder\0", 144),
        FuseOpcode.FUSE_BATCH_FORGET: (0, struct.pack("<IIQQ", 1, 0, 1, 1), 0),
        FuseOpcode.FUSE_COPY_FILE_RANGE: (file, struct.pack("<QQQQQQQ", handle, 0, file, handle, 100, 4, 0), 8),
    }
    for framing in (LINUX, FRAMINGS[2], FRAMINGS[5]):
        guest.framing = framing
        for opcode, (node, whole, room) in requests.items():
            for cut in range(len(whole)):
                reply = guest.ask(opcode, node, whole[:cut], room=room)
                assert reply.written <= 16 + room
                assert not reply.written or reply.length == reply.written
                for short in {0, cut, 40 + cut}:  # the header's own length says less than there is
                    reply = guest.ask(opcode, node, whole, room=room, length=short)
                    assert reply.written <= 16 + room
    guest.framing = LINUX
    assert guest.read(file, handle, 7) in (b"content", b"contcon")
    assert {"file", "folder", "way out", "way to"} <= set(os.listdir(root))
    check_outside(tmp_path)


@contained
def test_sizes_beyond_limits(tmp_path: Path) -> None:
    root, _, guest = share(tmp_path)
    file, handle = guest.create(b"file")
    guest.write(file, handle, b"content")
    for size in (1 << 20, (1 << 31) - 1, 1 << 31, 0xFFFF_FFFF):
        assert guest.read(file, handle, size, room=64) == b"content"
        body = FUSE_READ_IN.struct.pack(handle, 0, size, 0, 0, 0, 0)
        assert guest.ask(FuseOpcode.FUSE_READ, file, body, data_room=4).body == b"cont"
        written = struct.pack("<QQIIQII", handle, 0, size, 0, 0, os.O_RDWR, 0)
        assert guest.ask(FuseOpcode.FUSE_WRITE, file, written, data=b"cont", room=8).error == errno.EINVAL
        listing = FUSE_READ_IN.struct.pack(guest.opendir(), 0, size, 0, 0, 0, 0)
        assert guest.ask(FuseOpcode.FUSE_READDIR, 1, listing, data_room=4096).error == 0
        assert guest.ask(FuseOpcode.FUSE_READDIR, 1, listing, data_room=8).error in (0, errno.EINVAL)
        value = struct.pack("<IIII", size, 0, 0, 0) + b"user.name\0value"
        assert refused(guest, FuseOpcode.FUSE_SETXATTR, file, value) == errno.EINVAL
        assert guest.ask(FuseOpcode.FUSE_LISTXATTR, file, struct.pack("<II", size, 0), data_room=64).error == 0
    for offset in ((1 << 63) - 1, 1 << 63, ALL):
        body = FUSE_READ_IN.struct.pack(handle, offset, 100, 0, 0, 0, 0)
        assert guest.ask(FuseOpcode.FUSE_READ, file, body, data_room=100).error in (0, errno.EINVAL)
        written = struct.pack("<QQIIQII", handle, offset, 4, 0, 0, os.O_RDWR, 0)
        assert guest.ask(FuseOpcode.FUSE_WRITE, file, written, data=b"cont", room=8).error in (
            errno.EINVAL,
            errno.EFBIG,
        )
        room = struct.pack("<QQQII", handle, offset, 1, 0, 0)
        assert guest.ask(FuseOpcode.FUSE_FALLOCATE, file, room).error == errno.EFBIG
        longer = struct.pack("<IIQQQ", 1 << 3, 0, 0, offset, 0) + bytes(56)
        assert refused(guest, FuseOpcode.FUSE_SETATTR, file, longer) in (0, errno.EINVAL, errno.EFBIG)
        shorter = struct.pack("<IIQQQ", 1 << 3, 0, 0, 7, 0) + bytes(56)
        assert refused(guest, FuseOpcode.FUSE_SETATTR, file, shorter) == 0
    assert (root / "file").read_bytes() == b"content"
    check_outside(tmp_path)


nodes = st.integers(0, 12) | st.sampled_from([1 << 32, 1 << 63, ALL])
names = st.sampled_from(
    [b"folder", b"file", b"way out", b"way to", b"new", b"..", b".", b"../outside", b"x" * 300, b""]
)
hostile = st.lists(
    st.one_of(
        st.binary(max_size=60),
        names.map(lambda name: name + b"\0"),
        st.integers(0, ALL).map(lambda number: struct.pack("<Q", number)),
        st.integers(0, 6).map(lambda number: struct.pack("<Q", number)),
    ),
    max_size=8,
).map(b"".join)
requests = st.tuples(st.integers(0, 60), nodes, hostile, st.sampled_from([0, 8, 104, 128, 144, 300, 5000]))


@pytest.mark.parametrize("readonly", [False, True])
@contained
def test_random_requests(tmp_path: Path, readonly: bool) -> None:
    """Every request of any bytes gets an answer that is well formed, and nothing outside is touched."""
    root, device, guest = share(tmp_path, readonly=readonly)
    for name in (b"folder", b"way out", b"way to"):
        guest.lookup(name)

    @settings(max_examples=400, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(requests, min_size=1, max_size=8), st.sampled_from(FRAMINGS[:4]))
    def attack(sequence: list[tuple[int, int, bytes, int]], framing: Framing) -> None:
        guest.framing = framing
        for opcode, node, arguments, room in sequence:
            reply = guest.ask(opcode, node, arguments, room=room)
            check_reply(guest, reply, room)
        guest.init()
        check_outside(tmp_path)
        if readonly:
            assert sorted(os.listdir(root)) == ["folder", "way out", "way to"]

    attack()
    guest.framing = LINUX
    assert guest.getattr(1).nlink >= 1
    device.close()


words = st.tuples(
    st.sampled_from([0, 0x4000_0000, 0x4001_0000, 0x4001_0020, 0x4080_0FF0, 0x4100_0000, ALL]) | st.integers(0, ALL),
    st.sampled_from([0, 1, 16, 40, 80, 104, 4096, 1 << 20, 0xFFFF_FFFF]),
    st.integers(0, 7) | st.just(0xFFFF),
    st.integers(0, 9),
)


@contained
def test_random_chains(tmp_path: Path) -> None:
    """Descriptors of any address, length, flags and next: an answer or BadChain, whatever the shape."""
    _, device, guest = share(tmp_path)
    handle = device._handlers[guest.queue]
    body = FUSE_READ_IN.struct.pack(1, 0, 1 << 20, 0, 0, 0, 0)
    outcomes = set()

    @settings(max_examples=1500, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(words, min_size=1, max_size=9), st.integers(0, 60))
    def attack(chain: list[tuple[int, int, int, int]], opcode: int) -> None:
        guest.bytes[0x10000:0x10028] = FUSE_IN_HEADER.struct.pack(80, opcode, 2, 1, 0, 0, 0, 0, 0)
        guest.bytes[0x10028:0x10050] = body
        flat = [part for address, size, flags, after in chain for part in (address, size | flags << 32 | after << 48)]
        try:
            assert 0 <= handle(tuple(flat)) <= 0xFFFF_FFFF
            outcomes.add("answered")
        except BadChain:
            outcomes.add("refused")

    attack()
    assert outcomes == {"answered", "refused"}
    check_outside(tmp_path)
