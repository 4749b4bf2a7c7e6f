"""The supervisor is killed, hangs, or is replaced: neither the front end nor the worker notices."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from subos_devices.errors import SubosError, UserError
from subos_devices.supervisor import holder, ledger, pulse, reign, supervisor, supervisor_link
from subos_devices.supervisor.holder import Holder
from subos_devices.testing import FrontEnd
from subos_devices.testing.serving import children
from subos_protocol import __version__
from support.holding import Held, hold
from support.processes import descriptors, is_alive
from support.strangers import Reverser, Tardy
from support.waiting import eventually


def reverses(vm: FrontEnd, word: bytes = b"abc") -> None:
    assert vm.queues[0].request([word], [len(word)]) == [word[::-1]]


# --- death


def test_one_that_is_killed_is_succeeded_and_the_worker_lives_on() -> None:
    with hold() as held, FrontEnd.connect(held.add(Reverser)) as vm:
        queue = vm.queue(0)
        reverses(vm)
        old, before = held.supervisor, held.status()
        new = held.kill()
        assert new != old
        reverses(vm, b"def")
        after = held.status()
        assert after["pid"] == before["pid"] == held.mirror().pid
        assert (after["restarts"], after["connected"], held.disconnections) == (0, True, 0)
        assert vm.stop(queue) == 2
        assert held.holder.status() == {"pid": new, "version": __version__, "restarts": 1}


def test_requests_flow_on_while_there_is_none() -> None:
    with hold() as held, FrontEnd.connect(held.add(Reverser)) as vm:
        queue, over = vm.queue(0, size=64), threading.Event()
        worker = held.status()["pid"]

        def kill() -> None:
            for _ in range(3):
                time.sleep(0.3)
                held.kill()
            over.set()

        killer = threading.Thread(target=kill)
        killer.start()
        number = 0
        while not over.is_set():
            reverses(vm, b"%08d" % number)
            number += 1
        killer.join()
        assert number > 100
        assert vm.stop(queue) == number % 65536
        status = held.status()
        assert (status["pid"], status["restarts"], status["requests"]) == (worker, 0, number)
        assert held.holder.status()["restarts"] == 3


@pytest.mark.parametrize("model", ["own", "group:both", "inline"])
def test_whatever_process_serves_it(model: str) -> None:
    """What is served inline dies with its supervisor, and is served by the next one."""
    with (
        hold(process=[f"one={model}", f"two={model}"]) as held,
        FrontEnd.connect(held.add(Reverser, "one"), timeout=30) as one,
        FrontEnd.connect(held.add(Reverser, "two"), timeout=30) as two,
    ):
        for vm in (one, two):
            vm.queue(0)
            reverses(vm)
        before = [held.mirror(name).pid for name in ("one", "two")]
        for _ in range(2):
            held.kill()
            for vm in (one, two):
                reverses(vm, b"and again")
        eventually(lambda: [line["driver"] for line in held.lines()] == [True, True])
        after = [held.status(name)["pid"] for name in ("one", "two")]
        assert after == ([held.supervisor] * 2 if model == "inline" else before)
        os.kill(before[0], signal.SIGKILL) if model != "inline" else held.kill()
        for vm in (one, two):
            reverses(vm, b"once more")
            assert vm.stop(vm.queues[0]) == 4
        assert held.disconnections == 0


@contextmanager
def killing(held: Held, seed: int) -> Iterator[None]:
    """Again and again, at any moment, whatever it does; ever later, so that one comes to its end on a busy machine."""
    over, moments = threading.Event(), random.Random(seed)

    def kill() -> None:
        longest = 0.05
        while not over.wait(moments.uniform(0, longest)):
            longest += 0.005
            pid = held.holder.status()["pid"]
            if pid and is_alive(pid):
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


@pytest.mark.parametrize("seed", range(3))
def test_a_front_end_sets_its_device_up_while_supervisors_die(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reign, "LONGEST", 0.01)
    with hold() as held:
        path = held.add(Reverser)
        with killing(held, seed):
            for number in count():
                if number >= 10 and held.holder.status()["restarts"] >= 5:
                    break
                with FrontEnd.connect(path, timeout=60) as vm:
                    queue = vm.queue(0, size=16)
                    reverses(vm)
                    assert vm.config().startswith(b"reverser")
                    base = vm.stop(queue)
                    assert base == 1
                    vm.start(queue, base=base)
                    reverses(vm, b"%d" % number)
                eventually(lambda: not held.mirror().connected, timeout=60)
        assert held.status()["restarts"] == 0
        assert held.disconnections == number


def test_a_device_that_is_being_added_is_added_by_the_next_one() -> None:
    gate, opener = os.pipe()
    with hold() as held, open(opener, "w"):
        added = held.begin(held.adding(Tardy, fds={"gate": gate}))
        assert held.supervisor
        time.sleep(0.3)
        held.kill()
        time.sleep(0.1)
        assert not added.done()
        os.write(opener, b"!")
        assert added.result(20) is held.mirror()
        with FrontEnd.connect(held.folder / "device0.sock") as vm:
            vm.queue(0)
            reverses(vm)
        assert len([zygote for zygote in children(os.getpid()) if children(zygote)]) == 1
        (worker,) = (pid for zygote in children(os.getpid()) for pid in children(zygote))
        assert worker == held.status()["pid"], "the first one's was ended"


def test_a_device_that_is_being_removed_is_removed_by_the_next_one() -> None:
    with hold() as held:
        for _ in range(5):
            path = held.add(Reverser)
            held.add("rng", "other")
            with FrontEnd.connect(path) as vm:
                vm.queue(0)
                removed = held.begin(held.holder.remove("device0"))
                held.kill()
                removed.result(20)
                with pytest.raises(SubosError):  # whose connection has ended
                    vm.config()
            assert list(held.holder.devices) == ["other"]
            assert [line["name"] for line in held.lines()] == ["other"]
            held.remove("other")


def test_what_cannot_be_added_is_no_device() -> None:
    with hold() as held:
        for _ in range(2):
            with pytest.raises(UserError, match="batch is no number") as caught:
                held.add(Reverser, batch="many")
            assert caught.value.hint == "batch=3"
        assert held.holder.devices == {}
        held.add(Reverser)
        with pytest.raises(UserError, match="two devices are called"):
            held.do(held.holder.add(held.mirror().spec._replace(fds={}), socket.socket()))
        assert [line["name"] for line in held.lines()] == ["device0"]


def test_a_zygote_that_dies_is_replaced_and_workers_come_back() -> None:
    with hold() as held, FrontEnd.connect(held.add(Reverser), timeout=30) as vm:
        vm.queue(0)
        reverses(vm)
        old, worker = held.holder._zygote.pid, held.mirror().pid
        os.kill(old, signal.SIGKILL)
        eventually(lambda: held.mirror().restarts and held.mirror().pid not in (0, worker))
        reverses(vm, b"after")
        assert held.holder._zygote.pid != old
        assert not is_alive(worker)
        assert (held.mirror().restarts, held.disconnections, held.holder.status()["restarts"]) == (1, 0, 0)


def test_a_zygote_that_dies_before_a_supervisor_takes_over_is_replaced_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next supervisor hears of one zygote, not of two."""
    with hold() as held, FrontEnd.connect(held.add(Reverser), timeout=30) as vm:
        vm.queue(0)
        reverses(vm)
        patched_program(monkeypatch, "import time; time.sleep(1)")
        os.kill(held.supervisor, signal.SIGKILL)
        eventually(lambda: held.holder.status()["pid"] is None)
        os.kill(held.holder._zygote.pid, signal.SIGKILL)
        reverses(vm, b"after")
        assert held.supervisor
        assert held.holder.status()["restarts"] == 1
        eventually(lambda: held.mirror().restarts == 1)


@pytest.mark.parametrize("first", ["zygote", "supervisor"])
def test_both_die(first: str) -> None:
    with hold() as held, FrontEnd.connect(held.add(Reverser), timeout=30) as vm:
        queue = vm.queue(0)
        reverses(vm)
        both = {"zygote": held.holder._zygote.pid, "supervisor": held.supervisor}
        os.kill(both.pop(first), signal.SIGKILL)
        (other,) = both.values()
        os.kill(other, signal.SIGKILL)
        reverses(vm, b"after")
        eventually(lambda: held.mirror().restarts == 1 and held.mirror().pid)
        assert (held.disconnections, held.status()["connected"]) == (0, True)
        assert vm.stop(queue) == 2


def test_one_that_hangs_is_ended_and_succeeded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pulse, "PING", 0.1)
    with hold() as held, FrontEnd.connect(held.add(Reverser), timeout=30) as vm:
        queue, old = vm.queue(0), held.supervisor
        time.sleep(0.5)
        assert held.supervisor == old, "one that answers is left alone"
        os.kill(old, signal.SIGSTOP)
        assert vm.stop(queue) == 0
        assert held.supervisor != old
    assert "the supervisor hangs" in caplog.text


def test_nothing_grows_from_one_to_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with hold() as held, FrontEnd.connect(held.add(Reverser)) as vm:
        held.add("fs", "share", shared_dir=str(tmp_path))
        with FrontEnd.connect(held.folder / "share.sock") as files:
            vm.queue(0)
            files.queue(0)
            held.restart()
            before = descriptors(), descriptors(held.supervisor)
            for _ in range(4):
                held.restart()
                reverses(vm)
            assert eventually(lambda: (descriptors(), descriptors(held.supervisor)) == before)


def test_what_it_logs_is_heard_here(caplog: pytest.LogCaptureFixture) -> None:
    with hold() as held, FrontEnd.connect(held.add(Reverser)) as vm:
        vm.queue(0)
        os.kill(held.mirror().pid, signal.SIGKILL)
        eventually(lambda: "device0: its worker died; the next one starts now" in caplog.text)
        assert [record.levelno for record in caplog.records] == [logging.WARNING]


# --- another one


def test_another_one_is_ready_before_the_old_one_goes() -> None:
    with hold() as held, FrontEnd.connect(held.add(Reverser)) as vm:
        queue, worker, old = vm.queue(0), held.status()["pid"], held.supervisor
        done = held.restart()
        assert (done.old, done.new) == (old, held.supervisor)
        assert (done.old_version, done.new_version) == (__version__, __version__)
        assert 0 < done.milliseconds < 5000
        reverses(vm)
        assert vm.stop(queue) == 1
        assert (held.status()["pid"], held.holder.status()["restarts"]) == (worker, 1)
        json.dumps(done._asdict())


def test_two_at_the_same_time_come_one_after_the_other() -> None:
    with hold() as held, FrontEnd.connect(held.add(Reverser)) as vm:
        vm.queue(0)
        both = [held.begin(held.holder.restart()) for _ in range(2)]
        first, second = (each.result(60) for each in both)
        assert (first.new, second.new) == (second.old, held.supervisor)
        reverses(vm)


def test_a_new_version_that_does_not_start_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "subos_devices"
    broken.mkdir()
    with hold() as held, FrontEnd.connect(held.add(Reverser)) as vm:
        vm.queue(0)
        old = held.supervisor
        for content, why in (("", "ModuleNotFoundError"), ("import nothing_of_this_name", "nothing_of_this_name")):
            (broken / "__init__.py").write_text(content)
            with monkeypatch.context() as patched:
                patched.syspath_prepend(tmp_path)
                with pytest.raises(UserError, match=why) as caught:
                    held.restart()
            assert "goes on" in caught.value.hint
        reverses(vm)
        assert (held.supervisor, held.holder.status()["restarts"]) == (old, 0)
        held.restart()
        reverses(vm)


def patched_program(monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    monkeypatch.setattr(supervisor_link, "PROGRAM", f"{before}\n{supervisor_link.PROGRAM}")


def test_a_version_of_another_format_leaves_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with hold() as held, FrontEnd.connect(held.add(Reverser)) as vm:
        vm.queue(0)
        old = held.supervisor
        patched_program(monkeypatch, f"from {ledger.__name__.rpartition('.')[0]} import ledger; ledger.FORMAT = 0")
        with pytest.raises(UserError, match="cannot go on with what") as caught:
            held.restart()
        assert caught.value.hint
        reverses(vm)
        assert held.supervisor == old


def test_one_that_cannot_go_on_gets_another_zygote_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two that fail, whatever of: the third begins without workers."""
    count = tmp_path / "count"
    count.write_text("")
    with hold() as held, FrontEnd.connect(held.add(Reverser), timeout=30) as vm:
        queue = vm.queue(0)
        reverses(vm)
        zygote, worker = held.holder._zygote.pid, held.mirror().pid
        patched_program(
            monkeypatch,
            f"import {supervisor.__name__} as it\n"
            "right = it.Supervisor.restore\n"
            "def wrong(*arguments):\n"
            "    import pathlib\n"
            f"    tries = pathlib.Path({str(count)!r})\n"
            "    if len(tried := tries.read_text()) < 2:\n"
            "        tries.write_text(tried + 'x')\n"
            "        raise RuntimeError('wrong')\n"
            "    return right(*arguments)\n"
            "it.Supervisor.restore = wrong",
        )
        held.kill()
        assert count.read_text() == "xx"
        assert held.holder._zygote.pid != zygote
        reverses(vm, b"after")
        eventually(lambda: held.mirror().restarts == 1)
        assert not is_alive(worker)
        assert (held.disconnections, vm.stop(queue)) == (0, 2)
    assert caplog.text.count("a supervisor does not come to serve") == 2


def test_whoever_wants_another_one_does_not_wait_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reign, "SUCCESSION_PATIENCE", 2.0)
    with hold() as held, FrontEnd.connect(held.add(Reverser), timeout=30) as vm:
        vm.queue(0)
        with monkeypatch.context() as patched:
            wrong = "def wrong(*_): raise RuntimeError('wrong')"
            patched_program(patched, f"import {supervisor.__name__} as it\n{wrong}\nit.Supervisor.restore = wrong")
            for _ in range(2):  # the second begins while none serves
                with pytest.raises(UserError, match="in 2 s") as caught:
                    held.restart()
                assert "again" in caught.value.hint
        assert held.supervisor
        reverses(vm)


def test_while_none_can_be_started_the_workers_serve_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with hold() as held, FrontEnd.connect(held.add(Reverser), timeout=30) as vm:
        queue = vm.queue(0)
        reverses(vm)
        worker = held.mirror().pid
        with monkeypatch.context() as patched:
            patched_program(patched, "raise SystemExit(3)")
            os.kill(held.supervisor, signal.SIGKILL)
            eventually(lambda: caplog.text.count("does not come to serve: it ended with status 3") > 3)
            reverses(vm, b"meanwhile")
        assert held.supervisor
        assert (held.mirror().pid, held.mirror().restarts) == (worker, 0)
        assert vm.stop(queue) == 2


def test_where_not_even_the_first_one_serves_devices_cannot_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    patched_program(monkeypatch, "raise SystemExit(3)")
    with hold() as held:
        for _ in range(2):
            with pytest.raises(SubosError, match="does not serve: it ended with status 3"):
                held.add(Reverser)
        assert held.holder.devices == {}


# --- the end


def test_one_that_was_never_entered_is_closed() -> None:
    made = Holder.start("rng")
    assert len(children(os.getpid())) == 2
    made.close()
    made.close()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.parametrize("which", ["supervisor", "zygote"])
def test_whoever_is_gone_or_hangs_does_not_hold_the_end_up(
    which: str, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holder, "CLOSE_PATIENCE", 0.5)
    with hold() as held, FrontEnd.connect(held.add(Reverser)) as vm:
        vm.queue(0)
        pid = {"supervisor": held.supervisor, "zygote": held.holder._zygote.pid}[which]
        os.kill(pid, number)
        began = time.monotonic()
    assert time.monotonic() - began < 10


def test_the_end_comes_while_one_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with hold() as held:
        held.add(Reverser)
        os.kill(held.supervisor, signal.SIGKILL)


def test_nobody_outlives_the_launcher() -> None:
    with hold() as held:
        held.add(Reverser)
        pids = [held.supervisor, held.holder._zygote.pid, held.mirror().pid]
        assert all(is_alive(pid) for pid in pids)
    eventually(lambda: not any(is_alive(pid) for pid in pids))
