"""Runs commands in a booted guest, over its control channel (subos_protocol.control)."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from subos_devices.errors import SubosError
from subos_devices.text import printable
from subos_protocol.control import MAXIMUM_BYTES, MAXIMUM_LINE, TIMEOUT, TOO_MUCH, ReplyHead, Request
from subos_protocol.errors import Malformed

from .machine import Machine

GRACE_SECONDS = 15
"""What the guest gets on top of a command's timeout to end it and to answer."""


class ControlError(SubosError):
    """A command in the guest could not be run to its end."""


class CommandNotStarted(ControlError):
    """The guest could not start the command."""


class CommandTimeout(ControlError):
    """The command took too long. The guest has ended it, and takes others."""


@dataclass(frozen=True)
class Completed:
    """`status` is the exit status, or minus the number of the signal that ended the command."""

    status: int
    stdout: bytes
    stderr: bytes


class GuestControl:
    """The host's end; one command at a time (callers queue up). The machine has a port "control"."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._broken = ""

    async def run(
        self,
        argv: Sequence[str],
        stdin: bytes = b"",
        cwd: str = "/",
        environment: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> Completed:
        """Runs a command in the guest; `environment` None is the one the guest was started with.

        Raises CommandNotStarted, CommandTimeout, ControlError, GuestLost.
        """
        if len(stdin) > MAXIMUM_BYTES:
            raise ControlError(f"the input of {argv[0]} has more than {MAXIMUM_BYTES >> 20} MiB")
        table = None if environment is None else dict(environment)
        request = Request(list(argv), stdin, cwd, table, timeout)
        async with self._lock:
            if self._broken:
                raise ControlError(f"the control channel is of no more use: {self._broken}")
            try:
                head, stdout, stderr = await asyncio.wait_for(self._exchange(request), timeout + GRACE_SECONDS)
            except TimeoutError:
                self._broken = "the guest did not answer"
                raise ControlError(f"the guest did not answer to {argv[0]} within {timeout:g} s") from None
            except asyncio.CancelledError:
                self._broken = "a command was given up midway"
                raise
            except (asyncio.LimitOverrunError, Malformed) as error:
                self._broken = "the guest answered nonsense"
                raise ControlError(f"the guest answered nonsense: {error}") from error
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                self._broken = "the connection ended"
                raise await self._machine.lost() from error
        if head.error == TIMEOUT:
            raise CommandTimeout(f"{argv[0]} did not end within {timeout:g} s")
        if head.error == TOO_MUCH:
            raise ControlError(f"{argv[0]} printed more than {MAXIMUM_BYTES >> 20} MiB")
        if head.error:
            raise CommandNotStarted(f"the guest {printable(head.error)}")
        return Completed(head.status, stdout, stderr)

    async def _exchange(self, request: Request) -> tuple[ReplyHead, bytes, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(sock=self._machine.port("control").dup(), limit=MAXIMUM_LINE)
        reader, writer = self._streams
        writer.write(request.pack())
        # The guest reads all input before it answers, so the answer can wait for the end of this.
        await writer.drain()
        head = ReplyHead.unpack(await reader.readuntil(b"\n"))
        return head, await reader.readexactly(head.stdout_size), await reader.readexactly(head.stderr_size)

    async def wait_booted(self, timeout: float = 120) -> None:
        """Returns when the guest answers. Raises GuestLost, ControlError."""
        await self.run(["true"], timeout=timeout)

    async def close(self) -> None:
        """Hangs up: the guest's agent ends, and with it the machine."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def agent_command(*arguments: str) -> tuple[list[str], dict[str, str]]:
    """The guest's command `subos-agent` (by default the one that serves the control channel), and its variables.

    The guest sees this machine's files, so it is this interpreter with this installation's packages. They
    are named directly: `site` and its .pth files would double the time to start.
    """
    folders = dict.fromkeys(_package_folder(name) for name in ("subos_agent", "subos_protocol", "subos_desktop"))
    return (
        [sys.executable, "-S", "-m", "subos_agent", *(arguments or ("serve-control",))],
        {"PYTHONPATH": os.pathsep.join(folders), "PYTHONDONTWRITEBYTECODE": "1"},
    )


def agent_folders() -> list[str]:
    """What the guest must see to run `agent_command`, wherever it lies (a clone under /tmp, say)."""
    return [*agent_command()[1]["PYTHONPATH"].split(os.pathsep), sys.prefix, sys.base_prefix]


def _package_folder(name: str) -> str:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ControlError(f"the package {name} is not installed", "install subos as a whole")
    return str(Path(spec.origin).parent.parent)
