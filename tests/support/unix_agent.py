"""The guest's agent without a guest.   usage: unix_agent.py serve HUB SESSIONS | session SESSIONS BACKEND

`serve` is the service, connected to a hub's Unix socket; `session` is a user's session part, on DISPLAY.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import sys
from pathlib import Path
from typing import Any

from subos_agent import channel, service, session, sessions
from subos_agent.configuration import Configuration


async def by_unix_socket(make: Any) -> Any:
    peer = make(False)
    await asyncio.get_running_loop().create_unix_connection(lambda: peer, sys.argv[2])
    return peer


def main() -> None:
    logging.basicConfig(level=logging.DEBUG)
    with contextlib.suppress(asyncio.CancelledError):
        if sys.argv[1] == "session":
            asyncio.run(session.run(sys.argv[3], Path(sys.argv[2])))
            return
        channel._by_vsock = by_unix_socket
        no_seat = Path("/nonexistent/seat")
        service.Sessions = functools.partial(  # type: ignore[misc,assignment]
            sessions.Sessions, path=Path(sys.argv[3]), seat=no_seat
        )
        asyncio.run(service.Service(Configuration()).run())


main()
