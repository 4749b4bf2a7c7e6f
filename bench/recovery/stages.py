"""When a respawn reached which stage: a page that supervisor, zygote and workers share, and that the bench reads."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from typing import Any

STAGES = "SUBOS_BENCH_STAGES"  # names the page's file
NAMES = (
    "noticed",  # the supervisor has seen that the worker's socket is closed
    "asked",  # and asked the zygote, or a share's keeper, for another one
    "heard",  # which has read that
    "forked",  # the worker's first instruction
    "jailed",
    "built",  # the device
    "ready",  # it has opened what it needs
    "told",  # of its first ring
)


class Page:
    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._words = memoryview(mmap.mmap(fd, mmap.PAGESIZE)).cast("Q")
        finally:
            os.close(fd)

    def stamp(self, name: str) -> None:
        """Only the first time counts."""
        at = NAMES.index(name)
        if not self._words[at]:
            self._words[at] = time.monotonic_ns()

    def clear(self) -> None:
        for at in range(len(NAMES)):
            self._words[at] = 0

    def times(self) -> dict[str, int]:
        """Nanoseconds of the monotonic clock; 0 for a stage that was not reached."""
        return {name: int(self._words[at]) for at, name in enumerate(NAMES)}


def make(path: str) -> Page:
    with open(path, "xb") as file:
        file.truncate(mmap.PAGESIZE)
    return Page(path)


def watch_supervisor() -> None:
    from subos_devices.supervisor.caretaker import Caretaker

    page = Page(os.environ[STAGES])
    _stamp(Caretaker, "_died", page, before="noticed")
    _stamp(Caretaker, "_spawn", page, after="asked")


def watch_zygote() -> None:
    """In the zygote, before it lives; its children inherit it, the keepers of shares among them."""
    from subos_devices.supervisor import births, keeper_process, zygote_process
    from subos_devices.vhost_user.worker import DeviceWorker
    from subos_devices.vhost_user.worker_rings import Rings

    page = Page(os.environ[STAGES])
    for owner, fork in ((zygote_process, "born"), (keeper_process, "fork_with")):
        _stamp(owner, fork, page, before="heard", after="forked")
    for owner, jail in ((births, "jailed"), (keeper_process, "narrow")):
        _stamp(owner, jail, page, after="jailed")
    _stamp(DeviceWorker, "begin", page, before="built")
    _stamp(DeviceWorker, "tell", page, before="ready")
    _stamp(Rings, "_activate", page, before="told")


def _stamp(owner: Any, name: str, page: Page, *, before: str = "", after: str = "") -> None:
    function: Callable[..., Any] = getattr(owner, name)

    def stamped(*args: Any, **kwargs: Any) -> Any:
        if before:
            page.stamp(before)
        result = function(*args, **kwargs)
        if after:
            page.stamp(after)
        return result

    setattr(owner, name, stamped)
