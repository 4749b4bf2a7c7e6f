"""What the server answers to requests with a token: the guest is told what it must hear, and the host is untouched."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from subos_devices.fs.events.changes import Change
from subos_devices.fs.handles import DUMMY
from subos_protocol import file_events as kind
from subos_protocol.file_events import END_OF_TOKENS, FIRST_TOKEN, Replay, looking, token
from subos_protocol.fuse import (
    FUSE_ATTR_OUT,
    FUSE_ENTRY_OUT,
    FUSE_FALLOCATE_IN,
    FUSE_GETXATTR_IN,
    FUSE_MKDIR_IN,
    FUSE_MKNOD_IN,
    FUSE_OPEN_IN,
    FUSE_OPEN_OUT,
    FUSE_RELEASE_IN,
    FUSE_RENAME2_IN,
    FUSE_SETATTR_IN,
    FUSE_SETXATTR_SHORT,
    fuse_attr_out,
    fuse_entry_out,
)
from subos_protocol.fuse_opcodes import FuseOpcode, FuseOpened
from support.contained import contained
from support.fuse_requests import FRAMINGS, Refused, Reply

from .conftest import Followed, tree_of

op = FuseOpcode
TIMES = (1 << 4 | 1 << 5, 0, 0, 0, 0, 0, 5, 6, 0, 0, 0, 0, 0, 0, 0, 0)  # fuse_setattr_in: atime and mtime


def lookup(share: Followed, replay: Replay, name: bytes, node: int = 1, *, look: bool = False) -> Reply:
    return share.ask(replay, op.FUSE_LOOKUP, node, name + b"\0", FUSE_ENTRY_OUT.size, look=look)


def mknod(share: Followed, replay: Replay, name: bytes, mode: int = 0o100600, *, look: bool = False) -> Reply:
    body = FUSE_MKNOD_IN.struct.pack(mode, 0, 0, 0) + name + b"\0"
    return share.ask(replay, op.FUSE_MKNOD, 1, body, FUSE_ENTRY_OUT.size, look=look)


def rename(share: Followed, replay: Replay, old: bytes, new: bytes, *, to: int = 1, flags: int = 0) -> Reply:
    return share.ask(replay, op.FUSE_RENAME2, 1, FUSE_RENAME2_IN.struct.pack(to, flags, 0) + old + b"\0" + new + b"\0")


def mkdir(share: Followed, name: bytes) -> fuse_entry_out:
    """The guest itself makes a folder."""
    body = FUSE_MKDIR_IN.struct.pack(0o755, 0) + name + b"\0"
    return entry(share.guest.ask(op.FUSE_MKDIR, 1, body, room=FUSE_ENTRY_OUT.size))


def entry(reply: Reply) -> fuse_entry_out:
    return FUSE_ENTRY_OUT.unpack(reply.body)


def test_a_new_file(share: Followed) -> None:
    share.host("open('new', 'w').write('content')")
    made, written = share.replays()
    assert (made.kind, made.directory, made.name, stat.S_IFMT(made.mode)) == ("create", b"", b"new", stat.S_IFREG)
    assert (written.kind, written.name, made.inode) == ("written", b"new", (share.root / "new").stat().st_ino)
    assert lookup(share, made, b"new").error == errno.ENOENT
    told = entry(mknod(share, made, b"new"))
    assert (told.ino, told.size, told.mode) == (made.inode, 7, (share.root / "new").stat().st_mode)
    assert told.entry_valid == 1
    share.done(made)
    assert share.guest.lookup(b"new").nodeid == told.nodeid
    assert mknod(share, made, b"new").error == errno.EPERM


@pytest.mark.parametrize("known", [True, False])
def test_a_new_name_of_a_file(share: Followed, known: bool) -> None:
    """The guest may be writing to it: a kernel takes what MKNOD says of its length for newer than that."""
    (share.root / "folder").mkdir()
    (share.root / "folder/file").write_text("content")
    folder = share.guest.lookup(b"folder").nodeid
    if known:
        node = share.guest.lookup(b"file", folder).nodeid
    share.host("os.link('folder/file', 'new')")
    (made,) = share.replays()
    assert lookup(share, made, b"new").error == errno.ENOENT
    told = entry(mknod(share, made, b"new"))
    assert (told.entry_valid, told.attr_valid, stat.S_IFMT(told.mode)) == (0, 0, stat.S_IFREG)
    share.done(made)
    looks = share.replays()  # past what the guest has cached of a file that it knows: it has one more name
    assert [(look.kind, look.directory, look.name) for look in looks] == [("sync", b"folder", b"file")] * known
    there = share.guest.lookup(b"new")
    assert there.nodeid != told.nodeid
    assert (there.ino, there.nlink) == ((share.root / "new").stat().st_ino, 2)
    assert not known or there.nodeid == node
    assert share.device.server.share.nodes.lookups[there.nodeid] == 1 + known
    share.guest.ask(op.FUSE_FORGET, told.nodeid, struct.pack("<Q", 1), reply=False)
    assert not share.device.server.share.nodes.known(told.nodeid)


def test_a_name_of_a_file_that_has_another_has_gone(share: Followed) -> None:
    """The guest's kernel counts it down itself, and would take the file for gone with all its names at none."""
    (share.root / "file").write_text("content")
    node = share.guest.lookup(b"file").nodeid
    share.host("os.link('file', 'new')")
    (made,) = share.replays()
    mknod(share, made, b"new")
    share.done(made)
    share.done(*share.replays())
    share.host("os.unlink('new')")
    gone = share.replays()[-1]
    assert entry(lookup(share, gone, b"new")).nodeid != node
    assert share.ask(gone, op.FUSE_UNLINK, 1, b"new\0").error == 0
    share.device.server.share.fd(node)  # so that it is the file itself, and not a new one of its number
    share.host("os.link('file', 'new'); os.unlink('file')")
    gone = share.replays()[-1]
    told = entry(lookup(share, gone, b"file"))
    assert (told.nodeid, told.nlink) == (node, 2)


def test_what_the_host_puts_back_is_told_in_order(share: Followed) -> None:
    """Its event is not read yet when the guest asks: that is not the guest's own doing."""
    for name in ("moved", "removed"):
        (share.root / name).write_text(name)
    nodes = [share.guest.lookup(name).nodeid for name in (b"moved", b"removed")]
    share.host("os.rename('moved', 'there'); os.unlink('removed')")
    moved, gone = share.replays()
    share.host("os.rename('there', 'moved'); open('removed', 'w').close()")
    assert entry(lookup(share, moved, b"moved")).nodeid == nodes[0]
    assert rename(share, moved, b"moved", b"there").error == 0
    assert entry(lookup(share, gone, b"removed")).nodeid == nodes[1]
    assert share.ask(gone, op.FUSE_UNLINK, 1, b"removed\0").error == 0
    share.done(moved, gone)
    assert [(replay.kind, replay.name) for replay in share.replays()][:2] == [
        ("rename", b"there"),
        ("create", b"removed"),
    ]


def test_one_file_after_the_other_is_moved_to_a_name(share: Followed) -> None:
    for name in ("first", "second", "target"):
        (share.root / name).write_text(name)
        share.guest.lookup(name.encode())
    share.host("os.rename('first', 'target'); os.rename('second', 'target')")
    first, second = share.replays()
    for moved, name in ((first, b"first"), (second, b"second")):
        assert entry(lookup(share, moved, name)).nodeid != entry(lookup(share, moved, b"target")).nodeid
        assert rename(share, moved, name, b"target").error == 0
        share.done(moved)


def test_a_folder_that_lives_on_elsewhere_is_not_removed(share: Followed, tmp_path: Path) -> None:
    """A kernel takes a folder that it has removed for dead, wherever it is."""
    (share.root / "folder").mkdir()
    node = share.guest.lookup(b"folder").nodeid
    share.host(f"os.rename('folder', {str(tmp_path / 'away')!r})")
    (gone,) = share.replays()
    assert gone.kind == "delete"
    assert share.ask(gone, op.FUSE_RMDIR, 1, b"folder\0").error == errno.ENOENT, "the agent has it looked up"
    told = entry(lookup(share, gone, b"folder"))
    assert (told.nodeid == node, stat.S_IFMT(told.mode), told.entry_valid) == (False, stat.S_IFDIR, 0)
    assert share.ask(gone, op.FUSE_RMDIR, 1, b"folder\0").error == 0


def test_a_folder_that_the_guest_has_made_anew_stays(share: Followed) -> None:
    """Another node, or none, and the guest's kernel takes it from under whoever works in it, with all its mounts."""
    for name in ("folder", "moved"):
        (share.root / name).mkdir()
        share.guest.lookup(name.encode())
    share.host("os.rmdir('folder'); os.rename('moved', 'there')")
    gone, moved = share.replays()
    anew = [mkdir(share, name).nodeid for name in (b"folder", b"moved")]
    assert entry(lookup(share, gone, b"folder")).nodeid == anew[0]
    assert share.ask(gone, op.FUSE_RMDIR, 1, b"folder\0").error == errno.EBUSY
    assert entry(lookup(share, moved, b"moved")).nodeid == anew[1]
    assert rename(share, moved, b"moved", b"there").error == errno.EBUSY
    share.done(gone, moved, status=errno.EBUSY)
    assert {(look.kind, look.name) for look in share.replays()} == {
        ("sync", b"folder"),
        ("sync", b"moved"),
        ("sync", b"there"),
    }


def test_its_content(share: Followed) -> None:
    (share.root / "file").write_text("old")
    node = share.guest.lookup(b"file").nodeid
    share.host("open('file', 'w').write('new content')")
    before = tree_of(share.root)
    (written,) = share.replays()
    assert (written.kind, written.name) == ("written", b"file")
    assert entry(lookup(share, written, b"file")).nodeid == node
    told = FUSE_ATTR_OUT.unpack(share.ask(written, op.FUSE_GETATTR, node, bytes(16), FUSE_ATTR_OUT.size).body)
    status = (share.root / "file").stat()
    assert (told.size, told.mtimensec) == (11, status.st_mtime_ns % 10**9)
    body = FUSE_OPEN_IN.struct.pack(os.O_WRONLY | os.O_TRUNC, 0)
    opened = FUSE_OPEN_OUT.unpack(share.ask(written, op.FUSE_OPEN, node, body, FUSE_OPEN_OUT.size).body)
    assert (opened.fh, opened.open_flags) == (DUMMY, FuseOpened.FOPEN_NOFLUSH)
    allocate = FUSE_FALLOCATE_IN.struct.pack(opened.fh, 0, 1 << 40, 1, 0)
    assert share.ask(written, op.FUSE_FALLOCATE, node, allocate).body == b""
    share.done(written)
    # The kernel sends this one without the group, and later.
    assert share.guest.ask(op.FUSE_RELEASE, node, FUSE_RELEASE_IN.struct.pack(opened.fh, 0, 0, 0)).error == 0
    assert tree_of(share.root) == before


def test_a_handle_of_no_file_is_of_no_use(share: Followed) -> None:
    (share.root / "file").write_text("old")
    node = share.guest.lookup(b"file").nodeid
    with pytest.raises(Refused):
        share.guest.read(node, DUMMY, 10)
    with pytest.raises(Refused):
        share.guest.write(node, DUMMY, b"x")
    assert (share.root / "file").read_text() == "old"


def test_content_while_it_is_still_being_written(share: Followed) -> None:
    """The time of writing may be that of the last look: a bit of it differs once, so that pages are dropped."""
    (share.root / "file").write_text("old")
    node = share.guest.lookup(b"file").nodeid
    share.host("file = open('file', 'r+b', 0); file.write(b'NEW'); os.fsync(file.fileno()); os._exit(0)")
    share.events._queue.waiting.clear()
    replay = Replay(1, "modify", b"", b"file")
    share.events._queue.replaying[1] = Change(kind.MODIFY, (1, b"file"))
    told = FUSE_ATTR_OUT.unpack(share.ask(replay, op.FUSE_GETATTR, node, bytes(16), FUSE_ATTR_OUT.size).body)
    true = (share.root / "file").stat().st_mtime_ns % 10**9
    assert told.mtimensec == true ^ 1
    assert told.attr_valid == 0
    set_times = FUSE_SETATTR_IN.struct.pack(*TIMES)
    told = FUSE_ATTR_OUT.unpack(share.ask(replay, op.FUSE_SETATTR, node, set_times, FUSE_ATTR_OUT.size).body)
    assert told.mtimensec == true
    assert (share.root / "file").stat().st_mtime_ns % 10**9 == true


def test_attributes(share: Followed) -> None:
    (share.root / "file").write_text("x")
    node = share.guest.lookup(b"file").nodeid
    share.host("os.chmod('file', 0o640)")
    (replay,) = share.replays()
    before = tree_of(share.root)
    assert replay.kind == "attrib"
    told: fuse_attr_out = FUSE_ATTR_OUT.unpack(
        share.ask(replay, op.FUSE_SETATTR, node, FUSE_SETATTR_IN.struct.pack(*TIMES), FUSE_ATTR_OUT.size).body
    )
    assert told.mode == 0o100640
    assert tree_of(share.root) == before


def test_a_name_that_has_gone(share: Followed) -> None:
    (share.root / "file").write_text("x")
    node = share.guest.lookup(b"file").nodeid
    share.host("os.unlink('file')")
    (replay,) = share.replays()
    assert (replay.kind, replay.name) == ("delete", b"file")
    told = entry(lookup(share, replay, b"file"))
    assert (told.nodeid, stat.S_IFMT(told.mode), told.nlink) == (node, stat.S_IFREG, 1)
    assert share.ask(replay, op.FUSE_UNLINK, 1, b"file\0").error == 0
    share.done(replay)
    assert share.replays() == []
    with pytest.raises(Refused):
        share.guest.lookup(b"file")


def test_a_name_that_has_gone_and_the_guest_has_open(share: Followed) -> None:
    """It is told of as it is: a size of 0 would make the guest forget what it has of it."""
    (share.root / "file").write_text("content")
    node = share.guest.lookup(b"file").nodeid
    handle = share.guest.open(node)
    share.host("os.unlink('file')")
    (replay,) = share.replays()
    told = entry(lookup(share, replay, b"file"))
    assert (told.nodeid, told.size, told.nlink) == (node, 7, 1)
    assert share.guest.read(node, handle, 10) == b"content"


def test_a_name_that_the_guest_has_never_seen(share: Followed) -> None:
    """An inode that never was is made up for it, and forgotten with the name."""
    (share.root / "file").write_text("x")
    share.host("os.unlink('file'); os.mkdir('other'); os.rmdir('other')")
    gone, made, removed = share.replays()
    ghost = entry(lookup(share, gone, b"file"))
    assert (ghost.size, stat.S_IFMT(ghost.mode)) == (0, stat.S_IFREG)
    assert lookup(share, made, b"other").error == errno.ENOENT
    body = FUSE_MKDIR_IN.struct.pack(0o755, 0) + b"other\0"
    folder = entry(share.ask(made, op.FUSE_MKDIR, 1, body, FUSE_ENTRY_OUT.size))
    assert (stat.S_IFMT(folder.mode), folder.entry_valid, folder.attr_valid) == (stat.S_IFDIR, 0, 0)
    assert share.ask(removed, op.FUSE_RMDIR, 1, b"other\0").error == 0
    for node in (ghost.nodeid, folder.nodeid):
        with pytest.raises(Refused):
            share.guest.open(node)
        share.guest.ask(op.FUSE_FORGET, node, (1).to_bytes(8, "little"), reply=False)
    share.done(gone, made, removed)
    assert share.replays() == []
    assert not (share.root / "other").exists()


def test_however_often_it_is_looked_up_it_is_one_node(share: Followed) -> None:
    (share.root / "file").write_text("x")
    share.host("os.unlink('file'); os.mkdir('other'); os.rmdir('other')")
    gone, made, _removed = share.replays()
    nodes = share.events._share.nodes
    before = nodes.count
    ghost = entry(lookup(share, gone, b"file"))
    for _ in range(99):
        again = entry(lookup(share, gone, b"file"))
        assert (again.nodeid, again.generation, again.ino) == (ghost.nodeid, ghost.generation, ghost.ino)
    body = FUSE_MKDIR_IN.struct.pack(0o755, 0) + b"other\0"
    folders = {entry(share.ask(made, op.FUSE_MKDIR, 1, body, FUSE_ENTRY_OUT.size)).nodeid for _ in range(100)}
    assert len(folders | {ghost.nodeid}) == 2
    assert nodes.count == before + 2
    for node in folders | {ghost.nodeid}:
        share.guest.ask(op.FUSE_FORGET, node, (99).to_bytes(8, "little"), reply=False)
        assert nodes.known(node)
        share.guest.ask(op.FUSE_FORGET, node, (1).to_bytes(8, "little"), reply=False)
        assert not nodes.known(node)
    assert nodes.count == before


def test_what_is_moved_and_what_it_covers_are_two(share: Followed) -> None:
    """A kernel does nothing where both names of a rename are one inode's."""
    change = Change(kind.RENAME, (1, b"a"), to=(1, b"b"))
    share.events._queue.replaying[1] = change
    tokens = share.events._tokens
    moved, covered = (FUSE_ENTRY_OUT.unpack(tokens._ghost(change, covered=covered)) for covered in (False, True))
    other = FUSE_ENTRY_OUT.unpack(tokens._ghost(Change(kind.DELETE, (1, b"c"))))
    assert len({moved.nodeid, covered.nodeid, other.nodeid}) == 3
    assert len({moved.ino, covered.ino, other.ino}) == 3
    assert FUSE_ENTRY_OUT.unpack(tokens._ghost(change)).nodeid == moved.nodeid


def test_a_forgotten_node_is_not_told_of(share: Followed) -> None:
    """Its number may be another file's by now."""
    (share.root / "file").write_text("x")
    (share.root / "second").write_text("y")
    node = share.guest.lookup(b"file").nodeid
    share.host("os.unlink('file')")
    (replay,) = share.replays()
    share.guest.ask(op.FUSE_FORGET, node, (1).to_bytes(8, "little"), reply=False)
    assert share.guest.lookup(b"second").nodeid == node
    assert entry(lookup(share, replay, b"file")).nodeid != node


def test_a_name_that_the_guest_has_made_anew(share: Followed) -> None:
    (share.root / "file").write_text("x")
    share.guest.lookup(b"file")
    share.host("os.unlink('file')")
    (replay,) = share.replays()
    share.guest.create(b"file")
    assert share.ask(replay, op.FUSE_UNLINK, 1, b"file\0").error == errno.EBUSY
    share.done(replay, status=errno.EBUSY)
    (sync,) = share.replays()
    assert (sync.kind, sync.name) == ("sync", b"file")
    assert (share.root / "file").exists()


def test_a_name_that_the_host_has_made_anew(share: Followed) -> None:
    (share.root / "file").write_text("x")
    share.guest.lookup(b"file")
    share.host("os.unlink('file'); open('file', 'w').close()")
    gone, made, _written = share.replays()
    assert (gone.kind, made.kind) == ("delete", "create")
    assert share.ask(gone, op.FUSE_UNLINK, 1, b"file\0").error == 0
    assert lookup(share, made, b"file").error == errno.ENOENT
    told = entry(mknod(share, made, b"file"))  # where the host has taken the same inode again, the node is the old one
    assert told.entry_valid == told.attr_valid == 0 or told.ino == (share.root / "file").stat().st_ino
    assert share.guest.lookup(b"file").ino == (share.root / "file").stat().st_ino


def test_a_file_that_takes_another_s_place(share: Followed) -> None:
    (share.root / "file").write_text("old")
    old = share.guest.lookup(b"file").nodeid
    share.host("open('temporary', 'w').write('new'); os.rename('temporary', 'file')")
    made, moved = (replay for replay in share.replays() if replay.kind in ("create", "rename"))
    told = entry(mknod(share, made, b"temporary"))
    assert (told.ino, told.entry_valid) == ((share.root / "file").stat().st_ino, 0), "it is not there to stay"
    assert (moved.name, moved.to_name) == (b"temporary", b"file")
    assert entry(lookup(share, moved, b"temporary")).nodeid == told.nodeid
    assert entry(lookup(share, moved, b"file")).nodeid == old
    assert rename(share, moved, b"temporary", b"file").error == 0
    share.done(made, moved)
    assert share.replays() == []
    assert share.guest.lookup(b"file").nodeid == told.nodeid


def test_what_the_guest_has_put_in_its_place_stays(share: Followed) -> None:
    (share.root / "one").write_text("1")
    share.guest.lookup(b"one")
    share.host("os.rename('one', 'two')")
    (moved,) = share.replays()
    share.guest.create(b"beside")
    (share.root / "beside").rename(share.root / "two")  # by the process that serves the guest
    share.events._catch_up()
    share.events._queue.drop_waiting()
    assert rename(share, moved, b"one", b"two").error == errno.EBUSY


def test_a_look_is_answered_truly_and_makes_nothing(share: Followed) -> None:
    share.host("open('new', 'w').close()")
    before = tree_of(share.root)
    made = share.replays()[0]
    assert entry(lookup(share, made, b"new", look=True)).ino == made.inode
    assert mknod(share, made, b"new", look=True).error == errno.EPERM
    assert lookup(share, made, b"other", look=True).error == errno.ENOENT
    assert tree_of(share.root) == before


def test_what_was_not_announced(share: Followed) -> None:
    share.host("open('new', 'w').close()")
    before = tree_of(share.root)
    made = share.replays()[0]
    stranger = made._replace(number=made.number + 5)
    assert mknod(share, made, b"other").error == errno.EPERM
    assert mknod(share, stranger, b"new").error == errno.EPERM
    assert share.ask(made, op.FUSE_UNLINK, 1, b"new\0").error == errno.EPERM
    assert rename(share, made, b"new", b"old").error == errno.EPERM
    assert share.ask(made, op.FUSE_MKDIR, 1, FUSE_MKDIR_IN.struct.pack(0, 0) + b"new\0", 128).error == errno.EEXIST
    body = FUSE_SETXATTR_SHORT.struct.pack(1, 0) + b"user.a\0b"
    assert share.ask(made, op.FUSE_SETXATTR, 1, body).error == errno.EPERM
    assert (
        share.ask(made, op.FUSE_GETXATTR, 1, FUSE_GETXATTR_IN.struct.pack(9, 0) + b"user.a\0", 9).error == errno.ENODATA
    )
    assert tree_of(share.root) == before


def test_a_look_by_a_token_that_nobody_knows_any_more_is_answered_truly(share: Followed) -> None:
    """A worker has died over it. By any error a kernel takes a folder that it looks up once more for gone."""
    (share.root / "folder").mkdir()
    node = share.guest.lookup(b"folder").nodeid
    share.host("os.chmod('folder', 0o750)")
    (replay,) = share.replays()
    for gone in (replay._replace(number=replay.number + 5), replay):
        for look in (False, True):
            assert entry(lookup(share, gone, b"folder", look=look)).nodeid == node
            assert lookup(share, gone, b"nothing", look=look).error == (errno.ENOENT if look else errno.EPERM)
            reply = share.ask(gone, op.FUSE_GETATTR, node, bytes(16), FUSE_ATTR_OUT.size, look=look)
            assert FUSE_ATTR_OUT.unpack(reply.body).mode == 0o40750
        share.done(replay)
    body = FUSE_MKDIR_IN.struct.pack(0, 0) + b"nothing\0"
    assert share.ask(replay, op.FUSE_MKDIR, 1, body, FUSE_ENTRY_OUT.size).error == errno.EPERM
    assert lookup(share, replay, b"../share").error == errno.EINVAL


def test_a_token_that_nobody_knows_any_more_makes_nothing_known(share: Followed) -> None:
    """What a worker that died had announced the next one tells again, as long as the guest does not know it."""
    share.host("os.mkdir('new')")
    (made,) = share.replays()
    stranger = made._replace(number=made.number + 5)
    assert lookup(share, stranger, b"new").error == errno.EPERM
    assert not share.device.server.share.nodes.find(
        (share.root / "new").stat().st_dev, (share.root / "new").stat().st_ino
    )


def test_groups_beyond_the_tokens_are_groups(share: Followed) -> None:
    with share.as_group(END_OF_TOKENS) as guest:
        if os.geteuid() == 0:
            guest.create(b"file")
            assert (share.root / "file").stat().st_gid == END_OF_TOKENS
        assert guest.getattr(1)


def test_a_read_only_share_is_told_too(follow: Callable[..., Followed]) -> None:
    share = follow(readonly=True)
    share.host("open('new', 'w').close()")
    made = share.replays()[0]
    assert lookup(share, made, b"new").error == errno.ENOENT
    assert entry(mknod(share, made, b"new")).ino == made.inode


def test_a_share_of_one_file(follow: Callable[..., Followed], root: Path) -> None:
    (root / "one").write_text("old")
    (root / "other").write_text("secret")
    share = follow(only="one")
    share.done(*share.replays())  # what had just been made when the agent came
    share.host("open('other', 'w').write('x'); open('new', 'w').close(); os.unlink('other')")
    assert share.replays() == []
    share.host("open('one', 'w').write('new')")
    (written,) = share.replays()
    assert (written.kind, written.name) == ("written", b"one")
    share.done(written)
    share.host("open('beside', 'w').close(); os.rename('beside', 'one')")
    assert {replay.name for replay in share.replays()} == {b"one"}


kinds = st.sampled_from(kind.KINDS)
names = st.sampled_from([b"file", b"folder", b"new", b"way out", b"inner", b"..", b"way out/secret", b""])
nodes = st.sampled_from([0, 1, 2, 3, 4, 5, 1 << 32])


@contained
def test_no_request_with_a_token_changes_anything(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "share"
    outside.mkdir()
    root.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "file").write_bytes(b"content")
    (root / "folder").mkdir()
    (root / "folder/inner").write_bytes(b"inner")
    (root / "way out").symlink_to(outside)
    share = Followed(root, FRAMINGS[0])
    share.attach()
    for parent, name in ((1, b"file"), (1, b"folder"), (1, b"way out"), (3, b"inner")):
        share.guest.lookup(name, parent)
    handle = share.guest.open(2, os.O_RDWR)
    before = tree_of(tmp_path)

    of_file = handle.to_bytes(8, "little") + bytes(32)
    structured = st.builds(
        lambda head, name, other: head + name + b"\0" + other + b"\0",
        st.sampled_from([b"", bytes(8), bytes(16), b"\1" + bytes(15), bytes(40), of_file]),
        names,
        names,
    )

    @settings(max_examples=600, suppress_health_check=list(HealthCheck))
    @given(
        what=kinds,
        at=st.tuples(nodes, names),
        to=st.tuples(nodes, names),
        old=st.tuples(nodes, st.integers(0, 2)),
        opcode=st.integers(1, 60),
        node=nodes,
        arguments=structured | st.binary(max_size=200),
        data=st.just(b"") | st.just(b"x" * 10),
        room=st.sampled_from([0, 16, 104, 128, 144, 300]),
        gid=st.sampled_from([token(7), looking(7), token(8), FIRST_TOKEN, END_OF_TOKENS - 1]),
        is_directory=st.booleans(),
    )
    def request(
        what: str,
        at: tuple[int, bytes],
        to: tuple[int, bytes],
        old: tuple[int, int],
        opcode: int,
        node: int,
        arguments: bytes,
        data: bytes,
        room: int,
        gid: int,
        is_directory: bool,
    ) -> None:
        if opcode in (op.FUSE_INIT, op.FUSE_DESTROY):
            return
        share.events._queue.replaying[7] = Change(what, at, is_directory, old, to, old)
        with share.as_group(gid) as guest:
            answered = opcode not in (op.FUSE_FORGET, op.FUSE_BATCH_FORGET)
            guest.ask(opcode, node, arguments, data=data, room=room, reply=answered)
        assert tree_of(tmp_path) == before

    request()
    share.close()
