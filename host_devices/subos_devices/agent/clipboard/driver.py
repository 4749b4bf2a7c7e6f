"""Starts a VM's clipboard process when it is first wanted, and again when it has died."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Sequence
from time import monotonic

from subos_protocol import __version__
from subos_protocol.agent.errors import ChannelLost, RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Handler, Peer
from subos_protocol.agent.relay import relay
from subos_protocol.agent.stream import Stream

from ...processes import die_with_parent
from ..hub import Hub, connect
from .policy import Rules

PROGRAM = "subos_devices.agent.clipboard.process"
FROM_AGENT = ("clipboard.offer", "clipboard.read", "clipboard.ready")
FROM_COMMANDS = tuple(f"host-clipboard.{word}" for word in ("get", "set", "formats", "watch", "policy", "answer"))
START_SECONDS = 15.0
END_SECONDS = 2.0
MAX_OF_GUEST = 32
"""Requests at once: of what the process takes, half stays for commands (`subos-devices clipboard VM off`)."""
STARTS, STARTS_SECONDS = 5, 60.0
"""How often the process is started in so many seconds: a guest that knows how to end it shall not keep us at that."""

log = logging.getLogger("subos")


class ClipboardDriver:
    """`vm` is the VM's name; `rules` its policy. Raises UserError for what is no rule.

    A VM has the process from when a session of its guest first says something of a clipboard, or a command asks.
    """

    def __init__(self, hub: Hub, vm: str, rules: Sequence[str]) -> None:
        self._hub = hub
        self._vm = vm
        self._rules = Rules.parse(rules)
        self._peer: Peer | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._starting: asyncio.Future[Peer] | None = None
        self._started: deque[float] = deque(maxlen=STARTS)
        self._of_guest = 0
        self._closed = False

    def join(self) -> None:
        """The hub passes on to us what is of the clipboard."""
        for operation in FROM_AGENT:
            self._hub.handlers[operation] = self._from_guest
        for operation in FROM_COMMANDS:
            self._hub.own[operation] = self._command

    async def _command(self, stream: Stream) -> Head | None:
        reply = await self._pass_on(stream)
        rules = stream.head.get("rules")
        if stream.head.get("op") == "host-clipboard.policy" and isinstance(rules, list):
            for rule in rules:  # the next process begins with what they make
                self._rules.apply(str(rule))
        return reply

    async def _from_guest(self, stream: Stream) -> Head | None:
        if self._of_guest >= MAX_OF_GUEST:
            log.warning("the guest %s: it wants more than %d things of the clipboard at once", self._vm, MAX_OF_GUEST)
            raise RemoteError("busy", f"{MAX_OF_GUEST} requests are under way")
        self._of_guest += 1
        try:
            return await self._pass_on(stream)
        finally:
            self._of_guest -= 1

    async def _pass_on(self, stream: Stream) -> Head | None:
        return await relay(stream, await self._ready())

    async def _ready(self) -> Peer:
        if self._peer is not None and not self._peer.is_lost:
            return self._peer
        if self._starting is None or self._starting.done():
            self._starting = asyncio.ensure_future(self._start())
        return await asyncio.shield(self._starting)  # whoever asked may give up; others wait too

    async def _start(self) -> Peer:
        await self._end()
        if self._closed:
            raise RemoteError("lost", "the VM has ended")
        if len(self._started) == STARTS and monotonic() - self._started[0] < STARTS_SECONDS:
            raise RemoteError("failed", "the host's clipboard process has died too often: it is left alone for a while")
        if self._started:
            log.warning("the guest %s: the host's clipboard process has died, and is started again", self._vm)
        self._started.append(monotonic())
        ours, theirs = socket.socketpair()
        handlers: dict[str, Handler] = dict.fromkeys(FROM_AGENT, self._to_agent)
        peer = Peer(Hello("subos-devices", __version__, sorted(handlers)), handlers, opener=False)
        launcher = os.getpid()

        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", PROGRAM, str(theirs.fileno()), self._vm, *self._rules.texts()),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    preexec_fn=lambda: die_with_parent(launcher),
                )
            await connect(peer, ours)
            await asyncio.wait_for(peer.ready(), START_SECONDS)
        except BaseException as error:
            peer.close()
            ours.close()
            if isinstance(error, (OSError, TimeoutError, ChannelLost)):
                raise RemoteError("failed", f"the host's clipboard process does not start: {error}") from error
            raise
        self._peer = peer
        return peer

    async def _to_agent(self, stream: Stream) -> Head | None:
        agent = self._hub.peer
        if agent is None:
            raise RemoteError("no-agent", "no agent is there in the guest")
        return await relay(stream, agent)

    async def close(self) -> None:
        """Ends the process."""
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._peer is not None:
            self._peer.close("the VM has ended")
        await self._end()

    async def _end(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        try:
            await asyncio.wait_for(self._process.wait(), END_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
