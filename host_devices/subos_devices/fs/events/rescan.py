"""What differs between what the guest knows and what is there: for when changes were missed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from subos_protocol import file_events as kind
from subos_protocol.fuse_opcodes import FUSE_ROOT_ID

from ..nodes import NAMELESS
from ..share import NS, Share
from .changes import Change, Place

_AT_ONCE = 256  # nodes and names that are looked at before anything else has its turn


def differences(
    share: Share, since: float, told: Callable[[Place], bool], only: bytes = b""
) -> Iterator[Change | None]:
    """Changes that make the guest see what is there; of what kept its name, what has changed since a time. None
    comes now and then, when it has been busy for long enough. A name is left out of which it is `told` anyway that it
    comes or goes. `only` is the one name of a share of a single file."""
    for change in _differences(share, since, only):
        if change is None or change.kind not in (kind.CREATE, kind.DELETE) or not told(change.at):
            yield change


def _differences(share: Share, since: float, only: bytes) -> Iterator[Change | None]:
    nodes, looked, since_ns = share.nodes, 0, int(since * NS)
    for nodeid in range(FUSE_ROOT_ID, nodes.end):
        looked += 1
        if looked % _AT_ONCE == 0:
            yield None
        parent = nodes.parents[nodeid]
        if not nodes.known(nodeid) or nodes.devices[nodeid]:
            continue
        if nodeid == FUSE_ROOT_ID:
            status = os.fstat(share.fd(nodeid))
        elif parent == NAMELESS or not nodes.known(parent):
            continue
        else:
            place = parent, nodes.names[nodeid]
            status_there = _status(share, place)
            old = nodeid, int(nodes.generations[nodeid])
            was_directory = nodes.kinds[nodeid] == stat.S_IFDIR >> 12
            left = status_there is None or not nodes.is_same(nodeid, status_there)
            moved = _moved_directory(share, nodeid) if left and was_directory else None
            if status_there is None:
                yield Change(kind.SYNC if moved else kind.DELETE, place, was_directory, old)
                if moved and moved.st_mtime_ns >= since_ns:
                    yield from _new_names(share, nodeid, since_ns, only)
                continue
            status = status_there
            is_directory = stat.S_ISDIR(status.st_mode)
            if left:
                if not moved and nodes.find(status.st_dev, status.st_ino) == 0:  # else it has seen what took the place
                    yield Change(kind.DELETE, place, was_directory, old)
                    yield Change(kind.CREATE, place, is_directory)
                else:
                    yield Change(kind.SYNC, place, is_directory)
                if moved and moved.st_mtime_ns >= since_ns:
                    yield from _new_names(share, nodeid, since_ns, only)
                continue
            if status.st_ctime_ns >= since_ns:
                written = stat.S_ISREG(status.st_mode) and status.st_mtime_ns >= since_ns
                yield Change(kind.WRITTEN if written else kind.ATTRIB, place, is_directory)
        if stat.S_ISDIR(status.st_mode) and status.st_mtime_ns >= since_ns:
            yield from _new_names(share, nodeid, since_ns, only)


def _moved_directory(share: Share, nodeid: int) -> os.stat_result | None:
    """The status of a directory that has left its name but is still there, if it is. It must not be removed from the
    guest's tree by a replay: the kernel would take it for dead (S_DEAD), and find nothing in it wherever it is."""
    try:
        status = os.fstat(share.fd(nodeid))
    except OSError:
        return None
    return status if status.st_nlink else None


def _new_names(share: Share, directory: int, since_ns: int, only: bytes) -> Iterator[Change | None]:
    """Names that the guest has not seen, of what has changed since."""
    nodes = share.nodes
    known = {nodes.names[nodeid] for nodeid in nodes.children(directory)}
    try:
        fd = share.reopen(share.fd(directory), os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        names = [os.fsencode(name) for name in os.listdir(fd)]
    finally:
        os.close(fd)
    for looked, name in enumerate(names, 1):
        if looked % _AT_ONCE == 0:
            yield None
        if name not in known and only in (b"", name):
            status = _status(share, (directory, name))
            if status is not None and status.st_ctime_ns >= since_ns:
                yield Change(kind.CREATE, (directory, name), stat.S_ISDIR(status.st_mode))


def _status(share: Share, place: Place) -> os.stat_result | None:
    try:
        return os.stat(place[1], dir_fd=share.fd(place[0]), follow_symlinks=False)
    except OSError:
        return None
