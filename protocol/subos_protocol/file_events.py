"""What a share's worker on the host and the agent in the guest say to each other about the host's changes.

The worker announces **replays**: operations that the agent is to perform on the mounted share, so that the guest's
kernel tells its watchers of what the host has done. The agent performs the replay `number` with the file system group
id `token(number)`, by which the worker knows its requests among others, and answers them without touching a file:

    → {"replays": [[5, "create", "src", "new.c", 33188, 1042, 0, "", ""], …]}    fields of `Replay`
    ← {"done": [[5, 0], …]}                                                          number, errno

A worker begins with {"started": true}. The one who connects the two answers {"attached": true} if there is an agent,
else false, and says so again whenever that changes.
A message is one packet of ASCII JSON; names that are not UTF-8 travel as Python's lone surrogates.
"""

from __future__ import annotations

import json
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from .errors import Malformed

MAX_PACKET = 1 << 15  # bytes: what the agent channel sends in one piece
MAX_PATH = 2048  # bytes of a path that a replay names, so that two fit a packet however they are written
MAX_NAME = 255
MAX_RESULTS = 1024  # of one packet
LAST_ERRNO = 4095  # include/linux/err.h, MAX_ERRNO

FIRST_TOKEN = 0xE000_0000
END_OF_TOKENS = 0xF000_0000
NUMBERS = (END_OF_TOKENS - FIRST_TOKEN) // 2
"""Replays are numbered modulo this."""

CREATE = "create"  # `name` has appeared; the type in `mode` says as what
DELETE = "delete"  # it has gone; so has a directory where `mode` says so
RENAME = "rename"  # it is `to_name` in `to_directory` now
MODIFY = "modify"  # its content has changed, and who writes it has it open still
WRITTEN = "written"  # its content has changed, and it was closed
ATTRIB = "attrib"  # its attributes have changed
SYNC = "sync"  # nobody is to be told; the guest's caches are to learn what is there
KINDS = (CREATE, DELETE, RENAME, MODIFY, WRITTEN, ATTRIB, SYNC)
_ENVELOPE = 16  # bytes around the replays of a packet


class Replay(NamedTuple):
    """`directory` and `to_directory` are paths from the share's root, empty for the root. `parent` and `inode` are the
    inode numbers of the directory and of what is in it, by which watches are found; 0 where it is not known."""

    number: int
    kind: str
    directory: bytes
    name: bytes
    mode: int = 0
    parent: int = 0
    inode: int = 0
    to_directory: bytes = b""
    to_name: bytes = b""


def token(number: int) -> int:
    """The group id by which replay `number` is performed."""
    return FIRST_TOKEN + 2 * number


def looking(number: int) -> int:
    """The group id by which the agent has the guest's kernel look at the names of replay `number` again: what is
    asked by it is answered truthfully, and nothing can be made by it."""
    return token(number) + 1


def pack_replays(replays: Iterable[Replay]) -> List[bytes]:
    """The packets that say them all."""
    packets: List[bytes] = []
    items: List[bytes] = []
    size = 0
    for replay in replays:
        item = json.dumps([_text(field) if isinstance(field, bytes) else field for field in replay]).encode()
        if items and size + len(item) + _ENVELOPE > MAX_PACKET:
            packets.append(_packet(items))
            items, size = [], 0
        items.append(item)
        size += len(item) + 2
    if items:
        packets.append(_packet(items))
    return packets


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _packet(items: List[bytes]) -> bytes:
    return b'{"replays": [%s]}' % b", ".join(items)


def unpack_replays(packet: bytes) -> List[Replay]:
    """Raises Malformed."""
    said = _object(packet).get("replays")
    if not isinstance(said, list):
        raise Malformed("there are no replays")
    return [_replay(item) for item in said]


def _replay(item: Any) -> Replay:
    if not isinstance(item, list) or len(item) != len(Replay._fields):
        raise Malformed("a replay has other fields")
    number, kind, directory, name, mode, parent, inode, to_directory, to_name = item
    numbers = (number, mode, parent, inode)
    if not all(type(each) is int and 0 <= each < 1 << 64 for each in numbers) or number >= NUMBERS or mode > 0xFFFF:
        raise Malformed("a replay's number is none")
    if kind not in KINDS:
        raise Malformed("a replay is of no kind")
    names = [_component(name), b"" if to_name == "" else _component(to_name)]
    paths = [_path(directory), _path(to_directory)]
    return Replay(number, kind, paths[0], names[0], mode, parent, inode, paths[1], names[1])


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise Malformed("a name is no text")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise Malformed("a name is no text") from error


def _component(text: Any) -> bytes:
    name = _bytes(text)
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name or len(name) > MAX_NAME:
        raise Malformed("a name is none")
    return name


def _path(text: Any) -> bytes:
    path = _bytes(text)
    if len(path) > MAX_PATH:
        raise Malformed("a path is too long")
    for part in path.split(b"/") if path else ():
        if part in (b"", b".", b"..") or b"\0" in part or len(part) > MAX_NAME:
            raise Malformed("a path is none")
    return path


def pack_results(results: Iterable[Tuple[int, int]]) -> List[bytes]:
    """The packets that tell how replays ended: (number, errno)."""
    said = [list(result) for result in results]
    return [
        json.dumps({"done": said[first : first + MAX_RESULTS]}).encode() for first in range(0, len(said), MAX_RESULTS)
    ]


class Heard(NamedTuple):
    """A packet to the worker: what it says of the agent, if it does, and how replays ended."""

    attached: Optional[bool]
    results: List[Tuple[int, int]]


def pack_attached(attached: bool) -> bytes:
    return json.dumps({"attached": attached}).encode()


STARTED = b'{"started": true}'


def unpack_heard(packet: bytes) -> Heard:
    """Raises Malformed. The packet comes from a guest."""
    said = _object(packet)
    attached, results = said.get("attached"), said.get("done", [])
    if not isinstance(attached, (bool, type(None))) or not isinstance(results, list) or len(results) > MAX_RESULTS:
        raise Malformed("a packet of other fields")
    found = []
    for result in results:
        if not isinstance(result, list) or len(result) != 2 or not all(type(each) is int for each in result):
            raise Malformed("a result is none")
        number, errno = result
        if not 0 <= number < NUMBERS or not 0 <= errno <= LAST_ERRNO:
            raise Malformed("a result is none")
        found.append((number, errno))
    return Heard(attached, found)


def _object(packet: bytes) -> Dict[str, Any]:
    if len(packet) > MAX_PACKET:
        raise Malformed("a packet is too long")
    try:
        said = json.loads(packet)
    except (ValueError, RecursionError) as error:
        raise Malformed("a packet is no JSON") from error
    if not isinstance(said, dict):
        raise Malformed("a packet is no object")
    return said
