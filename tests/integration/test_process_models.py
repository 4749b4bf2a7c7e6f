"""Devices that share a worker, and those that the supervisor serves itself."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from subos_devices import doctor
from subos_devices.errors import UserError
from subos_devices.supervisor.sandbox import report
from subos_devices.testing import FrontEnd, NoAnswer, Supervised, supervise
from subos_devices.testing.serving import kind_of
from support.command import family, refused, status_of, subos, wait_ended
from support.fake_qemu import FakeQemu
from support.ordinary import as_nobody, open_folder
from support.processes import descriptors, is_alive, maps
from support.strangers import Inquisitive, Reverser, Unwilling
from support.waiting import eventually

from .test_sandbox import ONLY_ROOT

REVERSER, INQUISITIVE = kind_of(Reverser), kind_of(Inquisitive)
GROUP = [f"{REVERSER}=group:small", "rng=group:small"]
INLINE = [f"{REVERSER}=inline", "rng=inline"]


@contextmanager
def grouped(*names: str) -> Iterator[tuple[Supervised, list[FrontEnd]]]:
    """Reversers with a queue each, in one process."""
    with supervise(process=GROUP) as supervised, ExitStack() as stack:
        front_ends = []
        for name in names:
            vm = stack.enter_context(FrontEnd.connect(supervised.add(Reverser, name)))
            vm.queue(0)
            front_ends.append(vm)
        yield supervised, front_ends


def reverse(vm: FrontEnd, data: bytes) -> bytes:
    return vm.queues[0].request([data], [len(data)])[0]


def pids(supervised: Supervised, *names: str) -> set[int]:
    """Processes of these devices, once the zygote has told of each."""
    return eventually(lambda: found if all(found := {supervised.status(name)["pid"] for name in names}) else set())


def restarts(supervised: Supervised, *names: str) -> list[int]:
    return [supervised.status(name)["restarts"] for name in names]


# --- groups


def test_a_group_is_one_process_and_comes_back_as_one() -> None:
    with grouped("a", "b", "c") as (supervised, vms):
        [pid] = pids(supervised, "a", "b", "c")
        assert {supervised.status(name)["process"] for name in "abc"} == {"group:small"}
        assert [reverse(vm, b"abc") for vm in vms] == [b"cba"] * 3
        eventually(lambda: [supervised.status(name)["requests"] for name in "abc"] == [1, 1, 1])
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not is_alive(pid))  # else it may answer once more, and die before it has counted that
        assert [reverse(vm, b"def") for vm in vms] == [b"fed"] * 3
        [another] = pids(supervised, "a", "b", "c")
        assert another != pid
        assert restarts(supervised, "a", "b", "c") == [1, 1, 1]
        eventually(lambda: [supervised.status(name)["requests"] for name in "abc"] == [2, 2, 2])


def test_requests_made_while_a_group_is_dead_are_answered_by_the_next() -> None:
    with grouped("a", "b") as (supervised, vms):
        [pid] = pids(supervised, "a", "b")
        os.kill(pid, signal.SIGSTOP)
        pending = [vm.queues[0].add([b"abc"], [3]) for vm in vms]
        for vm in vms:
            vm.queues[0].kick()
        os.kill(pid, signal.SIGKILL)
        assert [vm.queues[0].wait(each).buffers for vm, each in zip(vms, pending, strict=True)] == [[b"cba"]] * 2


def test_a_crash_of_one_costs_the_others_a_moment() -> None:
    with grouped("a", "b") as (supervised, [poisoned, other]):
        poisoned.queues[0].add([b"crash"], [8])
        poisoned.queues[0].kick()
        eventually(lambda: restarts(supervised, "a", "b") >= [2, 2])
        assert restarts(supervised, "a") == restarts(supervised, "b")
        poisoned.reboot()
        assert reverse(poisoned, b"abc") == b"cba"
        assert reverse(other, b"def") == b"fed"


def test_a_ring_that_its_driver_broke_costs_the_others_nothing() -> None:
    with grouped("a", "b") as (supervised, [broken, other]):
        queue = broken.queues[0]
        broken.ram.view(queue.avail, 4).cast("H")[1] = queue.size + 7
        queue.kick()
        eventually(lambda: supervised.status("a")["faults"] == 1)
        assert reverse(other, b"abc") == b"cba"
        assert (supervised.status("b")["faults"], restarts(supervised, "a", "b")) == (0, [0, 0])


def test_a_hung_group_is_replaced_when_one_ring_is_taken_back() -> None:
    with grouped("a", "b") as (supervised, [first, second]):
        [pid] = pids(supervised, "a", "b")
        os.kill(pid, signal.SIGSTOP)
        assert first.stop(first.queues[0]) == 0
        eventually(lambda: not is_alive(pid))
        assert reverse(second, b"abc") == b"cba"
        first.start(first.queues[0], base=0)
        assert reverse(first, b"abc") == b"cba"


def test_one_that_goes_leaves_the_others_alone_and_one_that_comes_has_their_process_started_anew() -> None:
    with grouped("a", "b") as (supervised, vms):
        before = pids(supervised, "a", "b")
        supervised.remove("b")
        assert reverse(vms[0], b"abc") == b"cba"
        assert pids(supervised, "a") == before
        with FrontEnd.connect(supervised.add(Reverser, "c")) as third:
            third.queue(0)
            assert reverse(vms[0], b"abc") == b"cba"
            assert reverse(third, b"abc") == b"cba"
            after = pids(supervised, "a", "c")
            assert len(after) == 1
            assert after != before
            assert restarts(supervised, "a", "c") == [0, 0]
            supervised.remove("a")
            supervised.remove("c")
        eventually(lambda: not any(map(is_alive, after)))


def test_one_that_cannot_be_leaves_the_group_as_it_was() -> None:
    process = [*GROUP, f"{kind_of(Unwilling)}=group:small"]
    with supervise(process=process) as supervised, FrontEnd.connect(supervised.add(Reverser)) as vm:
        vm.queue(0)
        with pytest.raises(UserError, match="not there"):
            supervised.add(Unwilling, "unwilling")
        assert reverse(vm, b"abc") == b"cba"


def test_two_groups_and_one_alone() -> None:
    with supervise(process=["a=group:one", "b=group:one", "c=group:two"]) as supervised:
        for name in ("a", "b", "c", "d"):
            supervised.add("rng", name)
        assert len(pids(supervised, "a", "b")) == 1
        assert len(pids(supervised, "a", "b", "c", "d")) == 3
        assert supervised.status("d")["process"] == "own"


def test_twenty_four_in_one() -> None:
    names = [f"r{number}" for number in range(24)]
    with supervise(process=["rng=group:all"]) as supervised, ExitStack() as stack:
        vms = [stack.enter_context(FrontEnd.connect(supervised.add("rng", name))) for name in names]
        for vm in vms:
            assert len(vm.queue(0).request(writable=[8])[0]) == 8
        [pid] = pids(supervised, *names)
        os.kill(pid, signal.SIGKILL)
        for vm in vms:
            assert len(vm.queues[0].request(writable=[8])[0]) == 8
        assert set(restarts(supervised, *names)) == {1}


def test_a_group_is_jailed_as_each_of_its_devices_would_be() -> None:
    with supervise(process=["rng=group:all", "mouse=group:all"]) as supervised:
        supervised.add("rng", "rng")
        supervised.add("mouse", "mouse")
        for name in ("rng", "mouse"):
            said = eventually(lambda name=name: supervised.status(name)["sandbox"])  # type: ignore[misc]
            assert said == report.try_out("rng")


def test_what_its_filter_kills_is_told_of_for_each(caplog: pytest.LogCaptureFixture) -> None:
    process = [f"{INQUISITIVE}=group:small", *GROUP]
    with (
        supervise(process=process) as supervised,
        FrontEnd.connect(supervised.add(Inquisitive, "nosy")) as vm,
        caplog.at_level(logging.ERROR, logger="subos"),
    ):
        supervised.add("rng", "rng")
        vm.queue(0).add([b"signal"], [4096])
        vm.queues[0].kick()
        for name in ("nosy", "rng"):
            eventually(lambda name=name: f"{name}: its worker was killed by its sandbox" in caplog.text)  # type: ignore[misc]


def test_memory_is_counted_once() -> None:
    with supervise(process=["rng=group:all"]) as supervised:
        for name in ("a", "b", "c"):
            supervised.add("rng", name)
        supervised.add("mouse", "mouse")
        [shared], [alone] = pids(supervised, "a", "b", "c"), pids(supervised, "mouse")
        lines, memory = supervised.status_and_memory()
        costs = {line["pid"]: line["pss"] for line in lines}
        assert set(costs) == {shared, alone}
        assert memory["workers"] == costs[shared] + costs[alone]
        assert memory["unseen"] == 0
        assert all(1 << 20 < cost < 64 << 20 for cost in (*costs.values(), memory["zygote"]))


@ONLY_ROOT
def test_an_ordinary_user_sees_what_its_workers_cost_though_nobody_may_look_into_them() -> None:
    importlib.import_module("concurrent.futures.thread")  # nobody may not be able to read it where it lies

    def run() -> None:
        tempfile.tempdir = str(folder)
        with supervise(process=["rng=group:all"]) as supervised:
            for name in ("a", "b"):
                supervised.add("rng", name)
            ours = descriptors()
            lines, memory = supervised.status_and_memory()
            assert (memory["unseen"], memory["workers"]) == (0, lines[0]["pss"])
            assert 1 << 20 < lines[0]["pss"] < 64 << 20
            assert descriptors() == ours

    with open_folder() as folder:
        as_nobody(run)


# --- inline


def test_inline_is_served_by_the_supervisor_and_says_so() -> None:
    with supervise(process=INLINE) as supervised, FrontEnd.connect(supervised.add(Reverser)) as vm:
        first, second = vm.queue(0), vm.queue(1)
        assert first.request([b"abc"], [3]) == [b"cba"]
        assert second.request([b"abc"], [3]) == [b"cba"]
        status = supervised.status()
        assert (status["pid"], status["process"], status["requests"]) == (os.getpid(), "inline", 2)
        assert report.summary(status["sandbox"]) == "none (inline)"
        _, memory = supervised.status_and_memory()
        assert memory["workers"] == 0


def test_inline_obeys_as_a_worker_does() -> None:
    with supervise(process=INLINE) as supervised, FrontEnd.connect(supervised.add(Reverser, batch=2)) as vm:
        queue, keeping = vm.queue(0), vm.queue(1)
        assert queue.request([b"abc"], [3]) == [b"cba"]
        vm.enable(queue, False)
        pending = queue.add([b"def"], [3])
        queue.kick()
        with pytest.raises(NoAnswer):
            queue.wait(pending, timeout=0.2)
        vm.enable(queue, True)
        assert queue.wait(pending).buffers == [b"fed"]
        kept = keeping.add([b"kept"], [4])
        keeping.kick()
        vm.set_memory()
        vm.replace_call(keeping)
        assert keeping.request([b"more"], [4]) == [b"erom"]
        assert keeping.wait(kept).buffers == [b"tpek"]
        assert vm.stop(queue) == 2
        assert supervised.status()["restarts"] == 0


def test_a_batch_that_takes_longer_than_its_slice_is_finished_inline() -> None:
    with supervise(process=["rng=inline"]) as supervised, FrontEnd.connect(supervised.add("rng")) as vm:
        queue = vm.queue(0, size=256)
        for _ in range(120):
            queue.add(writable=[65_536 // 2])
        queue.kick()
        while queue.in_flight:
            queue.wait()


def test_what_fails_inline_ends_alone_and_leaks_nothing() -> None:
    with supervise(process=INLINE) as supervised, FrontEnd.connect(supervised.add(Reverser)) as vm:
        supervised.add("rng", "rng")
        vm.queue(0)
        assert reverse(vm, b"abc") == b"cba"
        before = descriptors(), maps(os.getpid(), "subos-counters")
        for count, death in enumerate((b"crash", b"exit", b"crash"), 1):
            vm.queues[0].add([death], [8])
            vm.queues[0].kick()
            eventually(lambda count=count: supervised.status()["restarts"] >= count)  # type: ignore[misc]
            vm.reboot()
            assert reverse(vm, b"abc") == b"cba"
        assert supervised.status("rng")["restarts"] == 0
        eventually(lambda: (descriptors(), maps(os.getpid(), "subos-counters")) == before)


def test_front_ends_that_come_and_go_leak_nothing_inline() -> None:
    with supervise(process=INLINE) as supervised:
        path = supervised.add(Reverser)
        ours = descriptors()
        for _ in range(5):
            with FrontEnd.connect(path) as vm:
                vm.queue(0)
                assert reverse(vm, b"abc") == b"cba"
            eventually(lambda: not supervised.status()["connected"])
        eventually(lambda: descriptors() == ours and not maps(os.getpid(), "guest-ram"))


def test_one_that_cannot_be_inline_is_an_error_with_a_hint() -> None:
    with supervise(process=[f"{kind_of(Unwilling)}=inline", *INLINE]) as supervised:
        with pytest.raises(UserError, match="not there"):
            supervised.add(Unwilling)
        with pytest.raises(UserError, match="batch is no number"):
            supervised.add(Reverser, "other", batch="three")


# --- as a person asks for it


def test_an_attached_vm_has_its_devices_as_its_rules_say(folder: Path) -> None:
    with FakeQemu(folder / "qmp") as qemu:
        rules = ["--process", "mouse=group:input", "--process", "keyboard=group:input", "--process", "rng=inline"]
        subos("attach", "--qmp", qemu.path, "--mouse", "--keyboard", "--pen", "--rng", *rules, check=0)
        status = status_of("fake")
        everybody = family(status["pid"])
        devices = {device["name"]: device for device in status["devices"]}
        models = {"mouse": "group:input", "keyboard": "group:input", "pen": "own", "rng": "inline"}
        assert {name: device["process"] for name, device in devices.items()} == models
        assert devices["mouse"]["pid"] == devices["keyboard"]["pid"] != devices["pen"]["pid"]
        assert devices["rng"]["pid"] == status["supervisor"]["pid"]
        assert status["memory"]["workers"] == devices["mouse"]["pss"] + devices["pen"]["pss"]
        shown = subos("status", "fake", check=0).stdout.decode()
        assert f"{devices['mouse']['pid']} input" in shown
        assert " MiB for 2 workers, " in shown
        assert "none (inline)" in shown
        finding = doctor._devices_without_a_process()
        assert (finding.ok, finding.detail) == (False, "inline: rng of fake")
        subos("detach", "fake", check=0)
        wait_ended(everybody)
        assert not qemu.aborted


def test_drivers_reach_each_device_of_a_group(folder: Path) -> None:
    with FakeQemu(folder / "qmp") as qemu:
        subos("attach", "--qmp", qemu.path, "--mouse", "--keyboard", "--process", "mouse=group:i", "--process",
              "keyboard=group:i", check=0)  # fmt: skip
        everybody = family(status_of("fake")["pid"])
        subos("input", "fake", "move 50% 50%, key a", check=0)
        subos("detach", "fake", check=0)
        wait_ended(everybody)


@pytest.mark.parametrize(
    ("rules", "says", "hint"),
    [
        (["mouse"], "the process model 'mouse' names no device", "DEVICE=own"),
        (["mouse=thread"], "there is no process model 'thread'", "own, own:COMMAND"),
        (["mouse=group:"], "the group '' has no name", "group:input"),
        (["moose=own"], "is for 'moose', which is no device", "did you mean mouse?"),
        (["mouse=own:/no/such/program"], "there is no program '/no/such/program'", "own:/whole/path"),
        (["mouse=own:'"], "No closing quotation", "quoted as in a shell"),
        (["vsock=inline"], "vsock cannot be inline", "leave it own"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_plugged(
    folder: Path, rules: list[str], says: str, hint: str
) -> None:
    with FakeQemu(folder / "qmp") as qemu:
        flags = [word for rule in rules for word in ("--process", rule)]
        refusal = refused("attach", "--qmp", qemu.path, "--mouse", "--vsock", *flags)
        assert says in refusal.message
        assert hint in refusal.hint
        assert not qemu.devices


def test_inline_is_less_than_a_sandbox(folder: Path) -> None:
    with FakeQemu(folder / "qmp") as qemu:
        refusal = refused("attach", "--qmp", qemu.path, "--rng", "--process", "rng=inline", "--sandbox", "require")
        assert "rng is inline, where it has no sandbox" in refusal.message
        assert "rng=own" in refusal.hint


def test_serve_takes_a_model_too(folder: Path) -> None:
    command = [sys.executable, "-m", "subos_devices.cli", "serve", "fs", "--shared-dir", str(folder)]
    done = subprocess.run(
        [*command, "--socket-path", str(folder / "s"), "--process", "inline"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "fs cannot be inline: it takes on the guest's users" in done.stderr
    assert not list(folder.iterdir())
