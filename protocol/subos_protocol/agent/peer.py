"""One end of the agent channel as an asyncio protocol, over whatever transport it is given.

    peer = Peer(Hello("subos-agent", "0.1.0", ["echo"]), {"echo": echo}, opener=True)
    await loop.create_unix_connection(lambda: peer, path)
    await peer.ready()
    stream = peer.call({"op": "exec", "argv": ["ls"]})
    while (message := await stream.receive()) is not None: …
    result = await stream.result()

A handler is `async def echo(stream)`: what it returns is the reply; what it raises is told to the other side as one
line. It is cancelled when the stream is. This module opens nothing: sockets and devices are the caller's.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Awaitable, Callable, Dict, Mapping, Optional, Set, Union

from ..errors import Malformed
from . import connection as core
from .connection import LIMITS, Connection, Limits, NotReady
from .errors import ChannelLost, RemoteError
from .frames import FLUSH, Head
from .hello import Hello
from .stream import Stream

log = logging.getLogger(__name__)

Handler = Callable[[Stream], Awaitable[Optional[Head]]]
SEND_AHEAD = 1 << 16
"""Bytes that may wait in the transport: more would hold up what comes after."""
HELLO_PATIENCE = 2.0
"""Seconds until HELLO is said again, on a transport that may have lost the first one."""


class Peer(asyncio.Protocol):
    """`handlers` answer the other side's requests, by "op"; `default` answers all others. `shared`: the transport
    outlives its users (a virtio-serial port), so begin by filling up what one of them may have left unfinished.

    `on_ready` is called with this peer when the other side is known, again for each new process of it; `on_lost` once,
    when the transport ends, with the reason: Malformed where the other side broke the protocol, None where it was
    closed in order.
    """

    def __init__(
        self,
        hello: Hello,
        handlers: Mapping[str, Handler],
        *,
        opener: bool,
        default: Optional[Handler] = None,
        shared: bool = False,
        limits: Limits = LIMITS,
        on_ready: Optional[Callable[[Peer], None]] = None,
        on_lost: Optional[Callable[[Peer, Optional[Exception]], None]] = None,
    ) -> None:
        self._core = Connection(hello, opener=opener, shared=shared, limits=limits)
        self._handlers = handlers
        self._default = default
        self._shared = shared
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._transport: Optional[asyncio.Transport] = None
        self._paused = False
        self._streams: Dict[int, Stream] = {}
        self._tasks: Set[asyncio.Future[None]] = set()
        self._changed = asyncio.Event()
        self._heard = asyncio.Event()
        self._repeat: Optional[asyncio.TimerHandle] = None
        self._lost: Optional[ChannelLost] = None

    # --- for those who ask

    @property
    def hello(self) -> Optional[Hello]:
        """Who the other side is; None before it is ready."""
        return self._core.peer if self._core.is_ready else None

    @property
    def is_lost(self) -> bool:
        return self._lost is not None

    async def ready(self) -> Hello:
        """Waits until the other side is known. Raises ChannelLost."""
        while True:
            if self._lost is not None:
                raise self._lost
            if self.hello is not None:
                return self.hello
            self._changed.clear()
            await self._changed.wait()

    async def lost(self) -> None:
        """Waits until the transport has ended."""
        while self._lost is None:
            self._changed.clear()
            await self._changed.wait()

    def call(self, head: Head) -> Stream:
        """Sends a request: `head` has "op" and what belongs to it. Raises ChannelLost (not ready, too), RemoteError
        (it is too long)."""
        if self._lost is not None:
            raise self._lost
        try:
            number = self._core.request(head)
        except NotReady as error:
            raise ChannelLost(str(error)) from error
        except Malformed as error:
            raise RemoteError("too-large", str(error)) from error
        stream = self._streams[number] = Stream(self, self._core, number, head, mine=True)
        self.flush()
        return stream

    async def answers(self, patience: float) -> bool:
        """Whether the other side gives a sign of life within `patience` seconds: not every transport tells its end."""
        self._heard.clear()
        self._core.ping()
        self.flush()
        try:
            await asyncio.wait_for(self._heard.wait(), patience)
        except asyncio.TimeoutError:
            return False
        return self._lost is None

    async def ask(self, head: Head) -> Head:
        """The result of a request without data. Raises ChannelError."""
        async with self.call(head) as stream:
            return await stream.result()

    def close(self, reason: str = "the connection was closed") -> None:
        """Hangs up, at once."""
        self._end(ChannelLost(reason))
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._lost is not None:  # closed before it was connected
            transport.abort()
            return
        transport.set_write_buffer_limits(SEND_AHEAD)
        if self._shared:
            transport.write(FLUSH)
            self._say_again()
        self.flush()

    def _say_again(self) -> None:
        """Until somebody answers: what opens the port's other end comes later, and drops what was there."""
        if self.hello is None and self._lost is None:
            self._repeat = asyncio.get_running_loop().call_later(HELLO_PATIENCE, self._say_again)
            if not self._paused:
                self._core.say_hello()
                self.flush()

    def data_received(self, data: bytes) -> None:
        if self._lost is not None:
            return
        self._heard.set()
        try:
            for event in self._core.receive(data):
                if self._lost is None:  # an event's taker may have hung up
                    self._take(event)
        except Malformed as error:
            self._broken(error)
            return
        self.flush()

    def _broken(self, error: Malformed) -> None:
        self._end(ChannelLost(f"the other side broke the protocol: {error}"), error)
        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.flush()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Optional[Exception]) -> None:
        self._end(ChannelLost("the other side hung up" if error is None else f"the connection broke: {error}"), error)

    def _end(self, lost: ChannelLost, error: Optional[Exception] = None) -> None:
        if self._lost is not None:
            return
        self._lost = lost
        if self._repeat is not None:
            self._repeat.cancel()
        for number in list(self._streams):
            self._finish(number, lost)
        self._changed.set()
        if self._on_lost is not None:
            self._on_lost(self, error)

    # --- what comes in

    def _take(self, event: core.Event) -> None:
        if isinstance(event, core.Received):
            if (stream := self._streams.get(event.stream)) is None:
                self._core.consumed(event.stream, event.cost)  # our reply waits to be sent; nobody wants more
            else:
                stream.took(event)
        elif isinstance(event, core.Requested):
            self._serve(event.stream, event.head)
        elif isinstance(event, core.Ended):
            if (stream := self._streams.get(event.stream)) is not None:
                stream.took_end()
        elif isinstance(event, core.Replied):
            failed = RemoteError.from_head(event.head) if "error" in event.head else None
            self._finish(event.stream, failed, event.head)
        elif isinstance(event, core.Cancelled):
            self._finish(event.stream, RemoteError.from_head({"error": "cancelled", **event.head}))
        elif isinstance(event, core.Lost):
            for number in event.streams:
                self._finish(number, ChannelLost("the other side has started anew"))
        else:
            self._changed.set()
            if self._on_ready is not None:
                self._on_ready(self)

    def _finish(self, number: int, error: Union[ChannelLost, RemoteError, None], result: Optional[Head] = None) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream.finish(error, result)

    def _serve(self, number: int, head: Head) -> None:
        stream = self._streams[number] = Stream(self, self._core, number, head, mine=False)
        task = asyncio.ensure_future(self._answer(stream))
        stream.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, stream: Stream) -> None:
        op = stream.head.get("op")
        handler = self._handlers.get(op, self._default) if isinstance(op, str) else None
        try:
            if handler is None:
                raise RemoteError("unknown-op", f"this side does not know how to {str(op)[:64]!r}")
            reply = await handler(stream) or {}
        except RemoteError as error:
            reply = error.head()
        except asyncio.CancelledError:
            if stream.is_over:
                return
            reply = RemoteError("cancelled", "the request was cancelled").head()
        except Exception as error:
            log.warning("%s failed: %s", op, error, exc_info=log.isEnabledFor(logging.DEBUG))
            reply = RemoteError("failed", str(error) or type(error).__name__).head()
        if self._streams.get(stream.number) is not stream:  # over; a new process may use its number
            return
        del self._streams[stream.number]
        try:
            self._core.reply(stream.number, reply)
        except Malformed as error:
            self._core.reply(stream.number, RemoteError("too-large", str(error)).head())
        stream.finish(None, None)
        self.flush()

    # --- what goes out

    def flush(self) -> None:
        """Gives the transport what it takes."""
        transport = self._transport
        if transport is None or self._lost is not None:
            return
        while not self._paused:
            data = self._core.data_to_send(SEND_AHEAD)
            if not data:
                break
            transport.write(data)
        for stream in self._streams.values():
            stream.sent()

    def cancel(self, stream: Stream, error: RemoteError) -> None:
        """Ends a stream before its time; the other side is told."""
        self._core.cancel(stream.number, error.head())
        self._finish(stream.number, error)
        self.flush()
