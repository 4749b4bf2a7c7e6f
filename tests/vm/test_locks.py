"""Locks of shared files between a real guest and this host."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from support.guest import Guest
from support.steps import step
from support.waiting import eventually

pytestmark = pytest.mark.vm


@pytest.fixture
def locked(guest: Guest, request: pytest.FixtureRequest) -> Path:
    """A folder, with a file in it, where the guest's locks hold on the host."""
    path = guest.locked / re.sub(r"\W+", "-", request.node.name).strip("-")
    path.mkdir()
    (path / "file").write_bytes(b"data")
    return path


def is_free(file: IO[bytes], lock: Callable[[IO[bytes], int], None]) -> bool:
    try:
        lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    lock(file, fcntl.LOCK_UN)
    return True


@pytest.mark.parametrize(("name", "lock"), [("record_lock", fcntl.lockf), ("flock", fcntl.flock)])
def test_the_guest_waits_for_the_host_s_lock(
    guest: Guest, locked: Path, name: str, lock: Callable[[IO[bytes], int], None]
) -> None:
    with (locked / "file").open("r+b") as file:
        lock(file, fcntl.LOCK_EX)
        step("a process of the guest waits, another works on")
        running = guest.begin(guest.inside_command("locks.py", name, str(locked)))
        eventually((locked / "worked on").exists)
        assert not (locked / "has it").exists()
        step("the host gives it up, and the guest has it")
        lock(file, fcntl.LOCK_UN)
        eventually((locked / "has it").exists)
        assert not is_free(file, lock)
        step("the guest's process ends, and the host may have it")
        (locked / "enough").touch()
        done = guest.finish(running)
        assert done.status == 0, done.stdout + done.stderr
        assert is_free(file, lock)


def test_a_signal_for_one_that_waits(guest: Guest, locked: Path) -> None:
    """Linux's virtiofs sends no FUSE_INTERRUPT, so that the signal counts when the wait is over."""
    with (locked / "file").open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        running = guest.begin(guest.inside_command("locks.py", "interrupted", str(locked)))
        eventually((locked / "worked on").exists)
        fcntl.lockf(file, fcntl.LOCK_UN)
        eventually((locked / "ended").exists)
        assert is_free(file, fcntl.lockf)
        (locked / "enough").touch()
        done = guest.finish(running)
        assert done.status == 0, done.stdout + done.stderr


def test_processes_of_the_guest_among_themselves(guest: Guest, locked: Path) -> None:
    guest.inside("locks.py", "between_processes", str(locked))
    guest.inside("posix.py", "locks", str(locked))


def test_where_locks_hold(guest: Guest, locked: Path, folder: Path) -> None:
    """With locks=host on both sides, else in the guest alone."""
    (folder / "file").write_bytes(b"data")
    for place, seen in ((locked, "busy"), (folder, "free")):
        with (place / "file").open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            fcntl.flock(file, fcntl.LOCK_EX)
            assert guest.inside("locks.py", "conflicts", str(place)).split() == [seen, seen]
