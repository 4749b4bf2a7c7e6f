"""One request under way, as either side sees it."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Deque, NamedTuple, Optional, Type, Union

from ..errors import Malformed
from .connection import Connection, NotReady, Received
from .errors import ChannelError, ChannelLost, RemoteError
from .frames import Head, unpack_head

if TYPE_CHECKING:
    from .peer import Peer

AHEAD = 1 << 17
"""Bytes that may wait on a stream before `send` waits."""


class Message(NamedTuple):
    """One piece of a stream: DATA with its `part` (0 to 255), or an EVENT (a head, part 0)."""

    content: Union[bytes, Head]
    part: int = 0


class Stream:
    """`async with peer.call(…) as stream:` cancels it at the end of the block, if it is not over by then.

    Its opener sends a request, DATA and EVENTs, `end`; the responder sends DATA and EVENTs, then its reply, which ends
    the stream.
    """

    def __init__(self, peer: Peer, core: Connection, number: int, head: Head, *, mine: bool) -> None:
        self.number = number
        self.head = head
        self.task: Optional[asyncio.Future[None]] = None
        self._peer = peer
        self._core = core
        self._mine = mine
        self._got: Deque[Received] = deque()
        self._ended = False
        self._over = False
        self._error: Optional[ChannelError] = None
        self._result: Optional[Head] = None
        self._wake = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def peer(self) -> Peer:
        """Whose stream it is."""
        return self._peer

    @property
    def is_over(self) -> bool:
        return self._over

    async def receive(self) -> Optional[Message]:
        """The next piece; None at the end: the opener has sent all, the responder has replied.

        Raises RemoteError (the stream was cancelled, or the reply is an error), ChannelLost.
        """
        while not self._got:
            if self._error is not None:
                raise self._error
            if self._ended or self._over:
                return None
            self._wake.clear()
            await self._wake.wait()
        received = self._got.popleft()
        self._core.consumed(self.number, received.cost)
        self._peer.flush()
        if not received.event:
            return Message(received.content, received.part)
        try:
            return Message(unpack_head(received.content))
        except Malformed as error:
            self.cancel("malformed", str(error))
            raise RemoteError("malformed", f"the other side sent {error}") from error

    async def result(self) -> Head:
        """The reply, once it is there; DATA and EVENTs that nobody has received are dropped. Raises ChannelError."""
        while await self.receive() is not None:
            pass
        if self._result is None:
            raise ChannelLost("the stream ended without a reply")
        return self._result

    async def send(self, data: bytes, part: int = 0) -> None:
        """Sends DATA, and waits while too much of it waits already. Raises ChannelError."""
        try:
            self._core.send(self.number, data, part)
        except NotReady as error:
            raise self._error or ChannelLost(str(error)) from error
        await self._drain()

    async def event(self, head: Head) -> None:
        """Sends an EVENT, in order with DATA. Raises ChannelError."""
        self.post(head)
        await self._drain()

    def post(self, head: Head) -> None:
        """An EVENT without waiting, for those who know that they send few. Raises ChannelError."""
        try:
            self._core.event(self.number, head)
        except NotReady as error:
            raise self._error or ChannelLost(str(error)) from error
        self._peer.flush()

    def end(self) -> None:
        """The opener sends no more. Nothing happens where the stream is over."""
        if self._mine and not self._over:
            self._core.end(self.number)
            self._peer.flush()

    def cancel(self, code: str = "cancelled", message: str = "the request was cancelled") -> None:
        """Ends it at once, on both sides."""
        if not self._over:
            self._peer.cancel(self, RemoteError(code, message))

    async def _drain(self) -> None:
        self._peer.flush()
        while not self._over and self._core.queued(self.number) > AHEAD:
            self._room.clear()
            await self._room.wait()
        if self._error is not None:
            raise self._error

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.cancel()

    # --- for Peer

    def took(self, received: Received) -> None:
        self._got.append(received)
        self._wake.set()

    def took_end(self) -> None:
        self._ended = True
        self._wake.set()

    def sent(self) -> None:
        if not self._room.is_set():
            self._room.set()

    def finish(self, error: Optional[ChannelError], result: Optional[Head]) -> None:
        self._over = True
        self._error = self._error or error
        self._result = result
        self._wake.set()
        self._room.set()
        if self.task is not None and error is not None and not self.task.done():
            self.task.cancel()
