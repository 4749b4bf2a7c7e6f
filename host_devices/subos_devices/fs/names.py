"""The names of nodes, in memory that outlives a worker: in slots of whole words, found by a column of places.

A slot is a byte with the name's length, the name, and a NUL, so that a system call may take it where it is. Slots that
are given back are lists by size, and the next name of that size takes one. Each step leaves a valid name: a new slot is
filled before the node's place points to it, and the old one is given back after that. A worker that dies in between
loses a slot until the next session.
"""

from __future__ import annotations

import errno
import os

from .lasting import Lasting

WORD = 8  # bytes; places count words, and 0 is no name
_END = 0  # of "rooms": the first word that was never used; then the first free slot by its size in words
_LONGEST = 255  # bytes of a name, NAME_MAX in linux/limits.h


def _words_of(length: int) -> int:
    """The size of the slot of a name of so many bytes."""
    return (length + 2 + WORD - 1) // WORD


_LARGEST = _words_of(_LONGEST)


class Names:
    """Name by node id, b"" where there is none."""

    def __init__(self, lasting: Lasting) -> None:
        self.places = lasting.column("places")
        self.bytes = lasting.column("names")
        self._words = lasting.column("names").cast("I")
        self._rooms = lasting.column("rooms")
        self.most = len(self.bytes) // WORD - _LARGEST
        """Slots begin before this word. From there on is room for a name, so that none can be read beyond the end."""

    def __getitem__(self, nodeid: int) -> bytes:
        at = self.places[nodeid] * WORD
        return bytes(self.bytes[at + 1 : at + 1 + self.bytes[at]])

    def __setitem__(self, nodeid: int, name: bytes) -> None:
        """Raises ENFILE where there is no more room, ENAMETOOLONG."""
        old, new = self.places[nodeid], self._take(name) if name else 0
        self.places[nodeid] = new
        if old:
            self._give_back(old)

    def _take(self, name: bytes) -> int:
        """A slot with the name in it."""
        if len(name) > _LONGEST:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        rooms, words = self._rooms, _words_of(len(name))
        place = rooms[words]
        if place:
            rooms[words] = self._words[2 * place]
        else:
            place = rooms[_END] or 1
            if place + words > self.most:
                return self._take_larger(words, name)
            rooms[_END] = place + words
        self._fill(place, name)
        return place

    def _take_larger(self, words: int, name: bytes) -> int:
        """A slot of another size, now that all memory has been used: what it has too much of is a slot, too."""
        rooms = self._rooms
        for size in range(words + 1, _LARGEST + 1):
            place = int(rooms[size])
            if place:
                rooms[size] = self._words[2 * place]
                self._free(place + words, size - words)
                self._fill(place, name)
                return place
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    def _fill(self, place: int, name: bytes) -> None:
        at = place * WORD
        self.bytes[at] = len(name)
        self.bytes[at + 1 : at + 2 + len(name)] = name + b"\0"

    def _give_back(self, place: int) -> None:
        self._free(place, _words_of(self.bytes[place * WORD]))

    def _free(self, place: int, words: int) -> None:
        self._words[2 * place] = self._rooms[words]
        self._rooms[words] = place
