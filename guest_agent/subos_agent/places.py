"""Places in the guest's file tree, found so that no user of it can lead root elsewhere.

A symbolic link is followed only where its folder is root's and nobody else may write in it: so `/var/run` works, and
a link that a user has laid in a home does not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import List, Optional

MAX_LINKS = 40  # as Linux has it
MODE = 0o755  # of folders that are made


def open_folder(path: str) -> int:
    """A descriptor (O_PATH) of the folder at the absolute `path`, whose missing parts are made. Raises OSError."""
    waiting = _parts(path)
    links = 0
    here = _root()
    try:
        while waiting:
            name = waiting.pop()
            target = _link_at(here, name)
            if target is None:
                below = _enter(here, name)
            else:
                links += 1
                if links > MAX_LINKS or not _is_roots_alone(here):
                    raise OSError(errno.ELOOP, "a link that root does not follow", path)
                waiting += _parts(target)
                below = _root() if target.startswith("/") else os.dup(here)
            os.close(here)
            here = below
        return here
    except BaseException:
        os.close(here)
        raise


def true_path(folder: int) -> str:
    """Where a descriptor's folder is."""
    return os.readlink(f"/proc/self/fd/{folder}")


def _root() -> int:
    return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _parts(path: str) -> List[str]:
    """The names on the way, the first one last."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _link_at(folder: int, name: str) -> Optional[str]:
    try:
        return os.readlink(name, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:  # it is no link
            return None
        raise


def _enter(folder: int, name: str) -> int:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):  # by somebody else, just now
            os.mkdir(name, MODE, dir_fd=folder)
        return os.open(name, flags, dir_fd=folder)


def _is_roots_alone(folder: int) -> bool:
    found = os.fstat(folder)
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
