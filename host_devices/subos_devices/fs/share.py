"""What every operation stands on: the share's root, its nodes and handles, its options, and the caller's identity.

Resolution never leaves the share: a name is one component, looked up against the O_PATH descriptor of
its directory, never following a link; a node is opened again through /proc/self/fd, which names exactly its inode.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from subos_protocol.fuse import FUSE_ENTRY_OUT
from subos_protocol.fuse_opcodes import FUSE_ATTR_SUBMOUNT, FUSE_ROOT_ID

from . import syscalls
from .descriptors import PINNED, Descriptors
from .handles import FileTable
from .identity import Identity
from .journal import COUNTED, GIVEN_FILE, LENT, LENT_MODE, NOTED, OPENING, RECORDED, Journal, Slot
from .lasting import Lasting
from .nodes import NAMELESS, NodeTable
from .statistics import Statistics
from .syscalls import AT_SYMLINK_NOFOLLOW

Header = tuple[int, ...]
"""A fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding."""

Data = Sequence[memoryview] | None
"""The bytes of a READ's reply or a WRITE's data where they are not in one piece with the rest."""

Operation = Callable[[Header, memoryview, int, int, int, int, Data], int]
"""`operation(header, mem, a, n, o, room, data)`: the arguments are the `n` bytes of `mem` from `a`, the reply
goes to `mem` from `o` (after the fuse_out_header), where `room` bytes are. Returns the reply's length, NO_REPLY,
LATER (it is then called again, with the same request, by the queue's `retry`), or REFUSED less an errno; raises OSError
for an errno."""

NO_REPLY = -1
REFUSED = -4096
"""`REFUSED - errno` says what an OSError would, for what is refused by the million (a name that is not there)."""

MAX_NAME = 255  # bytes of one component, NAME_MAX in linux/limits.h
MAX_WRITE = 1 << 20  # bytes of one READ or WRITE: what 256 pages hold
NS = 1_000_000_000

UNCHANGED = 0xFFFF_FFFF  # as an id of chown
_NOBODY = 0xFFFF_FFFF  # FUSE_INVALID_UIDGID
_INODE_BITS = 52  # of an inode number that is shown; another file system's number goes above
_U64 = (1 << 64) - 1
_unpack_seen = struct.Struct("<QQ8xI").unpack_from  # how syscalls.STATUS begins: device, inode, links, mode
_fstatat, _status, _pointer = syscalls.fstatat, syscalls.status, syscalls.status_pointer


Seen = tuple[int, int, int]
"""What a name is: device, inode, mode."""

NOTHING: Seen = 0, 0, 0


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def component(name: bytes) -> bytes:
    """`name` if it is one component of a path. Raises EINVAL, ENAMETOOLONG."""
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise error(errno.EINVAL)
    if len(name) > MAX_NAME:
        raise error(errno.ENAMETOOLONG)
    return name


def strings(mem: memoryview, a: int, n: int, count: int) -> list[bytes]:
    """The `count` NUL-terminated strings that are exactly the `n` bytes from `a`. Raises EINVAL."""
    parts = bytes(mem[a : a + n]).split(b"\0")
    if len(parts) != count + 1 or parts[count]:
        raise error(errno.EINVAL)
    return parts[:count]


def name_after(mem: memoryview, a: int, n: int, size: int) -> bytes:
    """The one component that follows a structure of `size` bytes. Raises EINVAL, ENAMETOOLONG."""
    return component(strings(mem, a + size, n - size, 1)[0])


def look(directory: int, name: bytes) -> Seen:
    """What `name` in the descriptor `directory` is; NOTHING where there is none, or it cannot be told."""
    if _fstatat(directory, name, _pointer, AT_SYMLINK_NOFOLLOW):
        return NOTHING
    device, ino, mode = _unpack_seen(_status)
    return device, ino, mode


def privileges(mode: int) -> int:
    """What of a mode goes when somebody else writes or owns the file: suid, and sgid where the group may execute."""
    return mode & (stat.S_ISUID | stat.S_ISGID if mode & stat.S_IXGRP else stat.S_ISUID)


class Share:
    """State of one exported directory. `valid` is how long names and attributes may be cached, in seconds;
    `limit` how many descriptors the guest's doing may cost."""

    def __init__(
        self,
        path: str,
        *,
        valid: int = 1,
        readonly: bool = False,
        limit: int = 512,
        identity: Identity | None = None,
        statistics: Statistics | None = None,
        lasting: Lasting | None = None,
    ) -> None:
        """Where `lasting` has a session, this share goes on with it: `path` is not looked at."""
        self.lasting = lasting = lasting or Lasting(shared=False)
        self.recovered = lasting.begun
        if self.recovered:
            root = int(lasting.column("fds")[FUSE_ROOT_ID])
        else:
            root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            lasting.clear()
        self.proc = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.path = os.path.abspath(path)
        self.identity = identity or Identity()
        self.statistics = statistics or Statistics()
        self.journal = Journal(lasting.column("journal"))
        self.nodes = NodeTable(os.fstat(root), self.statistics, lasting)
        self.files = FileTable(self.statistics, lasting, self.journal.given)
        self.descriptors = Descriptors(self.nodes, self.files, root, self.proc, limit)
        self.fd = self.descriptors.fd
        self.valid = valid
        self.readonly = readonly
        self.announces = False
        """Whether the guest mounts other file systems below the root on their own (FUSE_SUBMOUNTS)."""
        self._switches_ids = os.geteuid() == 0
        self._uid, self._gid = (syscalls.setfsuid(_NOBODY), syscalls.setfsgid(_NOBODY))

    def reset(self) -> None:
        """Nothing is open and only the root is known, as before FUSE_INIT."""
        self.files.close()
        self.descriptors.forget_all()

    def replace_root(self, root: int) -> None:
        """Takes another directory for the root: its O_PATH descriptor, which is the share's from now on."""
        self.descriptors.replace_root(root)

    def sync(self) -> None:
        """Has the file system of the root written to its disk. Raises OSError."""
        root = self.reopen(self.fd(FUSE_ROOT_ID), os.O_RDONLY | os.O_DIRECTORY)
        try:
            syscalls.syncfs(root)
        finally:
            os.close(root)

    def is_out_of_reach(self) -> bool:
        """Whether the root may be read but for Landlock, which knows nothing of what came after it."""
        root = self.fd(FUSE_ROOT_ID)
        try:
            os.close(self.reopen(root, os.O_RDONLY | os.O_DIRECTORY))
        except PermissionError:
            return os.access(b"%d" % root, os.R_OK, dir_fd=self.proc)
        return False

    def close(self) -> None:
        self.lasting.begun = False
        self.reset()
        self.descriptors.close()
        os.close(self.proc)

    # --- requests that a worker died over

    def begin(self, slot: Slot, header: Header) -> None:
        """A request begins that may be a replay: what its first try has counted and opened is taken back."""
        if slot.begin(header) != NOTED:
            return
        if header[1] in RECORDED and (nodeid := slot.words[COUNTED]):
            self.unlearn(nodeid)
        if header[1] in OPENING:
            which, given = OPENING[header[1]], self.journal.given
            with suppress(OSError):  # it was, before the last death
                (self.files.remove if which == GIVEN_FILE else self.files.remove_directory)(given[which])
            given[which] = 0

    # --- nodes

    def reopen(self, fd: int, flags: int) -> int:
        """Opens the inode of the O_PATH descriptor `fd`: only ever called for regular files and directories."""
        return os.open(b"%d" % fd, flags | os.O_CLOEXEC, dir_fd=self.proc)

    def regular(self, nodeid: int) -> int:
        """The O_PATH descriptor of a regular file. Raises EISDIR, ELOOP, ENXIO for others, which we never open."""
        kind = self.nodes.kind(nodeid)
        if kind != stat.S_IFREG:
            raise error({stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}.get(kind, errno.ENXIO))
        return self.fd(nodeid)

    def find(self, parent: int, name: bytes) -> tuple[int, os.stat_result]:
        """The node of `name` in the node `parent`, counted as looked up, and its status."""
        status = os.stat(name, dir_fd=self.fd(parent), follow_symlinks=False)
        return self.learn(parent, name, status), status

    def learn(self, parent: int, name: bytes, status: os.stat_result) -> int:
        """The node of what `status` is of, counted as looked up; the journal knows of that."""
        nodeid = self.nodes.learn(parent, name, status.st_dev, status.st_ino, status.st_mode)
        self.journal.current.words[COUNTED] = nodeid
        return nodeid

    def unlearn(self, nodeid: int) -> None:
        """The guest is not told of it after all."""
        self.journal.current.words[COUNTED] = 0
        self.descriptors.forget(nodeid, 1)

    @contextmanager
    def losing(self, parent: int, name: bytes) -> Iterator[Seen]:
        """Within it, `name` in `parent` is removed or replaced: what it names, which is yielded, stays reachable while
        the guest knows it, if only by a descriptor."""
        nodes, nodeid, seen = self.nodes, 0, NOTHING
        with suppress(OSError):  # whatever it is, the call that follows will say so
            seen = look(self.fd(parent), name)
            nodeid = nodes.find(*seen[:2]) if seen != NOTHING else 0
            if nodeid:
                self.fd(nodeid)
        if not nodeid or not nodes.fds[nodeid]:
            yield seen
            return
        nodes.orphans[nodeid] = PINNED
        try:
            yield seen
            self._unname(nodeid, parent, name)
        finally:
            nodes.orphans[nodeid] = os.fstat(nodes.fds[nodeid]).st_nlink == 0

    def _unname(self, nodeid: int, parent: int, name: bytes) -> None:
        nodes = self.nodes
        if nodes.parents[nodeid] == parent and nodes.names[nodeid] == name:
            nodes.parents[nodeid] = NAMELESS

    def lost(self, parent: int, name: bytes, device: int, ino: int) -> None:
        """What was left to do of `losing` the inode when a worker died."""
        nodeid = self.nodes.find(device, ino)
        if nodeid and self.nodes.fds[nodeid]:
            self._unname(nodeid, parent, name)
            self.nodes.orphans[nodeid] = os.fstat(self.nodes.fds[nodeid]).st_nlink == 0

    def moved(self, parent: int, name: bytes) -> None:
        """What is `name` in `parent` now came there by a rename: a node goes by its new name."""
        with suppress(OSError):
            status = os.stat(name, dir_fd=self.fd(parent), follow_symlinks=False)
            nodeid = self.nodes.find(status.st_dev, status.st_ino)
            if nodeid > 1:
                self.nodes.rename(nodeid, parent, name)

    # --- what the guest is told of a node

    def put_entry(self, mem: memoryview, o: int, nodeid: int, st: os.stat_result) -> int:
        """Writes the fuse_entry_out of a node at `o` and returns its size."""
        mode, ino, dev, nlink, uid, gid, size, atime, mtime, ctime = st[:10]
        flags = 0
        if dev != self.nodes.device:
            ino, flags = self.foreign(nodeid, ino, mode)
        # fmt: off
        FUSE_ENTRY_OUT.pack_into(
            mem, o, nodeid, self.nodes.generations[nodeid], self.valid, self.valid, 0, 0, ino, size, st.st_blocks,
            atime, mtime, ctime, st.st_atime_ns % NS, st.st_mtime_ns % NS, st.st_ctime_ns % NS,
            mode, nlink, uid, gid, st.st_rdev, st.st_blksize, flags,
        )
        # fmt: on
        return FUSE_ENTRY_OUT.size

    def foreign(self, nodeid: int, ino: int, mode: int) -> tuple[int, int]:
        """Inode number and fuse_attr.flags of a node on another file system than the root.

        A directory where it begins is announced, and the guest gives it an st_dev of its own. Where the guest does
        not take that, and for a single file that is mounted, there is one st_dev for the whole share, in which the
        same number would look like the same file, and to `find` like a loop: those numbers get high bits.
        """
        nodes = self.nodes
        begins = nodes.devices[nodes.parents[nodeid]] != nodes.devices[nodeid]
        if self.announces and (not begins or stat.S_ISDIR(mode)):
            return ino, FUSE_ATTR_SUBMOUNT if begins else 0
        return ino + (nodes.devices[nodeid] << _INODE_BITS) & _U64, 0

    def inode_shift(self, nodeid: int) -> int:
        """What is added to the inode numbers in a directory's entries."""
        return 0 if self.announces else int(self.nodes.devices[nodeid]) << _INODE_BITS

    # --- identity

    @contextmanager
    def caller(self, header: Header, umask: int = 0) -> Iterator[None]:
        """Within it, what is made belongs to the request's caller, if we are root; else it is ours anyway; and the
        caller's umask holds.

        Raises EPERM where the caller's id cannot be taken: the share's maps refuse it, or a user namespace's do.
        """
        uid, gid = self.identity.users.host(header[4]), self.identity.groups.host(header[5])
        os.umask(umask & 0o777)
        if not self._switches_ids or (uid == self._uid and gid == self._gid):
            yield
            return
        try:
            for setter, wanted in ((syscalls.setfsgid, gid), (syscalls.setfsuid, uid)):
                setter(wanted)
                if setter(_NOBODY) != wanted:
                    raise error(errno.EPERM)
            yield
        finally:
            syscalls.setfsuid(self._uid)
            syscalls.setfsgid(self._gid)

    def made_as(self, mode: int) -> int:
        """The mode by which the host makes what the guest wants to be of `mode`."""
        return mode

    def settle(self, fd: int, parent: int, header: Header, mode: int, device: int, *, inherited: bool) -> None:
        """What was just made in the directory `parent` is to have `mode`, which does not come from the umask but from
        an ACL if that was `inherited` in a way that the host knows nothing of."""
        here = os.fstat(fd).st_mode
        if inherited and (here ^ mode) & 0o777:
            self.chmod(fd, here & ~0o777 | mode & 0o777)

    # --- mode and owner of a node, by any descriptor of it; the guest's idea of both

    def mode(self, fd: int) -> int:
        return os.fstat(fd).st_mode

    def group(self, fd: int) -> int:
        return self.identity.groups.guest(os.fstat(fd).st_gid)

    def chmod(self, fd: int, mode: int) -> None:
        os.chmod(b"%d" % fd, stat.S_IMODE(mode), dir_fd=self.proc)

    @contextmanager
    def lent(self, fd: int) -> Iterator[None]:
        """Within it, we may read and write a file or directory whose mode says no."""
        before, words = os.fstat(fd), self.journal.current.words
        words[LENT_MODE], words[LENT] = before.st_mode, before.st_ino
        os.chmod(b"%d" % fd, stat.S_IMODE(before.st_mode) | 0o600, dir_fd=self.proc)
        try:
            yield
        finally:
            self._give_back(fd)

    def _give_back(self, fd: int) -> None:
        words = self.journal.current.words
        os.chmod(b"%d" % fd, stat.S_IMODE(words[LENT_MODE]), dir_fd=self.proc)
        words[LENT] = 0

    def undo_lent(self, fd: int) -> None:
        """Gives the node its mode back where a worker died with it lent, in an earlier try of this request."""
        slot = self.journal.current
        if slot.replaying and slot.words[LENT] == os.fstat(fd).st_ino:
            self._give_back(fd)

    def chown(self, fd: int, uid: int, gid: int) -> None:
        """UNCHANGED leaves an id as it is. Raises EPERM for one that the share's maps refuse."""
        users, groups = self.identity.users, self.identity.groups
        host_uid = uid if uid == UNCHANGED else users.host(uid)
        syscalls.chown(fd, host_uid, gid if gid == UNCHANGED else groups.host(gid))

    def drop_privileges(self, fd: int, gid: int) -> None:
        """Clears suid, and sgid where the group may execute or the caller, of group `gid`, is of another, as the
        kernel does for writers without CAP_FSETID (setattr_should_drop_sgid in fs/attr.c)."""
        mode = self.mode(fd)
        drop = privileges(mode)
        if mode & stat.S_ISGID and gid != self.group(fd):
            drop |= stat.S_ISGID
        if drop and stat.S_ISREG(mode):
            self.chmod(fd, mode & ~drop)


def prepare_process() -> None:
    """What the process that serves a share needs: the guest's modes unmasked, capabilities kept beside other ids."""
    os.umask(0)
    with suppress(OSError):  # without CAP_SETPCAP a caller's own permissions count: stricter, not wrong
        if os.geteuid() == 0:
            syscalls.keep_capabilities_across_ids()
