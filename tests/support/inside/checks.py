"""What the programs of checks share. Each of these takes the folder to check and the names of checks:

    data.py FOLDER CHECK...

A check is a function that runs in a fresh folder of its own. It raises where the file system does otherwise than it
should, and returns what may differ from one file system to another, to be compared. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Check = Callable[[], Any]


@contextlib.contextmanager
def refused(*numbers: int) -> Iterator[None]:
    """The block must raise OSError with one of these numbers."""
    wanted = [errno.errorcode[number] for number in numbers]
    got = "allowed"
    try:
        yield
    except OSError as error:
        got = errno.errorcode[error.errno or 0]
    assert got in wanted, f"{got}, not {wanted}"


def outcome(call: Callable[[], object]) -> str:
    """The name of the errno, or "done"."""
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def same(found: object, wanted: object, what: object = "") -> None:
    assert found == wanted, f"{what} {found!r}, not {wanted!r}"


def reread(path: str) -> bytes:
    """What is in it, past this machine's page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


# --- other processes


def begin(work: Callable[[], object]) -> int:
    """Runs it in a child, whose exit status is 0, or 1 with a traceback."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def as_user(uid: int, work: Callable[[], Any], groups: Sequence[int] = ()) -> Any:
    """What it returns (as JSON has it) when a user of the group of the same number does it; None where it raised."""
    reader, writer = os.pipe()

    def become_and_work() -> None:
        os.setgroups(list(groups))
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        os.write(writer, json.dumps(work()).encode())

    child = begin(become_and_work)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    ended(child)
    return json.loads(said) if said else None


# --- the program


def main(checks: dict[str, Any]) -> None:
    """Runs those of `checks` that the command line names, all to their end. Prints JSON: a list of name, what went
    wrong ("" for nothing), and what the check returned."""
    root = os.path.abspath(sys.argv[1])
    results = []
    for name in sys.argv[2:]:
        os.umask(0o022)
        place = os.path.join(root, name)
        os.mkdir(place)
        os.chmod(place, 0o755)
        os.chdir(place)
        seen, wrong = None, ""
        try:
            seen = checks[name]()
        except BaseException:
            wrong = traceback.format_exc()
        results.append((name, wrong, seen))
    print(json.dumps(results))
