"""Which nodes are open, within a fixed number of descriptors, however many nodes there are.

A node is opened (O_PATH) when something is done with it that needs more than its name: a directory when a name in it
is looked up, a file when it is opened. What was not used for longest is closed when there are too many (a clock's hand
goes round, second chances by `used`), and opened again when it is needed: a directory by its file handle
(name_to_handle_at, where we may use them), anything by its name in its directory, and that by its own, up to one that
is open, and a file by another opening of it that the guest has. What is found must be the same inode; else it is
ESTALE, on which the guest's kernel looks the path up once more.

An inode whose last name the guest removes stays open until the guest forgets it. The guest's kernel does so at once,
unless it believes that there is another name, which the host has removed meanwhile: such an inode it may keep for
hours. So these are not counted among the nodes held open, and closed only when nothing else can be.

A worker that dies leaves its descriptors to the next one, by their column; it does not leave the file handles that were
taken of what was closed. What had been found by its handle alone is stale then.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress

from subos_protocol.fuse_opcodes import FUSE_ROOT_ID

from . import syscalls
from .handles import FileTable
from .nodes import NAMELESS, NodeTable, bad_descriptor
from .statistics import NODES_OPEN

BUDGET = 4096  # nodes held open: directories in use, mostly
RESERVED = 32  # descriptors of the worker's own: memory, rings, sockets, and what an operation opens for a moment
DEEPEST = 2048  # directories one inside another that are opened for one request
ORPHAN, PINNED = 1, 2  # of NodeTable.orphans: without a name; not to be closed for the moment
_NODE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def stale() -> OSError:
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE))


class Descriptors:
    """`limit` is how many descriptors the guest's doing may cost: nodes, files and directories that are open."""

    def __init__(self, nodes: NodeTable, files: FileTable, root: int, proc: int, limit: int) -> None:
        """`root` is the O_PATH descriptor of the share's root, which is ours from now on; `proc` is /proc/self/fd.
        Nodes that have a descriptor already are open."""
        self.nodes = nodes
        self.files = files
        self.limit = limit
        self.budget = max(8, min(BUDGET, limit // 4))
        self._proc = proc
        self._held: OrderedDict[int, None] = OrderedDict()
        self._orphaned: OrderedDict[int, None] = OrderedDict()
        """Those of them that have no name any more, as far as `_evict` has met them."""
        self._handles: dict[int, bytes] = {}
        """File handles of directories that were closed, and of what has no name we know."""
        self._mount: int | None = None
        nodes.fds[FUSE_ROOT_ID] = root
        self._recover()
        self._open_mount(root)

    def _recover(self) -> None:
        nodes = self.nodes
        for nodeid in nodes.marked("readable", 1):
            nodes.readable[nodeid] = nodes.fds[nodeid] != 0
        for nodeid in nodes.open_ones():
            if nodeid != FUSE_ROOT_ID:
                self._held[nodeid] = None
                self.files.keep(nodes.fds[nodeid])
        self.files.counted[NODES_OPEN] = len(self)
        for nodeid in nodes.marked("orphans", PINNED):  # something was being done with its name
            lost = nodes.fds[nodeid] and os.fstat(nodes.fds[nodeid]).st_nlink == 0
            nodes.orphans[nodeid] = ORPHAN if lost else 0
            if lost:
                nodes.parents[nodeid] = NAMELESS

    def _open_mount(self, root: int) -> None:
        """A descriptor by which file handles are opened, if we may do so at all (CAP_DAC_READ_SEARCH)."""
        with suppress(OSError):
            mount = os.open(b"%d" % root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._proc)
            try:
                os.close(syscalls.open_by_handle(mount, syscalls.name_to_handle(mount), os.O_PATH | os.O_CLOEXEC))
            except OSError:
                os.close(mount)
            else:
                self._mount = mount

    @property
    def uses_handles(self) -> bool:
        return self._mount is not None

    def __len__(self) -> int:
        """Nodes that are open, but for the root."""
        return len(self._held) + len(self._orphaned)

    # --- opening

    def fd(self, nodeid: int) -> int:
        """The node's O_PATH descriptor, good until the next call. Raises EBADF for a node that is none, ESTALE."""
        nodes = self.nodes
        fd: int = nodes.fds[nodeid] if nodeid < nodes.capacity else 0
        if fd:
            nodes.used[nodeid] = 1
            return fd
        if not nodes.known(nodeid):
            raise bad_descriptor()
        *above, _ = self._closed_path(nodeid)
        with suppress(OSError):  # where one of those above is gone, the node may be found otherwise
            for node in above:
                self.hold(node, self._open(node))
        self.hold(nodeid, self._open(nodeid))
        return int(nodes.fds[nodeid])

    def both(self, first: int, second: int) -> tuple[int, int]:
        """The descriptors of two nodes, both good until the next call."""
        self.fd(first)
        kept = self.nodes.orphans[first]
        self.nodes.orphans[first] = PINNED  # opening the second does not close it
        try:
            fd = self.fd(second)
        finally:
            self.nodes.orphans[first] = kept
        return int(self.nodes.fds[first]), fd

    def _closed_path(self, nodeid: int) -> list[int]:
        """The node, and those above it that must be opened before: not open, and without a handle. From the top."""
        path, parents, fds, handles = [nodeid], self.nodes.parents, self.nodes.fds, self._handles
        while path[-1] not in handles and (parent := parents[path[-1]]) != NAMELESS and not fds[parent]:
            path.append(parent)
            if len(path) > DEEPEST:  # or a circle, which the host's own renames can leave here
                raise stale()
        return path[::-1]

    def _open(self, nodeid: int) -> int:
        for fd in self._candidates(nodeid):
            if self.nodes.is_same(nodeid, os.fstat(fd)):
                return fd
            os.close(fd)
        raise stale()

    def _candidates(self, nodeid: int) -> Iterator[int]:
        """Descriptors that may be the node's, the likeliest first. The caller owns each."""
        nodes = self.nodes
        if self._mount is not None and nodeid in self._handles:
            with _unless_exhausted():
                yield syscalls.open_by_handle(self._mount, self._handles[nodeid], _NODE)
        parent = nodes.parents[nodeid]
        if parent != NAMELESS and nodes.fds[parent]:
            nodes.used[parent] = 1
            with _unless_exhausted():
                yield os.open(nodes.names[nodeid], _NODE, dir_fd=nodes.fds[parent])
        for fd in self.files.of(nodeid):
            with _unless_exhausted():
                yield os.open(b"%d" % fd, os.O_PATH | os.O_CLOEXEC, dir_fd=self._proc)

    def hold(self, nodeid: int, fd: int) -> None:
        """Keeps `fd` as the node's, which has none yet."""
        full = len(self._held) >= self.budget or self.files.in_use >= self.limit
        if full and not self._evict() and self.files.in_use >= self.limit:
            self._evict_orphan()
        self.files.keep(fd)
        self.nodes.fds[nodeid] = fd
        self.nodes.used[nodeid] = 1
        self._held[nodeid] = None
        self.files.counted[NODES_OPEN] = len(self)

    def share(self, nodeid: int, fd: int) -> None:
        """The node, a regular file, goes by `fd` from now on, which is open for reading, and which others have, too."""
        if nodeid in self._held or nodeid in self._orphaned:
            before = self.nodes.fds[nodeid]
            self.files.keep(fd)
            self.nodes.fds[nodeid] = fd
            self.files.drop(before)
        else:
            self.hold(nodeid, fd)
        self.nodes.readable[nodeid] = 1

    def admit(self) -> None:
        """Room for one more file or directory that the guest opens. Raises ENFILE."""
        while self.files.in_use >= self.limit:
            # The first time round may only have taken second chances.
            if not self._evict() and not self._evict() and not self._evict_orphan():
                raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    def _evict(self) -> bool:
        """Closes the node that was not used for longest. False where all were used since the last time: one more is
        open for now, rather than a directory closed in whose name we are about to open something."""
        nodes, held = self.nodes, self._held
        for _ in range(len(held)):
            nodeid = next(iter(held))
            if nodes.orphans[nodeid] == ORPHAN:
                del held[nodeid]
                self._orphaned[nodeid] = None
            elif nodes.used[nodeid] or nodes.orphans[nodeid]:
                nodes.used[nodeid] = 0
                held.move_to_end(nodeid)
            else:
                self._remember(nodeid)
                self.release(nodeid)
                return True
        return False

    def _evict_orphan(self) -> bool:
        """Closes what has lost its name first. It is opened again by another opening of it that the guest has; where
        there is none it is stale."""
        for nodeid in self._orphaned:
            if self.nodes.orphans[nodeid] != PINNED:
                self._remember(nodeid)
                self.release(nodeid)
                return True
        return False

    def _remember(self, nodeid: int) -> None:
        """Takes the file handle of a node whose name may not lead back to it."""
        nodes = self.nodes
        if self._mount is None or nodes.devices[nodeid] or nodeid in self._handles:
            return
        if nodes.parents[nodeid] == NAMELESS or nodes.kinds[nodeid] == stat.S_IFDIR >> 12:
            with suppress(OSError):
                self._handles[nodeid] = syscalls.name_to_handle(nodes.fds[nodeid])

    # --- closing

    def release(self, nodeid: int) -> None:
        """Closes the node's descriptor, if it has one."""
        if nodeid in self._held or nodeid in self._orphaned:
            self._held.pop(nodeid, None)
            self._orphaned.pop(nodeid, None)
            fd = self.nodes.fds[nodeid]
            self.nodes.readable[nodeid] = self.nodes.fds[nodeid] = 0
            self.files.drop(fd)
            self.files.counted[NODES_OPEN] = len(self)

    def forget(self, nodeid: int, count: int) -> None:
        """FORGET: takes back `count` lookups of the node."""
        if self.nodes.forget(nodeid, count):
            self.release(nodeid)
            self._handles.pop(nodeid, None)

    def _release_all(self) -> None:
        for nodeid in [*self._held, *self._orphaned]:
            with suppress(OSError):  # as in FileTable.close
                self.release(nodeid)
        self._handles.clear()

    def forget_all(self) -> None:
        """Every node but the root, as after an unmount."""
        self._release_all()
        root = int(self.nodes.fds[FUSE_ROOT_ID])
        self.nodes.start(os.fstat(root))
        self.nodes.fds[FUSE_ROOT_ID] = root

    def replace_root(self, root: int) -> None:
        """The share's directory is another one: `root` is its O_PATH descriptor, ours from now on. What the guest knows
        of the old one is stale, but for the files that it has open."""
        self._release_all()
        before = self.nodes.fds[FUSE_ROOT_ID]
        self.nodes.fds[FUSE_ROOT_ID] = root
        self.nodes.strand(os.fstat(root))
        self._close_root(before)
        self._open_mount(root)

    def _close_root(self, root: int) -> None:
        os.close(root)
        if self._mount is not None:
            os.close(self._mount)
            self._mount = None

    def close(self) -> None:
        self.forget_all()
        root = int(self.nodes.fds[FUSE_ROOT_ID])
        self.nodes.fds[FUSE_ROOT_ID] = 0
        self._close_root(root)


class _unless_exhausted(suppress):
    """Suppresses OSError, but not those that say that we are short of descriptors or memory."""

    def __init__(self) -> None:
        super().__init__(OSError)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO):
            return False
        return isinstance(error, OSError)
