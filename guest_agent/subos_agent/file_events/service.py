"""`files.watch`: the host's changes in one share, for as long as the host keeps the stream open.

→ REQUEST {"op": "files.watch", "tag": "work"}
→ DATA {"replays": …}        each a packet of subos_protocol.file_events
← DATA {"done": …}
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.stream import Stream
from subos_protocol.errors import Malformed
from subos_protocol.file_events import pack_results, unpack_replays

from .replayer import Replayer
from .watches import Watches

_WATCHES = Watches()


async def watch(stream: Stream) -> Head:
    """Handles `files.watch`. Raises RemoteError."""
    tag = stream.head.get("tag")
    if not isinstance(tag, str):
        raise RemoteError("malformed", "a tag that cannot be one")
    replayer = Replayer(tag, _WATCHES)
    loop = asyncio.get_running_loop()
    # A thread for each share: a replay waits where the guest's programs hold what it needs.
    with ThreadPoolExecutor(1, "file-events") as thread:
        while (message := await stream.receive()) is not None:
            if not isinstance(message.content, bytes):
                continue
            try:
                replays = unpack_replays(message.content)
            except Malformed as error:
                raise RemoteError("malformed", str(error)) from error
            for packet in pack_results(await loop.run_in_executor(thread, replayer.perform, replays)):
                await stream.send(packet)
    return {}
