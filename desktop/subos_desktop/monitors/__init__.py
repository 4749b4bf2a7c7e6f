"""Where the desktop of this session has its monitors, now and after each change.

Asked are Wayland's outputs, where there is a compositor, else an X server's RandR.
"""

from __future__ import annotations

import os
from typing import AsyncIterator, Mapping, Optional

from subos_protocol.monitors import Layout

from ..clipboard.interface import NoServer


def layouts(backend: Optional[str] = None, environment: Optional[Mapping[str, str]] = None) -> AsyncIterator[Layout]:
    """The layout, and each other one as it comes. `backend` is "wayland" or "x11", else what there is.

    Close it to end. Raises Unavailable at first, Disconnected where the display server goes.
    """
    environment = os.environ if environment is None else environment
    if backend != "x11" and environment.get("WAYLAND_DISPLAY"):
        from . import wayland

        return wayland.layouts(environment["WAYLAND_DISPLAY"], environment.get("XDG_RUNTIME_DIR"))
    if backend != "wayland" and environment.get("DISPLAY"):
        from . import x11

        return x11.layouts(environment["DISPLAY"])
    raise NoServer("no display server is known here", "start it from within the session")
