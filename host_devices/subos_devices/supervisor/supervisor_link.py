"""The holder's end of one supervisor's process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from ..errors import SubosError
from .packets import Backlog, Inbox, Message, widen
from .starting import start

# Where it cannot even load its own code (a version that is half installed, say), it says why. Without `ssl`, which
# asyncio would load and can do without, it is there sooner and smaller.
PROGRAM = f"""\
import json, os, sys
sys.modules["ssl"] = None
try:
    from {__package__}.supervisor_process import live
except BaseException as error:
    why = f"{{type(error).__name__}}: {{error}}"
    os.write(int(sys.argv[1]), b"." + json.dumps([{{"op": "failed", "why": why[:1000]}}, 0]).encode())
    sys.exit(1)
live()
"""
MESSAGES_AT_ONCE = 64  # before the event loop looks at everything else
LATER = 0.01  # seconds until what could not be sent is tried again

log = logging.getLogger("subos")

T = TypeVar("T")
Begun = tuple[int, socket.socket]


def begin(kinds: Collection[str] = ()) -> Begun:
    """Starts a process, and has it load these kinds of devices: its pid, and the socket to it. Raises OSError."""
    return start(PROGRAM, *kinds)


def bury(pid: int, sock: socket.socket) -> str:
    """Ends a process, and says how it has ended; by itself, if it had."""
    sock.close()
    try:
        os.kill(pid, signal.SIGKILL)  # nobody else reaps it
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except (ProcessLookupError, ChildProcessError):
        return "has ended"
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


class SupervisorFailed(SubosError):
    """A supervisor that does not come to serve."""


class SupervisorLink:
    """A process that `begin` has started. `on_message` gets what it says, but for the two things that can be waited
    for; the descriptors that nobody takes out of a message are closed then."""

    def __init__(self, begun: Begun, on_message: Callable[[Message], None]) -> None:
        self.pid, self._socket = begun
        self.version = ""
        self.end = ""
        """How it ended."""
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._taken: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._inbox, self._backlog = Inbox(self._socket), Backlog(self._socket)
        self._flushing: asyncio.TimerHandle | None = None
        widen(self._socket)
        self._loop.add_reader(self._socket, self._readable)

    @property
    def alive(self) -> bool:
        return not self._ended.done()

    async def ready(self, patience: float) -> int:
        """Waits until it has loaded what it needs; the format of its records. Raises SupervisorFailed."""
        said = await self._said(self._ready, patience)
        self.version = str(said["version"])
        return int(said["format"])

    async def taken(self, patience: float) -> None:
        """Waits until it has taken over. Raises SupervisorFailed."""
        await self._said(self._taken, patience)

    async def ended(self, patience: float | None = None) -> bool:
        """Waits for its end; whether it has come. All that it had said was heard before."""
        await asyncio.wait([self._ended], timeout=patience)
        return not self.alive

    async def _said(self, future: asyncio.Future[T], patience: float) -> T:
        either: list[asyncio.Future[Any]] = [future, self._ended]
        await asyncio.wait(either, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise SupervisorFailed(f"it {self.end}" if not self.alive else f"it says nothing for {patience:g} s")
        return future.result()

    def send(self, body: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Never waits. Raises OSError where there is no descriptor left."""
        if self.alive:
            self._backlog.put(body, fds)
            self._flush_later()

    def _flush_later(self) -> None:
        if self._backlog.is_waiting and self._flushing is None:
            self._flushing = self._loop.call_later(LATER, self._flush)

    def _flush(self) -> None:
        self._flushing = None
        if self.alive:
            self._backlog.flush()
            self._flush_later()

    def kill(self) -> None:
        """SIGKILL; its end is heard when all that it had said has been."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)  # nobody else has reaped it

    def close(self) -> None:
        """Ends it now, whatever it still says."""
        if self.alive:
            self._bury()

    def look(self) -> None:
        """Hears what it has said."""
        self._readable()

    def _readable(self) -> None:
        for _ in range(MESSAGES_AT_ONCE):
            if not self.alive:
                return
            try:
                message = self._inbox.receive()
            except EOFError:
                self._bury()
                return
            except ValueError:
                log.error("the supervisor says what nobody understands, and is ended")
                self.kill()
                return
            if message is None:
                return
            try:
                self._hear(message)
            except Exception:
                log.exception("a fault of ours, or of the supervisor's, which is ended")
                self.kill()
            finally:
                message.close()

    def _hear(self, message: Message) -> None:
        body = message.body
        match body["op"]:
            case "ready":
                self._ready.set_result(body)
            case "failed":
                self._ready.set_exception(SupervisorFailed(str(body["why"])))
            case "taken":
                self._taken.set_result(None)
            case _:
                self._on_message(message)

    def _bury(self) -> None:
        self._loop.remove_reader(self._socket)
        self.end = bury(self.pid, self._socket)
        self._inbox.close()
        self._backlog.close()
        self._ended.set_result(None)
        if self._ready.done():
            self._ready.exception()  # which nobody may have waited for
