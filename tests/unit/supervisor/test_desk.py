"""Questions of a worker, which may be in a guest's hands: each is answered or refused, and nothing is left of it."""

from __future__ import annotations

import asyncio
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


def at_desk(device: Device, work: Callable[[Desk, socket.socket], Awaitable[None]]) -> None:
    """Runs `work` with a desk and the worker's socket. Nothing may be left of either."""

    async def run() -> None:
        desk = Desk(lambda: device)
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
