"""One keeper after the other: the next is asked for when the last one has ended, and never beside it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from subos_devices.supervisor.keeper import Keeper
from subos_devices.supervisor.keeper_process import BIRTH
from subos_devices.supervisor.process_models import Model
from subos_devices.supervisor.zygote import Wanted, Zygote
from subos_devices.vhost_user.device import DeviceSpec
from support.processes import descriptors

SPEC = DeviceSpec("fs", "share")


class FakeZygote:
    """Makes keepers when the test says so; `asked` are those that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Wanted] = []
        self.ends: list[socket.socket] = []
        self.killed: list[int] = []
        self.gone = False

    def spawn(self, wanted: Sequence[Wanted], model: Model, *, keeper: bool) -> None:
        assert (model, keeper) == (Model(), True)
        if self.gone:
            raise BrokenPipeError
        self.asked += wanted
        self.ends.append(wanted[0].control.dup())

    def kill(self, pid: int) -> None:
        self.killed.append(pid)


def keeper(
    zygote: FakeZygote,
    after: Keeper | None = None,
    gone: Callable[[], None] = lambda: None,
    failure: Callable[[dict[str, Any]], None] = lambda _said: None,
) -> Keeper:
    return Keeper(cast(Zygote, zygote), SPEC, 0, after=after, on_failure=failure, on_gone=gone)


def run(test: Callable[[FakeZygote], Awaitable[None]]) -> None:
    async def whole() -> None:
        zygote = FakeZygote()
        await test(zygote)
        for end in zygote.ends:
            end.close()

    before = descriptors()
    asyncio.run(whole())
    assert descriptors() == before


def test_the_next_is_asked_for_when_the_last_has_ended_however_long_that_takes() -> None:
    async def test(zygote: FakeZygote) -> None:
        first = keeper(zygote)
        zygote.asked[0].on_pid(7)
        zygote.ends[0].close()  # as a hostile worker can do
        assert not first.hear()
        assert zygote.killed == [7]
        second = keeper(zygote, first)
        await asyncio.sleep(0)
        assert len(zygote.asked) == 1
        zygote.asked[0].on_end(-9)
        assert len(zygote.asked) == 2
        assert second.hear()
        second.close()
        first.kill_all()  # a little late: the number may be another's by now
        assert zygote.killed == [7]

    run(test)


def test_what_was_asked_of_it_meanwhile_waits_for_it() -> None:
    async def test(zygote: FakeZygote) -> None:
        first = keeper(zygote)
        first.close()
        second = keeper(zygote, first)
        pids: list[int] = []
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            second.spawn(Wanted(SPEC, theirs, 0, on_pid=pids.append))
            zygote.asked[0].on_pid(7)
            zygote.asked[0].on_end(0)
            assert pids == []
            zygote.asked[1].on_pid(8)
            assert pids == [0]
            command, fds, _, _ = socket.recv_fds(zygote.ends[1], 16, 2)
            assert (command, len(fds)) == (BIRTH, 1)
            os.close(fds[0])
        second.close()

    run(test)


def test_one_that_is_closed_before_its_turn_is_passed_over() -> None:
    async def test(zygote: FakeZygote) -> None:
        first = keeper(zygote)
        second = keeper(zygote, first)
        third = keeper(zygote, second)
        for each in (first, second):
            each.close()
        zygote.asked[0].on_pid(7)
        assert len(zygote.asked) == 1
        zygote.asked[0].on_end(0)
        assert len(zygote.asked) == 2
        assert third.hear()
        third.close()

    run(test)


def test_one_that_no_zygote_can_make_is_gone() -> None:
    async def test(zygote: FakeZygote) -> None:
        gone: list[str] = []
        zygote.gone = True
        first = keeper(zygote, gone=lambda: gone.append("first"))
        assert not first.hear()
        zygote.gone = False
        second = keeper(zygote, first)
        zygote.asked[0].on_pid(0)  # out of processes
        zygote.ends[0].close()
        assert not second.hear()
        keeper(zygote, second).close()
        assert gone == ["first"]
        assert len(zygote.asked) == 2
        assert zygote.killed == []

    run(test)


def test_why_it_can_make_no_worker_is_heard_though_one_was_asked_for() -> None:
    async def test(zygote: FakeZygote) -> None:
        heard: list[dict[str, Any]] = []
        first = keeper(zygote, failure=heard.append)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            first.spawn(Wanted(SPEC, theirs, 0))
        zygote.ends[0].send(b'{"op": "failed", "message": "no room", "hint": ""}')
        zygote.asked[0].control.close()
        zygote.ends.pop(0).close()
        assert not first.hear()
        assert [said["message"] for said in heard] == ["no room"]

    run(test)
