"""Names and their numbers. A server keeps a name for as long as it runs, so we make only so many of them."""

from __future__ import annotations

import asyncio
from typing import Dict, Iterable, List, Optional

from Xlib.error import XError
from Xlib.protocol import request

from ..formats import ALIASES
from .connection import Connection

USUAL = (
    *("CLIPBOARD", "PRIMARY", "TARGETS", "TIMESTAMP", "MULTIPLE", "ATOM_PAIR", "INCR"),
    *("_SUBOS_TIME", "_SUBOS_SELECTION"),
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

    async def intern(self, names: Iterable[str]) -> Dict[str, int]:
        """{name: number}, in the order of the names. Those beyond MAX_MADE are left out."""
        names = list(names)
        unknown = [name for name in names if name not in self._numbers][: max(0, MAX_MADE - len(self._numbers))]
        asked = [self._connection.ask(request.InternAtom, name=name, only_if_exists=0) for name in unknown]
        for name, reply in zip(unknown, await asyncio.gather(*asked)):
            self._numbers[name] = reply.atom
            self._names[reply.atom] = name
        return {name: self._numbers[name] for name in names if name in self._numbers}

    async def names(self, numbers: Iterable[int]) -> List[str]:
        """The names, in order; numbers that have none are left out."""
        numbers = list(numbers)
        if len(self._names) > MAX_KNOWN:
            self._names = {number: name for name, number in self._numbers.items()}
        unknown = [number for number in dict.fromkeys(numbers) if number not in self._names]
        for number, name in zip(unknown, await asyncio.gather(*map(self._name, unknown))):
            if name is not None:
                self._names[number] = name
        return [self._names[number] for number in numbers if number in self._names]

    async def _name(self, number: int) -> Optional[str]:
        try:
            name = (await self._connection.ask(request.GetAtomName, atom=number)).name
        except XError:
            return None
        return name if isinstance(name, str) else bytes(name).decode("latin-1")
