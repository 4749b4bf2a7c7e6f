"""Fuzzes the supervisor's control plane with atheris: anything a QEMU may say to one device (see README.md).

An input is a sequence of what a `HostileQemu` does. The supervisor's code is the real one; in place of the worker there
is a stand-in, which lets go of rings, and dies when it is told to. It must answer, keep nothing, and call nothing a
fault of its own; and from each of its notes another one must be able to go on.
"""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["subos_devices.supervisor", "subos_devices.vhost_user", "subos_protocol"]):
    from subos_devices import registry
    from subos_devices.runtime import listen
    from subos_devices.supervisor import restarts
    from subos_devices.supervisor.device_server import DeviceServer
    from subos_devices.supervisor.ledger import Record
    from subos_devices.supervisor.process_models import Model
    from subos_devices.supervisor.zygote import Wanted
    from subos_devices.vhost_user import snapshot
    from subos_devices.vhost_user.connection import receive_fds
    from subos_devices.vhost_user.device import DeviceSpec
    from subos_devices.vhost_user.errors import BadMemory

import asyncio
import gc
import json
import logging
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from child import Now, fuzz, main

from subos_devices.vhost_user.worker import MAX_PACKET
from subos_protocol.vhost_user import HEADER, FrontendRequest
from support.captured import conversation
from support.hostile_qemu import KINDS, MOST, OWN, HostileQemu, memory_table, state, u64
from support.processes import descriptors

MESSAGE = struct.Struct("<BBHBB")  # request, flags, bytes of payload, descriptors, where it is cut
EVENTFDS = ("kick", "call", "err")
SCRIBBLE, CUT, LEAVE, NONSENSE, LEAVE_WITHIN, SET_UP, DIE = range(200, 207)  # instead of a request


class StandIn:
    """A zygote and a nursery whose workers do nothing but let go of rings, and answer pings."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.control: socket.socket | None = None

    def spawn(self, wanted: Wanted) -> None:
        self.control = wanted.control.dup()
        self.control.setblocking(False)
        self.control.send(b'{"op": "ready", "sandbox": {}}')
        self.loop.add_reader(self.control, self.obey)
        wanted.on_pid(0)

    def obey(self) -> None:
        assert self.control is not None
        data, ancillary, _, _ = self.control.recvmsg(MAX_PACKET, socket.CMSG_SPACE(64), socket.MSG_CMSG_CLOEXEC)
        for fd in receive_fds(ancillary):
            os.close(fd)
        said = json.loads(data) if data else {}
        match said.get("op"):
            case None:
                self.die()
            case "stop":
                self.control.send(json.dumps({"op": "stopped", "id": said["id"]}).encode())
            case "ping":
                self.control.send(b'{"op": "pong"}')

    def die(self) -> None:
        if self.control is not None:
            self.loop.remove_reader(self.control)
            self.control.close()
            self.control = None

    def kill(self, pid: int) -> None: ...

    def kill_all(self) -> None: ...

    def join(self, device: object) -> None: ...

    def leave(self, device: object) -> None: ...

    def tell_once(self, warning: str) -> None: ...

    def memory_of(self, pid: int) -> None: ...


class Notes:
    """A ledger that has a session made of each note, which must be the one that was noted."""

    def __init__(self, spec: DeviceSpec) -> None:
        self.spec = spec

    def note(self, name: str, record: Record, fds: Mapping[str, int], renewed: Collection[str]) -> None:
        said = json.loads(json.dumps(record))["session"]
        own = {each: os.dup(fd) for each, fd in fds.items() if each.rstrip("0123456789") in ("region", *EVENTFDS)}
        try:
            session = snapshot.restore(registry.build(self.spec), said, own)
        except BadMemory:
            return  # it has been cut short
        if snapshot.describe(session) != said or set(session.descriptors) != set(own):
            raise AssertionError(f"{said} became {snapshot.describe(session)}")
        session.close()

    def forget(self, name: str) -> None: ...


class Faults(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            sys.stderr.write(logging.Formatter().format(record) + "\n")
            Harness.fault = True


class Harness:
    fault = False

    def __init__(self, folder: Path, now: Now) -> None:
        self.now = now
        self.path = folder / "sock"
        started = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self.live(started)), daemon=True).start()
        started.wait()
        self.qemu = HostileQemu(self.path)
        self.before = descriptors()

    async def live(self, started: threading.Event) -> None:
        self.loop = asyncio.get_running_loop()
        self.zygote = StandIn()
        zygote = cast(Any, self.zygote)
        spec = DeviceSpec("support.strangers:Reverser", "device0")
        self.server = DeviceServer(spec, listen(self.path), zygote, model=Model(), nursery=zygote, ledger=Notes(spec))
        await self.server.start()
        started.set()
        await asyncio.Event().wait()

    def __call__(self, data: bytes) -> None:
        self.now.note(data)
        self.qemu.connect()
        for step in steps(data):
            self.do(*step)
        self.qemu.hang_up()
        began = time.monotonic()
        while (left := descriptors()) != self.before:
            if time.monotonic() > began + 10:
                raise AssertionError(f"{left} are left, of {self.before}")
            if time.monotonic() > began + 1:
                gc.collect()
            time.sleep(0.0002)
        if self.fault:
            raise AssertionError("the supervisor calls it a fault of its own")

    def do(self, request: int, flags: int, payload: bytes, fds: list[str], cut: int) -> None:
        if self.qemu.closed:
            self.qemu.connect()
        match request:
            case 200:
                self.qemu.scribble(cut << 8 | flags, payload or b"\0")
            case 201:
                self.qemu.cut(cut << 12)
            case 202:
                self.qemu.hang_up()
            case 203:
                if flags & 3 != 1:
                    self.qemu.nonsense(HEADER.struct.pack(cut, flags, len(payload)), fds)
            case 204:
                self.qemu.leave_within(cut, payload, fds, flags)
            case 205:
                self.qemu.set_up(cut & 1, own=bool(flags & 1))
            case 206:
                self.on_loop(self.die)
            case _:
                self.qemu.message(request, payload, flags, fds, [cut] if cut else [])

    def on_loop(self, work: Callable[[], Awaitable[None]]) -> None:
        async def done() -> None:
            await work()

        asyncio.run_coroutine_threadsafe(done(), self.loop).result(10)

    async def die(self) -> None:
        self.zygote.die()
        while self.server.worker is None or self.zygote.control is None:
            await asyncio.sleep(0)


def steps(data: bytes) -> Iterator[tuple[int, int, bytes, list[str], int]]:
    at = 0
    while at + MESSAGE.size <= len(data):
        request, flags, length, count, cut = MESSAGE.unpack_from(data, at)
        at += MESSAGE.size
        count = count % (MOST + 1)
        fds = [KINDS[kind % len(KINDS)] for kind in data[at : at + count]]
        at += count
        payload = data[at : at + length % 4097]
        at += len(payload)
        yield request, flags, payload, fds, cut


def step(request: int, payload: bytes = b"", flags: int = 0, fds: tuple[str, ...] = (), cut: int = 0) -> bytes:
    kinds = bytes(KINDS.index(kind) for kind in fds)
    return MESSAGE.pack(request, flags, len(payload), len(fds), cut) + kinds + payload


def seeds() -> Iterator[bytes]:
    """QEMU's own conversations, and what every hostile one will try."""
    for name in ("vhost-user-rng.txt", "vhost-user-input.txt"):
        said = b""
        for line in conversation(name):
            if line.from_qemu:
                header = HEADER.unpack(line.data)
                kind = OWN if header.request == FrontendRequest.SET_MEM_TABLE else "eventfd"
                said += step(header.request, line.data[HEADER.size :], header.flags, (kind,) * line.descriptors)
        yield said
    up = step(SET_UP, cut=0, flags=1) + step(SET_UP, cut=1, flags=1)
    back = step(FrontendRequest.GET_VRING_BASE, state(0, 0))
    yield up + back + step(FrontendRequest.RESET_OWNER)
    yield up + step(DIE) + back
    yield up + step(CUT) + step(DIE) + back
    yield up + step(SCRIBBLE, b"\1\0\1\0", cut=0x50) + step(DIE) + step(LEAVE) + up
    yield up + step(FrontendRequest.SET_MEM_TABLE, memory_table(1, [(0, 4096, 0, 0)]), fds=("memory",)) + back
    for kind in KINDS:
        for request in (FrontendRequest.SET_VRING_KICK, FrontendRequest.SET_VRING_CALL, FrontendRequest.SET_VRING_ERR):
            yield up + step(request, u64(0), fds=(kind,)) + back
    yield step(NONSENSE, flags=2) + step(LEAVE_WITHIN, u64(0), cut=12, flags=5, fds=("eventfd",))


def run(folder: Path, now: Now, arguments: list[str]) -> None:
    restarts.BACKOFF = (0.0,) * 1_000_000  # no pause after a death
    for name in ("subos", "asyncio"):
        logging.getLogger(name).addHandler(Faults())
        logging.getLogger(name).propagate = False
    fuzz(folder, Harness(folder, now), seeds(), arguments)


if __name__ == "__main__":
    sys.exit(main(run))
