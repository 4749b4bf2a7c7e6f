"""`files.watch` while a replay waits for what the guest's programs hold, maybe for good."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from subos_agent.file_events import service, system
from subos_protocol.errors import Malformed
from subos_protocol.file_events import Replay, pack_replays, unpack_heard
from support.agents import asking, on_a_loop
from support.contained import run_contained

REPLAY = Replay(7, "create", b"", b"name", 0o100600)
ENDS_WITH_A_THREAD_THAT_HANGS = """
import asyncio, threading
from subos_agent.file_events import service

async def main():
    begun = threading.Event()
    def hang(_):
        begun.set()
        threading.Event().wait()
    task = asyncio.ensure_future(service._in_own_thread(hang, None))
    while not begun.is_set():
        await asyncio.sleep(0.01)

asyncio.run(main())
"""


class Hanging:
    """A replayer that waits until `go`."""

    begun, go = threading.Event(), threading.Event()

    def __init__(self, *_: object) -> None:
        pass

    def perform(self, replays: Sequence[Replay]) -> list[tuple[int, int]]:
        self.begun.set()
        self.go.wait(20)
        return [(replay.number, errno.EIO) for replay in replays]


@pytest.fixture(autouse=True)
def replayer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Hanging.begun, Hanging.go = threading.Event(), threading.Event()
    monkeypatch.setattr(service, "Replayer", Hanging)
    yield
    Hanging.go.set()
    for thread in threading.enumerate():
        if thread.name == "file-events":
            thread.join(10)


@on_a_loop
async def test_the_agent_goes_on_while_a_replay_hangs() -> None:
    async with asking({"files.watch": service.watch}) as host:
        stream = host.call({"op": "files.watch", "tag": "work"})
        for packet in pack_replays([REPLAY]):
            await stream.send(packet)
        while not Hanging.begun.is_set():
            await asyncio.sleep(0.01)
        began = time.monotonic()
        stream.cancel()
        assert await host.answers(10)
        assert time.monotonic() - began < 10, "the loop stood still"
    assert not Hanging.go.is_set()


@on_a_loop
async def test_what_a_replay_came_to() -> None:
    Hanging.go.set()
    async with asking({"files.watch": service.watch}) as host:
        stream = host.call({"op": "files.watch", "tag": "work"})
        for packet in pack_replays([REPLAY]):
            await stream.send(packet)
        message = await stream.receive()
        assert message is not None
        assert isinstance(message.content, bytes)
        assert list(unpack_heard(message.content).results) == [(7, errno.EIO)]


@on_a_loop
async def test_what_a_thread_raises_is_raised() -> None:
    def fail(_: None) -> None:
        raise Malformed("so it is")

    with pytest.raises(Malformed, match="so it is"):
        await service._in_own_thread(fail, None)


def test_a_thread_that_hangs_does_not_keep_the_agent_from_ending() -> None:
    subprocess.run([sys.executable, "-c", ENDS_WITH_A_THREAD_THAT_HANGS], check=True, timeout=20)


def test_a_read_only_mount_stays_so_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system's own flag goes once, and not again for each replay."""

    def try_it() -> None:
        place, made = tmp_path / "place", []
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "share", place], check=True)
        make_writable = system._make_writable
        monkeypatch.setattr(system, "_make_writable", lambda root: (made.append(root), make_writable(root)))
        root = os.open(place, os.O_PATH | os.O_DIRECTORY)
        for number in range(3):
            view = system.writable(root)
            os.mkdir(str(number), dir_fd=view)
            os.close(view)
            with pytest.raises(OSError, match="Read-only file system"):
                os.mkdir("mine", dir_fd=root)
        assert len(made) == 1
        assert sorted(os.listdir(place)) == ["0", "1", "2"]

    run_contained(tmp_path, try_it)
