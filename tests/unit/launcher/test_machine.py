"""Machine, terminal and control channel, with a script in QEMU's place: it finds its sockets in the arguments."""

import asyncio
import contextlib
import os
import pty
import select
import signal
import sys
import termios
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from subos_devices.errors import GuestLost
from subos_devices.launcher import terminal
from subos_devices.launcher.control import (
    CommandNotStarted,
    CommandTimeout,
    ControlError,
    GuestControl,
    agent_command,
    agent_folders,
)
from subos_devices.launcher.machine import Machine, lost_reason
from subos_devices.launcher.qemu import ARCHITECTURES, MachineConfig, Qemu

PRELUDE = """\
import os, re, signal, socket, sys, time
def port(name):
    number = re.search(rf"socket,id=(?:port-)?{name},fd=(\\d+)", " ".join(sys.argv))
    return socket.socket(fileno=int(number[1]))
def log(text):
    path = re.search(r"file,id=serial,path=(\\S+)", " ".join(sys.argv))[1]
    open(path, "w").write(text)
"""

AGENT = """\
from subos_agent.control import answer_all
end = port("control")
answer_all(end.makefile("rb"), end.makefile("wb", buffering=0))
port("status").sendall(b"0\\n")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def machine(folder: Path, script: str, *ports: str, console: bool = False) -> Machine:
    program = folder / "qemu"
    # Through a shell, for an interpreter whose path has a space: to Python the second line is a string.
    shell = f"#!/bin/sh\n'''exec' '{sys.executable}' \"$0\" \"$@\"\n'''\n"
    program.write_text(f"{shell}{PRELUDE}{script}")
    program.chmod(0o755)
    config = MachineConfig("box", ARCHITECTURES["x86_64"], "tcg", folder / "log", kernel=Path("k"))
    return Machine(Qemu(program, (10, 0, 0)), config, ports, console=console, qmp_socket=folder / "qmp.sock")


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def ended(pid: int) -> bool:
    """Whether the process ends within ten seconds. (One that nobody has waited for has ended, too.)"""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10)[0])
    finally:
        os.close(descriptor)


def test_the_status_comes_by_its_port_and_nothing_is_left(folder: Path) -> None:
    async def body() -> int:
        async with machine(folder, "port('status').sendall(b'7\\n'); time.sleep(600)", "status") as vm:
            pid = vm.pid
            assert (folder / "qmp.sock").is_socket()
            assert await vm.exit_status() == 7
        assert ended(pid)
        return 0

    run(body())
    assert not (folder / "qmp.sock").exists()


def test_a_qemu_that_ignores_sigterm_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subos_devices.launcher.machine.QUIT_SECONDS", 0.2)
    script = "signal.signal(signal.SIGTERM, signal.SIG_IGN); port('status').sendall(b'0\\n'); time.sleep(600)"

    async def body() -> int:
        async with machine(folder, script, "status") as vm:
            await vm.exit_status()
        return await vm.wait()

    assert run(body()) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("sys.exit('qemu: -device nonsense: no such device')", "QEMU said: qemu: -device nonsense"),
        ("log('[1.0] Kernel panic - not syncing: VFS: no root\\n[1.1] more\\n')", "panicked: VFS: no root"),
        ("log('subos: the root cannot be mounted\\n')", "the root cannot be mounted"),
        ("os.kill(os.getpid(), 9)", "QEMU was ended by SIGKILL"),
        ("port('status').sendall(b'1')", "it shut down before its command ended"),
    ],
)
def test_a_lost_machine_says_why(folder: Path, script: str, said: str) -> None:
    async def body() -> None:
        async with machine(folder, script, "status") as vm:
            await vm.exit_status()

    with pytest.raises(GuestLost) as caught:
        run(body())
    assert said in caught.value.message
    assert caught.value.exit_code == 125


def test_a_panic_explains_more_than_qemus_status() -> None:
    assert lost_reason(1, b"terminated", b"Kernel panic - not syncing: bad\n") == "the guest's kernel panicked: bad"
    assert lost_reason(3, b"", b"\xff") == "QEMU ended with status 3"


def test_qemu_dies_with_its_launcher(folder: Path) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:

        async def body() -> None:
            async with machine(folder, "port('status').sendall(b'0\\n'); time.sleep(600)", "status") as vm:
                await vm.exit_status()
                os.write(writer, b"%d" % vm.pid)
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            asyncio.run(body())
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        # QEMU holds no copy of the pipe's end, so this ends with the launcher.
        pid = int(pipe.read())
    os.waitpid(child, 0)
    assert ended(pid)


ECHO = """\
data = b""
while chunk := port_in.recv(1 << 16):
    data += chunk
port("stdout").sendall(data)
port("stderr").sendall(b"%d bytes" % len(data))
port("status").sendall(b"3\\n")
time.sleep(600)
"""


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_streams_pass_through_whole(folder: Path, size: int) -> None:
    """Standard input is a file, output and error are files: in a child, which has descriptors of its own."""
    data = os.urandom(size)
    (folder / "in").write_bytes(data)
    child = os.fork()
    if child == 0:

        async def body() -> int:
            script = "port_in = port('stdin')\n" + ECHO
            async with machine(folder, script, "stdin", "stdout", "stderr", "status") as vm:
                return await terminal.run_on_streams(vm)

        status = 99
        try:
            for number, name, flags in (
                (0, "in", os.O_RDONLY),
                (1, "out", os.O_CREAT | os.O_WRONLY),
                (2, "err", 0o101),
            ):
                os.dup2(os.open(folder / name, flags, 0o600), number)
            status = run(body())
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert (folder / "out").read_bytes() == data
    assert (folder / "err").read_bytes() == b"%d bytes" % size


def test_output_into_a_closed_pipe_ends_the_run(folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    child = os.fork()
    if child == 0:

        async def body() -> int:
            script = "out = port('stdout')\nwhile True: out.sendall(b'y' * 4096)"
            async with machine(folder, script, "stdin", "stdout", "stderr", "status") as vm:
                try:
                    return await terminal.run_on_streams(vm)
                except BrokenPipeError:
                    return 42

        status = 99
        try:
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(writer, 1)
            status = run(body())
        finally:
            os._exit(status)
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


def test_a_raw_terminal_is_restored() -> None:
    controller, line = pty.openpty()
    try:
        before = termios.tcgetattr(line)
        with contextlib.suppress(RuntimeError), terminal.raw_terminal(line):
            assert not termios.tcgetattr(line)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
            raise RuntimeError
        assert termios.tcgetattr(line) == before
    finally:
        os.close(controller)
        os.close(line)


def test_commands_by_the_control_channel(folder: Path) -> None:
    async def body() -> None:
        async with machine(folder, AGENT, "control", "status") as vm:
            guest = GuestControl(vm)
            await guest.wait_booted()
            done = await guest.run(["sh", "-c", "cat; echo no >&2; exit 4"], stdin=b"a\0\xff\n" * 50_000)
            assert (done.status, done.stdout, done.stderr) == (4, b"a\0\xff\n" * 50_000, b"no\n")
            done = await guest.run(["sh", "-c", 'pwd; echo "$A"; kill -9 $$'], cwd="/usr", environment={"A": "b"})
            assert (done.status, done.stdout) == (-9, b"/usr\nb\n")
            with pytest.raises(CommandNotStarted, match="'/no/such'"):
                await guest.run(["/no/such"])
            with pytest.raises(CommandTimeout, match=r"sleep did not end within 0\.2 s"):
                await guest.run(["sleep", "600"], timeout=0.2)
            both = await asyncio.gather(guest.run(["echo", "1"]), guest.run(["echo", "2"]))
            assert [done.stdout for done in both] == [b"1\n", b"2\n"]
            await guest.close()
            vm.port("control").close()
            assert await vm.exit_status() == 0

    run(body())


def test_a_machine_lost_under_a_command(folder: Path) -> None:
    async def body() -> None:
        async with machine(folder, AGENT, "control", "status") as vm:
            guest = GuestControl(vm)
            await guest.run(["true"])
            command = asyncio.create_task(guest.run(["sleep", "600"]))
            await asyncio.sleep(0)
            os.kill(vm.pid, signal.SIGKILL)
            with pytest.raises(GuestLost, match="SIGKILL"):
                await command
            with pytest.raises(ControlError, match="of no more use"):
                await guest.run(["true"])

    run(body())


def test_a_guest_that_answers_nonsense(folder: Path) -> None:
    async def body() -> None:
        script = "end = port('control'); end.recv(10); end.sendall(b'nonsense\\n'); time.sleep(600)"
        async with machine(folder, script, "control") as vm:
            with pytest.raises(ControlError, match="nonsense"):
                await GuestControl(vm).run(["true"])

    run(body())


def test_the_agent_is_this_interpreter_with_these_packages() -> None:
    command, variables = agent_command()
    assert command[0] == sys.executable
    for package, place in zip(("subos_agent", "subos_protocol"), variables["PYTHONPATH"].split(":"), strict=False):
        assert (Path(place) / package / "__init__.py").exists()
    assert sys.prefix in agent_folders()
