"""A connection to a Wayland compositor in an asyncio loop: objects, their requests and events."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import socket
from typing import Callable, Deque, Dict, List, Optional, Tuple

from ..interface import PATIENCE, Disconnected, NoServer
from .protocol import CALLBACK, DISPLAY, Interface
from .wire import Argument, Decoder, Message, WireError, pack, unpack

RECEIVE = 1 << 16
MAX_FDS = 28  # with one message of the socket, as libwayland has it
MAX_KEPT_FDS = 256  # that came before the messages they belong to
MAX_UNSENT = 1 << 20  # bytes; a compositor that takes nothing any more is given up
FIRST_OF_SERVER = 0xFF000000  # object ids from here on are made by the compositor

Handler = Callable[[str, Tuple[Argument, ...]], None]


class Proxy:
    """An object of the compositor's. `handler` is given (event, arguments)."""

    def __init__(self, connection: Connection, number: int, interface: Interface, handler: Optional[Handler]) -> None:
        self.number = number
        self.interface = interface
        self.handler = handler
        self._connection = connection

    def request(self, name: str, *arguments: Argument) -> None:
        self._connection.request(self, name, arguments)

    def create(self, name: str, interface: Interface, handler: Optional[Handler], *arguments: Argument) -> Proxy:
        """A request whose first argument is the new object."""
        made = self._connection.make(interface, handler)
        self.request(name, made.number, *arguments)
        return made

    def destroy(self) -> None:
        """By its destructor, which every one of ours but wl_* has under this name."""
        self.handler = None
        self.request("destroy")
        self._connection.forget(self)


class Connection:
    """`on_lost` is given why the connection has ended."""

    def __init__(self, on_lost: Callable[[Disconnected], None]) -> None:
        self._on_lost = on_lost
        self._socket: Optional[socket.socket] = None
        self._decoder = Decoder()
        self._fds: Deque[int] = collections.deque()
        self._objects: Dict[int, Proxy] = {}
        self._next = 1
        self._free: List[int] = []
        self._unsent: Deque[Tuple[bytes, List[int]]] = collections.deque()
        self._unsent_bytes = 0
        self._syncs: List[asyncio.Future[None]] = []
        self._lost: Optional[Disconnected] = None
        self.display = self.make(DISPLAY, self._display_event)

    # --- opening and closing -----------------------------------------------------------------------------------

    async def open(self, path: str) -> None:
        """Raises NoServer."""
        loop = asyncio.get_running_loop()
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        opened.setblocking(False)
        try:
            await asyncio.wait_for(loop.sock_connect(opened, path), PATIENCE)
        except (OSError, asyncio.TimeoutError) as error:
            opened.close()
            reason = getattr(error, "strerror", None) or "it does not answer"
            raise NoServer(
                f"no connection to the Wayland compositor at {path}: {reason}", "is WAYLAND_DISPLAY right?"
            ) from error
        self._socket = opened
        loop.add_reader(opened.fileno(), self._readable)

    def close(self) -> None:
        self._end("the connection to the Wayland compositor is closed")

    def _end(self, reason: str) -> None:
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._socket, self._lost = None, Disconnected(reason)
        for fd in (*self._fds, *(fd for _, fds in self._unsent for fd in fds)):
            os.close(fd)
        self._fds.clear()
        self._unsent.clear()
        for future in self._syncs:
            if not future.done():
                future.set_exception(self._lost)
        self._on_lost(self._lost)

    # --- objects -----------------------------------------------------------------------------------------------

    def make(self, interface: Interface, handler: Optional[Handler], number: Optional[int] = None) -> Proxy:
        """An object; without a number it is a new one of ours."""
        if number is None:
            number = self._free.pop() if self._free else self._next
            self._next = max(self._next, number + 1)
        proxy = Proxy(self, number, interface, handler)
        self._objects[number] = proxy
        return proxy

    def find(self, number: Argument) -> Optional[Proxy]:
        return self._objects.get(number) if isinstance(number, int) else None

    def forget(self, proxy: Proxy) -> None:
        """Ours stay until the compositor says that their events are over (delete_id); its own do not."""
        if proxy.number >= FIRST_OF_SERVER:
            self._objects.pop(proxy.number, None)

    def request(self, proxy: Proxy, name: str, arguments: Tuple[Argument, ...]) -> None:
        """Descriptors are the connection's from here on. Does nothing on a lost connection."""
        opcode = proxy.interface.opcode(name)
        data, fds = pack(proxy.number, opcode, proxy.interface.requests[opcode][1], arguments)
        if self._socket is None:
            for fd in fds:
                os.close(fd)
            return
        self._unsent.append((data, fds))
        self._unsent_bytes += len(data)
        self._write()

    async def sync(self) -> None:
        """Until the compositor has done all that was requested. Raises Disconnected."""
        if self._socket is None:
            raise self._lost or Disconnected("there is no connection to the Wayland compositor")
        future = asyncio.get_running_loop().create_future()
        self._syncs.append(future)

        def done(event: str, arguments: Tuple[Argument, ...]) -> None:
            if not future.done():
                future.set_result(None)

        try:
            self.display.create("sync", CALLBACK, done)
            await asyncio.wait_for(asyncio.shield(future), PATIENCE)
        except asyncio.TimeoutError:
            self._end("the Wayland compositor does not answer")
            future.exception()
            raise self._lost or Disconnected("the Wayland compositor does not answer") from None
        finally:
            self._syncs.remove(future)

    def _display_event(self, name: str, arguments: Tuple[Argument, ...]) -> None:
        if name == "delete_id":
            number = arguments[0]
            if isinstance(number, int) and number in self._objects:
                del self._objects[number]
                self._free.append(number)
        elif name == "error":
            raise WireError(f"the compositor says: {arguments[2]!r}")

    # --- bytes -------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        while self._unsent:
            data, fds = self._unsent[0]
            try:
                sent = socket.send_fds(self._socket, [data], fds) if fds else self._socket.send(data)
            except BlockingIOError:
                if self._unsent_bytes > MAX_UNSENT:
                    loop.call_soon(self._end, "the Wayland compositor takes no more requests")
                loop.add_writer(self._socket.fileno(), self._write)
                return
            except OSError as error:
                loop.call_soon(self._end, f"the Wayland compositor has gone: {error.strerror}")
                return
            for fd in fds:
                os.close(fd)
            self._unsent_bytes -= sent
            self._unsent.popleft()
            if sent < len(data):
                self._unsent.appendleft((data[sent:], []))
        loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            data, fds, flags, _ = socket.recv_fds(self._socket, RECEIVE, MAX_FDS)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(f"the Wayland compositor has gone: {error.strerror}")
            return
        self._fds.extend(fds)
        for fd in fds:
            os.set_inheritable(fd, False)
        if not data:
            self._end("the Wayland compositor has gone")
            return
        try:
            if flags & socket.MSG_CTRUNC or len(self._fds) > MAX_KEPT_FDS:
                raise WireError("too many descriptors")
            for message in self._decoder.feed(data):
                self._dispatch(message)
        except WireError as error:
            self._end(f"the Wayland compositor and we do not understand each other: {error}")

    def _dispatch(self, message: Message) -> None:
        proxy = self._objects.get(message.object)
        if proxy is None:
            return  # an event on its way while we destroyed its object, one of the compositor's: without descriptors
        if message.opcode >= len(proxy.interface.events):
            raise WireError(f"{proxy.interface.name} has no event {message.opcode}")
        name, signature = proxy.interface.events[message.opcode]
        taken = len(self._fds)
        arguments = unpack(signature, message.payload, self._fds)
        if proxy.handler is not None:
            proxy.handler(name, arguments)
        elif taken != len(self._fds):
            for letter, value in zip(signature.replace("?", ""), arguments):
                if letter == "h" and isinstance(value, int):
                    with contextlib.suppress(OSError):
                        os.close(value)
