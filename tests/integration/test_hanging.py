"""A worker that hangs is replaced; one that is slow, idle, or waits for its turn is neither replaced nor woken."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from subos_devices.supervisor import caretaker, watchdog
from subos_devices.testing import FrontEnd, NoAnswer, Supervised, supervise
from subos_devices.vhost_user.device import Device
from support.processes import is_alive
from support.strangers import Reverser, Sleeper, Tired
from support.waiting import eventually

PERIOD = 0.05


class Looks:
    """How often the watchdog has looked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        look = caretaker.Caretaker.look

        def counted(one: caretaker.Caretaker) -> None:
            look(one)
            self.count += 1

        monkeypatch.setattr(caretaker.Caretaker, "look", counted)

    def wait(self, more: int = 20) -> None:
        until = self.count + more
        eventually(lambda: self.count >= until)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    monkeypatch.setattr(watchdog, "PERIOD", PERIOD)
    return Looks(monkeypatch)


@contextmanager
def served(device: str | type[Device], **options: Any) -> Iterator[tuple[Supervised, FrontEnd]]:
    with supervise() as supervised, FrontEnd.connect(supervised.add(device, **options)) as vm:
        vm.queue(0)
        yield supervised, vm


def ask(vm: FrontEnd, what: str) -> object:
    return json.loads(vm.queues[0].request([what.encode()], [4096])[0])


def pid(supervised: Supervised) -> int:
    return eventually(lambda: int(supervised.status()["pid"] or 0))


def test_a_worker_that_stands_still_over_a_request_is_replaced(looks: Looks) -> None:
    with served(Tired) as (supervised, vm):
        assert ask(vm, "nothing") is None
        worker = pid(supervised)
        os.kill(worker, signal.SIGSTOP)
        assert ask(vm, "nothing") is None  # by the next one
        assert not is_alive(worker)
        assert supervised.status()["restarts"] == 1


def test_one_that_does_not_come_back_from_what_it_does_besides_is_replaced_too(looks: Looks) -> None:
    with served(Tired) as (supervised, vm):
        assert ask(vm, "fall asleep") is None
        eventually(lambda: supervised.status()["restarts"] == 1)
        assert ask(vm, "nothing") is None


def test_one_that_waits_for_a_disk_is_waited_for(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    disks: list[int] = []

    def waits_for_disk(worker: int) -> bool:
        disks.append(worker)
        return True

    monkeypatch.setattr(caretaker, "waits_for_disk", waits_for_disk)
    with served(Tired) as (supervised, vm):
        assert ask(vm, "nothing") is None
        worker = pid(supervised)
        os.kill(worker, signal.SIGSTOP)
        vm.queues[0].add([b"nothing"], [4096])
        vm.queues[0].kick()
        eventually(lambda: len(disks) > 5)
        assert set(disks) == {worker}
        os.kill(worker, signal.SIGCONT)
        assert vm.queues[0].wait()
        assert supervised.status()["restarts"] == 0


def test_one_that_takes_a_second_within_its_limit_is_not_replaced(
    looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tired, "limit", 30.0)  # of the supervisor's half
    with served(Tired) as (supervised, vm):
        before = looks.count
        assert ask(vm, "doze") is None
        assert looks.count > before + 2
        assert supervised.status()["restarts"] == 0


def test_one_with_much_to_do_is_not_replaced(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sleeper, "limit", 0.6)
    with supervise() as supervised, FrontEnd.connect(supervised.add(Sleeper)) as vm:
        queue = vm.queue(0, size=64)
        for _ in range(60):
            queue.add([b"abc"], [3])
        queue.kick()
        for _ in range(60):
            assert queue.wait().buffers == [b"cba"]
        assert supervised.status()["restarts"] == 0


def test_one_that_has_nothing_to_do_is_not_woken(looks: Looks) -> None:
    with served("rng") as (supervised, vm):
        assert len(vm.queues[0].request(writable=[8])[0]) == 8
        looks.wait()
        before = supervised.status()["wakeups"]
        looks.wait(40)
        assert supervised.status()["wakeups"] == before


def test_buffers_that_wait_for_an_event_are_no_requests(looks: Looks) -> None:
    with served("mouse") as (supervised, vm):
        for _ in range(16):
            vm.queues[0].add(writable=[8])
        vm.queues[0].kick()
        looks.wait()
        before = supervised.status()["wakeups"]
        looks.wait(40)
        assert supervised.status()["wakeups"] == before


def test_one_that_keeps_a_request_is_asked_once_whether_it_lives(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reverser, "limit", 1.0)
    with supervise() as supervised, FrontEnd.connect(supervised.add(Reverser, batch=2)) as vm:
        queue = vm.queue(1)
        kept = queue.add([b"kept"], [4])
        queue.kick()
        looks.wait()
        before = supervised.status()["wakeups"]
        looks.wait(40)
        assert supervised.status()["wakeups"] == before
        with pytest.raises(NoAnswer):
            queue.wait(timeout=0.01)
        assert queue.request([b"more"], [4]) == [b"erom"]
        assert queue.wait(kept).buffers == [b"tpek"]
        assert supervised.status()["restarts"] == 0


def test_one_that_hangs_as_soon_as_it_is_born_is_replaced(looks: Looks) -> None:
    with served(Tired) as (supervised, vm):
        assert ask(vm, "nothing") is None
        os.kill(pid(supervised), signal.SIGKILL)
        eventually(lambda: supervised.status()["restarts"] == 1)
        os.kill(pid(supervised), signal.SIGSTOP)
        assert ask(vm, "nothing") is None
