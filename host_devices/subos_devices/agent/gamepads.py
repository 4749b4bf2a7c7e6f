"""Gamepads: the pads' workers on one side, the guest's agent on the other (subos_protocol.gamepad).

A worker says first what its pad is, and again whenever it wants the agent to take it; so does the next worker. What
they say to each other passes here unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from typing import Any

from subos_protocol.agent.errors import ChannelError, RemoteError
from subos_protocol.agent.peer import Peer
from subos_protocol.agent.relay import both
from subos_protocol.agent.stream import Stream
from subos_protocol.gamepad import MAX_MESSAGE, MAX_PACKET, OPERATION, Lost, is_description, pack_message

from ..text import printable
from .worker_channels import WorkerChannel, WorkerChannels

END_SECONDS = 2.0
"""How long the agent may take to give a pad back, where the pad is taken away."""

log = logging.getLogger("subos")


class _Channel(WorkerChannel):
    """To the worker of one pad."""

    OPERATION = OPERATION
    MAX_PACKET = MAX_PACKET
    _description: Any = None
    _wanted = False
    """Whether the worker has said it since the last stream began."""
    _telling: asyncio.Task[None] | None = None

    def __init__(self, name: str, sock: socket.socket) -> None:
        super().__init__(name, sock)
        self._let_go = asyncio.Event()

    async def _carry(self, peer: Peer) -> None:
        self._wanted = self._wanted or self._description is not None
        try:
            while await self._worker_wants():
                if self._telling is not None:
                    await self._telling
                for packet in self._waiting():
                    self._note(packet)  # all else was for no agent, or for the one before
                self._wanted = False
                try:
                    await self._carry_once(peer)
                except RemoteError as error:
                    if error.code != "not-found":  # that is over when the guest's driver starts, and the worker says so
                        raise
        except RemoteError as error:
            log.warning("%s: games of the guest cannot have it rumble: %s", self._name, printable(error.message))
        except (ChannelError, OSError) as error:
            log.debug("%s: the agent has it no more: %s", self._name, printable(str(error)))

    async def _worker_wants(self) -> bool:
        """Waits until it does; False where there is no worker any more."""
        while not self._wanted:
            packet = await asyncio.get_running_loop().sock_recv(self._socket, MAX_PACKET)
            if not packet:
                return False
            self._note(packet)
            await asyncio.sleep(0)  # it may speak without end, and asyncio waits only where there is nothing
        return True

    def _note(self, packet: bytes) -> bool:
        """Whether it is a description, which is kept."""
        if not is_description(packet):
            return False
        with contextlib.suppress(ValueError, RecursionError):  # it may be in a hostile guest's hands
            self._description = json.loads(packet).get("pad")
            self._wanted = True
        return True

    async def _carry_once(self, peer: Peer) -> None:
        self._let_go.clear()
        async with peer.call({"op": OPERATION, "pad": self._description}) as stream:
            try:
                await both(self._both_ways(stream), self._is_let_go())
                if self._let_go.is_set():
                    await self._give_back(stream)
            except asyncio.CancelledError:
                if self._closed:  # the pad is taken away: its twin need not wait for another stream
                    await self._give_back(stream)
                raise
            finally:
                self._tell_lost()

    def let_go(self) -> None:
        """The agent is not to keep the pad, until its worker wants it to have it again."""
        self._let_go.set()

    async def _is_let_go(self) -> None:
        await self._let_go.wait()

    async def _give_back(self, stream: Stream) -> None:
        stream.end()
        with contextlib.suppress(ChannelError, TimeoutError):
            await asyncio.wait_for(stream.result(), END_SECONDS)

    def _tell_lost(self) -> None:
        """A worker hears of it before another agent has its pad, even one that does not listen at the moment."""

        async def tell() -> None:
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().sock_sendall(self._socket, pack_message(Lost()))

        self._telling = asyncio.ensure_future(tell())
        self._carrying.add(self._telling)
        self._telling.add_done_callback(self._carried)

    async def _from_worker(self, stream: Stream) -> None:
        """Until it wants another stream."""
        loop = asyncio.get_running_loop()
        while packet := await loop.sock_recv(self._socket, MAX_PACKET):
            if self._note(packet):
                return
            await stream.send(packet)

    async def _from_agent(self, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        while (message := await stream.receive()) is not None:
            if not isinstance(message.content, bytes):
                continue
            if len(message.content) > MAX_MESSAGE:
                log.warning("%s: the guest's agent says of the gamepad what is too long", self._name)
                return
            await loop.sock_sendall(self._socket, message.content)


class Gamepads(WorkerChannels):
    """Of one VM."""

    channel = _Channel

    def let_go(self, name: str) -> None:
        """The pad is unplugged: the agent is not to keep it."""
        channel = self._channels.get(name)
        if isinstance(channel, _Channel):  # pads that the agent is to leave alone have none
            channel.let_go()
