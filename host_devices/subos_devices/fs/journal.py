"""The request over which a worker died, so that the next worker completes it once.

Requests are served one at a time, and each is given back before the next one is looked at. So at a worker's death at
most one request of a queue is in limbo: the first chain that the next worker takes from that queue. A queue has one
slot, in memory that outlives the worker: the request's `unique`; its stage; facts, noted before the host is asked to
change something; and the reply of what cannot be told from the host. Where the first chain has the slot's `unique` and
opcode, it is a *replay*: served once more, by the plain handler, and the operation asks the slot how far it had come.

    stage      the words that go with it
    BEGUN      `unique`: nothing is noted, nothing that counts was done
    NOTED      facts, by opcode; what the request has had counted and opened so far
    DONE       the reply, or its errno

Each stage is stored after its words, and BEGUN before `unique`, so a death between any two stores leaves what was
before or what is after. Chains that were answered LATER are no replays: nothing but SETLKW is, which may be set twice.

What is noted, and what a replay does with it:

- MKNOD, MKDIR, SYMLINK, LINK, CREATE: whether the name was there. It was not, and what is there now could have been
  made by this request: it was, and its entry is the answer. CREATE opens it.
- UNLINK, RMDIR: which inode the name was; where that is gone from it, it was removed.
- RENAME, RENAME2: which inodes both names were; where the new name is the old one's, it was moved.
- WRITE that appends: the file's size. What lies beyond it now and is the request's data is not written again.
- COPY_FILE_RANGE: the source's size. What the copy has made it longer by is not copied.
- SETXATTR with XATTR_CREATE, REMOVEXATTR: whether the attribute was there.
- OPEN, OPENDIR, CREATE, TMPFILE: the handle (`given`) is taken back before the replay opens again. Of the file's pages
  the guest keeps none, since the first try has looked at the file already.
- FORGET, BATCH_FORGET: how many nodes were begun with. These are not forgotten again: the guest would lose nodes that
  it knows. One node may stay known until the guest unmounts.
- RELEASE, RELEASEDIR: a handle that is gone was released.

Everything else may be done twice. GETATTR, STATX, READLINK, READ, LSEEK, STATFS, ACCESS, GETXATTR, LISTXATTR, GETLK and
READDIR, which seeks to its offset, change nothing. WRITE, SETATTR and FALLOCATE (Linux sends no mode that moves data)
say where, and what is to be there. FLUSH, FSYNC, FSYNCDIR, SYNCFS, SETLK, SETLKW and INTERRUPT ask for a state,
SETXATTR without flags or with XATTR_REPLACE too. INIT and DESTROY begin anew. LOOKUP and READDIRPLUS may count a lookup
twice: the node stays known until the guest unmounts. Linux tells an open file of a failed write-back once: where it has
told a worker that died over FSYNC or FLUSH, the replay does not hear of it.

What the host's own processes do between a death and the replay, some milliseconds, cannot be told from what the
request did where it looks the same. A slot may be forged by a worker that the guest has taken over, and a `unique` by
the guest: what that does is to have a request answered as done, or done once more, which the guest could have had
anyway. Handles, node ids and lengths are checked where they are used.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from subos_protocol.fuse_opcodes import FuseOpcode

if TYPE_CHECKING:
    from .share import Data, Header, Operation

BEGUN, NOTED, DONE = 0, 1, 2  # stages: in a slot with the opcode above, from bit 8
UNIQUE, STAGE, COUNTED, LENT, LENT_MODE, LENGTH, FACTS = range(7)  # words of a slot
MOST_FACTS = 4
REPLY = 8 * (FACTS + MOST_FACTS)  # bytes of a slot before the reply
MAX_REPLY = 160  # bytes: an entry and an opened file are 144
SLOT_SIZE = REPLY + MAX_REPLY
SLOTS = 2  # queues of the device
GIVEN_FILE, GIVEN_DIRECTORY = 0, 1  # words of `given`
_GIVEN_SIZE = 16
SIZE = _GIVEN_SIZE + SLOTS * SLOT_SIZE  # bytes of a journal, zeros at first

OPENING: dict[int, int] = {
    FuseOpcode.FUSE_OPEN: GIVEN_FILE,
    FuseOpcode.FUSE_OPENDIR: GIVEN_DIRECTORY,
    FuseOpcode.FUSE_CREATE: GIVEN_FILE,
    FuseOpcode.FUSE_TMPFILE: GIVEN_FILE,
}
"""Operations that open something, and the word of `given` that has its handle."""
RECORDED = (
    FuseOpcode.FUSE_SYMLINK,
    FuseOpcode.FUSE_MKNOD,
    FuseOpcode.FUSE_MKDIR,
    FuseOpcode.FUSE_UNLINK,
    FuseOpcode.FUSE_RMDIR,
    FuseOpcode.FUSE_RENAME,
    FuseOpcode.FUSE_RENAME2,
    FuseOpcode.FUSE_LINK,
    FuseOpcode.FUSE_CREATE,
    FuseOpcode.FUSE_TMPFILE,
)
"""Operations whose reply is kept until it is given back."""


class Slot:
    """What is known of one queue's request. Handlers store `unique` and BEGUN themselves where nothing is `due`."""

    def __init__(self, memory: memoryview) -> None:
        self._bytes = memory
        self.words = memory.cast("Q")
        self._first = self.due = self.words[UNIQUE] != 0
        """`due`: the next request is to be met."""
        self.replaying = False
        """Whether the request that is being served is a replay."""

    @classmethod
    def scratch(cls) -> Slot:
        """For requests that are no replays, whatever they are."""
        return cls(memoryview(bytearray(SLOT_SIZE)))

    def begin(self, header: Sequence[int]) -> int:
        """A request begins: of fuse_in_header `header`. Returns the stage that an earlier try of it has reached."""
        words, stage, first = self.words, self.words[STAGE], self._first
        self._first = False
        self.replaying = first and words[UNIQUE] == header[2] and (stage == BEGUN or stage >> 8 == header[1])
        if self.replaying:
            return int(stage & 0xFF)
        self.due = False
        words[STAGE] = BEGUN
        words[LENT] = 0
        words[UNIQUE] = header[2]
        return BEGUN

    def clear(self) -> None:
        """There is no request that could be met again."""
        self.words[STAGE] = BEGUN
        self.words[UNIQUE] = 0
        self._first = self.due = self.replaying = False

    # --- facts

    def note(self, opcode: int, first: int = 0, second: int = 0, third: int = 0, fourth: int = 0) -> None:
        words = self.words
        words[COUNTED] = 0
        words[FACTS] = first
        words[FACTS + 1] = second
        words[FACTS + 2] = third
        words[FACTS + 3] = fourth
        words[STAGE] = opcode << 8 | NOTED

    def recall(self) -> list[int] | None:
        """What the first try of this request noted; None where this is the first, or it came to nothing."""
        if not self.replaying or self.words[STAGE] == BEGUN:
            return None
        return self.words[FACTS : FACTS + MOST_FACTS].tolist()

    # --- the reply

    def finish(self, opcode: int, number: int, reply: memoryview | bytes) -> None:
        """The request is done: `number` is its errno, or 0 and the reply follows."""
        if reply:
            self._bytes[REPLY : REPLY + len(reply)] = reply
        self.words[LENGTH] = number << 32 | len(reply)
        self.words[STAGE] = opcode << 8 | DONE

    def answer(self, room: int) -> bytes | None:
        """The reply, where there is one that has `room`. Raises OSError where it was an errno."""
        if not self.replaying or self.words[STAGE] & 0xFF != DONE:
            return None
        number, length = divmod(self.words[LENGTH], 1 << 32)
        if number:
            raise OSError(number & 0xFFF, os.strerror(number & 0xFFF))
        return bytes(self._bytes[REPLY : REPLY + length]) if length <= min(room, MAX_REPLY) else None


class Journal:
    """The slots of a device, in `memory` of SIZE bytes, which is zeros or what an earlier worker left."""

    def __init__(self, memory: memoryview) -> None:
        memory = memory.cast("B")
        self.given = memory[:_GIVEN_SIZE].cast("Q")
        """The handles that the newest requests that open files and directories have been given, 0 for none."""
        self._slots = [Slot(memory[at : at + SLOT_SIZE]) for at in range(_GIVEN_SIZE, SIZE, SLOT_SIZE)]
        self.current = Slot.scratch()
        """Of the request that is being served."""

    def slot(self, index: int) -> Slot:
        """Of the queue `index`."""
        return self._slots[index] if index < SLOTS else Slot.scratch()

    def clear(self) -> None:
        """A session begins or ends."""
        for slot in self._slots:
            slot.clear()

    def opens(self, opcode: int) -> None:
        """A request that opens something has begun, and was given no handle yet."""
        self.given[OPENING[opcode]] = 0
        self.current.note(opcode)

    def recorded(self, operation: Operation) -> Operation:
        """An operation of which a replay is answered by its reply, once there is one."""
        given = self.given

        def run(header: Header, mem: memoryview, a: int, n: int, o: int, room: int, data: Data) -> int:
            slot = self.current
            reply = slot.answer(room)
            if reply is not None:
                mem[o : o + len(reply)] = reply
                return len(reply)
            given[GIVEN_FILE] = 0
            try:
                written = operation(header, mem, a, n, o, room, data)
            except OSError as refusal:
                slot.finish(header[1], refusal.errno or errno.EIO, b"")
                raise
            slot.finish(header[1], 0, mem[o : o + written])
            return written

        return run
