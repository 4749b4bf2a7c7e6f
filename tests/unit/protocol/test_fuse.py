"""FUSE structures against bytes that a C program printed, built from linux/fuse.h (ABI 7.38) with these values."""

from __future__ import annotations

from typing import Any

import pytest

from subos_protocol import fuse
from subos_protocol.errors import Truncated
from subos_protocol.fuse_opcodes import FuseInit, FuseOpcode, FuseSetattr
from subos_protocol.wire import Layout

FROM_C: list[tuple[Layout[Any], tuple[Any, ...], str]] = [
    (
        fuse.FUSE_IN_HEADER,
        fuse.fuse_in_header(
            len=56,
            opcode=3,
            unique=0x1122334455667788,
            nodeid=7,
            uid=1000,
            gid=1001,
            pid=4242,
            total_extlen=0,
            padding=0,
        ),
        "3800000003000000 8877665544332211 0700000000000000 e8030000e9030000 9210000000000000",
    ),
    (
        fuse.FUSE_OUT_HEADER,
        fuse.fuse_out_header(len=16, error=-2, unique=0x1122334455667788),
        "10000000feffffff 8877665544332211",
    ),
    (
        fuse.FUSE_INIT_IN,
        fuse.fuse_init_in(major=7, minor=38, max_readahead=131072, flags=1946157051, flags2=13, unused=bytes(44)),
        (
            "0700000026000000 00000200fbffff73 0d00000000000000 0000000000000000 0000000000000000 0000000000000000"
            "0000000000000000 0000000000000000"
        ),
    ),
    (
        fuse.FUSE_INIT_OUT,
        fuse.fuse_init_out(
            major=7,
            minor=38,
            max_readahead=131072,
            flags=1884614697,
            max_background=65535,
            congestion_threshold=49152,
            max_write=1048576,
            time_gran=1,
            max_pages=256,
            map_alignment=0,
            flags2=16,
            max_stack_depth=0,
            unused=bytes(24),
        ),
        (
            "0700000026000000 0000020029f05470 ffff00c000001000 0100000000010000 1000000000000000 0000000000000000"
            "0000000000000000 0000000000000000"
        ),
    ),
    (fuse.FUSE_FORGET_IN, fuse.fuse_forget_in(nlookup=3), "0300000000000000"),
    (fuse.FUSE_BATCH_FORGET_IN, fuse.fuse_batch_forget_in(count=2, dummy=0), "0200000000000000"),
    (fuse.FUSE_FORGET_ONE, fuse.fuse_forget_one(nodeid=9, nlookup=4), "0900000000000000 0400000000000000"),
    (fuse.FUSE_GETATTR_IN, fuse.fuse_getattr_in(getattr_flags=1, dummy=0, fh=5), "0100000000000000 0500000000000000"),
    (
        fuse.FUSE_SETATTR_IN,
        fuse.fuse_setattr_in(
            valid=2281,
            padding=0,
            fh=5,
            size=4096,
            lock_owner=77,
            atime=1700000000,
            mtime=-1,
            ctime=0,
            atimensec=1,
            mtimensec=2,
            ctimensec=3,
            mode=33188,
            unused4=0,
            uid=1000,
            gid=1001,
            unused5=0,
        ),
        (
            "e908000000000000 0500000000000000 0010000000000000 4d00000000000000 00f1536500000000 ffffffffffffffff"
            "0000000000000000 0100000002000000 03000000a4810000 00000000e8030000 e903000000000000"
        ),
    ),
    (
        fuse.FUSE_MKNOD_IN,
        fuse.fuse_mknod_in(mode=4516, rdev=259, umask=18, padding=0),
        "a411000003010000 1200000000000000",
    ),
    (fuse.FUSE_MKDIR_IN, fuse.fuse_mkdir_in(mode=493, umask=18), "ed01000012000000"),
    (fuse.FUSE_RENAME_IN, fuse.fuse_rename_in(newdir=12), "0c00000000000000"),
    (fuse.FUSE_RENAME2_IN, fuse.fuse_rename2_in(newdir=12, flags=1, padding=0), "0c00000000000000 0100000000000000"),
    (fuse.FUSE_LINK_IN, fuse.fuse_link_in(oldnodeid=13), "0d00000000000000"),
    (fuse.FUSE_OPEN_IN, fuse.fuse_open_in(flags=33793, open_flags=1), "0184000001000000"),
    (
        fuse.FUSE_CREATE_IN,
        fuse.fuse_create_in(flags=32834, mode=33152, umask=18, open_flags=0),
        "4280000080810000 1200000000000000",
    ),
    (fuse.FUSE_OPEN_OUT, fuse.fuse_open_out(fh=6, open_flags=34, backing_id=0), "0600000000000000 2200000000000000"),
    (
        fuse.FUSE_RELEASE_IN,
        fuse.fuse_release_in(fh=6, flags=32768, release_flags=1, lock_owner=77),
        "0600000000000000 0080000001000000 4d00000000000000",
    ),
    (
        fuse.FUSE_FLUSH_IN,
        fuse.fuse_flush_in(fh=6, unused=0, padding=0, lock_owner=77),
        "0600000000000000 0000000000000000 4d00000000000000",
    ),
    (
        fuse.FUSE_READ_IN,
        fuse.fuse_read_in(fh=6, offset=8589934592, size=131072, read_flags=2, lock_owner=77, flags=32768, padding=0),
        "0600000000000000 0000000002000000 0000020002000000 4d00000000000000 0080000000000000",
    ),
    (
        fuse.FUSE_WRITE_IN,
        fuse.fuse_write_in(fh=6, offset=8589934592, size=4096, write_flags=4, lock_owner=77, flags=32769, padding=0),
        "0600000000000000 0000000002000000 0010000004000000 4d00000000000000 0180000000000000",
    ),
    (fuse.FUSE_EXT_HEADER, fuse.fuse_ext_header(size=40, type=32), "2800000020000000"),
    (fuse.FUSE_SECCTX_HEADER, fuse.fuse_secctx_header(size=48, nr_secctx=1), "3000000001000000"),
    (fuse.FUSE_SECCTX, fuse.fuse_secctx(size=17, padding=0), "1100000000000000"),
    (fuse.FUSE_WRITE_OUT, fuse.fuse_write_out(size=4096, padding=0), "0010000000000000"),
    (fuse.FUSE_FSYNC_IN, fuse.fuse_fsync_in(fh=6, fsync_flags=1, padding=0), "0600000000000000 0100000000000000"),
    (
        fuse.FUSE_SETXATTR_IN,
        fuse.fuse_setxattr_in(size=5, flags=2, setxattr_flags=1, padding=0),
        "0500000002000000 0100000000000000",
    ),
    (fuse.FUSE_GETXATTR_IN, fuse.fuse_getxattr_in(size=255, padding=0), "ff00000000000000"),
    (fuse.FUSE_GETXATTR_OUT, fuse.fuse_getxattr_out(size=5, padding=0), "0500000000000000"),
    (fuse.FUSE_ACCESS_IN, fuse.fuse_access_in(mask=4, padding=0), "0400000000000000"),
    (
        fuse.FUSE_LK_IN,
        fuse.fuse_lk_in(
            fh=5,
            owner=0x1122334455667788,
            start=10,
            end=0x7FFF_FFFF_FFFF_FFFF,
            type=1,
            pid=4242,
            lk_flags=1,
            padding=0,
        ),
        "0500000000000000 8877665544332211 0a00000000000000 ffffffffffffff7f 0100000092100000 0100000000000000",
    ),
    (
        fuse.FUSE_LK_OUT,
        fuse.fuse_lk_out(start=10, end=19, type=2, pid=4242),
        "0a00000000000000 1300000000000000 0200000092100000",
    ),
    (fuse.FUSE_INTERRUPT_IN, fuse.fuse_interrupt_in(unique=0x1122334455667788), "8877665544332211"),
    (
        fuse.FUSE_FALLOCATE_IN,
        fuse.fuse_fallocate_in(fh=6, offset=4096, length=8192, mode=3, padding=0),
        "0600000000000000 0010000000000000 0020000000000000 0300000000000000",
    ),
    (
        fuse.FUSE_DIRENT,
        fuse.fuse_dirent(ino=99, off=3, namelen=4, type=8),
        "6300000000000000 0300000000000000 0400000008000000",
    ),
    (
        fuse.FUSE_LSEEK_IN,
        fuse.fuse_lseek_in(fh=6, offset=4096, whence=4, padding=0),
        "0600000000000000 0010000000000000 0400000000000000",
    ),
    (fuse.FUSE_LSEEK_OUT, fuse.fuse_lseek_out(offset=8192), "0020000000000000"),
    (
        fuse.FUSE_COPY_FILE_RANGE_IN,
        fuse.fuse_copy_file_range_in(fh_in=6, off_in=1, nodeid_out=8, fh_out=9, off_out=2, len=100, flags=0),
        (
            "0600000000000000 0100000000000000 0800000000000000 0900000000000000 0200000000000000 6400000000000000"
            "0000000000000000"
        ),
    ),
    (fuse.FUSE_SYNCFS_IN, fuse.fuse_syncfs_in(padding=0), "0000000000000000"),
    (
        fuse.FUSE_ATTR,
        fuse.fuse_attr(
            ino=99,
            size=5000,
            blocks=16,
            atime=1700000000,
            mtime=1700000001,
            ctime=-5,
            atimensec=111,
            mtimensec=222,
            ctimensec=333,
            mode=33188,
            nlink=2,
            uid=1000,
            gid=1001,
            rdev=259,
            blksize=4096,
            flags=1,
        ),
        (
            "6300000000000000 8813000000000000 1000000000000000 00f1536500000000 01f1536500000000 fbffffffffffffff"
            "6f000000de000000 4d010000a4810000 02000000e8030000 e903000003010000 0010000001000000"
        ),
    ),
    (
        fuse.FUSE_ATTR_OUT,
        fuse.fuse_attr_out(
            attr_valid=1,
            attr_valid_nsec=500,
            dummy=0,
            ino=99,
            size=5000,
            blocks=16,
            atime=1700000000,
            mtime=1700000001,
            ctime=-5,
            atimensec=111,
            mtimensec=222,
            ctimensec=333,
            mode=33188,
            nlink=2,
            uid=1000,
            gid=1001,
            rdev=259,
            blksize=4096,
            flags=1,
        ),
        (
            "0100000000000000 f401000000000000 6300000000000000 8813000000000000 1000000000000000 00f1536500000000"
            "01f1536500000000 fbffffffffffffff 6f000000de000000 4d010000a4810000 02000000e8030000 e903000003010000"
            "0010000001000000"
        ),
    ),
    (
        fuse.FUSE_ENTRY_OUT,
        fuse.fuse_entry_out(
            nodeid=7,
            generation=3,
            entry_valid=1,
            attr_valid=2,
            entry_valid_nsec=10,
            attr_valid_nsec=20,
            ino=99,
            size=5000,
            blocks=16,
            atime=1700000000,
            mtime=1700000001,
            ctime=-5,
            atimensec=111,
            mtimensec=222,
            ctimensec=333,
            mode=33188,
            nlink=2,
            uid=1000,
            gid=1001,
            rdev=259,
            blksize=4096,
            flags=1,
        ),
        (
            "0700000000000000 0300000000000000 0100000000000000 0200000000000000 0a00000014000000 6300000000000000"
            "8813000000000000 1000000000000000 00f1536500000000 01f1536500000000 fbffffffffffffff 6f000000de000000"
            "4d010000a4810000 02000000e8030000 e903000003010000 0010000001000000"
        ),
    ),
    (
        fuse.FUSE_STATFS_OUT,
        fuse.fuse_statfs_out(
            blocks=1000,
            bfree=900,
            bavail=800,
            files=700,
            ffree=600,
            bsize=4096,
            namelen=255,
            frsize=512,
            padding=0,
            spare=bytes(24),
        ),
        (
            "e803000000000000 8403000000000000 2003000000000000 bc02000000000000 5802000000000000 00100000ff000000"
            "0002000000000000 0000000000000000 0000000000000000 0000000000000000"
        ),
    ),
]


@pytest.mark.parametrize(("layout", "message", "text"), FROM_C, ids=lambda value: getattr(value, "name", ""))
def test_bytes_of_the_kernel_header(layout: Layout[Any], message: tuple[Any, ...], text: str) -> None:
    data = bytes.fromhex(text)
    assert layout.pack(message) == data
    assert layout.unpack(data) == message
    with pytest.raises(Truncated):
        layout.unpack(data[:-1])


def test_every_layout_has_literal_bytes() -> None:
    layouts = {value.name for value in vars(fuse).values() if isinstance(value, Layout)}
    # Newer than ABI 7.38, or the first half of another one.
    elsewhere = {"fuse_statx_in", "fuse_statx_out", "fuse_setxattr_in_short"}
    assert layouts - elsewhere == {layout.name for layout, _, _ in FROM_C}


def test_short_setxattr_is_the_first_half_of_the_long_one() -> None:
    data = bytes.fromhex("05000000 02000000 01000000 00000000")
    assert fuse.FUSE_SETXATTR_SHORT.unpack(data) == fuse.fuse_setxattr_in_short(5, 2)
    assert fuse.FUSE_SETXATTR_SHORT.pack(fuse.fuse_setxattr_in_short(5, 2)) == data[:8]


def test_statx() -> None:
    """By hand, after struct fuse_statx_in and fuse_statx_out of ABI 7.39."""
    asked = bytes.fromhex("00000000 00000000 0500000000000000 00200000 ff0f0000")
    message = fuse.fuse_statx_in(0, 0, 5, 0x2000, 0xFFF)
    assert fuse.FUSE_STATX_IN.pack(message) == asked
    assert fuse.FUSE_STATX_IN.unpack(asked) == message
    answer = bytes.fromhex("0100000000000000 02000000 03000000") + bytes(16) + b"\xee" * 256
    out = fuse.fuse_statx_out(1, 2, 3, bytes(16), b"\xee" * 256)
    assert fuse.FUSE_STATX_OUT.unpack(answer) == out
    assert fuse.FUSE_STATX_OUT.pack(out) == answer


def test_a_directory_entry_is_padded_to_eight_bytes() -> None:
    assert [fuse.fuse_dirent_size(length) for length in (1, 8, 9, 255)] == [32, 32, 40, 280]
    assert fuse.fuse_direntplus_size(9) == 168


def test_numbers_of_the_kernel_header() -> None:
    assert FuseOpcode.FUSE_LOOKUP == 1
    assert FuseOpcode.FUSE_SYMLINK == 6
    assert FuseOpcode.FUSE_MKNOD == 8
    assert FuseOpcode.FUSE_RELEASE == 18
    assert FuseOpcode.FUSE_FSYNC == 20
    assert FuseOpcode.FUSE_BATCH_FORGET == 42
    assert FuseOpcode.FUSE_STATX == 52
    assert FuseOpcode(436207616) is FuseOpcode.FUSE_INIT_BSWAP_RESERVED
    assert FuseInit.FUSE_PARALLEL_DIROPS == 0x40000
    assert FuseInit.FUSE_MAX_PAGES == 0x400000
    assert FuseInit.FUSE_INIT_EXT == 0x40000000
    assert FuseInit.FUSE_DIRECT_IO_ALLOW_MMAP == 0x10_0000_0000
    assert FuseSetattr.FATTR_KILL_SUIDGID == 0x800


def test_every_opcode_of_this_machine_s_header_is_named() -> None:
    """The header of ABI 7.38 numbers 1 to 51 with these gaps; ours adds what came later."""
    assert {opcode for opcode in FuseOpcode if opcode < 4096} == set(range(1, 54)) - {7, 19}
