"""Wayland's wire format, without I/O (Wayland protocol, chapter 4, "Wire Format").

A message is a header of two 32-bit words in the host's byte order (the object; size << 16 | opcode) and its
arguments, each padded to 32 bits. Descriptors travel beside the bytes, in the order of the messages that have some.
"""

from __future__ import annotations

import struct
from typing import Deque, Iterator, List, NamedTuple, Sequence, Tuple, Union

HEADER = struct.Struct("=II")
WORD = struct.Struct("=I")
SIGNED = struct.Struct("=i")
MAX_MESSAGE = 0xFFFF  # bytes; the size has 16 bits
MAX_STRING = MAX_MESSAGE - HEADER.size - WORD.size

Argument = Union[int, str, bytes, None]


class WireError(ValueError):
    """Bytes that are no Wayland messages, or not of the layout that their interface says."""


class Message(NamedTuple):
    object: int
    opcode: int
    payload: bytes


class Decoder:
    """From a stream of bytes to messages. Keeps less than one message."""

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are complete now. Raises WireError, after which there is no way on."""
        data = self._kept + data
        start = 0
        while len(data) - start >= HEADER.size:
            target, word = HEADER.unpack_from(data, start)
            size, opcode = word >> 16, word & 0xFFFF
            if size < HEADER.size or size % WORD.size:
                raise WireError(f"a message of {size} bytes")
            if len(data) - start < size:
                break
            yield Message(target, opcode, data[start + HEADER.size : start + size])
            start += size
        self._kept = data[start:]


def unpack(signature: str, payload: bytes, fds: Deque[int]) -> Tuple[Argument, ...]:
    """The arguments of a message; descriptors are taken off `fds`, and are the caller's then.

    The signature has a letter an argument, as libwayland's: i int, u uint, f fixed (kept as 1/256), s string, o object,
    n new id, a array, h descriptor; "?" before s or o: may be none.
    """
    arguments: List[Argument] = []
    offset = 0
    for optional, kind in _letters(signature):
        if kind == "h":
            if not fds:
                raise WireError("a descriptor is missing")
            arguments.append(fds.popleft())
            continue
        if len(payload) - offset < WORD.size:
            raise WireError("a message is too short for its arguments")
        word: int = (SIGNED if kind in "if" else WORD).unpack_from(payload, offset)[0]
        offset += WORD.size
        if kind in "sa":
            value, offset = _unpack_bytes(kind, word, payload, offset)
            if value is None and not optional:
                raise WireError("a string is missing")
            arguments.append(value)
        elif kind in "on" and word == 0:
            if not optional:
                raise WireError("an object is missing")
            arguments.append(None)
        else:
            arguments.append(word)
    if offset != len(payload):
        raise WireError("a message is too long for its arguments")
    return tuple(arguments)


def _unpack_bytes(kind: str, length: int, payload: bytes, offset: int) -> Tuple[Union[str, bytes, None], int]:
    end = offset + _padded(length)
    if end > len(payload):
        raise WireError("a string goes beyond its message")
    raw = payload[offset : offset + length]
    if kind == "a":
        return raw, end
    if length == 0:
        return None, end
    if raw[-1] != 0:
        raise WireError("a string without its end")
    return raw[:-1].decode("utf-8", "replace"), end


def pack(target: int, opcode: int, signature: str, arguments: Sequence[Argument]) -> Tuple[bytes, List[int]]:
    """A message and the descriptors that go with it; the counterpart of `unpack`. Raises WireError if too long."""
    parts: List[bytes] = []
    fds: List[int] = []
    for (_, kind), value in zip(_letters(signature), arguments):
        if isinstance(value, (str, bytes)):
            raw = value.encode() + b"\0" if isinstance(value, str) else value
            parts.append(WORD.pack(len(raw)) + raw.ljust(_padded(len(raw)), b"\0"))
        elif kind == "h" and value is not None:
            fds.append(value)
        else:
            parts.append((SIGNED if kind in "if" else WORD).pack(value or 0))
    payload = b"".join(parts)
    size = HEADER.size + len(payload)
    if size > MAX_MESSAGE:
        raise WireError(f"a message of {size} bytes")
    return HEADER.pack(target, size << 16 | opcode) + payload, fds


def _letters(signature: str) -> Iterator[Tuple[bool, str]]:
    optional = False
    for letter in signature:
        if letter == "?":
            optional = True
        else:
            yield optional, letter
            optional = False


def _padded(length: int) -> int:
    return (length + 3) & ~3
