"""FUSE numbers: opcodes, notification codes and flags, by their kernel names.

Source: Linux, include/uapi/linux/fuse.h, ABI 7.45; everything is in its comments and enumerations:
https://github.com/torvalds/linux/blob/master/include/uapi/linux/fuse.h. `fuse.py` holds the structures.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

FUSE_KERNEL_VERSION = 7  # major; a different one is another protocol
FUSE_KERNEL_MINOR_VERSION = 41  # the newest that we speak (Linux 6.12); both sides use the smaller of the two

FUSE_ROOT_ID = 1  # the node id of the share's root, never looked up, never forgotten


class FuseOpcode(IntEnum):
    """enum fuse_opcode: what `fuse_in_header.opcode` asks for."""

    FUSE_LOOKUP = 1  # name in a directory → node, which counts one more lookup
    FUSE_FORGET = 2  # so many lookups of a node are given back; no reply
    FUSE_GETATTR = 3  # stat
    FUSE_SETATTR = 4  # chmod, chown, truncate, utimens, in one
    FUSE_READLINK = 5  # target of a symbolic link
    FUSE_SYMLINK = 6  # make a symbolic link
    FUSE_MKNOD = 8  # make a file, fifo, socket or device node, without opening it
    FUSE_MKDIR = 9  # make a directory
    FUSE_UNLINK = 10  # remove a name that is no directory
    FUSE_RMDIR = 11  # remove an empty directory
    FUSE_RENAME = 12  # move a name, replacing what is there
    FUSE_LINK = 13  # one more name for a node
    FUSE_OPEN = 14  # open a file → handle
    FUSE_READ = 15  # bytes of an open file
    FUSE_WRITE = 16  # bytes into an open file
    FUSE_STATFS = 17  # statvfs
    FUSE_RELEASE = 18  # the last reference to a file handle is gone
    FUSE_FSYNC = 20  # flush an open file to disk
    FUSE_SETXATTR = 21  # set an extended attribute
    FUSE_GETXATTR = 22  # value of an extended attribute, or its size
    FUSE_LISTXATTR = 23  # names of the extended attributes, or their size
    FUSE_REMOVEXATTR = 24  # remove an extended attribute
    FUSE_FLUSH = 25  # one close() of a file handle; errors reach the caller
    FUSE_INIT = 26  # the first request: version and flags
    FUSE_OPENDIR = 27  # open a directory → handle
    FUSE_READDIR = 28  # entries of an open directory
    FUSE_RELEASEDIR = 29  # the last reference to a directory handle is gone
    FUSE_FSYNCDIR = 30  # flush an open directory to disk
    FUSE_GETLK = 31  # test for a POSIX lock
    FUSE_SETLK = 32  # take or drop a lock
    FUSE_SETLKW = 33  # take a lock, waiting for it
    FUSE_ACCESS = 34  # access(2), where the kernel does not check permissions itself
    FUSE_CREATE = 35  # make and open a file → node and handle
    FUSE_INTERRUPT = 36  # the caller of an earlier request got a signal
    FUSE_BMAP = 37  # block number of a file's block, on block devices
    FUSE_DESTROY = 38  # unmounted: the session ends
    FUSE_IOCTL = 39  # ioctl(2) on a handle
    FUSE_POLL = 40  # poll(2) on a handle
    FUSE_NOTIFY_REPLY = 41  # the kernel's answer to FUSE_NOTIFY_RETRIEVE
    FUSE_BATCH_FORGET = 42  # many FUSE_FORGET in one; no reply
    FUSE_FALLOCATE = 43  # reserve, punch or zero a range
    FUSE_READDIRPLUS = 44  # FUSE_READDIR and a FUSE_LOOKUP of each entry
    FUSE_RENAME2 = 45  # renameat2: rename with flags
    FUSE_LSEEK = 46  # SEEK_DATA and SEEK_HOLE
    FUSE_COPY_FILE_RANGE = 47  # copy between two handles without moving the bytes
    FUSE_SETUPMAPPING = 48  # DAX: map a file's range into the device's memory window
    FUSE_REMOVEMAPPING = 49  # DAX: unmap ranges of the window
    FUSE_SYNCFS = 50  # flush the whole file system to disk
    FUSE_TMPFILE = 51  # make and open a file without a name
    FUSE_STATX = 52  # statx
    FUSE_COPY_FILE_RANGE_64 = 53  # FUSE_COPY_FILE_RANGE, answered with a 64-bit size
    CUSE_INIT = 4096  # first request of a character device in user space
    CUSE_INIT_BSWAP_RESERVED = 1 << 20  # CUSE_INIT in the other byte order
    FUSE_INIT_BSWAP_RESERVED = 26 << 24  # FUSE_INIT in the other byte order


class FuseNotify(IntEnum):
    """enum fuse_notify_code: what a server tells unasked, in `fuse_out_header.error` with `unique` 0."""

    FUSE_NOTIFY_POLL = 1  # a polled handle is ready
    FUSE_NOTIFY_INVAL_INODE = 2  # drop a node's cached attributes and pages
    FUSE_NOTIFY_INVAL_ENTRY = 3  # drop a cached name
    FUSE_NOTIFY_STORE = 4  # put bytes into a node's page cache
    FUSE_NOTIFY_RETRIEVE = 5  # ask for bytes of a node's page cache
    FUSE_NOTIFY_DELETE = 6  # a name was removed
    FUSE_NOTIFY_RESEND = 7  # send every pending request again
    FUSE_NOTIFY_INC_EPOCH = 8  # every cached name is stale


class FuseInit(IntFlag):
    """INIT flags; bits 32 and up travel in `flags2`, and only where both sides set FUSE_INIT_EXT."""

    FUSE_ASYNC_READ = 1 << 0  # several reads of a file at a time
    FUSE_POSIX_LOCKS = 1 << 1  # POSIX locks are the server's
    FUSE_FILE_OPS = 1 << 2  # file handles with fstat; never came to be
    FUSE_ATOMIC_O_TRUNC = 1 << 3  # FUSE_OPEN truncates by O_TRUNC
    FUSE_EXPORT_SUPPORT = 1 << 4  # lookups of "." and ".."
    FUSE_BIG_WRITES = 1 << 5  # writes of more than a page
    FUSE_DONT_MASK = 1 << 6  # the server applies the umask
    FUSE_SPLICE_WRITE = 1 << 7  # /dev/fuse takes splice to write
    FUSE_SPLICE_MOVE = 1 << 8  # /dev/fuse moves pages by splice
    FUSE_SPLICE_READ = 1 << 9  # /dev/fuse takes splice to read
    FUSE_FLOCK_LOCKS = 1 << 10  # flock locks are the server's
    FUSE_HAS_IOCTL_DIR = 1 << 11  # ioctl on directories
    FUSE_AUTO_INVAL_DATA = 1 << 12  # cached pages go when mtime or size changed
    FUSE_DO_READDIRPLUS = 1 << 13  # FUSE_READDIRPLUS in place of FUSE_READDIR
    FUSE_READDIRPLUS_AUTO = 1 << 14  # which of the two, the kernel guesses
    FUSE_ASYNC_DIO = 1 << 15  # several direct reads and writes of a file at a time
    FUSE_WRITEBACK_CACHE = 1 << 16  # the kernel writes back later, and owns size and mtime
    FUSE_NO_OPEN_SUPPORT = 1 << 17  # ENOSYS to FUSE_OPEN means: no handles needed
    FUSE_PARALLEL_DIROPS = 1 << 18  # several lookups and readdirs of a directory at a time
    FUSE_HANDLE_KILLPRIV = 1 << 19  # the server drops suid, sgid and capabilities on write, chown, truncate
    FUSE_POSIX_ACL = 1 << 20  # POSIX ACLs, checked by the kernel
    FUSE_ABORT_ERROR = 1 << 21  # /dev/fuse reads ECONNABORTED after an abort
    FUSE_MAX_PAGES = 1 << 22  # fuse_init_out.max_pages counts
    FUSE_CACHE_SYMLINKS = 1 << 23  # targets of symbolic links are cached
    FUSE_NO_OPENDIR_SUPPORT = 1 << 24  # ENOSYS to FUSE_OPENDIR means: no handles needed
    FUSE_EXPLICIT_INVAL_DATA = 1 << 25  # cached pages go only when told
    FUSE_MAP_ALIGNMENT = 1 << 26  # DAX: fuse_init_out.map_alignment counts
    FUSE_SUBMOUNTS = 1 << 27  # FUSE_ATTR_SUBMOUNT makes the kernel mount a directory on its own
    FUSE_HANDLE_KILLPRIV_V2 = 1 << 28  # as HANDLE_KILLPRIV, only when the request says so
    FUSE_SETXATTR_EXT = 1 << 29  # fuse_setxattr_in has its long form
    FUSE_INIT_EXT = 1 << 30  # flags2 counts
    FUSE_INIT_RESERVED = 1 << 31  # never set
    FUSE_SECURITY_CTX = 1 << 32  # creating requests carry security contexts
    FUSE_HAS_INODE_DAX = 1 << 33  # DAX by file
    FUSE_CREATE_SUPP_GROUP = 1 << 34  # creating requests carry one supplementary group
    FUSE_HAS_EXPIRE_ONLY = 1 << 35  # names may be expired without being dropped
    FUSE_DIRECT_IO_ALLOW_MMAP = 1 << 36  # shared mappings of FOPEN_DIRECT_IO files
    FUSE_PASSTHROUGH = 1 << 37  # reads and writes straight to a backing file
    FUSE_NO_EXPORT_SUPPORT = 1 << 38  # not to be exported by NFS
    FUSE_HAS_RESEND = 1 << 39  # FUSE_NOTIFY_RESEND is understood
    FUSE_ALLOW_IDMAP = 1 << 40  # may be mounted with mapped ids
    FUSE_OVER_IO_URING = 1 << 41  # requests over io_uring
    FUSE_REQUEST_TIMEOUT = 1 << 42  # fuse_init_out.request_timeout counts


class FuseOpened(IntFlag):
    """`fuse_open_out.open_flags`: how the kernel treats the opened file."""

    FOPEN_DIRECT_IO = 1 << 0  # past the page cache
    FOPEN_KEEP_CACHE = 1 << 1  # cached pages from before stay
    FOPEN_NONSEEKABLE = 1 << 2
    FOPEN_CACHE_DIR = 1 << 3  # the directory's entries may be cached
    FOPEN_STREAM = 1 << 4  # no file position at all
    FOPEN_NOFLUSH = 1 << 5  # no FUSE_FLUSH at close
    FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6
    FOPEN_PASSTHROUGH = 1 << 7  # backing_id names the file to read and write


class FuseSetattr(IntFlag):
    """`fuse_setattr_in.valid`: which of its fields count."""

    FATTR_MODE = 1 << 0
    FATTR_UID = 1 << 1
    FATTR_GID = 1 << 2
    FATTR_SIZE = 1 << 3
    FATTR_ATIME = 1 << 4
    FATTR_MTIME = 1 << 5
    FATTR_FH = 1 << 6  # fh names an open handle of the node
    FATTR_ATIME_NOW = 1 << 7  # with FATTR_ATIME: the server's clock
    FATTR_MTIME_NOW = 1 << 8
    FATTR_LOCKOWNER = 1 << 9
    FATTR_CTIME = 1 << 10
    FATTR_KILL_SUIDGID = 1 << 11  # with FATTR_SIZE: drop suid and sgid


FUSE_GETATTR_FH = 1 << 0  # fuse_getattr_in.getattr_flags: fh counts
FUSE_OPEN_KILL_SUIDGID = 1 << 0  # fuse_open_in.open_flags: O_TRUNC drops suid and sgid
FUSE_WRITE_CACHE = 1 << 0  # fuse_write_in.write_flags: from the page cache, the handle is a guess
FUSE_WRITE_LOCKOWNER = 1 << 1  # lock_owner counts
FUSE_WRITE_KILL_SUIDGID = 1 << 2  # drop suid and sgid
FUSE_READ_LOCKOWNER = 1 << 1  # fuse_read_in.read_flags: lock_owner counts
FUSE_RELEASE_FLUSH = 1 << 0  # fuse_release_in.release_flags: do a FUSE_FLUSH first
FUSE_RELEASE_FLOCK_UNLOCK = 1 << 1  # drop the handle's flock
FUSE_LK_FLOCK = 1 << 0  # fuse_lk_in.lk_flags: a flock lock of the handle, not a record lock
FUSE_FSYNC_FDATASYNC = 1 << 0  # fuse_fsync_in.fsync_flags: data only
FUSE_SETXATTR_ACL_KILL_SGID = 1 << 0  # fuse_setxattr_in.setxattr_flags: setting the ACL drops sgid
FUSE_MAX_NR_SECCTX = 31  # fuse_ext_header.type: up to this, so many security contexts
FUSE_EXT_GROUPS = 32  # fuse_ext_header.type: supplementary groups
FUSE_ATTR_SUBMOUNT = 1 << 0  # fuse_attr.flags: another file system begins here
FUSE_ATTR_DAX = 1 << 1  # fuse_attr.flags: use DAX
