"""One clipboard's end of the agent channel: what is copied here is offered there, and the other way round.

    → REQUEST {"op": "clipboard.offer", "selection": "clipboard", "serial": 7, "seen": 3, "formats": ["text/html"]}
    ← REPLY {"accepted": true}
    → REQUEST {"op": "clipboard.read", "selection": "clipboard", "serial": 7, "type": "text/html"}
    ← DATA …, REPLY {"size": n}
    → REQUEST {"op": "clipboard.ready"}          a session has come: say again what is offered

Offers travel at once, data when somebody pastes. Both ends are this class. There are no loops: a backend never reports
what we ourselves hold. Where both sides copy at the same moment, each offer says which one of the other side it has
`seen`: the side that `wins` ignores what was made without having seen its own newest, the other one always gives way.
So both end with the same.

Files never travel as paths: see files.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass
from typing import AsyncIterator, Dict, List, Optional, Protocol, Tuple

from subos_protocol.agent.errors import ChannelError, ChannelLost, RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.peer import Handler, Peer
from subos_protocol.agent.stream import Stream

from . import files
from .formats import MAX_FORMATS, URI_LIST, is_mime
from .interface import MARKER, Clipboard, ClipboardError, NotOffered, Offer, Selection, Stalled, TooLarge

OFFER_SECONDS = 10.0
CHUNK = 1 << 15

OUT, IN = "out", "in"
"""Directions, as this side sees them: what is copied here and pasted there, and the reverse."""

log = logging.getLogger("subos.clipboard")


class Policy(Protocol):
    """What may pass. All of it is asked with the direction, OUT or IN, and a MIME type."""

    def allows(self, direction: str, mime: str) -> bool:
        """Whether the format is offered at all."""

    def limit(self, mime: str) -> int:
        """Bytes at most."""

    async def approve(self, direction: str, mime: str) -> bool:
        """Asked when somebody pastes; may ask a person."""

    def record(self, direction: str, mime: str, size: int, digest: str) -> None:
        """Something has passed; `digest` is its SHA-256."""


class AllowAll:
    """The guest's: what is to be kept apart is the host's decision."""

    def __init__(self, limit: int = 256 << 20) -> None:
        self._limit = limit

    def allows(self, direction: str, mime: str) -> bool:
        return True

    def limit(self, mime: str) -> int:
        return self._limit

    async def approve(self, direction: str, mime: str) -> bool:
        return True

    def record(self, direction: str, mime: str, size: int, digest: str) -> None:
        pass


@dataclass
class Transfer:
    """One that is under way: `done` bytes so far."""

    direction: str
    mime: str
    done: int = 0


@dataclass(frozen=True)
class Remote:
    """What the other side offers, and who it is."""

    serial: int = 0
    formats: Tuple[str, ...] = ()
    peer: Optional[Peer] = None


@dataclass(frozen=True)
class Local:
    """What we have offered last; `data` is of those that come from no program but from a command, by format."""

    serial: int = 0
    formats: Tuple[str, ...] = ()
    offer: Optional[Offer] = None
    data: Optional[Dict[str, bytes]] = None


class Bridge:
    """`clipboard` is this side's; None where there is no desktop: then commands alone use it (`push`, `fetch`)."""

    def __init__(self, clipboard: Optional[Clipboard], policy: Policy, *, wins: bool) -> None:
        self._clipboard = clipboard
        self._policy = policy
        self._wins = wins
        self._peer: Optional[Peer] = None
        self._serial = 0
        self.local: Dict[Selection, Local] = {}
        self.remote: Dict[Selection, Remote] = {}
        self.transfers: List[Transfer] = []
        self.changed = asyncio.Event()
        """Set at each offer from there; whoever waits for it clears it."""

    def handlers(self) -> Dict[str, Handler]:
        """What the other side may ask for."""
        return {"clipboard.offer": self._take_offer, "clipboard.read": self._give, "clipboard.ready": self._say_again}

    async def run(self, peer: Peer, *, announce: bool = False) -> None:
        """Passes offers on to `peer` until it is cancelled. `announce`: tells it first that we are here.

        Raises Disconnected where the desktop goes, ChannelLost where the peer does.
        """
        self._peer = peer
        self.remote = {selection: remote for selection, remote in self.remote.items() if remote.peer is peer}
        try:
            if announce:
                await self._tell({"op": "clipboard.ready"})
            if self._clipboard is None:
                await peer.lost()
                return
            async for offer in self._clipboard.offers():
                await self._pass_on(offer)
        finally:
            if self._peer is peer:
                self._peer = None

    def use(self, clipboard: Optional[Clipboard]) -> None:
        """Another desktop, before `run`."""
        self._clipboard = clipboard

    async def announce(self) -> None:
        """Says again what is offered here: the policy has changed. Raises ChannelLost."""
        for selection, mine in list(self.local.items()):
            if mine.offer is not None:
                await self._pass_on(mine.offer)
            elif mine.data is not None:
                await self._offer(selection, list(mine.data), None, mine.data)

    # --- what is copied here

    async def _pass_on(self, offer: Offer) -> None:
        formats = [name for name in offer.formats if not name.startswith(MARKER)]
        await self._offer(offer.selection, formats, offer, None)

    async def push(self, selection: Selection, data: Dict[str, bytes]) -> bool:
        """Offers what a command has given; whether the other side has taken it. Raises ChannelLost, RemoteError."""
        if self._peer is None:
            raise ChannelLost("the other side is not there")
        return await self._offer(selection, list(data), None, data)

    async def _offer(
        self, selection: Selection, formats: List[str], offer: Optional[Offer], data: Optional[Dict[str, bytes]]
    ) -> bool:
        travelling = [files.FILES if name == URI_LIST else name for name in formats]
        allowed = tuple(name for name in travelling if self._policy.allows(OUT, name))[:MAX_FORMATS]
        self._serial += 1
        self.local[selection] = Local(self._serial, allowed, offer, data)
        return await self._say(selection)

    async def _say(self, selection: Selection) -> bool:
        mine, theirs = self.local[selection], self.remote.get(selection, Remote())
        head: Head = {"op": "clipboard.offer", "selection": selection.value, "serial": mine.serial}
        reply = await self._tell({**head, "seen": theirs.serial, "formats": list(mine.formats)})
        return reply is not None and reply.get("accepted") is True

    async def _tell(self, head: Head) -> Optional[Head]:
        """The reply; None where there is nobody who could take it. Raises ChannelLost."""
        if self._peer is None:
            return None
        try:
            return await asyncio.wait_for(self._peer.ask(head), OFFER_SECONDS)
        except (RemoteError, asyncio.TimeoutError) as error:
            log.debug("%s was not taken: %s", head["op"], error)
            return None

    async def _say_again(self, stream: Stream) -> Head:
        """Handles `clipboard.ready`: there is a new session at the other end, which has seen nothing."""
        self.remote.clear()
        self.changed.set()
        asyncio.ensure_future(self._say_all())  # noqa: RUF006 (bounded by OFFER_SECONDS, and nobody waits for it)
        return {}

    async def _say_all(self) -> None:
        try:
            for selection in list(self.local):
                await self._say(selection)
        except ChannelError as error:
            log.debug("offers were not repeated: %s", error)

    async def _give(self, stream: Stream) -> Head:
        """Handles `clipboard.read`: somebody pastes there."""
        selection, mime = _selection(stream.head), stream.head.get("type")
        mine = self.local.get(selection, Local())
        if stream.head.get("serial") != mine.serial or mime not in mine.formats or not isinstance(mime, str):
            raise RemoteError("gone", "something else has been copied since")
        if not await self._policy.approve(OUT, mime):
            raise RemoteError("refused", f"{mime} may not leave this side")
        transfer = self._begin(OUT, mime)
        try:
            digest = hashlib.sha256()
            async for chunk in _pieces(self._read_local(selection, mine, mime)):
                transfer.done += len(chunk)
                self._check_size(mime, transfer.done)
                digest.update(chunk)
                await stream.send(chunk)
        except ClipboardError as error:
            code = "too-large" if isinstance(error, TooLarge) else "failed"
            raise RemoteError(code, error.message, error.hint) from error
        finally:
            self.transfers.remove(transfer)
        self._policy.record(OUT, mime, transfer.done, digest.hexdigest())
        return {"size": transfer.done}

    async def _read_local(self, selection: Selection, mine: Local, mime: str) -> AsyncIterator[bytes]:
        wanted = URI_LIST if mime == files.FILES else mime
        if mine.data is not None:
            chunks = _all_of(mine.data[wanted])
        elif self._clipboard is not None and mine.offer is not None:
            chunks = self._clipboard.read(selection, wanted, mine.offer.serial)
        else:
            raise NotOffered("nothing is copied")
        if mime == files.FILES:
            chunks = files.pack(files.local_paths(await _join(chunks, files.MAX_LIST)))
        async for chunk in chunks:
            yield chunk

    # --- what is copied there

    async def _take_offer(self, stream: Stream) -> Head:
        """Handles `clipboard.offer`."""
        selection = _selection(stream.head)
        serial, seen, formats = (stream.head.get(name) for name in ("serial", "seen", "formats"))
        if type(serial) is not int or type(seen) is not int or not isinstance(formats, list):
            raise RemoteError("malformed", "an offer without serial, seen or formats")
        if self._wins and seen < self.local.get(selection, Local()).serial:
            return {"accepted": False}
        names = dict.fromkeys(name for name in formats[:MAX_FORMATS] if isinstance(name, str) and is_mime(name))
        allowed = tuple(name for name in names if name != URI_LIST and self._policy.allows(IN, name))
        self.remote[selection] = remote = Remote(serial, allowed, stream.peer)
        self.changed.set()
        if self._clipboard is not None:
            try:
                await self._hold(self._clipboard, selection, remote)
            except ClipboardError as error:
                raise RemoteError("failed", error.message, error.hint) from error
        return {"accepted": True}

    async def _hold(self, clipboard: Clipboard, selection: Selection, remote: Remote) -> None:
        if not remote.formats:
            await clipboard.release(selection)
            return
        here = [URI_LIST if name == files.FILES else name for name in remote.formats]
        await clipboard.offer(selection, here, lambda mime: self._paste(selection, remote, mime))

    async def _paste(self, selection: Selection, remote: Remote, mime: str) -> AsyncIterator[bytes]:
        """What a program here gets that pastes. Raises ClipboardError."""
        if mime != URI_LIST:
            async for chunk in self.fetch(selection, mime, remote):
                yield chunk
            return
        paths = await files.unpack(self.fetch(selection, files.FILES, remote), files.drop_folder())
        yield files.uri_list(paths)

    async def fetch(self, selection: Selection, mime: str, remote: Optional[Remote] = None) -> AsyncIterator[bytes]:
        """The other side's data in one of the formats that it offers. Raises ClipboardError."""
        remote = remote or self.remote.get(selection, Remote())
        if remote.peer is None or mime not in remote.formats:
            raise NotOffered(f"the other side holds nothing of the type {mime}")
        if not await self._policy.approve(IN, mime):
            raise NotOffered(f"{mime} may not come to this side")
        head: Head = {"op": "clipboard.read", "selection": selection.value, "serial": remote.serial, "type": mime}
        transfer = self._begin(IN, mime)
        digest = hashlib.sha256()
        try:
            async with remote.peer.call(head) as stream:
                while (message := await stream.receive()) is not None:
                    if isinstance(message.content, bytes):
                        transfer.done += len(message.content)
                        self._check_size(mime, transfer.done)
                        digest.update(message.content)
                        yield message.content
        except RemoteError as error:
            kind = TooLarge if error.code == "too-large" else NotOffered
            raise kind(error.message, error.hint) from error
        except ChannelError as error:
            raise Stalled(f"the other side went away: {error}") from error
        finally:
            self.transfers.remove(transfer)
        self._policy.record(IN, mime, transfer.done, digest.hexdigest())

    # --- both

    def _begin(self, direction: str, mime: str) -> Transfer:
        transfer = Transfer(direction, mime)
        self.transfers.append(transfer)
        return transfer

    def _check_size(self, mime: str, size: int) -> None:
        if size > self._policy.limit(mime):
            raise TooLarge(
                f"there is more than {self._policy.limit(mime) >> 20} MiB of {mime}",
                "the VM's clipboard policy says how much may pass",
            )


def _selection(head: Head) -> Selection:
    try:
        return Selection(head.get("selection"))
    except ValueError as error:
        raise RemoteError("malformed", "a selection that is none") from error


async def _pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same in pieces of CHUNK at most: none of them is sent that the size limit forbids."""
    async for chunk in chunks:
        for start in range(0, len(chunk), CHUNK):
            yield chunk[start : start + CHUNK]


async def _all_of(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _join(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    """All of it. Raises TooLarge."""
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > limit:
            raise TooLarge(f"a list of more than {limit >> 10} KiB")
    return bytes(data)
