"""The zygote: workers are born, end and are killed; nobody else is."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from subos_devices.supervisor.process_models import Model
from subos_devices.supervisor.zygote import Wanted, Zygote
from subos_devices.testing.serving import children, importable
from subos_devices.vhost_user.counters import Counters
from subos_devices.vhost_user.device import DeviceSpec
from support.processes import descriptors, is_alive
from support.waiting import eventually


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    before = descriptors()
    zygote = Zygote.start()
    yield zygote
    zygote.close()
    assert not is_alive(zygote.pid)
    assert descriptors() == before


class Worker:
    """One that was asked for; `control` is the supervisor's end."""

    def __init__(self, zygote: Zygote, kind: str, *, name: str = "w", **fds: int) -> None:
        self.zygote = zygote
        self.pid = 0
        self.told: list[int] = []
        """Its pid, and its exit status."""
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(10)
        counters = Counters.create()
        with theirs:
            spec = DeviceSpec(kind, name, {}, fds)
            zygote.spawn([Wanted(spec, theirs, counters, on_pid=self.born, on_end=self.told.append)], Model())
        os.close(counters)

    def born(self, pid: int) -> None:
        self.pid = pid
        self.told.append(pid)

    def said(self) -> dict[str, object]:
        message: dict[str, object] = json.loads(self.control.recv(1000) or b'{"op": "gone"}')
        return message

    def wait(self) -> int:
        hear(self.zygote, lambda: self.pid)
        return self.pid


def hear(zygote: Zygote, until: Callable[[], object]) -> None:
    while not until():
        assert select.select([zygote.channel], [], [], 10)[0], "the zygote says nothing"
        assert zygote.hear()


def test_a_worker_lives_until_its_supervisor_lets_go(zygote: Zygote) -> None:
    worker = Worker(zygote, "rng")
    assert worker.said()["op"] == "ready"
    assert worker.wait() in children(zygote.pid)
    worker.control.close()
    eventually(lambda: not children(zygote.pid))


def test_workers_die_with_the_zygote(zygote: Zygote) -> None:
    workers = [Worker(zygote, "rng") for _ in range(3)]
    pids = [worker.wait() for worker in workers]
    assert len(set(pids)) == 3
    os.kill(zygote.pid, signal.SIGSTOP)
    unborn = Worker(zygote, "rng")
    os.kill(zygote.pid, signal.SIGKILL)
    eventually(lambda: not any(map(is_alive, pids)))
    for worker in (*workers, unborn):
        worker.control.close()
    eventually(lambda: not zygote.hear())
    zygote.restart()
    assert [worker.told for worker in workers] == [[pid, -signal.SIGKILL] for pid in pids]
    assert unborn.told == [0]
    worker = Worker(zygote, "rng")
    assert worker.said()["op"] == "ready"
    worker.control.close()


def test_only_its_own_workers_are_killed(zygote: Zygote) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        first, second = Worker(zygote, "rng"), Worker(zygote, "rng")
        zygote.kill(bystander.pid)
        assert first.said()["op"] == "ready"
        zygote.kill(first.wait())
        assert first.said() == {"op": "gone"}
        zygote.kill(first.pid)  # reaped, perhaps somebody else's by now
        assert second.said()["op"] == "ready"
        third = Worker(zygote, "rng")
        assert third.said()["op"] == "ready"
        assert bystander.poll() is None
        assert is_alive(second.wait())
        for worker in (first, second, third):
            worker.control.close()
    finally:
        bystander.kill()
        bystander.wait()


def test_a_device_that_cannot_be_built_says_so(zygote: Zygote) -> None:
    worker = Worker(zygote, "no.such.module:Class")
    said = worker.said()
    assert said["op"] == "failed"
    assert "cannot be loaded" in str(said["message"])
    assert worker.said() == {"op": "gone"}
    worker.control.close()


def test_a_worker_holds_what_it_was_given_and_nothing_else(zygote: Zygote) -> None:
    with socket.socket(socket.AF_UNIX) as secret, open("/proc/self/status") as ours:
        worker = Worker(zygote, "rng", driver=ours.fileno())
        assert worker.said()["op"] == "ready"
        held = descriptors(worker.wait())
        assert secret.fileno() >= 0
        assert held.count("socket") == 1
        assert [name for name in held if name.endswith("/status")] == ["/proc/PID/status"]
        assert {name for name in held if "memfd" in name} == {"/memfd:subos-counters (deleted)"}
        worker.control.close()


def test_a_worker_pays_for_nothing_that_it_does_not_use() -> None:
    # `threading`, which `logging` brings, alone dirties half a megabyte of each worker as it is forked.
    program = "import sys; from subos_devices import registry; from subos_devices.supervisor import zygote_process"
    program += "; list(map(registry.load, registry.KINDS)); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", program], env=importable(), stdout=subprocess.PIPE, text=True, check=True
    ).stdout.split()
    assert "subos_devices.fs.device" in loaded
    assert not {"argparse", "asyncio", "dataclasses", "inspect", "logging", "subprocess", "threading"} & set(loaded)
    assert not {"pathlib", "shutil", "urllib.parse", "zlib"} & set(loaded)


def test_modules_are_not_taken_from_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a stranger')")
    monkeypatch.chdir(tmp_path)
    zygote = Zygote.start("rng")
    try:
        worker = Worker(zygote, "rng")
        assert worker.said()["op"] == "ready"
        worker.control.close()
    finally:
        zygote.close()
