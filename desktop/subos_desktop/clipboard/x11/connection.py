"""A connection to an X server in an asyncio loop.

python-xlib finds the server, logs in, and knows the layouts of requests, replies and events. Its own input and
output waits by select(), also where another thread reads, so it is left aside: here are the bytes read and
written when the loop says so.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import socket
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple

from Xlib import X
from Xlib.error import DisplayError, XauthError, XError, xerror_class
from Xlib.ext import xfixes
from Xlib.protocol import display, event, request, rq

from ..interface import PATIENCE, Disconnected, NoServer, Unavailable

RECEIVE = 1 << 20  # bytes read at once
MAX_UNSENT = 64 << 20  # bytes; a server that takes nothing any more is given up
PROPERTY_HEADER = 24  # bytes of ChangeProperty before the data

log = logging.getLogger(__name__)

# Events and errors that concern one window go to who watches it.
Watcher = Callable[[Any], None]


class _Display(display.Display):  # type: ignore[misc] # python-xlib has no types
    """Parses only the events that are wanted: another client may send any event with any bytes in it."""

    def __init__(self, name: Optional[str]) -> None:
        kinds = (
            event.PropertyNotify,
            event.DestroyNotify,
            event.SelectionClear,
            event.SelectionRequest,
            event.SelectionNotify,
        )
        self.event_classes: Dict[int, Any] = {kind._code: kind for kind in kinds}
        self.resource_classes: Dict[str, Any] = {}  # so windows stay numbers
        self.error_classes = dict(xerror_class)
        super().__init__(name)

    def send_and_recv(self, **_kind: object) -> None:
        """Logs in, which is all that it is called for here. python-xlib's own takes no descriptors above 1023."""
        self.send_recv_lock.release()
        self.socket.settimeout(PATIENCE)
        for queued, _ in self.request_queue:
            self.socket.sendall(queued._binary)
            self.sent_requests.append(queued)
        self.request_queue.clear()
        while not self.parse_response(-1):
            data = self.socket.recv(RECEIVE)
            if not data:
                raise ConnectionError("it hangs up")
            self.data_recv += data


class Connection:
    """`on_event` is given every event that no window's watcher takes, `on_lost` why the connection has ended."""

    def __init__(self, name: Optional[str], on_event: Watcher, on_lost: Callable[[Disconnected], None]) -> None:
        self.name = name
        self._on_event = on_event
        self._on_lost = on_lost
        self._display: Any = None
        self._socket: Optional[socket.socket] = None
        self._waiting: Deque[Tuple[Any, asyncio.Future[Any]]] = collections.deque()
        self._unsent: Deque[memoryview] = collections.deque()
        self._unsent_bytes = 0
        self._watchers: Dict[int, List[Watcher]] = {}
        self._next_id = 0
        self._lost: Optional[Disconnected] = None

    # --- opening and closing -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connects, in a thread since python-xlib waits for the server there. Raises Unavailable."""
        loop = asyncio.get_running_loop()
        self._display = _Display.__new__(_Display)
        try:
            await loop.run_in_executor(None, _Display.__init__, self._display, self.name)
        except (DisplayError, XauthError, OSError) as error:
            if getattr(self._display, "socket", None) is not None:
                self._display.socket.close()
            reason = "it does not answer" if isinstance(error, socket.timeout) else str(error).strip()
            raise NoServer(f"no connection to the X server: {reason}", "is DISPLAY set, and XAUTHORITY?") from error
        self._display.set_error_handler(self._failed)
        self._socket = self._display.socket
        self._socket.setblocking(False)
        loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        self._end(Disconnected("the connection to the X server is closed"))

    def _end(self, reason: Disconnected) -> None:
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._socket, self._lost = None, reason
        self._unsent.clear()
        waiting, self._waiting = self._waiting, collections.deque()
        for _, future in waiting:
            if not future.done():
                future.set_exception(reason)
                future.exception()  # who waited may be gone
        self._on_lost(reason)

    # --- requests ----------------------------------------------------------------------------------------------

    @property
    def root(self) -> int:
        return int(self._display.info.roots[self._display.default_screen].root)

    @property
    def max_property(self) -> int:
        """Bytes that one ChangeProperty takes (python-xlib knows no BIG-REQUESTS)."""
        return int(self._display.info.max_request_length) * 4 - PROPERTY_HEADER

    def send(self, kind: Any, **fields: Any) -> None:
        """A request without a reply. Errors go to the window's watchers. Does nothing on a lost connection."""
        if self._socket is not None:
            kind(display=self._display, **fields)
            self._flush()

    async def ask(self, kind: Any, **fields: Any) -> Any:
        """A request with a reply. Raises XError, Disconnected."""
        if self._socket is None:
            raise self._lost or Disconnected("there is no connection to the X server")
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((kind(display=self._display, defer=True, **fields), future))
        self._flush()
        return await future

    async def select_xfixes(self, window: int, selections: List[int]) -> None:
        """Has the server tell of every new owner of these selections. Raises Unavailable."""
        found = await self.ask(request.QueryExtension, name=xfixes.extname)
        if not found.present:
            raise Unavailable("the X server lacks XFIXES, which tells who copies", "a newer X server has it")
        await self.ask(xfixes.QueryVersion, opcode=found.major_opcode, major_version=2, minor_version=0)
        self._display.event_classes[found.first_event + xfixes.XFixesSelectionNotify] = xfixes.SelectionNotify
        mask = (
            xfixes.XFixesSetSelectionOwnerNotifyMask
            | xfixes.XFixesSelectionWindowDestroyNotifyMask
            | xfixes.XFixesSelectionClientCloseNotifyMask
        )
        for selection in selections:
            self.send(
                xfixes.SelectSelectionInput,
                opcode=found.major_opcode,
                window=window,
                selection=selection,
                mask=mask,
            )

    # --- windows -----------------------------------------------------------------------------------------------

    def create_window(self) -> int:
        """One that is never shown. Its id is not used again soon: a late answer to the last one means nothing."""
        self._next_id = self._next_id % self._display.info.resource_id_mask + 1
        window = int(self._display.info.resource_id_base | self._next_id)
        self.send(
            request.CreateWindow,
            depth=0,
            wid=window,
            parent=self.root,
            x=-1,
            y=-1,
            width=1,
            height=1,
            border_width=0,
            window_class=X.InputOnly,
            visual=X.CopyFromParent,
            attrs={},
        )
        return window

    def destroy_window(self, window: int) -> None:
        self.send(request.DestroyWindow, window=window)

    def watch(self, window: int, watcher: Watcher) -> None:
        """Has `watcher` given the property changes, the end and the errors of a window, of ours or another's."""
        watchers = self._watchers.setdefault(window, [])
        watchers.append(watcher)
        if len(watchers) == 1:
            self._select(window, X.PropertyChangeMask | X.StructureNotifyMask)

    def unwatch(self, window: int, watcher: Watcher) -> None:
        watchers = self._watchers.get(window, [])
        if watcher in watchers:
            watchers.remove(watcher)
            if not watchers:
                del self._watchers[window]
                self._select(window, 0)

    def _select(self, window: int, mask: int) -> None:
        self.send(request.ChangeWindowAttributes, window=window, attrs={"event_mask": mask})

    # --- bytes -------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        queue = self._display.request_queue
        for queued, answered in queue:
            self._unsent.append(memoryview(queued._binary))
            self._unsent_bytes += len(queued._binary)
            if answered:
                self._display.sent_requests.append(queued)
        queue.clear()
        self._write()

    def _write(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent[0])
            except BlockingIOError:
                if self._unsent_bytes > MAX_UNSENT:
                    loop.call_soon(self._end, Disconnected("the X server takes no more requests"))
                loop.add_writer(self._socket.fileno(), self._write)
                return
            except OSError as error:
                # Not here and now: whoever sends is not prepared for the end.
                loop.call_soon(self._end, Disconnected(f"the X server has gone: {error.strerror}"))
                return
            self._unsent_bytes -= sent
            rest = self._unsent.popleft()[sent:]
            if rest:
                self._unsent.appendleft(rest)
        loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(RECEIVE)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(Disconnected(f"the X server has gone: {error.strerror}"))
            return
        if not data:
            self._end(Disconnected("the X server has gone"))
            return
        # A slice is bytes; bytes() of python-xlib's view would go byte by byte.
        self._display.data_recv = self._display.data_recv[:] + data if self._display.data_recv else data
        try:
            self._display.parse_response(None)
        except Exception as error:
            log.debug("python-xlib failed", exc_info=True)
            self._end(Disconnected(f"what the X server says is not understood: {error}"))
            return
        while self._waiting and (self._waiting[0][0]._data is not None or self._waiting[0][0]._error is not None):
            answered, future = self._waiting.popleft()
            if not future.done():
                if answered._error is not None:
                    future.set_exception(answered._error)
                else:
                    future.set_result(answered)
        events = list(self._display.event_queue)
        self._display.event_queue.clear()
        for received in events:
            self._dispatch(received)

    def _dispatch(self, received: Any) -> None:
        if isinstance(received, (event.PropertyNotify, event.DestroyNotify)):
            if received.send_event:
                return  # made up by another client
            window = received.window
        elif isinstance(received, event.SelectionNotify):
            window = received.requestor
        else:
            window = None
        watchers = self._watchers.get(window) if window is not None else None
        if watchers is None:
            self._on_event(received)
        else:
            for watcher in list(watchers):
                watcher(received)

    def _failed(self, error: XError, _request: Optional[rq.Request]) -> None:
        """An error that answers no question: a window, most of the time, that is not there any more."""
        for watcher in list(self._watchers.get(getattr(error.resource_id, "id", error.resource_id), ())):
            watcher(error)
