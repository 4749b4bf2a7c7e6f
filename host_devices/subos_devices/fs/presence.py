"""Whether the shared directory is there: a disk may be unplugged, a folder removed and made again.

While it is gone, whatever goes by a name or a node is EIO, and what is open works as far as the host lets it. When
the path is a directory again, that one is the root, and what the guest knew of the old one is stale. A path that was a
mount point is not there while nothing is mounted: an empty folder in a disk's place would look like the disk's loss.
"""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import NamedTuple

from subos_protocol.fuse_opcodes import FuseOpcode

from .lasting import ROOT_DEVICE, ROOT_IS_MOUNT
from .server import FuseServer, refusal

INTERVAL = 0.25  # seconds between two looks, and only while there are requests

STILL_SERVED = (
    FuseOpcode.FUSE_INIT,
    FuseOpcode.FUSE_DESTROY,
    FuseOpcode.FUSE_FORGET,
    FuseOpcode.FUSE_BATCH_FORGET,
    FuseOpcode.FUSE_INTERRUPT,
    FuseOpcode.FUSE_READ,
    FuseOpcode.FUSE_WRITE,
    FuseOpcode.FUSE_FLUSH,
    FuseOpcode.FUSE_FSYNC,
    FuseOpcode.FUSE_RELEASE,
    FuseOpcode.FUSE_RELEASEDIR,
    FuseOpcode.FUSE_LSEEK,
    FuseOpcode.FUSE_FALLOCATE,
    FuseOpcode.FUSE_COPY_FILE_RANGE,
    FuseOpcode.FUSE_GETLK,
    FuseOpcode.FUSE_SETLK,
    FuseOpcode.FUSE_SETLKW,
)


class Sight(NamedTuple):
    """Which directory is at a path: device, inode, and whether a file system begins there."""

    device: int
    inode: int
    is_mount: bool

    @classmethod
    def of(cls, path: str) -> Sight:
        """Raises OSError where there is no directory."""
        status = os.stat(path)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return cls(status.st_dev, status.st_ino, is_mount_point(path))


Look = Callable[[Sight | None], tuple[Sight, int]]
"""What is at the share's path now, and the O_PATH descriptor of that directory, the caller's, where it is another one
than what was given (None: none is wanted), else -1. Raises OSError."""


def looking_at(path: str) -> Look:
    """Looks by itself."""

    def look(known: Sight | None) -> tuple[Sight, int]:
        found = Sight.of(path)
        if known is None or found[:2] == known[:2]:
            return found, -1
        return found, os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    return look


class Presence:
    """Watches over `server`'s share by `look`. `next` is when that is due, on the monotonic clock."""

    def __init__(self, server: FuseServer, look: Look) -> None:
        self._server = server
        self._share = server.share
        self._look = look
        self._seen = self._share.lasting.session[ROOT_DEVICE : ROOT_IS_MOUNT + 1]
        recovered = self._share.recovered
        self._root = Sight(self._seen[0], self._seen[1], bool(self._seen[2])) if recovered else look(None)[0]
        self._seen[:] = array("Q", self._root)
        self.gone = False
        self.on_replaced: Callable[[], None] = lambda: None
        """Called when another directory has taken the place of the one before."""
        self.next = monotonic() + (0 if recovered else INTERVAL)

    def look(self) -> None:
        """One stat of the path. Changes what the server answers where that has become another directory, or none."""
        self.next = monotonic() + INTERVAL
        try:
            now, root = self._look(self._root)
        except OSError:
            self._disappear()
            return
        if self._root.is_mount and not now.is_mount:
            if root >= 0:
                os.close(root)
            self._disappear()
            return
        if root >= 0:
            self._share.replace_root(root)
            self._root = now._replace(is_mount=self._root.is_mount)
            self._seen[:] = array("Q", self._root)
            self.on_replaced()
        if self.gone:
            self.gone = False
            self._server.resume()

    def _disappear(self) -> None:
        if not self.gone:
            self.gone = True
            if self._root.is_mount:  # a disk that was unmounted, but for our jail: it may be pulled out next
                with suppress(OSError):
                    self._share.sync()
            self._server.suspend(refusal(errno.EIO), STILL_SERVED)


def is_mount_point(path: str) -> bool:
    """Whether a file system begins at `path`. Raises OSError where there is none."""
    return os.stat(path).st_dev != os.stat(os.path.join(path, "..")).st_dev
