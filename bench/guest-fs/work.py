"""The guest's half of bench/guest-fs: does one row's work on one share, and says how long it took.

    python work.py ROW TAG FOLDER FIXTURES [count]

mounts the share TAG on FOLDER, so that nothing of it is cached, does the work and unmounts it. FIXTURES is the host's
folder of what is worked on. Prints one JSON object: "seconds", what the row's check wants to know, and with `count`
"requests", FUSE requests by opcode. Needs the standard library only.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

TRACING = Path("/sys/kernel/tracing")
MIB = 1 << 20
FOLDERS, FILES = 20, 100  # 2,000 files
RANDOM_OPS = 4000
SQL_TRANSACTIONS, SQL_ROWS = 200, 10

EXACT = {"PATH": os.environ["PATH"], "HOME": "/root", "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1", "TMPDIR": "/tmp"}


def main(row, tag, folder, fixtures, count=""):
    folder, fixtures = Path(folder), Path(fixtures)
    folder.mkdir(parents=True, exist_ok=True)
    if row in SETTLE:
        with mounted(tag, folder):
            SETTLE[row](folder)
    with mounted(tag, folder), counted(folder, bool(count)) as requests:
        began = time.perf_counter()
        answer = WORK[row](folder, fixtures) or {}
        answer.setdefault("seconds", time.perf_counter() - began)
    print(json.dumps({**answer, "requests": requests}))


@contextmanager
def mounted(tag, folder):
    """The share on the folder. It may have been plugged a moment ago."""
    command = ["mount", "-t", "virtiofs", tag, str(folder)]
    deadline = time.monotonic() + 20
    while (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        if time.monotonic() > deadline:
            sys.exit(done.stderr)
        time.sleep(0.1)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def counted(folder, wanted):
    """Opcodes and how often the kernel sent them for this share; empty where it cannot count (before Linux 6.11)."""
    requests = {}
    if not wanted:
        yield requests
        return
    if not TRACING.joinpath("events").exists():
        subprocess.run(["mount", "-t", "tracefs", "tracefs", str(TRACING)], check=False)
    event = TRACING / "events/fuse/fuse_request_send"
    if not event.exists():
        yield requests
        return
    dev = os.stat(folder).st_dev
    number = os.major(dev) << 20 | os.minor(dev)  # the kernel's own form of it
    key = f"hist:keys=opcode if connection == {number}"
    (event / "trigger").write_text(key)
    try:
        yield requests
        for opcode, hits in re.findall(r"opcode:\s*(\d+) } hitcount:\s*(\d+)", (event / "hist").read_text()):
            requests[opcode] = int(hits)
    finally:
        (event / "trigger").write_text(f"!{key}")


def run(*command, cwd=None):
    """A command's standard output; its failure is ours."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=EXACT, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{command[0]} ended with status {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


# --- data


def write(folder, fixtures):
    """Blocks of 1 MiB, each begins with its number."""
    block = bytearray(os.urandom(MIB))
    with open(folder / "big", "wb", buffering=0) as file:
        for number in range(256):
            block[:8] = number.to_bytes(8, "little")
            if file.write(block) != MIB:
                sys.exit("a short write")


def read(folder, fixtures):
    """Every page of every block begins with the page's number."""
    block = bytearray(MIB)
    words = memoryview(block).cast("Q")
    with open(folder / "big", "rb", buffering=0) as file:
        for number in range(256):
            if file.readinto(block) != MIB:
                sys.exit("a short read")
            first = number * 256
            if words[::512].tolist() != list(range(first, first + 256)):
                sys.exit(f"the block {number} is not what was written")


def fio(folder, *options):
    """fio's time of its one job; it checks each block that it reads."""
    job = ("--name=job", "--bs=4k", "--size=64m", "--ioengine=psync", "--thread", "--randseed=7", "--fallocate=none")
    report = json.loads(
        run("fio", *job, f"--filename={folder}/random", f"--number_ios={RANDOM_OPS}", *options, "--output-format=json")
    )["jobs"][0]
    kind = report["read"] if report["read"]["total_ios"] else report["write"]
    if report["error"] or kind["total_ios"] != RANDOM_OPS:
        sys.exit(f"fio: error {report['error']}, {kind['total_ios']} of {RANDOM_OPS} done")
    return {"seconds": kind["runtime"] / 1000}


def randread(folder, fixtures):
    return fio(folder, "--rw=randread", "--verify=pattern", "--verify_pattern=%o", "--verify_fatal=1")


def randwrite(folder, fixtures):
    return fio(folder, "--rw=randwrite", "--refill_buffers=1", "--overwrite=1")


# --- names


def names(root):
    return [root / f"d{folder:02d}/f{file:03d}" for folder in range(FOLDERS) for file in range(FILES)]


def stat(folder, fixtures):
    return {"bytes": sum(os.stat(path).st_size for path in names(folder / "files"))}


def walk(folder, fixtures):
    """What `ls -lR` and `du` do: lists each folder, and asks for each file's status."""
    total = 0
    for root, _folders, files in os.walk(folder / "files"):
        total += sum(os.lstat(os.path.join(root, name)).st_size for name in files)
    return {"bytes": total}


def untar(folder, fixtures):
    run("tar", "-xf", fixtures / "files.tar", "-C", folder)


def remove(folder, fixtures):
    run("rm", "-rf", folder / "files")


# --- programs


def git_settle(folder):
    """The index learns the guest's view of the files."""
    run("git", "status", "--porcelain", cwd=folder / "tree")


def git_status(folder, fixtures):
    return {"output": run("git", "status", "--porcelain", cwd=folder / "tree")}


def git_clone(folder, fixtures):
    run("git", "clone", "--quiet", folder / "tree", folder / "clone")


def make(folder, fixtures):
    run("make", "-s", "-j2", cwd=folder / "project")
    return {"output": run(folder / "project/program")}


def sqlite(folder, fixtures):
    """Inserts in transactions, then selects by key."""
    database = sqlite3.connect(folder / "database", isolation_level=None)
    mode = database.execute("pragma journal_mode=wal").fetchone()[0]
    database.execute("pragma synchronous=normal")
    database.execute("create table item (id integer primary key, name text, value integer)")
    database.execute("create index by_name on item (name)")
    for transaction in range(SQL_TRANSACTIONS):
        database.execute("begin")
        first = transaction * SQL_ROWS
        items = [(n, f"item {n * 7919 % 100003}", n * n) for n in range(first, first + SQL_ROWS)]
        database.executemany("insert into item values (?, ?, ?)", items)
        database.execute("commit")
    database.close()
    database = sqlite3.connect(folder / "database", isolation_level=None)
    found = sum(
        database.execute("select value from item where name = ?", (f"item {n * 7919 % 100003}",)).fetchone()[0]
        for n in range(SQL_TRANSACTIONS * SQL_ROWS)
    )
    database.close()
    return {"mode": mode, "sum": found}


def pip(folder, fixtures):
    wheel = next((fixtures / "wheels").glob("*.whl"))
    options = ("--quiet", "--no-index", "--no-deps", "--no-cache-dir", "--no-compile", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "install", *options, "--target", folder / "packages", wheel)


SETTLE = {"git-status": git_settle}
WORK = {
    "write-256m": write,
    "read-256m": read,
    "randread-4k": randread,
    "randwrite-4k": randwrite,
    "stat-2000": stat,
    "walk-2000": walk,
    "untar-2000": untar,
    "rm-2000": remove,
    "git-status": git_status,
    "git-clone": git_clone,
    "make-j2": make,
    "sqlite-wal": sqlite,
    "pip-install": pip,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
