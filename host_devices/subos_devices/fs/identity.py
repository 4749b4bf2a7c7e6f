"""Which user of the host a user of the guest is, and back, without a user namespace.

A map is a list of entries, in the order given:

    GUEST:HOST:COUNT         so many guest ids from GUEST are the host ids from HOST
    squash:GUEST:HOST:COUNT  so many guest ids from GUEST are all HOST, which shows as GUEST
    forbid:GUEST:COUNT       nothing may be made by, or given to, so many guest ids from GUEST

A host id that several entries lead to shows as the first of them says. With ranges or squashes, guest ids outside of
all are refused like forbidden ones, and host ids outside of all show as 65534; without any, ids are what they are.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import UserError

NOBODY = 65534  # what Linux calls the overflow id
IDS = 0xFFFF_FFFF  # ids are below; this one means "leave it"
MAPPED = ("ownership", "xattr")  # options that --map gives
HINT = "write GUEST:HOST:COUNT, squash:GUEST:HOST:COUNT or forbid:GUEST:COUNT"


class Entry(NamedTuple):
    """`size` guest ids from `guest`. `host` is None for a forbidden range; `step` is 0 where all are one host id."""

    guest: int
    host: int | None
    size: int
    step: int = 1


class IdMap:
    """Users, or groups. Without entries ids are what they are."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self.entries = entries
        self.others_pass = all(entry.host is None for entry in entries)

    def host(self, guest: int) -> int:
        """The host's id of a guest's. Raises EPERM for one that is forbidden, or outside of what is mapped."""
        for entry in self.entries:
            if 0 <= guest - entry.guest < entry.size:
                if entry.host is None:
                    break
                return entry.host + (guest - entry.guest) * entry.step
        else:
            if self.others_pass:
                return guest
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def guest(self, host: int) -> int:
        """What the guest sees of a host's id."""
        for entry in self.entries:
            if entry.host is not None and 0 <= host - entry.host < (entry.size if entry.step else 1):
                return entry.guest + (host - entry.host) * entry.step
        return host if self.others_pass else NOBODY

    def shown(self, guest: int) -> int:
        """What a guest's id comes back as, kept by whoever: squashed ones as one. Raises EPERM as `host` does."""
        return self.guest(self.host(guest))


class Identity(NamedTuple):
    """Both maps of a share."""

    users: IdMap = IdMap()
    groups: IdMap = IdMap()

    @property
    def maps(self) -> bool:
        """Whether any id shows as another one."""
        return not (self.users.others_pass and self.groups.others_pass)


def parse_map(text: str) -> IdMap:
    """A map as options give it: entries with commas between. Raises UserError."""
    entries: list[Entry] = []
    for part in text.split(",") if text else []:
        entry = _parse_entry(part.strip())
        for other in entries:
            if entry.guest < other.guest + other.size and other.guest < entry.guest + entry.size:
                raise UserError(f"{part!r} maps guest ids that another entry maps too", "let the ranges not overlap")
        entries.append(entry)
    return IdMap(tuple(entries))


def _parse_entry(text: str) -> Entry:
    kind, *numbers = text.split(":") if text[:1].isalpha() else ["", *text.split(":")]
    wanted = {"": 3, "squash": 3, "forbid": 2}.get(kind)
    if len(numbers) != wanted or not all(number.isascii() and number.isdecimal() for number in numbers):
        raise UserError(f"{text!r} is no map of ids", HINT)
    guest, count = int(numbers[0]), int(numbers[-1])
    host = None if kind == "forbid" else int(numbers[1])
    last_host = 0 if host is None else host if kind == "squash" else host + count - 1
    if count < 1 or max(guest + count - 1, last_host) >= IDS:
        raise UserError(f"{text!r} maps ids that are none", "ids go from 0 to 4294967294, and COUNT is at least 1")
    return Entry(guest, host, count, 0 if kind == "squash" else 1)


def mapping_options(map_uid: Sequence[str], map_gid: Sequence[str], maps: Sequence[str]) -> dict[str, str]:
    """Options of the fs device from flags, each of which may be given several times: entries of both id maps, and
    WHAT=HOW for what else may be mapped. Raises UserError for another WHAT; the device checks the rest."""
    options = {"map_uid": ",".join(map_uid), "map_gid": ",".join(map_gid)}
    for text in maps:
        what, _, how = text.partition("=")
        if what not in MAPPED or not how:
            raise UserError(f"--map {text!r} maps nothing", "write --map ownership=xattr or --map xattr=mapped")
        options[what] = how
    return {name: value for name, value in options.items() if value}
