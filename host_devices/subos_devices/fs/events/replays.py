"""From what the host does in a share to what the agent replays in the guest: the whole way, within the share's worker.

Nothing is watched, and nothing costs anything, while there is no agent. The worker never waits: what the agent does not
get done stays in a bounded queue, and what was missed is found by looking at all that the guest knows.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from itertools import chain
from time import monotonic_ns, time

from subos_protocol import file_events as kind
from subos_protocol.errors import Malformed
from subos_protocol.file_events import MAX_PACKET, NUMBERS, STARTED, Replay, pack_replays, unpack_heard
from subos_protocol.fuse_opcodes import FUSE_ROOT_ID

from ...vhost_user.device import Worker
from ..lasting import CALM
from ..nodes import NAMELESS
from ..server import FuseServer
from ..share import NS
from ..statistics import MISSED, REPLAYED
from . import fanotify
from .changes import NOWHERE, Change, ChangeQueue, Place
from .children import Children
from .rescan import differences
from .timer import Timer
from .tokens import Tokens
from .watched import Watched

WINDOW = 128  # replays that the agent has not answered yet
SLACK = 3.0  # seconds that a file's times may be behind ours, on file systems that count by whole ones
PACKETS_AT_ONCE = 16  # of the agent's, before requests have their turn
PATIENT_READS = 8  # of our own events only, before the next are left to gather
PAUSE = 0.002  # seconds for which they are
RETRY = 0.1  # seconds until what could not be said is said again
READS_AT_ONCE = 64
MOST_DROPPED = 1 << 18  # places
MOST_REPLAYS = 20  # of one change, while directories above it are moved again and again
DEEPEST = 512  # directories above what a replay names


class FileEvents:
    """Reads what the agent says on `channel`, which another worker may go on with later. `only` is the one name of a
    share of a single file."""

    def __init__(self, server: FuseServer, worker: Worker, channel: socket.socket, only: bytes = b"") -> None:
        self._server = server
        self._share = server.share
        self._worker = worker
        self._channel = channel
        self._only = only
        self._queue = ChangeQueue()
        self._children = Children(self._share.nodes)
        self._tokens = Tokens(server, self._queue, self._catch_up)
        server.first_token, server.token_operations = kind.FIRST_TOKEN, self._tokens.operations
        server.on_reset = self.reset
        self._watched: Watched | None = None
        self._rescan: Iterator[Change | None] | None = None
        self._dropped: dict[Place, None] = {}
        """Of changes that nobody replays any more. The share knows already what they have moved, the guest does not: no
        comparison of the two would look at a name that something has left."""
        self._session = self._share.lasting.session
        if not self._share.recovered:
            self._calm = time()
        self._missed = False
        self._number = monotonic_ns() % NUMBERS  # not those of the worker before
        self._awake = False
        self._own_reads = 0
        self._gather = Timer(worker, self._safely(self._changed))
        self._again = Timer(worker, self._safely(self._pump))
        self._listening = True
        channel.setblocking(False)
        worker.watch(channel.fileno(), self._safely(self._hear))
        self._send(STARTED)

    @property
    def _calm(self) -> float:
        """When the guest last knew of everything. The worker that comes after this one looks from then on."""
        return self._session[CALM] / NS

    @_calm.setter
    def _calm(self, time: float) -> None:
        self._session[CALM] = int(time * NS)

    def _safely(self, work: Callable[[], None]) -> Callable[[], None]:
        """What fails here must not end the worker, which has a share to serve: it is a change that was missed."""

        def run() -> None:
            try:
                work()
            except OSError as error:
                self._worker.log(f"file events: {error}")
                self._miss()
                self._again.start(RETRY)

        return run

    # --- the agent

    def _hear(self) -> None:
        for _ in range(PACKETS_AT_ONCE):
            try:
                packet = self._channel.recv(MAX_PACKET)
            except BlockingIOError:
                break
            except OSError:
                packet = b""
            if not packet:
                self._end()
                self._hang_up()
                return
            try:
                heard = unpack_heard(packet)
            except Malformed as error:
                self._worker.log(f"the agent says of file events what means nothing: {error}")
                continue
            if heard.attached is not None:
                self._end()
                if heard.attached:
                    self._begin()
            for number, status in heard.results:
                self._done(number, status)
        self._pump()

    def _hang_up(self) -> None:
        """The channel stays open: its number is the next worker's, who must not find another file there."""
        if self._listening:
            self._listening = False
            self._worker.unwatch(self._channel.fileno())

    def _send(self, packet: bytes) -> bool:
        """False where it cannot be said now."""
        try:
            self._channel.send(packet)
        except OSError:
            return False
        return True

    # --- beginning and ending

    def _begin(self) -> None:
        try:
            self._watched = Watched(self._share)
        except OSError as error:
            self._worker.log(
                f"the guest is not told of the host's changes, which cannot be watched for: {error.strerror}"
            )
            return
        self._wake(True)
        self._rescan = self._differences()

    def _differences(self) -> Iterator[Change | None]:
        """All that the guest may not have seen."""
        dropped, self._dropped = self._dropped, {}
        looks = (Change(kind.SYNC, place) for place in dropped)
        return chain(looks, differences(self._share, self._calm - SLACK, self._queue.tells, self._only))

    def _end(self) -> None:
        if self._watched is not None:
            if not (len(self._queue) or self._rescan or self._missed):
                self._calm = time()
            self._wake(False)
            self._watched.close()
            self._drop()
        self._watched = self._rescan = None
        self._missed = False
        self._queue.clear()
        self._children.clear()

    def reset(self) -> None:
        """The guest knows nothing any more: a new session begins."""
        attached = self._watched is not None
        self._end()
        self._dropped.clear()
        self._calm = time()
        if attached:
            self._begin()
            self._again.start(0)

    def _wake(self, events: bool) -> None:
        """Whether events wake us."""
        if self._watched is not None and events != self._awake:
            self._awake = events
            if events:
                self._own_reads = 0
                self._worker.watch(self._watched.fd, self._safely(self._changed))
            else:
                self._worker.unwatch(self._watched.fd)

    # --- what the host does

    def _changed(self) -> None:
        """Something was done in a directory that is watched, if only by ourselves for the guest. While that goes on
        and nobody else does anything, we look only now and then."""
        if self._watched is None:
            return
        size, events = self._watched.read()
        for event in events:
            self._note(event)
        if events:
            self._own_reads = 0
            self._pump()
        elif self._awake:
            self._own_reads += 1
        if size and (not self._awake or self._own_reads >= PATIENT_READS):
            self._wake(False)
            self._gather.start(PAUSE)
        elif not size:
            self._wake(True)
            if not (len(self._queue) or self._rescan or self._missed):
                self._calm = time()

    def _catch_up(self) -> None:
        """Reads what is told already: why something is not where it was, say."""
        for _ in range(READS_AT_ONCE):
            size, events = self._watched.read() if self._watched is not None else (0, [])
            if not size:
                return
            for event in events:
                self._note(event)

    def _note(self, event: fanotify.Event) -> None:
        """Queues what an event says."""
        if not self._server.flags:  # nobody has it mounted
            return
        if event.mask & fanotify.OVERFLOW or self._queue.full:
            self._miss()
        if self._missed:
            return
        at, to = self._place(event.key, event.name), self._place(event.to_key, event.to_name)
        is_directory = bool(event.mask & fanotify.ONDIR)
        if event.mask & fanotify.RENAME:
            self._note_rename(at, to, is_directory)
        elif at != NOWHERE:
            self._note_mask(event.mask, at, is_directory)

    def _place(self, key: bytes, name: bytes) -> Place:
        """NOWHERE for what the guest cannot see. What is done to a directory itself is told of its "."."""
        assert self._watched is not None
        nodes, nodeid = self._share.nodes, self._watched.node(key) if key else 0
        if nodeid and name in (b"", b"."):
            nodeid, name = int(nodes.parents[nodeid]), nodes.names[nodeid]
        if not nodeid or (self._only and (nodeid, name) != (FUSE_ROOT_ID, self._only)):
            return NOWHERE
        return nodeid, name

    def _note_rename(self, at: Place, to: Place, is_directory: bool) -> None:
        old = self._children.find(at) if at != NOWHERE else (0, 0)
        covered = self._children.find(to) if to != NOWHERE else (0, 0)
        if to != NOWHERE:
            self._share.moved(*to)
        if at != NOWHERE and to != NOWHERE:
            self._queue.add(Change(kind.RENAME, at, is_directory, old, to, covered if covered != old else (0, 0)))
        elif at != NOWHERE:
            self._queue.add(Change(kind.DELETE, at, is_directory, old))
        elif to != NOWHERE:
            self._queue.add(Change(kind.CREATE, to, is_directory))

    def _note_mask(self, mask: int, at: Place, is_directory: bool) -> None:
        """Several things that were done to one inode by one name come in one event."""
        deleted, made = mask & fanotify.DELETE, mask & fanotify.CREATE
        gone = Change(kind.DELETE, at, is_directory, self._children.find(at)) if deleted else None
        there = not deleted or self._exists(at)
        if gone is not None and (there or not made):
            self._queue.add(gone)
        if made:
            self._queue.add(Change(kind.CREATE, at, is_directory))
        if there and mask & (fanotify.MODIFY | fanotify.CLOSE_WRITE) and not is_directory:
            self._queue.add(Change(kind.WRITTEN if mask & fanotify.CLOSE_WRITE else kind.MODIFY, at))
        if there and mask & fanotify.ATTRIB:
            self._queue.add(Change(kind.ATTRIB, at, is_directory))
        if gone is not None and made and not there:
            self._queue.add(gone)

    def _exists(self, place: Place) -> bool:
        try:
            os.stat(place[1], dir_fd=self._share.fd(place[0]), follow_symlinks=False)
        except OSError:
            return False
        return True

    def _miss(self) -> None:
        """Too much at once. All that the guest knows is looked at, once the agent has caught up with what it has."""
        self._missed = True
        self._share.statistics.words[MISSED] += 1
        self._rescan = None
        self._drop()
        self._queue.drop_waiting()

    def _drop(self) -> None:
        self._dropped.update(dict.fromkeys(self._queue.places()))
        if len(self._dropped) > MOST_DROPPED:  # of an agent that comes and goes: the newest are kept
            self._dropped = dict.fromkeys(list(self._dropped)[-MOST_DROPPED:])

    # --- replays

    def _pump(self) -> None:
        """Gives the agent as much to do as it may have."""
        if self._watched is None or not self._server.flags:
            return
        if self._missed and not self._queue.replaying:
            self._missed, self._rescan = False, self._differences()
        paths: dict[int, bytes | None] = {FUSE_ROOT_ID: b""}
        replays: list[Replay] = []
        while len(self._queue.replaying) < WINDOW and self._find_next():
            self._number = (self._number + 1) % NUMBERS
            change = self._queue.take(self._number)
            try:
                replay = self._replay(change, paths)
            except OSError:  # it went while we looked
                replay = None
            if replay is not None:
                replays.append(replay)
            elif change.retries and not self._missed:
                change.retries -= 1
                self._queue.put_back(change)
                self._again.start(PAUSE)
                break
            else:
                self._queue.end(change.number)
        for packet in pack_replays(replays):
            if not self._send(packet):
                for replay in replays:
                    self._queue.end(replay.number)
                self._miss()
                self._again.start(RETRY)
                return
        if not len(self._queue) and self._rescan is None:
            self._calm = time()
            self._children.clear()

    def _find_next(self) -> bool:
        """Whether something waits; what a rescan finds does."""
        while not self._queue.waiting and self._rescan is not None:
            try:
                found = next(self._rescan)
            except (StopIteration, OSError):
                self._rescan = None
            else:
                if found is None:
                    self._again.start(PAUSE)
                    return False
                self._queue.add(found)
        return bool(self._queue.waiting)

    def _replay(self, change: Change, paths: dict[int, bytes | None]) -> Replay | None:
        """What the agent is to do; None where there is nothing to do any more, or where it is not known yet what has
        become of it (`retries`)."""
        nodes, (parent, name) = self._share.nodes, change.at
        directory, to_directory = self._path(parent, paths), b""
        if directory is None:
            change.retries = 0
            return None
        mode, inode, to_name = stat.S_IFDIR if change.is_directory else stat.S_IFREG, 0, b""
        if change.kind == kind.RENAME:
            path = self._path(change.to[0], paths)
            if path is None:
                change.retries = 0
                return None
            to_directory, to_name = path, change.to[1]
        if change.kind in (kind.DELETE, kind.RENAME):
            inode = int(nodes.inos[change.old[0]])
        elif change.kind != kind.SYNC:
            found = self._tokens.located(change, change.at)
            if found is not None:
                mode, inode = self._tokens.mode(*found), found[1].st_ino
                change.retries = 0
            elif self._queue.departs(change.at, change):
                change.retries = 0
                if change.kind != kind.CREATE:
                    return None
            else:
                return None
        numbers = mode & 0xFFFF, int(nodes.inos[parent]), inode
        return Replay(change.number, change.kind, directory, name, *numbers, to_directory, to_name)

    def _path(self, nodeid: int, paths: dict[int, bytes | None]) -> bytes | None:
        """Of a directory, from the root; None where the guest does not know it, or no replay can name it."""
        if nodeid in paths:
            return paths[nodeid]
        nodes, names, at = self._share.nodes, list[bytes](), nodeid
        while at != FUSE_ROOT_ID:
            if not nodes.known(at) or nodes.parents[at] == NAMELESS or len(names) > DEEPEST:
                return None
            names.append(nodes.names[at])
            at = nodes.parents[at]
        path = b"/".join(reversed(names))
        paths[nodeid] = path if len(path) <= kind.MAX_PATH else None
        return paths[nodeid]

    def _done(self, number: int, status: int) -> None:
        """A replay has ended. What it should have left is compared with what is there, unless more is to come."""
        change = self._queue.end(number)
        if change is None:
            return
        self._share.statistics.words[REPLAYED] += 1
        if status == errno.ESTALE and change.replays < MOST_REPLAYS:  # a directory above it was moved meanwhile
            change.replays += 1
            self._queue.again(change)
            return
        if change.kind == kind.SYNC:
            return
        expected = {kind.DELETE: (False,), kind.RENAME: (False, True)}.get(change.kind, (True,))
        left = [place for place in zip(change.places, expected, strict=True) if not self._queue.touches(place[0])]
        if status or any(self._exists(place) != there for place, there in left):
            for place, _there in left:
                self._queue.add(Change(kind.SYNC, place, change.is_directory))
        elif change.kind == kind.CREATE and change.ghosts and left:
            self._look_at_other_name(change.at)

    def _look_at_other_name(self, place: Place) -> None:
        """A file that the guest knows has got one more: it has other attributes by that."""
        nodes, node = self._share.nodes, self._tokens.node_at(place)
        if node > FUSE_ROOT_ID and nodes.parents[node] != NAMELESS:
            self._queue.add(Change(kind.SYNC, (int(nodes.parents[node]), nodes.names[node])))

    def close(self) -> None:
        self._end()
        self._gather.close()
        self._again.close()
        self._hang_up()
        self._channel.close()
