"""Questions of a worker, which may be in a guest's hands: each is answered or refused, and nothing is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from subos_devices.fs.device import FsDevice
from subos_devices.supervisor import desk as desks
from subos_devices.supervisor.allowance import Allowance
from subos_devices.supervisor.desk import Desk
from subos_devices.vhost_user.device import Device, DeviceSpec
from subos_devices.vhost_user.questions import Questions
from subos_devices.vhost_user.virtqueue import Virtqueue
from subos_devices.vsock.device import VsockDevice
from subos_protocol.virtio import DeviceId
from support.processes import descriptors


class Oracle(Device):
    """Answers with the question, and a descriptor; refuses what has an "errno"."""

    device_id = DeviceId.CONSOLE
    asks = True

    def process(self, queue: Virtqueue) -> None: ...

    def answer(self, question: Mapping[str, Any]) -> tuple[Mapping[str, object], Sequence[int]]:
        if "errno" in question:
            raise OSError(question["errno"], "no")
        return {"heard": question["what"]}, [os.memfd_create("answer")]


class SlowOracle(Oracle):
    """Its answers wait for `gate`."""

    answers_slowly = True
    gate = threading.Event()

    def answer(self, question: Mapping[str, Any]) -> tuple[Mapping[str, object], Sequence[int]]:
        assert self.gate.wait(10)
        return super().answer(question)


def at_desk(
    device: Device, work: Callable[[Desk, socket.socket], Awaitable[None]], allowance: Allowance | None = None
) -> None:
    """Runs `work` with a desk and the worker's socket. Nothing may be left of either."""

    async def run() -> None:
        desk = Desk(lambda: device, allowance or desks.allowance(device))
        with desk.theirs as theirs:
            theirs.setblocking(False)
            await work(desk, theirs)
        desk.close()

    before = descriptors()
    asyncio.run(run())
    assert descriptors() == before


async def hear(theirs: socket.socket) -> dict[str, Any]:
    answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(theirs, 4096), 10)
    return dict(json.loads(answer)) if answer else {}


@pytest.mark.parametrize("kind", [Oracle, SlowOracle])
def test_a_question_and_its_answer(kind: type[Oracle]) -> None:
    SlowOracle.gate.set()

    async def work(_desk: Desk, theirs: socket.socket) -> None:
        questions = Questions(theirs.dup().detach())
        for what in ("one", "two"):
            said, [fd] = await asyncio.to_thread(lambda what=what: questions.ask(what=what))  # type: ignore[misc]
            assert said == {"heard": what}
            assert os.readlink(f"/proc/self/fd/{fd}") == "/memfd:answer (deleted)"
            os.close(fd)
        assert (await asyncio.to_thread(lambda: questions.ask(errno=errno.ENOENT)))[0] == {"errno": errno.ENOENT}
        questions.close()

    at_desk(kind(DeviceSpec("oracle", "oracle")), work)


def test_a_question_that_is_none() -> None:
    async def work(_desk: Desk, theirs: socket.socket) -> None:
        theirs.send(b'{"no": "what"}')
        assert await hear(theirs) == {"errno": errno.EINVAL}
        theirs.send(b"[1]")
        assert await hear(theirs) == {}  # hung up on

    at_desk(Oracle(DeviceSpec("oracle", "oracle")), work)


def test_questions_that_come_all_at_once_are_answered_one_after_the_other() -> None:
    SlowOracle.gate.clear()

    async def work(_desk: Desk, theirs: socket.socket) -> None:
        before = threading.active_count()
        for number in range(50):
            theirs.send(json.dumps({"what": number}).encode())
        for _ in range(20):
            await asyncio.sleep(0)
        assert threading.active_count() <= before + 1
        SlowOracle.gate.set()
        for number in range(50):
            assert await hear(theirs) == {"heard": number}

    at_desk(SlowOracle(DeviceSpec("oracle", "oracle")), work)


def test_a_worker_that_does_not_listen() -> None:
    async def work(_desk: Desk, theirs: socket.socket) -> None:
        for number in range(3000):
            try:
                theirs.send(json.dumps({"what": number}).encode())
            except BlockingIOError:
                await asyncio.sleep(0.001)

    at_desk(Oracle(DeviceSpec("oracle", "oracle")), work)


@pytest.mark.parametrize("kind", [Oracle, SlowOracle])
def test_one_that_asks_without_end_waits_and_nobody_else_does(kind: type[Oracle]) -> None:
    SlowOracle.gate.set()

    async def work(_desk: Desk, theirs: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        turns = answers = 0
        end = loop.time() + 1
        while loop.time() < end:
            turns += 1
            with contextlib.suppress(BlockingIOError):
                while True:
                    theirs.send(b'{"errno": 2}')
            with contextlib.suppress(BlockingIOError):
                while theirs.recv(4096):
                    answers += 1
            await asyncio.sleep(0.001)
        assert 100 + 50 < answers <= 100 + 110  # at once, and then in a second
        assert turns > 100

    at_desk(kind(DeviceSpec("oracle", "oracle")), work, Allowance(100, 100))


def test_the_next_worker_has_no_allowance_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    allowance = Allowance(1, 10)

    async def work(_desk: Desk, theirs: socket.socket) -> None:
        for _ in range(20):
            theirs.send(b'{"errno": 2}')
        await asyncio.sleep(0.1)
        heard.append(0)
        with contextlib.suppress(BlockingIOError):
            while theirs.recv(4096):
                heard[-1] += 1

    heard: list[int] = []
    for _ in range(2):
        at_desk(Oracle(DeviceSpec("oracle", "oracle")), work, allowance)
    assert heard == [10, 0]
    assert caplog.text.count("asks more than it may") == 2


def test_an_allowance() -> None:
    allowance = Allowance(rate=10, burst=3)
    assert [allowance.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert [allowance.take(100.05), allowance.take(100.11), allowance.take(100.12)] == [False, True, False]
    assert [allowance.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_a_worker_that_ends_before_it_is_answered() -> None:
    SlowOracle.gate.clear()

    async def work(desk: Desk, theirs: socket.socket) -> None:
        before = threading.active_count()
        theirs.send(b'{"what": 1}')
        while threading.active_count() == before:
            await asyncio.sleep(0)
        desk.close()
        SlowOracle.gate.set()
        while threading.active_count() > before:
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # what the thread has left for the loop

    at_desk(SlowOracle(DeviceSpec("oracle", "oracle")), work)


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


@given(st.dictionaries(st.sampled_from(["port", "device", "inode", "other"]), values, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_worker_asks_it_gets_nothing_else(tmp_path: Path, question: dict[str, Any]) -> None:
    vsock = VsockDevice(DeviceSpec("vsock", "vsock", {"uds_path": "/nowhere/at/all"}))
    with pytest.raises(OSError):
        vsock.answer(question)  # nobody listens there
    share = FsDevice(DeviceSpec("fs", "fs", {"shared_dir": str(tmp_path)}))
    try:
        said, fds = share.answer(question)
    except OSError:  # a user who may not clone a mount
        return
    assert set(said) == {"device", "inode", "is_mount"}
    for fd in fds:
        assert os.fstat(fd).st_ino == tmp_path.stat().st_ino
        with pytest.raises(FileNotFoundError):
            os.stat(f"../{tmp_path.name}", dir_fd=fd)
        os.close(fd)


@given(st.binary(max_size=200))
@settings(max_examples=50)
def test_any_bytes(packet: bytes) -> None:
    async def work(_desk: Desk, theirs: socket.socket) -> None:
        theirs.send(packet)
        await hear(theirs)

    at_desk(Oracle(DeviceSpec("oracle", "oracle")), work)
