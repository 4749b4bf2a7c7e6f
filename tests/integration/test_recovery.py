"""A worker dies, hangs or loops: the front end notices nothing, and nothing is lost."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

import pytest

from subos_devices.supervisor import restarts, watchdog
from subos_devices.testing import FrontEnd, GuestRam, NoAnswer, Supervised, supervise
from subos_devices.testing.driver_queue import Pending
from subos_devices.testing.serving import children
from subos_devices.vhost_user.counters import Counters
from subos_protocol.vhost_user import FrontendRequest
from support.processes import descriptors, is_alive, maps
from support.strangers import Reverser, Sleeper, Tired
from support.waiting import eventually


def test_a_worker_is_killed_while_requests_flow() -> None:
    with supervise() as supervised, FrontEnd.connect(supervised.add("rng")) as vm:
        queue = vm.queue(0, size=64)
        for _ in range(3):
            pid = supervised.status()["pid"]
            for number in range(600):
                while len(queue.in_flight) == queue.size:
                    assert len(queue.wait().buffers[0]) == 64
                queue.add(writable=[64])
                queue.kick()
                if number == 300:
                    os.kill(pid, signal.SIGKILL)
            while queue.in_flight:
                queue.wait()
            queue.collect()
            eventually(lambda pid=pid: supervised.status()["pid"] not in (None, 0, pid))  # type: ignore[misc]
        assert supervised.status()["restarts"] == 3
        assert supervised.status()["connected"]


def test_requests_made_while_there_is_no_worker_are_answered_by_the_next() -> None:
    with supervise() as supervised, FrontEnd.connect(supervised.add(Reverser)) as vm:
        first, second = vm.queue(0), vm.queue(1)
        assert first.request([b"abc"], [3]) == [b"cba"]
        pid = supervised.status()["pid"]
        os.kill(pid, signal.SIGSTOP)
        one, two = first.add([b"one"], [3]), second.add([b"two"], [3])
        first.kick()
        second.kick()
        os.kill(pid, signal.SIGKILL)
        assert first.wait(one).buffers == [b"eno"]
        assert second.wait(two).buffers == [b"owt"]


def test_chains_that_a_dead_worker_kept_are_served_again() -> None:
    with supervise() as supervised, FrontEnd.connect(supervised.add(Reverser, batch=2)) as vm:
        queue = vm.queue(1)
        kept = queue.add([b"kept"], [4])
        queue.kick()
        with pytest.raises(NoAnswer):
            queue.wait(timeout=0.2)
        os.kill(supervised.status()["pid"], signal.SIGKILL)
        assert queue.request([b"more"], [4]) == [b"erom"]
        assert queue.wait(kept).buffers == [b"tpek"]


def test_a_hung_worker_delays_no_answer_and_is_replaced() -> None:
    with supervise() as supervised, FrontEnd.connect(supervised.add(Reverser), timeout=20) as vm:
        queue = vm.queue(0)
        assert queue.request([b"abc"], [3]) == [b"cba"]
        pid = supervised.status()["pid"]
        os.kill(pid, signal.SIGSTOP)
        # None of these waits for it, not even for the moment that it has to let go of a ring.
        vm.ask(FrontendRequest.GET_FEATURES)
        assert vm.config(0, 8) == b"reverser"
        vm.set_memory()
        vm.enable(queue, False)
        vm.enable(queue, True)
        assert supervised.status()["restarts"] == 0
        # This one must wait for it, but not for long.
        assert vm.stop(queue) == 1
        assert not is_alive(pid)
        vm.start(queue, base=1)
        assert queue.request([b"def"], [3]) == [b"fed"]
        assert supervised.status()["restarts"] == 1


def test_a_slow_worker_is_waited_for_when_its_ring_is_taken_back() -> None:
    with supervise() as supervised, FrontEnd.connect(supervised.add(Sleeper), timeout=20) as vm:
        queue = vm.queue(0, size=128)
        for _ in range(120):  # 2.4 seconds of work, in one batch
            queue.add([b"abc"], [3])
        queue.kick()
        assert queue.wait().buffers == [b"cba"]
        assert 0 < vm.stop(queue) < 120
        assert supervised.status()["restarts"] == 0


def test_a_front_end_that_leaves_a_device_whose_folder_is_gone_may_be_followed_by_another(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    with supervise() as supervised:
        path = supervised.add("fs", shared_dir=str(shared))
        with FrontEnd.connect(path):
            shared.rmdir()
        eventually(lambda: not supervised.status()["connected"])
        with FrontEnd.connect(path) as vm:
            assert vm.ask(FrontendRequest.GET_FEATURES)


def test_a_worker_cannot_shorten_what_the_supervisor_reads() -> None:
    fd = Counters.create()
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def test_a_memory_table_is_taken_while_the_worker_is_dead() -> None:
    with supervise() as supervised, FrontEnd.connect(supervised.add(Reverser)) as vm:
        queue = vm.queue(0)
        crash_until_backed_off(supervised, vm)
        vm.set_memory()
        vm.replace_call(queue)
        queue.reset()
        queue.request([b"never", b"mind"], [9])


def test_a_poisonous_request_is_retried_ever_slower_and_control_goes_on() -> None:
    with supervise() as supervised, FrontEnd.connect(supervised.add(Reverser)) as vm:
        queue = vm.queue(0)
        crash_until_backed_off(supervised, vm)
        assert vm.config(0, 8) == b"reverser"
        # The guest gives up, and resets the device: with the request gone, all is well again.
        vm.reboot()
        assert queue.request([b"abc"], [3]) == [b"cba"]


def crash_until_backed_off(supervised: Supervised, vm: FrontEnd) -> None:
    """The device dies of one request again and again, until its next worker waits for a while."""
    vm.queues[0].add([b"crash"], [8])
    vm.queues[0].kick()
    eventually(lambda: supervised.status()["restarts"] >= 4)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of deaths take no time."""
    monkeypatch.setattr(restarts, "BACKOFF", (0.0, 0.0, 0.01))
    monkeypatch.setattr(watchdog, "PERIOD", 0.05)


def crash_until_quiet(supervised: Supervised, vm: FrontEnd) -> Pending:
    pending = vm.queues[0].add([b"crash"], [8])
    vm.queues[0].kick()
    eventually(lambda: supervised.status()["quiet"])
    return pending


@pytest.mark.usefixtures("impatient")
def test_a_device_that_dies_again_and_again_is_held_quiet(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.WARNING, logger="subos"),
        supervise() as supervised,
        FrontEnd.connect(supervised.add(Reverser)) as vm,
    ):
        queue = vm.queue(0)
        began = time.time()
        crash_until_quiet(supervised, vm)
        status = supervised.status()
        assert status["restarts"] == 3
        assert status["pid"] is None
        assert "RuntimeError: a bug in this device" in status["quiet"]["reason"]
        assert began <= status["quiet"]["since"] <= time.time()
        (said,) = (line for line in caplog.messages if "die again and again" in line)
        assert "a worker is tried every 60 s" in said
        # The control plane answers, whatever it is asked.
        assert vm.config(0, 8) == b"reverser"
        vm.set_memory()
        vm.replace_call(queue)
        vm.enable(queue, False)
        vm.enable(queue, True)
        assert supervised.status()["restarts"] == 3
        # With the request gone all is well again, and the guest need not wait for a minute.
        vm.reboot()
        assert queue.request([b"abc"], [3]) == [b"cba"]
        eventually(lambda: supervised.status()["quiet"] is None)
        assert [line for line in caplog.messages if "its worker lives, and serves again" in line]


@pytest.mark.usefixtures("impatient")
def test_a_quiet_device_is_tried_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "RETRY", 0.2)
    with supervise() as supervised, FrontEnd.connect(supervised.add(Reverser)) as vm:
        vm.queue(0)
        pending = crash_until_quiet(supervised, vm)
        count = supervised.status()["restarts"]
        eventually(lambda: supervised.status()["restarts"] >= count + 3)
        assert supervised.status()["quiet"]
        ((address, _),) = pending.readable
        vm.ram.write(address, b"brush")  # as if it was cured meanwhile
        assert vm.queues[0].wait(pending).buffers == [b"hsurb"]
        eventually(lambda: supervised.status()["quiet"] is None)


@pytest.mark.usefixtures("impatient")
def test_a_quiet_device_may_go_and_its_front_end_be_followed_by_another() -> None:
    with supervise() as supervised:
        path = supervised.add(Reverser)
        with FrontEnd.connect(path) as vm:
            vm.queue(0)
            crash_until_quiet(supervised, vm)
        eventually(lambda: not supervised.status()["connected"])
        with FrontEnd.connect(path) as vm:
            assert vm.queue(0).request([b"abc"], [3]) == [b"cba"]


def test_a_worker_that_is_out_of_memory_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.WARNING, logger="subos"),
        supervise() as supervised,
        FrontEnd.connect(supervised.add(Tired, "tired")) as vm,
    ):
        queue = vm.queue(0)
        queue.add([b"hog"], [4096])  # a gigabyte, of the 256 MiB that its row has
        queue.kick()
        # A name of its own, as the log is throttled by device.
        eventually(lambda: supervised.status("tired")["restarts"] >= 2)
        assert "MemoryError" in caplog.text
        vm.reboot()
        assert queue.request([b"nothing"], [4096]) == [b"null"]


def test_twenty_reconnections_leak_nothing() -> None:
    with supervise() as supervised, GuestRam() as ram:
        path = supervised.add(Reverser)
        ours = descriptors()

        def converse() -> None:
            with FrontEnd.connect(path, ram=ram) as vm:
                assert vm.queue(0).request([b"abc"], [3]) == [b"cba"]
                assert vm.queue(1).request([b"abc"], [3]) == [b"cba"]
                vm.reboot()
                vm.set_memory()
                vm.replace_call(vm.queues[1])
                assert vm.queues[1].request([b"abc"], [3]) == [b"cba"]
            eventually(lambda: not supervised.status()["connected"])

        converse()
        pid = supervised.status()["pid"]
        workers = eventually(lambda: not maps(pid, "guest-ram") and descriptors(pid))
        for _ in range(20):
            converse()
        eventually(lambda: descriptors() == ours)
        assert supervised.status()["pid"] == pid
        eventually(lambda: not maps(pid, "guest-ram"))
        assert descriptors(pid) == workers


def test_a_front_end_that_comes_back_finds_its_rings_as_they_were() -> None:
    with supervise() as supervised:
        path = supervised.add(Reverser)
        with FrontEnd.connect(path) as vm:
            queue = vm.queue(0)
            assert queue.request([b"abc"], [3]) == [b"cba"]
            vm.enable(queue, False)
            pending = queue.add([b"def"], [3])
            queue.kick()
            vm.reconnect(path)
            assert queue.wait(pending).buffers == [b"fed"]


def test_a_ring_that_is_taken_back_before_the_next_worker_is_made_is_not_touched_by_it() -> None:
    with supervise() as supervised, FrontEnd.connect(supervised.add(Reverser)) as vm:
        queue = vm.queue(0)
        assert queue.request([b"abc"], [3]) == [b"cba"]
        (zygote,) = children(os.getpid())
        os.kill(zygote, signal.SIGSTOP)
        try:
            os.kill(supervised.status()["pid"], signal.SIGKILL)
            eventually(lambda: supervised.status()["restarts"] == 1)
            waiting = queue.add([b"one"], [3])
            queue.kick()
            assert vm.stop(queue) == 1  # and nobody is waited for
        finally:
            os.kill(zygote, signal.SIGCONT)
        eventually(lambda: supervised.status()["sandbox"])  # the next one is ready
        assert not queue.collect()
        vm.start(queue, base=1)
        assert queue.wait(waiting).buffers == [b"eno"]
        assert supervised.status()["restarts"] == 1
