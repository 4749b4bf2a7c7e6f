"""Taking data from a selection's owner (ICCCM 2.4 and 2.7.2)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import AsyncIterator, Callable, Dict, Optional, Union

from ..bell import Bell
from ..interface import CHUNK, PATIENCE, ClipboardError, Disconnected, Malformed, NotOffered, Stalled
from . import requests, wire
from .atoms import Atoms
from .connection import Connection
from .requests import ANY_PROPERTY_TYPE, NONE
from .wire import Event, Property, PropertyNotify, PropertyState, Reply, SelectionNotify, XError

MAX_DRAINS = 64  # conversions at once whose rest is taken
MAX_PARTS = 8192  # of each


class Piece:
    """A part of the data: `kind` is the name of its type, `bits` how wide its units are (8, 16, 32)."""

    __slots__ = ("bits", "data", "kind")

    def __init__(self, kind: str, bits: int, data: bytes) -> None:
        self.kind, self.bits, self.data = kind, bits, data


class Requestor:
    """One conversion, in a window of its own: what an owner still does for an older one cannot reach it."""

    def __init__(self, connection: Connection, atoms: Atoms) -> None:
        self._connection = connection
        self._atoms = atoms
        self._property, self._incr = atoms["_SUBOS_SELECTION"], atoms["INCR"]
        self._window = NONE
        self._answer: Optional[int] = None  # the property that the owner answered with; 0 for a refusal
        self._news = False  # the property was set since we last asked for it
        self._asked = False  # whether a reply is on its way, or there
        self._reply: Union[Property, XError, None] = None
        self._done = True  # nothing more will come
        self._incremental = False
        self._failure: Optional[ClipboardError] = None
        self._bell = Bell()

    def close(self) -> None:
        if self._window:
            self._connection.destroy_window(self._window)

    @property
    def done(self) -> bool:
        """Whether the owner has nothing more to do for it."""
        return self._done or self._failure is not None

    async def drain(self) -> None:
        """Takes the rest and throws it away, within limits."""
        try:
            await self._until(lambda: self._answer is not None)
            self._news = True  # of the part that was being read there may be a rest
            for _ in range(MAX_PARTS):
                if self._done or self._answer != self._property:
                    return
                async for _ in self._part():
                    pass
        except ClipboardError:
            pass

    def fail(self, reason: ClipboardError) -> None:
        """Ends it from outside: the owner or the server has gone."""
        self._failure = self._failure or reason
        self._bell.ring()

    async def convert(self, selection: int, target: int) -> AsyncIterator[Piece]:
        """The data, at most CHUNK bytes of it in memory and as many on their way.

        Raises NotOffered, Stalled, Malformed, Disconnected.
        """
        self._done = False
        with self._connection.at_once():
            self._window = self._connection.create_window(self._receive)
            self._connection.send(requests.convert_selection(self._window, selection, target, self._property))
        await self._until(lambda: self._reply is not None or self._answer not in (None, self._property))
        if self._answer != self._property:
            self._done = True
            raise NotOffered("the program that holds it refuses")
        while not self._done:
            async for piece in self._part():
                yield piece

    async def _part(self) -> AsyncIterator[Piece]:
        """All of the data, or a part of it. That a part is deleted asks for the next one; an empty one is the end."""
        self._ask_ahead()
        reply = await self._take()
        if reply.kind in (NONE, self._incr):
            self._incremental = True
            return
        self._done = not self._incremental
        async for piece in self._pieces(reply):
            if self._incremental and not piece.data:
                self._done = True
            yield piece

    async def _pieces(self, reply: Property) -> AsyncIterator[Piece]:
        """All that the property holds, which may be more than is read at once; nothing where it is not set."""
        offset = 0
        while reply.kind:
            if reply.left:
                offset += CHUNK // 4
                self._ask(offset)
            names = await self._atoms.names([reply.kind])
            yield Piece(names[0] if names else "", reply.bits, reply.data)
            if not reply.left:
                return
            reply = await self._take()
        if offset:
            raise Malformed("the data was taken away while it was read")

    # --- the property ------------------------------------------------------------------------------------------

    def _ask(self, offset: int) -> None:
        """For what it holds from `offset` (in words) on; the server deletes it with the last of it."""
        self._asked = True
        asked = requests.get_property(self._window, self._property, ANY_PROPERTY_TYPE, offset, CHUNK // 4, delete=True)
        self._connection.call(asked, self._answered)

    def _ask_ahead(self) -> None:
        """For the part that is there, before anybody waits for it. Only one: who is slow holds the owner up."""
        if self._news and not self._asked and not self._done:
            self._news = False
            self._ask(0)

    def _answered(self, answer: Union[Reply, XError, Disconnected]) -> None:
        if isinstance(answer, Disconnected):
            self.fail(answer)
            return
        self._reply = wire.unpack_property(answer) if isinstance(answer, Reply) else answer
        self._bell.ring()

    async def _take(self) -> Property:
        """The reply, as soon as there is one."""
        await self._until(lambda: self._reply is not None)
        reply, self._reply, self._asked = self._reply, None, False
        if not isinstance(reply, Property):  # the owner has made it shorter between two pieces
            raise Malformed("the data was changed while it was read") from reply
        return reply

    def _receive(self, received: Union[Event, XError]) -> None:
        if isinstance(received, SelectionNotify) and self._answer is None:
            self._answer = received.property
            self._news = received.property == self._property
            if not self._news:
                self._bell.ring()
        elif isinstance(received, PropertyNotify) and self._answer == self._property == received.atom:
            self._news = self._news or received.state == PropertyState.NewValue
        self._ask_ahead()

    async def _until(self, condition: Callable[[], bool]) -> None:
        in_time = await self._bell.until(lambda: self._failure or condition(), PATIENCE)
        if self._failure is not None:
            raise self._failure
        if not in_time:
            raise Stalled(f"the program that holds it has not answered for {PATIENCE:g} seconds")


class Reader:
    """The conversions of a connection.

    One that is given up is drained in the background: the end of its window would be an error of the owner's, which
    ends many a program, and others (xclip 0.13) serve nobody before they are done. So the next one waits for that.
    """

    def __init__(self, connection: Connection, atoms: Atoms) -> None:
        self._connection = connection
        self._atoms = atoms
        self._open: Dict[Requestor, int] = {}
        self._drains: Dict[asyncio.Task[None], int] = {}

    @contextlib.asynccontextmanager
    async def requestor(self, selection: int) -> AsyncIterator[Requestor]:
        """For one conversion of a selection."""
        drains = [task for task, drained in self._drains.items() if drained == selection]
        if drains:
            await asyncio.wait(drains, timeout=PATIENCE)
        requestor = Requestor(self._connection, self._atoms)
        self._open[requestor] = selection
        try:
            yield requestor
        finally:
            if requestor.done or len(self._drains) >= MAX_DRAINS:
                self._close(requestor)
            else:
                task = asyncio.get_running_loop().create_task(self._drain(requestor))
                self._drains[task] = selection
                task.add_done_callback(lambda done: self._drains.pop(done, None))

    def fail(self, reason: ClipboardError, selection: Optional[int] = None) -> None:
        """Ends all conversions, or those of one selection."""
        for requestor, converted in self._open.items():
            if selection in (None, converted):
                requestor.fail(reason)

    def forget_owner(self, selection: int) -> None:
        """There is another owner, which has no part in what is still drained."""
        for task, drained in self._drains.items():
            if drained == selection:
                self._drains[task] = 0

    async def _drain(self, requestor: Requestor) -> None:
        try:
            await requestor.drain()
        finally:
            self._close(requestor)

    def _close(self, requestor: Requestor) -> None:
        del self._open[requestor]
        requestor.close()
