"""A connection to an X server in an asyncio loop: requests, their replies, and who is told of which event."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import itertools
import os
import socket
from typing import Callable, Deque, Dict, Iterable, Iterator, List, Optional, Tuple, TypeVar, Union

from ..interface import PATIENCE, Disconnected, NoServer, Unavailable
from . import requests, wire
from .opening import log_in
from .requests import EventMask
from .wire import (
    Decoder,
    DestroyNotify,
    Event,
    Message,
    PropertyNotify,
    Reply,
    SelectionNotify,
    WireError,
    XError,
)

MAX_UNSENT = 64 << 20  # bytes; a server that takes nothing any more is given up
SEND_BUFFER = 1 << 20  # bytes that we would have the kernel take at once: it takes what it may
MAX_BUFFERS = 64  # of one call of the kernel
LATER = 0.1  # seconds; what is sent `later` waits so long at most

Answer = TypeVar("Answer")
# Events and errors that concern one window go to who watches it.
Watcher = Callable[[Union[Event, XError]], None]
Answered = Callable[[Union[Reply, XError, Disconnected]], None]


class Connection:
    """`on_event` is given every event that is not about a window of some watcher's, `on_lost` why it has ended."""

    def __init__(
        self, name: Optional[str], on_event: Callable[[Event], None], on_lost: Callable[[Disconnected], None]
    ) -> None:
        self.name = name
        self._on_event = on_event
        self._on_lost = on_lost
        self._socket: Optional[socket.socket] = None
        self._decoder = Decoder()
        self._sequence = 0
        self._waiting: Deque[Tuple[int, Answered]] = collections.deque()
        self._unsent: Deque[memoryview] = collections.deque()
        self._unsent_bytes = 0
        self._flushing = False  # whether _flush is called soon, or when the kernel takes more
        self._blocked = False  # whether that is when the kernel takes more
        self._watchers: Dict[int, List[Tuple[Watcher, int]]] = {}
        self._next_id = 0
        self._lost: Optional[Disconnected] = None

    # --- opening and closing -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connects. Raises NoServer."""
        try:
            opened, self._setup = await asyncio.wait_for(log_in(self.name), PATIENCE)
        except (OSError, ValueError, asyncio.TimeoutError) as error:
            raise NoServer(
                f"no connection to the X server: {_reason(error)}", "is DISPLAY set, and XAUTHORITY?"
            ) from error
        self._socket = opened
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        asyncio.get_running_loop().add_reader(opened.fileno(), self._readable)
        self.max_property = requests.max_data(self._setup.max_request)

    async def extend(self) -> None:
        """XFIXES, which is needed, and BIG-REQUESTS, which is not. Raises Unavailable, Disconnected."""
        try:
            await self._extend()
        except XError as error:
            raise Unavailable(f"the X server's extensions do not work: {error}") from error

    async def _extend(self) -> None:
        found = [
            self.ask(requests.query_extension(name), wire.unpack_extension)
            for name in (requests.XFIXES, requests.BIG_REQUESTS)
        ]
        xfixes, big_requests = await asyncio.gather(*found)
        if not xfixes.present:
            raise Unavailable("the X server lacks XFIXES, which tells who copies", "a newer X server has it")
        self._xfixes = xfixes.major
        self._decoder.expect_xfixes(xfixes.first_event)
        asked = [self.ask(requests.xfixes_query_version(xfixes.major), wire.unpack_number)]
        if big_requests.present:
            asked.append(self.ask(requests.big_requests_enable(big_requests.major), wire.unpack_number))
        answered = await asyncio.gather(*asked)
        if big_requests.present:
            self.max_property = requests.max_data(max(self._setup.max_request, answered[1]))

    def expect(self, codes: Iterable[int]) -> None:
        """Has `on_event` given events of another extension, each as a Notice."""
        for code in codes:
            self._decoder.expect_notice(code)

    @property
    def root(self) -> int:
        """The window of the whole screen."""
        return self._setup.root

    def close(self) -> None:
        self._end("the connection to the X server is closed")

    def _end(self, reason: str) -> None:
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._socket, self._lost = None, Disconnected(reason)
        self._unsent.clear()
        waiting, self._waiting = self._waiting, collections.deque()
        for _, answered in waiting:
            answered(self._lost)
        self._on_lost(self._lost)

    # --- requests ----------------------------------------------------------------------------------------------

    def send(self, request: bytes, data: bytes = b"", later: bool = False) -> None:
        """A request without a reply, and the data that it ends with. Errors go to the window's watchers.

        It leaves together with what else is sent before the loop goes on, or `later` with whatever leaves then.
        Does nothing on a lost connection.
        """
        if self._socket is None:
            return
        self._sequence = (self._sequence + 1) & 0xFFFF
        for part in (request, data, bytes(-len(data) & 3)):
            if part:
                self._unsent.append(memoryview(part))
                self._unsent_bytes += len(part)
        loop = asyncio.get_running_loop()
        if self._unsent_bytes > MAX_UNSENT:
            # Not here and now: whoever sends is not prepared for the end.
            loop.call_soon(self._end, "the X server takes no more requests")
        elif later:
            loop.call_later(LATER, self._flush)
        elif not self._flushing:
            self._flushing = True
            loop.call_soon(self._flush)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """What is sent within leaves at its end, sooner than the loop goes on."""
        if self._flushing:
            yield
            return
        self._flushing = True
        try:
            yield
        finally:
            self._flush()

    def ask(self, request: bytes, unpack: Callable[[Reply], Answer]) -> asyncio.Future[Answer]:
        """A request with a reply, which `unpack` understands. Raises XError, Disconnected."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.call(request, functools.partial(_settle, future, unpack))
        return future

    def call(self, request: bytes, answered: Answered) -> None:
        """A request with a reply, which `answered` is given as soon as it comes. It may raise WireError."""
        if self._socket is None:
            answered(self._lost or Disconnected("there is no connection to the X server"))
            return
        self.send(request)
        self._waiting.append((self._sequence, answered))

    # --- windows -----------------------------------------------------------------------------------------------

    def create_window(self, watcher: Optional[Watcher] = None) -> int:
        """One that is never shown. Its id is not used again soon: a late answer to the last one means nothing.

        `watcher` is given the changes of its properties.
        """
        mask = self._setup.id_mask
        lowest = mask & -mask
        self._next_id = self._next_id % (mask // lowest) + 1
        window = self._setup.id_base | self._next_id * lowest
        events = EventMask.PropertyChange if watcher else 0
        if watcher:
            self._watchers[window] = [(watcher, events)]
        self.send(requests.create_window(window, self._setup.root, events))
        return window

    def destroy_window(self, window: int) -> None:
        self._watchers.pop(window, None)
        self.send(requests.destroy_window(window), later=True)

    def select_selection(self, window: int, selection: int) -> None:
        """Has the server tell of every new owner of it."""
        self.send(requests.xfixes_select_selection_input(self._xfixes, window, selection))

    def watch(self, window: int, watcher: Watcher, events: int) -> None:
        """Has `watcher` given these events and the errors of another client's window."""
        watchers = self._watchers.setdefault(window, [])
        before = _all_events(watchers)
        watchers.append((watcher, events))
        if before | events != before:
            self.send(requests.select_events(window, before | events))

    def unwatch(self, window: int, watcher: Watcher) -> None:
        watchers = self._watchers.get(window, [])
        before = _all_events(watchers)
        watchers[:] = [each for each in watchers if each[0] != watcher]
        if not watchers:
            self._watchers.pop(window, None)
        if _all_events(watchers) != before:
            self.send(requests.select_events(window, _all_events(watchers)))

    # --- bytes -------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Sends what the kernel takes; called again when it takes more."""
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        while self._unsent:
            try:
                sent = self._socket.sendmsg(list(itertools.islice(self._unsent, MAX_BUFFERS)))
            except BlockingIOError:
                self._flushing = True
                if not self._blocked:
                    self._blocked = True
                    loop.add_writer(self._socket.fileno(), self._flush)
                return
            except OSError as error:
                loop.call_soon(self._end, f"the X server has gone: {error.strerror}")
                return
            self._unsent_bytes -= sent
            while self._unsent and sent >= len(self._unsent[0]):
                sent -= len(self._unsent.popleft())
            if sent:
                self._unsent[0] = self._unsent[0][sent:]
        self._flushing = False
        if self._blocked:
            self._blocked = False
            loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            count = self._socket.recv_into(self._decoder.room())
        except BlockingIOError:
            return
        except OSError as error:
            self._end(f"the X server has gone: {error.strerror}")
            return
        if not count:
            self._end("the X server has gone")
            return
        try:
            with self.at_once():
                for message in self._decoder.taken(count):
                    self._dispatch(message)
                    if self._socket is None:
                        return
        except WireError as error:
            self._end(f"what the X server says is not understood: {error}")

    def _dispatch(self, message: Message) -> None:
        if isinstance(message, Reply):
            self._answer(message, message.sequence)
            return
        if isinstance(message, XError):
            if self._waiting and self._waiting[0][0] == message.sequence:
                self._answer(message, message.sequence)
                return
            # It answers no question: a window, most of the time, that is not there any more.
            window = message.resource
        elif isinstance(message, (PropertyNotify, DestroyNotify)):
            window = message.window
        elif isinstance(message, SelectionNotify):
            window = message.requestor
        else:
            self._on_event(message)
            return
        for watcher, _ in tuple(self._watchers.get(window, ())):
            watcher(message)

    def _answer(self, answer: Union[Reply, XError], sequence: int) -> None:
        if not self._waiting or self._waiting[0][0] != sequence:
            raise WireError(f"a reply to request {sequence}, which asks for none")
        waiting = self._waiting
        waiting[0][1](answer)
        waiting.popleft()  # not before: where it is not understood, it is told that the connection ends


def _settle(
    future: asyncio.Future[Answer], unpack: Callable[[Reply], Answer], answer: Union[Reply, XError, Disconnected]
) -> None:
    if isinstance(answer, Reply):
        unpacked = unpack(answer)
        if not future.done():
            future.set_result(unpacked)
    elif not future.done():
        future.set_exception(answer)
        future.exception()  # who waited may be gone


def _reason(error: Exception) -> str:
    """asyncio's own words for an OSError name the address alone."""
    number = getattr(error, "errno", None) or 0
    return os.strerror(number) if number > 0 else getattr(error, "strerror", None) or str(error) or "it does not answer"


def _all_events(watchers: List[Tuple[Watcher, int]]) -> int:
    events = 0
    for _, wanted in watchers:
        events |= wanted
    return events
