"""What the demo's checks work with, and what a check is."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from subos_protocol.agent.errors import ChannelError

from ..errors import SubosError
from ..launcher.control import Completed, GuestControl
from ..launcher.vm import RunningVm
from ..text import printable


class CheckFailed(SubosError):
    """The guest did not see what the host did."""


@dataclass(frozen=True)
class Row:
    """One device, what was tried, and whether the guest saw it; `ms` is the time that it took."""

    device: str
    check: str
    ok: bool
    ms: int
    detail: str = ""


@dataclass(frozen=True)
class Scene:
    """What the checks work with: a booted VM, the way to run commands in it, and a folder both sides see."""

    vm: RunningVm
    guest: GuestControl
    folder: Path


Check = tuple[str, str, Callable[[Scene], Awaitable[str]]]
"""Device, what is tried, and how; it returns what was seen, or raises."""


async def run_check(scene: Scene, check: Check) -> Row:
    """Runs one check. Whatever goes wrong is the row's detail."""
    device, text, function = check
    began = time.monotonic()
    try:
        detail, ok = await function(scene), True
    except (SubosError, ChannelError, OSError, ValueError, TimeoutError) as error:
        detail, ok = str(error) or type(error).__name__, False
    return Row(device, text, ok, round((time.monotonic() - began) * 1000), printable(detail))


async def in_guest(scene: Scene, *argv: str, stdin: bytes = b"") -> str:
    """What a command in the guest prints. Raises CheckFailed for a status other than 0."""
    done: Completed = await scene.guest.run(argv, stdin, timeout=120)
    if done.status:
        said = done.stderr.decode(errors="replace").strip() or f"exit status {done.status}"
        raise CheckFailed(f"{argv[0]} in the guest: {said}")
    return done.stdout.decode()


async def begin(scene: Scene, output: str, program: str, *arguments: str) -> None:
    """Has a Python program run on in the guest, once it has printed something into the file `output` there."""
    shell = f'"$@" >{output} 2>&1 </dev/null & until [ -s {output} ]; do sleep 0.05; done'
    await in_guest(scene, "sh", "-c", shell, "sh", sys.executable, "-S", "-c", program, *arguments)


def same(seen: object, wanted: object, what: str) -> None:
    if seen != wanted:
        raise CheckFailed(f"{what} is {seen}, not {wanted}")


async def eventually(
    seen: Callable[[], Awaitable[bool]], what: str, seconds: float = 20, *, step: float = 0.05
) -> None:
    """Waits until `seen` says so. Raises CheckFailed with `what` was waited for."""
    deadline = time.monotonic() + seconds
    while not await seen():
        if time.monotonic() > deadline:
            raise CheckFailed(f"{what} did not come within {seconds:g} s")
        await asyncio.sleep(step)
