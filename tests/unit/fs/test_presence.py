"""A share whose directory goes away and comes back, and a share of a single file."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from subos_protocol.fuse import FUSE_SETATTR_IN
from subos_protocol.fuse_opcodes import FuseOpcode
from support.fuse_requests import Guest, Refused

from .conftest import Serve, start
from .test_operations import mkdir


def look(guest: Guest) -> None:
    """What the device does by itself a little later."""
    device: Any = guest.drain.__self__  # type: ignore[attr-defined]
    device.presence.next = 0.0


def errno_of(guest: Guest, opcode: int, node: int, arguments: bytes) -> int:
    return guest.ask(opcode, node, arguments, room=300).error


def test_a_share_that_goes_and_comes_back(guest: Guest, root: Path) -> None:
    (root / "file").write_bytes(b"content")
    node = guest.lookup(b"file").nodeid
    handle = guest.open(node)
    away = root.with_name("away")
    root.rename(away)
    look(guest)
    for opcode, arguments in (
        (FuseOpcode.FUSE_LOOKUP, b"file\0"),
        (FuseOpcode.FUSE_GETATTR, bytes(16)),
        (FuseOpcode.FUSE_MKDIR, bytes(8) + b"new\0"),
        (FuseOpcode.FUSE_OPENDIR, bytes(8)),
        (FuseOpcode.FUSE_STATFS, b""),
    ):
        assert errno_of(guest, opcode, 1, arguments) == errno.EIO
    assert guest.read(node, handle, 100) == b"content"
    away.rename(root)
    look(guest)
    assert guest.lookup(b"file").nodeid == node
    assert guest.read(node, handle, 100) == b"content"


def test_another_directory_in_its_place(guest: Guest, root: Path) -> None:
    (root / "file").write_bytes(b"old")
    folder = mkdir(guest, b"folder")
    node = guest.lookup(b"file").nodeid
    handle = guest.open(node)
    root.rename(root.with_name("old"))
    root.mkdir()
    (root / "file").write_bytes(b"the new one")
    look(guest)
    entry = guest.lookup(b"file")
    assert entry.nodeid != node
    assert guest.read(entry.nodeid, guest.open(entry.nodeid), 100) == b"the new one"
    assert guest.getattr(1).ino == root.stat().st_ino
    assert errno_of(guest, FuseOpcode.FUSE_GETATTR, folder, bytes(16)) == errno.ESTALE
    assert errno_of(guest, FuseOpcode.FUSE_MKDIR, folder, bytes(8) + b"lost\0") == errno.ESTALE
    assert guest.read(node, handle, 100) == b"old"
    guest.ask(FuseOpcode.FUSE_FORGET, folder, struct.pack("<Q", 100), reply=False)
    assert errno_of(guest, FuseOpcode.FUSE_GETATTR, folder, bytes(16)) == errno.EBADF


def test_a_guest_that_mounts_while_it_is_gone(guest: Guest, root: Path) -> None:
    root.rename(root.with_name("away"))
    look(guest)
    assert errno_of(guest, FuseOpcode.FUSE_GETATTR, 1, bytes(16)) == errno.EIO
    guest.init()
    assert errno_of(guest, FuseOpcode.FUSE_GETATTR, 1, bytes(16)) == errno.EIO
    root.with_name("away").rename(root)
    look(guest)
    assert guest.getattr(1).ino == root.stat().st_ino


# --- one file


@pytest.fixture
def single(serve: Serve, root: Path) -> Guest:
    (root / "notes").write_bytes(b"notes")
    (root / "secret").write_bytes(b"secret")
    return serve(only="notes")


@pytest.mark.parametrize("plus", [False, True])
def test_a_single_file_is_alone(single: Guest, root: Path, plus: bool) -> None:
    handle = single.opendir()
    found = single.readdir(handle, plus=plus)
    assert set(found) == {b".", b"..", b"notes"}
    assert found[b"notes"][1] == (root / "notes").stat().st_ino
    assert set(single.readdir(handle, plus=plus, size=180)) == set(found)
    with pytest.raises(Refused) as caught:
        single.lookup(b"secret")
    assert caught.value.errno == errno.ENOENT
    (root / "notes").unlink()
    assert set(single.readdir(handle, plus=plus)) == {b".", b".."}


def test_a_single_file_is_written_and_replaced_by_the_host(single: Guest, root: Path) -> None:
    node = single.lookup(b"notes").nodeid
    handle = single.open(node, os.O_RDWR)
    single.write(node, handle, b"NOTES")
    assert (root / "notes").read_bytes() == b"NOTES"
    (root / "new").write_bytes(b"newer")
    (root / "new").rename(root / "notes")
    entry = single.lookup(b"notes")
    assert single.read(entry.nodeid, single.open(entry.nodeid), 100) == b"newer"
    (root / "notes").unlink()
    node, handle = single.create(b"notes")
    single.write(node, handle, b"made again")
    assert (root / "notes").read_bytes() == b"made again"


def test_a_single_file_s_folder_stays_as_it_is(single: Guest, root: Path) -> None:
    node = single.lookup(b"notes").nodeid
    name = b"secret\0"
    setattr_ = FUSE_SETATTR_IN.struct.pack(1, *[0] * 15)
    for opcode, where, arguments in (
        (FuseOpcode.FUSE_UNLINK, 1, b"notes\0"),
        (FuseOpcode.FUSE_UNLINK, 1, name),
        (FuseOpcode.FUSE_MKDIR, 1, bytes(8) + b"new\0"),
        (FuseOpcode.FUSE_CREATE, 1, struct.pack("<IIII", os.O_RDWR | os.O_CREAT, 0o600, 0, 0) + name),
        (FuseOpcode.FUSE_MKNOD, 1, struct.pack("<IIII", 0o100600, 0, 0, 0) + b"new\0"),
        (FuseOpcode.FUSE_SYMLINK, 1, b"new\0target\0"),
        (FuseOpcode.FUSE_LINK, 1, struct.pack("<Q", node) + b"new\0"),
        (FuseOpcode.FUSE_RENAME, 1, struct.pack("<Q", 1) + b"notes\0new\0"),
        (FuseOpcode.FUSE_RENAME2, 1, struct.pack("<QQ", 1, 0) + b"secret\0notes\0"),
        (FuseOpcode.FUSE_TMPFILE, 1, struct.pack("<IIII", os.O_RDWR, 0o600, 0, 0) + b"x\0"),
        (FuseOpcode.FUSE_SETATTR, 1, setattr_),
        (FuseOpcode.FUSE_REMOVEXATTR, 1, b"user.a\0"),
    ):
        assert errno_of(single, opcode, where, arguments) == errno.EPERM, FuseOpcode(opcode).name
    assert sorted(os.listdir(root)) == ["notes", "secret"]
    assert (root / "secret").read_bytes() == b"secret"


def test_a_file_as_the_shared_directory(root: Path) -> None:
    (root / "notes").write_bytes(b"notes")
    device, guest = start(root / "notes")
    guest.init()
    assert set(guest.readdir(guest.opendir())) == {b".", b"..", b"notes"}
    device.close()
