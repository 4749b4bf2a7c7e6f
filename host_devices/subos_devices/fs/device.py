"""virtio-fs: a directory of this host as a file system of the guest (VIRTIO 1.3 §5.11).

Queue 0 is hiprio (FORGET and INTERRUPT), queue 1 carries requests; both hold FUSE requests, served alike. QEMU's
vhost-user-fs device owns the configuration space (tag and number of queues).
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from subos_protocol.virtio import DeviceId

from ..errors import UserError, did_you_mean
from ..mounts import clone_tree
from ..vhost_user.device import Device, DeviceSpec, Option, Worker
from ..vhost_user.virtqueue import Virtqueue, Words
from .caching import CACHE_POLICIES
from .descriptors import RESERVED
from .events.replays import FileEvents
from .handler import handler, retrying
from .identity import Identity, IdMap, parse_map
from .kept import KeptShare
from .lasting import Corrupt, Lasting
from .locks import Locks
from .presence import Presence, Sight, looking_at
from .server import FuseServer
from .share import Share, prepare_process
from .statistics import Statistics, describe

OPTIONS = {
    "shared_dir": "the directory to share, or a single file (required)",
    "only": "the one name in it that is shared (default: all; a file as shared_dir means itself)",
    "readonly": "refuse every change (default: no)",
    "cache": "how long the guest may cache: auto (1 s, the default), steady, always, metadata, never",
    "writeback": "the guest writes back later: faster small writes, for what the host does not look at (default: no)",
    "submounts": "announce other file systems below the directory to the guest as such (default: yes)",
    "locks": "where the guest's file locks hold: guest (the default: nobody else sees them), host",
    "xattr": "extended attributes: yes (the host's own, the default), mapped (security, trusted and ACLs kept in user "
    "ones), no",
    "map_uid": "users of the guest that are others here: GUEST:HOST:COUNT, squash:GUEST:HOST:COUNT or "
    "forbid:GUEST:COUNT, with commas between",
    "map_gid": "groups, likewise",
    "ownership": "host (the default), or xattr: owners, modes and device nodes are kept in an attribute of our files",
    "security_label": "security contexts of what the guest makes are set on it at once (default: no)",
}
LOCKS = ("guest", "host")
MOST_DESCRIPTORS = 1 << 19  # however many the system allows


class FsDevice(Device):
    """Shares one directory. Options: see OPTIONS."""

    device_id = DeviceId.FS
    num_queues = 2
    asks = answers_slowly = keeps = True
    patience = 5.0  # an fsync of a slow disk
    limit = 30.0  # a shared folder may be one of a network, too

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__(spec)
        for name in spec.options:
            if name not in OPTIONS:
                raise UserError(f"{spec.name}: fs has no option {name!r}", did_you_mean(name, OPTIONS))
        path = spec.options.get("shared_dir")
        if not isinstance(path, str) or not path:
            raise UserError(f"{spec.name}: fs needs a directory to share", "give it as shared_dir")
        self.only = os.fsencode(str(spec.options.get("only") or ""))
        if not self.only and os.path.isfile(path):
            path, name = os.path.split(os.path.abspath(path))
            self.only = os.fsencode(name)
        if not os.path.isdir(path):
            raise UserError(f"{spec.name}: {path} is not a directory", "share an existing directory or file")
        cache = spec.options.get("cache") or "auto"
        if cache not in CACHE_POLICIES:
            raise UserError(f"{spec.name}: cache={cache} is no way to cache", f"there are {', '.join(CACHE_POLICIES)}")
        locks = spec.options.get("locks") or "guest"
        if locks not in LOCKS:
            raise UserError(f"{spec.name}: locks={locks} is no place for locks", f"there are {', '.join(LOCKS)}")
        self.path = path
        self.host_locks = locks == "host"
        self.cache = CACHE_POLICIES[str(cache)]
        if self._flag("writeback", False):
            self.cache = self.cache.writing_back()
        self.submounts = self._flag("submounts", True)
        self.readonly = self._flag("readonly", False)
        self.identity = Identity(self._map("map_uid"), self._map("map_gid"))
        self.keeps_owners = self._choice("ownership", ("host", "xattr")) == "xattr"
        self.xattr = self._choice("xattr", ("mapped", "no") if self.keeps_owners else ("yes", "mapped", "no"))
        self.security_label = self._flag("security_label", False)
        if self.security_label and self.xattr == "no":
            raise UserError(f"{spec.name}: security labels are extended attributes", "leave out xattr=no")
        self._handlers: dict[Virtqueue, Callable[[Words], int]] = {}
        self._due: set[Virtqueue] = set()
        """Queues of which chains that wait are to be served again."""

    def _choice(self, name: str, choices: tuple[str, ...]) -> str:
        """A word of an option, the first one being the default."""
        value = self.spec.options.get(name)
        if value is None:
            return choices[0]
        if isinstance(value, bool):
            value = "yes" if value else "no"
        if value not in choices:
            raise UserError(f"{self.spec.name}: {name} cannot be {value!r} here", f"there are {', '.join(choices)}")
        return str(value)

    def _map(self, name: str) -> IdMap:
        value = self.spec.options.get(name) or ""
        try:
            return parse_map(str(value))
        except UserError as error:
            raise UserError(f"{self.spec.name}: {name}: {error.message}", error.hint) from None

    def _flag(self, name: str, default: bool) -> bool:
        """A yes or no option; from a command line it comes as text."""
        value = self.spec.options.get(name)
        meanings: dict[Option, bool] = {None: default, True: True, False: False, "yes": True, "no": False}
        found = meanings.get(value)
        if found is None:
            raise UserError(f"{self.spec.name}: {name}={value} is neither yes nor no", f"write {name}=yes or {name}=no")
        return found

    def answer(self, question: Mapping[str, Any]) -> tuple[Mapping[str, object], Sequence[int]]:
        """{"device", "inode"}: what is at the path now, and, where it is another directory, a descriptor by which
        nothing but that can be reached. Without either, no descriptor."""
        found = Sight.of(self.path)
        known = question.get("device"), question.get("inode")
        if known in ((None, None), found[:2]):
            return found._asdict(), ()
        return found._asdict(), [clone_tree(self.path, writable=not self.readonly)]

    def describe(self, statistics: memoryview) -> dict[str, Any]:
        return {"fs": describe(statistics)}

    @classmethod
    def keep(cls, spec: DeviceSpec) -> Lasting:
        return Lasting()

    @classmethod
    def kept_descriptors(cls, kept: Lasting | None) -> Collection[int]:
        return () if kept is None else kept.descriptors()

    def start(self, worker: Worker) -> None:
        """Opens the directory, or goes on with what an earlier worker had open. The limit of descriptors goes as high
        as it may, and the share keeps within it. Raises UserError where the directory cannot be opened."""
        self._worker = worker
        prepare_process()
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        limit = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], MOST_DESCRIPTORS) - RESERVED
        try:
            share = (KeptShare if self.keeps_owners else Share)(
                self.path,
                valid=self.cache.valid,
                readonly=self.readonly,
                limit=limit,
                identity=self.identity,
                statistics=Statistics(worker.statistics),
                lasting=worker.kept,
            )
        except OSError as error:
            raise UserError(
                f"{self.spec.name}: {error.filename} cannot be opened: {error.strerror}",
                "share a directory that you may enter",
            ) from error
        locks = Locks(share) if self.host_locks else None
        self.server = FuseServer(
            share,
            self.cache,
            xattr=self.xattr,
            submounts=self.submounts,
            only=self.only,
            locks=locks,
            security_label=self.security_label,
        )
        self.presence = Presence(self.server, looking_at(self.path) if worker.sees_host else partial(_ask, worker))
        self.presence.on_replaced = partial(self._replaced, worker)
        self.events: FileEvents | None = None
        if "events" in self.spec.fds:
            self.events = FileEvents(self.server, worker, socket.socket(fileno=self.spec.fds["events"]), self.only)
        if locks is not None:
            ended = locks.waiters.ended
            worker.watch(ended, lambda: self._retry(worker, ended))

    def queue_started(self, queue: Virtqueue) -> None:
        self._handlers[queue] = handler(self.server, queue)
        self._due.add(queue)

    def queue_stopped(self, queue: Virtqueue) -> None:
        self._handlers.pop(queue, None)
        self._due.discard(queue)

    def process(self, queue: Virtqueue) -> None:
        if monotonic() > self.presence.next:
            self.presence.look()
        handle = self._handlers[queue]
        try:
            if self._due and queue in self._due:
                self._due.discard(queue)
                if len(queue.deferred):
                    queue.retry(retrying(self.server, queue))
            queue.drain(handle)
        except Corrupt:
            self._worker.log("its tables were forged: the guest must mount it again")
            raise

    def front_end_gone(self) -> None:
        self.server.end()

    def _replaced(self, worker: Worker) -> None:
        """Another directory has taken the place of the shared one. Raises SystemExit where this process is jailed in
        the old one: the next worker's jail is around the new one."""
        if self.server.share.is_out_of_reach():
            worker.log("another folder has taken the place of the shared one: the guest must mount it again")
            raise SystemExit
        if self.events is not None:
            self.events.reset()

    def _retry(self, worker: Worker, ended: int) -> None:
        """A wait has ended: of the requests that were answered LATER, one finds its answer now."""
        with suppress(BlockingIOError):
            os.eventfd_read(ended)
        self._due.update(queue for queue in self._handlers if len(queue.deferred))
        for queue in tuple(self._due):
            worker.kick(queue)

    def close(self) -> None:
        if self.events is not None:
            self.events.close()
        if self.server.locks is not None:
            self.server.locks.close()
        self.server.share.close()


def _ask(worker: Worker, known: Sight | None) -> tuple[Sight, int]:
    """A `Look` by the supervisor."""
    said, fds = worker.ask(**({} if known is None else {"device": known.device, "inode": known.inode}))
    return Sight(said["device"], said["inode"], said["is_mount"]), fds[0] if fds else -1
