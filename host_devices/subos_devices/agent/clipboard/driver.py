"""Starts a VM's clipboard process when it is first wanted, and again when it has died."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Sequence

from subos_protocol import __version__
from subos_protocol.agent.errors import ChannelLost, RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Handler, Peer
from subos_protocol.agent.relay import relay
from subos_protocol.agent.stream import Stream

from ...processes import die_with_parent
from ..hub import Hub, connect

PROGRAM = "subos_devices.agent.clipboard.process"
FROM_AGENT = ("clipboard.offer", "clipboard.read", "clipboard.ready")
FROM_COMMANDS = tuple(f"host-clipboard.{word}" for word in ("get", "set", "formats", "watch", "policy", "answer"))
START_SECONDS = 15.0
END_SECONDS = 2.0


class ClipboardDriver:
    """`vm` is the VM's name; `rules` its policy. A VM whose guest has no desktop session never has the process."""

    def __init__(self, hub: Hub, vm: str, rules: Sequence[str]) -> None:
        self._hub = hub
        self._vm = vm
        self._rules = list(rules)
        self._peer: Peer | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._starting = asyncio.Lock()

    def join(self) -> None:
        """The hub passes on to us what is of the clipboard."""
        for operation in FROM_AGENT:
            self._hub.handlers[operation] = self._pass_on
        for operation in FROM_COMMANDS:
            self._hub.own[operation] = self._command

    async def _command(self, stream: Stream) -> Head | None:
        reply = await self._pass_on(stream)
        rules = stream.head.get("rules")
        if stream.head.get("op") == "host-clipboard.policy" and isinstance(rules, list):
            self._rules += [rule for rule in rules if isinstance(rule, str)]  # the next process begins with them
        return reply

    async def _pass_on(self, stream: Stream) -> Head | None:
        return await relay(stream, await self._ready())

    async def _ready(self) -> Peer:
        async with self._starting:
            if self._peer is None or self._peer.is_lost:
                await self._start()
            assert self._peer is not None
            return self._peer

    async def _start(self) -> None:
        await self._end()
        ours, theirs = socket.socketpair()
        handlers: dict[str, Handler] = dict.fromkeys(FROM_AGENT, self._to_agent)
        peer = Peer(Hello("subos-devices", __version__, sorted(handlers)), handlers, opener=False)
        launcher = os.getpid()

        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", PROGRAM, str(theirs.fileno()), self._vm, *self._rules),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    preexec_fn=lambda: die_with_parent(launcher),
                )
            await connect(peer, ours)
            await asyncio.wait_for(peer.ready(), START_SECONDS)
        except (OSError, TimeoutError, ChannelLost) as error:
            peer.close()
            ours.close()
            raise RemoteError("failed", f"the host's clipboard process does not start: {error}") from error
        self._peer = peer

    async def _to_agent(self, stream: Stream) -> Head | None:
        agent = self._hub.peer
        if agent is None:
            raise RemoteError("no-agent", "no agent is there in the guest")
        return await relay(stream, agent)

    async def close(self) -> None:
        """Ends the process."""
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
