"""`subos-devices serve` as a process: how it ends, and what it leaves behind (nothing)."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from subos_devices.supervisor.device_server import ACCEPT_RETRY
from subos_devices.supervisor.sandbox import report
from subos_devices.testing import Disconnected, FrontEnd, serve
from subos_devices.testing.serving import children, end
from subos_protocol.vhost_user import FrontendRequest
from support.processes import descriptors, is_alive
from support.strangers import Slow
from support.waiting import eventually


@contextmanager
def command(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`serve rng` on a socket of its own making."""
    path = folder / "rng.sock"
    line = [sys.executable, "-m", "subos_devices.cli", "serve", "rng", "--socket-path", str(path), *arguments]
    process = subprocess.Popen(line)
    try:
        eventually(lambda: connects(path))
        yield process, path
    finally:
        end(process)


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def family(pid: int) -> list[int]:
    """The zygote and its workers."""
    return [process for child in children(pid) for process in (child, *children(child))]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("busy", [False, True])
def test_a_signal_ends_it_in_good_order(tmp_path: Path, number: signal.Signals, busy: bool) -> None:
    with command(tmp_path, "--persistent") as (process, path):
        if busy:
            with FrontEnd.connect(path) as vm:
                assert vm.queue(0).request(writable=[8])
                pids = family(process.pid)
                process.send_signal(number)
                assert process.wait(10) == 0
                with pytest.raises(Disconnected):
                    vm.receive()
        else:
            pids = eventually(lambda: len(family(process.pid)) == 2 and family(process.pid))
            process.send_signal(number)
            assert process.wait(10) == 0
        assert len(pids) == 2
        eventually(lambda: not any(map(is_alive, pids)))
    assert not list(tmp_path.iterdir())


def test_a_signal_ends_it_although_its_worker_hangs(tmp_path: Path) -> None:
    with command(tmp_path) as (process, path), FrontEnd.connect(path) as vm:
        assert vm.queue(0).request(writable=[8])
        zygote, worker = family(process.pid)
        os.kill(worker, signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        eventually(lambda: not is_alive(zygote) and not is_alive(worker))
    assert not list(tmp_path.iterdir())


def test_a_signal_ends_it_although_its_device_never_starts() -> None:
    with serve(Slow) as served:
        eventually(served.workers)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(10) == 0


def test_its_children_follow_it_when_it_is_killed(tmp_path: Path) -> None:
    with command(tmp_path) as (process, path), FrontEnd.connect(path) as vm:
        assert vm.queue(0).request(writable=[8])
        pids = family(process.pid)
        assert len(pids) == 2
        process.kill()
        process.wait()
        eventually(lambda: not any(map(is_alive, pids)))
    with command(tmp_path) as (_, path), FrontEnd.connect(path) as vm:  # over the socket that the dead one left
        assert vm.queue(0).request(writable=[8])


def test_it_ends_with_its_front_end(tmp_path: Path) -> None:
    with command(tmp_path) as (process, path):
        with FrontEnd.connect(path) as vm:
            assert vm.queue(0).request(writable=[8])
        assert process.wait(10) == 0
    assert not list(tmp_path.iterdir())


def test_a_sandbox_that_is_off_does_not_pass_for_one(tmp_path: Path) -> None:
    """Whoever goes without reads so, in one line and a hint."""
    with serve("fs", "--shared-dir", str(tmp_path), "--sandbox", "off") as served, FrontEnd.connect(served.path):
        said = eventually(lambda: served.log.splitlines())
        assert said == [f"subos: {report.WARNING}", f"  hint: {report.WARNING_HINT}"]
        assert "not sandboxed" in said[0]
        status = Path(f"/proc/{served.worker()}/status").read_text()
    assert "\nSeccomp:\t0\n" in status


def test_a_worker_is_in_a_sandbox_unless_somebody_asks_for_none(tmp_path: Path) -> None:
    with serve("fs", "--shared-dir", str(tmp_path)) as served, FrontEnd.connect(served.path) as vm:
        assert vm.ask(FrontendRequest.GET_FEATURES)
        status = Path(f"/proc/{served.worker()}/status").read_text()
        assert "not sandboxed" not in served.log
    assert "\nSeccomp:\t2\n" in status
    assert "\nNoNewPrivs:\t1\n" in status


def test_persistent_it_waits_for_the_next() -> None:
    with serve("rng", persistent=True) as served:
        for _ in range(3):
            with FrontEnd.connect(served.path) as vm:
                assert vm.queue(0).request(writable=[8])
        assert served.process.poll() is None


def test_a_front_end_waits_until_there_is_a_descriptor_for_it() -> None:
    with serve("rng") as served:
        with FrontEnd.connect(served.path) as vm:
            assert vm.queue(0).request(writable=[8])
        limits = resource.prlimit(served.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(served.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.fspath(served.path))
            eventually(lambda: "no front end can be taken now" in served.log)
            time.sleep(3 * ACCEPT_RETRY)
            resource.prlimit(served.pid, resource.RLIMIT_NOFILE, limits)
            with FrontEnd(connection) as vm:
                vm.negotiate()
                vm.set_memory()
                assert vm.queue(0).request(writable=[8])
        assert served.log.count("no front end can be taken now: Too many open files") == 1


def test_a_socket_in_use_is_refused(tmp_path: Path) -> None:
    with command(tmp_path, "--persistent") as (_, path):
        line = [sys.executable, "-m", "subos_devices.cli", "serve", "rng", "--socket-path", str(path)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert "already serves" in done.stderr
        with FrontEnd.connect(path) as vm:
            assert vm.queue(0).request(writable=[8])


def test_a_socket_is_its_owners_alone(tmp_path: Path) -> None:
    with command(tmp_path) as (_, path):
        assert path.stat().st_mode & 0o777 == 0o600


def test_twenty_front_ends_leave_no_descriptor_in_the_supervisor() -> None:
    with serve("rng") as served:

        def converse() -> None:
            with FrontEnd.connect(served.path) as vm:
                assert vm.queue(0).request(writable=[8])
                vm.reboot()

        def idle() -> list[str]:
            held = descriptors(served.pid)
            return [] if any("guest-ram" in name for name in held) else held

        converse()
        before = eventually(idle)
        for _ in range(20):
            converse()
        eventually(lambda: (held := idle()) and len(held) <= len(before))


def test_no_worker_holds_what_is_the_supervisors(tmp_path: Path) -> None:
    """A worker has guest memory, its eventfds, its counters and its control socket; no listener, no connection."""
    with command(tmp_path) as (process, path), FrontEnd.connect(path) as vm:
        assert vm.queue(0).request(writable=[8])
        worker = family(process.pid)[1]
        held = descriptors(worker)
        assert sum(name == "socket" for name in held) == 1
        assert not [
            name
            for name in held
            if name.startswith("/")
            and not name.startswith(("/dev/", "/memfd:"))
            and name != "/null"  # of a /dev that is out of sight
            and name not in descriptors(process.pid)
        ]


def test_a_zygote_that_is_killed_is_replaced() -> None:
    with serve("rng") as served, FrontEnd.connect(served.path) as vm:
        queue = vm.queue(0)
        assert queue.request(writable=[8])
        [zygote] = served.zygotes()
        os.kill(zygote, signal.SIGKILL)
        eventually(lambda: served.zygotes() not in ([], [zygote]))
        assert queue.request(writable=[8])


def test_a_listening_socket_may_come_from_the_caller(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        line = [sys.executable, "-m", "subos_devices.cli", "serve", "rng", "--fd", str(listener.fileno())]
        process = subprocess.Popen(line, pass_fds=[listener.fileno()])
    try:
        with FrontEnd.connect(tmp_path / "s") as vm:
            assert vm.queue(0).request(writable=[8])
        assert process.wait(10) == 0
    finally:
        end(process)
