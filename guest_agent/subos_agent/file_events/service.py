"""`files.watch`: the host's changes in one share, for as long as the host keeps the stream open.

→ REQUEST {"op": "files.watch", "tag": "work"}
→ DATA {"replays": …}        each a packet of subos_protocol.file_events
← DATA {"done": …}
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any, Callable, TypeVar

from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.stream import Stream
from subos_protocol.errors import Malformed
from subos_protocol.file_events import pack_results, unpack_replays

from .replayer import Replayer
from .watches import Watches

_WATCHES = Watches()
A = TypeVar("A")
T = TypeVar("T")


async def watch(stream: Stream) -> Head:
    """Handles `files.watch`. Raises RemoteError."""
    tag = stream.head.get("tag")
    if not isinstance(tag, str):
        raise RemoteError("malformed", "a tag that cannot be one")
    replayer = Replayer(tag, _WATCHES)
    while (message := await stream.receive()) is not None:
        if not isinstance(message.content, bytes):
            continue
        try:
            replays = unpack_replays(message.content)
        except Malformed as error:
            raise RemoteError("malformed", str(error)) from error
        for packet in pack_results(await _in_own_thread(replayer.perform, replays)):
            await stream.send(packet)
    return {}


async def _in_own_thread(function: Callable[[A], T], argument: A) -> T:
    """Its result. A replay waits where the guest's programs hold what it needs, maybe for good: nobody waits for its
    thread, neither who is cancelled nor the agent when it ends, as both would for an executor's."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_outcome: Callable[[Any], None], outcome: Any) -> None:
        if not future.done():
            set_outcome(outcome)

    def run() -> None:
        try:
            outcome: Any = function(argument)
            set_outcome: Callable[[Any], None] = future.set_result
        except Exception as error:
            outcome, set_outcome = error, future.set_exception
        with contextlib.suppress(RuntimeError):  # the agent has ended
            loop.call_soon_threadsafe(settle, set_outcome, outcome)

    threading.Thread(target=run, name="file-events", daemon=True).start()
    return await future
