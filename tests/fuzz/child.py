"""How a harness runs: in a child, which may die of its input; what did it is then in finding.bin."""

from __future__ import annotations

import mmap
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import atheris

LONGEST = 1 << 20  # bytes of an input


class Now:
    """The input that is being tried, as the parent sees it."""

    def __init__(self) -> None:
        self._bytes = mmap.mmap(-1, LONGEST)

    def note(self, data: bytes) -> None:
        self._bytes[: 4 + len(data)] = struct.pack("<I", len(data)) + data

    @property
    def data(self) -> bytes:
        (size,) = struct.unpack_from("<I", self._bytes)
        return self._bytes[4 : 4 + size]


def fuzz(folder: Path, harness: Callable[[bytes], None], seeds: Iterable[bytes], arguments: list[str]) -> None:
    """For good. `arguments` are libFuzzer's, and files to be tried instead."""
    again = [Path(word).read_bytes() for word in arguments if not word.startswith("-")]
    corpus = folder / "corpus"
    corpus.mkdir()
    arguments = [word for word in arguments if word.startswith("-")] + ["-runs=0"] * bool(again)
    for number, seed in enumerate(again or seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], str(corpus), f"-max_len={1 << 14}", "-timeout=20", *arguments], harness)
    atheris.Fuzz()


def main(run: Callable[[Path, Now, list[str]], None]) -> int:
    """Calls `run` in a child with a folder of its own; the exit status."""
    now = Now()
    with tempfile.TemporaryDirectory(prefix="subos-fuzz-") as folder:
        if (child := os.fork()) == 0:
            status = 1
            try:
                run(Path(folder), now, [os.path.abspath(word) if word[0] != "-" else word for word in sys.argv[1:]])
                status = 0
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        Path("finding.bin").write_bytes(now.data)
        print(f"fuzz: ended with status {status}; what did it is in finding.bin", file=sys.stderr)
    return int(status != 0)
