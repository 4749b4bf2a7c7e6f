"""Mounts shares in a default guest that runs: the host's end of the virtio-serial port "mounts".

guest/boot reads one line a request and answers with one; `PATH` and `NAME` are escaped as printf's %b undoes it:

    → 3 mount TAG PATH ro|rw [NAME]          NAME is of the one file that is shared; PATH becomes a link to it
    ← 3 ok                                   or: 3 failed TEXT
    → 4 unmount TAG PATH now|lazy [NAME]

The guest is hostile: what it answers is believed only so far as that it says so.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import socket

from ..errors import UserError
from ..text import printable
from .shares import Share

TIMEOUT = 120.0  # seconds; a guest that boots answers when it is up, which takes its time on a busy machine
MAX_LINE = 4096  # bytes of an answer
ODD = re.compile(rb"[^A-Za-z0-9/._-]")


class MountFailed(UserError):
    """The guest has not done it, or does not say that it has."""


def escape(text: str) -> str:
    """`text` as one word without any letter that a shell's `read -r` takes for more; `printf %b` undoes it."""
    return ODD.sub(lambda match: b"\\0%03o" % ord(match[0]), os.fsencode(text)).decode()


def request(number: int, verb: str, share: Share, how: str) -> bytes:
    """The line for the guest. It begins with a newline: the last request may have been given up in its middle."""
    name = share.path.name if share.single else ""
    words = (str(number), verb, share.tag, escape(str(share.mount_point)), how, escape(name))
    return f"\n{' '.join(words)}\n".encode()


class GuestMounts:
    """Asks the guest behind the non-blocking socket `port`; one request at a time (callers queue up)."""

    def __init__(self, port: socket.socket) -> None:
        self._port = port
        self._lock = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._heard = bytearray()

    async def mount(self, share: Share) -> None:
        """Mounts a share whose device was plugged. Raises MountFailed."""
        said = await self._ask("mount", share, share.access)
        if said:
            raise MountFailed(
                f"the guest could not mount {share.tag} at {share.mount_point}: {said}",
                "choose another place for it in the guest: PATH:/MOUNTPOINT",
            )

    async def unmount(self, share: Share, *, lazy: bool = False) -> None:
        """Takes all mounts of a share away; `lazy`: also where it is in use. Raises MountFailed."""
        said = await self._ask("unmount", share, "lazy" if lazy else "now")
        if said:
            raise MountFailed(
                f"the guest could not unmount {share.tag}: {said}",
                "is a program of the guest in it? End that, or take it away all the same with --force",
            )

    async def _ask(self, verb: str, share: Share, how: str) -> str:
        """What went wrong, in the guest's own words; empty where nothing did."""
        async with self._lock:
            number = next(self._numbers)
            try:
                async with asyncio.timeout(TIMEOUT):
                    await asyncio.get_running_loop().sock_sendall(self._port, request(number, verb, share, how))
                    return await self._answer(b"%d " % number)
            except TimeoutError:
                raise MountFailed(
                    f"the guest did not answer within {TIMEOUT:g} s", "does it run? See what it does on its console"
                ) from None
            except ConnectionError as error:
                raise MountFailed("the VM has ended") from error

    async def _answer(self, begin: bytes) -> str:
        """Reads answers until one begins so: those to requests that were given up may come late."""
        while True:
            line = await self._line()
            if line.startswith(begin):
                said = line.removeprefix(begin)
                return "" if said == b"ok" else printable(said.removeprefix(b"failed ")) or "it does not say why"

    async def _line(self) -> bytes:
        """The next line; of one that is too long, only its end. Raises ConnectionError."""
        while b"\n" not in self._heard:
            del self._heard[:-MAX_LINE]
            data = await asyncio.get_running_loop().sock_recv(self._port, MAX_LINE)
            if not data:
                raise ConnectionError
            self._heard += data
            await asyncio.sleep(0)  # a guest that floods us leaves turns for others
        line, _, rest = bytes(self._heard).partition(b"\n")
        self._heard[:] = rest
        return line
