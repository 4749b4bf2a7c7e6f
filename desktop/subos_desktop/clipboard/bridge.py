"""One clipboard's end of the agent channel: what is copied here is offered there, and the other way round.

    → REQUEST {"op": "clipboard.offer", "selection": "clipboard", "serial": 7, "seen": 3, "formats": ["text/html"]}
    ← REPLY {"accepted": true}
    → REQUEST {"op": "clipboard.read", "selection": "clipboard", "serial": 7, "type": "text/html"}
    ← DATA …, REPLY {"size": n}
    → REQUEST {"op": "clipboard.ready"}          a session has come: forget its old offers, and say again yours

Offers travel at once, data when somebody pastes. Both ends are this class. There are no loops: a backend never reports
what we ourselves hold. Where both sides copy at the same moment, each offer says which one of the other side it has
`seen`: the side that `wins` ignores what was made without having seen its own newest, the other one always gives way.
So both end with the same.

Files never travel as paths: see files.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, replace
from typing import Any, AsyncIterator, Coroutine, Dict, Iterable, List, Optional, Set, Tuple, Union

from subos_protocol.agent.errors import ChannelError, ChannelLost, RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.peer import Handler, Peer
from subos_protocol.agent.stream import Stream

from . import files
from .formats import MAX_FORMATS, URI_LIST, is_mime
from .interface import MARKER, Clipboard, ClipboardError, NotOffered, Offer, Selection, Stalled, TooLarge
from .pace import Pace
from .policy import IN, OUT, Policy
from .streams import closing
from .transfer import GIVE_SECONDS, TAKE_SECONDS, Transfer, patience

OFFER_SECONDS = 10.0
RELEASE_SECONDS = 2.0
CHUNK = 1 << 17
LAST_SERIAL = 1 << 53
"""What every JSON reader keeps exactly."""
TAKE_OVERS, TAKE_OVERS_A_SECOND = 50, 4.0
"""How often the other side may take our clipboard over, losing what lay there: at once, and then."""
MAX_FILE_TRANSFERS = 4
"""At once in each direction: each takes a thread."""

log = logging.getLogger("subos.clipboard")


@dataclass(frozen=True)
class Remote:
    """What the other side offers, and who it is: all its formats, and those of them that may pass. `copy` is a number
    that we have given it; `serial` is the other side's, which may be anything."""

    serial: int = 0
    offered: Tuple[str, ...] = ()
    formats: Tuple[str, ...] = ()
    peer: Optional[Peer] = None
    copy: int = 0


@dataclass(frozen=True)
class Local:
    """What we have offered last; `data` is of those that come from no program but from a command, by format."""

    serial: int = 0
    formats: Tuple[str, ...] = ()
    offer: Optional[Offer] = None
    data: Optional[Dict[str, bytes]] = None
    copy: int = 0


class Bridge:
    """`clipboard` is this side's; None where there is no desktop: then commands alone use it (`push`, `fetch`)."""

    def __init__(self, clipboard: Optional[Clipboard], policy: Policy, *, wins: bool) -> None:
        self._clipboard = clipboard
        self._policy = policy
        self._wins = wins
        self._peer: Optional[Peer] = None
        self._serial = 0
        self._copies = 0
        self._turns = {selection: asyncio.Lock() for selection in Selection}
        """Held while a selection changes hands: an offer of ours is made before or after that, and knows of it."""
        self._newest: Dict[Selection, Stream] = {}
        self._unsaid: Set[Selection] = set()
        self._pace = Pace(TAKE_OVERS, TAKE_OVERS_A_SECOND)
        self._file_turns = {way: asyncio.Semaphore(MAX_FILE_TRANSFERS) for way in (IN, OUT)}
        self._tasks: Set[asyncio.Future[None]] = set()
        self._watchers: Set[asyncio.Event] = set()
        self.local: Dict[Selection, Local] = {}
        self.remote: Dict[Selection, Remote] = {}
        self.transfers: List[Transfer] = []

    def handlers(self) -> Dict[str, Handler]:
        """What the other side may ask for."""
        return {"clipboard.offer": self._take_offer, "clipboard.read": self._give, "clipboard.ready": self._say_again}

    async def run(self, peer: Peer, *, announce: bool = False) -> None:
        """Passes offers on to `peer` until it is cancelled. `announce`: tells it first that we are here.

        Raises Disconnected where the desktop goes, ChannelLost where the peer does.
        """
        self._peer = peer
        for selection in Selection:
            if self.local.get(selection, Local()).data is None:
                self._drop(self.local, selection)
            if self.remote.get(selection, Remote()).peer is not peer:
                self._drop(self.remote, selection)
        try:
            if announce:
                await self._tell({"op": "clipboard.ready"})
                self._unsaid.update(self.local)
                await self._say_all()
            if self._clipboard is None:
                await peer.lost()
                return
            async for offer in self._clipboard.offers():
                await self._pass_on(offer)
        finally:
            if self._peer is peer:
                self._peer = None
            for task in list(self._tasks):
                task.cancel()
            if self._clipboard is not None:  # its data could not be had any more
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._forget_all(), RELEASE_SECONDS)

    def use(self, clipboard: Optional[Clipboard]) -> None:
        """Another desktop, before `run`."""
        self._clipboard = clipboard

    async def review(self) -> None:
        """The policy has changed: offers on both sides what may pass now. Raises ChannelLost."""
        for selection in Selection:
            async with self._turns[selection]:
                theirs = self.remote.get(selection, Remote())
                allowed = self._allowed(IN, selection, theirs.offered)
                if allowed != theirs.formats:
                    self.remote[selection] = theirs = replace(theirs, formats=allowed)
                    self._has_changed()
                    with contextlib.suppress(ClipboardError):
                        await self._hold(selection, theirs)
            mine = self.local.get(selection, Local())
            if mine.offer is not None:
                await self._pass_on(mine.offer)
            elif mine.data is not None and self._peer is not None:
                await self.push(selection, mine.data)

    async def changes(self) -> AsyncIterator[None]:
        """Once now, and again whenever something has changed: what is offered there, or which transfers there are."""
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            while True:
                yield
                await changed.wait()
                changed.clear()
        finally:
            self._watchers.discard(changed)

    def _has_changed(self) -> None:
        for changed in self._watchers:
            changed.set()

    # --- what is copied here

    async def _pass_on(self, offer: Offer) -> None:
        async with self._turns[offer.selection]:
            if self._clipboard is None or self._clipboard.current(offer.selection) is not offer:
                return  # the other side's was later
            formats = [name for name in offer.formats if not name.startswith(MARKER)]
            asked = self._offer(offer.selection, formats, offer, None)
        await self._answer(asked)

    async def push(self, selection: Selection, data: Dict[str, bytes]) -> bool:
        """Offers what a command has given; whether the other side has taken it. Raises ChannelLost, RemoteError."""
        if self._peer is None:
            raise ChannelLost("the other side is not there")
        async with self._turns[selection]:
            await self._release(selection)
            asked = self._offer(selection, list(data), None, data)
        reply = await self._answer(asked)
        return reply is not None and reply.get("accepted") is True

    def _offer(
        self, selection: Selection, formats: List[str], offer: Optional[Offer], data: Optional[Dict[str, bytes]]
    ) -> Optional[Stream]:
        travelling = [files.FILES if name == URI_LIST else name for name in formats if name not in files.PATHS]
        self._serial += 1
        self._copies += 1
        self._drop(self.local, selection)
        allowed = self._allowed(OUT, selection, travelling)
        self.local[selection] = Local(self._serial, allowed, offer, data, self._copies)
        asked = self._say(selection)
        if selection in self.remote:  # what was copied there is over; that we have seen it still counts
            self._policy.over(self.remote[selection].copy)
            self.remote[selection] = replace(self.remote[selection], offered=(), formats=())
            self._has_changed()
        return asked

    def _drop(self, held: Union[Dict[Selection, Local], Dict[Selection, Remote]], selection: Selection) -> None:
        """What was copied there or here is over."""
        dropped = held.pop(selection, None)
        if dropped is not None:
            self._policy.over(dropped.copy)

    def _allowed(self, direction: str, selection: Selection, names: Iterable[str]) -> Tuple[str, ...]:
        return tuple(name for name in names if self._policy.allows(direction, selection, name))[:MAX_FORMATS]

    def _say(self, selection: Selection) -> Optional[Stream]:
        mine, theirs = self.local[selection], self.remote.get(selection, Remote())
        head: Head = {"op": "clipboard.offer", "selection": selection.value, "serial": mine.serial}
        return self._ask({**head, "seen": theirs.serial, "formats": list(mine.formats)})

    def _ask(self, head: Head) -> Optional[Stream]:
        """The request, sent; None where there is nobody. Raises ChannelLost."""
        return self._peer.call(head) if self._peer is not None else None

    async def _answer(self, asked: Optional[Stream]) -> Optional[Head]:
        """None where the other side does not take it. Raises ChannelLost."""
        if asked is None:
            return None
        try:
            with patience(asked, OFFER_SECONDS):
                async with asked:
                    return await asked.result()
        except RemoteError as error:
            log.debug("%s was not taken: %s", asked.head["op"], error)
            return None

    async def _tell(self, head: Head) -> Optional[Head]:
        return await self._answer(self._ask(head))

    async def _say_again(self, stream: Stream) -> Head:
        """Handles `clipboard.ready`: there is a new session at the other end, which has seen nothing."""
        await self._forget_all()
        self._unsaid.update(self.local)
        if not self._tasks:
            self._spawn(self._say_all())
        return {}

    async def _say_all(self) -> None:
        try:
            while self._unsaid:
                selection = self._unsaid.pop()
                if selection in self.local:
                    await self._answer(self._say(selection))
        except ChannelError as error:
            log.debug("offers were not repeated: %s", error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _give(self, stream: Stream) -> Head:
        """Handles `clipboard.read`: somebody pastes there."""
        selection, mime = _selection(stream.head), stream.head.get("type")
        mine = self.local.get(selection, Local())
        if stream.head.get("serial") != mine.serial or not isinstance(mime, str) or mime not in mine.formats:
            raise RemoteError("gone", "something else has been copied since")
        if not await self._policy.approve(OUT, selection, mime, mine.copy):
            raise RemoteError("refused", f"{mime} may not leave this side")
        if self.local.get(selection) is not mine:
            raise RemoteError("gone", "something else has been copied since")
        transfer = self._begin(OUT, selection, mime, mine.copy)
        try:
            async with closing(_pieces(self._read_local(selection, mine, mime))) as pieces:
                async for chunk in pieces:
                    transfer.count(chunk)
                    with patience(stream, GIVE_SECONDS):
                        await stream.send(chunk)
            transfer.complete = True
        except ClipboardError as error:
            code = "too-large" if isinstance(error, TooLarge) else "failed"
            raise RemoteError(code, error.message, error.hint) from error
        finally:
            self._end(transfer)
        return {"size": transfer.done}

    async def _read_local(self, selection: Selection, mine: Local, mime: str) -> AsyncIterator[bytes]:
        wanted = URI_LIST if mime == files.FILES else mime
        if mine.data is not None:
            chunks = _all_of(mine.data[wanted])
        elif self._clipboard is not None and mine.offer is not None:
            chunks = self._clipboard.read(selection, wanted, mine.offer.serial)
        else:
            raise NotOffered("nothing is copied")
        if mime != files.FILES:
            async with closing(chunks):
                async for chunk in chunks:
                    yield chunk
            return
        paths = files.local_paths(await _join(chunks, files.MAX_LIST))
        async with self._file_turns[OUT], closing(files.pack(paths)) as packed:
            async for chunk in packed:
                yield chunk

    # --- what is copied there

    async def _take_offer(self, stream: Stream) -> Head:
        """Handles `clipboard.offer`."""
        selection = _selection(stream.head)
        serial, seen, formats = _serial(stream.head, "serial"), _serial(stream.head, "seen"), stream.head.get("formats")
        if not isinstance(formats, list):
            raise RemoteError("malformed", "an offer without formats")
        names = dict.fromkeys(name for name in formats[:MAX_FORMATS] if isinstance(name, str) and is_mime(name))
        unfit = (URI_LIST, *files.PATHS)
        offered = tuple(name for name in names if name not in unfit and not name.startswith(MARKER))
        self._newest[selection] = stream
        if not await self._may_take_over(selection, stream):
            return {"accepted": False}
        async with self._turns[selection]:
            if self._newest[selection] is not stream:
                return {"accepted": False}
            if self._wins and seen < self.local.get(selection, Local()).serial:
                return {"accepted": False}
            self._copies += 1
            self._drop(self.remote, selection)
            self._drop(self.local, selection)
            allowed = self._allowed(IN, selection, offered)
            self.remote[selection] = remote = Remote(serial, offered, allowed, stream.peer, self._copies)
            self._has_changed()
            try:
                await self._hold(selection, remote)
            except ClipboardError as error:
                raise RemoteError("failed", error.message, error.hint) from error
        return {"accepted": True}

    async def _may_take_over(self, selection: Selection, stream: Stream) -> bool:
        """Waits where the other side copies too often. False: a newer offer has come meanwhile."""
        known = self._pace.slow
        while wait := self._pace.take():
            if not known:
                log.warning("the other side copies without end: it is slowed down")
            known = True
            await asyncio.sleep(wait)
            if self._newest[selection] is not stream:
                return False
        return True

    async def _hold(self, selection: Selection, remote: Remote) -> None:
        if self._clipboard is None:
            return
        if not remote.formats:
            await self._clipboard.release(selection)
            return
        here = [URI_LIST if name == files.FILES else name for name in remote.formats]
        await self._clipboard.offer(selection, here, lambda mime: self._paste(selection, remote, mime))

    async def _forget_all(self) -> None:
        """The other side's offers are over."""
        for selection in Selection:
            async with self._turns[selection]:
                await self._release(selection)
                self._drop(self.remote, selection)
        self._has_changed()

    async def _release(self, selection: Selection) -> None:
        if self._clipboard is not None and self.remote.get(selection, Remote()).formats:
            with contextlib.suppress(ClipboardError):
                await self._clipboard.release(selection)

    async def _paste(self, selection: Selection, remote: Remote, mime: str) -> AsyncIterator[bytes]:
        """What a program here gets that pastes. Raises ClipboardError."""
        if mime != URI_LIST:
            async with closing(self.fetch(selection, mime, remote)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        async with self._file_turns[IN], closing(self.fetch(selection, files.FILES, remote)) as chunks:
            paths = await files.unpack(chunks, files.drop_folder())
        yield files.uri_list(paths)

    async def fetch(self, selection: Selection, mime: str, remote: Optional[Remote] = None) -> AsyncIterator[bytes]:
        """The other side's data in one of the formats that it offers. Raises ClipboardError."""
        remote = remote or self.remote.get(selection, Remote())
        if remote.peer is None or mime not in remote.formats:
            raise NotOffered(f"the other side holds nothing of the type {mime}")
        now = self.remote.get(selection, Remote())
        if now.copy != remote.copy or mime not in now.formats:
            raise NotOffered("something else has been copied since")
        if not await self._policy.approve(IN, selection, mime, remote.copy):
            raise NotOffered(f"{mime} may not come to this side")
        head: Head = {"op": "clipboard.read", "selection": selection.value, "serial": remote.serial, "type": mime}
        transfer = self._begin(IN, selection, mime, remote.copy)
        try:
            async with remote.peer.call(head) as stream:
                while True:
                    with patience(stream, TAKE_SECONDS):
                        message = await stream.receive()
                    if message is None:
                        break
                    if isinstance(message.content, bytes):
                        transfer.count(message.content)
                        yield message.content
            transfer.complete = True
        except RemoteError as error:
            kind = {"too-large": TooLarge, "stalled": Stalled}.get(error.code, NotOffered)
            raise kind(error.message, error.hint) from error
        except ChannelError as error:
            raise Stalled(f"the other side went away: {error}") from error
        finally:
            self._end(transfer)

    # --- both

    def _begin(self, direction: str, selection: Selection, mime: str, copy: int) -> Transfer:
        transfer = Transfer(self._policy, direction, selection, mime, copy)
        self.transfers.append(transfer)
        self._has_changed()
        return transfer

    def _end(self, transfer: Transfer) -> None:
        self.transfers.remove(transfer)
        transfer.end()
        self._has_changed()


def _selection(head: Head) -> Selection:
    try:
        return Selection(head.get("selection"))
    except ValueError as error:
        raise RemoteError("malformed", "a selection that is none") from error


def _serial(head: Head, name: str) -> int:
    value = head.get(name)
    if type(value) is not int or not 0 <= value <= LAST_SERIAL:
        raise RemoteError("malformed", f"a {name} that is none")
    return value


async def _pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same in pieces of CHUNK at most: none of them is sent that the size limit forbids. Closes `chunks`."""
    async with closing(chunks):
        async for chunk in chunks:
            for start in range(0, len(chunk), CHUNK):
                yield chunk[start : start + CHUNK]


async def _all_of(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _join(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    """All of it. Closes `chunks`. Raises TooLarge."""
    data = bytearray()
    async with closing(chunks):
        async for chunk in chunks:
            data += chunk
            if len(data) > limit:
                raise TooLarge(f"a list of more than {limit >> 10} KiB")
    return bytes(data)
