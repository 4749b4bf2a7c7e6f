"""What every backend offers: who has copied what, the data on demand, and the other way round.

ClipboardError
├── Unavailable      this desktop gives no such access
│   └── NoServer     there is no display server, or none that answers
├── Disconnected     the server has gone; connect() may be called again
├── NotOffered       nothing of that format is there (any more)
├── Stalled          the program that holds the data does not go on
├── Malformed        what it gave is not what it announced
└── TooLarge         more than the caller wants

A backend lives in one asyncio loop. Nothing here blocks it.
"""

from __future__ import annotations

import abc
import asyncio
import enum
import os
from dataclasses import dataclass
from typing import AsyncIterator, Callable, Dict, List, Optional, Sequence, Tuple

PATIENCE = 5.0  # seconds until a program that was asked for data is taken for hung
CHUNK = 256 * 1024  # bytes; what read() yields at most at once, and what is kept of a transfer in memory

# Stands among the formats of what a process of SubOS offers. X11 tells who owns a selection, Wayland does not.
MARKER = "application/x-subos-offer"


class ClipboardError(Exception):
    """`message` says in one line what is wrong, `hint` what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Unavailable(ClipboardError):
    """This desktop gives no such access."""


class NoServer(Unavailable):
    """There is no display server, or none that answers."""


class Disconnected(ClipboardError):
    """The display server has gone."""


class NotOffered(ClipboardError):
    """Nothing of that format is there, or not any more."""


class Stalled(ClipboardError):
    """The program that holds the data does not answer, or stopped in the middle."""


class Malformed(ClipboardError):
    """The program that holds the data gave something else than it announced."""


class TooLarge(ClipboardError):
    """There is more than the caller wants."""


class Selection(enum.Enum):
    CLIPBOARD = "clipboard"  # what one copies
    PRIMARY = "primary"  # what one marks with the mouse


@dataclass(frozen=True)
class Offer:
    """What another program holds: formats are MIME types (see formats.py), none where nothing can be had.

    `serial` grows with every offer of a backend.
    """

    selection: Selection
    formats: Tuple[str, ...]
    serial: int


# Called with a format when a program pastes, so perhaps never, perhaps several times at once.
# It raises ClipboardError where there is nothing to be had; is closed where the program has gone.
Provider = Callable[[str], AsyncIterator[bytes]]


class Clipboard(abc.ABC):
    """Access to both selections. What is offered by offer() is never reported by offers(): so there are no loops.

    A marker tells our own offers from others': processes that are given the same one never report each other's.
    """

    name = ""
    detail = "works"  # once connected: what works and what does not

    def __init__(self, marker: Optional[str] = None) -> None:
        self.marker = f"{MARKER};id={marker or os.urandom(8).hex()}"
        self._offers: Dict[Selection, Offer] = {}
        self._serial = 0
        self._lost: Optional[ClipboardError] = None
        self._waiters: List[asyncio.Future[None]] = []

    # --- what a backend does -----------------------------------------------------------------------------------

    @abc.abstractmethod
    async def connect(self) -> None:
        """Opens it, for the first time or again after Disconnected. Raises Unavailable."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Gives up what is offered and closes. Does nothing where it is closed."""

    @abc.abstractmethod
    def read(self, selection: Selection, mime: str, serial: Optional[int] = None) -> AsyncIterator[bytes]:
        """The data of the present offer in one of its formats, in chunks of at most CHUNK bytes.

        The program that holds it is asked when the first chunk is, and is held up where chunks are not taken;
        closing the iterator ends the transfer. Text comes as UTF-8, line ends as they are.
        Raises NotOffered (also where `serial` is given and is not the present offer's), Stalled, Malformed,
        Disconnected.
        """

    @abc.abstractmethod
    async def offer(self, selection: Selection, formats: Sequence[str], provider: Provider) -> None:
        """Holds the selection from now on, until another program takes it or it is released.

        When this returns, every earlier offer of another program is forgotten, reported or not.
        Raises Disconnected, Unavailable.
        """

    @abc.abstractmethod
    async def release(self, selection: Selection) -> None:
        """Holds the selection no longer. Does nothing where another program does."""

    # --- what all of them share --------------------------------------------------------------------------------

    def current(self, selection: Selection) -> Optional[Offer]:
        """The newest offer of another program; None where there was none yet, or the selection is ours."""
        return self._offers.get(selection)

    async def offers(self) -> AsyncIterator[Offer]:
        """The present offer of each selection, then every new one. Who is slow misses all but the newest.

        Several may iterate at once. Raises Disconnected when the server goes; ends never.
        """
        seen = dict.fromkeys(Selection, 0)
        while True:
            if self._lost:
                raise self._lost
            news = [offer for offer in self._offers.values() if offer.serial > seen[offer.selection]]
            for offer in news:
                if self._offers.get(offer.selection) is offer:
                    seen[offer.selection] = offer.serial
                    yield offer
            if not news:
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                await waiter

    async def __aenter__(self) -> Clipboard:
        await self.connect()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def _announce(self, selection: Selection, formats: Sequence[str]) -> None:
        """Another program holds the selection."""
        self._serial += 1
        self._offers[selection] = Offer(selection, tuple(formats), self._serial)
        self._wake()

    def _forget(self, selection: Selection) -> None:
        """The selection is ours, or it is not known yet what it holds."""
        self._offers.pop(selection, None)

    def _lose(self, reason: ClipboardError) -> None:
        self._lost = reason
        self._offers.clear()
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _offered(self, selection: Selection, mime: str, serial: Optional[int]) -> Offer:
        """The present offer, if it is the one that is meant. Raises Disconnected, NotOffered."""
        if self._lost:
            raise self._lost
        offer = self._offers.get(selection)
        if offer is None or (serial is not None and offer.serial != serial):
            raise NotOffered(f"the {selection.value} has changed since")
        if mime not in offer.formats:
            raise NotOffered(f"the {selection.value} holds nothing of the type {mime}")
        return offer
