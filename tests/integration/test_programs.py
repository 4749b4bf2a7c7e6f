"""A worker that is another program: the example in C behind a real front end, in its jail, killed and replaced."""

from __future__ import annotations

import os
import shlex
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from subos_devices.errors import UserError
from subos_devices.supervisor import caretaker
from subos_devices.supervisor.sandbox import report
from subos_devices.supervisor.sandbox.policies import AUTO, Choice
from subos_devices.testing import FrontEnd, Supervised, serve, supervise
from subos_protocol.vhost_user import FrontendRequest
from support.compiled import ENTROPY, compile_c
from support.ordinary import as_nobody, open_folder
from support.processes import descriptors, is_alive
from support.waiting import eventually

from .test_devices import EVERY_RING, features, fills_buffers
from .test_sandbox import ONLY_ROOT

KINDS_OF_LINKING = [pytest.param(True, id="static"), pytest.param(False, id="dynamic")]


@pytest.fixture(scope="module")
def programs() -> Iterator[dict[bool, Path]]:
    """The example, by whether it was linked statically, where every user may execute it."""
    with open_folder() as folder:
        place = folder / "a folder"
        place.mkdir()
        yield {static: compile_c(ENTROPY, place, static=static) for static in (True, False)}


@contextmanager
def entropy(program: Path, sandbox: Choice = AUTO, **front_end: Any) -> Iterator[tuple[Supervised, FrontEnd]]:
    rule = f"rng=own:{shlex.quote(str(program))}"
    with (
        supervise(sandbox, process=[rule]) as supervised,
        FrontEnd.connect(supervised.add("rng"), **front_end) as vm,
    ):
        yield supervised, vm


def pid_of(supervised: Supervised) -> int:
    return eventually(lambda: supervised.status()["pid"] or 0)


@pytest.mark.parametrize(("indirect", "event_idx"), EVERY_RING)
def test_it_fills_buffers_of_any_framing(programs: dict[bool, Path], indirect: bool, event_idx: bool) -> None:
    with entropy(programs[True], features=features(indirect, event_idx)) as (supervised, vm):
        fills_buffers(vm)
        assert os.readlink(f"/proc/{pid_of(supervised)}/exe") == str(programs[True])
        assert supervised.status()["process"] == f"own:{shlex.quote(str(programs[True]))}"


def test_indices_wrap_and_it_counts(programs: dict[bool, Path]) -> None:
    with entropy(programs[True]) as (supervised, vm):
        queue = vm.queue(0, size=64, start=False)
        queue.reset(index=65_500)
        vm.start(queue, base=65_500)
        for _ in range(10):
            for _ in range(64):
                queue.add(writable=[16])
            queue.kick()
            while queue.in_flight:
                queue.wait()
            queue.collect()
        assert queue.used_index == (65_500 + 640) & 0xFFFF
        eventually(lambda: supervised.status()["requests"] == 640)


@pytest.mark.parametrize("static", KINDS_OF_LINKING)
def test_it_is_killed_while_requests_flow(programs: dict[bool, Path], static: bool) -> None:
    with entropy(programs[static]) as (supervised, vm):
        queue = vm.queue(0, size=64)
        for restarts in range(1, 4):
            pid = pid_of(supervised)
            for number in range(300):
                while len(queue.in_flight) == queue.size:
                    assert len(queue.wait().buffers[0]) == 64
                queue.add(writable=[64])
                queue.kick()
                if number == 150:
                    os.kill(pid, signal.SIGKILL)
            while queue.in_flight:
                queue.wait()
            queue.collect()
            eventually(lambda pid=pid: supervised.status()["pid"] not in (None, 0, pid))  # type: ignore[misc]
            assert supervised.status()["restarts"] == restarts


def test_it_obeys(programs: dict[bool, Path]) -> None:
    with entropy(programs[True]) as (supervised, vm):
        queue = vm.queue(0)
        assert len(queue.request(writable=[8])[0]) == 8
        vm.enable(queue, False)
        pending = queue.add(writable=[8])
        queue.kick()
        vm.enable(queue, True)
        assert len(queue.wait(pending).buffers[0]) == 8
        vm.replace_call(queue)
        assert len(queue.request(writable=[8])[0]) == 8
        vm.set_memory()
        assert len(queue.request(writable=[8])[0]) == 8
        assert vm.stop(queue) == 4
        vm.start(queue, base=4)
        assert len(queue.request(writable=[8])[0]) == 8
        vm.reboot()
        assert len(vm.queues[0].request(writable=[8])[0]) == 8
        assert supervised.status()["restarts"] == 0


def test_front_ends_that_come_and_go_leave_nothing_in_it(programs: dict[bool, Path]) -> None:
    rule = f"rng=own:{shlex.quote(str(programs[True]))}"
    with supervise(process=[rule]) as supervised:
        path = supervised.add("rng")
        pid = pid_of(supervised)
        idle = descriptors(pid)
        for _ in range(5):
            with FrontEnd.connect(path) as vm:
                assert len(vm.queue(0).request(writable=[8])[0]) == 8
            eventually(lambda: not supervised.status()["connected"])
        eventually(lambda: descriptors(pid) == idle and "guest-ram" not in Path(f"/proc/{pid}/maps").read_text())


def test_a_driver_that_breaks_its_ring_is_told_of(programs: dict[bool, Path]) -> None:
    with entropy(programs[True]) as (supervised, vm):
        queue = vm.queue(0)
        vm.ram.view(queue.avail, 4).cast("H")[1] = queue.size + 7
        queue.kick()
        eventually(lambda: supervised.status()["faults"] == 1)
        vm.reboot()
        assert len(vm.queues[0].request(writable=[8])[0]) == 8
        vm.queues[0].add([b"a buffer that may not be written"])
        vm.queues[0].kick()
        eventually(lambda: supervised.status()["faults"] == 2)
        assert supervised.status()["restarts"] == 0


def test_one_that_hangs_delays_no_answer_and_is_replaced(programs: dict[bool, Path]) -> None:
    with entropy(programs[True], timeout=20) as (supervised, vm):
        queue = vm.queue(0)
        assert queue.request(writable=[8])
        pid = pid_of(supervised)
        os.kill(pid, signal.SIGSTOP)
        vm.ask(FrontendRequest.GET_FEATURES)
        assert vm.stop(queue) == 1
        assert not is_alive(pid)
        vm.start(queue, base=1)
        assert queue.request(writable=[8])


# --- its jail


def facts(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("static", KINDS_OF_LINKING)
def test_it_is_executed_inside_its_jail(programs: dict[bool, Path], static: bool) -> None:
    ours = report.try_out("rng")
    with entropy(programs[static]) as (supervised, vm):
        assert vm.queue(0).request(writable=[8])
        pid, sandbox = pid_of(supervised), supervised.status()["sandbox"]
        assert set(sandbox["on"]) == set(ours["on"]) - {"undumpable"}
        assert sandbox["missing"] == ours["missing"]
        assert list(sandbox["without"]) == (["undumpable"] if static else ["undumpable", "no new code"])
        said = facts(pid)
        assert (said["NoNewPrivs"], said["Seccomp"], said["Threads"]) == ("1", "2", "1")
        assert {int(said[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode().strip("\0").split("\0")
        assert {line.partition("=")[0] for line in environment} == {
            f"SUBOS_{name}" for name in ("CONTRACT", "KIND", "NAME", "OPTIONS", "FDS", "RESPAWNED")
        }
        assert len(os.listdir(f"/proc/{pid}/fd")) == 7  # streams, control socket, counters, and the ring's two eventfds
        if "root" in sandbox["on"]:
            lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
            mounts = [line.split()[4].replace("\\040", " ") for line in lines]
            assert mounts == ["/"] if static else {"/", "/usr", str(programs[False])} <= set(mounts)
            for name in ("mnt", "net", "pid", "ipc"):
                assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")


def test_without_a_sandbox_it_runs_too_and_says_so(programs: dict[bool, Path]) -> None:
    with entropy(programs[True], Choice("off")) as (supervised, vm):
        assert vm.queue(0).request(writable=[8])
        assert report.summary(supervised.status()["sandbox"]) == "off"
        assert facts(pid_of(supervised))["Seccomp"] == "0"


@ONLY_ROOT
@pytest.mark.parametrize("static", KINDS_OF_LINKING)
def test_an_ordinary_user_s_is_jailed_too(programs: dict[bool, Path], static: bool) -> None:
    def run() -> None:
        tempfile.tempdir = str(folder)
        with entropy(programs[static]) as (supervised, vm):
            assert vm.queue(0).request(writable=[8])
            assert "seccomp" in supervised.status()["sandbox"]["on"]

    with open_folder() as folder:
        as_nobody(run)


PRIVATE = "MAP_PRIVATE | MAP_ANONYMOUS, -1, 0"
REFUSED = {
    "fork": "fork() >= 0",
    "open a file": 'open("/etc/passwd", O_RDONLY) >= 0',
    "open a socket": "socket(AF_INET, SOCK_STREAM, 0) >= 0",
    "write code": f"mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, {PRIVATE}) != MAP_FAILED",
    "make memory executable": f"mprotect(mmap(0, 4096, PROT_READ, {PRIVATE}), 4096, PROT_READ | PROT_EXEC) == 0",
    "execute itself again": 'execveat(5, "", (char *[]){0}, (char *[]){0}, AT_EMPTY_PATH) == 0',
}
KILLED = {
    "execute a program": 'execl("/bin/true", "true", (char *)0) == 0',
    "execute another file": 'execveat(9, "", (char *[]){0}, (char *[]){0}, AT_EMPTY_PATH) == 0',
    "signal its parent": "kill(getppid(), 0) == 0",
    "trace": "ptrace(PTRACE_TRACEME, 0, 0, 0) == 0",
}
HOSTILE = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <unistd.h>
static void say(const char *text) { send(3, text, strlen(text), 0); }
int main(void) {
    say(POSSIBLE ? "{\\"op\\": \\"failed\\", \\"message\\": \\"possible\\"}" : "{\\"op\\": \\"ready\\"}");
    pause();
}
"""


def attack(possible: str, *, static: bool) -> None:
    """Starts a worker that tries it. Raises UserError where it succeeds, or dies of it."""
    with open_folder() as folder:
        (folder / "hostile.c").write_text(HOSTILE.replace("POSSIBLE", f"({possible})"))
        program = compile_c(folder / "hostile.c", folder, static=static)
        with supervise(process=[f"rng=own:{program}"]) as supervised:
            supervised.add("rng", "rng")


@pytest.mark.parametrize("static", KINDS_OF_LINKING)
@pytest.mark.parametrize("possible", REFUSED.values(), ids=REFUSED)
def test_a_hostile_program_is_refused(possible: str, static: bool) -> None:
    attack(possible, static=static)


@pytest.mark.parametrize("static", KINDS_OF_LINKING)
@pytest.mark.parametrize("possible", KILLED.values(), ids=KILLED)
def test_a_hostile_program_is_killed(possible: str, static: bool) -> None:
    with pytest.raises(UserError, match="died while it started"):
        attack(possible, static=static)


# --- what is no worker


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("#!/bin/sh\nexit 0\n", "the worker of rng died while it started"),
        ("no program at all\n", "is no program of this machine"),
        ("#!relative\n", "is a script whose first line names no program"),
    ],
)
def test_what_is_no_worker_is_an_error_with_a_hint(script: str, says: str) -> None:
    with open_folder() as folder:
        program = folder / "program"
        program.write_text(script)
        program.chmod(0o755)
        with supervise(process=[f"rng=own:{program}"]) as supervised, pytest.raises(UserError, match=says) as caught:
            supervised.add("rng", "rng")
        assert caught.value.hint


def test_one_that_never_says_that_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caretaker, "PROGRAM_PATIENCE", 0.5)
    with open_folder() as folder:
        (folder / "silent.c").write_text("#include <unistd.h>\nint main(void) { return pause(); }\n")
        program = compile_c(folder / "silent.c", folder, static=True)
        with (
            supervise(process=[f"rng=own:{program}"]) as supervised,
            pytest.raises(UserError, match=r"the worker of rng is not ready after 0\.5 s") as caught,
        ):
            supervised.add("rng", "rng")
        assert "host_devices/README.md" in caught.value.hint


def test_one_that_does_not_heed_the_end_of_its_socket_is_killed() -> None:
    ready = 'send(3, "{\\"op\\": \\"ready\\"}", 15, 0)'
    deaf = f"#include <sys/socket.h>\n#include <unistd.h>\nint main(void) {{ {ready}; pause(); }}\n"
    with open_folder() as folder:
        (folder / "deaf.c").write_text(deaf)
        program = compile_c(folder / "deaf.c", folder, static=True)
        with supervise(process=[f"rng=own:{program}"]) as supervised:
            supervised.add("rng")
            pid = pid_of(supervised)
            supervised.remove("device0")
            assert is_alive(pid)
            eventually(lambda: not is_alive(pid))


@ONLY_ROOT
def test_one_that_nobody_may_execute_says_so() -> None:
    with open_folder() as folder:
        (folder / "silent.c").write_text("#include <unistd.h>\nint main(void) { return pause(); }\n")
        program = compile_c(folder / "silent.c", folder, static=True)
        program.chmod(0o700)
        with (
            supervise(process=[f"rng=own:{program}"]) as supervised,
            pytest.raises(UserError, match="cannot be executed: Permission denied") as caught,
        ):
            supervised.add("rng", "rng")
        assert "nobody" in caught.value.hint


def test_served_by_the_command(programs: dict[bool, Path]) -> None:
    model = f"own:{shlex.quote(str(programs[True]))}"
    with serve("rng", "--process", model) as served, FrontEnd.connect(served.path) as vm:
        assert len(vm.queue(0).request(writable=[8])[0]) == 8
        assert os.readlink(f"/proc/{served.worker()}/exe") == str(programs[True])
        os.kill(served.worker(), signal.SIGKILL)
        assert len(vm.queues[0].request(writable=[8])[0]) == 8


def test_what_it_is_told(programs: dict[bool, Path]) -> None:
    """The contract's descriptors and variables, as the example's process has them."""
    with supervise(process=[f"pen=own:{shlex.quote(str(programs[True]))}"]) as supervised:
        supervised.add("pen", "a pen", colour="blue")
        pid = eventually(lambda: supervised.status("a pen")["pid"])
        words = Path(f"/proc/{pid}/environ").read_bytes().decode().strip("\0").split("\0")
        assert dict(word.split("=", 1) for word in words) == {
            "SUBOS_CONTRACT": "1",
            "SUBOS_KIND": "pen",
            "SUBOS_NAME": "a pen",
            "SUBOS_OPTIONS": '{"colour": "blue"}',
            "SUBOS_FDS": "control:counters",
            "SUBOS_RESPAWNED": "0",
        }
        assert os.readlink(f"/proc/{pid}/fd/3").startswith("socket:")
        assert os.readlink(f"/proc/{pid}/fd/4").startswith("/memfd:subos-counters")
