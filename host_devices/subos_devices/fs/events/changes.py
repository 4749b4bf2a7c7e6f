"""What others have done in a share and the guest has not been told yet: in order, bounded, bursts in one."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from subos_protocol import file_events as kind

MOST = 1 << 16  # changes that wait; where there are more, all that the guest knows is looked at instead

Place = tuple[int, bytes]
"""A name in the directory of a node."""
NOWHERE: Place = (0, b"")
_MERGED = (kind.MODIFY, kind.WRITTEN, kind.ATTRIB, kind.SYNC)
_NAMING = (kind.CREATE, kind.DELETE, kind.RENAME)


class Change:
    """`kind` is of subos_protocol.file_events. `old` and `covered` are nodes with their generations, which the guest
    knew by the names `at` and `to` before: (0, 0) where it knew none."""

    __slots__ = ("at", "covered", "ghosts", "is_directory", "kind", "number", "old", "replays", "retries", "to")

    def __init__(
        self,
        kind: str,
        at: Place,
        is_directory: bool = False,
        old: tuple[int, int] = (0, 0),
        to: Place = NOWHERE,
        covered: tuple[int, int] = (0, 0),
        number: int = 0,
        retries: int = 2,
    ) -> None:
        self.kind = kind
        self.at = at
        self.is_directory = is_directory
        self.old = old
        self.to = to
        self.covered = covered
        self.number = number
        self.replays = 0
        """How often it was replayed where its directory was no more."""
        self.retries = retries
        """How often it may be put back, since nobody has told yet what has become of what it is about."""
        self.ghosts = 0
        """The first of two numbers of inodes that are none, once one of them was told of: what it is about, and what it
        covers."""

    @property
    def places(self) -> tuple[Place, ...]:
        return (self.at, self.to) if self.to != NOWHERE else (self.at,)


class ChangeQueue:
    """Changes that wait, and those that are being replayed (`replaying`, by number, in order)."""

    def __init__(self) -> None:
        self.waiting: deque[Change] = deque()
        self.replaying: dict[int, Change] = {}
        self._touched: Counter[Place] = Counter()
        """How many of both there are for a place."""
        self._latest: dict[Place, Change] = {}
        """The last that waits for a place."""
        self._named: dict[Place, str] = {}
        """The kind of the last of both by which something appears at a place or leaves it."""

    def __len__(self) -> int:
        return len(self.waiting) + len(self.replaying)

    @property
    def full(self) -> bool:
        return len(self.waiting) >= MOST

    def add(self, change: Change) -> None:
        latest = self._latest.get(change.at)
        if change.kind in _MERGED and latest is not None and latest.to == NOWHERE:
            if latest.kind == change.kind or (latest.kind, change.kind) == (kind.WRITTEN, kind.SYNC):
                return
            if (latest.kind, change.kind) == (kind.MODIFY, kind.WRITTEN):
                latest.kind = kind.WRITTEN
                return
        if change.kind == kind.CREATE == self._named.get(change.at):  # seen by a look, and told by the kernel, too
            return
        self.waiting.append(change)
        self._touch(change)
        self._latest.update(dict.fromkeys(change.places, change))

    def _touch(self, change: Change) -> None:
        self._touched.update(change.places)
        if change.kind in _NAMING:
            self._named.update(dict.fromkeys(change.places, change.kind))

    def take(self, number: int) -> Change:
        """The next one, which is being replayed as `number` from now on."""
        change = self.waiting.popleft()
        change.number = number
        self.replaying[number] = change
        for place in change.places:
            if self._latest.get(place) is change:
                del self._latest[place]
        return change

    def put_back(self, change: Change) -> None:
        """It was taken too early."""
        del self.replaying[change.number]
        self.waiting.appendleft(change)

    def again(self, change: Change) -> None:
        """It has ended, and is to be replayed once more."""
        self.waiting.appendleft(change)
        self._touched.update(change.places)
        if change.kind in _NAMING:
            for place in change.places:
                self._named.setdefault(place, change.kind)

    def end(self, number: int) -> Change | None:
        """What was replayed as `number`, if anything was."""
        change = self.replaying.pop(number, None)
        if change is not None:
            for place in change.places:
                self._touched[place] -= 1
                if not self._touched[place]:
                    del self._touched[place]
                    self._named.pop(place, None)
        return change

    def places(self) -> list[Place]:
        """What they are about, in order."""
        changes = [*self.replaying.values(), *self.waiting]
        return list(dict.fromkeys(place for change in changes for place in change.places))

    def drop_waiting(self) -> None:
        """Forgets what is not being replayed."""
        self.waiting.clear()
        self._latest.clear()
        self._touched.clear()
        self._named.clear()
        for change in self.replaying.values():
            self._touch(change)

    def clear(self) -> None:
        self.waiting.clear()
        self.replaying.clear()
        self._touched.clear()
        self._latest.clear()
        self._named.clear()

    # --- what comes later

    def touches(self, place: Place) -> bool:
        """Whether anything is to come for the place, or under way."""
        return place in self._touched

    def tells(self, place: Place) -> bool:
        """Whether it is to come, or under way, that something appears at the place or leaves it."""
        return place in self._named

    def after(self, change: Change) -> Iterator[Change]:
        """Those that come after one that is being replayed."""
        begun = False
        for other in self.replaying.values():
            if begun:
                yield other
            begun = begun or other is change
        yield from self.waiting

    def arrives(self, place: Place, after: Change) -> bool:
        """Whether something is to appear at the place later."""
        return self._touched[place] > 1 and any(
            other.to == place or (other.kind == kind.CREATE and other.at == place) for other in self.after(after)
        )

    def departs(self, place: Place, after: Change) -> bool:
        """Whether what is at the place is to go later."""
        return self._touched[place] > 1 and any(
            other.kind in (kind.RENAME, kind.DELETE) and other.at == place for other in self.after(after)
        )

    def moves(self, place: Place, after: Change) -> Iterator[Place]:
        """Where what was at the place went since: the place, and then whereto it was renamed, one by one, as long as
        nothing has removed or covered it."""
        yield place
        if self._touched[place] <= 1:
            return
        for other in self.after(after):
            if other.kind == kind.RENAME and other.at == place:
                place = other.to
                yield place
            elif place in (other.to, other.at if other.kind == kind.DELETE else NOWHERE):
                return
