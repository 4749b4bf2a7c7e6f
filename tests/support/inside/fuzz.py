"""Random operations on one file, beside what they do to bytes in memory:  fuzz.py FILE cached|direct SEED COUNT

Prints the SHA-256 of what is in the file at the end. The file is read and written, by mapping too, cut, grown, punched,
copied within, closed and opened again, and what is cached of it is dropped now and then. `direct` reads and writes
with O_DIRECT, whole pages. Standard library only.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import random
import sys
from collections.abc import Callable

SIZE = 256 << 10  # bytes that the file may have
LONGEST = 48 << 10  # of one operation
PAGE = 4096
KEEP_SIZE, PUNCH_HOLE = 1, 2  # linux/falloc.h

libc = ctypes.CDLL(None, use_errno=True)


class Fuzz:
    """The file, and in `data` what it should be."""

    def __init__(self, path: str, direct: bool, seed: int) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.flags = os.O_RDWR | (os.O_DIRECT if direct else 0)
        self.unit = PAGE if direct else 1
        self.buffer = mmap.mmap(-1, SIZE)  # at a page's begin, as O_DIRECT likes it
        self.fd = os.open(path, self.flags | os.O_CREAT | os.O_TRUNC, 0o600)
        self.data = bytearray()
        self.log: list[str] = []
        self.operations: list[Callable[[], object]] = [self.read] * 4 + [self.write] * 4
        self.operations += [self.truncate, self.punch, self.allocate, self.copy, self.reopen, self.forget]
        if not direct:
            self.operations += [self.read_mapped, self.write_mapped] * 2

    def span(self, end: int = SIZE) -> tuple[int, int]:
        """Offset and length of something before `end`."""
        offset = self.random.randrange(0, max(end, 1), self.unit)
        length = self.random.randrange(0, min(LONGEST, SIZE - offset) + 1, self.unit)
        return offset, length

    def patch(self, offset: int, piece: bytes) -> None:
        if piece and len(self.data) < offset:
            self.data += bytes(offset - len(self.data))
        self.data[offset : offset + len(piece)] = piece

    def run(self, count: int) -> str:
        for number in range(count):
            operation = self.random.choice(self.operations)
            try:
                self.log.append(f"{number} {operation.__name__} {operation()}")
                assert os.fstat(self.fd).st_size == len(self.data), f"{os.fstat(self.fd).st_size}, not {len(self.data)}"
            except BaseException:
                print("\n".join(self.log[-30:]), number, operation.__name__, file=sys.stderr)
                raise
        self.reopen()
        self.compare(0, self.get(0, SIZE))
        os.close(self.fd)
        return hashlib.sha256(self.data).hexdigest()

    def get(self, offset: int, length: int) -> bytes:
        got = os.preadv(self.fd, [memoryview(self.buffer)[:length]], offset) if length else 0
        return self.buffer[:got]

    def compare(self, offset: int, found: bytes) -> None:
        wanted = self.data[offset : offset + len(found)]
        if found != wanted:
            at = next(at for at, (one, other) in enumerate(zip(found, wanted, strict=False)) if one != other)
            raise AssertionError(f"byte {offset + at} is {found[at]}, not {wanted[at]}")

    # --- operations: each returns what to say of it

    def read(self) -> object:
        offset, length = self.span()
        found = self.get(offset, length)
        assert len(found) == len(self.data[offset : offset + length]), f"{len(found)} bytes of {length} at {offset}"
        self.compare(offset, found)
        return offset, length

    def write(self) -> object:
        offset, length = self.span()
        self.buffer[:length] = piece = self.random.randbytes(length)
        wrote = os.pwritev(self.fd, [memoryview(self.buffer)[:length]], offset) if length else 0
        assert wrote == length
        self.patch(offset, piece)
        return offset, length

    def truncate(self) -> object:
        size, _ = self.span()
        os.ftruncate(self.fd, size)
        self.data = self.data[:size] + bytes(max(0, size - len(self.data)))
        return size

    def punch(self) -> object:
        offset, length = self.span()
        length = max(length, self.unit)
        self._fallocate(PUNCH_HOLE | KEEP_SIZE, offset, length)
        end = min(offset + length, len(self.data))
        if end > offset:
            self.data[offset:end] = bytes(end - offset)
        return offset, length

    def allocate(self) -> object:
        offset, length = self.span()
        length = max(length, self.unit)
        self._fallocate(0, offset, length)
        self.data += bytes(max(0, offset + length - len(self.data)))
        return offset, length

    def _fallocate(self, mode: int, offset: int, length: int) -> None:
        if libc.fallocate64(self.fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
            raise OSError(ctypes.get_errno(), f"fallocate {mode} {offset} {length}")

    def copy(self) -> object:
        """Within the file, where the two do not overlap."""
        half = SIZE // 2
        source, length = self.span(half)
        length = min(length, half - source)
        target = half + self.span(half)[0]
        length = min(length, SIZE - target)
        if self.random.random() < 0.5:
            source, target = target, source
        copied = os.copy_file_range(self.fd, self.fd, length, source, target) if length else 0
        piece = bytes(self.data[source : source + copied])
        assert copied == min(length, max(0, len(self.data) - source)), f"{copied} of {length}"
        self.patch(target, piece)
        return source, target, length

    def reopen(self) -> object:
        os.close(self.fd)
        self.fd = os.open(self.path, self.flags)
        return ""

    def forget(self) -> object:
        os.fsync(self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return ""

    def read_mapped(self) -> object:
        if not self.data:
            return "nothing"
        offset, length = self.span(len(self.data))
        with mmap.mmap(self.fd, len(self.data), mmap.MAP_SHARED, mmap.PROT_READ) as mapping:
            self.compare(offset, mapping[offset : offset + length])
        return offset, length

    def write_mapped(self) -> object:
        if not self.data:
            return "nothing"
        offset, length = self.span(len(self.data))
        piece = self.random.randbytes(min(length, len(self.data) - offset))
        with mmap.mmap(self.fd, len(self.data)) as mapping:
            mapping[offset : offset + len(piece)] = piece
            if self.random.random() < 0.3:
                mapping.flush()
        self.patch(offset, piece)
        return offset, len(piece)


if __name__ == "__main__":
    path, kind, seed, count = sys.argv[1:]
    print(Fuzz(path, kind == "direct", int(seed)).run(int(count)))
