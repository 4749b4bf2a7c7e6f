"""Locks of files on a share, taken and awaited in the guest:  locks.py CHECK FOLDER

The two sides talk by files in the folder: each is made by one side, and waited for by the other. Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable


def say(name: str) -> None:
    with open(name, "wb"):
        pass


def heard(name: str) -> None:
    while not os.path.exists(name):
        time.sleep(0.05)


def in_child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    return pid


def take_record_lock() -> None:
    with open("file", "r+b") as file:
        say("waits")
        fcntl.lockf(file, fcntl.LOCK_EX)
        say("has it")
        heard("enough")


def take_flock() -> None:
    with open("file", "rb") as file:
        say("waits")
        fcntl.flock(file, fcntl.LOCK_EX)
        say("has it")
        heard("enough")


def work_on() -> None:
    """Other things, while a lock is awaited."""
    for number in range(50):
        name = f"other-{number}"
        with open(name, "wb") as file:
            file.write(b"x" * number)
        assert os.stat(name).st_size == number
        os.unlink(name)
    assert "other-49" not in os.listdir(".")


def wait(take: Callable[[], None]) -> None:
    """A child waits for the lock that the host has, and this process works on meanwhile."""
    child = in_child(take)
    heard("waits")
    time.sleep(0.2)
    work_on()
    assert not os.path.exists("has it")
    say("worked on")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def record_lock() -> None:
    wait(take_record_lock)


def flock() -> None:
    wait(take_flock)


def interrupted() -> None:
    """A process that waits gets a signal. It ends by it, at once or when the lock is given up, and holds nothing."""
    child = in_child(take_record_lock)
    heard("waits")
    time.sleep(0.2)
    os.kill(child, signal.SIGINT)
    work_on()
    say("worked on")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status != 0, "the signal was lost"
    say("ended")
    heard("enough")


def conflicts() -> None:
    """Whether a record lock and a flock can be had now: prints it."""
    for lock in (fcntl.lockf, fcntl.flock):
        with open("file", "r+b") as file:
            try:
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("busy")
            else:
                print("free")


def between_processes() -> None:
    """Two processes of the guest: what a file system does."""
    with open("file", "r+b") as file, open("file", "r+b") as other:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)
        fcntl.lockf(other, fcntl.LOCK_EX, 20, 0)  # the same process

        def conflict() -> None:
            with open("file", "r+b") as third:
                try:
                    fcntl.lockf(third, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 15)
                except BlockingIOError:
                    return
            raise AssertionError("two processes have it")

        def none() -> None:
            with open("file", "r+b") as third:
                fcntl.lockf(third, fcntl.LOCK_EX | fcntl.LOCK_NB)

        assert os.waitstatus_to_exitcode(os.waitpid(in_child(conflict), 0)[1]) == 0
        with open("file", "rb"):
            pass  # closing any of them drops them all
        assert os.waitstatus_to_exitcode(os.waitpid(in_child(none), 0)[1]) == 0


if __name__ == "__main__":
    os.chdir(sys.argv[2])
    globals()[sys.argv[1]]()
