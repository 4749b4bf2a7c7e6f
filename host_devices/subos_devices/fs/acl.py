"""POSIX ACLs as extended attributes carry them, and what a local file system makes of them.

Source: Linux, include/uapi/linux/posix_acl_xattr.h (version 2) for the bytes; POSIX 1003.1e draft 17 §23 and
acl(5) for the meaning: the group class of the mode is the mask where there is one, a directory's default ACL is
what is made in it begins with, and then the umask counts for nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple

from subos_protocol.wire import Layout

ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
NAMES = (ACCESS, DEFAULT)
VERSION = 2
MOST = 8192  # entries: what 64 KiB, the longest attribute, hold
NO_ID = 0xFFFF_FFFF  # ACL_UNDEFINED_ID


class Tag(IntEnum):
    """posix_acl_xattr_entry.e_tag, in the order that entries come in."""

    USER_OBJ = 0x01  # the owner
    USER = 0x02  # one more user
    GROUP_OBJ = 0x04  # the owning group
    GROUP = 0x08  # one more group
    MASK = 0x10  # the most that all but owner and others get
    OTHER = 0x20  # everybody else


class Entry(NamedTuple):
    """posix_acl_xattr_entry. `perm` is of 4, 2, 1; `id` counts for USER and GROUP, and is ACL_UNDEFINED_ID else."""

    tag: int
    perm: int
    id: int


class _Header(NamedTuple):
    version: int


Acl = Sequence[Entry]

_HEADER = Layout("<I", _Header)
_ENTRY = Layout("<HHI", Entry)
_NAMED = (Tag.USER, Tag.GROUP)
_ONCE = (Tag.USER_OBJ, Tag.GROUP_OBJ, Tag.OTHER)


def parse(value: bytes) -> Acl:
    """The entries of an attribute's value, if they are a whole ACL; none for a value without entries, which takes an
    ACL away. Raises EINVAL, and EOPNOTSUPP for another version."""
    count, rest = divmod(len(value) - _HEADER.size, _ENTRY.size)
    if count < 0 or rest or count > MOST:
        raise _error(errno.EINVAL)
    if _HEADER.unpack(value).version != VERSION:
        raise _error(errno.EOPNOTSUPP)
    entries = [_ENTRY.unpack(value, _HEADER.size + index * _ENTRY.size) for index in range(count)]
    if entries:
        _check(entries)
    return [entry if entry.tag in _NAMED else entry._replace(id=NO_ID) for entry in entries]


def _check(entries: Acl) -> None:
    """Raises EINVAL. Entries come in the order of their tags, the three of the mode once, and a mask with any more."""
    tags = [entry.tag for entry in entries]
    wrong = (
        tags != sorted(tags)
        or not set(tags) <= set(Tag)
        or any(entry.perm & ~7 for entry in entries)
        or any(tags.count(tag) != 1 for tag in _ONCE)
        or tags.count(Tag.MASK) > 1
        or (Tag.MASK not in tags and not set(tags).isdisjoint(_NAMED))
        or any(entry.id == NO_ID for entry in entries if entry.tag in _NAMED)
    )
    if wrong:
        raise _error(errno.EINVAL)


def pack(entries: Acl) -> bytes:
    return _HEADER.pack(_Header(VERSION)) + b"".join(_ENTRY.pack(entry) for entry in entries)


def permissions(entries: Acl) -> int:
    """The nine bits of the mode that the ACL says."""
    perms = {entry.tag: entry.perm for entry in entries if entry.tag not in _NAMED}
    group = perms.get(Tag.MASK, perms[Tag.GROUP_OBJ])
    return perms[Tag.USER_OBJ] << 6 | group << 3 | perms[Tag.OTHER]


def says_more(entries: Acl) -> bool:
    """Whether there is more in it than a mode can say."""
    return len(entries) > len(_ONCE)


def with_mode(entries: Acl, mode: int) -> Acl:
    """The ACL after a chmod to `mode`, whose group bits are the mask's where there is one."""
    return _changed(entries, lambda _old, new: new, mode)


def inherited(default: Acl, mode: int) -> tuple[int, Acl]:
    """What is made with `mode` in a directory with the default ACL gets: the mode, and the access ACL. Both allow only
    what the default ACL and the mode that was asked for allow."""
    entries = _changed(default, lambda old, new: old & new, mode)
    return mode & ~0o777 | permissions(entries), entries


def translated(entries: Acl, users: Callable[[int], int], groups: Callable[[int], int]) -> Acl:
    """The ACL with other ids, in the order that it had."""
    to = {Tag.USER: users, Tag.GROUP: groups}
    return [e._replace(id=to[Tag(e.tag)](e.id)) if e.tag in _NAMED else e for e in entries]


def _changed(entries: Acl, change: Callable[[int, int], int], mode: int) -> Acl:
    group = Tag.MASK if any(entry.tag == Tag.MASK for entry in entries) else Tag.GROUP_OBJ
    bits = {Tag.USER_OBJ: mode >> 6 & 7, group: mode >> 3 & 7, Tag.OTHER: mode & 7}
    return [e._replace(perm=change(e.perm, bits[Tag(e.tag)])) if e.tag in bits else e for e in entries]


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
