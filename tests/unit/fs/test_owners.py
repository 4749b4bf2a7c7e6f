"""Owners and modes that are kept in an attribute, mapped attributes with their ACLs, security contexts at creation."""

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

from subos_devices.fs import acl
from subos_devices.fs.creation import contexts
from subos_devices.fs.kept import Kept, parse
from subos_protocol.fuse import (
    FUSE_CREATE_IN,
    FUSE_DIRENT,
    FUSE_ENTRY_OUT,
    FUSE_GETXATTR_OUT,
    FUSE_READ_IN,
    FUSE_STATX_IN,
    FUSE_STATX_OUT,
    FUSE_WRITE_IN,
    fuse_attr_out,
    fuse_entry_out,
)
from subos_protocol.fuse_opcodes import FUSE_WRITE_KILL_SUIDGID, FuseInit, FuseOpcode, FuseSetattr
from support.contained import contained
from support.fuse_requests import FRAMINGS, Framing, Guest, Refused

from .conftest import Serve
from .test_acl import BYTES, ENTRIES
from .test_hostile import check_outside, check_reply, requests, share
from .test_operations import as_root, make, mkdir, refused, setattr_

STAT = "user.subos.stat"
OWNER = FuseSetattr.FATTR_UID | FuseSetattr.FATTR_GID
MAPPED = {"xattr": "mapped"}
KEPT = {"ownership": "xattr"}


def mknod(guest: Guest, name: bytes, mode: int, device: int = 0, umask: int = 0) -> fuse_entry_out:
    return make(guest, FuseOpcode.FUSE_MKNOD, struct.pack("<IIII", mode, device, umask, 0) + name + b"\0")


def set_xattr(guest: Guest, node: int, name: bytes, value: bytes, extra: int = 0) -> int:
    body = struct.pack("<IIII", len(value), 0, extra, 0) + name + b"\0" + value
    return guest.ask(FuseOpcode.FUSE_SETXATTR, node, body).error


def get_xattr(guest: Guest, node: int, name: bytes) -> bytes:
    return guest.ask(FuseOpcode.FUSE_GETXATTR, node, struct.pack("<II", 300, 0) + name + b"\0", data_room=300).body


def list_xattrs(guest: Guest, node: int) -> set[bytes]:
    size = FUSE_GETXATTR_OUT.unpack(guest.ask(FuseOpcode.FUSE_LISTXATTR, node, bytes(8), room=8).body).size
    if not size:
        return set()
    answer = guest.ask(FuseOpcode.FUSE_LISTXATTR, node, struct.pack("<II", size, 0), data_room=size).body
    return set(answer.split(b"\0")) - {b""}


def owner(attributes: fuse_attr_out | fuse_entry_out) -> tuple[int, int, int]:
    return attributes.uid, attributes.gid, attributes.mode


def is_ours(path: Path) -> bool:
    """On the host: no file but a plain one of the server's, with nothing set that another could use."""
    there = path.lstat()
    kind = stat.S_ISREG(there.st_mode) or stat.S_ISDIR(there.st_mode)
    return kind and there.st_uid == os.geteuid() and not there.st_mode & 0o7000 and there.st_mode & 0o600 == 0o600


# --- ownership=xattr


@pytest.mark.parametrize("framing", FRAMINGS, ids=str)
def test_owners_and_modes_are_the_guest_s(serve: Serve, root: Path, framing: Framing) -> None:
    guest = serve(framing, **KEPT)
    guest.uid, guest.gid = 1234, 55
    node, handle = guest.create(b"file", mode=0o100400)
    assert owner(guest.getattr(node)) == (1234, 55, 0o100400)
    assert os.getxattr(root / "file", STAT) == b"1234 55 100400 0:0"
    assert guest.write(node, handle, b"written") == 7
    changed = setattr_(guest, node, FuseSetattr.FATTR_MODE, mode=0o106711)
    assert owner(changed) == (1234, 55, 0o106711)
    changed = setattr_(guest, node, OWNER, uid=0, gid=1)
    assert owner(changed) == (0, 1, 0o100711)  # suid and sgid went with the owner
    folder = mkdir(guest, b"folder", mode=0o1000)
    assert owner(guest.lookup(b"folder")) == (1234, 55, 0o041000)
    guest.create(b"inside", folder)
    assert is_ours(root / "file")
    assert is_ours(root / "folder")
    assert is_ours(root / "folder/inside")
    again = serve(framing, **KEPT)
    assert owner(again.lookup(b"file")) == (0, 1, 0o100711)
    assert owner(again.lookup(b"folder")) == (1234, 55, 0o041000)


@pytest.mark.parametrize(
    ("mode", "device"),
    [(stat.S_IFCHR, 0x0000_0103), (stat.S_IFBLK, 0xFFF0_FFFF), (stat.S_IFIFO, 0), (stat.S_IFSOCK, 0)],
)
def test_special_files_are_names_for_the_host(serve: Serve, root: Path, mode: int, device: int) -> None:
    guest = serve(**KEPT)
    made = mknod(guest, b"special", mode | 0o640, device)
    assert (made.mode, made.rdev, made.size) == (mode | 0o640, device, 0)
    assert is_ours(root / "special")
    assert (root / "special").read_bytes() == b""
    for attributes in (guest.getattr(made.nodeid), guest.lookup(b"special"), statx(guest, made.nodeid)):
        assert (attributes.mode, attributes.rdev) == (mode | 0o640, device)
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_TRUNC):
        with pytest.raises(Refused) as caught:
            guest.open(made.nodeid, flags)
        assert caught.value.errno == errno.ENXIO
    with pytest.raises(Refused) as caught:
        setattr_(guest, made.nodeid, FuseSetattr.FATTR_SIZE, size=5)
    assert caught.value.errno == errno.ENXIO
    body = FUSE_CREATE_IN.struct.pack(os.O_RDWR | os.O_CREAT, 0o644, 0, 0) + b"special\0"
    assert refused(guest, FuseOpcode.FUSE_CREATE, 1, body) == errno.ENXIO
    changed = setattr_(guest, made.nodeid, FuseSetattr.FATTR_MODE, mode=0o600)
    assert (changed.mode, changed.rdev) == (mode | 0o600, device)
    handle = guest.opendir()
    assert guest.readdir(handle)[b"special"][2] == 0  # of a type that is left open
    assert guest.readdir(handle, plus=True)[b"special"][2] == mode >> 12


def statx(guest: Guest, node: int) -> fuse_attr_out:
    """What STATX says, as far as it is about owners."""
    body = FUSE_STATX_IN.struct.pack(0, 0, 0, 0, 0x7FF)
    answer = guest.ask(FuseOpcode.FUSE_STATX, node, body, room=FUSE_STATX_OUT.size).body[-256:]
    uid, gid, mode = struct.unpack_from("<IIH", answer, 20)
    major, minor = struct.unpack_from("<II", answer, 128)
    fields = dict.fromkeys(fuse_attr_out._fields, 0)
    return fuse_attr_out(**fields | {"uid": uid, "gid": gid, "mode": mode, "rdev": os.makedev(major, minor)})


def test_every_reply_shows_owners(serve: Serve, root: Path) -> None:
    (root / "file").write_bytes(b"")
    os.setxattr(root / "file", STAT, b"7 8 104755 0:0")
    expected = (7, 8, 0o104755)
    guest = serve(**KEPT)
    looked = guest.lookup(b"file")
    assert owner(looked) == owner(guest.getattr(looked.nodeid)) == owner(statx(guest, looked.nodeid)) == expected
    linked = make(guest, FuseOpcode.FUSE_LINK, struct.pack("<Q", looked.nodeid) + b"link\0")
    assert owner(linked) == expected
    body = FUSE_READ_IN.struct.pack(guest.opendir(), 0, 4096, 0, 0, 0, 0)
    reply = guest.ask(FuseOpcode.FUSE_READDIRPLUS, 1, body, data_room=4096).body
    found = {}
    while reply:
        entry, dirent = FUSE_ENTRY_OUT.unpack(reply), FUSE_DIRENT.unpack(reply, FUSE_ENTRY_OUT.size)
        start = FUSE_ENTRY_OUT.size + FUSE_DIRENT.size
        found[reply[start : start + dirent.namelen]] = entry
        reply = reply[start + dirent.namelen + 7 & ~7 :]
    assert owner(found[b"file"]) == owner(found[b"link"]) == expected


def test_what_the_host_made_is_shown_as_it_is(serve: Serve, root: Path) -> None:
    (root / "file").write_bytes(b"")
    (root / "file").chmod(0o444)
    os.mkfifo(root / "fifo", 0o644)
    guest = serve(map_uid=f"0:{os.geteuid()}:1", map_gid=f"9:{os.getegid()}:1", **KEPT)
    node = guest.lookup(b"file").nodeid
    assert owner(guest.getattr(node)) == (0, 9, 0o100444)
    assert owner(setattr_(guest, node, FuseSetattr.FATTR_MODE, mode=0o400)) == (0, 9, 0o100400)
    fifo = guest.lookup(b"fifo")
    assert stat.S_ISFIFO(fifo.mode)
    with pytest.raises(Refused):
        setattr_(guest, fifo.nodeid, FuseSetattr.FATTR_MODE, mode=0o777)


def test_maps_are_kept_to(serve: Serve, root: Path) -> None:
    """What is kept is what would come back: squashed users are one, and forbidden ones are refused."""
    guest = serve(map_uid="squash:0:5000:100,forbid:200:1", **KEPT)
    guest.uid = 42
    node, _ = guest.create(b"file")
    assert guest.getattr(node).uid == 0
    assert os.getxattr(root / "file", STAT).startswith(b"0 ")
    for uid in (200, 300):
        with pytest.raises(Refused):
            setattr_(guest, node, FuseSetattr.FATTR_UID, uid=uid)
        guest.uid = uid
        body = struct.pack("<II", 0o755, 0) + b"new\0"
        assert refused(guest, FuseOpcode.FUSE_MKDIR, 1, body) == errno.EPERM
    assert not (root / "new").exists()


def test_the_attribute_is_hidden(serve: Serve, root: Path) -> None:
    guest = serve(**KEPT)
    node, _ = guest.create(b"file")
    for name in (STAT.encode(), b"user.subos.security.x", b"user.subos."):
        assert set_xattr(guest, node, name, b"0 0 104777 0:0") == errno.EPERM
        assert guest.ask(FuseOpcode.FUSE_REMOVEXATTR, node, name + b"\0").error == errno.EPERM
        with pytest.raises(Refused) as caught:
            get_xattr(guest, node, name)
        assert caught.value.errno == errno.ENODATA
    assert list_xattrs(guest, node) == set()
    assert set_xattr(guest, node, b"user.own", b"1") == 0
    assert list_xattrs(guest, node) == {b"user.own"}
    assert os.listxattr(root / "file").count(STAT) == 1


def test_a_writer_who_is_not_the_owner_takes_suid(serve: Serve, root: Path) -> None:
    guest = serve(**KEPT)
    node, handle = guest.create(b"file")
    setattr_(guest, node, FuseSetattr.FATTR_MODE, mode=0o6755)
    guest.write(node, handle, b"x")
    assert guest.getattr(node).mode == 0o106755
    guest.write(node, handle, b"x", flags=FUSE_WRITE_KILL_SUIDGID)
    assert guest.getattr(node).mode == 0o100755
    setattr_(guest, node, FuseSetattr.FATTR_MODE, mode=0o2745)
    setattr_(guest, node, FuseSetattr.FATTR_SIZE | FuseSetattr.FATTR_KILL_SUIDGID, size=0)
    assert guest.getattr(node).mode == 0o102745  # sgid without group execution is no privilege


def test_setgid_folders_and_umask(serve: Serve) -> None:
    guest = serve(**KEPT)
    guest.uid, guest.gid = 10, 20
    folder = mkdir(guest, b"folder", mode=0o775)
    setattr_(guest, folder, OWNER | FuseSetattr.FATTR_MODE, uid=10, gid=99, mode=0o2775)
    inside = mkdir(guest, b"inside", folder, mode=0o755)
    assert owner(guest.getattr(inside)) == (10, 99, 0o042755)
    file, _ = guest.create(b"file", inside)
    assert owner(guest.getattr(file)) == (10, 99, 0o100644)
    assert mknod(guest, b"fifo", stat.S_IFIFO | 0o666, umask=0o027).mode == stat.S_IFIFO | 0o640


def test_symlinks_are_the_host_s(serve: Serve, root: Path) -> None:
    guest = serve(**KEPT)
    guest.uid = 1234
    link = make(guest, FuseOpcode.FUSE_SYMLINK, b"link\0nowhere\0")
    assert link.uid == os.geteuid()
    assert setattr_(guest, link.nodeid, OWNER, uid=5, gid=5).uid == os.geteuid()
    assert os.readlink(root / "link") == "nowhere"


def test_files_without_a_name(serve: Serve) -> None:
    guest = serve(**KEPT)
    guest.uid, guest.gid = 3, 4
    body = FUSE_CREATE_IN.struct.pack(os.O_RDWR, 0o640, 0, 0) + b"x\0"
    made = FUSE_ENTRY_OUT.unpack(guest.ask(FuseOpcode.FUSE_TMPFILE, 1, body, room=144).body)
    assert owner(made) == (3, 4, 0o100640)
    assert owner(guest.getattr(made.nodeid)) == (3, 4, 0o100640)


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"0", b"0 0 100644", b"0 0 100644 0:0\n", b" 0 0 100644 0:0", b"0 0 100644 0:0 ", b"00 0 100644 0:0"),
        *(b"0 0 0100644 0:0", b"0 0 644 0:0", b"0 0 100648 0:0", b"0 0 120777 0:0", b"0 0 40755 0:0"),
        *(b"-1 0 100644 0:0", b"4294967295 0 100644 0:0", b"0 99999999999 100644 0:0", b"0 0 20644 4096:0"),
        *(b"0 0 20644 1:1048576", b"0 0 170644 0:0", b"0 0 777777 0:0", b"\xd9\xa3 0 100644 0:0"),
        *(b"0 0 100644 0:0\0", b"0 0 100644 0:00"),
    ],
)
def test_a_line_that_is_not_ours_counts_for_nothing(serve: Serve, root: Path, line: bytes) -> None:
    (root / "file").write_bytes(b"content")
    (root / "file").chmod(0o640)
    os.setxattr(root / "file", STAT, line)
    guest = serve(**KEPT)
    assert parse(line, stat.S_IFREG) is None
    node = guest.lookup(b"file")
    assert owner(node) == (os.geteuid(), os.getegid(), 0o100640)
    assert guest.read(node.nodeid, guest.open(node.nodeid), 100) == b"content"
    setattr_(guest, node.nodeid, FuseSetattr.FATTR_MODE, mode=0o600)
    assert os.getxattr(root / "file", STAT) == b"%d %d 100600 0:0" % (os.geteuid(), os.getegid())


def test_a_folder_stays_a_folder() -> None:
    for line in (b"0 0 100644 0:0", b"0 0 20644 1:3", b"0 0 120777 0:0"):
        assert parse(line, stat.S_IFDIR | 0o755) is None
    assert parse(b"1 2 41777 0:0", stat.S_IFDIR | 0o755) == Kept(1, 2, 0o041777)
    assert parse(b"1 2 20644 1:3", stat.S_IFREG) == Kept(1, 2, 0o020644, os.makedev(1, 3))
    assert parse(b"1 2 20644 1:3", stat.S_IFIFO) is None


@given(
    st.binary(max_size=60)
    | st.from_regex(rb"\A\d{1,11} \d{1,11} [0-7]{1,7} \d{1,5}:\d{1,8}\Z")
    | st.builds(
        lambda *values: b"%d %d %o %d:%d" % values, *[st.integers(0, 1 << 32)] * 2, *[st.integers(0, 1 << 17)] * 3
    ),
    st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO]),
)
def test_any_line_is_ours_or_nothing(line: bytes, kind: int) -> None:
    kept = parse(line, kind)
    if kept is not None:
        assert kept.pack() == line
        assert stat.S_ISDIR(kept.mode) == (kind == stat.S_IFDIR)
        assert not stat.S_ISLNK(kept.mode)


# --- xattr=mapped


@pytest.mark.parametrize("options", [MAPPED, KEPT, MAPPED | KEPT], ids=str)
def test_mapped_attributes(serve: Serve, root: Path, options: dict[str, str]) -> None:
    guest = serve(**options)
    assert guest.init().flags & FuseInit.FUSE_POSIX_ACL
    node, _ = guest.create(b"file")
    names = {b"security.capability": b"caps", b"trusted.overlay.opaque": b"y", b"user.plain": b"1"}
    for name, value in names.items():
        assert set_xattr(guest, node, name, value) == 0
        assert get_xattr(guest, node, name) == value
    assert list_xattrs(guest, node) == names.keys()
    there = set(os.listxattr(root / "file")) - {STAT}
    assert there == {"user.subos.security.capability", "user.subos.trusted.overlay.opaque", "user.plain"}
    assert guest.ask(FuseOpcode.FUSE_REMOVEXATTR, node, b"security.capability\0").error == 0
    assert list_xattrs(guest, node) == names.keys() - {b"security.capability"}
    for name in (b"system.nfs4_acl", b"btrfs.x", b"userx"):
        assert set_xattr(guest, node, name, b"") == errno.EOPNOTSUPP
    os.setxattr(root / "file", "user.subos.user.sneaky", b"")
    os.setxattr(root / "file", "user.subos.subos", b"")
    assert list_xattrs(guest, node) == names.keys() - {b"security.capability"}


@pytest.mark.parametrize("options", [MAPPED, KEPT], ids=str)
def test_mapped_acls(serve: Serve, root: Path, options: dict[str, str]) -> None:
    guest = serve(**options)
    node, _ = guest.create(b"file", mode=0o640)
    assert set_xattr(guest, node, acl.ACCESS, BYTES) == 0
    assert guest.getattr(node).mode == 0o100670
    assert get_xattr(guest, node, acl.ACCESS) == BYTES
    assert list_xattrs(guest, node) == {acl.ACCESS}
    assert setattr_(guest, node, FuseSetattr.FATTR_MODE, mode=0o604).mode == 0o100604
    assert get_xattr(guest, node, acl.ACCESS) == acl.pack(acl.with_mode(ENTRIES, 0o604))
    minimal = acl.pack([entry for entry in ENTRIES if entry.tag in (1, 4, 32)])
    assert set_xattr(guest, node, acl.ACCESS, minimal) == 0
    assert guest.getattr(node).mode == 0o100640
    assert list_xattrs(guest, node) == set()
    setattr_(guest, node, FuseSetattr.FATTR_MODE, mode=0o2770)
    assert set_xattr(guest, node, acl.ACCESS, BYTES, extra=1) == 0  # by one who is not of the group
    assert guest.getattr(node).mode == 0o100670
    assert guest.ask(FuseOpcode.FUSE_REMOVEXATTR, node, acl.ACCESS + b"\0").error == 0
    assert set_xattr(guest, node, acl.ACCESS, BYTES[:-3]) == errno.EINVAL
    assert set_xattr(guest, node, acl.DEFAULT, BYTES) == errno.EACCES
    link = make(guest, FuseOpcode.FUSE_SYMLINK, b"link\0file\0").nodeid
    assert set_xattr(guest, link, acl.ACCESS, BYTES) == errno.EOPNOTSUPP


@pytest.mark.parametrize("options", [MAPPED, KEPT], ids=str)
def test_default_acls_are_inherited(serve: Serve, root: Path, options: dict[str, str]) -> None:
    """In place of the umask, by files and folders and all that is in those."""
    guest = serve(**options)
    folder = mkdir(guest, b"folder")
    assert set_xattr(guest, folder, acl.DEFAULT, BYTES) == 0
    body = struct.pack("<IIII", os.O_RDWR | os.O_CREAT, 0o666, 0o077, 0) + b"file\0"
    made = FUSE_ENTRY_OUT.unpack(guest.ask(FuseOpcode.FUSE_CREATE, folder, body, room=144).body)
    mode, entries = acl.inherited(ENTRIES, 0o100666)
    assert made.mode == mode == 0o100660
    assert get_xattr(guest, made.nodeid, acl.ACCESS) == acl.pack(entries)
    sub = mkdir(guest, b"sub", folder, mode=0o777)
    assert get_xattr(guest, sub, acl.DEFAULT) == BYTES
    assert guest.getattr(sub).mode & 0o777 == 0o670
    fifo = struct.pack("<IIII", stat.S_IFIFO | 0o666, 0, 0o077, 0) + b"fifo\0"
    if options == KEPT:  # else there is nothing to keep the ACL in
        assert make(guest, FuseOpcode.FUSE_MKNOD, fifo, sub).mode == stat.S_IFIFO | 0o660
    else:
        assert refused(guest, FuseOpcode.FUSE_MKNOD, sub, fifo) == errno.EPERM
        assert os.listdir(root / "folder/sub") == []
    assert guest.ask(FuseOpcode.FUSE_REMOVEXATTR, folder, acl.DEFAULT + b"\0").error == 0
    body = struct.pack("<IIII", os.O_RDWR | os.O_CREAT, 0o666, 0o077, 0) + b"masked\0"
    made = FUSE_ENTRY_OUT.unpack(guest.ask(FuseOpcode.FUSE_CREATE, folder, body, room=144).body)
    assert made.mode == 0o100600


def test_a_default_acl_that_the_host_spoilt(serve: Serve, root: Path) -> None:
    guest = serve(**MAPPED)
    folder = mkdir(guest, b"folder")
    os.setxattr(root / "folder", "user.subos.system.posix_acl_default", BYTES[:-1])
    file, _ = guest.create(b"file", folder, mode=0o604)
    assert guest.getattr(file).mode == 0o100604


@as_root
def test_ids_in_the_host_s_own_acls_are_mapped(serve: Serve, root: Path) -> None:
    (root / "file").write_bytes(b"")
    guest = serve(map_uid="0:0:10,1000:2000:1", map_gid="0:0:100")
    node = guest.lookup(b"file").nodeid
    if not guest.init().flags & FuseInit.FUSE_POSIX_ACL:
        pytest.skip("no ACLs on this file system")
    node = guest.lookup(b"file").nodeid
    assert set_xattr(guest, node, acl.ACCESS, BYTES) == 0
    there = acl.parse(os.getxattr(root / "file", acl.ACCESS))
    assert [entry.id for entry in there if entry.tag in (2, 8)] == [2000, 50]
    assert get_xattr(guest, node, acl.ACCESS) == BYTES


# --- security contexts

CONTEXT = b"system_u:object_r"
# By hand after struct fuse_secctx_header and fuse_secctx of linux/fuse.h: 56 bytes with one context of 17.
EXTENSION = bytes.fromhex("38000000 01000000 11000000 00000000") + b"security.selinux\0" + CONTEXT + bytes(6)
GROUPS = bytes.fromhex("10000000 20000000 01000000 05000000")  # fuse_ext_header of FUSE_EXT_GROUPS, one group
LABELLED = {"xattr": "mapped", "security_label": "yes"}


def test_bytes_of_contexts() -> None:
    assert contexts(b"") == []
    assert contexts(EXTENSION) == [(b"security.selinux", CONTEXT)]
    assert contexts(GROUPS + EXTENSION + GROUPS) == [(b"security.selinux", CONTEXT)]
    assert contexts(bytes.fromhex("0800000000000000")) == []
    two = bytes.fromhex("28000000 02000000") + 2 * (bytes.fromhex("01000000 00000000") + b"s.a\0x" + bytes(3))
    assert contexts(two) == [(b"s.a", b"x"), (b"s.a", b"x")]


REQUESTS: list[tuple[int, Callable[[bytes], bytes]]] = [
    (FuseOpcode.FUSE_CREATE, lambda name: struct.pack("<IIII", os.O_RDWR | os.O_CREAT, 0o644, 0, 0) + name + b"\0"),
    (FuseOpcode.FUSE_MKDIR, lambda name: struct.pack("<II", 0o755, 0) + name + b"\0"),
    (FuseOpcode.FUSE_MKNOD, lambda name: struct.pack("<IIII", stat.S_IFREG | 0o644, 0, 0, 0) + name + b"\0"),
    (FuseOpcode.FUSE_SYMLINK, lambda name: name + b"\0nowhere\0"),
    (FuseOpcode.FUSE_TMPFILE, lambda name: struct.pack("<IIII", os.O_RDWR, 0o644, 0, 0) + name + b"\0"),
]


@pytest.mark.parametrize("framing", FRAMINGS, ids=str)
@pytest.mark.parametrize("options", [LABELLED, LABELLED | KEPT], ids=str)
def test_what_is_made_has_its_context(serve: Serve, root: Path, framing: Framing, options: dict[str, str]) -> None:
    guest = serve(framing, **options)
    assert guest.init().flags2 << 32 & FuseInit.FUSE_SECURITY_CTX
    for opcode, arguments in REQUESTS:
        name = b"made-%d" % opcode
        reply = guest.ask(opcode, 1, arguments(name), room=144, extensions=GROUPS + EXTENSION).body
        node = FUSE_ENTRY_OUT.unpack(reply).nodeid
        if opcode == FuseOpcode.FUSE_SYMLINK:  # which has nothing to keep it in
            assert os.readlink(root / os.fsdecode(name)) == "nowhere"
        else:
            assert get_xattr(guest, node, b"security.selinux") == CONTEXT
    assert guest.ask(FuseOpcode.FUSE_MKDIR, 1, REQUESTS[1][1](b"plain"), room=144).error == 0
    assert "user.subos.security.selinux" not in os.listxattr(root / "plain")


@pytest.mark.parametrize("options", [LABELLED, LABELLED | KEPT], ids=str)
def test_what_cannot_have_its_context_is_not_made(serve: Serve, root: Path, options: dict[str, str]) -> None:
    guest = serve(**options)
    bad = EXTENSION.replace(b"security.selinux", b"user.subos.stat!")
    for opcode, arguments in REQUESTS:
        error = guest.ask(opcode, 1, arguments(b"made"), room=144, extensions=bad).error
        assert error == (0 if opcode == FuseOpcode.FUSE_SYMLINK else errno.EPERM)
    assert os.listdir(root) == ["made"]  # the symlink
    assert refused(guest, FuseOpcode.FUSE_UNLINK, 1, b"made\0") == 0
    node, handle = guest.create(b"file")
    assert guest.write(node, handle, b"x") == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:8],  # a header that says more
        lambda data: b"\x07" + data[1:],  # not even a header
        lambda data: b"\x39" + data[1:],  # beyond the end
        lambda data: b"\x37" + data[1:],  # not a multiple of 8
        lambda data: data[:4] + b"\x02" + data[5:],  # one more context than there is
        lambda data: data[:4] + b"\x00" + data[5:],  # a context that is not counted
        lambda data: data[:8] + b"\xff" + data[9:],  # a value beyond the end
        lambda data: data[:16] + b"x" * 40,  # a name without an end
        lambda data: data[:16] + b"\0" + data[17:],  # no name
    ],
)
def test_contexts_that_are_none(serve: Serve, root: Path, change: Callable[[bytes], bytes]) -> None:
    guest = serve(**LABELLED)
    for opcode, arguments in REQUESTS:
        reply = guest.ask(opcode, 1, arguments(b"made"), room=144, extensions=change(EXTENSION))
        assert reply.error == errno.EINVAL
    assert os.listdir(root) == []


def test_extensions_that_are_longer_than_the_request(serve: Serve, root: Path) -> None:
    guest = serve(**LABELLED)
    arguments = REQUESTS[1][1](b"name")
    header = struct.pack("<IIQQIIIHH", 40 + len(arguments), FuseOpcode.FUSE_MKDIR, 2, 1, 0, 0, 0, 0xFFFF, 0)
    assert guest.submit([header, arguments], [16, 144]).error == errno.EINVAL
    assert os.listdir(root) == []


@given(st.binary(max_size=100) | st.binary(max_size=48).map(lambda data: EXTENSION[:8] + data.ljust(48, b"\0")))
def test_any_extensions_are_parsed_or_refused(data: bytes) -> None:
    try:
        found = contexts(data)
    except OSError as refusal:
        number = refusal.errno
        found = []
    else:
        number = errno.EINVAL
    assert number == errno.EINVAL
    assert all(name and b"\0" not in name for name, _ in found)


# --- a guest that means harm


@pytest.mark.parametrize("options", [KEPT | {"security_label": True}, MAPPED | {"map_uid": "0:0:1000"}], ids=str)
@contained
def test_random_requests(tmp_path: Path, options: dict[str, str | bool]) -> None:
    root, device, guest = share(tmp_path, **options)
    guest.uid = guest.gid = 0

    @settings(max_examples=300, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(requests, min_size=1, max_size=8), st.sampled_from([b"", EXTENSION, GROUPS, EXTENSION[:16]]))
    def attack(sequence: list[tuple[int, int, bytes, int]], extensions: bytes) -> None:
        for opcode, node, arguments, room in sequence:
            reply = guest.ask(opcode, node, arguments, room=room, extensions=extensions)
            check_reply(guest, reply, room)
        guest.init()
        check_outside(tmp_path)

    attack()
    if options.get("ownership"):
        for path in root.rglob("*"):
            assert path.is_symlink() or is_ours(path), path
    device.close()


@contained
def test_links_of_the_host_are_not_followed(tmp_path: Path) -> None:
    """Whatever is kept of a link's name is the link's own: nothing."""
    _, device, guest = share(tmp_path, ownership="xattr", map_uid=f"0:{os.geteuid()}:1")
    os.setxattr(tmp_path / "outside/secret", STAT, b"77 77 104777 0:0")
    found = guest.lookup(b"way to")
    assert stat.S_ISLNK(found.mode)
    assert found.uid == 0
    setattr_(guest, found.nodeid, OWNER, uid=0, gid=5)
    assert os.getxattr(tmp_path / "outside/secret", STAT) == b"77 77 104777 0:0"
    assert refused(guest, FuseOpcode.FUSE_SETXATTR, found.nodeid, struct.pack("<IIII", 1, 0, 0, 0) + b"user.x\0x")
    assert os.listxattr(tmp_path / "outside/secret") == [STAT]
    check_outside(tmp_path)
    device.close()


def test_a_device_of_the_guest_is_no_way_to_write(serve: Serve, root: Path) -> None:
    """A handle from before, when it was a file: the bytes go into the empty file, and nowhere else."""
    guest = serve(**KEPT)
    node, handle = guest.create(b"file")
    os.setxattr(root / "file", STAT, b"0 0 20666 1:3")  # as a host might, meanwhile
    body = FUSE_WRITE_IN.struct.pack(handle, 0, 1, 0, 0, 0, 0)
    assert guest.ask(FuseOpcode.FUSE_WRITE, node, body, data=b"x", room=8).error == 0
    with pytest.raises(Refused):
        guest.open(node)
