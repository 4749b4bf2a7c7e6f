"""Which system calls a worker may make: `install` has the kernel hold it to that, for good.

A call that no group lists ends the process with SIGSYS; in the mode `log` it is made, and the kernel's log names it.
Arguments are checked where a call could do more than its worker needs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Iterable, Mapping

from . import bpf, numbers
from .bpf import Rule, Where
from .system import must

_SET_MODE_FILTER, _FILTER_FLAG_TSYNC = 1, 1  # linux/seccomp.h
_INT, _ALL = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF
_PROT_WRITE, _PROT_EXEC, _MAP_SHARED, _MAP_ANONYMOUS = 0x2, 0x4, 0x1, 0x20  # asm-generic/mman-common.h
_AT_EMPTY_PATH = 0x1000
_THREAD = 0x0001_0000 | 0x0000_0100  # CLONE_THREAD, CLONE_VM
_NAMESPACES = 0x7E02_0080  # every CLONE_NEW*
CLONE_FILES = 0x400
_FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030)  # descriptors, flags, locks; no owner, signal, lease or seal
_IOCTLS = (0x5421, 0x541B, 0x5450, 0x5451)  # FIONBIO, FIONREAD, FIONCLEX, FIOCLEX
_PRCTLS = (15, 27)  # PR_SET_NAME, PR_GET_SECUREBITS
_PDEATHSIG = 1  # PR_SET_PDEATHSIG
ANYBODY = 0x2A6D_365B
"""In the place of a pid that is not known yet: no process has it (PID_MAX_LIMIT in linux/threads.h is 1 << 22)."""
_ANYBODY = ANYBODY.to_bytes(4, sys.byteorder)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


RUNTIME = _names("""
read write readv writev pread64 pwrite64 close close_range fstat lseek dup munmap mremap madvise brk futex
epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll select pselect6 eventfd2
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigsuspend pause sigaltstack restart_syscall
clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time timerfd_create timerfd_settime timerfd_gettime
getpid gettid getppid getuid geteuid getgid getegid getrandom getrusage getrlimit uname sysinfo
sched_yield sched_getaffinity rseq set_robust_list membarrier exit exit_group
recvfrom recvmsg sendto sendmsg shutdown listen accept4 getsockname getpeername getsockopt setsockopt
""")
"""The interpreter, the worker's loop, and the sockets that it was given."""

FILES = _names("""
open openat stat lstat newfstatat statx readlink readlinkat getdents64 fstatfs access faccessat faccessat2 getcwd umask
fadvise64 preadv preadv2
""")
"""To read files, as far as paths are to be had."""

CHANGES = _names("""
ftruncate truncate fallocate pwritev pwritev2 copy_file_range mkdirat mknodat symlinkat linkat unlinkat renameat
renameat2 fchmod fchmodat fchmodat2 fchown fchownat utimensat unlink rename mkdir rmdir chmod link symlink
setxattr fsetxattr lsetxattr removexattr fremovexattr lremovexattr
""")
"""To write them."""

SHARING = _names("""
setfsuid setfsgid name_to_handle_at fanotify_init fanotify_mark flock fsync fdatasync syncfs
getxattr fgetxattr lgetxattr listxattr flistxattr llistxattr
""")
"""What a file server does besides."""

NETWORK = _names("socket connect bind socketpair sendmmsg recvmmsg")

_QUIETLY = {
    # What the interpreter and libraries try by themselves, and do without.
    **dict.fromkeys(FILES, errno.EACCES),
    **dict.fromkeys(CHANGES, errno.EROFS),
    "clone3": errno.ENOSYS,  # its arguments are out of a filter's sight; the C library then takes clone
    "clone": errno.EAGAIN,
    "open_by_handle_at": errno.EPERM,
    "statfs": errno.EACCES,
    "socket": errno.EACCES,
}


_NO_CODE = Where(2, _PROT_EXEC, 0)
# Shared memory without a file would count against no limit.
_MAPPED = Rule(((_NO_CODE, Where(3, _MAP_ANONYMOUS, 0)), (_NO_CODE, Where(3, _MAP_SHARED, 0))), errno.EPERM)


def threads() -> dict[str, Rule]:
    """clone for a thread, and for nothing else."""
    return {"clone": Rule(((Where(0, _THREAD | _NAMESPACES, _THREAD),),), errno.EPERM)}


def execution(file: int, *, libraries: bool) -> dict[str, Rule]:
    """For another program: what its start takes, and that it is executed, as the descriptor `file`. One that is linked
    dynamically may map code from files, such as there are."""
    executed = Rule(((Where(0, _INT, file), Where(4, _INT, _AT_EMPTY_PATH)),))
    found = {"execveat": executed, "arch_prctl": Rule(), "set_tid_address": Rule()}
    if libraries:
        private = Where(3, _MAP_SHARED | _MAP_ANONYMOUS, 0)
        found |= {name: Rule() for name in FILES}
        found["mmap"] = Rule((*(_MAPPED.either or ()), (Where(2, _PROT_WRITE, 0), private)), errno.EPERM)
    return found


def rules(names: Iterable[str], *, pid: int) -> dict[str, Rule]:
    """The rules for a process `pid` that may call `names`."""
    own = ((Where(0, _INT, pid),),)
    found = {name: Rule((), number) for name, number in _QUIETLY.items()}
    found["newfstatat"] = Rule(((Where(3, _AT_EMPTY_PATH, _AT_EMPTY_PATH),),), errno.EACCES)  # the C library's fstat
    found |= {name: Rule() for name in names}
    found["mmap"] = _MAPPED
    found["mprotect"] = Rule(((_NO_CODE,),), errno.EPERM)
    found["fcntl"] = Rule(tuple((Where(1, _INT, command),) for command in _FCNTLS), errno.EPERM)
    found["ioctl"] = Rule(tuple((Where(1, _INT, request),) for request in _IOCTLS), errno.ENOTTY)
    found["prctl"] = Rule(tuple((Where(0, _INT, option),) for option in _PRCTLS), errno.EPERM)
    found["prlimit64"] = Rule(((Where(0, _INT, 0),), *own), errno.EPERM)
    found["tgkill"] = Rule(own, errno.EPERM)
    return found


def keepers(workers: Mapping[str, Rule]) -> dict[str, Rule]:
    """The rules for the keeper of such workers. Each of them takes its own upon these, so they allow what those do, and
    besides what it takes to make a worker, to end one, and to have shared memory."""
    birth = (Where(0, _ALL, CLONE_FILES | signal.SIGCHLD),)
    return {
        **workers,
        "clone": Rule((birth, *(workers["clone"].either or ())), workers["clone"].refused),
        "wait4": Rule(),
        "kill": Rule(((Where(1, _INT, signal.SIGKILL),),)),
        "seccomp": Rule(((Where(0, _INT, _SET_MODE_FILTER),),)),
        "prctl": Rule(tuple((Where(0, _INT, option),) for option in (*_PRCTLS, _PDEATHSIG)), errno.EPERM),
        "mmap": Rule(((_NO_CODE,),), errno.EPERM),
        "prlimit64": Rule(),
        "tgkill": Rule(),
    }


def program(named: Mapping[str, Rule], machine: str, otherwise: int) -> bytes:
    """The filter for `machine`; names that it does not have are left out. Raises ValueError where it is too long."""
    table = numbers.table(machine)
    numbered = {table[name]: rule for name, rule in named.items() if name in table}
    return bpf.pack(bpf.assemble(numbered, machine, otherwise))


def compiled(named: Mapping[str, Rule], *, kill: bool) -> bytes:
    """The filter for this machine. Raises ValueError where there is none."""
    return program(named, os.uname().machine, bpf.KILL_PROCESS if kill else bpf.LOG)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def addressed(code: bytes, pid: int) -> bytes:
    """A program that was made for ANYBODY, for the process `pid`."""
    return code.replace(_ANYBODY, pid.to_bytes(4, sys.byteorder))


def install(code: bytes) -> None:
    """Holds every thread of this process to a program. Takes no_new_privs. Raises OSError."""
    given = _Program(len(code) // 8, code)
    if must("seccomp", _SET_MODE_FILTER, _FILTER_FLAG_TSYNC, ctypes.addressof(given)):
        raise OSError(errno.EBUSY, "a thread has a filter of its own")
