"""`monitors`: where the desktop of this session has its monitors, for as long as the host wants to know."""

from __future__ import annotations

from typing import Dict, Optional

from subos_desktop.clipboard.interface import ClipboardError
from subos_desktop.clipboard.streams import closing
from subos_desktop.monitors import layouts
from subos_protocol.agent.errors import RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.peer import Handler
from subos_protocol.agent.stream import Stream
from subos_protocol.errors import Malformed
from subos_protocol.monitors import OPERATION, pack_layout

MAX_FOLLOWERS = 8
"""At once; each has a connection to the display server."""


class Monitors:
    """`backend` is the clipboard's: the same display server is asked."""

    def __init__(self, backend: Optional[str] = None) -> None:
        self._backend = backend
        self._followers = 0

    def handlers(self) -> Dict[str, Handler]:
        return {OPERATION: self._follow}

    async def _follow(self, stream: Stream) -> Head:
        """Handles `monitors`. Raises RemoteError."""
        if self._followers >= MAX_FOLLOWERS:
            raise RemoteError("busy", f"the monitors are followed {MAX_FOLLOWERS} times already")
        self._followers += 1
        try:
            async with closing(layouts(self._backend)) as told:
                async for layout in told:
                    await stream.event(pack_layout(layout))
        except ClipboardError as error:
            raise RemoteError("unavailable", error.message, error.hint) from error
        except Malformed as error:
            raise RemoteError("failed", f"the desktop has {error}") from error
        finally:
            self._followers -= 1
        raise RemoteError("lost", "the desktop has gone")
