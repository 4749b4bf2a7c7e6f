"""The FUSE session of one share: FUSE_INIT and FUSE_DESTROY, and the table of all operations.

`operations[opcode]` is (operation, least bytes of arguments, least room for the reply). Before FUSE_INIT and after
FUSE_DESTROY it holds FUSE_INIT alone; the list stays the same object, which request handlers keep.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Mapping

from subos_protocol.fuse import (
    FUSE_ACCESS_IN,
    FUSE_ATTR_OUT,
    FUSE_BATCH_FORGET_IN,
    FUSE_COPY_FILE_RANGE_IN,
    FUSE_CREATE_IN,
    FUSE_ENTRY_OUT,
    FUSE_FALLOCATE_IN,
    FUSE_FLUSH_IN,
    FUSE_FORGET_IN,
    FUSE_FORGET_ONE,
    FUSE_FSYNC_IN,
    FUSE_GETATTR_IN,
    FUSE_GETXATTR_IN,
    FUSE_INIT_IN,
    FUSE_INIT_OUT,
    FUSE_INIT_SHORT,
    FUSE_INTERRUPT_IN,
    FUSE_LINK_IN,
    FUSE_LK_IN,
    FUSE_LK_OUT,
    FUSE_LSEEK_IN,
    FUSE_LSEEK_OUT,
    FUSE_MKDIR_IN,
    FUSE_MKNOD_IN,
    FUSE_OPEN_IN,
    FUSE_OPEN_OUT,
    FUSE_READ_IN,
    FUSE_RELEASE_IN,
    FUSE_RENAME2_IN,
    FUSE_RENAME_IN,
    FUSE_SETATTR_IN,
    FUSE_SETXATTR_SHORT,
    FUSE_STATFS_OUT,
    FUSE_STATX_IN,
    FUSE_STATX_OUT,
    FUSE_WRITE_IN,
    FUSE_WRITE_OUT,
    fuse_init_out,
)
from subos_protocol.fuse_opcodes import (
    FUSE_KERNEL_MINOR_VERSION,
    FUSE_KERNEL_VERSION,
    FUSE_ROOT_ID,
    FuseInit,
    FuseOpcode,
)

from . import syscalls
from .attributes import Attributes
from .caching import CACHE_POLICIES, CachePolicy
from .creation import CREATING, Creation
from .directories import Directories
from .files import Files
from .hot import HotOperations
from .journal import FACTS, RECORDED
from .kept import KeptShare
from .lasting import FLAGS
from .locks import LOCK_FLAGS, Locks
from .namespace import Namespace
from .replies import Owners
from .share import MAX_WRITE, NO_REPLY, Data, Header, Operation, Share, error
from .single import SingleFile
from .xattrs import MappedXattrs, Xattrs

OLDEST_MINOR = 31  # Linux 5.4, the first with virtiofs: every structure has its present size since then
MAX_PAGES = 256  # of 4 KiB, one request's data: MAX_WRITE
_U32 = 0xFFFF_FFFF

WANTED = (
    FuseInit.FUSE_ASYNC_READ
    | FuseInit.FUSE_ATOMIC_O_TRUNC
    | FuseInit.FUSE_BIG_WRITES
    | FuseInit.FUSE_DONT_MASK
    | FuseInit.FUSE_AUTO_INVAL_DATA
    | FuseInit.FUSE_ASYNC_DIO
    | FuseInit.FUSE_PARALLEL_DIROPS
    | FuseInit.FUSE_MAX_PAGES
    | FuseInit.FUSE_CACHE_SYMLINKS
    | FuseInit.FUSE_HANDLE_KILLPRIV_V2
    | FuseInit.FUSE_SETXATTR_EXT
    | FuseInit.FUSE_INIT_EXT
    | FuseInit.FUSE_DIRECT_IO_ALLOW_MMAP
)
"""What we always accept of what the kernel offers; options add to it."""

HOT = (
    FuseOpcode.FUSE_LOOKUP,
    FuseOpcode.FUSE_GETATTR,
    FuseOpcode.FUSE_OPEN,
    FuseOpcode.FUSE_READ,
    FuseOpcode.FUSE_WRITE,
    FuseOpcode.FUSE_RELEASE,
    FuseOpcode.FUSE_READDIRPLUS,
)

Row = tuple[Operation, int, int]


class FuseServer:
    """Serves `share`. Raises nothing; operations raise OSError. `xattr` is "yes", "mapped" or "no"; `submounts` False
    does not announce other file systems below the root; `only` is the one name that is shared; without `locks` they are
    the guest's own; `security_label` takes security contexts of what is made."""

    def __init__(
        self,
        share: Share,
        cache: CachePolicy = CACHE_POLICIES["auto"],
        *,
        xattr: str = "yes",
        submounts: bool = False,
        only: bytes = b"",
        locks: Locks | None = None,
        security_label: bool = False,
    ) -> None:
        self.share = share
        self.wanted = WANTED
        if submounts:
            self.wanted |= FuseInit.FUSE_SUBMOUNTS
        if cache.valid:
            # Always, not when the kernel guesses that it pays (READDIRPLUS_AUTO): it guesses wrong for whoever lists a
            # tree and then looks at each file, and what an entry costs us is a tenth of a request.
            self.wanted |= FuseInit.FUSE_DO_READDIRPLUS
        if cache.writeback:
            self.wanted |= FuseInit.FUSE_WRITEBACK_CACHE
        if xattr == "mapped" or (xattr == "yes" and keeps_acls(share)):
            self.wanted |= FuseInit.FUSE_POSIX_ACL
        if security_label:
            self.wanted |= FuseInit.FUSE_SECURITY_CTX
        self.flags = FuseInit(0)
        """What both sides agreed on; 0 before FUSE_INIT."""
        if syscalls.file_system_type(share.fd(FUSE_ROOT_ID)) in _IN_MEMORY:
            cache = cache.forgetful()
        self.cache = cache
        self.locks = locks
        self.flushes = locks is not None or tells_at_close(share)
        self.shares = locks is None  # a flock lock belongs to the open file of one handle
        hot = HotOperations(share, cache, flushes=self.flushes, shares=self.shares)
        xattrs = MappedXattrs(share) if xattr == "mapped" else Xattrs(share)
        creation = Creation(share, xattrs)
        finishes = xattr == "mapped" or security_label or isinstance(share, KeptShare)
        self._attributes = Attributes(share, hot.getattr, xattrs)
        namespace = Namespace(share, hot, creation.finish if finishes else None)
        self._ready = self._table(hot, Directories(share, cache.opened_directory), namespace, Files(share))
        self.hot = {opcode: self._ready[opcode] for opcode in HOT}
        """The rows for which the compiled twin has code of its own: it steps aside where another row stands."""
        if only:
            single = SingleFile(share, only)
            for opcode, (operation, least, needed) in enumerate(self._ready):
                wrapped = single.wrap(opcode, operation)
                if wrapped is not operation:
                    self._ready[opcode] = (wrapped, least, needed)
        if isinstance(share, KeptShare) or share.identity.maps:
            self._wrap(Owners(share).wrappers)
        if security_label:
            self._wrap(dict.fromkeys(CREATING, creation.labelled))
        if locks is not None:
            self.wanted |= LOCK_FLAGS
            self._add_locks(locks)
        if xattr == "no":
            for opcode in _XATTR:
                self._ready[opcode] = (_unsupported, 0, 0)
        self._wrap(dict.fromkeys(RECORDED, share.journal.recorded))
        if share.readonly:
            for opcode in _CHANGING:
                self._ready[opcode] = (_read_only, 0, 0)
        self.first_token = 1 << 32
        self.token_operations: list[Row] = []
        """The operations of requests whose group is `first_token` or beyond: see events/tokens.py."""
        self.on_reset: Callable[[], None] = lambda: None
        """Called when the guest has come to know nothing any more."""
        self._suspended: list[Row] = []
        self._waiting: list[Row] = [(_not_connected, 0, 0)] * len(self._ready)
        for opcode in (FuseOpcode.FUSE_INIT, FuseOpcode.FUSE_FORGET, FuseOpcode.FUSE_BATCH_FORGET):
            self._waiting[opcode] = self._ready[opcode]
        self.operations = list(self._waiting)
        if share.recovered:
            self._begin(FuseInit(share.lasting.session[FLAGS]))

    def _wrap(self, wrappers: Mapping[FuseOpcode, Callable[[Operation], Operation]]) -> None:
        for opcode, wrapper in wrappers.items():
            operation, least, needed = self._ready[opcode]
            self._ready[opcode] = (wrapper(operation), least, needed)

    def init(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """Begins a session, whatever was before: a guest that rebooted says nothing but this."""
        self.end()
        short = mem[a : a + min(n, FUSE_INIT_IN.size)]
        major, minor, readahead, flags, flags2, _ = FUSE_INIT_IN.unpack(bytes(short).ljust(FUSE_INIT_IN.size, b"\0"))
        if major < FUSE_KERNEL_VERSION or (major == FUSE_KERNEL_VERSION and minor < OLDEST_MINOR):
            raise error(errno.EPROTO)
        if major > FUSE_KERNEL_VERSION:  # the kernel will ask again in our version
            mem[o : o + FUSE_INIT_OUT.size] = bytes(FUSE_INIT_OUT.size)
            FUSE_INIT_OUT.pack_into(mem, o, FUSE_KERNEL_VERSION, FUSE_KERNEL_MINOR_VERSION, *[0] * 10, b"")
            return FUSE_INIT_OUT.size
        offered = FuseInit(flags)
        if offered & FuseInit.FUSE_INIT_EXT:
            offered |= FuseInit(flags2 << 32)
        self._begin(offered & self.wanted)
        self.share.lasting.session[FLAGS] = self.flags
        self.share.lasting.begun = True
        answer = fuse_init_out(
            FUSE_KERNEL_VERSION,
            min(minor, FUSE_KERNEL_MINOR_VERSION),
            readahead,
            self.flags & _U32,
            max_background=0xFFFF,
            congestion_threshold=0xC000,
            max_write=MAX_WRITE,
            time_gran=1,
            max_pages=MAX_PAGES,
            map_alignment=0,
            flags2=self.flags >> 32,
            max_stack_depth=0,
            unused=b"",
        )
        FUSE_INIT_OUT.pack_into(mem, o, *answer)
        return FUSE_INIT_OUT.size

    def _begin(self, flags: FuseInit) -> None:
        """Both sides have agreed on `flags`, a session of another worker's maybe."""
        self.flags = flags
        self.share.announces = bool(flags & FuseInit.FUSE_SUBMOUNTS)
        self._attributes.setxattr_ext = bool(flags & FuseInit.FUSE_SETXATTR_EXT)
        self.operations[:] = self._suspended or self._ready

    def _destroy(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        self.end()
        return 0

    def end(self) -> None:
        """Nothing is known, open or locked any more, until the next FUSE_INIT."""
        self.share.lasting.begun = False
        if self.locks is not None:
            self.locks.reset()
        self.share.reset()
        self.share.journal.clear()
        self.flags = FuseInit(0)
        self.operations[:] = self._waiting
        self.on_reset()

    @property
    def rows(self) -> list[Row]:
        """All operations as this share has them, in use or not."""
        return self._ready

    def suspend(self, refuse: Operation, but: Collection[int]) -> None:
        """Until `resume`, everything but the operations in `but` is answered by `refuse`."""
        self._suspended = [row if opcode in but else (refuse, 0, 0) for opcode, row in enumerate(self._ready)]
        if self.flags:
            self.operations[:] = self._suspended

    def resume(self) -> None:
        self._suspended = []
        if self.flags:
            self.operations[:] = self._ready

    def _forget(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        slot = self.share.journal.current
        if slot.recall() is None:
            slot.note(header[1])
            self.share.descriptors.forget(header[3], FUSE_FORGET_IN.unpack_from(mem, a)[0])
        return NO_REPLY

    def _batch_forget(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        count = FUSE_BATCH_FORGET_IN.unpack_from(mem, a)[0]
        first, size = a + FUSE_BATCH_FORGET_IN.size, FUSE_FORGET_ONE.size
        slot = self.share.journal.current
        begun, *_ = slot.recall() or (0,)
        slot.note(header[1], begun)
        for index in range(begun, min(count, (n - FUSE_BATCH_FORGET_IN.size) // size)):
            slot.words[FACTS] = index + 1
            self.share.descriptors.forget(*FUSE_FORGET_ONE.unpack_from(mem, first + index * size))
        return NO_REPLY

    def _interrupt(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """Every request was answered before the next one is looked at: there is nothing to interrupt."""
        return 0

    def _add_locks(self, locks: Locks) -> None:
        """Rows of what the host's locks add to, or do besides."""
        op, rows = FuseOpcode, self._ready
        (flush, flush_size, _), (release, release_size, _) = rows[op.FUSE_FLUSH], rows[op.FUSE_RELEASE]

        def flush_too(header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
            locks.flush(header, mem, a)
            return flush(header, mem, a, n, o, room, data)

        def release_too(header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
            try:
                locks.release(header, mem, a)
            except OSError:
                if not self.share.journal.current.replaying:
                    raise
            return release(header, mem, a, n, o, room, data)

        rows[op.FUSE_GETLK] = (locks.getlk, FUSE_LK_IN.size, FUSE_LK_OUT.size)
        rows[op.FUSE_SETLK] = (locks.setlk, FUSE_LK_IN.size, 0)
        rows[op.FUSE_SETLKW] = (locks.setlkw, FUSE_LK_IN.size, 0)
        rows[op.FUSE_INTERRUPT] = (locks.interrupt, FUSE_INTERRUPT_IN.size, 0)
        rows[op.FUSE_FLUSH] = (flush_too, flush_size, 0)
        rows[op.FUSE_RELEASE] = (release_too, release_size, 0)

    def _table(self, hot: HotOperations, directories: Directories, namespace: Namespace, files: Files) -> list[Row]:
        attributes, op, fresh = self._attributes, FuseOpcode, namespace.fresh
        entry, opened, nothing = FUSE_ENTRY_OUT.size, FUSE_OPEN_OUT.size, 0
        rows: dict[int, tuple[Operation, int, int]] = {
            op.FUSE_LOOKUP: (hot.lookup, 1, entry),
            op.FUSE_FORGET: (self._forget, FUSE_FORGET_IN.size, nothing),
            op.FUSE_GETATTR: (hot.getattr, FUSE_GETATTR_IN.size, FUSE_ATTR_OUT.size),
            op.FUSE_SETATTR: (attributes.setattr, FUSE_SETATTR_IN.size, FUSE_ATTR_OUT.size),
            op.FUSE_READLINK: (attributes.readlink, 0, nothing),
            op.FUSE_SYMLINK: (fresh(namespace.symlink), 4, entry),
            op.FUSE_MKNOD: (fresh(namespace.mknod), FUSE_MKNOD_IN.size, entry),
            op.FUSE_MKDIR: (fresh(namespace.mkdir), FUSE_MKDIR_IN.size, entry),
            op.FUSE_UNLINK: (fresh(namespace.unlink), 2, nothing),
            op.FUSE_RMDIR: (fresh(namespace.rmdir), 2, nothing),
            op.FUSE_RENAME: (fresh(namespace.rename), FUSE_RENAME_IN.size, nothing),
            op.FUSE_LINK: (fresh(namespace.link), FUSE_LINK_IN.size, entry),
            op.FUSE_OPEN: (hot.open, FUSE_OPEN_IN.size, opened),
            op.FUSE_READ: (hot.read, FUSE_READ_IN.size, nothing),
            op.FUSE_WRITE: (hot.write, FUSE_WRITE_IN.size, FUSE_WRITE_OUT.size),
            op.FUSE_STATFS: (attributes.statfs, 0, FUSE_STATFS_OUT.size),
            op.FUSE_RELEASE: (hot.release, FUSE_RELEASE_IN.size, nothing),
            op.FUSE_FSYNC: (files.fsync, FUSE_FSYNC_IN.size, nothing),
            op.FUSE_SETXATTR: (attributes.setxattr, FUSE_SETXATTR_SHORT.size, nothing),
            op.FUSE_GETXATTR: (attributes.getxattr, FUSE_GETXATTR_IN.size, nothing),
            op.FUSE_LISTXATTR: (attributes.listxattr, FUSE_GETXATTR_IN.size, nothing),
            op.FUSE_REMOVEXATTR: (attributes.removexattr, 2, nothing),
            op.FUSE_FLUSH: (files.flush, FUSE_FLUSH_IN.size, nothing),
            op.FUSE_INIT: (self.init, FUSE_INIT_SHORT, FUSE_INIT_OUT.size),
            op.FUSE_OPENDIR: (directories.opendir, FUSE_OPEN_IN.size, opened),
            op.FUSE_READDIR: (directories.readdir, FUSE_READ_IN.size, nothing),
            op.FUSE_RELEASEDIR: (directories.releasedir, FUSE_RELEASE_IN.size, nothing),
            op.FUSE_FSYNCDIR: (directories.fsyncdir, FUSE_FSYNC_IN.size, nothing),
            op.FUSE_ACCESS: (attributes.access, FUSE_ACCESS_IN.size, nothing),
            op.FUSE_CREATE: (fresh(namespace.create), FUSE_CREATE_IN.size, entry + opened),
            op.FUSE_INTERRUPT: (self._interrupt, 0, nothing),
            op.FUSE_DESTROY: (self._destroy, 0, nothing),
            op.FUSE_BATCH_FORGET: (self._batch_forget, FUSE_BATCH_FORGET_IN.size, nothing),
            op.FUSE_FALLOCATE: (files.fallocate, FUSE_FALLOCATE_IN.size, nothing),
            op.FUSE_READDIRPLUS: (directories.readdirplus, FUSE_READ_IN.size, nothing),
            op.FUSE_RENAME2: (fresh(namespace.rename2), FUSE_RENAME2_IN.size, nothing),
            op.FUSE_LSEEK: (files.lseek, FUSE_LSEEK_IN.size, FUSE_LSEEK_OUT.size),
            op.FUSE_COPY_FILE_RANGE: (files.copy_file_range, FUSE_COPY_FILE_RANGE_IN.size, FUSE_WRITE_OUT.size),
            op.FUSE_SYNCFS: (files.syncfs, 0, nothing),
            op.FUSE_TMPFILE: (fresh(namespace.tmpfile), FUSE_CREATE_IN.size, entry + opened),
            op.FUSE_STATX: (attributes.statx, FUSE_STATX_IN.size, FUSE_STATX_OUT.size),
        }
        unsupported: Row = (_unsupported, 0, 0)
        return [rows.get(opcode, unsupported) for opcode in range(max(rows) + 1)]


def tells_at_close(share: Share) -> bool:
    """Whether the share's file system may keep an error for close(): those that write over a network do."""
    return syscalls.file_system_type(share.fd(FUSE_ROOT_ID)) in _TELL_AT_CLOSE


def keeps_acls(share: Share) -> bool:
    """Whether the share's file system has POSIX ACLs."""
    try:
        os.getxattr(f"/proc/self/fd/{share.fd(FUSE_ROOT_ID)}", "system.posix_acl_access")
    except OSError as refusal:
        return refusal.errno == errno.ENODATA
    return True


_IN_MEMORY = {0x0102_1994: "tmpfs", 0x8584_58F6: "ramfs"}
_TELL_AT_CLOSE = {
    0x6969: "nfs",
    0x517B: "smb",
    0xFF53_4D42: "cifs",
    0xFE53_4D42: "smb2",
    0x6573_5546: "fuse",
    0x00C3_6400: "ceph",
    0x0102_1997: "v9fs",
    0x5346_414F: "afs",
    0x7375_7245: "coda",
    0xF15F: "ecryptfs",
    0x794C_7630: "overlayfs",
}  # linux/magic.h

_XATTR = (
    FuseOpcode.FUSE_SETXATTR,
    FuseOpcode.FUSE_GETXATTR,
    FuseOpcode.FUSE_LISTXATTR,
    FuseOpcode.FUSE_REMOVEXATTR,
)
_CHANGING = (
    FuseOpcode.FUSE_SETATTR,
    FuseOpcode.FUSE_SYMLINK,
    FuseOpcode.FUSE_MKNOD,
    FuseOpcode.FUSE_MKDIR,
    FuseOpcode.FUSE_UNLINK,
    FuseOpcode.FUSE_RMDIR,
    FuseOpcode.FUSE_RENAME,
    FuseOpcode.FUSE_RENAME2,
    FuseOpcode.FUSE_LINK,
    FuseOpcode.FUSE_WRITE,
    FuseOpcode.FUSE_SETXATTR,
    FuseOpcode.FUSE_REMOVEXATTR,
    FuseOpcode.FUSE_CREATE,
    FuseOpcode.FUSE_FALLOCATE,
    FuseOpcode.FUSE_COPY_FILE_RANGE,
    FuseOpcode.FUSE_TMPFILE,
)
"""What a read-only share refuses whole; OPEN and ACCESS look at what they are asked for."""


def refusal(number: int) -> Operation:
    def refuse(header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        raise error(number)

    return refuse


_unsupported: Operation = refusal(errno.ENOSYS)
_read_only: Operation = refusal(errno.EROFS)
_not_connected: Operation = refusal(errno.ENOTCONN)
