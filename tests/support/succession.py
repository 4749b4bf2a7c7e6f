"""A supervisor that dies at a system call of the test's choice, in a process of its own, and the one that goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from subos_devices.runtime import listen
from subos_devices.supervisor.ledger import Held, Record, children
from subos_devices.supervisor.supervisor import Supervisor
from subos_devices.supervisor.zygote import Zygote
from subos_devices.testing.loop_thread import LoopThread
from subos_devices.vhost_user.connection import receive_fds
from subos_devices.vhost_user.device import DeviceSpec

from .dying import run_until

NAME = "device0"
MAX_PACKET = 1 << 17
FrontEndsPart = Callable[[Path], None]
"""What QEMU does, given the path of the device's socket."""


@dataclass
class Sender:
    """The ledger of one who may die."""

    channel: socket.socket
    sent: set[str] = field(default_factory=set)

    def note(self, name: str, record: Record, fds: Mapping[str, int], renewed: Collection[str]) -> None:
        new = [each for each in fds if each in renewed or each not in self.sent]
        self.sent = set(fds)
        message = json.dumps([record, list(fds), new]).encode()
        socket.send_fds(self.channel, [message], [fds[each] for each in new])

    def forget(self, name: str) -> None:
        raise AssertionError("it is killed before")


def held(channel: socket.socket) -> Held:
    """What a `Sender` that has died had noted."""
    record: dict[str, Any] = {}
    fds: dict[str, int] = {}
    while True:
        with contextlib.suppress(ConnectionError):
            data, ancillary, _, _ = channel.recvmsg(MAX_PACKET, socket.CMSG_SPACE(4 * 253), socket.MSG_CMSG_CLOEXEC)
            if data:
                record, names, new = json.loads(data)
                for name in [name for name in fds if name in new or name not in names]:
                    os.close(fds.pop(name))
                fds |= zip(new, receive_fds(ancillary), strict=True)
                continue
        return Held(record, fds)


def survives(spec: DeviceSpec, zygote: Zygote, folder: Path, stop: int, part: FrontEndsPart) -> bool:
    """Has `part` played to a device whose supervisor dies at its system calls' `stop`th beginning or end, and is
    succeeded by another one. False where it had nothing left to do before. Raises what `part` raises."""
    path = folder / f"{NAME}-{stop}.sock"
    listener = listen(path)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    over, tell_over = os.pipe()
    failures: list[BaseException] = []

    def play() -> None:
        try:
            part(path)
        except BaseException as error:
            failures.append(error)
        os.close(tell_over)

    player = threading.Thread(target=play)

    def fork() -> int:
        pid = os.fork()
        if pid:
            theirs.close()
            player.start()
        else:
            os.close(tell_over)
        return pid

    died = run_until(lambda: _first(spec, zygote, listener, theirs, over), stop, fork)
    with ours:
        last = held(ours)
        if not died:
            listener.close()
            for fd in last.fds.values():
                os.close(fd)
    if died:
        with _second(spec, zygote, listener, last):
            player.join()
    player.join()
    os.close(over)
    if failures:
        raise AssertionError(f"killed at stop {stop}: {failures[0]!r}") from failures[0]
    return died


def _first(
    spec: DeviceSpec, zygote: Zygote, listener: socket.socket, ledger: socket.socket, over: int
) -> Callable[[], None]:
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def begin() -> Supervisor:
        loop.add_reader(over, ended.set)
        supervisor = await Supervisor(zygote, ledger=Sender(ledger), own_zygote=False).__aenter__()
        await supervisor.add(spec, listener)
        return supervisor

    loop.run_until_complete(begin())
    return lambda: loop.run_until_complete(_until(ended))


async def _until(ended: asyncio.Event) -> None:
    await ended.wait()


@contextlib.contextmanager
def _second(spec: DeviceSpec, zygote: Zygote, listener: socket.socket, last: Held) -> Iterator[None]:
    thread = LoopThread()

    async def begin() -> Supervisor:
        again = Zygote(zygote.pid, zygote.channel.dup())
        again.succeed(children([last]))
        supervisor = await Supervisor(again, own_zygote=False).__aenter__()
        supervisor.restore(spec, listener, last)
        went_on = supervisor.devices[NAME].status()
        assert (went_on["pid"], went_on["restarts"]) == (last.record["pid"], 0), "the worker was not kept"
        return supervisor

    supervisor = thread.do(begin())
    try:
        yield
    finally:
        thread.do(supervisor.__aexit__())
        thread.close()
