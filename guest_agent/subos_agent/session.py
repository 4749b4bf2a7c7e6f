"""`subos-agent session`: a user's desktop session at the service. As the user, it shares the clipboard and says where
there are monitors, and no more.

It needs subos_desktop, and what that needs for the desktop at hand; `subos-agent doctor` says what is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import Optional

from subos_desktop.clipboard.bridge import Bridge
from subos_desktop.clipboard.choosing import choose
from subos_desktop.clipboard.interface import Clipboard, ClipboardError
from subos_desktop.clipboard.policy import AllowAll
from subos_protocol import __version__
from subos_protocol.agent.errors import ChannelLost
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Peer

from .monitors import Monitors
from .sessions import SOCKET

FIRST_RETRY = 0.5
LAST_RETRY = 5.0
"""Seconds between attempts to reach a desktop or a service that has gone."""

log = logging.getLogger("subos-agent")


async def run(backend: Optional[str] = None, path: Path = SOCKET) -> None:
    """Until SIGTERM, SIGINT or SIGHUP. Raises ClipboardError where this desktop gives no access at the beginning."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    clipboard: Optional[Clipboard] = await _open(backend)
    monitors = Monitors(backend)
    wait = FIRST_RETRY
    while True:
        try:
            if clipboard is None:
                clipboard = await _open(backend)
            await _share(clipboard, monitors, path)
            wait = FIRST_RETRY
        except ClipboardError as error:  # the desktop has gone; another may come
            log.info("%s", error.message)
            if clipboard is not None:
                with contextlib.suppress(ClipboardError):
                    await clipboard.close()
            clipboard = None
        except (OSError, ChannelLost) as error:
            log.debug("the agent's service is not there: %s", error)
        await asyncio.sleep(wait)
        wait = min(2 * wait, LAST_RETRY)


async def _open(backend: Optional[str]) -> Clipboard:
    choice = await choose(backend)
    log.info("the clipboard is shared: %s", choice.reason)
    return choice.clipboard


async def _share(clipboard: Clipboard, monitors: Monitors, path: Path) -> None:
    """Until the service or the desktop goes."""
    bridge = Bridge(clipboard, AllowAll(), wins=False)
    handlers = {**bridge.handlers(), **monitors.handlers()}
    peer = Peer(Hello("subos-agent", __version__, list(handlers)), handlers, opener=True)
    await asyncio.get_running_loop().create_unix_connection(lambda: peer, os.fspath(path))
    try:
        await asyncio.wait_for(peer.ready(), 10)
        running = asyncio.ensure_future(bridge.run(peer, announce=True))
        gone = asyncio.ensure_future(peer.lost())
        done, rest = await asyncio.wait({running, gone}, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for task in done:
            task.result()
    except asyncio.TimeoutError as error:
        raise OSError("the service does not answer") from error
    finally:
        peer.close()
