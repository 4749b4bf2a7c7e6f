"""File events: the shares' workers on one side, the guest's agent on the other (subos_protocol.file_events).

Each share's worker has one end of a socket pair, which its successor goes on with; here is the other. While there is
an agent, one stream a share ("files.watch") carries their packets. Of what the agent says, results alone reach a
worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

from subos_protocol.agent.errors import ChannelError
from subos_protocol.agent.peer import Peer
from subos_protocol.agent.stream import Stream
from subos_protocol.errors import Malformed
from subos_protocol.file_events import MAX_PACKET, STARTED, pack_attached, pack_results, unpack_heard

from ..text import printable

OPERATION = "files.watch"

log = logging.getLogger("subos")


class FileEvents:
    """Of one VM. `open` is for whoever starts a worker, `follow` for every agent that comes."""

    def __init__(self) -> None:
        self._channels: dict[str, _Channel] = {}
        self._changed = asyncio.Event()

    def open(self, tag: str) -> int:
        """The worker's end of the share's channel: a descriptor that is the caller's."""
        self.close(tag)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._channels[tag] = _Channel(tag, ours)
        self._changed.set()
        return theirs.detach()

    def close(self, tag: str) -> None:
        """The share is gone, or has no such channel."""
        channel = self._channels.pop(tag, None)
        if channel is not None:
            channel.close()
            self._changed.set()

    def close_all(self) -> None:
        for tag in list(self._channels):
            self.close(tag)

    async def follow(self, peer: Peer) -> None:
        """Carries what workers and the agent behind `peer` say, for all shares, until it is cancelled."""
        if peer.hello is None or OPERATION not in peer.hello.capabilities:
            return
        carried: dict[_Channel, asyncio.Task[None]] = {}
        try:
            while True:
                self._changed.clear()
                there = set(self._channels.values())
                for channel in there - carried.keys():
                    carried[channel] = channel.carried_by(peer)
                for channel in carried.keys() - there:
                    carried.pop(channel).cancel()
                await self._changed.wait()
        finally:
            for task in carried.values():
                task.cancel()


class _Channel:
    """To the worker of one share."""

    def __init__(self, tag: str, sock: socket.socket) -> None:
        self._tag = tag
        self._socket = sock
        self._carrying: set[asyncio.Task[None]] = set()
        self._closed = False

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
        """The task that carries what is said, as long as the agent is there and watches."""
        task = asyncio.ensure_future(self._carry(peer))
        self._carrying.add(task)
        task.add_done_callback(self._carried)
        return task

    def _carried(self, task: asyncio.Task[None]) -> None:
        self._carrying.discard(task)
        self._close_unused()

    async def _carry(self, peer: Peer) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            while self._socket.recv(MAX_PACKET):
                pass  # meant for the agent before
        try:
            async with peer.call({"op": OPERATION, "tag": self._tag}) as stream:
                with self._attached():
                    down = asyncio.ensure_future(self._from_agent(stream))
                    up = asyncio.ensure_future(self._from_worker(stream))
                    try:
                        done, _ = await asyncio.wait([down, up], return_when=asyncio.FIRST_COMPLETED)
                        for task in done:
                            task.result()
                    finally:
                        down.cancel()
                        up.cancel()
                        await asyncio.gather(down, up, return_exceptions=True)
        except (ChannelError, OSError) as error:
            log.debug("%s: file events end: %s", self._tag, printable(str(error)))

    @contextlib.contextmanager
    def _attached(self) -> Iterator[None]:
        self._say(True)
        try:
            yield
        finally:
            self._say(False)

    def _say(self, attached: bool) -> None:
        """A worker that does not read this finds out by what it sends: nobody takes that either."""
        with contextlib.suppress(OSError):
            self._socket.send(pack_attached(attached))

    async def _from_worker(self, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        while packet := await loop.sock_recv(self._socket, MAX_PACKET):
            if packet == STARTED:
                self._say(True)
            else:
                await stream.send(packet)

    async def _from_agent(self, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        while (message := await stream.receive()) is not None:
            if not isinstance(message.content, bytes):
                continue
            try:
                results = unpack_heard(message.content).results
            except Malformed as error:
                log.warning("%s: the guest's agent says of file events what means nothing: %s", self._tag, error)
                return
            for packet in pack_results(results):
                await loop.sock_sendall(self._socket, packet)
