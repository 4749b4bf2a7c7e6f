"""Channels between devices' workers and the guest's agent: a worker has one end of a socket pair, which its successor
goes on with; here is the other. While there is an agent, one stream a device carries their packets.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from subos_protocol.agent.peer import Peer
from subos_protocol.agent.relay import both
from subos_protocol.agent.stream import Stream

MOST_KEPT = 1024  # packets, more than a socket keeps


class WorkerChannel(ABC):
    """To the worker of the device `name`, which may be in a hostile guest's hands."""

    OPERATION: ClassVar[str]
    MAX_PACKET: ClassVar[int]
    """Bytes of what a worker says."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        self._name = name
        self._socket = sock
        self._carrying: set[asyncio.Task[None]] = set()
        self._closed = False
        self._one_at_a_time = asyncio.Lock()

    def close(self) -> None:
        """At once, or when nobody waits for the socket any more: its number would be another's, which the event loop
        then takes for one that it polls already."""
        self._closed = True
        for task in self._carrying:
            task.cancel()
        self._close_unused()

    def _close_unused(self) -> None:
        if self._closed and not self._carrying:
            self._socket.close()

    def carried_by(self, peer: Peer) -> asyncio.Task[None]:
        """The task that carries what is said, as long as the agent is there and wants it."""
        task = asyncio.ensure_future(self._carry_alone(peer))
        self._carrying.add(task)
        task.add_done_callback(self._carried)
        return task

    def _carried(self, task: asyncio.Task[None]) -> None:
        self._carrying.discard(task)
        self._close_unused()

    async def _carry_alone(self, peer: Peer) -> None:
        """When the one before has ended: asyncio keeps one of two tasks that wait for the same socket."""
        async with self._one_at_a_time:
            await self._carry(peer)

    def _waiting(self) -> Iterator[bytes]:
        """What the worker has said by now; one that speaks without end holds nobody up."""
        with contextlib.suppress(OSError):
            for _ in range(MOST_KEPT):
                if not (packet := self._socket.recv(self.MAX_PACKET)):
                    return
                yield packet

    @abstractmethod
    async def _carry(self, peer: Peer) -> None:
        """Opens a stream, and carries what is said on it `_both_ways`."""

    @abstractmethod
    async def _from_worker(self, stream: Stream) -> None: ...

    @abstractmethod
    async def _from_agent(self, stream: Stream) -> None: ...

    async def _both_ways(self, stream: Stream) -> None:
        """Until one of them ends. Raises what it raises."""
        await both(self._from_agent(stream), self._from_worker(stream))


class WorkerChannels:
    """Those of one VM, of one kind. `open` is for whoever starts a worker, `follow` for every agent that comes."""

    channel: ClassVar[type[WorkerChannel]]

    def __init__(self) -> None:
        self._channels: dict[str, WorkerChannel] = {}
        self._changed = asyncio.Event()

    def open(self, name: str) -> int:
        """The worker's end of the device's channel: a descriptor that is the caller's."""
        self.close(name)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._channels[name] = self.channel(name, ours)
        self._changed.set()
        return theirs.detach()

    def close(self, name: str) -> None:
        """The device is gone, or has no such channel."""
        channel = self._channels.pop(name, None)
        if channel is not None:
            channel.close()
            self._changed.set()

    def close_all(self) -> None:
        for name in list(self._channels):
            self.close(name)

    async def follow(self, peer: Peer) -> None:
        """Carries what workers and the agent behind `peer` say, for all devices, until it is cancelled."""
        if peer.hello is None or self.channel.OPERATION not in peer.hello.capabilities:
            return
        carried: dict[WorkerChannel, asyncio.Task[None]] = {}
        try:
            while True:
                self._changed.clear()
                there = set(self._channels.values())
                for channel in there - carried.keys():
                    carried[channel] = channel.carried_by(peer)
                for channel in carried.keys() - there:
                    del carried[channel]  # it ends by itself
                await self._changed.wait()
        finally:
            for task in carried.values():
                task.cancel()
