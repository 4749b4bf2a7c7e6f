"""Maps of ids: which user of the host a guest's user is, and back."""

from __future__ import annotations

import errno
import os
import stat
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_devices.errors import UserError
from subos_devices.fs.identity import IDS, NOBODY, IdMap, mapping_options, parse_map
from subos_protocol.fuse_opcodes import FuseOpcode, FuseSetattr
from support.fuse_requests import Refused

from .conftest import Serve
from .test_operations import as_root, mkdir, refused, setattr_

numbers = st.integers(0, 3000) | st.integers(0, IDS + 10)
entries = st.one_of(
    st.tuples(numbers, numbers, numbers).map(lambda n: f"{n[0]}:{n[1]}:{n[2]}"),
    st.tuples(numbers, numbers, numbers).map(lambda n: f"squash:{n[0]}:{n[1]}:{n[2]}"),
    st.tuples(numbers, numbers).map(lambda n: f"forbid:{n[0]}:{n[1]}"),
)


def host(ids: IdMap, guest: int) -> int | None:
    with suppress(PermissionError):
        return ids.host(guest)
    return None


def test_without_a_map_ids_are_what_they_are() -> None:
    for ids in (IdMap(), parse_map("")):
        assert (ids.host(0), ids.host(1000), ids.guest(1000)) == (0, 1000, 1000)


def test_ranges() -> None:
    ids = parse_map("0:1000:1,1:100000:999,1000:0:1")
    assert [host(ids, guest) for guest in (0, 1, 999, 1000, 1001)] == [1000, 100000, 100998, 0, None]
    assert [ids.guest(number) for number in (1000, 100000, 100998, 0, 100999, 5)] == [0, 1, 999, 1000, NOBODY, NOBODY]


def test_squash() -> None:
    ids = parse_map("0:1000:1, squash:1:1000:65535")
    assert [host(ids, guest) for guest in (0, 1, 65535, 65536)] == [1000, 1000, 1000, None]
    assert ids.guest(1000) == 0  # the first entry that leads there
    assert ids.shown(77) == 0
    assert parse_map("squash:5:1000:10").guest(1000) == 5
    assert parse_map("squash:5:1000:10").guest(1001) == NOBODY


def test_forbid_alone_lets_the_others_pass() -> None:
    ids = parse_map("forbid:0:1")
    assert [host(ids, guest) for guest in (0, 1, 1000)] == [None, 1, 1000]
    assert ids.guest(0) == 0
    ids = parse_map("forbid:5:1,0:1000:5")
    assert [host(ids, guest) for guest in (4, 5, 6)] == [1004, None, None]


@pytest.mark.parametrize(
    "text",
    [
        *("0", "0:1", "0:1:2:3", "a:1:2", "0:1:0", ":1:1", "-1:0:1", "0:1: 1", "0:1:1,", "squash:0:1", "forbid:0:1:2"),
        *("steal:0:1:2", "0:1:٣", f"0:{IDS}:1", f"{IDS}:0:1", f"0:0:{IDS + 1}", f"squash:0:{IDS}:2", "0:0:5,4:9:1"),
        *("0:0:5,forbid:0:1", "0x0:0:1", "0:1_0:1"),
    ],
)
def test_what_is_no_map(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_map(text)
    assert caught.value.hint


@given(st.lists(entries, max_size=4).map(",".join), st.lists(numbers, min_size=1))
def test_what_comes_back_goes_there_again(text: str, ids: list[int]) -> None:
    """A guest's id may come back as another one, which then is the same user of the host, for good."""
    try:
        mapped = parse_map(text)
    except UserError:
        return
    for guest in ids:
        there = host(mapped, guest)
        if there is not None:
            back = mapped.guest(there)
            assert mapped.host(back) == there or mapped.entries == ()
            assert mapped.shown(back) == back
        assert mapped.others_pass or 0 <= mapped.guest(guest) < IDS


@given(st.text(max_size=40) | st.lists(entries, max_size=4).map(",".join))
def test_any_text_is_a_map_or_refused(text: str) -> None:
    try:
        mapped = parse_map(text)
    except UserError:
        return
    for entry in mapped.entries:
        assert entry.size >= 1
        assert entry.guest + entry.size <= IDS


def test_flags_become_options() -> None:
    assert mapping_options([], [], []) == {}
    assert mapping_options(["0:1000:1", "forbid:5:1"], ["0:7:1"], ["ownership=xattr", "xattr=mapped"]) == {
        "map_uid": "0:1000:1,forbid:5:1",
        "map_gid": "0:7:1",
        "ownership": "xattr",
        "xattr": "mapped",
    }
    for text in ("ownership", "owner=xattr", "readonly=yes", "xattr="):
        with pytest.raises(UserError, match="maps nothing"):
            mapping_options([], [], [text])


# --- on a share


@as_root
def test_a_share_with_maps(serve: Serve, root: Path) -> None:
    (root / "foreign").write_bytes(b"")
    os.chown(root / "foreign", 5, 6)
    guest = serve(map_uid="0:1000:1,squash:1:1001:99,forbid:500:1", map_gid="0:1000:100")
    guest.uid, guest.gid = 0, 7
    node, _ = guest.create(b"file")
    made = (root / "file").stat()
    assert (made.st_uid, made.st_gid) == (1000, 1007)
    assert (guest.getattr(node).uid, guest.lookup(b"file").gid) == (0, 7)
    guest.uid = 42
    folder = mkdir(guest, b"folder")
    assert (root / "folder").stat().st_uid == 1001
    assert guest.getattr(folder).uid == 1
    shown = guest.lookup(b"foreign")
    assert (shown.uid, shown.gid) == (NOBODY, NOBODY)
    changed = setattr_(guest, node, FuseSetattr.FATTR_UID | FuseSetattr.FATTR_GID, uid=50, gid=99)
    assert (changed.uid, changed.gid) == (1, 99)
    made = (root / "file").stat()
    assert (made.st_uid, made.st_gid) == (1001, 1099)
    for refusal in ({"uid": 500}, {"uid": 100}, {"uid": 1 << 31}, {"gid": 100}):
        valid = FuseSetattr.FATTR_UID if "uid" in refusal else FuseSetattr.FATTR_GID
        with pytest.raises(Refused, match="not permitted"):
            setattr_(guest, node, valid, **refusal)
    guest.uid = 500
    for opcode, arguments in (
        (FuseOpcode.FUSE_MKDIR, struct.pack("<II", 0o755, 0) + b"new\0"),
        (FuseOpcode.FUSE_MKNOD, struct.pack("<IIII", stat.S_IFREG | 0o644, 0, 0, 0) + b"new\0"),
        (FuseOpcode.FUSE_SYMLINK, b"new\0target\0"),
        (FuseOpcode.FUSE_CREATE, struct.pack("<IIII", os.O_RDWR | os.O_CREAT, 0o644, 0, 0) + b"new\0"),
    ):
        assert refused(guest, opcode, 1, arguments) == errno.EPERM
    assert not (root / "new").exists()
    assert guest.readdir(guest.opendir(), plus=True).keys() == {b".", b"..", b"file", b"folder", b"foreign"}


def test_files_of_the_server_s_user_are_root_s_in_the_guest(serve: Serve, root: Path) -> None:
    """Also where we are no root: to give root what it has is no change."""
    guest = serve(map_uid=f"0:{os.geteuid()}:1", map_gid=f"0:{os.getegid()}:1")
    guest.uid = guest.gid = 0
    node, _ = guest.create(b"file")
    changed = setattr_(guest, node, FuseSetattr.FATTR_UID | FuseSetattr.FATTR_GID, uid=0, gid=0)
    assert (changed.uid, changed.gid) == (0, 0)
    assert (root / "file").stat().st_uid == os.geteuid()
