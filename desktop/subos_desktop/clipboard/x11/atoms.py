"""Names and their numbers. A server keeps a name for as long as it runs, so we make only so many of them."""

from __future__ import annotations

import asyncio
from typing import Dict, Iterable, List

from ..formats import ALIASES, MAX_NAME
from . import requests, wire
from .connection import Connection
from .wire import XError

USUAL = (
    *("CLIPBOARD", "PRIMARY", "TARGETS", "TIMESTAMP", "MULTIPLE", "ATOM_PAIR", "INCR"),
    "_SUBOS_SELECTION",
    *dict.fromkeys(alias for aliases in ALIASES.values() for alias in aliases),
)
"""Made at the beginning, as our marker is with the first offer: whoever invents names cannot use up what these need."""
MAX_MADE = 4096  # names that we have a server keep
MAX_KNOWN = 8192  # names that we remember


class Atoms:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._numbers: Dict[str, int] = {}
        self._names: Dict[int, str] = {}

    def __getitem__(self, name: str) -> int:
        """One that intern() has found."""
        return self._numbers[name]

    async def intern(self, names: Iterable[str]) -> Dict[str, int]:
        """{name: number}, in the order of the names. Those beyond MAX_MADE are left out."""
        names = list(names)
        unknown = [name for name in names if name not in self._numbers][: max(0, MAX_MADE - len(self._numbers))]
        if unknown:
            asked = [self._connection.ask(requests.intern_atom(name), wire.unpack_number) for name in unknown]
            for name, number in zip(unknown, await asyncio.gather(*asked)):
                self._numbers[name] = number
                self._names[number] = name
        return {name: self._numbers[name] for name in names if name in self._numbers}

    async def names(self, numbers: Iterable[int]) -> List[str]:
        """The names, in order; numbers that have none, or one that is too long, are left out."""
        numbers = list(numbers)
        if len(self._names) > MAX_KNOWN:
            self._names = {number: name for name, number in self._numbers.items()}
        unknown = [number for number in dict.fromkeys(numbers) if number not in self._names]
        if unknown:
            asked = [self._connection.ask(requests.get_atom_name(number), wire.unpack_name) for number in unknown]
            for number, name in zip(unknown, await asyncio.gather(*asked, return_exceptions=True)):
                if isinstance(name, str):
                    self._names[number] = name if len(name) <= MAX_NAME else ""
                elif not isinstance(name, XError):
                    raise name
        return [known for number in numbers if (known := self._names.get(number))]
