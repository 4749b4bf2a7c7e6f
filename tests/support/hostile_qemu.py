"""A QEMU that lies: any message, in any order and in any pieces, with any descriptors, and memory that it cuts short.

It knows what must come back: a well-framed message is answered, or not, and the one after it always is; only what is
no vhost-user ends a connection.
"""

from __future__ import annotations

import array
import itertools
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from subos_devices.vhost_user.connection import MAX_FDS
from subos_devices.vhost_user.session import TRANSPORT_FEATURES
from subos_protocol.vhost_user import (
    HEADER,
    MAX_PAYLOAD,
    U64,
    VRING_ADDR,
    VRING_STATE,
    FrontendRequest,
    HeaderFlag,
    pack_mem_table,
    vhost_user_mem_region,
    vhost_user_u64,
    vhost_vring_addr,
    vhost_vring_state,
)

R = FrontendRequest
SIZE = 1 << 20  # bytes of memory
USER = 0x7000_0000_0000
RING = 0x4000  # bytes from one ring to the next
QUEUE = 64
FULL = 0xFFFF_FFFF_FFFF_FFFE  # what an eventfd holds at most
TIMEOUT = 10.0


def _eventfd(value: int = 0) -> int:
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    if value:
        os.eventfd_write(fd, value)
    return fd


def _memfd(size: int) -> int:
    fd = os.memfd_create("guest-ram", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


def _opened(fd: int, flags: int) -> int:
    """The same file, opened otherwise."""
    try:
        return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)
    finally:
        os.close(fd)


def _half(pair: tuple[socket.socket, socket.socket]) -> int:
    pair[1].close()
    return pair[0].detach()


def _pipe() -> int:
    """Nobody reads it."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.close(reader)
    return writer


DESCRIPTORS: dict[str, Callable[[], int]] = {
    "eventfd": _eventfd,
    "full eventfd": lambda: _eventfd(FULL),
    "memory": lambda: _memfd(SIZE),
    "no memory": lambda: _memfd(0),
    "read-only memory": lambda: _opened(_memfd(SIZE), os.O_RDONLY),
    "path": lambda: _opened(_memfd(SIZE), os.O_PATH),
    "null": lambda: os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC),
    "folder": lambda: os.open("/proc/self", os.O_RDONLY | os.O_CLOEXEC),
    "socket": lambda: _half(socket.socketpair()),
    "pipe": _pipe,
}
"""Kinds of descriptors, each made anew."""
OWN = "own memory"
"""The connection's memory, which `scribble` and `cut` reach."""


class Broken(AssertionError):
    """The supervisor did what it must never do."""


class HostileQemu:
    """One device's front end. `talk` connects; `closed` is True once the supervisor had to hang up."""

    def __init__(self, path: Path, offered: int = TRANSPORT_FEATURES) -> None:
        self.path, self.offered = path, offered
        self.closed = True
        self._socket: socket.socket | None = None
        self._memory = -1
        self._kick = -1

    # --- the connection

    def connect(self) -> None:
        self.hang_up()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT)
        self._socket.connect(os.fspath(self.path))
        self._memory, self._kick = _memfd(SIZE), _eventfd()
        self.closed = False

    def hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            os.close(self._memory)
            os.close(self._kick)
            self._socket = None
        self.closed = True

    # --- what it says

    def message(
        self, request: int, payload: bytes = b"", flags: int = 0, fds: Sequence[str] = (), pieces: Sequence[int] = ()
    ) -> None:
        """A well-framed message, cut where `pieces` says. The supervisor must be there after it."""
        self._send(_frame(request, payload, flags), fds, pieces)
        self._send(_frame(R.GET_FEATURES))
        for _ in range(1 + (request == R.GET_FEATURES)):
            while (answer := self._answer())[0] != R.GET_FEATURES:
                if answer[0] != request:
                    raise Broken(f"request {request} was answered by {answer}")
            if U64.unpack(answer[1]).value != self.offered:
                raise Broken(f"GET_FEATURES was answered by {answer[1].hex()}")

    def nonsense(self, header: bytes, fds: Sequence[str] = ()) -> None:
        """What is no header: the connection must end."""
        self._send(header, fds)
        assert self._socket is not None
        try:
            while self._socket.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            raise Broken("a connection outlives what is no vhost-user") from None
        self.hang_up()

    def leave_within(self, request: int, payload: bytes, fds: Sequence[str], at: int) -> None:
        """Hangs up after `at` bytes of a message."""
        frame = _frame(request, payload)
        self._send(frame[: 1 + at % (len(frame) - 1)], fds)
        self.hang_up()

    def set_up(self, index: int, *, own: bool = True) -> None:
        """What a good one says, from any state: some of it may be refused."""
        at = USER + RING * (1 + index)
        region = vhost_user_mem_region(0, SIZE, USER, 0)
        self.message(R.SET_FEATURES, u64(self.offered))
        self.message(R.SET_MEM_TABLE, pack_mem_table([region]), fds=[OWN if own else "memory"])
        self.message(R.SET_VRING_NUM, state(index, QUEUE))
        self.message(R.SET_VRING_BASE, state(index, 0))
        self.message(R.SET_VRING_ADDR, VRING_ADDR.pack(vhost_vring_addr(index, 0, at, at + 0x2000, at + 0x1000, 0)))
        self.message(R.SET_VRING_CALL, u64(index), fds=["eventfd"])
        self.message(R.SET_VRING_KICK, u64(index), fds=["kick"])
        self.message(R.SET_VRING_ENABLE, state(index, 1))

    # --- what it does to the guest

    def kick(self) -> None:
        os.eventfd_write(self._kick, 1)

    def scribble(self, at: int, data: bytes) -> None:
        os.pwrite(self._memory, data, at % (SIZE - len(data)))

    def cut(self, size: int) -> None:
        """Makes the file of the memory so short, and whoever touches it dies."""
        os.ftruncate(self._memory, min(size, SIZE))

    # --- helpers

    def _send(self, data: bytes, fds: Sequence[str] = (), pieces: Sequence[int] = ()) -> None:
        assert self._socket is not None
        made = [self._descriptor(kind) for kind in fds]
        cuts = sorted({0, *(cut % len(data) for cut in pieces), len(data)})
        try:
            for start, end in itertools.pairwise(cuts):
                beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", made).tobytes())] if made else []
                self._socket.sendmsg([data[start:end]], beside if start == 0 else [])
        except (BrokenPipeError, ConnectionResetError, TimeoutError) as error:
            raise Broken("the supervisor hung up on well-framed messages") from error
        finally:
            for fd in made:
                os.close(fd)

    def _descriptor(self, kind: str) -> int:
        if kind in (OWN, "kick"):
            return os.dup(self._memory if kind == OWN else self._kick)
        return DESCRIPTORS[kind]()

    def _answer(self) -> tuple[int, bytes]:
        """The next message of the supervisor: its request and its payload."""
        header = HEADER.unpack(self._receive(HEADER.size))
        if header.flags != HeaderFlag.VERSION | HeaderFlag.REPLY or header.size > MAX_PAYLOAD:
            raise Broken(f"a reply with the header {header}")
        return header.request, self._receive(header.size)

    def _receive(self, size: int) -> bytes:
        assert self._socket is not None
        data = b""
        while len(data) < size:
            try:
                more = self._socket.recv(size - len(data))
            except (ConnectionResetError, TimeoutError) as error:
                raise Broken(f"the supervisor does not answer: {error}") from error
            if not more:
                raise Broken("the supervisor hung up on well-framed messages")
            data += more
        return data


def _frame(request: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """Whatever `flags` are, the version is the right one."""
    flags = flags & ~HeaderFlag.VERSION_MASK | HeaderFlag.VERSION
    return HEADER.struct.pack(request, flags & 0xFFFF_FFFF, len(payload)) + payload


def u64(value: int) -> bytes:
    return U64.pack(vhost_user_u64(value))


def state(index: int, value: int) -> bytes:
    return VRING_STATE.pack(vhost_vring_state(index, value))


def memory_table(count: int, regions: Sequence[tuple[int, int, int, int]]) -> bytes:
    """SET_MEM_TABLE's payload, saying that there are `count` regions."""
    numbers = (number.to_bytes(8, "little") for region in regions for number in region)
    return count.to_bytes(4, "little") + bytes(4) + b"".join(numbers)


KINDS = (*DESCRIPTORS, OWN, "kick")
MOST = MAX_FDS + 4
"""Descriptors of one message, more than are taken."""
