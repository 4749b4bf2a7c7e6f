"""`get` and `put`: files for the host and from it, as trees (subos_desktop.trees).

    → REQUEST {"op": "get", "path": "/srv/data"}
    ← the tree's pieces: EVENTs and DATA             ← REPLY {}

    → REQUEST {"op": "put", "path": "/srv", "name": "data", "trusted": true}    → the tree's pieces, then END
    ← REPLY {"path": "/srv/data", "files": n, "bytes": n}

Owners and modes are kept where the agent is root; set-user-ID bits are dropped where `trusted` is false: the pieces are
another guest's. What was not whole when the stream was cancelled is taken back.
"""

from __future__ import annotations

import os
from typing import Any

from subos_desktop.trees import TreeError, Unpacker, pack
from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.pieces import in_thread, receive_pieces, send_pieces
from subos_protocol.agent.stream import Stream


async def get(stream: Stream) -> Head:
    """Handles `get`. Raises RemoteError."""
    pieces = pack(_path(stream.head.get("path")))
    try:
        await send_pieces(stream, pieces)
    except TreeError as error:
        raise RemoteError("not-found", str(error)) from error
    finally:
        pieces.close()
    return {}


async def put(stream: Stream) -> Head:
    """Handles `put`. Raises RemoteError."""
    path, name = _path(stream.head.get("path")), stream.head.get("name", "")
    if not isinstance(name, str):
        raise RemoteError("malformed", "a name that is no text")
    trusted = stream.head.get("trusted", True) is True
    try:
        with Unpacker(path, name, trusted=trusted) as unpacker:
            await receive_pieces(stream, unpacker.take)
            await in_thread(unpacker.finish)
            return {"path": unpacker.path, "files": unpacker.files, "bytes": unpacker.bytes}
    except TreeError as error:
        raise RemoteError("failed", str(error)) from error


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise RemoteError("malformed", "a path that is not absolute")
    try:
        os.fsencode(value)
    except UnicodeEncodeError as error:
        raise RemoteError("malformed", "a path that cannot be one") from error
    return value
