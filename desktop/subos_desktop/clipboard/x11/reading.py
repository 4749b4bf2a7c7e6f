"""Taking data from a selection's owner (ICCCM 2.4 and 2.7.2)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, AsyncIterator, Callable, Dict, Optional

from Xlib import X
from Xlib.error import XError
from Xlib.protocol import event, request

from ..bell import Bell
from ..interface import CHUNK, PATIENCE, ClipboardError, Malformed, NotOffered, Stalled
from .atoms import Atoms
from .connection import Connection

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
        self._window = connection.create_window()
        self._property = 0
        self._answer: Optional[int] = None  # the property that the owner answered with; 0 for a refusal
        self._news = False  # the property was set since we last looked
        self._done = True  # nothing more will come
        self._incremental = False
        self._failure: Optional[ClipboardError] = None
        self._bell = Bell()
        connection.watch(self._window, self._receive)

    def close(self) -> None:
        self._connection.unwatch(self._window, self._receive)
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
                if self._done or not self._answer:
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
        """The data, at most CHUNK bytes of it in memory. Raises NotOffered, Stalled, Malformed, Disconnected.

        Asks with CurrentTime, as others do: there is no event of a user behind it.
        """
        known = await self._atoms.intern(["_SUBOS_SELECTION", "INCR"])
        self._property, self._incr = known["_SUBOS_SELECTION"], known["INCR"]
        self._done = False
        self._connection.send(
            request.ConvertSelection,
            requestor=self._window,
            selection=selection,
            target=target,
            property=self._property,
            time=X.CurrentTime,
        )
        await self._until(lambda: self._answer is not None)
        if self._answer != self._property:
            self._done = True
            raise NotOffered("the program that holds it refuses")
        self._news = False
        while not self._done:
            async for piece in self._part():
                yield piece

    async def _part(self) -> AsyncIterator[Piece]:
        """All of the data, or a part of it. That a part is deleted asks for the next one; an empty one is the end."""
        if self._incremental:
            await self._until(lambda: self._news)
            self._news = False
        reply = await self._get(0)
        if reply.property_type in (0, self._incr):
            self._incremental = True
            return
        self._done = not self._incremental
        async for piece in self._pieces(reply):
            if self._incremental and not piece.data:
                self._done = True
            yield piece

    async def _pieces(self, reply: Any) -> AsyncIterator[Piece]:
        """All that the property holds, which may be more than is read at once; nothing where it is not set."""
        offset = 0
        while reply.property_type:
            yield await self._piece(reply)
            if not reply.bytes_after:
                return
            offset += CHUNK // 4
            reply = await self._get(offset)
        if offset:
            raise Malformed("the data was taken away while it was read")

    async def _piece(self, reply: Any) -> Piece:
        names = await self._atoms.names([reply.property_type])
        bits, data = reply.value or (8, b"")
        return Piece(names[0] if names else "", bits, data if isinstance(data, bytes) else data.tobytes())

    async def _get(self, offset: int) -> Any:
        """What the property holds from `offset` (in 4 bytes) on; the server deletes it with the last of it."""
        try:
            return await self._connection.ask(
                request.GetProperty,
                delete=1,
                window=self._window,
                property=self._property,
                type=X.AnyPropertyType,
                long_offset=offset,
                long_length=CHUNK // 4,
            )
        except XError as error:  # the owner has made it shorter between two pieces
            raise Malformed("the data was changed while it was read") from error

    def _receive(self, received: Any) -> None:
        if isinstance(received, event.SelectionNotify):
            self._answer = received.property
        elif isinstance(received, event.PropertyNotify):
            if received.atom != self._property or received.state != X.PropertyNewValue:
                return
            self._news = True
        else:
            return
        self._bell.ring()

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
