"""FUSE structures, as requests and replies carry them.

Source: Linux, include/uapi/linux/fuse.h, ABI 7.41; names and fields are the kernel's. Numbers are in
`fuse_opcodes.py`. The kernel writes them in the machine's own byte order; every machine we serve is little-endian.
A structure that ends in another one (`fuse_attr_out`, `fuse_entry_out`) is flattened, its attributes last.

A request is `fuse_in_header`, the opcode's structure, then names (each ended by NUL) or data.
A reply is `fuse_out_header`, then the opcode's structure or data; with an error it is the header alone.
"""

from __future__ import annotations

from typing import NamedTuple

from .wire import Layout


class fuse_in_header(NamedTuple):
    """Before every request. `len` is the whole request in bytes; `uid`, `gid` and `pid` are the caller's."""

    len: int
    opcode: int
    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int
    total_extlen: int
    padding: int


class fuse_out_header(NamedTuple):
    """Before every reply. `len` is the whole reply in bytes, `error` 0 or a negative errno, `unique` the request's."""

    len: int
    error: int
    unique: int


class fuse_init_in(NamedTuple):
    """FUSE_INIT; before ABI 7.36 it ended after `flags` (FUSE_INIT_SHORT)."""

    major: int
    minor: int
    max_readahead: int
    flags: int
    flags2: int
    unused: bytes


class fuse_init_out(NamedTuple):
    """Answer to FUSE_INIT. `max_write` in bytes, `time_gran` in nanoseconds, `max_pages` in pages."""

    major: int
    minor: int
    max_readahead: int
    flags: int
    max_background: int
    congestion_threshold: int
    max_write: int
    time_gran: int
    max_pages: int
    map_alignment: int
    flags2: int
    max_stack_depth: int
    unused: bytes


class fuse_attr(NamedTuple):
    """What stat tells. Times in seconds since the epoch (signed) and nanoseconds; `blocks` of 512 bytes."""

    ino: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int
    flags: int


class fuse_attr_out(NamedTuple):
    """Answer to FUSE_GETATTR and FUSE_SETATTR: how long the attributes are good for, and a `fuse_attr`."""

    attr_valid: int
    attr_valid_nsec: int
    dummy: int
    ino: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int
    flags: int


class fuse_entry_out(NamedTuple):
    """A node: answer to FUSE_LOOKUP and whatever makes a name. A `nodeid` of 0 means that there is none."""

    nodeid: int
    generation: int
    entry_valid: int
    attr_valid: int
    entry_valid_nsec: int
    attr_valid_nsec: int
    ino: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int
    flags: int


class fuse_forget_in(NamedTuple):
    nlookup: int


class fuse_batch_forget_in(NamedTuple):
    """Followed by `count` times fuse_forget_one."""

    count: int  # type: ignore[assignment]
    dummy: int


class fuse_forget_one(NamedTuple):
    nodeid: int
    nlookup: int


class fuse_getattr_in(NamedTuple):
    getattr_flags: int
    dummy: int
    fh: int


class fuse_setattr_in(NamedTuple):
    """`valid` (FuseSetattr) says which fields count. Times are signed seconds and nanoseconds."""

    valid: int
    padding: int
    fh: int
    size: int
    lock_owner: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    unused4: int
    uid: int
    gid: int
    unused5: int


class fuse_mknod_in(NamedTuple):
    """Followed by the name."""

    mode: int
    rdev: int
    umask: int
    padding: int


class fuse_mkdir_in(NamedTuple):
    """Followed by the name."""

    mode: int
    umask: int


class fuse_rename_in(NamedTuple):
    """Followed by the old name (in the header's node) and the new one (in `newdir`)."""

    newdir: int


class fuse_rename2_in(NamedTuple):
    """As fuse_rename_in, with renameat2's flags."""

    newdir: int
    flags: int
    padding: int


class fuse_link_in(NamedTuple):
    """Followed by the new name, in the header's node."""

    oldnodeid: int


class fuse_open_in(NamedTuple):
    """FUSE_OPEN and FUSE_OPENDIR. `flags` are open(2)'s."""

    flags: int
    open_flags: int


class fuse_create_in(NamedTuple):
    """FUSE_CREATE and FUSE_TMPFILE. Followed by the name."""

    flags: int
    mode: int
    umask: int
    open_flags: int


class fuse_ext_header(NamedTuple):
    """After the arguments of a request whose header has a `total_extlen` (in 8 bytes). `size` is in bytes, with this
    header and padding to 8; what follows is of `type` (FUSE_EXT_GROUPS, or fewer than 32: see below)."""

    size: int
    type: int


class fuse_secctx_header(NamedTuple):
    """A fuse_ext_header whose `type` is the number of contexts: followed by `nr_secctx` times fuse_secctx."""

    size: int
    nr_secctx: int


class fuse_secctx(NamedTuple):
    """One security context: followed by the attribute's name, NUL and `size` bytes of value, padded to 8 together."""

    size: int
    padding: int


class fuse_open_out(NamedTuple):
    """`fh` names the handle in later requests; `open_flags` are FuseOpened."""

    fh: int
    open_flags: int
    backing_id: int


class fuse_release_in(NamedTuple):
    fh: int
    flags: int
    release_flags: int
    lock_owner: int


class fuse_flush_in(NamedTuple):
    fh: int
    unused: int
    padding: int
    lock_owner: int


class fuse_read_in(NamedTuple):
    """FUSE_READ, FUSE_READDIR and FUSE_READDIRPLUS; `offset` of a directory is the last dirent's `off`."""

    fh: int
    offset: int
    size: int
    read_flags: int
    lock_owner: int
    flags: int
    padding: int


class fuse_write_in(NamedTuple):
    """Followed by `size` bytes of data."""

    fh: int
    offset: int
    size: int
    write_flags: int
    lock_owner: int
    flags: int
    padding: int


class fuse_write_out(NamedTuple):
    size: int
    padding: int


class fuse_statfs_out(NamedTuple):
    """struct fuse_kstatfs. Sizes of blocks in bytes."""

    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    bsize: int
    namelen: int
    frsize: int
    padding: int
    spare: bytes


class fuse_fsync_in(NamedTuple):
    fh: int
    fsync_flags: int
    padding: int


class fuse_setxattr_in(NamedTuple):
    """Long form, with FUSE_SETXATTR_EXT; else it ends after `flags` (FUSE_SETXATTR_SHORT). Then name, then value."""

    size: int
    flags: int
    setxattr_flags: int
    padding: int


class fuse_setxattr_in_short(NamedTuple):
    size: int
    flags: int


class fuse_getxattr_in(NamedTuple):
    """FUSE_GETXATTR (followed by the name) and FUSE_LISTXATTR. A `size` of 0 asks for the size."""

    size: int
    padding: int


class fuse_getxattr_out(NamedTuple):
    size: int
    padding: int


class fuse_lk_in(NamedTuple):
    """FUSE_GETLK, FUSE_SETLK and FUSE_SETLKW: its `fuse_file_lock` (start to pid) flattened.

    `owner` stands for who holds the lock: a process, or an open file. Bytes `start` to `end` inclusive, 2**63 - 1 for
    all that may ever follow; `type` is F_RDLCK, F_WRLCK or F_UNLCK. `lk_flags` may hold FUSE_LK_FLOCK.
    """

    fh: int
    owner: int
    start: int
    end: int
    type: int
    pid: int
    lk_flags: int
    padding: int


class fuse_lk_out(NamedTuple):
    """Answer to FUSE_GETLK: the `fuse_file_lock` that is in the way, or F_UNLCK as its `type`."""

    start: int
    end: int
    type: int
    pid: int


class fuse_access_in(NamedTuple):
    mask: int
    padding: int


class fuse_interrupt_in(NamedTuple):
    unique: int


class fuse_fallocate_in(NamedTuple):
    fh: int
    offset: int
    length: int
    mode: int
    padding: int


class fuse_dirent(NamedTuple):
    """One entry of FUSE_READDIR, followed by the name, padded to 8 bytes. `off` is where the next one is asked for."""

    ino: int
    off: int
    namelen: int
    type: int


class fuse_lseek_in(NamedTuple):
    fh: int
    offset: int
    whence: int
    padding: int


class fuse_lseek_out(NamedTuple):
    offset: int


class fuse_copy_file_range_in(NamedTuple):
    fh_in: int
    off_in: int
    nodeid_out: int
    fh_out: int
    off_out: int
    len: int
    flags: int


class fuse_syncfs_in(NamedTuple):
    padding: int


class fuse_statx_in(NamedTuple):
    getattr_flags: int
    reserved: int
    fh: int
    sx_flags: int
    sx_mask: int


class fuse_statx_out(NamedTuple):
    """`stat` is struct statx as the system call fills it, 256 bytes."""

    attr_valid: int
    attr_valid_nsec: int
    flags: int
    spare: bytes
    stat: bytes


_SIGNED_TIMES = "QQQqqq10I"

FUSE_IN_HEADER = Layout("<IIQQIIIHH", fuse_in_header)
FUSE_OUT_HEADER = Layout("<IiQ", fuse_out_header)
FUSE_INIT_IN = Layout("<5I44s", fuse_init_in)
FUSE_INIT_SHORT = 16  # bytes of fuse_init_in before ABI 7.36
FUSE_INIT_OUT = Layout("<4IHHIIHHII24s", fuse_init_out)
FUSE_ATTR = Layout("<" + _SIGNED_TIMES, fuse_attr)
FUSE_ATTR_OUT = Layout("<QII" + _SIGNED_TIMES, fuse_attr_out)
FUSE_ENTRY_OUT = Layout("<QQQQII" + _SIGNED_TIMES, fuse_entry_out)
FUSE_FORGET_IN = Layout("<Q", fuse_forget_in)
FUSE_BATCH_FORGET_IN = Layout("<II", fuse_batch_forget_in)
FUSE_FORGET_ONE = Layout("<QQ", fuse_forget_one)
FUSE_GETATTR_IN = Layout("<IIQ", fuse_getattr_in)
FUSE_SETATTR_IN = Layout("<IIQQQqqqIIIIIIII", fuse_setattr_in)
FUSE_MKNOD_IN = Layout("<IIII", fuse_mknod_in)
FUSE_MKDIR_IN = Layout("<II", fuse_mkdir_in)
FUSE_RENAME_IN = Layout("<Q", fuse_rename_in)
FUSE_RENAME2_IN = Layout("<QII", fuse_rename2_in)
FUSE_LINK_IN = Layout("<Q", fuse_link_in)
FUSE_OPEN_IN = Layout("<II", fuse_open_in)
FUSE_CREATE_IN = Layout("<IIII", fuse_create_in)
FUSE_EXT_HEADER = Layout("<II", fuse_ext_header)
FUSE_SECCTX_HEADER = Layout("<II", fuse_secctx_header)
FUSE_SECCTX = Layout("<II", fuse_secctx)
FUSE_OPEN_OUT = Layout("<QIi", fuse_open_out)
FUSE_RELEASE_IN = Layout("<QIIQ", fuse_release_in)
FUSE_FLUSH_IN = Layout("<QIIQ", fuse_flush_in)
FUSE_READ_IN = Layout("<QQIIQII", fuse_read_in)
FUSE_WRITE_IN = Layout("<QQIIQII", fuse_write_in)
FUSE_WRITE_OUT = Layout("<II", fuse_write_out)
FUSE_STATFS_OUT = Layout("<5Q4I24s", fuse_statfs_out)
FUSE_FSYNC_IN = Layout("<QII", fuse_fsync_in)
FUSE_SETXATTR_IN = Layout("<IIII", fuse_setxattr_in)
FUSE_SETXATTR_SHORT = Layout("<II", fuse_setxattr_in_short)
FUSE_GETXATTR_IN = Layout("<II", fuse_getxattr_in)
FUSE_GETXATTR_OUT = Layout("<II", fuse_getxattr_out)
FUSE_LK_IN = Layout("<4Q4I", fuse_lk_in)
FUSE_LK_OUT = Layout("<QQII", fuse_lk_out)
FUSE_ACCESS_IN = Layout("<II", fuse_access_in)
FUSE_INTERRUPT_IN = Layout("<Q", fuse_interrupt_in)
FUSE_FALLOCATE_IN = Layout("<QQQII", fuse_fallocate_in)
FUSE_DIRENT = Layout("<QQII", fuse_dirent)
FUSE_LSEEK_IN = Layout("<QQII", fuse_lseek_in)
FUSE_LSEEK_OUT = Layout("<Q", fuse_lseek_out)
FUSE_COPY_FILE_RANGE_IN = Layout("<7Q", fuse_copy_file_range_in)
FUSE_SYNCFS_IN = Layout("<Q", fuse_syncfs_in)
FUSE_STATX_IN = Layout("<IIQII", fuse_statx_in)
FUSE_STATX_OUT = Layout("<QII16s256s", fuse_statx_out)


ENTRY_ATTR = FUSE_ENTRY_OUT.size - FUSE_ATTR.size  # where a fuse_entry_out has its attributes
ATTR_ATTR = FUSE_ATTR_OUT.size - FUSE_ATTR.size
STATX_STAT = FUSE_STATX_OUT.size - 256


def fuse_dirent_size(namelen: int) -> int:
    """Bytes of one FUSE_READDIR entry, name and padding included."""
    return (FUSE_DIRENT.size + namelen + 7) & ~7


def fuse_direntplus_size(namelen: int) -> int:
    """Bytes of one FUSE_READDIRPLUS entry: a fuse_entry_out, then as FUSE_READDIR's."""
    return FUSE_ENTRY_OUT.size + fuse_dirent_size(namelen)
