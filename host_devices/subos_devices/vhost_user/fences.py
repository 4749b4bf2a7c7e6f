"""A full memory fence for rings that two processors share.

x86 reorders a store only after a later load, and any locked instruction forbids that: taking a lock nobody else
holds is such an instruction, and costs 55 ns. Processors with weaker ordering get libatomic's
`atomic_thread_fence`, and need it also before an index is published and after one is read.
"""

from __future__ import annotations

import _thread
import os
from contextlib import AbstractContextManager

SEQ_CST = 5  # __ATOMIC_SEQ_CST


class _ThreadFence:
    """`with fence: pass` is atomic_thread_fence(seq_cst)."""

    def __init__(self) -> None:
        import ctypes
        from ctypes.util import find_library  # a megabyte of modules, which x86 has no use for

        library = ctypes.CDLL(find_library("atomic") or "libatomic.so.1")
        self._fence = library.atomic_thread_fence
        self._fence.argtypes = [ctypes.c_int]
        self._fence.restype = None

    def __enter__(self) -> None:
        self._fence(SEQ_CST)

    def __exit__(self, *_: object) -> None:
        pass


STRONG = os.uname().machine in ("x86_64", "i386", "i686", "AMD64")
"""True where loads are not reordered with loads, nor stores with stores (x86 TSO)."""

fence: AbstractContextManager[object] = _thread.allocate_lock() if STRONG else _ThreadFence()
"""Enter and leave it: nothing before is reordered with anything after."""
