"""POSIX ACLs: bytes as setfacl writes them, and what a file system makes of them."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subos_devices.fs import acl
from subos_devices.fs.acl import NO_ID, Entry, Tag

# What `setfacl -m u:1000:rw,g:50:x` made of a file of mode 0640 on ext4, read by getfattr -e hex.
BYTES = bytes.fromhex(
    "02000000 01000600ffffffff 02000600e8030000 04000400ffffffff 0800010032000000 10000700ffffffff 20000000ffffffff"
)
ENTRIES = [
    Entry(Tag.USER_OBJ, 6, NO_ID),
    Entry(Tag.USER, 6, 1000),
    Entry(Tag.GROUP_OBJ, 4, NO_ID),
    Entry(Tag.GROUP, 1, 50),
    Entry(Tag.MASK, 7, NO_ID),
    Entry(Tag.OTHER, 0, NO_ID),
]
MINIMAL = [Entry(Tag.USER_OBJ, 7, NO_ID), Entry(Tag.GROUP_OBJ, 5, NO_ID), Entry(Tag.OTHER, 1, NO_ID)]


def test_bytes_both_ways() -> None:
    assert acl.parse(BYTES) == ENTRIES
    assert acl.pack(ENTRIES) == BYTES
    assert acl.parse(bytes.fromhex("02000000")) == []


@pytest.mark.parametrize(
    ("change", "number"),
    [
        (lambda value: b"", errno.EINVAL),
        (lambda value: value[:3], errno.EINVAL),
        (lambda value: value[:-1], errno.EINVAL),
        (lambda value: value + bytes(8), errno.EINVAL),
        (lambda value: b"\1" + value[1:], errno.EOPNOTSUPP),
        (lambda value: value[:4] + value[12:], errno.EINVAL),  # no owner
        (lambda value: value[:-8], errno.EINVAL),  # no others
        (lambda value: value[:36] + value[44:], errno.EINVAL),  # no mask
        (lambda value: value[:4] + value[12:20] + value[4:12] + value[20:], errno.EINVAL),  # out of order
        (lambda value: value[:6] + b"\x08" + value[7:], errno.EINVAL),  # no such permission
        (lambda value: value[:16] + b"\xff" * 4 + value[20:], errno.EINVAL),  # of nobody
        (lambda value: value[:-8] + value[-8:] * 2, errno.EINVAL),  # others twice
    ],
)
def test_what_is_no_acl(change, number) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(OSError) as caught:
        acl.parse(change(BYTES))
    assert caught.value.errno == number


def test_the_mode_of_an_acl() -> None:
    assert acl.permissions(ENTRIES) == 0o670  # the group's bits are the mask
    assert acl.permissions(MINIMAL) == 0o751
    assert (acl.says_more(ENTRIES), acl.says_more(MINIMAL)) == (True, False)


def test_chmod_changes_the_mask() -> None:
    changed = acl.with_mode(ENTRIES, 0o415)
    assert [entry.perm for entry in changed] == [4, 6, 4, 1, 1, 5]
    assert acl.permissions(changed) == 0o415
    assert acl.permissions(acl.with_mode(MINIMAL, 0o640)) == 0o640


def test_inheritance() -> None:
    """What was asked for and what the default ACL says, both; the named ones stay, and the mask limits them."""
    mode, entries = acl.inherited(ENTRIES, 0o100646)
    assert mode == 0o100640
    assert [entry.perm for entry in entries] == [6, 6, 4, 1, 4, 0]
    mode, entries = acl.inherited(MINIMAL, 0o042777)
    assert (mode, acl.says_more(entries)) == (0o042751, False)


def test_ids_are_translated() -> None:
    changed = acl.translated(ENTRIES, lambda uid: uid + 1, lambda gid: gid + 2)
    assert [entry.id for entry in changed] == [NO_ID, 1001, NO_ID, 52, NO_ID, NO_ID]


named = st.lists(st.tuples(st.integers(0, 7), st.integers(0, NO_ID - 1)), max_size=5)


@given(named, named, st.tuples(*[st.integers(0, 7)] * 4), st.integers(0, 0o7777))
def test_every_acl(users, groups, perms, mode) -> None:  # type: ignore[no-untyped-def]
    entries = [
        Entry(Tag.USER_OBJ, perms[0], NO_ID),
        *(Entry(Tag.USER, perm, id) for perm, id in users),
        Entry(Tag.GROUP_OBJ, perms[1], NO_ID),
        *(Entry(Tag.GROUP, perm, id) for perm, id in groups),
        Entry(Tag.MASK, perms[2], NO_ID),
        Entry(Tag.OTHER, perms[3], NO_ID),
    ]
    assert acl.parse(acl.pack(entries)) == entries
    assert acl.permissions(acl.with_mode(entries, mode)) == mode & 0o777
    made, own = acl.inherited(entries, mode)
    assert made & 0o777 == acl.permissions(own) == mode & 0o777 & acl.permissions(entries)
    assert made & ~0o777 == mode & ~0o777


@given(st.binary(max_size=80).map(lambda rest: b"\2\0\0\0" + rest) | st.binary(max_size=80))
def test_any_bytes_are_an_acl_or_refused(value: bytes) -> None:
    try:
        entries = acl.parse(value)
    except OSError as error:
        number = error.errno
    else:
        number = 0
    assert number in (0, errno.EINVAL, errno.EOPNOTSUPP)
    if number:
        return
    assert acl.parse(acl.pack(entries)) == entries
    if entries:
        assert 0 <= acl.permissions(entries) <= 0o777
