"""All that lies between two clipboards, on two real X servers: session, service, hub, driver, the host's process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from subos_desktop.clipboard import TEXT
from subos_devices import runtime
from subos_devices.agent.caller import connected
from subos_devices.agent.clipboard import audit
from subos_devices.agent.clipboard.driver import ClipboardDriver
from subos_devices.agent.hub import Hub
from subos_protocol.agent.frames import Head
from subos_protocol.agent.peer import Peer

from .desktops import background, x_server

AGENT = Path(__file__).with_name("unix_agent.py")
OWNER = Path(__file__).with_name("x_owner.py")
PATIENCE = 30.0
X = dict[str, str]  # the environment of programs on an X server


class Chain:
    """`host` and `guest` are the two X servers' environments; `asker` is a command's connection to the hub."""

    def __init__(self, host: X, guest: X, servers: tuple[Any, Any]) -> None:
        self.host, self.guest = host, guest
        self.host_server, self.guest_server = servers
        self.name = "clip"
        self.driver: ClipboardDriver
        self.asker: Peer
        self.sessions: Path
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    async def ask(self, operation: str, **fields: object) -> Head:
        return await self.asker.ask({"op": f"host-clipboard.{operation}", **fields})

    async def policy(self, *rules: str) -> None:
        await self.ask("policy", rules=list(rules))

    def process(self) -> int:
        """The host's clipboard process."""
        assert self.driver._process is not None
        return self.driver._process.pid

    def begin(self, part: str) -> None:
        """Starts the "service" or the "session"."""
        vsock = str(runtime.vm_folder(self.name) / "vsock.sock_252")
        words = {
            "service": ["serve", vsock, str(self.sessions)],
            "session": ["session", str(self.sessions), "x11"],
        }[part]
        self.processes[part] = subprocess.Popen(
            [sys.executable, str(AGENT), *words], env={**os.environ, **self.guest}, stdin=subprocess.DEVNULL
        )

    def kill(self, part: str) -> None:
        process = self.processes.pop(part)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def logged(self) -> list[dict[str, Any]]:
        """The lines of the log of what has passed."""
        import json

        with contextlib.suppress(FileNotFoundError):
            return [json.loads(line) for line in audit.path(self.name).read_text().splitlines()]
        return []


@contextlib.asynccontextmanager
async def chain(rules: Sequence[str] = ()) -> AsyncIterator[Chain]:
    """All of it, up and connected."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp", prefix="sc-"))
        host, host_server = stack.enter_context(x_server())
        guest, guest_server = stack.enter_context(x_server())
        made = Chain(host, guest, (host_server, guest_server))
        made.sessions = Path(folder, "session.sock")
        changed = {"XDG_RUNTIME_DIR": folder, "XDG_STATE_HOME": f"{folder}/state", "XDG_CACHE_HOME": f"{folder}/cache"}
        stack.enter_context(_environment({**changed, "DISPLAY": host["DISPLAY"]}, without="WAYLAND_DISPLAY"))
        with runtime.claim(made.name) as vm_folder:
            async with Hub(vm_folder, patience=PATIENCE) as hub:
                made.driver = ClipboardDriver(hub, made.name, rules)
                made.driver.join()
                try:
                    made.begin("service")
                    await until(made.sessions.exists)
                    made.begin("session")
                    async with connected(made.name) as made.asker:
                        await hub.agent()
                        await until_true(lambda: _has_desktop(made))
                        yield made
                finally:
                    for part in list(made.processes):
                        made.kill(part)
                    await made.driver.close()


async def _has_desktop(made: Chain) -> bool:
    """Both ends have theirs: the session is known to the host when something was offered by it."""
    return str((await made.ask("formats"))["desktop"]).endswith("x11 works")


@contextlib.contextmanager
def _environment(changed: dict[str, str], without: str) -> Any:
    before = dict(os.environ)
    os.environ.update(changed)
    os.environ.pop(without, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    async def look() -> object:
        return condition()

    await until_true(look, seconds)


async def until_true(condition: Callable[[], Awaitable[object]], seconds: float = PATIENCE) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await condition():
        assert loop.time() < deadline, "it did not come to that"
        await asyncio.sleep(0.05)


# --- the programs on the two desktops


async def copy(on: X, data: bytes, target: str = "UTF8_STRING", selection: str = "clipboard") -> None:
    """A program copies it, and serves it until another one copies."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        process = await asyncio.create_subprocess_exec(
            *("xclip", "-selection", selection, "-t", target, "-i"),
            env=on,
            stdin=file,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert await process.wait() == 0


async def paste(
    on: X, target: str = "UTF8_STRING", selection: str = "clipboard", seconds: float = 10.0
) -> bytes | None:
    """What a program gets that pastes; None where there is nothing of that format, or it does not come to an end."""
    process = await asyncio.create_subprocess_exec(
        *("xclip", "-o", "-selection", selection, "-t", target),
        env=on,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), seconds)
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    return said if process.returncode == 0 else None


async def arrives(on: X, data: bytes | None, target: str = "UTF8_STRING", selection: str = "clipboard") -> None:
    """Waits until a program there can paste it."""

    async def there() -> bool:
        return await paste(on, target, selection) == data

    await until_true(there)


@contextlib.asynccontextmanager
async def endless(on: X) -> AsyncIterator[None]:
    """A program there has copied text that has no end."""
    async with background(on, sys.executable, str(OWNER), "endless", stdout=subprocess.PIPE) as process:
        assert await process.stdout.readline() == b"owned\n"  # type: ignore[union-attr]
        yield


@contextlib.asynccontextmanager
async def pasting(on: X) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program there that pastes what has no end."""

    async def offered() -> bool:
        return b"UTF8_STRING" in (await paste(on, "TARGETS") or b"")

    await until_true(offered)
    async with background(on, "xclip", "-o", "-selection", "clipboard", "-t", "UTF8_STRING") as process:
        yield process


async def watch_until(made: Chain, condition: Callable[[Head], object]) -> Head:
    """The first news of those that watch for which it is true."""
    async with made.asker.call({"op": "host-clipboard.watch"}) as stream:
        while (message := await asyncio.wait_for(stream.receive(), PATIENCE)) is not None:
            if isinstance(message.content, dict) and condition(message.content):
                return message.content
    raise AssertionError("watch has ended")


def offers_text(news: Head) -> bool:
    return TEXT in news.get("clipboard", [])
