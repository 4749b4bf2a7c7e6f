"""The clipboard of an X server, also of XWayland: no polling, data on demand, any size in little memory."""

from __future__ import annotations

import asyncio
from typing import Any, AsyncIterator, Dict, List, Optional, Sequence, Set

from Xlib import X
from Xlib.error import XError
from Xlib.ext import xfixes
from Xlib.protocol import event, request

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
from .atoms import USUAL, Atoms
from .connection import Connection
from .reading import Reader
from .serving import Held, Owner

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
        self._stamps: List[asyncio.Future[int]] = []

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
            known = await self._atoms.intern(USUAL)
            self._numbers = {Selection.CLIPBOARD: known["CLIPBOARD"], Selection.PRIMARY: known["PRIMARY"]}
            self._selections = {number: selection for selection, number in self._numbers.items()}
            self._time_property = known["_SUBOS_TIME"]
            self._window = connection.create_window()
            connection.watch(self._window, self._receive)
            await connection.select_xfixes(self._window, list(self._numbers.values()))
            for selection, number in self._numbers.items():
                if (await connection.ask(request.GetSelectionOwner, selection=number)).owner:
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
        for future in self._stamps:
            if not future.done():
                future.set_exception(reason)
        self._lose(reason)

    def _connected(self) -> Connection:
        if self._connection is None:
            raise self._lost or Disconnected("there is no connection to the X server")
        return self._connection

    # --- what others hold --------------------------------------------------------------------------------------

    def _receive(self, received: Any) -> None:
        if isinstance(received, xfixes.SelectionNotify) and not received.send_event:
            self._changed(received)
        elif isinstance(received, event.SelectionRequest):
            self._owner.answer(received)
        elif isinstance(received, event.PropertyNotify) and received.atom == self._time_property:
            for future in self._stamps:
                if not future.done():
                    future.set_result(received.time)

    def _changed(self, received: Any) -> None:
        """The selection has another owner, or none."""
        selection = self._selections.get(received.selection)
        if selection is None:
            return
        if task := self._listing.pop(selection, None):
            task.cancel()
        if received.sub_code != xfixes.XFixesSetSelectionOwnerNotify:
            self._reader.fail(Stalled("the program that holds it has ended"), received.selection)
        self._reader.forget_owner(received.selection)
        released = selection in self._released
        self._released.discard(selection)
        self._owner.held.pop(received.selection, None)
        if received.owner == self._window:
            self._forget(selection)
            if received.selection in self._taking:
                self._owner.held[received.selection] = self._taking.pop(received.selection)
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
        targets = (await self._atoms.intern(["TARGETS"]))["TARGETS"]
        data = bytearray()
        async with self._reader.requestor(self._numbers[selection]) as requestor:
            async for piece in requestor.convert(self._numbers[selection], targets):
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
            time = await self._time(connection)
            self._taking[number] = Held(time, targets, marker, self._echo[selection].record(provider))
            connection.send(request.SetSelectionOwner, window=self._window, selection=number, time=time)
            # The news of it come before this answer, and after those of all earlier owners.
            await connection.ask(request.GetSelectionOwner, selection=number)
            self._taking.pop(number, None)  # still there where another was quicker, with a later time

    async def release(self, selection: Selection) -> None:
        connection = self._connected()
        number = self._numbers[selection]
        async with self._one_taker:
            held = self._owner.held.pop(number, None)
            if held is not None:
                self._released.add(selection)
                connection.send(request.SetSelectionOwner, window=X.NONE, selection=number, time=held.time)
                await connection.ask(request.GetSelectionOwner, selection=number)

    async def _time(self, connection: Connection) -> int:
        """The server's time, in ms. It is told with a change of a property, for which adding nothing is enough."""
        stamp = asyncio.get_running_loop().create_future()
        self._stamps.append(stamp)
        try:
            connection.send(
                request.ChangeProperty,
                mode=X.PropModeAppend,
                window=self._window,
                property=self._time_property,
                type=self._time_property,
                data=(8, b""),
            )
            return int(await stamp)
        finally:
            self._stamps.remove(stamp)
