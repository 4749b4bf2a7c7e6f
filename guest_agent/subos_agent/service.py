"""`subos-agent serve`: the system service. It keeps the channel to the host open, and answers what comes on it.

Each operation is a handler of a module of its own; HANDLERS is the list.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Dict, Optional

from subos_protocol import __version__
from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Handler, Peer
from subos_protocol.agent.stream import Stream

from . import channel, clock, copy, execute, facts, mounts
from .configuration import Configuration
from .file_events import service as file_events
from .gamepad.service import Gamepads
from .sessions import Sessions

SOFTWARE = "subos-agent"

log = logging.getLogger("subos-agent")


def handlers(configuration: Configuration) -> Dict[str, Handler]:
    """What this guest does for the host, besides what the `Service` keeps something of."""
    shares = mounts.Mounts(anywhere=configuration.exec)
    table: Dict[str, Handler] = {
        "clock": clock.clock,
        "facts": facts.answer,
        "files.watch": file_events.watch,
        "mount": shares.mount,
        "unmount": shares.unmount,
    }
    for name, handler in (("exec", execute.execute), ("get", copy.get), ("put", copy.put)):
        table[name] = handler if configuration.exec else _exec_is_off
    return table


async def _exec_is_off(stream: Stream) -> Head:
    raise RemoteError(
        "refused",
        "commands and copies for the host are off in this guest",
        'switch them on inside it: "subos-agent allow exec", as root',
    )


class Service:
    """The agent of one guest; `port` is a virtio-serial device to use instead of whatever is there."""

    def __init__(self, configuration: Configuration, port: Optional[str] = None) -> None:
        self.handlers = handlers(configuration)
        self._port = port
        self._host: Optional[Peer] = None
        self._gamepads = Gamepads()
        if configuration.gamepads:
            self.handlers.update(self._gamepads.handlers())
        self._sessions = Sessions(
            lambda: self._host if self._host and self._host.hello else None, clipboard=configuration.clipboard
        )
        self.handlers.update(self._sessions.handlers())

    async def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        taking = asyncio.ensure_future(self._take_sessions())
        self._gamepads.start()
        try:
            await channel.stay_connected(self._make_peer, self._port)
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
            await self._gamepads.close()

    async def _take_sessions(self) -> None:
        try:
            await self._sessions.serve()
        except OSError as error:
            log.warning("no session of a desktop can connect, nor share its clipboard: %s", error)

    def _make_peer(self, shared: bool) -> Peer:
        able = sorted(name for name, handler in self.handlers.items() if handler is not _exec_is_off)
        hello = Hello(SOFTWARE, __version__, able)
        self._host = Peer(hello, self.handlers, opener=True, shared=shared, on_ready=self._host_is_ready)
        return self._host

    def _host_is_ready(self, peer: Peer) -> None:
        self._announcing = asyncio.ensure_future(self._sessions.announce())
