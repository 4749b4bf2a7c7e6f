"""Performs replays (subos_protocol.file_events) on a mounted share, so that the guest's kernel tells its watchers.

The share's server knows what is coming and changes nothing. Nothing is done outside the share: paths are walked from
its root, one component at a time, through no link and into no other file system.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from typing import Dict, List, Optional, Sequence, Tuple

from subos_protocol import file_events as kind
from subos_protocol.file_events import Replay, looking, token

from . import system
from .watches import Watches

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount:
    """Where the share `tag` is mounted in this guest."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._place = ""
        self._device = -1

    def open_root(self) -> int:
        """The share's root, by a mount that is not read-only, where the kernel lets us (since 5.12). Raises OSError
        where it is mounted nowhere."""
        root = self._open(self._place) if self._place else -1
        if root < 0:
            root = self._find()
        if not os.fstatvfs(root).f_flag & os.ST_RDONLY:
            return root
        try:
            view = system.writable(root)
        except OSError:
            return root
        os.close(root)
        return view

    def _find(self) -> int:
        for device, place in _mounts(self._tag):
            self._place, self._device = place, device
            root = self._open(place)
            if root >= 0:
                return root
        self._place = ""
        raise FileNotFoundError(errno.ENOENT, "the share is not mounted", self._tag)

    def _open(self, place: str) -> int:
        """The directory there, or -1 if something else is there (by now, or mounted over it)."""
        try:
            root = os.open(place, _DIRECTORY)
        except OSError:
            return -1
        if os.fstat(root).st_dev == self._device and system.is_fuse(root):
            return root
        os.close(root)
        return -1


def _mounts(tag: str) -> List[Tuple[int, str]]:
    """The device number of the share's file system and where its root is mounted (mountinfo(5)); the newest first."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            fields, source = before.split(" "), after.split(" ")
            if source[0] == "virtiofs" and _unescape(source[1]) == tag and fields[3] == "/":
                major, _, minor = fields[2].partition(":")
                found.append((os.makedev(int(major), int(minor)), _unescape(fields[4])))
    return found[::-1]


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


class Replayer:
    """Replays on the share `tag`. `watches` None: everything is taken for watched."""

    def __init__(self, tag: str, watches: Optional[Watches] = None) -> None:
        self._mount = Mount(tag)
        self._watches = watches

    def perform(self, replays: Sequence[Replay]) -> List[Tuple[int, int]]:
        """Performs them in order. Returns (number, errno) of each. The share is held only meanwhile, so that it can be
        unmounted."""
        try:
            tree = _Tree(self._mount.open_root())
        except OSError as error:
            return [(replay.number, error.errno or errno.EIO) for replay in replays]
        results = []
        try:
            for replay in replays:
                try:
                    self._perform(tree, replay)
                except OSError as error:  # of which the host then makes a SYNC
                    results.append((replay.number, error.errno or errno.EIO))
                else:
                    results.append((replay.number, 0))
        finally:
            tree.close()
        return results

    def _perform(self, tree: "_Tree", replay: Replay) -> None:
        directory = tree.directory(replay.directory)
        silent = self._is_silent(replay)
        if replay.kind == kind.RENAME:
            _rename(replay, directory, tree.directory(replay.to_directory))
            tree.forget(replay)
        elif silent:
            _refresh(directory, replay.name, looking(replay.number))
        else:
            _PERFORM[replay.kind](replay, directory)
        if replay.kind == kind.DELETE:
            tree.forget(replay)

    def _is_silent(self, replay: Replay) -> bool:
        """Whether a look is enough. Names that come and go are always replayed: that costs no more, and the kernel then
        knows that the directory has changed, and which inode lost a name, of which it may have others."""
        if replay.kind == kind.SYNC:
            return True
        if self._watches is None or replay.kind in (kind.CREATE, kind.DELETE, kind.RENAME):
            return False
        return self._watches.nobody(*(inode for inode in (replay.parent, replay.inode) if inode))


class _Tree:
    """Directories of the share, by path, for as long as replays are performed one after the other."""

    def __init__(self, root: int) -> None:
        self._device = os.fstat(root).st_dev
        self._open: Dict[bytes, int] = {b"": root}

    def directory(self, path: bytes) -> int:
        """Raises ESTALE where the path leads there no more: the host then says it anew."""
        try:
            return self._directory(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from error

    def _directory(self, path: bytes) -> int:
        found = self._open.get(path)
        if found is not None:
            return found
        if len(self._open) > 256:
            self._close_all_but_root()
        parent, _, name = path.rpartition(b"/")
        fd = os.open(name, _DIRECTORY, dir_fd=self._directory(parent))
        if os.fstat(fd).st_dev != self._device:
            os.close(fd)
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        self._open[path] = fd
        return fd

    def forget(self, replay: Replay) -> None:
        """A directory may have another path, or none."""
        if stat.S_ISDIR(replay.mode):
            self._close_all_but_root()

    def _close_all_but_root(self) -> None:
        for path in [path for path in self._open if path]:
            os.close(self._open.pop(path))

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()


def _look_up(directory: int, name: bytes) -> None:
    """Has the kernel look the name up whatever it has cached: as for everything that must not exist yet."""
    try:
        os.mkdir(name, dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.EPERM, errno.EROFS):
            raise


def _refresh(directory: int, name: bytes, gid: int) -> None:
    """The name, what it names and its directory, as they are now."""
    with system.AsGroup(gid):
        _look_up(directory, name)
        system.look(directory)
        with contextlib.suppress(FileNotFoundError):
            system.look(directory, name)


def _create(replay: Replay, directory: int) -> None:
    form = stat.S_IFMT(replay.mode)
    with system.AsGroup(token(replay.number)):
        if form == stat.S_IFDIR:
            os.mkdir(replay.name, dir_fd=directory)
        elif form == stat.S_IFLNK:
            os.symlink(b"-", replay.name, dir_fd=directory)
        else:
            os.mknod(replay.name, form | 0o600, dir_fd=directory)


def _delete(replay: Replay, directory: int) -> None:
    remove = os.rmdir if stat.S_ISDIR(replay.mode) else os.unlink
    with system.AsGroup(token(replay.number)):
        try:
            remove(replay.name, dir_fd=directory)
        except FileNotFoundError:  # the guest has seen that it is gone
            _look_up(directory, replay.name)
            remove(replay.name, dir_fd=directory)


def _rename(replay: Replay, directory: int, to_directory: int) -> None:
    """What the kernel has cached by the old name may be another file by now, or nothing: it is looked up first."""
    with system.AsGroup(token(replay.number)):
        _look_up(directory, replay.name)
        os.rename(replay.name, replay.to_name, src_dir_fd=directory, dst_dir_fd=to_directory)


def _written(replay: Replay, directory: int) -> None:
    with system.AsGroup(token(replay.number)):
        system.look(directory, replay.name)
        try:
            fd = os.open(replay.name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        except OSError as error:
            if error.errno != errno.ETXTBSY:
                raise
            system.touch(directory, replay.name, content=True)
            return
        try:
            system.allocate(fd)
        finally:
            os.close(fd)


def _modify(replay: Replay, directory: int) -> None:
    with system.AsGroup(token(replay.number)):
        system.look(directory, replay.name)
        system.touch(directory, replay.name, content=True)


def _attributes(replay: Replay, directory: int) -> None:
    with system.AsGroup(token(replay.number)):
        system.touch(directory, replay.name, content=False)


_PERFORM = {
    kind.CREATE: _create,
    kind.DELETE: _delete,
    kind.MODIFY: _modify,
    kind.WRITTEN: _written,
    kind.ATTRIB: _attributes,
}
