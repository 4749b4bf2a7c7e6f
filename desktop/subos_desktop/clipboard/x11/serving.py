"""Giving data to programs that paste (ICCCM 2.2 and 2.7.2)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, AsyncIterator, Dict, List, Sequence, Set, Tuple

from Xlib import X, Xatom
from Xlib.error import XError
from Xlib.protocol import event, request

from ..bell import Bell
from ..formats import writer
from ..interface import CHUNK, ClipboardError, Provider
from ..streams import closing, gather, recode
from .atoms import Atoms
from .connection import Connection

MAX_TRANSFERS = 64  # at once; more are refused
MAX_PAIRS = 64  # targets of one MULTIPLE
# A program may take its time (`xclip -o | less`), and a transfer that waits costs one chunk. But not for ever.
PATIENCE = 300.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Held:
    """A selection that is ours, since `time` (the server's, ms)."""

    time: int
    targets: Dict[int, Tuple[str, str]]  # what we answer to: (its name, the format that the provider is asked for)
    marker: int  # a target of no data, by which our own offers are known; 0 for none
    provider: Provider


class Owner:
    """Answers for the selections that are ours."""

    def __init__(self, connection: Connection, atoms: Atoms) -> None:
        self.held: Dict[int, Held] = {}
        self._connection = connection
        self._atoms = atoms
        self._tasks: Set[asyncio.Task[None]] = set()

    def close(self) -> None:
        self.held.clear()
        for task in self._tasks:
            task.cancel()

    def answer(self, asked: Any) -> None:
        """Takes a SelectionRequest."""
        held = self.held.get(asked.selection)
        too_early = held is not None and asked.time != X.CurrentTime and _before(asked.time, held.time)
        if held is None or too_early or len(self._tasks) >= MAX_TRANSFERS:
            self._notify(asked, X.NONE)
            return
        task = asyncio.get_running_loop().create_task(self._serve(asked, held))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, asked: Any, held: Held) -> None:
        task = asyncio.current_task()

        def vanished(received: Any) -> None:
            if isinstance(received, (event.DestroyNotify, XError)) and task is not None:
                task.cancel()

        transfers: List[_Incremental] = []
        running: List[asyncio.Future[None]] = []
        self._connection.watch(asked.requestor, vanished)
        try:
            # Old clients name no property, and mean the target's name.
            property = asked.property or asked.target
            done = await self._convert(held, asked.requestor, asked.target, property, transfers)
            self._notify(asked, property if done else X.NONE)
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
                await transfer.close()
            self._connection.unwatch(asked.requestor, vanished)

    def _notify(self, asked: Any, property: int) -> None:
        self._connection.send(
            request.SendEvent,
            propagate=0,
            destination=asked.requestor,
            event_mask=0,
            event=event.SelectionNotify(
                time=asked.time,
                requestor=asked.requestor,
                selection=asked.selection,
                target=asked.target,
                property=property,
            ),
        )

    # --- one target --------------------------------------------------------------------------------------------

    async def _convert(
        self, held: Held, requestor: int, target: int, property: int, transfers: List[_Incremental]
    ) -> bool:
        """Sets the property, and leaves in `transfers` what is to go on after the answer. False: refused."""
        known = await self._atoms.intern(["TARGETS", "TIMESTAMP", "MULTIPLE", "ATOM_PAIR"])
        if target == known["TARGETS"]:
            own = [known["TARGETS"], known["TIMESTAMP"], known["MULTIPLE"]]
            self._set(requestor, property, Xatom.ATOM, 32, [*own, *filter(None, [held.marker]), *held.targets])
            return True
        if target == known["TIMESTAMP"]:
            self._set(requestor, property, Xatom.INTEGER, 32, [held.time])
            return True
        if target == known["MULTIPLE"]:
            return await self._convert_many(held, requestor, property, known["ATOM_PAIR"], transfers)
        if target == held.marker:
            # Not only listed: who keeps what others copy, with all its targets, shall pass it on.
            self._set(requestor, property, target, 8, b"")
            return True
        if target not in held.targets:
            return False
        return await self._convert_data(held, requestor, target, property, transfers)

    async def _convert_many(
        self, held: Held, requestor: int, property: int, pair: int, transfers: List[_Incremental]
    ) -> bool:
        """MULTIPLE: the property lists targets and where each shall go; those refused are replaced by None."""
        reply = await self._connection.ask(
            request.GetProperty,
            delete=0,
            window=requestor,
            property=property,
            type=pair,
            long_offset=0,
            long_length=2 * MAX_PAIRS,
        )
        bits, numbers = reply.value or (0, ())
        if bits != 32 or reply.bytes_after or len(numbers) % 2:
            return False
        answered: List[int] = []
        multiple = (await self._atoms.intern(["MULTIPLE"]))["MULTIPLE"]
        for target, place in zip(numbers[::2], numbers[1::2]):
            done = place and target != multiple and await self._convert(held, requestor, target, place, transfers)
            answered += [target, place if done else X.NONE]
        self._set(requestor, property, pair, 32, answered)
        return True

    async def _convert_data(
        self, held: Held, requestor: int, target: int, property: int, transfers: List[_Incremental]
    ) -> bool:
        name, mime = held.targets[target]
        kind_name, recoder = writer(name)
        kind = (await self._atoms.intern([kind_name]))[kind_name]
        size = min(CHUNK, self._connection.max_property) & ~3
        chunks = gather(recode(held.provider(mime), recoder), size)
        try:
            first = await chunks.__anext__()
        except StopAsyncIteration:
            self._set(requestor, property, kind, 8, b"")
            return True
        except (ClipboardError, OSError) as error:
            log.warning("a program cannot paste %s: %s", mime, error)
            return False
        if len(first) < size:
            self._set(requestor, property, kind, 8, first)
            return True
        transfer = _Incremental(self._connection, requestor, property, kind, first, chunks)
        transfers.append(transfer)
        incr = (await self._atoms.intern(["INCR"]))["INCR"]
        self._set(requestor, property, incr, 32, [len(first)])  # a lower bound of the size
        return True

    def _set(self, window: int, property: int, kind: int, bits: int, data: Sequence[int]) -> None:
        _set(self._connection, window, property, kind, bits, data)


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
        connection.watch(window, self._receive)

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

    def _receive(self, received: Any) -> None:
        if (
            isinstance(received, event.PropertyNotify)
            and received.atom == self._property
            and received.state == X.PropertyDelete
        ):
            self._deleted = True
            self._bell.ring()


def _set(connection: Connection, window: int, property: int, kind: int, bits: int, data: Sequence[int]) -> None:
    connection.send(
        request.ChangeProperty,
        mode=X.PropModeReplace,
        window=window,
        property=property,
        type=kind,
        data=(bits, data),
    )


def _before(time: int, other: int) -> bool:
    """Whether a time of the server, which wraps at 32 bits, is earlier than another."""
    return (time - other) & 0xFFFFFFFF >= 1 << 31
