"""Users' sessions at the service: they connect to SOCKET, and what is of the clipboard passes between the host and the
active one, unless it is off. The host may ask that one for its monitors, too.

Any user of the guest may connect; the socket says who. Only one session at a time is the active one, the newest of one
user: of who sits at the first seat, as logind tells; nobody's while nobody sits there. Without logind, of whoever came
first, until all of that user's sessions have gone: no other user can take the clipboard away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Coroutine, Dict, List, Optional, Set

from subos_protocol import __version__, monitors
from subos_protocol.agent.errors import ChannelError, RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.hello import Hello
from subos_protocol.agent.peer import Handler, Peer
from subos_protocol.agent.relay import relay
from subos_protocol.agent.stream import Stream

SOCKET = Path("/run/subos/session.sock")
SEAT = Path("/run/systemd/seats/seat0")
"""What logind writes of the first seat; ACTIVE_UID is who sits there."""
CLIPBOARD = ("clipboard.offer", "clipboard.read", "clipboard.ready")
MAX_SESSIONS = 32
MAX_OF_USER = 4
ACCEPT_RETRY = 1.0  # seconds
HELLO_SECONDS = 10.0
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid

log = logging.getLogger("subos-agent")


@dataclass(frozen=True)
class Session:
    peer: Peer
    uid: int
    pid: int


class Sessions:
    """`host` is asked for the host's peer whenever it is wanted; None while it is not there."""

    def __init__(
        self,
        host: Callable[[], Optional[Peer]],
        path: Path = SOCKET,
        seat: Path = SEAT,
        *,
        clipboard: bool = True,
    ) -> None:
        self._host = host
        self._both_ways = CLIPBOARD if clipboard else ()
        self._path = path
        self._seat = seat
        self._sessions: List[Session] = []
        self._last: Optional[Peer] = None
        """Which was the active one when we last looked."""
        self._tasks: Set[asyncio.Future[None]] = set()

    def handlers(self) -> Dict[str, Handler]:
        """What the host may ask of the active session."""
        return dict.fromkeys((*self._both_ways, monitors.OPERATION), self._to_session)

    async def serve(self) -> None:
        """Takes sessions until it is cancelled. Raises OSError where the socket cannot be made."""
        listener = self._listen()
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:  # too many open files
                    log.warning("no session can be taken: %s", error)
                    await asyncio.sleep(ACCEPT_RETRY)
                    continue
                try:
                    await self._take(connection)
                except OSError as error:
                    log.debug("a session went at once: %s", error)
                    connection.close()
        finally:
            listener.close()
            with contextlib.suppress(OSError):
                self._path.unlink()
            for session in list(self._sessions):
                session.peer.close()
            for task in list(self._tasks):
                task.cancel()

    def _listen(self) -> socket.socket:
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(os.fspath(self._path))
        os.chmod(self._path, 0o666)
        listener.listen(16)
        listener.setblocking(False)
        return listener

    async def _take(self, connection: socket.socket) -> None:
        pid, uid, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if not self._make_room(uid):
            log.warning("user %d has too many sessions of the agent: the last one is closed", uid)
            connection.close()
            return
        connection.setblocking(False)
        peer = Peer(
            Hello("subos-agent", __version__, list(self._both_ways)),
            dict.fromkeys(self._both_ways, self._to_host),
            opener=False,
            on_lost=lambda peer, _error: self._lost(peer),
        )
        self._sessions.append(Session(peer, uid, pid))
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: peer, connection)
        loop.call_later(HELLO_SECONDS, self._close_silent, peer)
        log.debug("a session of user %d is here", uid)

    def _make_room(self, uid: int) -> bool:
        """For one more session of a user; for who sits at the seat another's goes."""
        if sum(1 for session in self._sessions if session.uid == uid) >= MAX_OF_USER:
            return False
        others = [session for session in self._sessions if session.uid != uid]
        if len(self._sessions) >= MAX_SESSIONS and uid == self._user() and others:
            others[0].peer.close("the one who sits here needs the place")
        return len(self._sessions) < MAX_SESSIONS

    def _close_silent(self, peer: Peer) -> None:
        if peer.hello is None:
            peer.close("it said nothing")

    def _lost(self, peer: Peer) -> None:
        self._sessions = [session for session in self._sessions if session.peer is not peer]
        if peer is self._last:
            self._active()

    def _active(self) -> Optional[Peer]:
        """The session whose clipboard is the guest's now. If that is another one than it was, both sides are told."""
        user = self._user()
        known = (session for session in reversed(self._sessions) if session.peer.hello is not None)
        peer = next((session.peer for session in known if session.uid == user), None)
        if peer is not self._last:
            first, self._last = self._last is None, peer
            if peer is not None and not first:  # the first one says itself that it is here
                self._spawn(self.announce())
        return peer

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _user(self) -> Optional[int]:
        """Whose clipboard is the guest's; None for nobody's."""
        try:
            found = re.search(r"^ACTIVE_UID=(\d+)$", self._seat.read_text("utf-8", "replace"), re.MULTILINE)
            return int(found[1]) if found else None
        except FileNotFoundError:  # the folder is systemd's, and there without logind, too
            pass
        except OSError:
            return None
        return next((session.uid for session in self._sessions if session.peer.hello is not None), None)

    async def announce(self) -> None:
        """Has the host and the active session say again what they offer, if both are there."""
        host, session = self._host(), self._active()
        if host is not None and session is not None and self._both_ways:
            with contextlib.suppress(ChannelError):
                await host.ask({"op": "clipboard.ready"})
                await session.ask({"op": "clipboard.ready"})

    async def _to_session(self, stream: Stream) -> Optional[Head]:
        peer = self._active()
        if peer is None:
            raise RemoteError(
                "no-session", "nobody's desktop session is there in the guest", "subos-agent session runs in one"
            )
        return await relay(stream, peer)

    async def _to_host(self, stream: Stream) -> Optional[Head]:
        active, host = self._active(), self._host()
        if active is None or stream.peer is not active:
            raise RemoteError("inactive", "another session is the active one")
        if host is None:
            raise RemoteError("lost", "the host is not there")
        return await relay(stream, host)
