"""What every operation stands on: the share's root, its nodes and handles, its options, and the caller's identity.

Resolution never leaves the share: a name is one component, looked up against the O_PATH descriptor of
its directory, never following a link; a node is opened again through /proc/self/fd, which names exactly its inode.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from subos_protocol.fuse import FUSE_ENTRY_OUT

from . import syscalls
from .nodes import HandleTable, NodeTable

Header = tuple[int, ...]
"""A fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding."""

Data = Sequence[memoryview] | None
"""The bytes of a READ's reply or a WRITE's data where they are not in one piece with the rest."""

Operation = Callable[[Header, memoryview, int, int, int, int, Data], int]
"""`operation(header, mem, a, n, o, room, data)`: the arguments are the `n` bytes of `mem` from `a`, the reply
goes to `mem` from `o` (after the fuse_out_header), where `room` bytes are. Returns the reply's length, or
NO_REPLY; raises OSError for an errno."""

NO_REPLY = -1

MAX_NAME = 255  # bytes of one component, NAME_MAX in linux/limits.h
MAX_WRITE = 1 << 20  # bytes of one READ or WRITE: what 256 pages hold
NS = 1_000_000_000

_NOBODY = 0xFFFF_FFFF  # FUSE_INVALID_UIDGID


class Directory:
    """An open directory: its descriptor, and its entries (name, inode number, d_type) as of offset 0."""

    __slots__ = ("entries", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.entries: list[tuple[bytes, int, int]] = []


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


class Share:
    """State of one exported directory. `valid` is how long names and attributes may be cached, in seconds."""

    def __init__(self, path: str, *, valid: int = 1, readonly: bool = False) -> None:
        root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.proc = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.nodes = NodeTable(root)
        self.files: HandleTable[int] = HandleTable(-1)
        self.directories: HandleTable[Directory | None] = HandleTable(None)
        self.valid = valid
        self.readonly = readonly
        self._switches_ids = os.geteuid() == 0
        self._uid, self._gid = (syscalls.setfsuid(_NOBODY), syscalls.setfsgid(_NOBODY))
        self._devices: dict[int, int] = {}

    def reset(self) -> None:
        """Nothing is open and only the root is known, as before FUSE_INIT."""
        for fd in self.files.remove_all():
            os.close(fd)
        for directory in self.directories.remove_all():
            if directory is not None:
                os.close(directory.fd)
        self.nodes.forget_all()

    def close(self) -> None:
        self.reset()
        self.nodes.close()
        os.close(self.proc)

    # --- nodes

    def reopen(self, fd: int, flags: int) -> int:
        """Opens the inode of the O_PATH descriptor `fd`: only ever called for regular files and directories."""
        return os.open(b"%d" % fd, flags | os.O_CLOEXEC, dir_fd=self.proc)

    def regular(self, nodeid: int) -> int:
        """The O_PATH descriptor of a regular file. Raises EISDIR, ELOOP, ENXIO for others, which we never open."""
        fd = self.nodes.fd(nodeid)
        kind = self.nodes.kinds[nodeid]
        if kind != stat.S_IFREG:
            raise error({stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}.get(kind, errno.ENXIO))
        return fd

    def find(self, directory: int, name: bytes) -> tuple[int, os.stat_result]:
        """The node of `name` in the directory of descriptor `directory`, counted as looked up, and its status."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        return self.adopt(fd)

    def adopt(self, fd: int) -> tuple[int, os.stat_result]:
        """The node of an O_PATH descriptor, which the table takes, counted as looked up, and its status."""
        try:
            status = os.fstat(fd)
        except OSError:
            os.close(fd)
            raise
        nodeid = self.nodes.add(fd, status)
        self.nodes.lookups[nodeid] += 1
        return nodeid, status

    def put_entry(self, mem: memoryview, o: int, nodeid: int, st: os.stat_result) -> int:
        """Writes the fuse_entry_out of a node at `o` and returns its size."""
        mode, ino, dev, nlink, uid, gid, size, atime, mtime, ctime = st[:10]
        if dev != self.nodes.device:
            ino = self.inode(dev, ino)
        # fmt: off
        FUSE_ENTRY_OUT.pack_into(
            mem, o, nodeid, self.nodes.generations[nodeid], self.valid, self.valid, 0, 0, ino, size, st.st_blocks,
            atime, mtime, ctime, st.st_atime_ns % NS, st.st_mtime_ns % NS, st.st_ctime_ns % NS,
            mode, nlink, uid, gid, st.st_rdev, st.st_blksize, 0,
        )
        # fmt: on
        return FUSE_ENTRY_OUT.size

    def inode(self, device: int, ino: int) -> int:
        """The inode number that the guest sees. It has one st_dev for the whole share, so the same number on another
        file system below the root would look like the same file, and to `find` like a loop: those get high bits."""
        if device == self.nodes.device:
            return ino
        index = self._devices.setdefault(device, len(self._devices) + 1)
        return (ino + (index << 52)) & 0xFFFF_FFFF_FFFF_FFFF

    # --- identity

    @contextmanager
    def caller(self, header: Header) -> Iterator[None]:
        """Within it, what is made belongs to the request's caller, if we are root; else it is ours anyway.

        Raises EPERM where the caller's id cannot be taken (outside a user namespace's mapping).
        """
        uid, gid = header[4], header[5]
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

    def drop_privileges(self, fd: int) -> None:
        """Clears suid, and sgid where the group may execute, as the kernel does for writers without CAP_FSETID."""
        mode = os.fstat(fd).st_mode
        drop = mode & stat.S_ISUID
        if mode & stat.S_IXGRP:
            drop |= mode & stat.S_ISGID
        if drop and stat.S_ISREG(mode):
            os.chmod(b"%d" % fd, stat.S_IMODE(mode & ~drop), dir_fd=self.proc)


def prepare_process() -> None:
    """What the process that serves a share needs: the guest's modes unmasked, capabilities kept beside other ids."""
    os.umask(0)
    with suppress(OSError):  # without CAP_SETPCAP a caller's own permissions count: stricter, not wrong
        if os.geteuid() == 0:
            syscalls.keep_capabilities_across_ids()
