"""The supervisor is killed together with others, or at a bad moment: what is lost is no more than what is said, and
every device is served in the end."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from subos_devices.testing import Disconnected, FrontEnd
from subos_devices.testing.serving import children
from support.holding import Held, hold
from support.processes import is_alive
from support.share_client import ShareClient
from support.strangers import Reverser
from support.waiting import eventually


@pytest.fixture
def shared(tmp_path: Path) -> str:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "there").write_bytes(b"data")
    return str(folder)


def draw(vm: FrontEnd) -> None:
    assert len(vm.queues[0].request([], [8])[0]) == 8


def together(held: Held, other: int) -> None:
    """Neither hears of the other's death."""
    supervisor = held.supervisor
    os.kill(supervisor, signal.SIGSTOP)
    os.kill(other, signal.SIGKILL)
    os.kill(supervisor, signal.SIGKILL)


@pytest.mark.parametrize("other", ["keeper", "zygote"])
def test_a_keeper_dies_too(shared: str, other: str) -> None:
    """The guest's session with it; the next one serves."""
    with hold() as held, FrontEnd.connect(held.add("fs", shared_dir=shared), timeout=20) as vm:
        client = ShareClient(vm.queue(1, size=64))
        client.init()
        node = client.lookup(b"there")
        keeper, worker = held.status()["keeper"], held.mirror().pid
        [zygote] = (pid for pid in children(os.getpid()) if keeper in children(pid))
        together(held, {"keeper": keeper, "zygote": zygote}[other])
        eventually(lambda: not is_alive(worker))
        with pytest.raises(OSError, match="not connected"):
            client.open(node)
        client.init()
        assert client.read(client.lookup(b"there"), client.open(node)) == b"data"


@pytest.mark.parametrize("milliseconds", [0, 2, 4, 6, 8])
def test_a_keepers_worker_is_just_being_made(shared: str, milliseconds: int) -> None:
    """What the guest has open stays open."""
    with hold() as held, FrontEnd.connect(held.add("fs", shared_dir=shared), timeout=20) as vm:
        client = ShareClient(vm.queue(1, size=64))
        client.init()
        node = client.lookup(b"there")
        handle = client.open(node)
        keeper, supervisor = held.status()["keeper"], held.supervisor
        os.kill(children(keeper)[0], signal.SIGKILL)
        time.sleep(milliseconds / 1000)
        os.kill(supervisor, signal.SIGKILL)
        assert client.read(node, handle) == b"data"
        eventually(lambda: held.status()["pid"])
        assert client.read(node, handle) == b"data"
        assert held.status()["keeper"] == keeper


def test_a_group_of_which_not_all_were_ready() -> None:
    with hold(process=["rng=group:draws"]) as held:
        paths = [held.add("rng", name) for name in ("one", "two")]
        with FrontEnd.connect(paths[0], timeout=20) as one, FrontEnd.connect(paths[1], timeout=20) as two:
            for vm in (one, two):
                vm.queue(0)
                draw(vm)
            supervisor, pid = held.supervisor, held.mirror("one").pid
            os.kill(supervisor, signal.SIGSTOP)
            mirror = held.mirror("two")  # as it is noted until it is ready
            mirror._record = {**(mirror._record or {}), "pid": 0, "children": []}
            os.close(mirror._fds.pop("worker"))
            os.kill(supervisor, signal.SIGKILL)
            for vm in (two, one):
                draw(vm)
            eventually(lambda: held.status("one")["pid"] == held.status("two")["pid"] not in (0, None, pid))
            for vm in (two, one):
                draw(vm)


def test_a_front_end_has_cut_its_memory() -> None:
    """It is given up, with the worker that serves it; the next one begins anew."""
    with hold() as held:
        path = held.add(Reverser)
        with FrontEnd.connect(path) as vm:
            assert vm.queue(0).request([b"abc"], [3]) == [b"cba"]
            pid, supervisor = held.mirror().pid, held.supervisor
            os.kill(supervisor, signal.SIGSTOP)
            mirror = held.mirror()
            cut = os.memfd_create("cut")
            os.dup2(cut, mirror._fds["region0"])
            os.close(cut)
            at = os.lseek(mirror._fds["outbox"], 0, os.SEEK_CUR)
            os.pwrite(mirror._fds["outbox"], b"never said", at)
            mirror._record = {**(mirror._record or {}), "pending": {"reply": [at, 10], "unread": 12}}
            os.kill(supervisor, signal.SIGKILL)
            with pytest.raises(Disconnected):
                vm.config()
        with FrontEnd.connect(path) as vm:
            assert vm.queue(0).request([b"def"], [3]) == [b"fed"]
            assert held.status()["pid"] != pid


def test_the_holder_had_no_room_for_a_devices_descriptors() -> None:
    """That device begins anew with the next supervisor; the others go on."""
    with hold() as held:
        lost, other = held.add(Reverser, "lost"), held.add("rng", "other")
        with FrontEnd.connect(lost) as first, FrontEnd.connect(other) as second:
            first.queue(0)
            second.queue(0)
            held.loop.call_soon_threadsafe(held.mirror("lost").lose)
            first.write_config(8, b"noted")
            held.kill()
            draw(second)
            with pytest.raises(Disconnected):
                first.config()
        with FrontEnd.connect(lost) as vm:
            assert vm.queue(0).request([b"abc"], [3]) == [b"cba"]


def test_a_supervisor_that_waits_for_a_worker_sleeps() -> None:
    with hold() as held, FrontEnd.connect(held.add("rng"), timeout=20) as vm:
        queue = vm.queue(0)
        draw(vm)
        supervisor = held.supervisor
        os.kill(held.mirror().pid, signal.SIGSTOP)
        before = _ticks(supervisor)
        vm.stop(queue)
        assert _ticks(supervisor) - before < 0.3 * os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> int:
    """Of the processor, that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_an_end_that_the_holder_has_too_is_heard_by_a_worker() -> None:
    """A device that is removed lets go of its worker."""
    with hold() as held:
        path = held.add("rng")
        pid = held.status()["pid"]
        held.remove()
        eventually(lambda: not Path(f"/proc/{pid}").exists())
        with pytest.raises(OSError, match=r"No such file|refused"), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
