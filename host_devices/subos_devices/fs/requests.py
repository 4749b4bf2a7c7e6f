"""From descriptor chains to FUSE operations, and back.

Linux sends nearly every request in one of a few shapes (fs/fuse/virtio_fs.c): the header in a buffer of its own, then
the arguments, then a buffer for the reply's header and one for the rest. Those are read where they are, by offsets
into the primary span of guest memory. Any other framing is as valid (VIRTIO 1.3 §2.7.4 leaves it to the driver): such
requests are gathered into a scratch buffer, answered there, and scattered back, except for the data of READ and WRITE.

Nothing a guest sends raises out of a handler but BadChain: a bad request gets its errno, and one that leaves no room
for an answer gets none.
"""

from __future__ import annotations

import errno
import mmap
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from operator import add
from time import monotonic_ns

from subos_protocol.fuse import FUSE_IN_HEADER, FUSE_OUT_HEADER, FUSE_WRITE_IN
from subos_protocol.fuse_opcodes import FuseOpcode
from subos_protocol.virtio import DescFlag

from ..vhost_user.virtqueue import LATER, LENGTH, Virtqueue, Words
from .journal import BEGUN, STAGE, UNIQUE, Slot
from .nodes import PRIVATE
from .server import FuseServer
from .share import NO_REPLY, REFUSED, Data
from .statistics import ERRORS, SAMPLED

IN_SIZE, OUT_SIZE = FUSE_IN_HEADER.size, FUSE_OUT_HEADER.size
MAX_ARGUMENTS = 128 << 10  # bytes gathered: two paths or an attribute of 64 KiB, and what goes with them
MAX_REPLY = 1 << 20  # bytes scattered: a READDIR of 256 pages

_R, _W = int(DescFlag.NEXT), int(DescFlag.NEXT | DescFlag.WRITE)
_HEADER = IN_SIZE | _R << 32 | 1 << 48  # the words of a linear chain: the request's header first,
_ARGUMENTS = _R | 2 << 16  # upper half: its arguments second
_WRITE_DATA = _R | 3 << 16  # upper half: a WRITE's data third
_REPLY_SECOND, _REPLY_THIRD, _REPLY_FOURTH = (OUT_SIZE | _W << 32 | at << 48 for at in (2, 3, 4))
_REPLY_LAST = OUT_SIZE | int(DescFlag.WRITE) << 32  # without `next`, which then may be anything
_FLAGS, _LAST = 0xFFFF, int(DescFlag.WRITE)
_NOT_NEXT = 0xFFFF_FFFF_FFFF

_READ, _WRITE = int(FuseOpcode.FUSE_READ), int(FuseOpcode.FUSE_WRITE)
_UNANSWERED = (FuseOpcode.FUSE_FORGET, FuseOpcode.FUSE_BATCH_FORGET, FuseOpcode.FUSE_INTERRUPT)
REFUSALS = (OSError, ValueError, OverflowError, struct.error, IndexError, KeyError, MemoryError)

_unpack_header = FUSE_IN_HEADER.unpack_from
_pack_reply = FUSE_OUT_HEADER.pack_into


def request_handler(server: FuseServer, queue: Virtqueue, slot: Slot) -> Callable[[Words], int]:
    """What `queue.drain` calls: serves one chain and returns the bytes written into it. `slot` is the queue's."""
    operations, count = server.operations, len(server.operations)
    first_token, token_operations = server.first_token, server.token_operations
    mem, base, size = queue.memory.primary, queue.memory.base, queue.memory.size
    last_header, last_reply = size - IN_SIZE, size - OUT_SIZE
    statistics = server.share.statistics
    counted = statistics.words
    scratch = mmap.mmap(-1, MAX_ARGUMENTS + OUT_SIZE + MAX_REPLY, flags=PRIVATE)  # costs no memory before it is used
    journal, share, noted = server.share.journal, server.share, slot.words
    anywhere = partial(_serve_split, server, queue, slot, memoryview(scratch))

    def handle(words: Words) -> int:
        data: Data = None
        length = len(words)
        if length == 8:  # header, arguments | reply header, reply
            a0, w0, a1, w1, a2, w2, a3, w3 = words
            if w0 != _HEADER or w1 >> 32 != _ARGUMENTS or w2 != _REPLY_THIRD or w3 >> 32 & _FLAGS != _LAST:
                return anywhere(words)
            n, room = w1 & LENGTH, w3 & LENGTH
            reply, o = a2 - base, a3 - base
        elif length == 6:  # header, arguments | reply header
            a0, w0, a1, w1, a2, w2 = words
            if w0 != _HEADER or w1 >> 32 != _ARGUMENTS or w2 & _NOT_NEXT != _REPLY_LAST:
                return anywhere(words)
            n, room = w1 & LENGTH, 0
            reply = o = a2 - base
        elif length == 10:  # header, arguments, data | reply header, reply
            a0, w0, a1, w1, a2, w2, a3, w3, a4, w4 = words
            if w0 != _HEADER or w1 >> 32 != _ARGUMENTS or w2 >> 32 != _WRITE_DATA or w3 != _REPLY_FOURTH:
                return anywhere(words)
            n, room = w1 & LENGTH, w4 & LENGTH
            reply, o, at, span = a3 - base, a4 - base, a2 - base, w2 & LENGTH
            if w4 >> 32 & _FLAGS != _LAST or n != FUSE_WRITE_IN.size or not 0 <= at <= size - span:
                return anywhere(words)
            data, carrier = (mem[at : at + span],), _WRITE
        else:
            a0, a1 = words[0], words[2] if length > 2 else 0
            pages = _paged(words, mem, base, size)
            if pages is None:
                return anywhere(words)
            carrier, n, reply, o, room, data = pages
        head, a = a0 - base, a1 - base
        if not (0 <= head <= last_header and 0 <= a <= size - n and 0 <= reply <= last_reply and 0 <= o <= size - room):
            return anywhere(words)
        header = _unpack_header(mem, head)
        opcode = header[1]
        if data is not None and opcode != carrier:
            return anywhere(words)
        journal.current = slot
        if slot.due:
            share.begin(slot, header)
        else:
            noted[STAGE] = BEGUN
            noted[UNIQUE] = header[2]
        try:
            if opcode >= count:
                raise OSError(errno.ENOSYS, "")
            operation, least, needed = (operations if header[5] < first_token else token_operations)[opcode]
            served = counted[opcode] + 1
            counted[opcode] = served
            if n < least or room < needed:
                raise OSError(errno.EINVAL, "")
            if served % SAMPLED:
                written: int = operation(header, mem, a, n, o, room, data)
            else:
                begun = monotonic_ns()
                written = operation(header, mem, a, n, o, room, data)
                statistics.took(opcode, monotonic_ns() - begun)
        except REFUSALS as error:
            if opcode < count:
                counted[ERRORS + opcode] += 1
            _pack_reply(mem, reply, OUT_SIZE, -errno_of(error), header[2])
            return OUT_SIZE
        if written < 0:
            if written == LATER and queue.deferral_room > 0:
                return LATER
            if written == NO_REPLY:
                return 0
            counted[ERRORS + opcode] += 1
            refusal = -errno.ENOLCK if written == LATER else written - REFUSED
            _pack_reply(mem, reply, OUT_SIZE, refusal, header[2])
            return OUT_SIZE
        written += OUT_SIZE
        _pack_reply(mem, reply, written, 0, header[2])
        return written

    return handle


def _paged(
    words: Words, mem: memoryview, base: int, size: int
) -> tuple[int, int, int, int, int, list[memoryview]] | None:
    """A READ or a WRITE of many pages, each in a buffer of its own, as Linux sends them.

    Returns which of the two it can only be, the arguments' length, the offsets of reply header and reply, the
    reply's room, and the pages; None for any other framing.
    """
    count = len(words) // 2
    uppers = [word >> 32 for word in words[1::2]]
    uppers[-1] &= _FLAGS
    if words[1] & LENGTH != IN_SIZE or count < 5:
        return None
    if uppers == _linear(count, 2) and words[5] & LENGTH == OUT_SIZE:
        opcode, first, end = _READ, 3, count
        reply, o, room = words[4] - base, 0, 0
    elif uppers == _linear(count, count - 2) and words[-3] & LENGTH == OUT_SIZE:
        opcode, first, end = _WRITE, 2, count - 2
        reply, o, room = words[-4] - base, words[-2] - base, words[-1] & LENGTH
    else:
        return None
    addresses = words[2 * first : 2 * end : 2]
    lengths = [word & LENGTH for word in words[2 * first + 1 : 2 * end : 2]]
    if min(addresses) < base or max(map(add, addresses, lengths)) > base + size:
        return None
    data = [mem[address - base : address - base + length] for address, length in zip(addresses, lengths, strict=True)]
    return opcode, words[3] & LENGTH, reply, o, sum(lengths) if opcode == _READ else room, data


@lru_cache(maxsize=1024)
def _linear(count: int, readable: int) -> list[int]:
    """Upper halves of the words of a chain in order: `count` buffers, the first `readable` of them readable."""
    flags = [_R if index < readable else _W for index in range(count - 1)]
    return [flag | index + 1 << 16 for index, flag in enumerate(flags)] + [_LAST]


def errno_of(error: BaseException) -> int:
    """The errno that answers what an operation raised: Python's own refusals of sizes and ids have theirs."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    if isinstance(error, LookupError):  # a node or a handle beyond its table
        return errno.EBADF
    return errno.ENOMEM if isinstance(error, MemoryError) else errno.EINVAL


def _serve_split(server: FuseServer, queue: Virtqueue, slot: Slot, scratch: memoryview, words: Words) -> int:
    """Serves a chain of any framing, in any span. `scratch` is arguments, reply header, reply."""
    readable, writable = queue.split(words)
    head = b"".join(_between(readable, 0, IN_SIZE))
    if len(head) < IN_SIZE:
        return 0
    header, counted = _unpack_header(head), server.share.statistics.words
    length, opcode = header[0], header[1]
    room = sum(map(len, writable)) - OUT_SIZE
    if room < 0 and opcode not in _UNANSWERED:
        return 0
    server.share.journal.current = slot
    server.share.begin(slot, header)
    data: Data = None
    try:
        if not IN_SIZE <= length <= sum(map(len, readable)):
            raise OSError(errno.EINVAL, "")
        end = length
        if opcode == _WRITE:
            end = min(length, IN_SIZE + FUSE_WRITE_IN.size)
            data = _between(readable, end, length)
        elif opcode == _READ:
            data = _between(writable, OUT_SIZE, OUT_SIZE + room)
        if end - IN_SIZE > MAX_ARGUMENTS:
            raise OSError(errno.E2BIG, "")
        n = end - IN_SIZE
        scratch[:n] = b"".join(_between(readable, IN_SIZE, end))
        if opcode >= len(server.operations):
            raise OSError(errno.ENOSYS, "")
        rows = server.operations if header[5] < server.first_token else server.token_operations
        operation, least, needed = rows[opcode]
        counted[opcode] += 1
        if n < least or 0 <= room < needed:
            raise OSError(errno.EINVAL, "")
        if opcode != _READ:
            room = min(room, MAX_REPLY)
        written: int = operation(header, scratch, 0, n, MAX_ARGUMENTS + OUT_SIZE, room, data)
    except REFUSALS as error:
        status, written = -errno_of(error), 0
        if opcode < len(server.operations):
            counted[ERRORS + opcode] += 1
    else:
        status = 0
    if room < 0:
        return 0
    if written == LATER and queue.deferral_room > 0:
        return LATER
    if written < NO_REPLY:
        status, written = -errno.ENOLCK if written == LATER else written - REFUSED, 0
        counted[ERRORS + opcode] += 1
    elif written < 0:
        return 0
    written += OUT_SIZE
    _pack_reply(scratch, MAX_ARGUMENTS, written, status, header[2])
    at, left = MAX_ARGUMENTS, OUT_SIZE if opcode == _READ else written
    for part in _between(writable, 0, left):
        part[:] = scratch[at : at + len(part)]
        at += len(part)
    return written


def _between(buffers: Sequence[memoryview], start: int, end: int) -> list[memoryview]:
    """The bytes from `start` to `end` of `buffers` laid end to end, or as many as there are, uncopied."""
    found = []
    for buffer in buffers:
        if end <= 0:
            break
        if start < len(buffer):
            part = buffer[max(start, 0) : end]
            if len(part):
                found.append(part)
        start -= len(buffer)
        end -= len(buffer)
    return found
