"""Whether the shared directory is there: a disk may be unplugged, a folder removed and made again.

While it is gone, whatever goes by a name or a node is EIO, and what is open works as far as the host lets it. When
the path is a directory again, that one is the root, and what the guest knew of the old one is stale. A path that was a
mount point is not there while nothing is mounted: an empty folder in a disk's place would look like the disk's loss.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from time import monotonic

from subos_protocol.fuse_opcodes import FuseOpcode

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


class Presence:
    """Watches over `server`'s share. `next` is when `look` is due, on the monotonic clock."""

    def __init__(self, server: FuseServer) -> None:
        self._server = server
        self._share = server.share
        self._root = os.stat(self._share.path)
        self._is_mount = is_mount_point(self._share.path)
        self.gone = False
        self.on_replaced: Callable[[], None] = lambda: None
        """Called when another directory has taken the place of the one before."""
        self.next = monotonic() + INTERVAL

    def look(self) -> None:
        """One stat of the path. Changes what the server answers where that has become another directory, or none."""
        self.next = monotonic() + INTERVAL
        path = self._share.path
        try:
            now = os.stat(path)
            there = stat.S_ISDIR(now.st_mode) and (not self._is_mount or is_mount_point(path))
        except OSError:
            there = False
        if not there:
            self._disappear()
            return
        if (now.st_dev, now.st_ino) != (self._root.st_dev, self._root.st_ino):
            try:
                self._share.replace_root()
            except OSError:
                self._disappear()
                return
            self._root = now
            self.on_replaced()
        if self.gone:
            self.gone = False
            self._server.resume()

    def _disappear(self) -> None:
        if not self.gone:
            self.gone = True
            self._server.suspend(refusal(errno.EIO), STILL_SERVED)


def is_mount_point(path: str) -> bool:
    """Whether a file system begins at `path`. Raises OSError where there is none."""
    return os.stat(path).st_dev != os.stat(os.path.join(path, "..")).st_dev
