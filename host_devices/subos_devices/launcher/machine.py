"""A virtual machine as a child process: started, watched, ended."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from subos_devices.errors import GuestLost
from subos_devices.processes import die_with_parent
from subos_devices.runtime import listen
from subos_devices.text import printable

from .qemu import MachineConfig, Port, Qemu, qemu_arguments

if TYPE_CHECKING:
    from .qmp import Qmp

QUIT_SECONDS = 5
"""How long QEMU may take to end on request before it is killed."""
TAIL = 1 << 16
"""Bytes of the guest's console, and of QEMU's messages, that are kept to explain a lost VM."""
CLOCK_LEAD = 1.1
"""Seconds: a whole one, since busybox sets no parts of one, and what the guest takes to set it."""
STATUS = re.compile(rb"(\d{1,3})\n")


class Machine:
    """`async with Machine(…) as machine:` runs QEMU; leaving the block ends it, whatever happened.

    The back ends of `config.devices` must be listening. `ports` are the virtio-serial ports to create,
    `console` adds the terminal's serial port; each is a connected socket here (`port`), which ends when QEMU
    does. `serial` (for disk images) makes the first serial port such a socket too; otherwise the machine itself
    reads it, and remembers the end.
    """

    def __init__(
        self,
        qemu: Qemu,
        config: MachineConfig,
        ports: Sequence[str] = (),
        console: bool = False,
        serial: bool = False,
        qmp_socket: Path | None = None,
    ) -> None:
        self.qemu = qemu
        self.config = config
        self.qmp_socket = qmp_socket
        self._names = (*ports, *(["console"] if console else []), "serial", "errors")
        self._tails = {name: bytearray() for name in ("errors", *([] if serial else ["serial"]))}
        self._readers: list[asyncio.Task[None]] = []
        self._ports: dict[str, socket.socket] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._qmp: Qmp | None = None

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._running().pid

    def port(self, name: str) -> socket.socket:
        """The non-blocking socket of the port `name`, or of "console" or "serial"."""
        return self._ports[name]

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("the machine was not started: use `async with`")
        return self._process

    async def __aenter__(self) -> Machine:
        theirs: dict[str, socket.socket] = {}
        try:
            for name in self._names:
                self._ports[name], theirs[name] = socket.socketpair()
                self._ports[name].setblocking(False)
            if self.qmp_socket is not None:
                theirs["qmp"] = listen(self.qmp_socket)
            await self._start({name: end.fileno() for name, end in theirs.items()})
        except BaseException:
            await self._close()
            raise
        finally:
            for end in theirs.values():
                end.close()
        self._readers = [asyncio.create_task(self._remember(name)) for name in self._tails]
        if "clock" in self._names:
            self._readers.append(asyncio.create_task(self._tell_time()))
        return self

    async def _tell_time(self) -> None:
        """Answers each byte on the port "clock" with the second that the guest is to set its clock to.

        The clock chip that it booted by may be a second off, but a share's files have the host's time, and make
        complains of what is newer than now. So the guest is never behind the host, and at most CLOCK_LEAD ahead.
        """
        loop, port = asyncio.get_running_loop(), self.port("clock")
        with suppress(ConnectionError):
            while await loop.sock_recv(port, 1):
                await loop.sock_sendall(port, b"%d\n" % (time.time() + CLOCK_LEAD))

    async def _remember(self, name: str) -> None:
        """Reads a socket to its end. What comes from a guest has no end, so the last of it must do."""
        loop, tail = asyncio.get_running_loop(), self._tails[name]
        with suppress(ConnectionError):
            while data := await loop.sock_recv(self.port(name), TAIL):
                tail += data
                del tail[:-TAIL]
                await asyncio.sleep(0)  # what is there already is had without a turn for others

    def _with_descriptors(self, fds: dict[str, int]) -> MachineConfig:
        special = ("console", "serial", "errors", "qmp")
        return replace(
            self.config,
            ports=[Port(name, fd) for name, fd in fds.items() if name not in special],
            console_fd=fds.get("console"),
            serial_fd=fds["serial"],
            qmp_fd=fds.get("qmp"),
        )

    async def _start(self, fds: dict[str, int]) -> None:
        launcher = os.getpid()
        self._process = await asyncio.create_subprocess_exec(
            self.qemu.program,
            *qemu_arguments(self._with_descriptors(fds)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=fds["errors"],
            pass_fds=[fd for name, fd in fds.items() if name != "errors"],
            preexec_fn=lambda: die_with_parent(launcher),
            # Ctrl-C is the launcher's to handle: it ends the machine in order.
            start_new_session=True,
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop()
        finally:
            await self._close()

    async def _close(self) -> None:
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        for end in self._ports.values():
            end.close()
        if self.qmp_socket is not None:
            self.qmp_socket.unlink(missing_ok=True)

    async def qmp(self) -> Qmp:
        """The machine's QMP connection, made at the first call. Raises UserError."""
        # Loaded only when wanted: a command that just runs should not wait for it.
        from .qmp import Qmp

        if self._qmp is None:
            if self.qmp_socket is None:
                raise RuntimeError("the machine was made without a QMP socket")
            self._qmp = await Qmp.connect(self.qmp_socket)
        return self._qmp

    async def wait(self) -> int:
        """Waits until QEMU ends; its exit status, or minus a signal's number."""
        return await self._running().wait()

    async def stop(self) -> None:
        """Ends QEMU: by QMP if that is open, else by SIGTERM, at last by SIGKILL."""
        process = self._running()
        if self._qmp is not None:
            if process.returncode is None:
                with suppress(Exception):  # The next step follows in any case.
                    await asyncio.wait_for(self._qmp.execute("quit"), QUIT_SECONDS)
            await self._qmp.close()
            self._qmp = None
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
        try:
            await asyncio.wait_for(process.wait(), QUIT_SECONDS)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def exit_status(self) -> int:
        """Waits for the command's exit status, which comes after all its output. Raises GuestLost."""
        line = b""
        loop = asyncio.get_running_loop()
        while not line.endswith(b"\n") and len(line) < 16:
            try:
                data = await loop.sock_recv(self.port("status"), 16)
            except ConnectionError:
                data = b""
            if not data:
                raise await self.lost()
            line += data
        match = STATUS.fullmatch(line)
        if match is None or int(match[1]) > 255:
            raise GuestLost("the VM was lost: the guest reported nonsense, and no exit status")
        return int(match[1])

    async def lost(self) -> GuestLost:
        """The error that says why the machine ended. It waits for QEMU's end."""
        code = await self.wait()
        await asyncio.wait(self._readers, timeout=QUIT_SECONDS)  # QEMU's end is the end of what it has to say
        errors, console = bytes(self._tails["errors"]), bytes(self._tails.get("serial", b""))
        reason = lost_reason(code, errors, console)
        lines = console.decode("utf-8", "replace").splitlines()
        hint = printable("the end of its console: " + " | ".join(line.strip() for line in lines[-3:])) if lines else ""
        return GuestLost(f"the VM was lost: {printable(reason)}", hint)


def lost_reason(code: int, errors: bytes, console: bytes) -> str:
    """Why a machine ended, from QEMU's exit code, its messages and the guest's console."""
    text = console.decode("utf-8", "replace")
    if panic := re.findall(r"Kernel panic - not syncing: (.*)", text):
        return f"the guest's kernel panicked: {panic[-1].strip()}"
    if own := re.findall(r"^subos: (.*)", text, re.MULTILINE):
        return str(own[-1]).strip()
    messages = errors.decode("utf-8", "replace").strip().splitlines()
    if code < 0:
        said = f" after it had said: {messages[-1]}" if messages else ""
        return f"QEMU was ended by {signal.Signals(-code).name}{said}"
    if code > 0:
        return f"QEMU said: {messages[-1]}" if messages else f"QEMU ended with status {code}"
    return "it shut down before its command ended"
