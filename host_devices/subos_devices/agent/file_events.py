"""File events: the shares' workers on one side, the guest's agent on the other (subos_protocol.file_events).

The stream of a share is "files.watch". Of what the agent says, results alone reach a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from subos_protocol.agent.errors import ChannelError
from subos_protocol.agent.peer import Peer
from subos_protocol.agent.stream import Stream
from subos_protocol.errors import Malformed
from subos_protocol.file_events import MAX_PACKET, STARTED, pack_attached, pack_results, unpack_heard

from ..text import printable
from .worker_channels import WorkerChannel, WorkerChannels

OPERATION = "files.watch"

log = logging.getLogger("subos")


class _Channel(WorkerChannel):
    """To the worker of one share, whose tag is the channel's name."""

    OPERATION = OPERATION
    MAX_PACKET = MAX_PACKET

    async def _carry(self, peer: Peer) -> None:
        for _ in self._waiting():
            pass  # meant for the agent before
        try:
            async with peer.call({"op": OPERATION, "tag": self._name}) as stream:
                with self._attached():
                    await self._both_ways(stream)
        except (ChannelError, OSError) as error:
            log.debug("%s: file events end: %s", self._name, printable(str(error)))

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
                await asyncio.sleep(0)  # it may say so without end
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
                log.warning("%s: the guest's agent says of file events what means nothing: %s", self._name, error)
                return
            for packet in pack_results(results):
                await loop.sock_sendall(self._socket, packet)


class FileEvents(WorkerChannels):
    """Of one VM."""

    channel = _Channel
