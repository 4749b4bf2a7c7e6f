"""How long a turn of the processor a process asks for."""

from __future__ import annotations

import ctypes
import os
import struct

import pytest

from subos_devices.processes import TURN, take_short_turns

GETATTR = {"x86_64": 315, "aarch64": 275}  # asm/unistd.h
SIZE = 48  # bytes of struct sched_attr's first version
RELEASE = tuple(int(part) for part in os.uname().release.split(".")[:2])


def turn() -> int:
    """Nanoseconds, of this process."""
    buffer = ctypes.create_string_buffer(SIZE)
    call = ctypes.c_long(GETATTR[os.uname().machine])
    assert ctypes.CDLL(None).syscall(call, 0, buffer, SIZE, 0) == 0
    return int(struct.unpack("=IIQiIQQQ", buffer.raw)[5])


@pytest.mark.skipif(os.uname().machine not in GETATTR or RELEASE < (6, 12), reason="Linux takes no wish before 6.12")
def test_a_process_and_its_children_take_short_turns() -> None:
    ours, theirs = os.pipe()
    if os.fork() == 0:
        take_short_turns()
        if os.fork() == 0:
            os.write(theirs, str(turn()).encode())
        os._exit(0)
    os.wait()
    assert int(os.read(ours, 32)) == TURN
    os.close(ours)
    os.close(theirs)
    assert turn() != TURN
