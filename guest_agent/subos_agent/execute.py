"""`exec`: runs a command for the host, on a terminal or with its streams apart.

    → REQUEST {"op": "exec", "argv": […], "cwd": null, "environment": {…}, "user": null,
               "terminal": null or {"rows": 24, "columns": 80, "name": "xterm"}}
    → DATA part 0: standard input                        → EVENT {"window": [rows, columns]}, {"signal": 15},
                                                               {"input_ends": true}; END too closes standard input
    ← DATA part 1 and 2: standard output and error (1 alone on a terminal)
    ← REPLY {"status": n} or {"signal": n}

When the stream is cancelled, or the host goes away, the command's session is hung up and then killed, with what runs
in its background. A command that ends by itself leaves that running, as with ssh.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import pwd
import signal
import struct
import subprocess
import termios
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

from subos_protocol.agent.errors import ChannelError, RemoteError
from subos_protocol.agent.frames import Head
from subos_protocol.agent.stream import Stream

STDIN, STDOUT, STDERR = 0, 1, 2
CHUNK = 1 << 15
LINGER = 1.0
"""Seconds without output after the command's end: what it left running may hold its streams open."""
HANG_UP_SECONDS = 2.0
POLL_SECONDS = 0.02
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Command:
    """What is to be run; `window` is (rows, columns) of a terminal, None without one."""

    argv: List[str]
    cwd: Optional[str] = None
    environment: Dict[str, str] = field(default_factory=dict)
    user: Optional[str] = None
    window: Optional[Tuple[int, int]] = None

    @classmethod
    def from_head(cls, head: Head) -> Command:
        """Raises RemoteError for what is none."""
        argv, cwd, environment = head.get("argv", []), head.get("cwd"), head.get("environment") or {}
        user, terminal = head.get("user"), head.get("terminal")
        if not isinstance(argv, list) or not all(_is_word(word) for word in argv):
            raise RemoteError("malformed", "argv is not a list of words")
        if not isinstance(environment, dict) or not all(map(_is_word, [*environment, *environment.values()])):
            raise RemoteError("malformed", "environment is not a table of words")
        if not all(word is None or _is_word(word) for word in (cwd, user)):
            raise RemoteError("malformed", "cwd or user is not a word")
        if terminal is None:
            return cls(argv, cwd, environment, user)
        if not isinstance(terminal, dict):
            raise RemoteError("malformed", "terminal is not an object")
        window = _window([terminal.get("rows"), terminal.get("columns")])
        if window is None:
            raise RemoteError("malformed", "a terminal without rows and columns")
        name = terminal.get("name")
        return cls(argv, cwd, {"TERM": str(name) if _is_word(name) else "xterm", **environment}, user, window)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _window(value: Any) -> Optional[Tuple[int, int]]:
    if isinstance(value, list) and len(value) == 2 and all(type(n) is int and 0 < n < 1 << 16 for n in value):
        return value[0], value[1]
    return None


async def execute(stream: Stream) -> Head:
    """Handles `exec`. Raises RemoteError where the command cannot be started."""
    command = Command.from_head(stream.head)
    run = _Terminal(command) if command.window else _Pipes(command)
    try:
        try:
            process = await run.start()
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            raise RemoteError("not-started", _why(command, error)) from error
        return await _serve(stream, run, process)
    finally:
        run.close()


class _Process(asyncio.subprocess.SubprocessStreamProtocol):
    """The command. asyncio's own `wait` may wait until nobody has its output open any more."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=1 << 16, loop=loop)
        self._ended = asyncio.Event()
        self.transport: asyncio.SubprocessTransport

    @property
    def pid(self) -> int:
        return self.transport.get_pid()

    @property
    def status(self) -> Optional[int]:
        """The exit status, or minus a signal's number; None while it runs."""
        return self.transport.get_returncode()

    def process_exited(self) -> None:
        super().process_exited()
        self._ended.set()

    async def ended(self) -> int:
        """Waits for the end; the status."""
        await self._ended.wait()
        status = self.status
        assert status is not None
        return status


async def _serve(stream: Stream, run: _Run, process: _Process) -> Head:
    """Until the command has ended, and all it printed is sent."""
    copies = [_Copy(reader, part) for reader, part in run.outputs]
    outputs = asyncio.gather(*(copy.run(stream) for copy in copies))
    feed = asyncio.ensure_future(_feed(stream, run, process))
    try:
        status = await process.ended()
        while not outputs.done():
            before = [copy.size for copy in copies]
            await asyncio.wait({outputs}, timeout=LINGER)
            if before == [copy.size for copy in copies] and not any(copy.sends for copy in copies):
                break
        return {"signal": -status} if status < 0 else {"status": status}
    finally:
        for task in (feed, outputs):
            task.cancel()
        try:
            await asyncio.gather(feed, outputs, return_exceptions=True)
        finally:
            try:
                if process.status is None:
                    await _end_session(process.pid)
            finally:  # also where we are cancelled while we wait for its end
                process.transport.close()


def _why(command: Command, error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"there is no user {command.user!r} in the guest"
    what = command.argv[0] if command.argv else "a shell"
    if isinstance(error, OSError) and error.filename not in (None, what):
        what = f"{what} in {error.filename}"
    return f"cannot run {what}: {getattr(error, 'strerror', None) or error}"


async def _feed(stream: Stream, run: _Run, process: _Process) -> None:
    """Passes on what the host sends, until it has sent all."""
    with contextlib.suppress(ChannelError):
        while True:
            message = await stream.receive()
            if message is None:
                run.end_input()
                return  # END: no signal follows either
            if isinstance(message.content, bytes):
                await run.write(message.content)
                continue
            window, number = _window(message.content.get("window")), message.content.get("signal")
            if message.content.get("input_ends") is True:
                run.end_input()
            if window is not None:
                run.resize(window)
            if type(number) is int and 0 < number < signal.NSIG:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, number)


class _Copy:
    """One output of the command on its way; `size` is what was read of it, `sends` whether the host is waited for."""

    def __init__(self, reader: asyncio.StreamReader, part: int) -> None:
        self.size = 0
        self.sends = False
        self._reader = reader
        self._part = part

    async def run(self, stream: Stream) -> None:
        while True:
            try:
                data = await self._reader.read(CHUNK)
            except OSError:  # a terminal whose last program has gone
                return
            if not data:
                return
            self.size += len(data)
            self.sends = True
            await stream.send(data, self._part)
            self.sends = False


async def _end_session(leader: int) -> None:
    """Nothing of the session is left afterwards, even where there is no time to wait for it."""
    loop = asyncio.get_running_loop()
    try:
        _signal_session(leader, signal.SIGHUP, signal.SIGCONT)
        deadline = loop.time() + HANG_UP_SECONDS
        while session(leader) and loop.time() < deadline:
            await asyncio.sleep(POLL_SECONDS)
    finally:
        _signal_session(leader, signal.SIGKILL)


def _signal_session(leader: int, *numbers: int) -> None:
    for pid in session(leader):
        for number in numbers:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)


def session(leader: int) -> List[int]:
    """Processes that live in the session of `leader`, by /proc/PID/stat (proc(5): after the name come state, parent,
    process group, session)."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    words = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(words[3]) == leader and words[0] not in (b"Z", b"X"):
                found.append(int(entry))
    return found


class _Run:
    """How a command meets the outside; `outputs` are (reader, part)."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.outputs: List[Tuple[asyncio.StreamReader, int]] = []

    async def start(self) -> _Process:
        raise NotImplementedError

    async def write(self, data: bytes) -> None:
        raise NotImplementedError

    def end_input(self) -> None:
        raise NotImplementedError

    def resize(self, window: Tuple[int, int]) -> None:
        """Where there is a window."""

    def close(self) -> None:
        """What belongs to us goes."""

    async def _spawn(self, **options: Any) -> _Process:
        argv, more = _as_user(self.command)
        loop = asyncio.get_running_loop()
        process = _Process(loop)
        process.transport, _ = await loop.subprocess_exec(
            lambda: process, argv[0], *argv[1:], start_new_session=True, **more, **options
        )
        return process


class _Pipes(_Run):
    async def start(self) -> _Process:
        pipe = asyncio.subprocess.PIPE
        process = await self._spawn(stdin=pipe, stdout=pipe, stderr=pipe)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._input = process.stdin
        self.outputs = [(process.stdout, STDOUT), (process.stderr, STDERR)]
        return process

    async def write(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # it reads no more
            self._input.write(data)
            await self._input.drain()

    def end_input(self) -> None:
        self._input.close()


class _Terminal(_Run):
    """The command has a pseudo-terminal, as its controlling one."""

    _ours = -1
    _reading: Optional[asyncio.BaseTransport] = None

    async def start(self) -> _Process:
        assert self.command.window is not None
        account = pwd.getpwnam(self.command.user) if self.command.user is not None else None
        self._ours, theirs = os.openpty()
        self.resize(self.command.window)
        if account is not None:
            os.fchown(theirs, account.pw_uid, -1)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        pipe = open(os.dup(self._ours), "rb", 0)  # noqa: SIM115 (the transport closes it)
        self._reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        self.outputs = [(reader, STDOUT)]

        def take_terminal() -> None:
            fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

        try:
            return await self._spawn(preexec_fn=take_terminal, stdin=theirs, stdout=theirs, stderr=theirs)
        finally:
            os.close(theirs)

    async def write(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._ours, view) :]
            except BlockingIOError:  # the reader's descriptor shares O_NONBLOCK with ours
                writable = asyncio.Event()
                loop.add_writer(self._ours, writable.set)
                try:
                    await writable.wait()
                finally:
                    loop.remove_writer(self._ours)
            except OSError:
                return  # nobody has the terminal open any more

    def end_input(self) -> None:
        """A terminal has no end: the character for it must do."""
        with contextlib.suppress(OSError):
            os.write(self._ours, b"\x04")

    def resize(self, window: Tuple[int, int]) -> None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", *window, 0, 0))

    def close(self) -> None:
        if self._reading is not None:
            self._reading.close()
        if self._ours >= 0:
            os.close(self._ours)
            self._ours = -1


def _as_user(command: Command) -> Tuple[List[str], Dict[str, Any]]:
    """(argv, how `subprocess` is to start it). Raises KeyError (no such user), PermissionError."""
    account = pwd.getpwnam(command.user) if command.user is not None else pwd.getpwuid(os.geteuid())
    environment = {
        "PATH": PATH,
        "HOME": account.pw_dir,
        "SHELL": account.pw_shell or "/bin/sh",
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        **command.environment,
    }
    home = account.pw_dir if os.path.isdir(account.pw_dir) else "/"
    argv = command.argv or [account.pw_shell or "/bin/sh", "-l"]
    options: Dict[str, Any] = {"cwd": command.cwd or home, "env": environment}
    if account.pw_uid != os.geteuid():
        if os.geteuid() != 0:
            raise PermissionError(errno.EPERM, f"the agent runs as user {os.geteuid()}, and cannot become another one")
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
        options.update(user=account.pw_uid, group=account.pw_gid, extra_groups=groups)
    return argv, options
