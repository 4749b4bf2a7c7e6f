"""Several devices in one worker process: an epoll descriptor can itself be waited for, so each keeps its own."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterable

from .worker import DeviceWorker, where


def serve_together(workers: Iterable[DeviceWorker]) -> None:
    """Serves them until the supervisor has let go of each. Ends at the first that cannot start, or that fails, which is
    raised: they share one fate."""
    running: dict[int, DeviceWorker] = {}
    with select.epoll() as epoll:
        for worker in workers:
            if not worker.begin():
                return
            running[worker.fileno()] = worker
            epoll.register(worker, select.EPOLLIN)
        while running:
            timeouts = [worker.timeout for worker in running.values()]
            timeout = min((each for each in timeouts if each >= 0), default=-1.0)
            ready = {fd for fd, _events in epoll.poll(timeout)}
            for fd, worker in list(running.items()):
                if fd in ready or worker.timeout == 0:
                    _turn(worker)
                if not worker.running:
                    epoll.unregister(fd)
                    del running[fd]
                    with contextlib.suppress(Exception):  # the others live on
                        worker.release()


def _turn(worker: DeviceWorker) -> None:
    try:
        worker.turn(0)
    except Exception as error:
        worker.log(where(error))
        raise
