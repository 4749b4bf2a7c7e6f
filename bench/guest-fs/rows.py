"""The host's half of the rows: what is worked on (`Fixtures`), how a share is prepared, how the result is checked.

The work itself is work.py's, which the guest runs; WORK there and ROWS here have the same names. A check looks at the
share on the host, where the guest's caches cannot help, and raises BenchError for what is not as it must be.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from work import FILES, FOLDERS, MIB, RANDOM_OPS, SQL_ROWS, SQL_TRANSACTIONS, names

from peers import BenchError, command, say

WHEEL = "pygments"
BLOCK = 4096
C_FILES = 30
CHANGED = 5  # files of the tree that `git status` is to find

Answer = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """`prepare(share, fixtures)` fills an empty share, `check(share, fixtures, answer)` looks at what was done."""

    title: str
    prepare: Callable[[Path, Fixtures], None]
    check: Callable[[Path, Fixtures, Answer], None]
    needs: str = ""  # a program, besides the guest's git, make, cc, tar


class Fixtures:
    """What is worked on, made once in `folder`: every round and both shares get copies of the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files, self.tar = folder / "files", folder / "files.tar"
        self.tree, self.project, self.wheels = folder / "tree", folder / "project", folder / "wheels"
        makers = {
            self.files: make_files,
            self.tar: self._make_tar,
            self.tree: make_tree,
            self.project: make_project,
            self.wheels: download_wheel,
        }
        for path, maker in makers.items():
            if not path.exists():
                say(f"making {path.name}")
                with complete(path) as unfinished:
                    maker(unfinished)

    def _make_tar(self, path: Path) -> None:
        with tarfile.open(path, "w") as tar:
            tar.add(self.files, "files")


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """A path to make something under, which becomes `path` only when it was made."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    yield unfinished
    unfinished.rename(path)


def make_files(root: Path) -> None:
    """2,000 files of up to 16 KiB in 20 folders, the same on every machine."""
    numbers = random.Random(1)
    for path in names(root):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(numbers.randbytes(numbers.randrange(16 << 10)))


def make_tree(root: Path) -> None:
    """This Python's standard library, without its tests, as a git repository of one commit."""
    skip = shutil.ignore_patterns("__pycache__", "test", "*-packages", "lib-dynload", "config-*")
    shutil.copytree(sysconfig.get_path("stdlib"), root, symlinks=True, ignore=skip)
    author = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    command("git", "init", "--quiet", cwd=root)
    command("git", "add", "--all", "--force", cwd=root)
    command("git", *author, "commit", "--quiet", "--message", "The standard library", cwd=root)
    command("git", "gc", "--quiet", cwd=root)


def make_project(root: Path) -> None:
    """A program in C: 30 files with a header each, and a Makefile."""
    root.mkdir()
    for number in range(C_FILES):
        (root / f"part{number}.h").write_text(f"int part{number}(int);\n")
        includes = "".join(f'#include "part{other}.h"\n' for other in range(C_FILES))
        (root / f"part{number}.c").write_text(
            f"#include <stdio.h>\n#include <stdlib.h>\n{includes}"
            f"int part{number}(int n) {{ return n > 99 ? n : part{(number + 1) % C_FILES}(n + 1); }}\n"
        )
    (root / "main.c").write_text('#include <stdio.h>\n#include "part0.h"\nint main() { printf("%d\\n", part0(0)); }\n')
    objects = " ".join(f"part{number}.o" for number in range(C_FILES))
    (root / "Makefile").write_text(f"program: main.o {objects}\n\t$(CC) -o $@ $^\n%.o: %.c\n\t$(CC) -c -o $@ $<\n")


def download_wheel(root: Path) -> None:
    command(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", root, WHEEL)


# --- shares before


def nothing(share: Path, fixtures: Fixtures) -> None:
    pass


def numbered_pages(share: Path, fixtures: Fixtures) -> None:
    block = bytearray(os.urandom(MIB))
    with (share / "big").open("wb") as file:
        for number in range(256):
            for page in range(256):
                struct.pack_into("<Q", block, page * BLOCK, number * 256 + page)
            file.write(block)


def offsets(share: Path, fixtures: Fixtures) -> None:
    """What fio's verify_pattern=%o wants to read: each block is its own offset, over and over."""
    with (share / "random").open("wb") as file:
        for offset in range(0, 64 * MIB, BLOCK):
            file.write(struct.pack("<Q", offset) * (BLOCK // 8))


def zeros(share: Path, fixtures: Fixtures) -> None:
    (share / "random").write_bytes(bytes(64 * MIB))


def files(share: Path, fixtures: Fixtures) -> None:
    copy(fixtures.files, share / "files")


def tree(share: Path, fixtures: Fixtures) -> None:
    copy(fixtures.tree, share / "tree")


def changed_tree(share: Path, fixtures: Fixtures) -> None:
    tree(share, fixtures)
    for path in changed(share / "tree"):
        with path.open("a") as file:
            file.write("# changed\n")


def changed(root: Path) -> list[Path]:
    return sorted(root.glob("*.py"))[:CHANGED]


def project(share: Path, fixtures: Fixtures) -> None:
    copy(fixtures.project, share / "project")


def copy(source: Path, target: Path) -> None:
    command("cp", "-a", "--reflink=never", source, target)


# --- and after


def big_written(share: Path, fixtures: Fixtures, answer: Answer) -> None:
    with (share / "big").open("rb") as file:
        numbers = [int.from_bytes(block[:8], "little") for block in iter(lambda: file.read(MIB), b"")]
    same(numbers, list(range(256)), "the numbers of the blocks")
    same((share / "big").stat().st_size, 256 * MIB, "the file's size")


def fine(share: Path, fixtures: Fixtures, answer: Answer) -> None:
    """The guest has checked what it read."""


def blocks_written(share: Path, fixtures: Fixtures, answer: Answer) -> None:
    """fio writes no block twice, and never zeros."""
    data = memoryview((share / "random").read_bytes())
    zero = bytes(BLOCK)
    same(len(data), 64 * MIB, "the file's size")
    same(sum(data[at : at + BLOCK] != zero for at in range(0, len(data), BLOCK)), RANDOM_OPS, "blocks written")


def sizes_seen(share: Path, fixtures: Fixtures, answer: Answer) -> None:
    same(answer["bytes"], sum(path.stat().st_size for path in names(fixtures.files)), "the sum of the sizes")


def files_unpacked(share: Path, fixtures: Fixtures, answer: Answer) -> None:
    difference(fixtures.files, share / "files")


def files_removed(share: Path, fixtures: Fixtures, answer: Answer) -> None:
    same(os.listdir(share), [], "what is left")


def changes_found(share: Path, fixtures: Fixtures, answer: Answer) -> None:
    wanted = [f" M {path.name}" for path in changed(share / "tree")]
    same(sorted(answer["output"].splitlines()), wanted, "what git found changed")


def tree_cloned(share: Path, fixtures: Fixtures, answer: Answer) -> None:
    difference(fixtures.tree, share / "clone", "--exclude=.git")
    command("git", "-C", share / "clone", "-c", "safe.directory=*", "fsck", "--connectivity-only")


def program_runs(share: Path, fixtures: Fixtures, answer: Answer) -> None:
    same(answer["output"], "100\n", "what the program printed")
    same(command(share / "project/program"), "100\n", "what the program printed on the host")


def database_intact(share: Path, fixtures: Fixtures, answer: Answer) -> None:
    count = SQL_TRANSACTIONS * SQL_ROWS
    same(answer["mode"], "wal", "the journal's mode")
    same(answer["sum"], sum(n * n for n in range(count)), "the sum of what was selected")
    database = sqlite3.connect(share / "database")
    same(database.execute("pragma integrity_check").fetchone()[0], "ok", "the database's integrity")
    same(database.execute("select count(*) from item").fetchone()[0], count, "rows on the host")
    database.close()


def packages_installed(share: Path, fixtures: Fixtures, answer: Answer) -> None:
    for wheel in fixtures.wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                if not member.filename.endswith("/RECORD") and ".data/" not in member.filename:
                    installed = (share / "packages" / member.filename).read_bytes()
                    same(zlib.crc32(installed), member.CRC, f"the checksum of {member.filename}")


def difference(wanted: Path, seen: Path, *options: str) -> None:
    """Raises BenchError where two folders are not the same."""
    done = subprocess.run(["diff", "-rq", "--no-dereference", *options, wanted, seen], capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{seen} is not {wanted}:\n{(done.stdout or done.stderr)[:2000]}")


def same(seen: object, wanted: object, what: str) -> None:
    if seen != wanted:
        raise BenchError(f"{what}: {str(seen)[:500]}, and not {str(wanted)[:500]}")


COUNT = f"{FOLDERS * FILES:,}"
ROWS = {
    "write-256m": Row("write 256 MiB in 1 MiB blocks", nothing, big_written),
    "read-256m": Row("read them", numbered_pages, fine),
    "randread-4k": Row(f"fio: {RANDOM_OPS:,} random reads of 4 KiB", offsets, fine, "fio"),
    "randwrite-4k": Row(f"fio: {RANDOM_OPS:,} random writes of 4 KiB", zeros, blocks_written, "fio"),
    "stat-2000": Row(f"stat {COUNT} files by name", files, sizes_seen),
    "walk-2000": Row(f"list and stat {COUNT} files", files, sizes_seen),
    "untar-2000": Row(f"unpack {COUNT} files", nothing, files_unpacked),
    "rm-2000": Row(f"remove {COUNT} files", files, files_removed),
    "git-status": Row("git status of Python's standard library", changed_tree, changes_found),
    "git-clone": Row("git clone of it", tree, tree_cloned),
    "make-j2": Row(f"compile {C_FILES + 1} files of C", project, program_runs),
    "sqlite-wal": Row(
        f"{SQL_TRANSACTIONS} transactions, {SQL_TRANSACTIONS * SQL_ROWS:,} selects", nothing, database_intact
    ),
    "pip-install": Row(f"pip install {WHEEL} from its wheel", nothing, packages_installed),
}
