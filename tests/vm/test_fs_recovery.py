"""The worker of a share is killed under a real guest, which notices nothing but a delay."""

from __future__ import annotations

import fcntl
import re
import time
from pathlib import Path
from typing import IO

import pytest

from support.guest import Guest
from support.steps import step
from support.waiting import eventually

pytestmark = pytest.mark.vm
TURNS = 4


def fresh(share: Path, request: pytest.FixtureRequest) -> Path:
    path = share / re.sub(r"\W+", "-", request.node.name).strip("-")
    path.mkdir()
    return path


def is_locked(file: IO[bytes], start: int, length: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except BlockingIOError:
        return True
    fcntl.lockf(file, fcntl.LOCK_UN)
    return False


@pytest.mark.parametrize("share", ["locked", "always"])
def test_what_a_guest_has_open(guest: Guest, share: str, request: pytest.FixtureRequest) -> None:
    """Files for reading, writing and appending, without a name, and mapped; directories, one half read; locks that
    hold on the host where they do; an inotify watch."""
    guest.wait_for_agent()
    place = fresh(guest.locked if share == "locked" else guest.caches[share], request)
    running = guest.begin(guest.inside_command("survivor.py", str(place), str(TURNS)), timeout=200)
    eventually((place / "ready").exists, timeout=60)
    with (place / "locked").open("r+b") as locked, (place / "flocked").open("r+b") as flocked:
        for turn in range(TURNS):
            guest.kill_worker(guest.device_of(share))
            if turn == 1:
                guest.kill_worker(guest.device_of("root"))
            assert not is_locked(locked, 0, 2)
            assert is_locked(locked, 2, 4) == (share == "locked")
            if share == "locked":
                with pytest.raises(BlockingIOError):
                    fcntl.flock(flocked, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (place / f"by the host {turn}").touch()
            (place / f"killed {turn}").touch()
            eventually(lambda turn=turn: (place / f"checked {turn}").exists() or running.done(), timeout=60)  # type: ignore[misc]
            assert not running.done(), guest.finish(running).stderr.decode()
    done = guest.finish(running)
    assert done.status == 0, done.stderr.decode()
    assert (place / "written").read_bytes() == b"0123456789"[:TURNS]
    assert (place / "appended").read_bytes() == b"".join(b"%d;" % turn for turn in range(TURNS))
    page = len((place / "mapped").read_bytes()) // 4
    assert [(place / "mapped").read_bytes()[page * turn :][:2] for turn in range(4)] == [b"0!", b"1!", b"2!", b"3!"]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seconds", [20, pytest.param(300, marks=pytest.mark.by_hand)])
def test_a_worker_that_is_killed_every_second(guest: Guest, folder: Path, seconds: int) -> None:
    """Under random operations on a file, a database, and names that come and go."""
    server = guest.vm.supervisor.devices[guest.device_of("share")]
    before = server.restarts
    running = guest.begin(guest.inside_command("under_fire.py", str(folder)), timeout=2 * seconds + 120)
    step(f"kill the share's worker each second for {seconds} s")
    for _ in range(seconds):
        time.sleep(1)
        guest.kill_worker(server.spec.name)
        if running.done():
            break
    (folder / "enough").touch()
    done = guest.finish(running)
    said = (done.stdout + done.stderr).decode()
    assert done.status == 0, said
    step(f"{said.split()} rounds of each, {server.restarts - before} workers")
    assert all(int(rounds) > 0 for rounds in done.stdout.split())
    assert server.restarts - before >= seconds
