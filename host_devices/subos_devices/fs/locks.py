"""Locks that hold on the host: GETLK, SETLK, SETLKW, INTERRUPT, and what FLUSH and RELEASE do to locks.

- A **record lock** (fcntl, lockf) of the guest is an open file description lock of ours: it conflicts with the record
  locks and the OFD locks of this host's processes, and with those of the guest's other lock owners. Each owner of a
  node has an open file of its own for that, closed when the guest says FLUSH in its name (a process that closes a
  file drops all its record locks on it), or releases the handle through which it locked last (so end the guest's own
  OFD locks, of which no FLUSH comes).
- A **flock lock** belongs to an open file, which the guest's handle is here too: flock(2) on its descriptor.

Which descriptor is whose outlives the worker (lasting.py), and with the descriptor the lock does.

A lock that has to wait does so on a thread (`waiters.py`), and its request is answered LATER: it is served again when
the thread has ended, and finds the result by its `unique`. There is no detection of deadlocks (EDEADLK): the kernel has
none for open file description locks.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections import deque
from contextlib import suppress
from functools import partial

from subos_protocol.fuse import FUSE_FLUSH_IN, FUSE_INTERRUPT_IN, FUSE_LK_IN, FUSE_LK_OUT, FUSE_RELEASE_IN, fuse_lk_in
from subos_protocol.fuse_opcodes import FUSE_LK_FLOCK, FUSE_RELEASE_FLOCK_UNLOCK, FuseInit

from ..vhost_user.virtqueue import LATER
from .lasting import OWNERS, Lasting
from .share import Data, Header, Share, error
from .waiters import Blocking, Waiters

LOCK_FLAGS = FuseInit.FUSE_POSIX_LOCKS | FuseInit.FUSE_FLOCK_LOCKS
MAX_OWNERS = OWNERS  # open files of lock owners
REMEMBERED = 64  # INTERRUPTs whose request has not come; a `unique` never comes twice in a session
OFFSET_MAX = (1 << 63) - 1  # of loff_t: a range that ends there has no end

_FLOCK = struct.Struct("@hhqqi4x")  # struct flock: type, whence, start, length (0: no end), pid
_EVERYTHING = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)
_FLOCK_OPERATIONS = {fcntl.F_RDLCK: fcntl.LOCK_SH, fcntl.F_WRLCK: fcntl.LOCK_EX, fcntl.F_UNLCK: fcntl.LOCK_UN}
_KINDS = {b"READ": fcntl.F_RDLCK, b"WRITE": fcntl.F_WRLCK}
_libc = ctypes.CDLL(None, use_errno=True)


class Owner:
    """One lock owner's open file of one node. `handle` is the guest's that it locked through last, `pid` the guest's
    process, `waiting` how many waits will leave their lock here, `record` where the rest is noted."""

    def __init__(self, fd: int, handle: int, pid: int, record: int) -> None:
        self.fd = fd
        self.handle = handle
        self.pid = pid
        self.record = record
        self.waiting = 0


class Records:
    """The owners in memory that outlives the worker: columns, in which a descriptor says that a record is one."""

    def __init__(self, lasting: Lasting) -> None:
        self._fds, self._nodes = lasting.column("owner_fds"), lasting.column("owner_nodes")
        self._numbers, self._handles = lasting.column("owner_numbers"), lasting.column("owner_handles")
        self._pids = lasting.column("owner_pids")
        self._free = [record for record, fd in enumerate(self._fds) if not fd]

    def owners(self) -> dict[int, dict[int, Owner]]:
        """As Locks has them."""
        found: dict[int, dict[int, Owner]] = {}
        for record, fd in enumerate(self._fds):
            if fd:
                owner = Owner(fd, self._handles[record], self._pids[record], record)
                found.setdefault(self._nodes[record], {})[self._numbers[record]] = owner
        return found

    def add(self, nodeid: int, number: int, fd: int) -> int:
        """A record. There are as many as there may be owners."""
        record = self._free.pop()
        self._nodes[record], self._numbers[record] = nodeid, number
        self._fds[record] = fd
        return record

    def used(self, record: int, handle: int, pid: int) -> None:
        self._handles[record], self._pids[record] = handle, pid

    def remove(self, record: int) -> None:
        self._fds[record] = 0
        self._free.append(record)


class Locks:
    """The locks of one session."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.waiters = Waiters()
        self._records = Records(share.lasting)
        self._owners = self._records.owners()
        """By node id and the guest's number of the owner."""
        share.files.in_use += sum(map(len, self._owners.values()))
        self._early: deque[int] = deque(maxlen=REMEMBERED)

    # --- operations

    def getlk(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """What is in the way of a lock. A holder that is no process of the guest has the pid 0."""
        asked = FUSE_LK_IN.unpack(mem, a)
        handle = self.share.files.get(asked.fh)
        owner = self._owners.get(header[3], {}).get(asked.owner)
        wanted = _flock(asked)
        if asked.type == fcntl.F_UNLCK:
            raise error(errno.EINVAL)
        found = _FLOCK.unpack(fcntl.fcntl(handle if owner is None else owner.fd, fcntl.F_OFD_GETLK, wanted))
        kind, _whence, start, length, _pid = found
        if kind == fcntl.F_UNLCK:
            FUSE_LK_OUT.pack_into(mem, o, asked.start, asked.end, kind, 0)
        else:
            end = start + length - 1 if length else OFFSET_MAX
            FUSE_LK_OUT.pack_into(mem, o, start, end, kind, self._holder(header[3], (kind, start, end)))
        return FUSE_LK_OUT.size

    def setlk(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        self._set(header[3], FUSE_LK_IN.unpack(mem, a))
        return 0

    def setlkw(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """The lock, its errno, or LATER."""
        unique = header[2]
        ended = self.waiters.result(unique)
        if ended is None:
            asked = FUSE_LK_IN.unpack(mem, a)
            try:
                self._set(header[3], asked)
            except BlockingIOError:
                if unique in self._early:
                    raise error(errno.EINTR) from None
                self._wait(unique, header[3], asked)
                return LATER
        elif ended < 0:
            return LATER
        elif ended:
            raise error(ended)
        return 0

    def interrupt(self, header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
        """A wait is over, and one that has not come yet will not begin: the queues have no common order."""
        unique = FUSE_INTERRUPT_IN.unpack_from(mem, a)[0]
        if not self.waiters.interrupt(unique):
            self._early.append(unique)
        return 0

    # --- what comes with other operations

    def flush(self, header: Header, mem: memoryview, a: int) -> None:
        """The owner named in a fuse_flush_in has no record lock on the node any more. One that waits there goes on
        doing so, and may have it."""
        owners = self._owners.get(header[3])
        if owners is None:
            return
        number = FUSE_FLUSH_IN.unpack(mem, a).lock_owner
        owner = owners.get(number)
        if owner is not None and owner.waiting:
            fcntl.fcntl(owner.fd, fcntl.F_OFD_SETLK, _EVERYTHING)
        elif owner is not None:
            self._drop(header[3], number)

    def release(self, header: Header, mem: memoryview, a: int) -> None:
        """The handle named in a fuse_release_in, which is still open, holds no lock any more."""
        handle, _flags, release_flags, _owner = FUSE_RELEASE_IN.unpack_from(mem, a)
        if release_flags & FUSE_RELEASE_FLOCK_UNLOCK:
            fcntl.flock(self.share.files.get(handle), fcntl.LOCK_UN)
        if self.waiters:
            self.waiters.forget(handle)
        owners = self._owners.get(header[3], {})
        for number in [number for number, owner in owners.items() if owner.handle == handle]:
            self._drop(header[3], number)

    def reset(self) -> None:
        """Nobody holds or awaits a lock, as before FUSE_INIT."""
        self.waiters.forget()
        for nodeid, number in [(nodeid, number) for nodeid, owners in self._owners.items() for number in owners]:
            self._drop(nodeid, number)
        self._early.clear()

    def close(self) -> None:
        self.reset()
        self.waiters.close()

    # --- inside

    def _set(self, nodeid: int, asked: fuse_lk_in) -> None:
        """Takes or drops a lock at once. Raises BlockingIOError where somebody else's is in the way."""
        handle = self.share.files.get(asked.fh)
        if asked.lk_flags & FUSE_LK_FLOCK:
            fcntl.flock(handle, _flock_operation(asked) | fcntl.LOCK_NB)
            return
        wanted = _flock(asked)
        if asked.type == fcntl.F_UNLCK and asked.owner not in self._owners.get(nodeid, {}):
            return
        owner = self._owner(nodeid, asked)
        fcntl.fcntl(owner.fd, fcntl.F_OFD_SETLK, wanted)
        if wanted == _EVERYTHING and not owner.waiting:
            self._drop(nodeid, asked.owner)

    def _wait(self, unique: int, nodeid: int, asked: fuse_lk_in) -> None:
        """Has a thread wait for the lock. Raises ENOLCK where too many do."""
        if asked.lk_flags & FUSE_LK_FLOCK:
            flock: Blocking = partial(_flock_blocking, _flock_operation(asked))
            self._admit()
            self.waiters.begin(unique, self.share.files.get(asked.fh), flock, asked.fh, self._give_back)
            self.share.files.in_use += 1
            return
        owner = self._owner(nodeid, asked)

        def release() -> None:
            owner.waiting -= 1
            self._give_back()

        self._admit()
        self.waiters.begin(unique, owner.fd, partial(_ofd_blocking, _flock(asked)), asked.fh, release)
        self.share.files.in_use += 1
        owner.waiting += 1

    def _owner(self, nodeid: int, asked: fuse_lk_in) -> Owner:
        """The owner's open file. Raises ENOLCK where there are too many."""
        owners = self._owners.get(nodeid, {})
        owner = owners.get(asked.owner)
        if owner is None:
            if sum(map(len, self._owners.values())) >= MAX_OWNERS:
                raise error(errno.ENOLCK)
            self._admit()
            fd = self._open(nodeid, asked.type)
            owner = Owner(fd, asked.fh, asked.pid, self._records.add(nodeid, asked.owner, fd))
            self.share.files.in_use += 1
            self._owners.setdefault(nodeid, {})[asked.owner] = owner
        owner.handle, owner.pid = asked.fh, asked.pid
        self._records.used(owner.record, owner.handle, owner.pid)
        return owner

    def _open(self, nodeid: int, kind: int) -> int:
        """The node, for reading and writing, so that it takes both kinds of locks; else as this kind wants it."""
        node = self.share.regular(nodeid)
        if not self.share.readonly:
            with suppress(OSError):  # EACCES, EROFS, ETXTBSY
                return self.share.reopen(node, os.O_RDWR)
        try:
            return self.share.reopen(node, os.O_WRONLY if kind == fcntl.F_WRLCK else os.O_RDONLY)
        except OSError as refused:
            if refused.errno in (errno.EMFILE, errno.ENFILE):
                raise error(errno.ENOLCK) from refused
            raise

    def _drop(self, nodeid: int, number: int) -> None:
        owners = self._owners[nodeid]
        owner = owners.pop(number)
        if not owners:
            del self._owners[nodeid]
        fcntl.fcntl(owner.fd, fcntl.F_OFD_SETLK, _EVERYTHING)  # a thread that is being ended may hold it open yet
        self._records.remove(owner.record)
        os.close(owner.fd)
        self._give_back()

    def _admit(self) -> None:
        """Room for one more descriptor among those that the guest's doing costs. Raises ENOLCK."""
        try:
            self.share.descriptors.admit()
        except OSError as full:
            raise error(errno.ENOLCK) from full

    def _give_back(self) -> None:
        self.share.files.in_use -= 1

    def _holder(self, nodeid: int, lock: tuple[int, int, int]) -> int:
        """The guest's process that holds exactly this lock (type, start, end), or 0."""
        for owner in self._owners.get(nodeid, {}).values():
            if lock in self._held(owner.fd):
                return owner.pid
        return 0

    def _held(self, fd: int) -> list[tuple[int, int, int]]:
        """The record locks of an open file: type, start and end of each (proc(5), /proc/PID/fdinfo)."""
        with open(os.open(b"../fdinfo/%d" % fd, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.share.proc), "rb") as file:
            lines = [line.split() for line in file if line.startswith(b"lock:") and b" OFDLCK " in line]
        return [
            (_KINDS[words[4]], int(words[-2]), OFFSET_MAX if words[-1] == b"EOF" else int(words[-1])) for words in lines
        ]


def _flock(asked: fuse_lk_in) -> bytes:
    """A struct flock. Raises EOVERFLOW, EINVAL as fcntl(2) does."""
    if asked.start > OFFSET_MAX or asked.end > OFFSET_MAX:
        raise error(errno.EOVERFLOW)
    if asked.end < asked.start or asked.type not in _FLOCK_OPERATIONS:
        raise error(errno.EINVAL)
    length = 0 if asked.end == OFFSET_MAX else asked.end - asked.start + 1
    return _FLOCK.pack(asked.type, os.SEEK_SET, asked.start, length, 0)


def _flock_operation(asked: fuse_lk_in) -> int:
    operation = _FLOCK_OPERATIONS.get(asked.type)
    if operation is None:
        raise error(errno.EINVAL)
    return operation


def _ofd_blocking(lock: bytes, fd: int) -> int:
    return int(_libc.fcntl(fd, fcntl.F_OFD_SETLKW, ctypes.c_char_p(lock)))


def _flock_blocking(operation: int, fd: int) -> int:
    return int(_libc.flock(fd, operation))
