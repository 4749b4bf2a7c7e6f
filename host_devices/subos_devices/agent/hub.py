"""One hub a VM: it holds the connection to the guest's agent, and passes requests of commands on to it.

FOLDER/vsock.sock_252   where the vsock device connects for the guest's agent (port 252, for root only; see vsock/)
FOLDER/agent.sock       where commands connect (`subos-devices exec`); they speak the same protocol
the port "agent"        virtio-serial, for guests without vsock

The newest agent that has said HELLO is the one: what is asked goes to it. The guest is hostile: what its agent says is
believed only so far as that the guest says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

from subos_protocol import __version__
from subos_protocol.agent.errors import ChannelError, ChannelLost, RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Handler, Peer
from subos_protocol.agent.relay import relay
from subos_protocol.agent.stream import Stream
from subos_protocol.errors import Malformed

from ..errors import SubosError, UserError
from ..runtime import listen
from ..text import printable

VSOCK_PORT = 252
CALLERS = "agent.sock"
MAX_AGENTS = 4
"""Connections from the guest at a time: its agent has one; an old one may not be known to be gone yet."""
HELLO_SECONDS = 10.0
SERIAL_RETRY = 1.0
"""Seconds until the virtio-serial port is listened to again, after its agent has gone or broken the protocol."""
RENEWALS, RENEWAL_SECONDS = 20, 10.0
"""How often an agent may be followed by another one in so many seconds: a guest that boots or crashes stays below."""
SIGN_SECONDS = 3.0
SERIAL = "virtio-serial"
PATIENCE = 5.0
BOOT_PATIENCE = 120.0
"""Seconds; where the guest is known to start an agent by itself: it is up when the guest is, which takes its time."""

log = logging.getLogger("subos")

Welcome = Callable[[Peer], Awaitable[None]]


class Hub:
    """`async with Hub(folder) as hub:` listens until the block is left. `patience`: how many seconds a request waits
    for an agent that is not there; it may be on its way.

    `handlers` answer what the agent asks for. Each of `welcome` is awaited with every agent that becomes the one; it is
    cancelled when that goes.
    """

    def __init__(self, folder: Path, handlers: dict[str, Handler] | None = None, *, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.handlers: dict[str, Handler] = handlers or {}
        self.own: dict[str, Handler] = {}
        """What the hub answers to commands itself; all else is passed on to the agent."""
        self.welcome: list[Welcome] = []
        self._folder = folder
        self._peer: Peer | None = None
        self._way = ""
        self._there = asyncio.Event()
        self._guests: dict[Peer, asyncio.TimerHandle | None] = {}
        """Each with what closes it, should it say nothing."""
        self._renewed: deque[float] = deque(maxlen=RENEWALS)
        self._callers: set[Peer] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._welcomes: list[asyncio.Task[None]] = []
        self._stack = contextlib.AsyncExitStack()
        self._closed = False

    async def __aenter__(self) -> Hub:
        async with contextlib.AsyncExitStack() as stack:
            await self._listen(stack, f"vsock.sock_{VSOCK_PORT}", self._guest)
            await self._listen(stack, CALLERS, self._caller)
            self._stack = stack.pop_all()
        return self

    async def _listen(self, stack: contextlib.AsyncExitStack, name: str, make: Callable[[], Peer]) -> None:
        listener = listen(self._folder / name)
        server = await asyncio.get_running_loop().create_unix_server(make, sock=listener)
        stack.callback((self._folder / name).unlink, missing_ok=True)
        stack.callback(server.close)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        await self._stack.aclose()
        for peer in [*self._guests, *self._callers]:
            peer.close("the VM has ended")
        tasks = [*self._tasks, *self._welcomes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- the agent

    async def agent(self) -> Peer:
        """The agent's peer; waits `patience` for one. Raises UserError."""
        await self.look()
        try:
            async with asyncio.timeout(self.patience):
                while self._peer is None:
                    await self._there.wait()
        except TimeoutError:
            raise UserError(
                "no agent answers in the guest",
                "does it run there? subos-agent doctor says, inside the guest; the default guest starts it by itself",
            ) from None
        return self._peer

    async def look(self) -> None:
        """Notices an agent that has gone without a word: a virtio-serial port does not tell."""
        peer = self._peer
        if peer is not None and self._way == SERIAL and not await peer.answers(SIGN_SECONDS):
            peer.close("it gives no sign of life")

    @property
    def peer(self) -> Peer | None:
        """The agent's peer, None while there is none."""
        return self._peer

    async def ask(self, head: Head, *, timeout: float | None = 30.0) -> Head:
        """The result of a request to the agent. Raises AgentError, UserError (there is none)."""
        peer = await self.agent()
        try:
            async with asyncio.timeout(timeout):
                return await peer.ask(head)
        except TimeoutError:
            raise AgentError(f"the guest's agent did not answer within {timeout:g} s") from None
        except ChannelError as error:
            raise AgentError.of(error) from error

    def status(self) -> dict[str, Any] | None:
        """Who the agent says it is, and how it is connected; None without one."""
        hello = self._peer.hello if self._peer else None
        if hello is None:
            return None
        return {
            "software": printable(hello.software),
            "release": printable(hello.release),
            "current": hello.release == __version__,
            "way": self._way,
            "capabilities": sorted(map(printable, hello.capabilities)),
        }

    async def serve_port(self, port: socket.socket) -> None:
        """Speaks to agents behind a virtio-serial port, until it ends. Who breaks the protocol gets a fresh start."""
        while not self._closed:
            peer = self._new_peer(SERIAL, shared=True)
            try:
                await connect(peer, port.dup())
            except OSError:
                return
            await peer.lost()
            if _has_ended(port):
                return
            await asyncio.sleep(SERIAL_RETRY)

    def follow_port(self, port: socket.socket) -> None:
        """`serve_port` in the background."""
        self._spawn(self.serve_port(port))

    def _guest(self) -> Peer:
        peer = self._new_peer("vsock")
        if len(self._guests) > MAX_AGENTS:
            self._warn(f"it opens more than {MAX_AGENTS} agent channels, and the last one is closed")
            peer.close()
        else:
            self._guests[peer] = asyncio.get_running_loop().call_later(HELLO_SECONDS, self._close_silent, peer)
        return peer

    def _close_silent(self, peer: Peer) -> None:
        if peer.hello is None and not peer.is_lost:
            self._warn("a program opened the agent channel and said nothing: it is closed")
            peer.close()

    def _warn(self, what: str) -> None:
        """The VM's name is the first argument: so the log's throttle counts by VM (supervisor/throttle.py)."""
        log.warning("the guest %s: %s", self._folder.name, what)

    def _new_peer(self, way: str, *, shared: bool = False) -> Peer:
        peer = Peer(
            Hello("subos-devices", __version__, sorted(self.handlers)),
            self.handlers,
            opener=False,
            shared=shared,
            on_ready=lambda peer: self._is_ready(peer, way),
            on_lost=self._is_lost,
        )
        self._guests[peer] = None
        return peer

    def _is_ready(self, peer: Peer, way: str) -> None:
        if len(self._renewed) == RENEWALS and monotonic() - self._renewed[0] < RENEWAL_SECONDS:
            self._warn("one agent follows another without end, and the last one is hung up on")
            peer.close()
            return
        self._renewed.append(monotonic())
        before, self._peer, self._way = self._peer, peer, way
        if before is not None and before is not peer:
            before.close("another agent has come")
        self._there.set()
        self._end_welcomes()
        self._welcomes = [asyncio.ensure_future(self._welcome(welcome, peer)) for welcome in self.welcome]
        log.debug("the guest's agent is here, over %s", way)

    async def _welcome(self, welcome: Welcome, peer: Peer) -> None:
        try:
            await welcome(peer)
        except (ChannelError, SubosError, OSError) as error:
            self._warn(printable(str(error)))

    def _end_welcomes(self) -> None:
        for task in self._welcomes:
            task.cancel()

    def _is_lost(self, peer: Peer, error: Exception | None) -> None:
        timer = self._guests.pop(peer, None)
        if timer is not None:
            timer.cancel()
        if isinstance(error, Malformed):
            self._warn(f"its agent is hung up on: {printable(str(error))}")
        if peer is self._peer:
            self._peer = None
            self._there.clear()
            self._end_welcomes()
            log.debug("the guest's agent is gone")

    # --- commands

    def _caller(self) -> Peer:
        peer = Peer(
            Hello("subos-devices", __version__, sorted(self.own)),
            self.own,
            opener=False,
            default=self._pass_on,
            on_lost=lambda peer, _error: self._callers.discard(peer),
        )
        self._callers.add(peer)
        return peer

    async def _pass_on(self, stream: Stream) -> Head | None:
        try:
            return await relay(stream, await self.agent())
        except UserError as error:
            raise RemoteError("no-agent", error.message, error.hint) from error

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class AgentError(SubosError):
    """The guest's agent said no, or went away."""

    @classmethod
    def of(cls, error: ChannelError) -> AgentError:
        if isinstance(error, RemoteError):
            return cls(printable(error.message), printable(error.hint) if error.hint else "")
        if isinstance(error, ChannelLost):
            return cls(f"the guest's agent went away: {printable(str(error))}")
        return cls(printable(str(error)))


async def connect(peer: Peer, sock: socket.socket) -> None:
    """Gives a connected socket to `peer`. Raises OSError."""
    await asyncio.get_running_loop().connect_accepted_socket(lambda: peer, sock)


def _has_ended(port: socket.socket) -> bool:
    """Whether QEMU, at the other end, is gone."""
    try:
        return not port.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError as error:
        return error.errno != errno.EINTR
