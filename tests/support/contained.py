"""Runs hostile tests where they can do no harm: in a mount namespace in which all but one folder is read-only.

    @contained
    def test_that_sends_anything(tmp_path: Path) -> None: ...

The test runs in a forked child. `tmp_path` is there, as a fresh tmpfs without devices or suid; every other mount is
read-only. That this holds is checked before the test begins. The child's traceback is the failure's message.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import inspect
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .children import in_child

CLONE_NEWNS, CLONE_NEWUSER = 0x0002_0000, 0x1000_0000  # linux/sched.h
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 1 << 14, 1 << 18  # linux/mount.h
SYS_MOUNT_SETATTR = 442  # the same on every architecture
AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = -100, 0x8000, 1

_libc = ctypes.CDLL(None, use_errno=True)

Test = TypeVar("Test", bound=Callable[..., None])


def contained(test: Test) -> Test:
    """Decorates a test that takes `tmp_path` and starts whatever it talks to itself: what a fixture opened before
    would be a way out, and fails the test."""
    if "tmp_path" not in inspect.signature(test).parameters:
        raise TypeError(f"{test.__name__} does not take tmp_path, the only place it may write to")

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        run_contained(fixtures["tmp_path"], functools.partial(test, *args, **fixtures))

    return run  # type: ignore[return-value]


def run_contained(folder: Path, function: Callable[[], None]) -> None:
    """Runs `function` in a child that can write to `folder` alone. Raises AssertionError with what it raised."""

    def run() -> None:
        contain(folder)
        check_contained(folder)
        function()

    in_child(run)


def contain(folder: Path) -> None:
    """Takes this process, for good, into a namespace where everything but `folder` is read-only."""
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", CLONE_NEWNS if uid == 0 else CLONE_NEWNS | CLONE_NEWUSER)
    if uid != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    _call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    read_only = struct.pack("<QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    _call("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, read_only, len(read_only))
    _call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", MS_NOSUID | MS_NODEV, b"size=256m,mode=0755")


def check_contained(folder: Path) -> None:
    """Raises unless `folder` can be written to, nothing else that is mounted can, and no descriptor leads out."""
    for fd in os.listdir("/proc/self/fd"):
        try:
            is_folder = stat.S_ISDIR(os.fstat(int(fd)).st_mode)
        except OSError:
            continue  # the one that listed the folder
        assert not is_folder, f"descriptor {fd} is a folder that was opened outside: not contained"
    (folder / "probe").write_bytes(b"x")
    (folder / "probe").unlink()
    places = {Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    for place in {*places, folder.parent, Path("/"), Path.home()} - {folder}:
        if not place.is_dir() or str(place).startswith("/proc"):
            continue
        try:
            os.close(os.open(place, os.O_TMPFILE | os.O_RDWR))
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.EOPNOTSUPP, errno.ENOENT, errno.EISDIR):
                continue
            raise
        raise AssertionError(f"{place} can be written to: not contained")
    options = [line.split()[5] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    writable = [option for option in options if "ro" not in option.split(",")]
    assert len(writable) == 1, f"{len(writable)} mounts are writable: not contained"


def _call(name: str, *args: object) -> None:
    converted = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    if getattr(_libc, name)(*converted) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
