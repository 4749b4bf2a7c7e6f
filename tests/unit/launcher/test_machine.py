"""Machine, terminal and control channel, with a script in QEMU's place: it finds its sockets in the arguments."""

import asyncio
import contextlib
import errno
import fcntl
import os
import pty
import select
import signal
import socket
import sys
import termios
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from subos_devices import signals
from subos_devices.errors import GuestLost, UserError
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
from support.waiting import eventually

PRELUDE = """\
import os, re, signal, socket, sys, time
def port(name):
    number = re.search(rf"socket,id=(?:port-)?{name},fd=(\\d+)", " ".join(sys.argv))
    return socket.socket(fileno=int(number[1]))
def log(text):
    port("serial").sendall(text.encode())
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


def machine(folder: Path, script: str, *ports: str, console: bool = False, serial: bool = False) -> Machine:
    program = folder / "qemu"
    # Through a shell, for an interpreter whose path has a space: to Python the second line is a string.
    shell = f"#!/bin/sh\n'''exec' '{sys.executable}' \"$0\" \"$@\"\n'''\n"
    program.write_text(f"{shell}{PRELUDE}{script}")
    program.chmod(0o755)
    config = MachineConfig("box", ARCHITECTURES["x86_64"], "tcg", kernel=Path("k"))
    socket_ = folder / "qmp.sock"
    return Machine(Qemu(program, (10, 0, 0)), config, ports, console=console, serial=serial, qmp_socket=socket_)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 20))


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


def test_the_guest_is_told_the_time(folder: Path) -> None:
    """A second that is not behind the host, nor far ahead: it comes back as the status of a clock set by it."""
    script = """
clock = port('clock')
clock.sendall(b'\\n')
ahead = int(clock.recv(64)) - time.time()
port('status').sendall(b'%d\\n' % (0 < ahead < 1.2))
"""

    async def body() -> int:
        async with machine(folder, script, "clock", "status") as vm:
            return await vm.exit_status()

    assert run(body()) == 1


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


STATUSES = ["abc\n", "256\n", "-1\n", "\n", "1\n2\n", "1" * 1000]


@pytest.mark.parametrize("said", STATUSES, ids=lambda said: repr(said[:8]))
def test_a_status_that_is_none(folder: Path, said: str) -> None:
    async def body() -> None:
        async with machine(folder, f"port('status').sendall({said.encode()!r}); time.sleep(600)", "status") as vm:
            await vm.exit_status()

    with pytest.raises(GuestLost, match="the guest reported nonsense"):
        run(body())


@pytest.mark.parametrize("where", ["port('serial').sendall", "sys.stderr.buffer.write"])
def test_a_flood_is_not_kept(folder: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in memory nor in a file: of what a guest can make QEMU say, the end must do."""
    monkeypatch.setattr("subos_devices.launcher.machine.TAIL", 64)  # so that QEMU ends long before all is read

    async def body() -> None:
        script = f"say = {where}; say(b'flood\\n' * 50_000); say(b'subos: \\x1b[2J the last word\\n'); sys.exit(1)"
        async with machine(folder, script, "status") as vm:
            try:
                await vm.exit_status()
            finally:
                assert all(len(tail) <= 64 for tail in vm._tails.values())
                assert {path.name for path in folder.iterdir()} == {"qemu", "qmp.sock"}

    with pytest.raises(GuestLost, match=r"\?\[2J the last word") as caught:
        run(body())
    assert "\x1b" not in caught.value.message + caught.value.hint


def test_a_qmp_socket_that_cannot_be_made(folder: Path) -> None:
    async def body() -> None:
        vm = machine(folder, "")
        vm.qmp_socket = folder / "absent" / "qmp.sock"
        async with vm:
            raise AssertionError("not reached")

    with pytest.raises(UserError, match=r"qmp\.sock cannot be made"):
        run(body())


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


def image_run(folder: Path, script: str, stdout: int) -> int:
    """`run_on_serial` in a child, which has descriptors of its own: its pid. Its status is 42 for a broken pipe."""
    child = os.fork()
    if child == 0:

        async def body() -> int:
            async with machine(folder, script, serial=True) as vm:
                stop = vm.stop

                async def stopped() -> None:
                    await stop()
                    (folder / "stopped").touch()

                vm.stop = stopped  # type: ignore[method-assign]
                try:
                    return await terminal.run_on_serial(vm, interactive=False)
                except BrokenPipeError:
                    return 42

        status = 99
        try:
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(stdout, 1)
            status = run(body())
        finally:
            os._exit(status)
    return child


def test_the_last_output_of_an_image_is_not_lost(folder: Path) -> None:
    """More than the pipe takes, and nobody reads it before QEMU has ended."""
    reader, writer = os.pipe()
    child = image_run(folder, "port('serial').sendall(b'y' * 150_000 + b'the end')", writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        eventually((folder / "stopped").exists)
        assert pipe.read() == b"y" * 150_000 + b"the end"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_image_whose_output_nobody_reads_ends(folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    child = image_run(folder, "port('serial').sendall(b'first line\\n'); time.sleep(600)", writer)
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


def test_the_way_out_of_an_image_s_terminal(folder: Path) -> None:
    controller, line = pty.openpty()
    child = os.fork()
    if child == 0:

        async def body() -> int:
            async with machine(folder, "port('serial').sendall(b'booted'); time.sleep(600)", serial=True) as vm:
                return await terminal.run_on_serial(vm, interactive=True)

        status = 99
        try:
            for number in range(3):
                os.dup2(line, number)
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 (not pytest's)
            status = signals.run(body())
        finally:
            os._exit(status)
    os.close(line)
    try:
        shown = b""
        while not shown.endswith(b"booted"):
            shown += os.read(controller, 4096)
        assert shown == b"subos: Ctrl-] three times within a second ends the VM\r\nbooted"
        os.write(controller, b"\x1d\x1d\x1d")
        assert ended(child)
    finally:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        os.close(controller)
    assert os.waitstatus_to_exitcode(status) == 130


def test_output_that_finds_no_room_says_which(folder: Path) -> None:
    async def body() -> None:
        async with machine(folder, "port('stdout').sendall(b'data'); time.sleep(600)", "stdout") as vm:
            with open("/dev/full", "wb", buffering=0) as full:
                monkey = pytest.MonkeyPatch()
                monkey.setitem(terminal.STREAMS, full.fileno(), "standard output")
                with monkey.context(), pytest.raises(OSError) as caught:
                    await terminal.copy_output(vm.port("stdout"), full.fileno())
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "standard output")

    run(body())


KEYS: dict[str, tuple[list[tuple[float, bytes]], bool]] = {
    "three at once": ([(0, b"\x1d\x1d\x1d")], True),
    "three in time": ([(0, b"x\x1d"), (0.5, b"\x1d"), (0.9, b"\x1dy")], True),
    "too slow": ([(0, b"\x1d"), (0.5, b"\x1d"), (1.0, b"\x1d")], False),
    "slow, then quick": ([(0, b"\x1d"), (0.5, b"\x1d"), (1.0, b"\x1d"), (1.2, b"\x1d")], True),
    "something between": ([(0, b"\x1d\x1da\x1d")], False),
    "two": ([(0, b"\x1d\x1d")], False),
}


@pytest.mark.parametrize(("typed", "wanted"), KEYS.values(), ids=KEYS.keys())
def test_the_escape(typed: list[tuple[float, bytes]], wanted: bool) -> None:
    escape = terminal.Escape()
    assert any(escape.typed(keys, at) for at, keys in typed) is wanted


def test_the_escape_works_though_the_guest_takes_no_keys() -> None:
    controller, line = pty.openpty()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def body() -> None:
        escaped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, escaped.set)
        for size in (1 << 16, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    ours.send(bytes(size))
        sending = asyncio.create_task(terminal.send_keys(line, ours))
        for _ in range(3):
            os.write(controller, b"\x1d")
            while not escaped.is_set() and int.from_bytes(fcntl.ioctl(line, termios.FIONREAD, bytes(4)), sys.byteorder):
                await asyncio.sleep(0.01)  # until it is read
        await escaped.wait()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    try:
        with terminal.raw_terminal(line):
            asyncio.run(asyncio.wait_for(body(), 10))
    finally:
        os.close(controller)
        os.close(line)
        ours.close()
        theirs.close()


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


ANSWERS = {
    "no JSON": "b'nonsense\\n'",
    "a line without end": "b'x' * (9 << 20)",
    "a flood": """b'{"status":0,"error":"","stdout":1073741824,"stderr":0}\\n'""",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_a_guest_that_answers_nonsense(folder: Path, answer: str) -> None:
    async def body() -> None:
        script = f"end = port('control'); end.recv(10); end.sendall({answer}); time.sleep(600)"
        async with machine(folder, script, "control") as vm:
            guest = GuestControl(vm)
            with pytest.raises(ControlError, match="nonsense"):
                await guest.run(["true"])
            with pytest.raises(ControlError, match="of no more use"):
                await guest.run(["true"])

    run(body())


def test_what_a_guest_says_is_printable(folder: Path) -> None:
    async def body() -> None:
        answer = '{"status":127,"error":"says \\u001b[2J' + "x" * 1000 + '","stdout":0,"stderr":0}\\n'
        script = f"end = port('control'); end.recv(10); end.sendall(b'{answer}'); time.sleep(600)"
        async with machine(folder, script, "control") as vm:
            with pytest.raises(CommandNotStarted, match=r"^the guest says \?\[2Jx+…$") as caught:
                await GuestControl(vm).run(["true"])
            assert len(caught.value.message) < 400

    run(body())


def test_the_agent_is_this_interpreter_with_these_packages() -> None:
    command, variables = agent_command()
    assert command[0] == sys.executable
    for package, place in zip(("subos_agent", "subos_protocol"), variables["PYTHONPATH"].split(":"), strict=False):
        assert (Path(place) / package / "__init__.py").exists()
    assert sys.prefix in agent_folders()
