"""How long the guest may believe what it was told: the share's cache modes, as data."""

from __future__ import annotations

from typing import NamedTuple

from subos_protocol.fuse_opcodes import FuseOpened

_DIRECT, _KEEP, _LIST = FuseOpened.FOPEN_DIRECT_IO, FuseOpened.FOPEN_KEEP_CACHE, FuseOpened.FOPEN_CACHE_DIR
_NOTHING = FuseOpened(0)


class CachePolicy(NamedTuple):
    """`valid`: seconds that names and attributes are good for. `opened`, `opened_directory`: what the guest is told
    when it opens a file or a directory. `compares`: whether its pages of a file that is as it was at the last open are
    kept, once its times were older than `settles` seconds: longer than the kernel lets a mapped page stay dirty
    (vm.dirty_expire_centisecs, 30 s, and the writer's turn after that). `negative`: whether names that are missing are
    cached too. `writeback`: whether it writes back later."""

    valid: int
    opened: FuseOpened = _NOTHING
    opened_directory: FuseOpened = _NOTHING
    compares: bool = False
    settles: int = 60
    negative: bool = False
    writeback: bool = False

    def forgetful(self) -> CachePolicy:
        """For a file system on which nothing is written back, so that times say nothing of mapped pages (tmpfs)."""
        return self._replace(compares=False)

    def writing_back(self) -> CachePolicy:
        return self._replace(writeback=True)


CACHE_POLICIES = {
    # What was read of a file stays while it is unchanged, also when it is opened again.
    "auto": CachePolicy(1, compares=True),
    # Pages are not looked at anew when a file is opened: a program's second start costs next to nothing.
    "steady": CachePolicy(1, _KEEP, _LIST, negative=True),
    "always": CachePolicy(86400, _KEEP, _LIST, negative=True),
    # Names and attributes as "always", but reads and writes go past the guest's page cache.
    "metadata": CachePolicy(86400, _DIRECT),
    "never": CachePolicy(0, _DIRECT),
}
