"""A device whose workers a keeper makes: what they keep outlives them, however they end, and does not hold it down."""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from subos_devices.errors import UserError
from subos_devices.supervisor import link, restarts
from subos_devices.supervisor.sandbox import report
from subos_devices.supervisor.sandbox.policies import AUTO, Choice
from subos_devices.testing import FrontEnd, Supervised, supervise
from subos_devices.testing.serving import children
from support.ordinary import as_nobody, open_folder
from support.processes import descriptors, is_alive
from support.strangers import Keeping
from support.waiting import eventually

from .test_sandbox import ONLY_ROOT


class Guest:
    def __init__(self, supervised: Supervised, vm: FrontEnd) -> None:
        self.supervised = supervised
        self.vm = vm
        vm.queue(0)

    def ask(self, what: str) -> Any:
        return json.loads(self.vm.queues[0].request([what.encode()], [4096])[0])

    def send(self, what: str) -> None:
        self.vm.queues[0].add([what.encode()], [4096])
        self.vm.queues[0].kick()

    @property
    def pid(self) -> int:
        return eventually(lambda: int(self.supervised.status()["pid"] or 0))

    @property
    def keeper(self) -> int:
        return eventually(lambda: int(self.supervised.status()["keeper"] or 0))

    def kill(self) -> None:
        """The worker, once."""
        pid, restarts = self.pid, self.supervised.status()["restarts"]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: self.supervised.status()["restarts"] > restarts)


@contextmanager
def guest(choice: Choice = AUTO) -> Iterator[Guest]:
    with supervise(choice) as supervised, FrontEnd.connect(supervised.add(Keeping), timeout=20) as vm:
        yield Guest(supervised, vm)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next worker is made at once, however often they die."""
    monkeypatch.setattr(restarts, "BACKOFF", (0.0,) * len(restarts.BACKOFF))


def live_on(choice: Choice = AUTO) -> None:
    with guest(choice) as each:
        assert each.ask("respawned") is False
        assert each.ask("eventfd") == 7
        keeper, held = each.keeper, _descriptors(each.pid)
        for count in range(1, 6):
            assert each.ask("count") == count
            each.kill()
            assert each.ask("respawned") is True
            assert each.ask("eventfd") == 7
            assert _descriptors(each.pid) == held
        assert each.keeper == keeper


def _descriptors(pid: int) -> list[str]:
    """An ordinary user may not look into its own jail."""
    return descriptors(pid) if os.geteuid() == 0 else []


@pytest.mark.usefixtures("at_once")
def test_what_is_kept_outlives_any_number_of_workers() -> None:
    live_on()


@pytest.mark.usefixtures("at_once")
def test_without_a_sandbox_too() -> None:
    live_on(Choice("off"))


@ONLY_ROOT
@pytest.mark.usefixtures("at_once")
def test_an_ordinary_user_s_too() -> None:
    def run() -> None:
        tempfile.tempdir = str(folder)
        live_on()

    with open_folder() as folder:
        as_nobody(run)


def test_status_has_the_worker_s_pid_and_the_keeper_s() -> None:
    with guest() as each:
        assert each.ask("count") == 1
        assert children(each.keeper) == [each.pid]
        assert each.supervised.status()["sandbox"] == report.try_out("support.strangers:Keeping")


def test_one_that_leaves_by_itself_begins_anew() -> None:
    with guest() as each:
        assert each.ask("count") == 1
        keeper = each.keeper
        each.send("leave")
        eventually(lambda: each.supervised.status()["restarts"] >= 1)
        each.vm.reboot()
        assert each.ask("count") == 1
        eventually(lambda: not is_alive(keeper))


def test_a_keeper_that_dies_takes_its_worker_along_and_both_come_back() -> None:
    with guest() as each:
        assert each.ask("count") == 1
        keeper, worker = each.keeper, each.pid
        os.kill(keeper, signal.SIGKILL)
        eventually(lambda: not is_alive(worker))
        assert each.ask("count") == 1
        assert each.keeper != keeper
        assert each.supervised.status()["restarts"] == 1


def test_a_zygote_that_dies_takes_both_along_and_all_come_back() -> None:
    with guest() as each:
        assert each.ask("count") == 1
        (zygote,) = (pid for pid in children(os.getpid()) if each.keeper in children(pid))
        worker = each.pid
        os.kill(zygote, signal.SIGKILL)
        eventually(lambda: not is_alive(worker))
        assert each.ask("count") == 1


def test_a_worker_that_takes_its_keeper_s_descriptors_away_gets_another_keeper() -> None:
    with guest() as each:
        assert each.ask("count") == 1
        keeper, worker = each.keeper, each.pid
        each.send("close all")
        eventually(lambda: each.supervised.status()["pid"] not in (None, 0, worker))
        assert not is_alive(worker)  # no two of them ever touch a ring
        each.vm.reboot()
        assert each.ask("count") == 1
        eventually(lambda: not is_alive(keeper))


def test_a_keeper_that_does_not_obey_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "GRACE", 0.2)
    with guest() as each:
        assert each.ask("count") == 1
        keeper, worker = each.keeper, each.pid
        os.kill(keeper, signal.SIGSTOP)
        os.kill(worker, signal.SIGSTOP)
        each.vm.stop(each.vm.queues[0])  # which the worker does not let go of
        eventually(lambda: not is_alive(worker) and not is_alive(keeper))
        each.vm.start(each.vm.queues[0], base=1)
        assert each.ask("count") == 1


def test_what_all_die_of_is_kept_no_longer(caplog: pytest.LogCaptureFixture) -> None:
    with guest() as each:
        assert each.ask("count") == 1
        keeper = each.keeper
        each.vm.queues[0].add([b"poison"], [4096])
        with caplog.at_level(logging.WARNING, logger="subos"):
            each.vm.queues[0].kick()
            eventually(lambda: each.supervised.status()["restarts"] >= restarts.POISONED)
        each.vm.reboot()
        assert each.ask("count") == 1
        assert not is_alive(keeper)
        assert "what was kept is poison" in caplog.text


@pytest.mark.usefixtures("at_once")
def test_workers_that_somebody_kills_before_they_could_do_anything_lose_nothing() -> None:
    with guest() as each:
        assert each.ask("count") == 1
        keeper = each.keeper
        each.send("sleep")
        for _ in range(restarts.POISONED + 1):
            each.kill()
        each.vm.reboot()
        assert each.ask("count") == 2
        assert each.keeper == keeper


def test_a_device_that_can_keep_nothing_does_not_start() -> None:
    with supervise() as supervised, pytest.raises(UserError, match="nothing can be kept here") as raised:
        supervised.add(Keeping, unwilling=True)
    assert raised.value.hint == "keep less"


def test_a_keeper_that_has_only_lost_its_channel_is_ended() -> None:
    """A hostile worker shuts it down, and lives on."""
    with guest() as each:
        assert each.ask("count") == 1
        keeper, worker = each.keeper, each.pid
        each.send("shut all down")
        eventually(lambda: not is_alive(worker) and not is_alive(keeper))
        each.vm.reboot()
        assert each.ask("count") == 1
