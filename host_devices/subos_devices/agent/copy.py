"""The host's end of `cp`: trees between this machine and guests (subos_agent/copy.py), or between two guests.

What comes from a guest is unpacked by names of one component each, in folders that are open: nothing lands outside of
the target (subos_desktop.trees).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from subos_desktop.trees import Piece, TreeError, Unpacker, pack
from subos_protocol.agent.pieces import in_thread, receive_pieces, send_pieces
from subos_protocol.agent.stream import Stream

from ..errors import SubosError, UserError
from ..streams import unblocked
from ..text import printable
from .caller import connected, told
from .progress import Progress
from .standard import StandardInput, StandardOutput
from .tars import TarWriter, read_tar

STANDARD = "-"
SHOWN = 20
"""Of what was left out."""


class CopyFailed(SubosError):
    """Something could not be copied."""


@dataclass(frozen=True)
class Place:
    """Where something is or goes: `vm` None is this machine, and then `path` "-" is a tar archive on a stream."""

    vm: str | None
    path: str

    @classmethod
    def parse(cls, text: str) -> Place:
        """VM:/path, a path of this machine (./a:b if it has a colon), or "-". Raises UserError."""
        before, colon, after = text.partition(":")
        if not colon or "/" in before or not before:
            return cls(None, text)
        if not after.startswith("/"):
            raise UserError(
                f"{text}: a path in a guest begins with /", f"write {before}:/… or, for a file here, ./{text}"
            )
        return cls(before, after)

    @property
    def name(self) -> str:
        """What a copy of it is called in a folder; empty where its contents are meant (…/., /)."""
        last = self.path.rstrip("/").rpartition("/")[2]
        if last in ("", "."):
            return ""
        return os.path.basename(os.path.realpath(self.path)) if last == ".." and self.vm is None else last

    def __str__(self) -> str:
        return printable(self.path if self.vm is None else f"{self.vm}:{self.path}")


async def copy(sources: list[Place], target: Place, progress: Progress) -> None:
    """Copies each of the sources to `target`. Raises UserError, CopyFailed, AgentError."""
    for source in sources:
        with _told(target, progress):
            if source.vm is not None and target.vm is not None:
                await _between(source, target, progress)
            elif source.vm is not None:
                await _pull(source, target, progress)
            elif target.vm is not None:
                await _push(source, target, progress)
            else:
                raise UserError("neither place is in a guest", "write a guest's as VM:/path; here, cp itself does it")


@contextlib.contextmanager
def _told(target: Place, progress: Progress) -> Iterator[None]:
    """What failed, in one line; where it was interrupted, what is left."""
    try:
        with told():
            yield
    except TreeError as error:
        raise CopyFailed(printable(str(error))) from error
    except asyncio.CancelledError:
        progress.stop()
        if target.path != STANDARD:
            left = f"what had been copied stays at {target}; no file is half there"
            print(f"subos-devices: interrupted after {progress.files} files: {left}", file=sys.stderr)
        raise


@contextlib.asynccontextmanager
async def _asked(place: Place, operation: str, **words: object) -> AsyncIterator[Stream]:
    assert place.vm is not None
    head = {"op": operation, "path": place.path, **words}
    async with connected(place.vm) as peer, peer.call(head) as stream:
        yield stream


async def _pull(source: Place, target: Place, progress: Progress) -> None:
    async with _asked(source, "get") as stream:
        if target.path == STANDARD:
            with unblocked(1) as output:
                archive = StandardOutput(output)
                writer = TarWriter(archive, source.name)
                await receive_pieces(stream, _watched(writer.take, progress), archive.give_up)
                await in_thread(writer.finish, give_up=archive.give_up)
            _warn(writer.skipped, writer.skipped_count)
            return
        with Unpacker(target.path, source.name) as unpacker:
            await receive_pieces(stream, _watched(unpacker.take, progress))
            await in_thread(unpacker.finish)
        _warn(unpacker.skipped, unpacker.skipped_count)


def _watched(take: Callable[[Piece], None], progress: Progress) -> Callable[[Piece], None]:
    def take_and_tell(piece: Piece) -> None:
        take(piece)
        progress.saw(piece)

    return take_and_tell


async def _push(source: Place, target: Place, progress: Progress) -> None:
    left_out = _LeftOut()
    archive = StandardInput()
    pieces = read_tar(archive) if source.path == STANDARD else pack(source.path)
    name = "" if source.path == STANDARD else source.name
    async with _asked(target, "put", name=name) as stream:
        await send_pieces(stream, pieces, _watched(left_out.take, progress), archive.give_up)
        stream.end()
        await stream.result()
    _warn(left_out.skipped, left_out.count)


async def _between(source: Place, target: Place, progress: Progress) -> None:
    """A guest that means ill makes no set-user-ID programs in another one: `trusted` is of what this machine sends."""
    left_out = _LeftOut()
    put = _asked(target, "put", name=source.name, trusted=False)
    async with _asked(source, "get") as coming, put as going:
        while (message := await coming.receive()) is not None:
            if isinstance(message.content, bytes):
                await going.send(message.content)
            else:
                await going.event(message.content)
            left_out.take(message.content)
            progress.saw(message.content)
        going.end()
        await going.result()
    _warn(left_out.skipped, left_out.count)


class _LeftOut:
    """What the sender could not read, of the pieces that pass by; the first few by name."""

    def __init__(self) -> None:
        self.skipped: list[str] = []
        self.count = 0

    def take(self, piece: Piece) -> None:
        if isinstance(piece, dict) and "skipped" in piece:
            self.count += 1
            if self.count <= SHOWN:
                self.skipped.append(f"{piece['skipped']}: {piece.get('why')}"[:600])


def _warn(skipped: list[str], count: int) -> None:
    """Raises CopyFailed where something was left out; all else was copied."""
    for line in skipped[:SHOWN]:
        print(f"subos-devices: left out: {printable(line)}", file=sys.stderr)
    if count:
        raise CopyFailed(
            f"{count} could not be copied; all else was", "the guest's root, or who runs this, may not read it"
        )
