"""FUSE_INIT, FUSE_DESTROY, node ids and handles: what a session is, and what ends with it."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from subos_devices.errors import UserError
from subos_devices.fs.device import FsDevice
from subos_devices.vhost_user.device import DeviceSpec
from subos_protocol.fuse import FUSE_GETATTR_IN
from subos_protocol.fuse_opcodes import FuseInit, FuseOpcode
from support.fuse_requests import Guest, Refused

from .conftest import Serve, start

GETATTR = FUSE_GETATTR_IN.struct.pack(0, 0, 0)
ALL = (1 << 64) - 1


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_nothing_is_served_before_init(root: Path) -> None:
    device, guest = start(root)
    for opcode in FuseOpcode:
        if opcode not in (FuseOpcode.FUSE_INIT, FuseOpcode.FUSE_FORGET, FuseOpcode.FUSE_BATCH_FORGET):
            expected = errno.ENOTCONN if opcode <= FuseOpcode.FUSE_STATX else errno.ENOSYS
            assert guest.ask(opcode, 1, bytes(100), room=300).error == expected
    guest.init()
    assert guest.ask(FuseOpcode.FUSE_GETATTR, 1, GETATTR, room=104).error == 0
    assert guest.ask(FuseOpcode.FUSE_DESTROY, 0).body == b""
    assert guest.ask(FuseOpcode.FUSE_GETATTR, 1, GETATTR, room=104).error == errno.ENOTCONN
    device.close()


def test_negotiation(serve: Serve) -> None:
    guest = serve()
    answer = guest.init(ALL, minor=45)
    assert (answer.major, answer.minor) == (7, 41)
    assert (answer.max_write, answer.max_pages, answer.max_readahead, answer.time_gran) == (1 << 20, 256, 131072, 1)
    flags = FuseInit(answer.flags | answer.flags2 << 32)
    assert FuseInit.FUSE_MAX_PAGES | FuseInit.FUSE_PARALLEL_DIROPS | FuseInit.FUSE_HANDLE_KILLPRIV_V2 in flags
    refused = FuseInit.FUSE_POSIX_LOCKS | FuseInit.FUSE_FLOCK_LOCKS | FuseInit.FUSE_EXPORT_SUPPORT
    assert not flags & (refused | FuseInit.FUSE_WRITEBACK_CACHE)
    assert FuseInit.FUSE_SUBMOUNTS | FuseInit.FUSE_DONT_MASK in flags
    assert FuseInit.FUSE_DIRECT_IO_ALLOW_MMAP in flags

    answer = guest.init(ALL & ~FuseInit.FUSE_INIT_EXT, minor=31)
    assert (answer.minor, answer.flags2) == (31, 0)
    assert guest.init(FuseInit.FUSE_ASYNC_READ).flags == FuseInit.FUSE_ASYNC_READ


def test_init_of_other_versions(serve: Serve) -> None:
    guest = serve()
    answer = guest.init(major=8, minor=0)
    assert (answer.major, answer.flags) == (7, 0)
    assert guest.ask(FuseOpcode.FUSE_GETATTR, 1, GETATTR, room=104).error == errno.ENOTCONN
    for major, minor in ((6, 99), (7, 30)):
        with pytest.raises(Refused) as refused:
            guest.init(major=major, minor=minor)
        assert refused.value.errno == errno.EPROTO
    # Before ABI 7.36 the structure had 16 bytes.
    short = struct.pack("<4I", 7, 35, 4096, int(FuseInit.FUSE_BIG_WRITES | FuseInit.FUSE_INIT_EXT))
    assert guest.ask(FuseOpcode.FUSE_INIT, 0, short, room=64).error == 0


def test_a_rebooted_guest_begins_anew(serve: Serve, root: Path) -> None:
    (root / "file").write_bytes(b"x")
    guest = serve()
    before = fds()
    node = guest.lookup(b"file").nodeid
    handle = guest.open(node)
    guest.opendir()
    assert fds() == before + 2
    guest.init()
    assert fds() == before
    assert guest.ask(FuseOpcode.FUSE_GETATTR, node, GETATTR, room=104).error == errno.EBADF
    with pytest.raises(Refused):
        guest.read(node, handle, 1)


def test_a_handle_is_released_once(guest: Guest) -> None:
    node, handle = guest.create(b"file")
    guest.release(node, handle)
    with pytest.raises(Refused):
        guest.release(node, handle)
    again = guest.open(node)
    assert again == handle  # numbers are used again, descriptors never leave


def test_lookups_are_counted(serve: Serve, root: Path) -> None:
    (root / "file").write_bytes(b"x")
    guest = serve()
    before = fds()
    node = guest.lookup(b"file").nodeid
    assert guest.lookup(b"file").nodeid == node
    assert fds() == before  # a file that is only looked up is a name
    guest.open(node)
    assert fds() == before + 1  # the file, by which its node goes, too
    guest.open(node, os.O_RDWR)
    assert fds() == before + 2
    for handle in (1, 2):
        guest.release(node, handle)
    assert guest.ask(FuseOpcode.FUSE_FORGET, node, struct.pack("<Q", 1), reply=False).written == 0
    assert guest.getattr(node).size == 1
    assert guest.ask(FuseOpcode.FUSE_FORGET, node, struct.pack("<Q", 1), reply=False).written == 0
    assert fds() == before
    assert guest.ask(FuseOpcode.FUSE_GETATTR, node, GETATTR, room=104).error == errno.EBADF


def test_a_node_id_that_is_used_again_has_a_new_generation(serve: Serve, root: Path) -> None:
    guest = serve()
    seen = set()
    for name in (b"a", b"b", b"c"):
        (root / name.decode()).write_bytes(b"")
        entry = guest.lookup(name)
        seen.add((entry.nodeid, entry.generation))
        guest.ask(FuseOpcode.FUSE_FORGET, entry.nodeid, struct.pack("<Q", 1), reply=False)
    assert len(seen) == 3
    assert len({node for node, _ in seen}) == 1


def test_forgetting_too_much(serve: Serve, root: Path) -> None:
    (root / "file").write_bytes(b"x")
    guest = serve()
    node = guest.lookup(b"file").nodeid
    guest.ask(FuseOpcode.FUSE_FORGET, node, struct.pack("<Q", ALL), reply=False)
    guest.ask(FuseOpcode.FUSE_FORGET, node, struct.pack("<Q", ALL), reply=False)
    for root_or_nothing in (1, 0, 99, ALL):
        guest.ask(FuseOpcode.FUSE_FORGET, root_or_nothing, struct.pack("<Q", ALL), reply=False)
    node = guest.lookup(b"file").nodeid
    batch = struct.pack("<IIQQQQQQ", 3, 0, node, 5, 1, 5, ALL, 1)
    guest.ask(FuseOpcode.FUSE_BATCH_FORGET, 0, batch, reply=False)
    guest.ask(FuseOpcode.FUSE_BATCH_FORGET, 0, struct.pack("<II", 0xFFFF_FFFF, 0), reply=False)
    assert guest.ask(FuseOpcode.FUSE_GETATTR, node, GETATTR, room=104).error == errno.EBADF
    assert guest.getattr(1).nlink >= 1


@pytest.mark.parametrize(("cache", "seconds"), [("auto", 1), ("always", 86400), ("never", 0)])
def test_cache_policies(serve: Serve, root: Path, cache: str, seconds: int) -> None:
    (root / "file").write_bytes(b"x")
    guest = serve(cache=cache)
    entry = guest.lookup(b"file")
    assert (entry.entry_valid, entry.attr_valid) == (seconds, seconds)
    assert guest.getattr(entry.nodeid).attr_valid == seconds
    if cache == "always":
        missing = guest.lookup(b"missing")
        assert (missing.nodeid, missing.entry_valid) == (0, seconds)
    else:
        with pytest.raises(Refused):
            guest.lookup(b"missing")


def test_options(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    for options, words in (
        ({}, "needs a directory"),
        ({"shared_dir": str(file), "only": "file"}, "not a directory"),
        ({"shared_dir": str(tmp_path / "none")}, "not a directory"),
        ({"shared_dir": str(tmp_path), "cache": "often"}, "no way to cache"),
        ({"shared_dir": str(tmp_path), "xattr": "maybe"}, "xattr cannot be 'maybe'"),
        ({"shared_dir": str(tmp_path), "xattr": "yes", "ownership": "xattr"}, "xattr cannot be 'yes' here"),
        ({"shared_dir": str(tmp_path), "ownership": "mine"}, "ownership cannot be"),
        ({"shared_dir": str(tmp_path), "xattr": "no", "security_label": True}, "are extended attributes"),
        ({"shared_dir": str(tmp_path), "map_gid": "0:1"}, "map_gid: '0:1' is no map"),
        ({"shared_dir": str(tmp_path), "read_only": True}, "no option 'read_only'"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            FsDevice(DeviceSpec("fs", "share", options))
        assert caught.value.hint
    device = FsDevice(DeviceSpec("fs", "share", {"shared_dir": str(tmp_path), "xattr": "no", "readonly": "yes"}))
    assert (device.xattr, device.readonly) == ("no", True)
