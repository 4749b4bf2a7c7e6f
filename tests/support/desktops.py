"""Real display servers without a screen, and the programs that copy and paste on them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .clipboards import PATIENCE
from .ordinary import NOBODY
from .waiting import eventually


@contextlib.contextmanager
def x_server(
    number: int | None = None, options: Sequence[str] = ("-nolisten", "tcp")
) -> Iterator[tuple[dict[str, str], subprocess.Popen[bytes]]]:
    """An Xvfb of its own, at a free number or at this one: (the environment of its programs, its process)."""
    reader, writer = os.pipe()
    chosen = [f":{number}"] if number is not None else []
    command = ["Xvfb", *chosen, "-displayfd", str(writer), "-screen", "0", "64x64x24", *options, "-noreset"]
    with (
        tempfile.TemporaryDirectory() as home,  # xsel writes there
        subprocess.Popen(command, pass_fds=[writer], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server,
    ):
        os.close(writer)
        try:
            with open(reader, "rb") as said:
                display = said.readline().strip().decode()
            assert display, "Xvfb did not start"
            yield {"PATH": os.environ["PATH"], "HOME": home, "DISPLAY": f":{display}"}, server
        finally:
            server.kill()


@contextlib.contextmanager
def wayland_compositor() -> Iterator[tuple[dict[str, str], subprocess.Popen[bytes]]]:
    """A sway of its own without outputs or inputs: (the environment of its programs, its process)."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "XDG_RUNTIME_DIR": folder,
            "WLR_BACKENDS": "headless",
            "WLR_LIBINPUT_NO_DEVICES": "1",
            "WLR_RENDERER": "pixman",
        }
        Path(folder, "config").write_text("xwayland disable\nswaybg_command -\n")
        who: dict[str, Any] = {}
        if os.geteuid() == 0:  # as whom it refuses to run
            os.chown(folder, NOBODY, NOBODY)
            who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        with subprocess.Popen(
            ["sway", "--config", f"{folder}/config"],
            env=environment,
            **who,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as compositor:
            try:
                path = eventually(lambda: next(filter(_listens, Path(folder).glob("wayland-*")), None))
                yield environment | {"WAYLAND_DISPLAY": path.name}, compositor
            finally:
                compositor.kill()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(os.fspath(path)) == 0


async def run(environment: Mapping[str, str], *command: str, stdin: bytes = b"") -> bytes:
    """What a program says on its standard output, once it is done well."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said, wrong = await asyncio.wait_for(process.communicate(stdin), PATIENCE)
    assert process.returncode == 0, wrong.decode()
    return said


async def equal(*pastes: tuple[Mapping[str, str], tuple[str, ...]], wanted: tuple[bytes, ...]) -> bytes:
    """What all these commands paste, once it is the same and one of the wanted."""
    async with asyncio.timeout(PATIENCE):
        while True:
            said = set(await asyncio.gather(*(_pasted(environment, command) for environment, command in pastes)))
            if len(said) == 1 and (found := said.pop()) in wanted:
                return found


async def _pasted(environment: Mapping[str, str], command: tuple[str, ...]) -> bytes:
    """Nothing where there is nothing yet."""
    process = await asyncio.create_subprocess_exec(
        *command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return (await process.communicate())[0]


async def copy(environment: Mapping[str, str], *command: str, stdin: bytes) -> None:
    """Has a program copy its standard input; it stays in the background, where it serves that until the next."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    await asyncio.wait_for(process.communicate(stdin), PATIENCE)
    assert process.returncode == 0


@contextlib.asynccontextmanager
async def background(
    environment: Mapping[str, str], *command: str, stdout: int = subprocess.DEVNULL
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program; killed at the end with those that it has started."""
    process = await asyncio.create_subprocess_exec(
        *command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=stdout, start_new_session=True
    )
    try:
        yield process
    finally:
        kill_all(process)
        await process.wait()
        if process.stdout is not None:
            await process.stdout.read()


def kill_all(process: asyncio.subprocess.Process) -> None:
    """A program of `background` and those that it has started: wl-paste has a cat do its work."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
