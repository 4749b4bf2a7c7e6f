"""A process in namespaces of its own, and a root with nothing in it but what is named (namespaces(7), pivot_root(2)).

An ordinary user makes them within a user namespace, in which only that user exists. Root needs none, and has no use for
one: what it owns would not be its own there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress

from ...mounts import attach, clone_tree
from .system import call, check, must

FLAGS = {  # linux/sched.h
    "user": 0x1000_0000,
    "mount": 0x0002_0000,
    "pid": 0x2000_0000,
    "net": 0x4000_0000,
    "ipc": 0x0800_0000,
    "uts": 0x0400_0000,
    "cgroup": 0x0200_0000,
}
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 0x1000  # linux/mount.h
_MS_REC, _MS_SLAVE = 0x4000, 0x8_0000
_BARE = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
_MNT_DETACH = 2
STAGE = "/dev"
"""A folder that every system has: the new root is put together on top of it, in a namespace that nobody else sees."""


def fork_into(wanted: tuple[str, ...]) -> tuple[int, tuple[str, ...], str]:
    """Forks a child that is in new namespaces from its first instruction. Returns its pid, 0 in the child; which of the
    `wanted` it has; and why not the others. Raises OSError where there can be no process at all.

    The caller has one thread. Where the kernel refuses all of them together, those that it allows alone are taken.
    """
    try:
        return _fork(wanted), wanted, ""
    except OSError as error:
        if not wanted or error.errno in (errno.EAGAIN, errno.ENOMEM):
            raise
        why = error.strerror or str(error)
    base = tuple(name for name in wanted if name == "user")
    allowed = tuple(name for name in wanted if _possible((*base, name)))
    try:
        return _fork(allowed), allowed, why
    except OSError:
        return _fork(()), (), why


def _fork(names: tuple[str, ...]) -> int:
    return fork_with(sum({FLAGS[name] for name in names})) if names else os.fork()


def fork_with(flags: int) -> int:
    """os.fork() with flags of clone(2), from a process of one thread. Raises OSError."""
    # What os.fork() does around its fork. The C library is not asked, so it keeps the parent's idea of the thread's id,
    # which only locks that know their owner look at.
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    pid = call("clone", flags | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0
    number = ctypes.get_errno()
    python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(number, os.strerror(number))
    return pid


def _possible(names: tuple[str, ...]) -> bool:
    try:
        pid = _fork(names)
    except OSError:
        return False
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return True


def map_user(uid: int, gid: int) -> None:
    """In a new user namespace: this user, under the same number, and nobody else. Raises OSError."""
    for name, said in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, said.encode())
        finally:
            os.close(fd)


def enter_root(places: Mapping[str, tuple[str, bool]], *, proc: bool, programs: Sequence[str] = ()) -> None:
    """Makes a root of nothing but `places` (where in it: what of the host, and whether it may be written) and, if asked
    for, /proc with this process alone. No device node, program or set-user-ID bit works in it, but what lies in
    `programs`, whose places are those of the host, can be executed. Raises OSError.

    File systems that the host mounts below a place later appear there, too; what happens here never reaches the host.
    """
    _mount(b"none", "/", None, _MS_REC | _MS_SLAVE, None)
    trees = {place: clone_tree(path, writable=writable) for place, (path, writable) in places.items()}
    trees |= {path: clone_tree(path, writable=False, executable=True) for path in programs}
    try:
        _mount(b"subos", STAGE, b"tmpfs", _BARE, b"mode=0755,size=64k,nr_inodes=64")
        for place, tree in trees.items():
            target = STAGE + place
            if stat.S_ISDIR(os.fstat(tree).st_mode):
                os.makedirs(target, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC))
            attach(tree, target)
        if proc:
            os.mkdir(STAGE + "/proc")
            _mount(b"proc", STAGE + "/proc", b"proc", _BARE, b"subset=pid")
    finally:
        for tree in trees.values():
            os.close(tree)
    os.chdir(STAGE)
    must("pivot_root", b".", b".")
    must("umount2", b".", _MNT_DETACH)  # the old root, which lies on top of the new one
    os.chdir("/")
    _mount(None, "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _BARE, None)


def forget_host_name() -> None:
    """In a new UTS namespace."""
    with suppress(OSError):
        check(call("sethostname", b"subos", 5))


def _mount(source: bytes | None, target: str, kind: bytes | None, flags: int, data: bytes | None) -> None:
    try:
        must("mount", source, os.fsencode(target), kind, flags, data)
    except OSError as error:
        raise OSError(error.errno, f"{target}: {error.strerror}") from None
