"""A share whose workers die: a request is served by a worker of its own, which goes on with what the one before left.

The test's process is the keeper: it has the table of descriptors and the memory that outlives the workers.
"""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from subos_devices.fs.device import FsDevice
from subos_devices.fs.lasting import Lasting
from subos_devices.vhost_user.device import DeviceSpec
from subos_devices.vhost_user.virtqueue import Virtqueue
from support import dying, fuse_requests
from support.fuse_requests import Guest, Reply

from .conftest import NoWorker
from .mortal import open_fds

NODES = 1 << 12
_RESULT = 1 << 20  # bytes of what a worker tells the test

_BUFFERS = slice(0x10000, 0x40000)  # of a guest's memory

T = TypeVar("T")


class Request(NamedTuple):
    opcode: int
    node: int
    arguments: bytes = b""
    data: bytes = b""
    room: int = 0
    data_room: int = 0
    reply: bool = True
    extensions: bytes = b""


class Lives:
    """Use it in a `with`. `known` is what the worker of the last request knew in the end. `uid` is whose the workers
    are."""

    def __init__(self, root: Path, *, uid: int = os.geteuid(), **options: str | bool) -> None:
        if gc.isenabled():  # what is garbage here is so in each worker, and its descriptors are closed for all
            gc.collect()
            gc.disable()
        self.uid = uid
        self._root = os.open(root, os.O_PATH)
        way = root if uid == os.geteuid() else f"/proc/self/fd/{self._root}"  # folders above it are not for everybody
        self.spec = DeviceSpec("fs", "share", {"shared_dir": str(way), **options})
        self.lasting = Lasting(NODES)
        self.guest = Guest()
        self.known: dict[str, Any] = {}
        self._left = b""
        self._result = mmap.mmap(-1, _RESULT)
        self._own = open_fds()

    def __enter__(self) -> Lives:
        return self

    def __exit__(self, *_exception: object) -> None:
        for fd, *_ in open_fds() - self._own:
            os.close(fd)
        os.close(self._root)
        self.guest.close()
        self.guest.drain = lambda queue: None

    def within(self, function: Callable[[Guest], T]) -> T:
        """What `function` returns, in a worker that serves the requests which it makes."""

        def work() -> None:
            self._start()
            result = pickle.dumps((function(self.guest), self.guest.unique, self.guest.index))
            self._result[: len(result)] = result

        dying.run(work, self._fork)
        found: T
        found, self.guest.unique, self.guest.index = pickle.loads(self._result)
        return found

    def dies(self, stop: int, request: Request, function: Callable[[Guest], object] = lambda guest: None) -> bool:
        """Whether a worker that serves what `function` asks, and then `request`, dies at `stop` of the latter. It is to
        be asked again then."""

        def prepare() -> Callable[[], object]:
            self._start()
            function(self.guest)
            return lambda: ask(self.guest, request)

        died = dying.run_until(prepare, stop, self._fork)
        self._left = self.guest.bytes[_BUFFERS]
        return died

    def dies_again(self, stop: int) -> bool:
        """Whether the next worker dies at `stop`, too, over the request that the last one has died over."""

        def prepare() -> Callable[[], object]:
            device, queue = self._start()
            return lambda: device.process(queue)

        died = dying.run_until(prepare, stop, self._fork)
        self._left = self.guest.bytes[_BUFFERS]
        return died

    def ask(self, request: Request) -> Reply:
        """The answer of a worker of its own."""

        def work() -> None:
            device, queue = self._start()
            device.process(queue)
            result = pickle.dumps(known(device))
            self._result[: len(result)] = result

        def kicked(_queue: Virtqueue) -> None:
            if self._left:  # it has died over this very request, which may have been given back
                self.guest.bytes[_BUFFERS], self._left = self._left, b""
            dying.run(work, self._fork)
            self.known = pickle.loads(self._result)

        self.guest.drain = kicked
        return ask(self.guest, request)

    def beside(self, function: Callable[[], T]) -> T:
        """What `function` returns, which is this process's own doing: what it opens is left open, too."""
        before = open_fds()
        result = function()
        after = open_fds()
        self._own = self._own - (before - after) | (after - before)
        return result

    def _fork(self) -> int:
        kept = self.lasting.descriptors()
        for fd, *_ in open_fds() - self._own:
            if fd not in kept:
                os.close(fd)
        return dying.fork_with_descriptors()

    def _start(self) -> tuple[FsDevice, Virtqueue]:
        """In a worker."""
        if self.uid != os.geteuid():
            os.setgroups([])
            os.setresgid(self.uid, self.uid, self.uid)
            os.setresuid(self.uid, self.uid, self.uid)
            dying.keep_dumpable()
        device, guest = FsDevice(self.spec), self.guest
        worker = NoWorker(self.lasting, respawned=True)
        worker.device = device
        device.start(worker)
        used = int.from_bytes(guest.bytes[guest.used + 2 : guest.used + 4], "little")
        addresses = [fuse_requests.BASE + place for place in (guest.desc, guest.avail, guest.used)]
        queue = fuse_requests.Virtqueue(
            1, fuse_requests.QUEUE_SIZE, guest.memory, *addresses, base=used, call=guest.call
        )
        device.queue_started(queue)
        guest.drain, guest.queue = device.process, queue
        return device, queue


def ask(guest: Guest, request: Request) -> Reply:
    opcode, node, arguments, *others = request
    names = ("data", "room", "data_room", "reply", "extensions")
    return guest.ask(opcode, node, arguments, **dict(zip(names, others, strict=True)))


# --- what there is, but for numbers and times that never are the same


def tree(root: Path) -> dict[str, Any]:
    """All below a folder: mode, owner, size, content, attributes, and under which other names it goes."""
    found: dict[str, Any] = {}
    names = inodes(root)
    for path in sorted(root.rglob("*")):
        at = path.lstat()
        device = at.st_rdev if stat.S_ISCHR(at.st_mode) or stat.S_ISBLK(at.st_mode) else 0
        content: object = None
        if stat.S_ISREG(at.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(at.st_mode):
            content = os.readlink(path)
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in _xattrs(path)}
        found[str(path.relative_to(root))] = (
            at.st_mode, at.st_nlink, at.st_uid, at.st_gid, device, content, attributes, names[at.st_ino]
        )  # fmt: skip
    return found


def _xattrs(path: Path) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def inodes(root: Path) -> dict[int, tuple[str, ...]]:
    """The names of each inode."""
    found: dict[int, tuple[str, ...]] = {root.stat().st_ino: ("",)}
    for path in sorted(root.rglob("*")):
        ino = path.lstat().st_ino
        found[ino] = (*found.get(ino, ()), str(path.relative_to(root)))
    return found


def known(device: FsDevice) -> dict[str, Any]:
    """What a worker knows: nodes, and what is open."""
    share = device.server.share
    nodes, files = share.nodes, share.files
    return {
        "nodes": {
            nodeid: (
                nodes.parents[nodeid],
                nodes.names[nodeid],
                nodes.kinds[nodeid],
                nodes.orphans[nodeid],
                os.fstat(share.fd(nodeid)).st_nlink,
            )
            for nodeid in range(1, nodes.end)
            if nodes.known(nodeid)
        },
        "lookups": {nodeid: nodes.lookups[nodeid] for nodeid in range(1, nodes.end) if nodes.lookups[nodeid]},
        "files": [
            (handle, nodeid, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NOFOLLOW, nodes.is_same(nodeid, os.fstat(fd)))
            for handle, fd, nodeid in files.handles.items()
        ],
        "directories": [(handle, directory.nodeid) for handle, directory in files.directories.items()],
    }
