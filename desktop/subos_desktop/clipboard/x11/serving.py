"""Giving data to programs that paste (ICCCM 2.2 and 2.7.2)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import AsyncIterator, Dict, List, Set, Tuple, Union

from ..bell import Bell
from ..formats import writer
from ..interface import CHUNK, ClipboardError, Provider
from ..streams import closing, gather, recode
from . import requests, wire
from .atoms import Atoms
from .connection import Connection
from .requests import ATOM, CURRENT_TIME, INTEGER, NONE, EventMask, words
from .wire import DestroyNotify, Event, PropertyNotify, PropertyState, SelectionRequest, XError

MAX_TRANSFERS = 64  # at once, and parts of them that wait; more are refused
MAX_PAIRS = 64  # targets of one MULTIPLE
# A program may take its time (`xclip -o | less`), and a transfer that waits costs one chunk. But not for ever.
PATIENCE = 300.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Held:
    """A selection that is ours."""

    targets: Dict[int, Tuple[str, str]]  # what we answer to: (its name, the format that the provider is asked for)
    marker: int  # a target of no data, by which our own offers are known; 0 for none
    provider: Provider
    time: int = CURRENT_TIME  # since when (the server's time, ms)


class Owner:
    """Answers for the selections that are ours."""

    def __init__(self, connection: Connection, atoms: Atoms) -> None:
        self.held: Dict[int, Held] = {}
        self._connection = connection
        self._atoms = atoms
        self._tasks: Set[asyncio.Task[None]] = set()
        self._incremental: Set[_Incremental] = set()  # each keeps a CHUNK

    def close(self) -> None:
        self.held.clear()
        for task in self._tasks:
            task.cancel()

    def answer(self, asked: SelectionRequest) -> None:
        held = self.held.get(asked.selection)
        if held is None or (asked.time != CURRENT_TIME and _before(asked.time, held.time)):
            self._notify(asked, NONE)
            return
        property = asked.property or asked.target  # old clients name none, and mean the target's name
        if asked.target not in held.targets and asked.target != self._atoms["MULTIPLE"]:
            self._notify(asked, property if self._tell(held, asked.requestor, asked.target, property) else NONE)
        elif len(self._tasks) >= MAX_TRANSFERS:
            self._notify(asked, NONE)
        else:
            task = asyncio.get_running_loop().create_task(self._serve(asked, held, property))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, asked: SelectionRequest, held: Held, property: int) -> None:
        task = asyncio.current_task()

        def vanished(received: Union[Event, XError]) -> None:
            if isinstance(received, (DestroyNotify, XError)) and task is not None:
                task.cancel()

        transfers: List[_Incremental] = []
        running: List[asyncio.Future[None]] = []
        self._connection.watch(asked.requestor, vanished, EventMask.StructureNotify)
        try:
            done = await self._convert(held, asked.requestor, asked.target, property, transfers)
            self._notify(asked, property if done else NONE)
            if transfers:
                running += [asyncio.ensure_future(transfer.run()) for transfer in transfers]
                await asyncio.gather(*running)
        except (ClipboardError, OSError, XError) as error:
            # There is no way to tell it in the middle of a transfer: an end here would look like the data's.
            log.warning("a paste was broken off: %s", error)
        finally:
            for each in running:  # where one of a MULTIPLE has failed, the others go on until they are cancelled
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for transfer in transfers:
                self._incremental.discard(transfer)
                await transfer.close()
            self._connection.unwatch(asked.requestor, vanished)

    def _notify(self, asked: SelectionRequest, property: int) -> None:
        answer = requests.send_selection_notify(asked.time, asked.requestor, asked.selection, asked.target, property)
        self._connection.send(answer)

    # --- one target --------------------------------------------------------------------------------------------

    def _tell(self, held: Held, requestor: int, target: int, property: int) -> bool:
        """Answers to a target of no data. False: it is none."""
        if target == self._atoms["TARGETS"]:
            own = [self._atoms[name] for name in ("TARGETS", "TIMESTAMP", "MULTIPLE")]
            listed = words([*own, *filter(None, [held.marker]), *held.targets])
            _set(self._connection, requestor, property, ATOM, 32, listed)
        elif target == self._atoms["TIMESTAMP"]:
            _set(self._connection, requestor, property, INTEGER, 32, words([held.time]))
        elif target == held.marker:
            # Not only listed: who keeps what others copy, with all its targets, shall pass it on.
            _set(self._connection, requestor, property, target, 8, b"")
        else:
            return False
        return True

    async def _convert(
        self, held: Held, requestor: int, target: int, property: int, transfers: List[_Incremental]
    ) -> bool:
        """Sets the property, and leaves in `transfers` what is to go on after the answer. False: refused."""
        if target in held.targets:
            return await self._convert_data(held, requestor, target, property, transfers)
        if target == self._atoms["MULTIPLE"]:
            return await self._convert_many(held, requestor, property, transfers)
        return self._tell(held, requestor, target, property)

    async def _convert_many(self, held: Held, requestor: int, property: int, transfers: List[_Incremental]) -> bool:
        """MULTIPLE: the property lists targets and where each shall go; those refused are replaced by None."""
        pair, multiple = self._atoms["ATOM_PAIR"], self._atoms["MULTIPLE"]
        asked = requests.get_property(requestor, property, pair, 0, 2 * MAX_PAIRS, delete=False)
        listed = await self._connection.ask(asked, wire.unpack_property)
        if listed.bits != 32 or listed.left or len(listed.data) % 8:
            return False
        numbers = memoryview(listed.data).cast("I")
        answered: List[int] = []
        for target, place in zip(numbers[::2], numbers[1::2]):
            done = place and target != multiple and await self._convert(held, requestor, target, place, transfers)
            answered += [target, place if done else NONE]
        _set(self._connection, requestor, property, pair, 32, words(answered))
        return True

    async def _convert_data(
        self, held: Held, requestor: int, target: int, property: int, transfers: List[_Incremental]
    ) -> bool:
        if len(self._incremental) >= MAX_TRANSFERS:
            return False
        name, mime = held.targets[target]
        kind_name, recoder = writer(name)
        kind = (await self._atoms.intern([kind_name]))[kind_name]
        size = min(CHUNK, self._connection.max_property) & ~3
        chunks = gather(recode(held.provider(mime), recoder), size)
        try:
            first = await chunks.__anext__()
        except StopAsyncIteration:
            _set(self._connection, requestor, property, kind, 8, b"")
            return True
        except (ClipboardError, OSError) as error:
            log.warning("a program cannot paste %s: %s", mime, error)
            return False
        if len(first) < size:
            _set(self._connection, requestor, property, kind, 8, first)
            return True
        transfer = _Incremental(self._connection, requestor, property, kind, first, chunks)
        transfers.append(transfer)
        self._incremental.add(transfer)
        lower_bound = words([len(first)])
        _set(self._connection, requestor, property, self._atoms["INCR"], 32, lower_bound)
        return True


class _Incremental:
    """A transfer in parts: each is set when the requestor has deleted the one before; an empty one ends it."""

    def __init__(
        self, connection: Connection, window: int, property: int, kind: int, first: bytes, rest: AsyncIterator[bytes]
    ) -> None:
        self._connection = connection
        self._window, self._property, self._kind = window, property, kind
        self._first, self._rest = first, rest
        self._deleted = False
        self._bell = Bell()
        connection.watch(window, self._receive, EventMask.PropertyChange)

    async def run(self) -> None:
        await self._put(self._first)
        self._first = b""
        async for chunk in self._rest:
            await self._put(chunk)
        await self._put(b"")

    async def close(self) -> None:
        self._connection.unwatch(self._window, self._receive)
        async with closing(self._rest):
            pass

    async def _put(self, chunk: bytes) -> None:
        if not await self._bell.until(lambda: self._deleted, PATIENCE):
            raise ClipboardError("the program that pastes has stopped")
        self._deleted = False
        _set(self._connection, self._window, self._property, self._kind, 8, chunk)

    def _receive(self, received: Union[Event, XError]) -> None:
        if (
            isinstance(received, PropertyNotify)
            and received.atom == self._property
            and received.state == PropertyState.Deleted
        ):
            self._deleted = True
            self._bell.ring()


def _set(connection: Connection, window: int, property: int, kind: int, bits: int, data: bytes) -> None:
    connection.send(requests.change_property(window, property, kind, bits, len(data)), data)


def _before(time: int, other: int) -> bool:
    """Whether a time of the server, which wraps at 32 bits, is earlier than another."""
    return (time - other) & 0xFFFFFFFF >= 1 << 31
