"""Any number of nodes within a fixed number of descriptors, and what the host does to them meanwhile."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subos_devices.fs import descriptors, device, handles, hot, nodes
from subos_devices.fs.nodes import NodeTable
from subos_devices.fs.share import Share
from subos_devices.fs.statistics import Statistics
from subos_protocol.fuse import FUSE_CREATE_IN, FUSE_OPEN_IN
from subos_protocol.fuse_opcodes import FuseOpcode
from support.fuse_requests import Guest

from .conftest import Serve
from .test_operations import mkdir, rename

LIMIT = 64
ROOT = os.stat("/")


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(params=["handles", "names"])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, serve: Serve) -> Guest:
    """A guest whose share may use LIMIT descriptors, with file handles and without."""
    monkeypatch.setattr(device, "MOST_DESCRIPTORS", LIMIT + descriptors.RESERVED)
    if request.param == "names":
        monkeypatch.setattr(descriptors.Descriptors, "_open_mount", lambda *_: None)
    elif os.geteuid() != 0:
        pytest.skip("only root opens files by their handles")
    return serve()


def tree(root: Path, folders: int, files: int) -> None:
    for folder in range(folders):
        (root / f"folder{folder}/deeper/still").mkdir(parents=True)
        for file in range(files):
            (root / f"folder{folder}/deeper/still/file{file}").write_bytes(b"%d %d" % (folder, file))


def test_more_nodes_than_descriptors(few: Guest, root: Path) -> None:
    tree(root, 100, 3)
    before = fds()
    known = {}
    for folder in range(100):
        node = 1
        for name in (b"folder%d" % folder, b"deeper", b"still"):
            node = few.lookup(name, node).nodeid
        for file in range(3):
            entry = few.lookup(b"file%d" % file, node)
            known[entry.nodeid] = (b"%d %d" % (folder, file), entry.ino)
            handle = few.open(entry.nodeid)
            assert few.read(entry.nodeid, handle, 100) == b"%d %d" % (folder, file)
            few.release(entry.nodeid, handle)
    assert fds() <= before + LIMIT
    for node, (content, ino) in known.items():
        assert few.getattr(node).ino == ino
        handle = few.open(node)
        assert few.read(node, handle, 100) == content
        few.release(node, handle)
    assert fds() <= before + LIMIT


def test_open_files_are_refused_beyond_the_limit_and_nothing_else_is(few: Guest, root: Path) -> None:
    tree(root, 2, 1)
    node, first = few.create(b"file")
    handles = [first]
    opening = FUSE_OPEN_IN.struct.pack(os.O_RDONLY, 0)
    for _ in range(2 * LIMIT):
        reply = few.ask(FuseOpcode.FUSE_OPEN, node, opening, room=16)
        if reply.error:
            break
        handles.append(int.from_bytes(reply.body[:8], "little"))
    assert reply.error == errno.ENFILE
    assert len(handles) > LIMIT // 2
    assert few.write(node, handles[0], b"still served") == 12
    few.lookup(b"file")
    for handle in handles[:8]:
        few.release(node, handle)
    folder = few.lookup(b"folder0").nodeid
    deeper = few.lookup(b"deeper", folder).nodeid
    assert few.lookup(b"still", deeper).nodeid
    few.open(node)


def test_what_is_open_stays_reachable_whatever_the_host_does_to_its_name(few: Guest, root: Path) -> None:
    mkdir(few, b"folder")
    folder = few.lookup(b"folder").nodeid
    node, handle = few.create(b"file", folder)
    few.write(node, handle, b"content")
    for index in range(LIMIT):  # the node's own descriptor goes
        mkdir(few, b"other%d" % index)
        few.lookup(b"other%d" % index)
    (root / "folder/file").unlink()
    assert few.getattr(node).nlink == 0
    assert few.read(node, handle, 100) == b"content"
    again = few.open(node)
    assert few.read(node, again, 100) == b"content"


def test_what_the_guest_removes_stays_until_it_forgets_it(few: Guest, root: Path) -> None:
    folder = mkdir(few, b"folder")
    file = few.create(b"file")[0]
    few.create(b"target")
    for opcode, name in ((FuseOpcode.FUSE_RMDIR, b"folder\0"), (FuseOpcode.FUSE_UNLINK, b"file\0")):
        assert few.ask(opcode, 1, name).error == 0
    replaced = few.lookup(b"target").nodeid
    few.create(b"source")
    assert rename(few, b"source", b"target") == 0
    for index in range(LIMIT):
        mkdir(few, b"other%d" % index)
    for node in (folder, file, replaced):
        assert few.getattr(node).nlink == 0
        few.ask(FuseOpcode.FUSE_FORGET, node, struct.pack("<Q", 100), reply=False)
        assert few.ask(FuseOpcode.FUSE_GETATTR, node, bytes(16), room=104).error == errno.EBADF


def test_the_guest_s_renames_are_followed(few: Guest, root: Path) -> None:
    first, second = mkdir(few, b"first"), mkdir(few, b"second")
    node = few.create(b"file", first)[0]
    few.ask(FuseOpcode.FUSE_RELEASE, node, struct.pack("<QIIQ", 1, 0, 0, 0))
    assert rename(few, b"file", b"moved", first, second) == 0
    assert rename(few, b"first", b"second", flags=2) == 0  # RENAME_EXCHANGE
    assert rename(few, b"first", b"renamed") == 0
    for index in range(LIMIT):
        mkdir(few, b"other%d" % index)
    assert few.getattr(node).ino == (root / "renamed/moved").stat().st_ino
    few.create(b"inside", second)
    assert (root / "renamed/inside").exists()


def test_another_file_under_the_name_is_not_the_node(few: Guest, root: Path) -> None:
    (root / "file").write_bytes(b"old")
    (root / "kept").write_bytes(b"so that the inode number is not used again")
    os.link(root / "file", root / "elsewhere")
    node = few.lookup(b"file").nodeid
    (root / "new").write_bytes(b"new")
    (root / "new").rename(root / "file")
    reply = few.ask(FuseOpcode.FUSE_OPEN, node, FUSE_OPEN_IN.struct.pack(os.O_RDONLY, 0), room=16)
    assert reply.error == errno.ESTALE
    entry = few.lookup(b"file")
    assert entry.nodeid != node
    assert few.read(entry.nodeid, few.open(entry.nodeid), 10) == b"new"
    assert few.lookup(b"elsewhere").nodeid == node
    assert few.read(node, few.open(node), 10) == b"old"


def test_a_folder_that_the_host_moves_is_found_again_by_its_handle(serve: Serve, root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root opens files by their handles")
    guest = serve()
    tree(root, 1, 1)
    folder = guest.lookup(b"folder0").nodeid
    deeper = guest.lookup(b"deeper", folder).nodeid
    for node in (deeper, folder):
        share = guest.drain.__self__.server.share  # type: ignore[attr-defined]
        share.descriptors._remember(node)
        share.descriptors.release(node)
    (root / "folder0/deeper").rename(root / "moved")
    shutil.rmtree(root / "folder0")
    guest.create(b"new", deeper)
    assert (root / "moved/new").exists()


def test_a_deep_path_with_few_descriptors(few: Guest, root: Path) -> None:
    depth = 4 * LIMIT
    node, path = 1, []
    for level in range(depth):
        node = mkdir(few, b"level%d" % level, node)
        path.append(node)
    few.lookup(b"level0")
    for node in path[::17]:
        assert stat.S_ISDIR(few.getattr(node).mode)
    few.create(b"at the end", path[-1])
    few.create(b"in the middle", path[depth // 2])


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 2), st.booleans()), max_size=200))
def test_the_table_knows_what_a_dict_would(steps: list[tuple[int, int, bool]]) -> None:
    """Inodes come, come again on other devices, and are forgotten, in any order."""
    table = NodeTable(ROOT, Statistics())
    known: dict[tuple[int, int], int] = {}
    for ino, device_number, comes in steps:
        key = (ROOT.st_dev + device_number, ino * 64)
        if comes:
            node = table.learn(1, b"name", *key, stat.S_IFREG)
            assert known.setdefault(key, node) == node
        elif key in known:
            assert table.forget(known.pop(key), 1 << 40)
        assert table.find(*key) == known.get(key, 0)
    assert table.count == len(known) + 1
    for key, node in known.items():
        assert table.find(*key) == node


def test_a_million_nodes_cost_what_is_said() -> None:
    """Bytes a node, names of eight letters included: measured, since a promise is made of it."""
    table = NodeTable(ROOT, Statistics())
    before = _private_bytes()
    count = 200_000
    for index in range(count):
        table.learn(1, b"%08d" % index, ROOT.st_dev, 1000 + index, stat.S_IFREG)
    assert (_private_bytes() - before) / count < 85
    table.start(ROOT)
    assert table.find(ROOT.st_dev, 1000) == 0


def _private_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def test_a_share_opens_nothing_but_its_root(tmp_path: Path) -> None:
    before = fds()
    share = Share(str(tmp_path))
    assert fds() == before + 2 + share.descriptors.uses_handles
    share.close()
    assert fds() == before
    assert nodes.NAMELESS == 0


def test_what_has_no_name_and_is_not_forgotten_uses_nothing_up(few: Guest, root: Path) -> None:
    """A guest that believes in another name, which the host has removed, keeps the inode for as long as it likes."""
    node, handle = few.create(b"open")
    few.write(node, handle, b"read until the end")
    folder = mkdir(few, b"folder")
    assert few.ask(FuseOpcode.FUSE_UNLINK, 1, b"open\0").error == 0
    before = fds()
    for index in range(3 * LIMIT):
        (root / f"file{index}").write_bytes(b"%d" % index)
        os.link(root / f"file{index}", root / f"other{index}")
        gone = few.lookup(b"file%d" % index).nodeid
        (root / f"other{index}").unlink()
        assert few.ask(FuseOpcode.FUSE_UNLINK, 1, b"file%d\0" % index).error == 0
        opened, number = few.create(b"new", folder)
        few.write(opened, number, b"%d" % index)
        few.release(opened, number)
        assert few.ask(FuseOpcode.FUSE_UNLINK, folder, b"new\0").error == 0
        few.ask(FuseOpcode.FUSE_FORGET, opened, struct.pack("<Q", 1), reply=False)
    assert fds() <= before + LIMIT
    assert few.read(node, handle, 100) == b"read until the end"
    assert few.getattr(node).nlink == 0
    again = few.open(node)
    assert few.read(node, again, 100) == b"read until the end"
    assert few.getattr(gone).nlink == 0
    few.release(node, handle)
    few.release(node, again)


@pytest.mark.parametrize("what", ["open", "open to write", "create", "tmpfile", "opendir"])
def test_a_guest_that_has_all_handles_costs_no_more_descriptors(
    guest: Guest, root: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was opened before the handle was refused is closed, and what was made for it is known no more."""
    (root / "file").touch()
    file = guest.lookup(b"file").nodeid
    opening = guest.open(file), guest.open(file, os.O_RDWR), guest.opendir()
    nameless = FUSE_CREATE_IN.struct.pack(os.O_RDWR, 0o600, 0, 0) + b"/\0"
    requests = {
        "open": lambda: guest.ask(FuseOpcode.FUSE_OPEN, file, FUSE_OPEN_IN.struct.pack(0, 0), room=16),
        "open to write": lambda: guest.ask(FuseOpcode.FUSE_OPEN, file, FUSE_OPEN_IN.struct.pack(os.O_RDWR, 0), room=16),
        "create": lambda: guest.ask(FuseOpcode.FUSE_CREATE, 1, nameless[:-2] + b"new\0", room=144),
        "tmpfile": lambda: guest.ask(FuseOpcode.FUSE_TMPFILE, 1, nameless, room=144),
        "opendir": lambda: guest.ask(FuseOpcode.FUSE_OPENDIR, 1, FUSE_OPEN_IN.struct.pack(0, 0), room=16),
    }
    share = guest.worker.device.server.share
    before = fds(), share.nodes.count, share.files.in_use
    monkeypatch.setattr(handles, "HANDLES", 2)
    for _ in range(3):
        assert requests[what]().error == errno.ENFILE
    assert (fds(), share.nodes.count, share.files.in_use) == before
    monkeypatch.undo()
    assert requests[what]().error == 0
    assert all(opening)


def test_an_error_at_close_leaves_nothing_open(guest: Guest, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that writes over a network tells of it then; a guest that reboots has nobody to hear that."""
    before = fds()
    for name in (b"one", b"two", b"three"):
        guest.create(b"file", mkdir(guest, name))
    close = os.close

    def closed_with_errors(fd: int) -> None:
        close(fd)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patch:
        patch.setattr(handles.os, "close", closed_with_errors)
        share = guest.worker.device.server.share
        share.reset()
    assert fds() == before
    assert share.files.handles.open == 0
    guest.init()
    assert guest.lookup(b"two").nodeid


@pytest.mark.parametrize("twin", ["plain"], indirect=True)
def test_what_cannot_be_looked_at_once_it_is_open_is_closed(
    guest: Guest, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system of a network may say so at any time."""
    (root / "file").touch()
    file = guest.lookup(b"file").nodeid
    guest.release(file, guest.open(file, os.O_RDWR))
    before = fds()

    def refuse(_fd: int, _pointer: object) -> int:
        ctypes.set_errno(errno.EIO)
        return -1

    with monkeypatch.context() as patch:
        patch.setattr(hot, "_fstat", refuse)
        for _ in range(3):
            with pytest.raises(OSError, match="Input/output"):
                guest.open(file, os.O_RDWR)
    assert fds() == before
    guest.open(file, os.O_RDWR)
