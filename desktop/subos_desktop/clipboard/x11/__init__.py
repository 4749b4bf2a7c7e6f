"""The clipboard of an X server, also of XWayland: no polling, data on demand, any size in little memory."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import AsyncIterator, Dict, List, Optional, Sequence, Set

from ..echo import Echo
from ..formats import MAX_FORMATS, from_targets, reader, to_targets
from ..interface import (
    Clipboard,
    ClipboardError,
    Disconnected,
    Malformed,
    NotOffered,
    Provider,
    Selection,
    Stalled,
    Unavailable,
)
from ..streams import closing
from . import requests, wire
from .atoms import USUAL, Atoms
from .connection import Connection
from .reading import Reader
from .requests import CURRENT_TIME, NONE
from .serving import Held, Owner
from .wire import Event, SelectionChange, SelectionRequest, XError, XFixesSelectionNotify

MAX_TARGETS = 4 * MAX_FORMATS  # that are looked at


class X11Clipboard(Clipboard):
    name = "x11"

    def __init__(self, display: Optional[str] = None, marker: Optional[str] = None) -> None:
        """`display` as in DISPLAY, which is taken where it is None."""
        super().__init__(marker)
        self._display = display
        self._connection: Optional[Connection] = None
        self._targets: Dict[Selection, Dict[str, str]] = {}  # of the present offer: format → target to ask for
        self._listing: Dict[Selection, asyncio.Task[None]] = {}
        self._released: Set[Selection] = set()
        self._echo = {selection: Echo() for selection in Selection}

    # --- opening and closing -----------------------------------------------------------------------------------

    async def connect(self) -> None:
        await self.close()
        connection = Connection(self._display, self._receive, self._disconnected)
        await connection.open()
        self._lost, self._connection = None, connection
        self._atoms = Atoms(connection)
        self._owner = Owner(connection, self._atoms)
        self._reader = Reader(connection, self._atoms)
        self._taking: Dict[int, Held] = {}  # what we hold as soon as the server says so
        self._one_taker = asyncio.Lock()
        self._released.clear()
        try:
            await connection.extend()
            known = await self._atoms.intern(USUAL)
            self._numbers = {Selection.CLIPBOARD: known["CLIPBOARD"], Selection.PRIMARY: known["PRIMARY"]}
            self._selections = {number: selection for selection, number in self._numbers.items()}
            self._window = connection.create_window()
            for number in self._numbers.values():
                connection.select_selection(self._window, number)
            for selection, number in self._numbers.items():
                if await self._owner_of(connection, number):
                    self._list(selection)
        except Disconnected as error:
            raise Unavailable(error.message) from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _disconnected(self, reason: Disconnected) -> None:
        self._connection = None
        self._owner.close()
        for task in self._listing.values():
            task.cancel()
        self._reader.fail(reason)
        self._lose(reason)

    def _connected(self) -> Connection:
        if self._connection is None:
            raise self._lost or Disconnected("there is no connection to the X server")
        return self._connection

    # --- what others hold --------------------------------------------------------------------------------------

    def _receive(self, received: Event) -> None:
        if isinstance(received, XFixesSelectionNotify):
            self._changed(received)
        elif isinstance(received, SelectionRequest):
            self._owner.answer(received)

    def _changed(self, received: XFixesSelectionNotify) -> None:
        """The selection has another owner, or none."""
        selection = self._selections.get(received.selection)
        if selection is None:
            return
        if task := self._listing.pop(selection, None):
            task.cancel()
        if received.change != SelectionChange.SetSelectionOwner:
            self._reader.fail(Stalled("the program that holds it has ended"), received.selection)
        self._reader.forget_owner(received.selection)
        released = selection in self._released
        self._released.discard(selection)
        self._owner.held.pop(received.selection, None)
        if received.owner == self._window:
            self._forget(selection)
            if received.selection in self._taking:
                taken = self._taking.pop(received.selection)
                self._owner.held[received.selection] = dataclasses.replace(taken, time=received.since)
        elif received.owner:
            self._list(selection)
        elif released:
            self._forget(selection)
        else:
            self._echo[selection] = Echo()
            self._announce(selection, ())

    def _list(self, selection: Selection) -> None:
        """Asks the new owner what it has, then announces that."""
        self._forget(selection)
        self._listing[selection] = asyncio.get_running_loop().create_task(self._announce_targets(selection))

    async def _announce_targets(self, selection: Selection) -> None:
        try:
            names = await self._read_targets(selection)
        except Disconnected:
            return
        except (ClipboardError, XError):
            names = []  # it holds the selection, but gives nothing
        targets = from_targets(names)
        if self.marker in names or await self._is_echo(selection, targets):
            return
        self._echo[selection] = Echo()  # whoever comes back to our old offer after this one brings news
        self._targets[selection] = targets
        self._announce(selection, tuple(targets))

    async def _is_echo(self, selection: Selection, targets: Dict[str, str]) -> bool:
        """Whether the new owner offers what it, or another, has pasted from us."""
        mime, size = self._echo[selection].candidate(targets)
        if mime is None:
            return False
        data = bytearray()
        try:
            async with closing(self._data(selection, targets[mime])) as chunks:
                async for chunk in chunks:
                    data += chunk
                    if len(data) > size:
                        return False
        except (ClipboardError, XError):
            return False
        return self._echo[selection].is_it(mime, bytes(data))

    async def _read_targets(self, selection: Selection) -> List[str]:
        self._connected()
        data = bytearray()
        async with self._reader.requestor(self._numbers[selection]) as requestor:
            async for piece in requestor.convert(self._numbers[selection], self._atoms["TARGETS"]):
                if piece.bits != 32:
                    raise Malformed("its list of formats is none")
                data += piece.data
                if len(data) >= 4 * MAX_TARGETS:
                    break
        numbers = memoryview(bytes(data[: 4 * MAX_TARGETS])).cast("I")
        return await self._atoms.names(number for number in numbers if number)

    async def read(self, selection: Selection, mime: str, serial: Optional[int] = None) -> AsyncIterator[bytes]:
        self._offered(selection, mime, serial)
        async with closing(self._data(selection, self._targets[selection][mime])) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _data(self, selection: Selection, name: str) -> AsyncIterator[bytes]:
        """What the owner has for the target of this name."""
        self._connected()
        target = (await self._atoms.intern([name])).get(name)
        if target is None:
            raise NotOffered(f"there are too many formats to ask for {name}")
        recoder = None
        async with self._reader.requestor(self._numbers[selection]) as requestor:
            async for piece in requestor.convert(self._numbers[selection], target):
                if piece.bits != 8:
                    raise Malformed(f"what came as {name} are no bytes")
                recoder = recoder or reader(piece.kind)
                changed = recoder.feed(piece.data)
                if changed:
                    yield changed
        rest = recoder.feed(b"", last=True) if recoder else b""
        if rest:
            yield rest

    # --- what we hold ------------------------------------------------------------------------------------------

    async def offer(self, selection: Selection, formats: Sequence[str], provider: Provider) -> None:
        connection = self._connected()
        names = to_targets(formats)
        known = await self._atoms.intern([self.marker, *names])
        marker = known.pop(self.marker, 0)
        targets = {number: (name, names[name]) for name, number in known.items()}
        number = self._numbers[selection]
        async with self._one_taker:
            self._echo[selection] = Echo()
            self._taking[number] = Held(targets, marker, self._echo[selection].record(provider))
            # There is no event of a user behind it. What time it was, the news of it say.
            with connection.at_once():
                connection.send(requests.set_selection_owner(self._window, number, CURRENT_TIME))
                # They come before this answer, and after those of all earlier owners.
                answer = self._owner_of(connection, number)
            await answer
            self._taking.pop(number, None)

    async def release(self, selection: Selection) -> None:
        connection = self._connected()
        number = self._numbers[selection]
        async with self._one_taker:
            held = self._owner.held.pop(number, None)
            if held is not None:
                self._released.add(selection)
                connection.send(requests.set_selection_owner(NONE, number, held.time))
                await self._owner_of(connection, number)

    def _owner_of(self, connection: Connection, selection: int) -> asyncio.Future[int]:
        """The window that has it now, NONE for none."""
        return connection.ask(requests.get_selection_owner(selection), wire.unpack_number)
