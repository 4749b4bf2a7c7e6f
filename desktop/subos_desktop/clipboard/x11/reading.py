"""Taking data from a selection's owner (ICCCM 2.4 and 2.7.2)."""

from __future__ import annotations

from typing import Any, AsyncIterator, Callable, Optional

from Xlib import X
from Xlib.error import XError
from Xlib.protocol import event, request

from ..bell import Bell
from ..interface import CHUNK, PATIENCE, ClipboardError, Malformed, NotOffered, Stalled
from .atoms import Atoms
from .connection import Connection


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
        self._failure: Optional[ClipboardError] = None
        self._bell = Bell()
        connection.watch(self._window, self._receive)

    def close(self) -> None:
        """Lets go; the owner hears of it by the window's end."""
        self._connection.unwatch(self._window, self._receive)
        self._connection.destroy_window(self._window)

    def fail(self, reason: ClipboardError) -> None:
        """Ends it from outside: the owner or the server has gone."""
        self._failure = self._failure or reason
        self._bell.ring()

    async def convert(self, selection: int, target: int) -> AsyncIterator[Piece]:
        """The data, at most CHUNK bytes of it in memory. Raises NotOffered, Stalled, Malformed, Disconnected.

        Asks with CurrentTime, as others do: there is no event of a user behind it.
        """
        known = await self._atoms.intern(["_SUBOS_SELECTION", "INCR"])
        self._property = known["_SUBOS_SELECTION"]
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
            raise NotOffered("the program that holds it refuses")
        self._news = False
        reply = await self._get(0)
        if reply.property_type != known["INCR"]:
            async for piece in self._pieces(reply):
                yield piece
            return
        # It comes in parts. That one is deleted asks for the next; an empty one ends it.
        ended = False
        while not ended:
            await self._until(lambda: self._news)
            self._news = False
            async for piece in self._pieces(await self._get(0)):
                ended = not piece.data
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
