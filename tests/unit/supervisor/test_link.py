"""The supervisor's end of a worker: it never waits, and believes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from subos_devices.rng import RngDevice
from subos_devices.supervisor import link
from subos_devices.supervisor.link import WorkerLink
from subos_devices.supervisor.zygote import Wanted
from subos_devices.vhost_user.device import DeviceSpec
from subos_devices.vhost_user.session import Session, Vring
from support.processes import descriptors

SPEC = DeviceSpec("rng", "rng0")


class FakeNursery:
    """Its workers are sockets that the test holds."""

    def __init__(self) -> None:
        self.workers: list[socket.socket] = []
        self.killed: list[int] = []
        self.all_killed = 0
        self.wanted: list[Wanted] = []

    def spawn(self, wanted: Wanted) -> None:
        self.workers.append(wanted.control.dup())
        self.wanted.append(wanted)

    def kill(self, pid: int) -> None:
        self.killed.append(pid)

    def kill_all(self) -> None:
        self.all_killed += 1


class Scene:
    def __init__(self) -> None:
        self.nursery = FakeNursery()
        self.heard: list[dict[str, Any]] = []
        self.born, self.died = asyncio.Event(), asyncio.Event()
        self.link = WorkerLink(
            self.nursery,
            SPEC,
            0,
            respawned=False,
            on_birth=self.born.set,
            on_message=self.heard.append,
            on_death=self.died.set,
        )
        self.link.ask()
        [self.worker] = self.nursery.workers

    async def bear(self, pid: int) -> None:
        self.nursery.wanted[0].on_pid(pid)
        await self.born.wait()


@asynccontextmanager
async def scene(pid: int | None) -> AsyncIterator[Scene]:
    made = Scene()
    try:
        if pid is not None:
            await made.bear(pid)
        yield made
    finally:
        if made.link.alive:
            made.link.close()
        made.worker.close()


def run(test: Callable[[Scene], Awaitable[None]], pid: int | None = 4242) -> None:
    async def whole() -> None:
        async with asyncio.timeout(10), scene(pid) as made:
            await test(made)

    before = descriptors()
    asyncio.run(whole())
    assert descriptors() == before


def test_commands_are_json_with_descriptors_beside_them() -> None:
    async def test(scene: Scene) -> None:
        scene.link.enable(Vring(1, enabled=True))
        assert json.loads(scene.worker.recv(1000)) == {"op": "enable", "index": 1, "on": True}
        call = os.eventfd(0)
        scene.link.call(Vring(0, call=call))
        data, fds, _, _ = socket.recv_fds(scene.worker, 1000, 4)
        assert (json.loads(data), len(fds)) == ({"op": "call", "index": 0}, 1)
        for fd in (call, *fds):
            os.close(fd)
        scene.link.memory(Session(RngDevice(SPEC)))
        assert json.loads(scene.worker.recv(1000)) == {"op": "memory", "regions": []}

    run(test)


def test_a_ring_that_is_let_go_of() -> None:
    async def test(scene: Scene) -> None:
        stopping = asyncio.create_task(scene.link.stop(3, timeout=10))
        await asyncio.sleep(0)
        said = json.loads(scene.worker.recv(1000))
        assert (said["op"], said["index"]) == ("stop", 3)
        scene.worker.send(json.dumps({"op": "stopped", "id": said["id"] + 1}).encode())
        scene.worker.send(json.dumps({"op": "stopped", "id": said["id"]}).encode())
        await stopping
        assert scene.nursery.killed == []

    run(test)


def test_a_ring_that_is_not_let_go_of_costs_the_workers_life() -> None:
    async def test(scene: Scene) -> None:
        await scene.link.stop(0, timeout=0.01)
        assert scene.nursery.killed == [4242]

    run(test)


def test_one_that_is_still_to_be_made_is_told_nothing_and_has_no_ring_to_let_go_of() -> None:
    """What lies in its socket it would find later, when the driver has its ring back."""

    async def test(scene: Scene) -> None:
        call = os.eventfd(0)
        scene.link.memory(Session(RngDevice(SPEC)))
        scene.link.enable(Vring(0))
        scene.link.call(Vring(0, call=call))
        scene.link.ping()
        os.close(call)
        assert await scene.link.stop(0, timeout=10)
        with pytest.raises(BlockingIOError):
            scene.worker.recv(1000, socket.MSG_DONTWAIT)
        await scene.bear(4242)
        scene.link.ping()
        assert json.loads(scene.worker.recv(1000)) == {"op": "ping"}
        assert scene.nursery.killed == []

    run(test, pid=None)


def test_one_that_is_not_wanted_any_more_when_it_is_made_is_killed() -> None:
    async def test(scene: Scene) -> None:
        scene.link.kill()
        scene.nursery.wanted[0].on_pid(4242)
        await asyncio.sleep(0)
        assert scene.nursery.killed == [4242]
        assert not scene.born.is_set()

    run(test, pid=None)


def test_a_stop_ends_with_the_worker() -> None:
    async def test(scene: Scene) -> None:
        stopping = asyncio.create_task(scene.link.stop(0, timeout=10))
        await asyncio.sleep(0)
        scene.worker.close()
        await stopping
        await scene.died.wait()
        assert not scene.link.alive
        await scene.link.stop(0, timeout=10)  # nothing to wait for any more
        scene.link.enable(Vring(0))

    run(test)


def test_a_cancelled_stop_is_cancelled_although_the_answer_comes() -> None:
    async def test(scene: Scene) -> None:
        stopping = asyncio.create_task(scene.link.stop(0, timeout=10))
        await asyncio.sleep(0)
        said = json.loads(scene.worker.recv(1000))
        scene.worker.send(json.dumps({"op": "stopped", "id": said["id"]}).encode())
        scene.link._readable()  # both at once: the answer is in, and the task has not run yet
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping

    run(test)


@pytest.mark.parametrize(
    "nonsense", [b"{", b"[]", b"3", b"null", b'{"up": 1}', b"\xff\xfe", b"[" * 5000, b'{"op": "stopped", "id": []}']
)
def test_a_worker_that_speaks_otherwise_is_killed(nonsense: bytes) -> None:
    async def test(scene: Scene) -> None:
        scene.worker.send(nonsense)
        while not scene.nursery.killed:
            await asyncio.sleep(0)
        assert scene.heard == []

    run(test)


def test_a_worker_that_does_not_listen_is_killed() -> None:
    async def test(scene: Scene) -> None:
        for _ in range(100_000):
            scene.link.enable(Vring(0))
            if scene.nursery.killed:
                return
        raise AssertionError("the socket never filled up")

    run(test)


def test_what_it_says_is_passed_on() -> None:
    async def test(scene: Scene) -> None:
        scene.worker.send(b'{"op": "ready"}')
        scene.worker.send(b'{"op": "log", "message": "hello"}')
        scene.worker.close()
        await scene.died.wait()
        assert [message["op"] for message in scene.heard] == ["ready", "log"]

    run(test)


def test_last_words_are_heard_of_one_that_dies_over_what_it_was_told() -> None:
    async def test(scene: Scene) -> None:
        scene.link.ping()
        scene.worker.send(b'{"op": "log", "message": "why"}')
        scene.worker.close()  # the ping is still in it
        await scene.died.wait()
        assert [message["op"] for message in scene.heard] == ["log"]

    run(test)


def test_a_worker_that_does_not_die_is_killed_with_all_that_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "GRACE", 0.01)

    async def test(scene: Scene) -> None:
        scene.link.kill()
        scene.link.kill()
        while not scene.nursery.all_killed:
            await asyncio.sleep(0.01)
        assert scene.nursery.killed == [4242, 4242]

    run(test)


def test_a_worker_that_dies_in_time_takes_nobody_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "GRACE", 0.05)

    async def test(scene: Scene) -> None:
        scene.link.kill()
        scene.worker.close()
        await scene.died.wait()
        await asyncio.sleep(0.1)
        assert scene.nursery.all_killed == 0

    run(test)


def test_a_worker_that_is_let_go_hears_of_it_and_its_death_is_waited_for() -> None:
    async def test(scene: Scene) -> None:
        scene.link.let_go()
        assert scene.worker.recv(10) == b""
        assert scene.link.alive
        scene.worker.close()
        await scene.died.wait()

    run(test)


def test_a_pid_that_nobody_tells_comes_with_the_first_packet() -> None:
    async def test(scene: Scene) -> None:
        assert scene.link.pid == 0
        with open(os.devnull) as unwanted:
            socket.send_fds(scene.worker, [b'{"op": "ready"}'], [unwanted.fileno()])  # no descriptor is let in
        while not scene.heard:
            await asyncio.sleep(0)
        assert scene.link.pid == os.getpid()

    run(test, pid=0)
