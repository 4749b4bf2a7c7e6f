"""System calls by number, for what neither Python nor every C library has a function for."""

from __future__ import annotations

import ctypes
import os

from . import numbers

# Without letting go of the interpreter's lock: after a `clone` there is nobody to give it back.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_numbers = numbers.table(numbers.MACHINE) if numbers.KNOWN else {}


def call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """The system call's result; -1 with errno set where it failed. Raises OSError on a machine that we have no numbers
    for."""
    if name not in _numbers:
        raise OSError(38, f"no number is known for {name} on {numbers.MACHINE}")
    converted = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result: int = _libc.syscall(ctypes.c_long(_numbers[name]), *converted)
    return result


def check(result: int, what: str = "") -> int:
    """`result`, where it is none below 0. Raises OSError."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}" if what else os.strerror(number))
    return result


def must(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """`call`; raises OSError that names the call."""
    return check(call(name, *arguments), name)


def prctl(option: int, argument: int) -> None:
    """prctl(2) with one argument. Raises OSError."""
    check(_libc.prctl(option, argument, 0, 0, 0), "prctl")
