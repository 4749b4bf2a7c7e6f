"""Processes that die before or after a system call of the test's choice, and leave what they have written."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import traceback
from collections.abc import Callable

_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E  # linux/ptrace.h
_TRACESYSGOOD, _EXITKILL = 1, 1 << 20
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_INFO = struct.Struct("<B7xQQQ")  # struct ptrace_syscall_info as far as the number of a call that begins: op, .., nr
_BEGINS = 1  # of its op
_PR_SET_DUMPABLE = 4  # linux/prctl.h
CLONE_FILES = 0x400  # linux/sched.h
_SYS_CLONE = {"x86_64": 56}.get(os.uname().machine, 220)
_OF_MEMORY = {"x86_64": {9, 10, 11, 12, 25, 28, 202, 228}}.get(os.uname().machine, {215, 222, 226, 214, 233, 98, 113})
"""mmap, mprotect, munmap, brk, mremap, madvise, futex, clock_gettime: nobody else sees whether they came to pass."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def fork_with_descriptors() -> int:
    """os.fork(), but that both have one table of descriptors, as a keeper and its workers have."""
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    pid = int(_libc.syscall(_SYS_CLONE, ctypes.c_long(CLONE_FILES | signal.SIGCHLD), None, None, None, None))
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0
    python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return pid


def run(function: Callable[[], None], fork: Callable[[], int] = os.fork) -> None:
    """Runs `function` in a process that ends at once then, whatever is left to do. Raises AssertionError where it
    raised."""
    pid = fork()
    if pid == 0:
        _be(function)
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the process ended with {os.waitstatus_to_exitcode(status)}"


def run_until(prepare: Callable[[], Callable[[], object]], stop: int, fork: Callable[[], int] = os.fork) -> bool:
    """Runs what `prepare` returns in a process that is killed at its system calls' `stop`th beginning or end, counted
    from 0 and without those of `prepare`. False where it ended before that."""
    pid = fork()
    if pid == 0:
        _be(lambda: _be_traced(prepare()))
    _, status = os.waitpid(pid, 0)
    assert os.WIFSTOPPED(status), "the process cannot be traced"
    _ptrace(_SETOPTIONS, pid, _TRACESYSGOOD | _EXITKILL)
    seen, counts = 0, False
    while True:
        _ptrace(_SYSCALL, pid)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            assert status == 0, f"the process ended with {os.waitstatus_to_exitcode(status)}"
            return False
        assert os.WSTOPSIG(status) == _SYSCALL_STOP, f"the process got signal {os.WSTOPSIG(status)}"
        begins, number = _call(pid)
        if begins:
            counts = number not in _OF_MEMORY
        if not counts:
            continue
        if seen == stop:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return True
        seen += 1


def keep_dumpable() -> None:
    """After a change of user: or else its /proc/self is root's."""
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def _be(function: Callable[[], None]) -> None:
    status = 1
    try:
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _be_traced(function: Callable[[], object]) -> None:
    _ptrace(_TRACEME, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    function()


def _call(pid: int) -> tuple[bool, int]:
    """Whether the traced process stands at the beginning of a system call, and of which."""
    buffer = ctypes.create_string_buffer(_INFO.size)
    _libc.ptrace(_GET_SYSCALL_INFO, pid, ctypes.c_void_p(_INFO.size), buffer)
    op, _ip, _sp, number = _INFO.unpack(buffer.raw)
    return op == _BEGINS, number


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    if _libc.ptrace(request, pid, None, ctypes.c_void_p(data)) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace: {os.strerror(ctypes.get_errno())}")
